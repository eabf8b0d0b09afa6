"""Which chord sounds? 1,217 popular songs, 25 times a second, in the major and minor triads and no chord.

The first of the five folds of the ISMIR 2019 system (music-x-lab), 730/243/244 songs: its test list, and the quarter of its
training list that the system draws for validation. `tasks.corpora.chords1217.clips` makes the other folds.

A probe has two blocks of outputs, for 25 and for 61 classes (`metrics._chord_labels`); its loss is the sum of both,
and it stops by the first. Scores are weighted chord symbol recall by mir_eval's rules (`metrics.chords`), on the likeliest
class of each frame; `majmin_viterbi` alone is of a smoothed path.

Departures from MARBLE's second version: `N` is kept where that version rewrites it to the chord before, and `X` is left out
where it becomes no chord; scores are pooled over all songs, and not averaged over batches of eight clips; whole songs are
scored, at 25 frames a second and not 75. It is not known which fold that version's lists are, so its frame accuracy is near
`chord_accuracy` here and not the same.
"""

from __future__ import annotations

from marble_bench import Schedule, Task
from marble_bench.metrics import chord_metrics
from marble_bench.metrics._chord_labels import TARGET, shift_target

from .corpora.chords1217 import CHORDS1217, clips

TASK = Task(
    title="chords of popular songs",
    corpus=CHORDS1217,
    target=TARGET,
    clips=clips,
    metrics=chord_metrics,
    counts={"train": 730, "valid": 243, "test": 244},
    schedule=Schedule(max_epochs=50, lr_patience=5, stop_patience=10),
    mini_schedule=Schedule(max_epochs=20, lr_patience=4, stop_patience=6),
    shifted=shift_target,
)
