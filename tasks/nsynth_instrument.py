"""Which family does a note's instrument belong to? One of eleven, for single notes of 4 s.

Source: the official split, 289,205/12,678/4,096, in which no training instrument is heard again. Conventions: the whole
note is one window; the score is micro accuracy. The test split has ten of the eleven families (no synth_lead); a constant
"bass" scores 0.206 on it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Classes, Clip, Schedule, Task
from marble_bench.metrics import accuracy

from .corpora import nsynth


def clips(root: Path | None) -> Iterator[Clip]:
    """Every note with its family."""
    return nsynth.clips(root, lambda entry: str(entry["instrument_family_str"]))


TASK = Task(
    title="instrument family of a note",
    corpus=nsynth.NSYNTH,
    target=Classes(nsynth.FAMILIES),
    clips=clips,
    metrics=(accuracy,),
    counts=nsynth.COUNTS,
    schedule=Schedule(max_epochs=50, lr_patience=3, stop_patience=10),
)
