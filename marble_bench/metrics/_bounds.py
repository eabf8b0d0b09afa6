"""What a clip's row of measured numbers cannot be, whatever the clip's annotation: for `Measure.check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLOSE = 1e-6


def explain_first(holds: Mapping[str, bool]) -> str:
    """The first of some sentences that does not hold; nothing where all do."""
    return next((words for words, true in holds.items() if not true), "")


def is_near(one: float, other: float) -> bool:
    """Whether two numbers are the same but for rounding, both NaN included."""
    return abs(one - other) <= CLOSE * max(1.0, abs(other)) or (one != one and other != other)


def is_share(value: float) -> bool:
    """Whether a number is within 0 and 1, or NaN: no value."""
    return not (value < -CLOSE or value > 1 + CLOSE)


def is_ratio(value: float, part: float, whole: float) -> bool:
    """Whether a number is the share that a part has of a whole; NaN of nothing."""
    return is_near(value, part / whole if whole else float("nan"))


def count_most_right(found: Sequence[float] | NDArray[Any], truth: Sequence[float] | NDArray[Any]) -> int:
    """How many frames can be right at the most, by how often each class is found and annotated."""
    import numpy as np

    classes, counts = np.unique(np.asarray(truth), return_counts=True)
    return sum(min(int(count), int((found == each).sum())) for each, count in zip(classes, counts, strict=True))
