"""What do a song's vocals, drums, bass and the rest sound like alone? Four stems out of a stereo mixture.

Source: MARBLE's published code, by which its Table 4 was made; split 86/14/50. Conventions: a mask estimator for each
stem (`marble_bench/separation/probe.py`) on spectrograms at 24,000 Hz, 75 frames a second, mono; 64 training mixtures of
6 s for each song; the score is the global SDR in dB, mean over songs (main), and museval's median of medians at 44,100
Hz. A stem that is silent in a song has no score there.

Departures: MARBLE draws new mixtures in every epoch, here those of one epoch are drawn once (see
`marble_bench.separation.mixing`); its paper has a bidirectional LSTM, its code and so this task one that goes one way
(protocol `marble-bidirectional`: both); it watches validation with the Wiener step, here without. Separators have one
learning rate, 1e-3, whatever the protocol's grid; MARBLE looked for one by itself (auto_lr_find), and its batches were 32
on each of eight GPUs, here 32 in all.
"""

from __future__ import annotations

from dataclasses import replace

from marble_bench import Schedule, Separation, Stems, Task
from marble_bench.metrics import stem_metrics

from .corpora.musdb18 import MUSDB18, STEMS, clips

RULES = Separation()

TASK = Task(
    title="vocals, drums, bass and the rest of a song",
    corpus=MUSDB18,
    target=Stems(STEMS),
    clips=clips,
    metrics=stem_metrics(STEMS),
    counts={"train": 86, "valid": 14, "test": 50},
    schedule=Schedule(RULES.max_epochs, RULES.lr_patience, RULES.stop_patience),
    separation=RULES,
    mini_separation=replace(
        RULES,
        chunk_s=3.0,
        mixtures_per_track=6,
        hidden=64,
        batch_size=8,
        learning_rates=(1e-2,),
        max_epochs=8,
    ),
)
