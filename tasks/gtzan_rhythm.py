"""When does a listener tap? The beats of a 30 s excerpt, and its downbeats, in seconds.

Sources: GTZAN-Rhythm's annotations on the fault-filtered split, 443/197/290; MARBLE's first code. Conventions: a probe gives
every frame an activation; a dynamic Bayesian network with madmom's defaults (55 to 215 beats a minute) decodes beats from
it; the score is F at 70 ms with hits, found and annotated beats counted over all tracks. MARBLE's paper says 20 ms, its
code 70, and the published numbers are the code's; both are reported, with the mean per track after 5 s and continuity.

Departures: features are computed once on the whole excerpt, and training crops of 10 s are cut from them; MARBLE encoded the
crop, with 320 samples of silence behind it. A probe has an output each for beats and downbeats and is trained on the sum of
their binary cross-entropies, as in MARBLE's second version; its first had two classes and no downbeats. While it trains, a
probe is judged by the beats' loss on the validation split, where MARBLE decoded after each epoch; which probe is scored is
chosen by the decoded F (a grid's `valid`; its `history` is minus the loss). Annotated times are taken as they are; MARBLE
rounded them to its frames. Frames are the encoder's own: 75 a second for MERT, which MARBLE's labels are made for. MARBLE
leaves out jazz.00054, damaged in Kaggle's copy, which is used here where it can be decoded.
"""

from __future__ import annotations

from marble_bench import Events, Schedule, Task, Window
from marble_bench.metrics import beat_metrics

from .corpora.gtzan_rhythm import GTZAN_RHYTHM, clips

TASK = Task(
    title="beats and downbeats of a 30 s excerpt",
    corpus=GTZAN_RHYTHM,
    target=Events(("beat", "downbeat")),
    clips=clips,
    metrics=beat_metrics,
    counts={"train": 443, "valid": 197, "test": 290},
    window=Window(normalize="peak"),
    schedule=Schedule(max_epochs=100, lr_patience=6, stop_patience=20),
    mini_schedule=Schedule(max_epochs=40, lr_patience=6, stop_patience=6),
)
