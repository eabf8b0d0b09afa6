"""Which technique does a singer use? One of ten, from belt to vocal fry.

Source: CMI-Bench's list, 1,850/1,142/1,140 chunks; the five test singers are heard nowhere else. Conventions: a clip is a
chunk of 132,000 samples, z-scored, one window; the score is micro accuracy by chunk (main) and by recording, outputs
averaged over its chunks. A constant "straight" scores 0.268.

Departures: MARBLE's paper keeps train and valid singers apart (9 and 6); its code, and so the lists, mix the same 15.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Classes, Clip, Schedule, Task, Window
from marble_bench.metrics import accuracy

from .corpora import vocalset


def clips(root: Path | None) -> Iterator[Clip]:
    """Every chunk with its technique."""
    return vocalset.clips(root, "technique", lambda technique, name: technique)


TASK = Task(
    title="vocal technique of a chunk",
    corpus=vocalset.VOCALSET,
    target=Classes(vocalset.TECHNIQUES),
    clips=clips,
    metrics=(accuracy,),
    counts={"train": 1850, "valid": 1142, "test": 1140},
    window=Window(normalize="zscore"),
    schedule=Schedule(max_epochs=100, lr_patience=5, stop_patience=10),
    group_name="recording",
)
