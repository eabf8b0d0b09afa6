"""Which instrument plays alone? One of eight, for clips of 3 s.

Source: Medley-solos-DB's own subsets, 5,841/3,494/12,236 clips; the sizes are counted from the rows of its table as others
cite them and are checked against the table on disk. Conventions: the whole clip is one window; the score is accuracy over
clips. Training and validation are cut from MedleyDB and test from solosDB, so a probe is scored on other rooms and players.

Departures: none known; the makers' papers train networks of their own on the audio, not probes on frozen features.
"""

from __future__ import annotations

from marble_bench import Classes, Schedule, Task
from marble_bench.metrics import accuracy

from .corpora.medley_solos import COUNTS, INSTRUMENTS, MEDLEY_SOLOS, clips

TASK = Task(
    title="instrument of a solo",
    corpus=MEDLEY_SOLOS,
    target=Classes(INSTRUMENTS),
    clips=clips,
    metrics=(accuracy,),
    counts=COUNTS,
    schedule=Schedule(max_epochs=100, lr_patience=5, stop_patience=20),
)
