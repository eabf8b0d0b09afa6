"""Which instruments play in a track, by its artist's word? Any of 40.

Source: MTG-Jamendo's instrument subset, split 0, 14,395/5,466/5,115 tracks. Conventions: the whole track in windows of
30 s, the rest dropped; probes train on windows with the track's tags, a track's answer is the mean of its logits; the scores
are ROC-AUC (main) and average precision, both macro-averaged over tags. Chance: 0.5, and the mean prevalence 0.061.

Departures: MARBLE's paper speaks of averaged embeddings and of 41 tags; its code trains on windows and has 40, as split 0
does, and is followed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Clip, Schedule, Tags, Task, Window
from marble_bench.metrics import ap, roc_auc

from .corpora import mtg_jamendo


def clips(root: Path | None) -> Iterator[Clip]:
    """Every track of the subset with its tags."""
    return mtg_jamendo.clips(root, "instrument")


TASK = Task(
    title="instruments of a track",
    corpus=mtg_jamendo.MTG_JAMENDO,
    target=Tags(mtg_jamendo.INSTRUMENTS),
    clips=clips,
    metrics=(roc_auc, ap),
    counts={"train": 14395, "valid": 5466, "test": 5115},
    window=Window(length_s=30.0),
    schedule=Schedule(max_epochs=100, lr_patience=3, stop_patience=10),
)
