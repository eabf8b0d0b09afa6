"""Which chord sounds? The accompaniments of GuitarSet, 25 times a second, against the lead sheet that the player read.

Splits hold out players: 00 to 03, 04 and 05, 120/30/30 excerpts; no split is published. `tasks.corpora.guitarset.clips`
makes the other folds.

A probe has two blocks of outputs, for 25 and for 61 classes (`metrics._chord_labels`); its loss is the sum of both,
and it stops by the first. Scores are weighted chord symbol recall by mir_eval's rules (`metrics.chords`), on the likeliest
class of each frame; `majmin_viterbi` alone is of a smoothed path.

Not established: how published GuitarSet results were split and scored, so these scores stand beside none of them.
"""

from __future__ import annotations

from marble_bench import Schedule, Task
from marble_bench.metrics import chord_metrics
from marble_bench.metrics._chord_labels import TARGET, shift_target

from .corpora.guitarset import GUITARSET, clips

TASK = Task(
    title="chords of guitar accompaniments",
    corpus=GUITARSET,
    target=TARGET,
    clips=clips,
    metrics=chord_metrics,
    counts={"train": 120, "valid": 30, "test": 30},
    schedule=Schedule(max_epochs=50, lr_patience=5, stop_patience=10),
    mini_schedule=Schedule(max_epochs=20, lr_patience=4, stop_patience=6),
    shifted=shift_target,
)
