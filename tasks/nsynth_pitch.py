"""Which pitch is a note? One of the 112 semitones from A-1 (MIDI 9) to C9 (MIDI 120), for single notes of 4 s.

Source: the official split, 289,205/12,678/4,096. Conventions: a class is a MIDI number; the whole note is one window; the
score is micro accuracy.

Departures: the papers speak of 128 classes and MARBLE's v1 code has 128 outputs (label pitch - 1 in one dataset class,
pitch - 9 in another); pitches below 9 and above 120 do not occur, so here the classes are the data's own range.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Classes, Clip, Schedule, Task
from marble_bench.metrics import accuracy

from .corpora import nsynth

PITCHES = tuple(str(pitch) for pitch in range(nsynth.LOWEST, nsynth.HIGHEST + 1))


def clips(root: Path | None) -> Iterator[Clip]:
    """Every note with its MIDI pitch."""
    return nsynth.clips(root, lambda entry: str(entry["pitch"]))


def shifted(pitch: str, semitones: int) -> str | None:
    """The pitch of a note that was moved; None beyond the classes.

    >>> shifted("60", 1), shifted("120", 1)
    ('61', None)
    """
    moved = str(int(pitch) + semitones)
    return moved if moved in PITCHES else None


TASK = Task(
    title="pitch of a note",
    corpus=nsynth.NSYNTH,
    target=Classes(PITCHES),
    clips=clips,
    metrics=(accuracy,),
    counts=nsynth.COUNTS,
    shifted=shifted,
    schedule=Schedule(max_epochs=50, lr_patience=3, stop_patience=10),
)
