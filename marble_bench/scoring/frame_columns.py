"""What was found in frames as a table of predictions holds it, and back, so that it can be measured again.

A clip's row has a list of numbers for each part that is answered: what was decided of its frames, or the times of its
moments. What else a measure reads, as its `Measure.reads` declares, has a column under its own name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.scoring import frame_answers
from marble_bench.scoring.frame_targets import Found, Frames, MomentPart

if TYPE_CHECKING:
    from marble_bench.scoring.metric import Measure


def list_columns(target: Frames, measure: Measure | None) -> dict[str, str]:
    """The columns of a table beside what every task has, and of each what it is called in what `decode` finds."""
    parts = {target.column(part): part.name for part in target.answered}
    more = [name for name, _ in measure.reads] if measure else []
    return parts | {name: name for name in more if name not in target.names}


def to_columns(target: Frames, measure: Measure, found: Sequence[Found]) -> dict[str, list[list[float]]]:
    """By column a list of numbers for each clip; empty where `decode` gave none of what is no part."""
    answered = {part.name: part for part in target.answered}

    def list_numbers(name: str, each: Found) -> list[float]:
        import numpy as np

        part = answered.get(name)
        if part is None:
            values = np.asarray(each.get(name, ()))
        else:
            values = each[name] if isinstance(part, MomentPart) else frame_answers.decide(part, each[name])
        numbers: list[float] = values.reshape(-1).tolist()
        return numbers

    return {
        column: [list_numbers(name, each) for each in found] for column, name in list_columns(target, measure).items()
    }


def restore_found(target: Frames, measure: Measure, row: Mapping[str, Any]) -> Found:
    """What `measure` reads of a clip, made of its row. Raises ValueError for as many numbers as the shape has not."""
    import numpy as np

    shapes = dict(measure.reads)
    found = {}
    for column, name in list_columns(target, measure).items():
        numbers = np.asarray(row[column], np.float64)
        if name in shapes and (len(numbers) or name in target.names):
            found[name] = numbers.reshape(shapes[name])
    return found
