"""Which of the fifty most frequent tags does a track have, whatever their kind?

Source: MTG-Jamendo's top-50 subset, split 0, 32,136/10,888/11,356 tracks. Conventions: the whole track in windows of
30 s, the rest dropped; probes train on windows with the track's tags, a track's answer is the mean of its logits; the scores
are ROC-AUC (main) and average precision, both macro-averaged over tags. Chance: 0.5, and the mean prevalence 0.061.

Departures: MARBLE's paper speaks of averaged embeddings; its code trains on windows, and is followed here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Clip, Schedule, Tags, Task, Window
from marble_bench.metrics import ap, roc_auc

from .corpora import mtg_jamendo


def clips(root: Path | None) -> Iterator[Clip]:
    """Every track of the subset with its tags."""
    return mtg_jamendo.clips(root, "top50tags")


TASK = Task(
    title="most frequent tags of a track",
    corpus=mtg_jamendo.MTG_JAMENDO,
    target=Tags(mtg_jamendo.TOP50),
    clips=clips,
    metrics=(roc_auc, ap),
    counts={"train": 32136, "valid": 10888, "test": 11356},
    window=Window(length_s=30.0),
    schedule=Schedule(max_epochs=100, lr_patience=3, stop_patience=10),
)
