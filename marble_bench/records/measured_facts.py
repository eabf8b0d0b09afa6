"""Whether what a table of predictions says was measured of a clip is what its task's measure gives of the same row.

With a clip's annotation it is measured again from what was found, as the row has it. Without, the measure tells what cannot
be (`Measure.check`): counts that are not those of the row, shares that are no shares. What a measure does not declare to
read cannot be asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from marble_bench.core.task import Task
from marble_bench.errors import UsageError, listing
from marble_bench.scoring.frame_columns import list_columns, restore_found
from marble_bench.scoring.frame_targets import Frames

if TYPE_CHECKING:
    import pandas as pd

    from marble_bench.scoring.metric import Measure

CLOSE = 1e-6  # what was measured is stored in double precision


def find_measure(task: Task | None) -> Measure | None:
    """What can measure a task's clips again; None where there is none, or it does not tell what it reads."""
    measure = task.metrics[0].measure if task is not None and isinstance(task.target, Frames) else None
    return measure if measure is not None and measure.reads else None


def find_disagreements(
    frame: pd.DataFrame, task: Task, thorough: bool, annotation_of: Callable[[str], Any] | None = None
) -> Iterator[tuple[str, str]]:
    """Rows that are measured otherwise, and why.

    annotation_of: the target of a clip by its name, None for one that is not at hand; rows of changed clips are left out.
    """
    measure, target = find_measure(task), task.target
    if measure is None:
        return
    assert isinstance(target, Frames)
    names = ["split", "clip", "outputs", "truth", *list_columns(target, measure)]
    wrong: dict[str, set[str]] = {}
    for values in zip(*(frame[name] for name in names), strict=True):
        row = dict(zip(names, values, strict=True))
        annotation = annotation_of(row["clip"]) if annotation_of and row["split"] in ("valid", "test") else None
        if words := _explain_row(row, target, measure, thorough, annotation):
            wrong.setdefault(words, set()).add(row["clip"])
    for words, clips in wrong.items():
        yield "scores", f"what was measured of {len(clips)} clips cannot be: {words}: {listing(sorted(clips), most=5)}"


def _explain_row(row: dict[str, Any], target: Frames, measure: Measure, thorough: bool, annotation: Any) -> str:
    """Why a row's outputs are not what is measured of it; nothing where they are, or may be."""
    import numpy as np

    found, outputs = restore_found(target, measure, row), np.asarray(row["outputs"], np.float64)
    truth = np.asarray(row["truth"], np.float64)
    if measure.check is not None and (words := measure.check(outputs, found, truth, thorough)):
        return words
    if annotation is None:
        return ""
    try:
        again = np.asarray(measure.of_clip(found, annotation), np.float64)
    except UsageError as error:  # as for too few frames
        return str(error)
    same = outputs.shape == again.shape and np.allclose(outputs, again, rtol=CLOSE, atol=CLOSE, equal_nan=True)
    return "" if same else "measured again, it is another"
