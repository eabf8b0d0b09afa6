"""Who sings? One of twenty, in seventeen techniques.

Source: CMI-Bench's list, 3,688/2,413/1,405 chunks; every singer is in every split, no recording in two. Conventions: a clip
is a chunk of 132,000 samples, z-scored, one window; the score is micro accuracy by chunk (main) and by recording,
outputs averaged over its chunks. The largest singer has 0.085 of the test chunks.

Departures: the score quoted in MARBLE's code fits a test split of 1,938 chunks, in which remainders over a second were
kept; that list was never published, so published numbers are probably of it and not of this one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Classes, Clip, Schedule, Task, Window
from marble_bench.metrics import accuracy

from .corpora import vocalset


def clips(root: Path | None) -> Iterator[Clip]:
    """Every chunk with its singer."""
    return vocalset.clips(root, "singer", lambda technique, name: name.partition("_")[0])


TASK = Task(
    title="singer of a chunk",
    corpus=vocalset.VOCALSET,
    target=Classes(vocalset.SINGERS),
    clips=clips,
    metrics=(accuracy,),
    counts={"train": 3688, "valid": 2413, "test": 1405},
    window=Window(normalize="zscore"),
    schedule=Schedule(max_epochs=100, lr_patience=5, stop_patience=20),
    group_name="recording",
)
