"""Chord labels: Harte's syntax, the two vocabularies that probes answer in, and the target of a task of chords.

A label is read by `mir_eval.chord.encode`: root, semitones above it, bass. `N` is no chord, `X` a chord that is not known.

- `chord`, 25 classes: a root with a major or a minor triad, and `N`. A label is of the class whose triad its semitones
  contain, as MARBLE's code has it: sevenths, sixths, ninths and inversions fold in. A label that contains neither triad
  (`dim`, `aug`, `sus`, `5`, `1`) or both has no class, and `X` has none.
- `seventh`, 61 classes: a root with exactly the semitones of `maj`, `min`, `7`, `maj7` or `min7`, and `N`: the vocabulary of
  `mir_eval.chord.sevenths`. Any other label has no class.

Frame k is of the time from k to k + 1, divided by LABELS_HZ; it has the label that sounds in its middle. Layers are averaged
to the same rate. A frame without a class is neither learnt nor counted in `chord_accuracy`. `N` is kept wherever it stands.
MARBLE's code rewrites an `N` that does not begin a clip to the chord before it, and `X` to no chord.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench.scoring.frame_targets import ClassPart, Frames, SegmentPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Activations, Found

Segment: TypeAlias = "tuple[float, float, str]"  # start and end in seconds, label

ROOTS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
NO_CHORD, UNKNOWN = "N", "X"
SEVENTHS = ("maj", "min", "7", "maj7", "min7")
LABELS_HZ = 25.0
CHORD = ClassPart("chord", (*(f"{root}:{quality}" for quality in ("maj", "min") for root in ROOTS), NO_CHORD))
SEVENTH = ClassPart("seventh", (*(f"{root}:{quality}" for quality in SEVENTHS for root in ROOTS), NO_CHORD))
CONTEXT_S = 30.0
STAYS = (0.5, 0.9, 0.99, 0.999, 0.9999)  # probabilities that a chord stays from one frame to the next
SMOOTHED = "smoothed"


def add_smoothed(clips: Sequence[Activations], rate_hz: float, stays: float | None = None) -> list[Found]:
    """Activations, and with a probability of staying also the likeliest path of `chord`, `(frames,)` indices.

    The path is the Viterbi path of a hidden Markov model in which all other classes are equally likely to follow.
    """
    if stays is None:
        return list(clips)
    from librosa.sequence import transition_loop, viterbi

    moves = transition_loop(CHORD.width, stays)
    return [{**clip, SMOOTHED: viterbi(clip[CHORD.name].T.astype("float64"), moves)} for clip in clips]


TARGET = Frames(
    (CHORD, SEVENTH, SegmentPart("chords")),
    rate_hz=LABELS_HZ,
    stops_by=("chord",),
    feature_rate_hz=LABELS_HZ,
    context_s=CONTEXT_S,
    decode=add_smoothed,
    settings=STAYS,
    tuned_by="majmin_viterbi",
)


def is_label(label: str) -> bool:
    """Whether mir_eval can read a label."""
    from mir_eval.chord import InvalidChordException

    try:
        _encode(label)
    except InvalidChordException:
        return False
    return True


@lru_cache(maxsize=1 << 14)
def _encode(label: str) -> tuple[int, tuple[int, ...]]:
    """Root (-1 for none) and which of 12 semitones above it sound."""
    from mir_eval.chord import encode

    root, semitones, _ = encode(label)
    return int(root), tuple(int(each) for each in semitones)


def find_chord(label: str) -> str | None:
    """The class of 25 that a label is of.

    >>> [find_chord(label) for label in ("C:7", "Bb:min7/b3", "A:minmaj7", "N", "X", "D:sus4", "E:dim")]
    ['C:maj', 'A#:min', 'A:min', 'N', None, None, None]
    """
    root, semitones = _encode(label)
    if root < 0:
        return None if label == UNKNOWN else NO_CHORD
    if not semitones[7] or semitones[3] == semitones[4] or not semitones[0]:
        return None
    return f"{ROOTS[root]}:{'maj' if semitones[4] else 'min'}"


def find_seventh(label: str) -> str | None:
    """The class of 61 that a label is of.

    >>> [find_seventh(label) for label in ("C:7", "Bb:min7/b3", "A:minmaj7", "G", "N", "C:9")]
    ['C:7', 'A#:min7', None, 'G:maj', 'N', 'C:7']
    """
    root, semitones = _encode(label)
    if root < 0:
        return None if label == UNKNOWN else NO_CHORD
    qualities = (quality for quality in SEVENTHS if _encode(f"C:{quality}")[1] == semitones)
    return next((f"{ROOTS[root]}:{quality}" for quality in qualities), None)


def make_target(
    segments: Sequence[Segment],
) -> tuple[tuple[str | None, ...], tuple[str | None, ...], tuple[Segment, ...]]:
    """A clip's target of its ascending segments: the classes of each frame, None for one without, and the segments."""
    labels = take_labels(segments)
    each = [None if label is None else (find_chord(label), find_seventh(label)) for label in labels]
    chords = tuple(None if pair is None else pair[0] for pair in each)
    return chords, tuple(None if pair is None else pair[1] for pair in each), tuple(segments)


def take_labels(segments: Sequence[Segment]) -> list[str | None]:
    """The label that sounds in the middle of each frame up to the last end; None between segments."""
    import numpy as np

    if not segments:
        return []
    starts, ends = (np.array([segment[place] for segment in segments]) for place in (0, 1))
    times = (np.arange(int(np.ceil(ends[-1] * LABELS_HZ - 1e-6))) + 0.5) / LABELS_HZ
    at = np.searchsorted(starts, times, side="right") - 1
    return [
        segments[place][2] if place >= 0 and time < ends[place] else None
        for place, time in zip(at.tolist(), times.tolist(), strict=True)
    ]


def list_runs(classes: NDArray[np.integer[Any]], labels: Sequence[str]) -> list[Segment]:
    """Frames `(frames,)` of indices at LABELS_HZ -> the segments of equal neighbours."""
    import numpy as np

    if not len(classes):
        return []
    changes = np.flatnonzero(np.diff(classes)) + 1
    edges = [0, *changes.tolist(), len(classes)]
    return [(a / LABELS_HZ, b / LABELS_HZ, labels[classes[a]]) for a, b in pairwise(edges)]


def shift_target(target: Any, semitones: int) -> Any:
    """A clip's target when all its pitches are moved."""
    *classes, segments = target
    moved = [tuple(None if label is None else transpose(label, semitones) for label in part) for part in classes]
    return (*moved, tuple((start, end, transpose(label, semitones)) for start, end, label in segments))


@lru_cache(maxsize=1 << 14)
def transpose(label: str, semitones: int) -> str:
    """A label with its root moved.

    >>> transpose("Bb:min7/b3", 3), transpose("N", 3)
    ('C#:min7/b3', 'N')
    """
    from mir_eval.chord import pitch_class_to_semitone

    found = re.match(r"[A-G][b#]*", label)
    if not found:
        return label
    return ROOTS[(pitch_class_to_semitone(found[0]) + semitones) % 12] + label[found.end() :]
