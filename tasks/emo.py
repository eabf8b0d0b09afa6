"""How stirring, and how pleasant, does a listener find a song? Arousal and valence, rated from 1 to 9.

Sources: MediaEval 2013 ratings; JukeMIR's split 504/115/125, which MARBLE took over. Conventions: the first 30 s in six
windows of 5 s, outputs averaged over windows; probes learn z-scores by the development set (train and valid together);
the score is R2, of each dimension and their uniform average, 0 for a constant at the test mean. With 125 test songs the
noise is large.

Departures among implementations: MARBLE's paper says 45 s, its v1 code uses the first 30 s (followed here), its v2 three
windows of 15 s; JukeMIR the first 25 s as one.
"""

from __future__ import annotations

from marble_bench import Scalars, Schedule, Task, Window
from marble_bench.metrics import r2, r2_of

from .corpora.emomusic import EMOMUSIC, clips

DIMENSIONS = ("arousal", "valence")

TASK = Task(
    title="arousal and valence of a song",
    corpus=EMOMUSIC,
    target=Scalars(DIMENSIONS),
    clips=clips,
    metrics=(r2, *(r2_of(name, index) for index, name in enumerate(DIMENSIONS))),
    counts={"train": 504, "valid": 115, "test": 125},
    window=Window(length_s=5.0, first_s=30.0),
    schedule=Schedule(max_epochs=100, lr_patience=5, stop_patience=20),
)
