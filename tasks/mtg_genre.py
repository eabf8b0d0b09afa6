"""Which genres did artists give their tracks? Any of 87.

Source: MTG-Jamendo's genre subset, split 0, 32,572/11,043/11,479 tracks. Conventions: the whole track in windows of
30 s, the rest dropped; probes train on windows with the track's tags, a track's answer is the mean of its logits; the scores
are ROC-AUC (main) and average precision, both macro-averaged over tags. Chance: 0.5, and the mean prevalence 0.028.

Departures: MARBLE's paper speaks of averaged embeddings and of 95 tags; its code trains on windows and has 87, as split 0
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
    return mtg_jamendo.clips(root, "genre")


TASK = Task(
    title="genres of a track",
    corpus=mtg_jamendo.MTG_JAMENDO,
    target=Tags(mtg_jamendo.GENRES),
    clips=clips,
    metrics=(roc_auc, ap),
    counts={"train": 32572, "valid": 11043, "test": 11479},
    window=Window(length_s=30.0),
    schedule=Schedule(max_epochs=100, lr_patience=3, stop_patience=10),
)
