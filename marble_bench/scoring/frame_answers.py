"""Answers frame by frame: what is decoded, and measured, where a task of `Frames` brings no way of its own.

A class and a bin are decoded as the likeliest, a tag holds from a probability of 0.5 on, a value is taken as it is. What is
measured of a clip are counts and sums over its frames that have a label, so that metrics can pool clips:

- of a class or a bin: frames that are right, frames with a label (a bin is right if it is the nearest to the label);
- of tags: hits, found and annotated (frame, tag) pairs;
- of a value: frames with a label, sum of squared errors, sum of the labels and of their squares.

Shapes: activations `(frames, width)` of each part at the target's `rate_hz`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from marble_bench.errors import UsageError
from marble_bench.scoring.frame_targets import (
    Activations,
    BinPart,
    ClassPart,
    Found,
    Frames,
    LabelPart,
    MomentPart,
    Part,
    SegmentPart,
    TagPart,
)
from marble_bench.scoring.metric import Measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARES, PAIRS = ("right", "labelled"), ("hits", "found", "annotated")
SUMS = ("labelled", "squared_error", "sum", "squares")
HOLDS = 0.5  # the probability from which on a tag holds


def columns_of(part: LabelPart) -> tuple[str, ...]:
    """What is measured of a part, in this order."""
    if isinstance(part, TagPart):
        return PAIRS
    return SHARES if isinstance(part, (ClassPart, BinPart)) else SUMS


def measure_of(target: Frames) -> Measure:
    """What `frame_metrics` read of a clip: the columns of each part that has labels, one after another."""
    assert target.rate_hz is not None
    reads = tuple((part.name, _shape_of(part)) for part in target.answered if not isinstance(part, MomentPart))
    return Measure(partial(_measure_clip, target.parts), partial(_make_trivial, target), reads=reads)


def _shape_of(part: LabelPart) -> tuple[int, ...]:
    """Of what was decided of a part, as `_measure_clip` reads it."""
    return (-1,) if isinstance(part, (ClassPart, BinPart)) else (-1, part.width)


def decode(clips: Sequence[Activations], rate_hz: float, setting: float | None = None) -> list[Found]:
    """The activations themselves, which a measure decides on. The `decode` of a task that brings none."""
    return list(clips)


def decide(part: LabelPart, answers: NDArray[Any]) -> NDArray[Any]:
    """Activations `(frames, width)` -> what they decide: `(frames, 1)` an index or a value, `(frames, tags)` of 0 and 1.

    `(frames,)` is what the task's own `decode` has decided; it is taken as it is, `(frames, 1)`.
    """
    if answers.ndim == 1:
        return answers[:, None]
    if isinstance(part, (ClassPart, BinPart)):
        likeliest: NDArray[Any] = answers.argmax(axis=1)[:, None]
        return likeliest
    return (answers >= HOLDS).astype(int) if isinstance(part, TagPart) else answers


def _measure_clip(parts: Sequence[Part], found: Found, target: Any) -> NDArray[np.float64]:
    """The columns of all parts with labels. What is not annotated has the labels of no frame."""
    import numpy as np

    rows = []
    for part, annotation in zip(parts, target, strict=True):
        if not isinstance(part, (MomentPart, SegmentPart)):
            labels, answers = part.encode(annotation or (), ""), found[part.name]
            labelled = np.flatnonzero(~np.isnan(labels).any(axis=1))
            if len(labelled) and labelled[-1] >= len(answers):
                raise UsageError(
                    f"{len(answers)} frames of {part.name} are answered, and frame {labelled[-1]} has a label: let decode "
                    "give an answer for every frame that it gets"
                )
            rows.append(_measure_part(part, decide(part, answers[labelled]), labels[labelled].astype(np.float64)))
    return np.concatenate(rows)


def _measure_part(part: LabelPart, answers: NDArray[Any], labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The columns of one part, from what was decided for the frames with a label, and their labels."""
    import numpy as np

    if isinstance(part, TagPart):
        return np.array([(answers * labels).sum(), answers.sum(), labels.sum()], np.float64)
    if isinstance(part, (ClassPart, BinPart)):
        right = answers == (part.nearest(labels) if isinstance(part, BinPart) else labels)
        return np.array([right.sum(), len(labels)], np.float64)
    errors = np.square(answers.astype(np.float64) - labels)
    return np.array([len(labels), errors.sum(), labels.sum(), np.square(labels).sum()], np.float64)


def _make_trivial(target: Frames, targets: Sequence[Any], lengths_s: Sequence[float]) -> list[Found]:
    """The mean of the training labels, as a probe learns them, in every frame: of a class the share that each has."""
    import numpy as np

    answers = {}
    for place, part in enumerate(target.parts):
        if not isinstance(part, (MomentPart, SegmentPart)):
            labels = [part.spread(part.encode(each[place], "")) for each in targets if each[place]]
            if isinstance(part, ClassPart):
                labels = [np.where(np.isnan(each), np.nan, each == np.arange(part.width)) for each in labels]
            whole = np.concatenate([np.zeros((0, part.width)), *labels])
            whole = whole[~np.isnan(whole).any(axis=1)]
            answers[part.name] = whole.mean(axis=0) if len(whole) else np.zeros(part.width)
    return [
        {name: np.broadcast_to(each, (target.count_labels(length_s), len(each))) for name, each in answers.items()}
        for length_s in lengths_s
    ]
