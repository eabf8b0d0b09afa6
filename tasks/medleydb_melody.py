"""What is the melody of a song? Its pitch in every frame, and where there is none.

Sources: MedleyDB's second definition of a melody; task, split, axis and decoding of MARBLE's first code (its branch for
MedleyDB). Conventions: pitch is a MIDI number on 360 bins of 20 cents, learnt in voiced frames alone; voicing is an output
of its own, and validation chooses its threshold. An answer is scored at the annotated times, 172 a second, each by the
frame of 20 ms in which it is. Scores are mir_eval's, a mean over songs; overall accuracy chooses.

Departures: MARBLE scored the mean over pieces of 20 s, which weighs songs by their length; its probe was a bidirectional
LSTM on a weighted sum of layers, here it is the protocol's; see `marble_bench.scoring.pitch_decoder` for voicing. MARBLE's
split has artists in train and in test; the corpus tells which, and has a list without.
"""

from __future__ import annotations

from marble_bench import Schedule, Task
from marble_bench.metrics import melody_metrics

from .corpora import f0
from .corpora.medleydb_melody import MEDLEYDB_MELODY, clips

TASK = Task(
    title="melody of a song",
    corpus=MEDLEYDB_MELODY,
    target=f0.TARGET,
    clips=clips,
    metrics=melody_metrics,
    counts={"train": 67, "valid": 15, "test": 26},
    schedule=Schedule(max_epochs=100, lr_patience=6, stop_patience=20),
    mini_schedule=Schedule(max_epochs=20, lr_patience=6, stop_patience=6),
    shifted=f0.shift,
)
