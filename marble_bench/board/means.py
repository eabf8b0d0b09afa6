"""The mean of a task set: of a named set alone, where its source prints one, and only for a row that has all of it.

Several metrics of one task are averaged first, then the tasks, in points (percent, and decibels as they are). The interval
and ties take tasks of different corpora as independent and those of one corpus as moving together, which is the wider of
the two.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

from marble_bench.board.answers import Answers
from marble_bench.board.ranks import rank_cells
from marble_bench.board.rows import Cell, MetricReading, Position, Uncertainty, find_task
from marble_bench.core.task_set import TaskSet
from marble_bench.records.record_file import are_alike

AVERAGE = "average"  # what stands for the task in the cell of a mean, whose metric is the name of the set


def convert_to_points(cell: Cell) -> float:
    """A score as MARBLE's mean takes it: percent, or decibels as they are."""
    return cell.value * cell.measure.scale


def compute_means(cells: Sequence[Cell], task_set: TaskSet) -> dict[tuple[str, str, str], float]:
    """The mean of a set, in points, of every row that has all its tasks with all metrics that count; none where the source
    of the set prints none."""
    if task_set.averaging == "none":
        return {}
    return {
        row: statistics.fmean(
            statistics.fmean(convert_to_points(found[task, metric]) for metric in metrics)
            for task, metrics in task_set.members.items()
        )
        for row, found in _place(cells, task_set).items()
        if len(found) == sum(map(len, task_set.members.values()))
    }


def _place(cells: Sequence[Cell], task_set: TaskSet) -> dict[tuple[str, str, str], dict[tuple[str, str], Cell]]:
    """Row -> the cells that count in a set, by task and metric."""
    found: dict[tuple[str, str, str], dict[tuple[str, str], Cell]] = {}
    for cell in cells:
        if cell.metric in task_set.members.get(cell.task, ()):
            found.setdefault(cell.row, {})[cell.column] = cell
    return found


def build_means(cells: Sequence[Cell], task_set: TaskSet, answers: Answers) -> list[Cell]:
    """The mean of a set of each row as a cell, with interval, rank and letters for measured rows."""
    found, placed = compute_means(cells, task_set), _place(cells, task_set)
    of_row = {row: list(placed[row].values()) for row in found}
    means = [_build_mean(value, of_row[row], task_set) for row, value in found.items()]
    able = [cell for cell in means if cell.mark == "measured" and all(answers.of(part) for part in of_row[cell.row])]
    p = {}
    for one, other in combinations(range(len(able)), 2):
        p[one, other] = _compute_p_of_means(of_row[able[one].row], of_row[able[other].row], answers)
    if any(value is None for value in p.values()):
        return means  # some pair was not scored on the same clips
    ranks = dict(
        zip((cell.row for cell in able), rank_cells(able, {k: v for k, v in p.items() if v is not None}), strict=True)
    )
    return [replace(cell, position=Position(*ranks[cell.row])) if cell.row in ranks else cell for cell in means]


def _build_mean(value: float, parts: Sequence[Cell], task_set: TaskSet) -> Cell:
    """The cell of a set's mean. value: in points. parts: the cells that it is the mean of."""
    first, tasks = parts[0], len(task_set.members)
    half = _combine_widths(parts, _compute_half_width) / tasks if first.mark == "measured" else math.nan
    known = math.isfinite(half)
    return replace(
        first,
        task=AVERAGE,
        metric=task_set.name,
        value=value / 100,
        measure=MetricReading("fraction", first.measure.higher_is_better),
        uncertainty=Uncertainty(
            ((value - half) / 100, (value + half) / 100) if known else None,
            f"mean of the {tasks} tasks of {task_set.name} {task_set.version}"
            + ("; normal, from the tasks' intervals" if known else ""),
        ),
        origin=replace(
            first.origin,
            source="",
            borrowed=any(cell.origin.borrowed for cell in parts),
            comparable=all(cell.origin.comparable for cell in parts),
            impossible="",  # of a part; a mean is no share of clips
            contaminated=", ".join(sorted({cell.origin.contaminated for cell in parts} - {""})),
        ),
        position=Position(),
    )


def _compute_half_width(cell: Cell) -> float:
    """Half a 95 % interval, in points."""
    low, high = cell.uncertainty.interval or (None, None)
    return math.nan if low is None or high is None else (high - low) / 2 * cell.measure.scale


def _combine_widths(cells: Sequence[Cell], width: Callable[[Cell], float]) -> float:
    """The width of a sum over tasks: metrics of a task are averaged, tasks of a corpus added, corpora squared and added."""
    by_task: dict[str, list[float]] = {}
    for cell in cells:
        by_task.setdefault(cell.task, []).append(width(cell))
    by_corpus: dict[str, float] = {}
    for task, widths in by_task.items():
        known = find_task(task)
        corpus = known.corpus.name if known else task
        by_corpus[corpus] = by_corpus.get(corpus, 0.0) + sum(widths) / len(widths)
    return float(sum(value**2 for value in by_corpus.values()) ** 0.5)


def _compute_p_of_means(a: Sequence[Cell], b: Sequence[Cell], answers: Answers) -> float | None:
    """Two-sided p of two means being equal; None if they were not scored on the same clips of each task."""
    import numpy as np
    from scipy.stats import norm

    other = {cell.column: cell for cell in b}
    errors: dict[tuple[str, str], float] = {}
    for cell in a:
        one, two = answers.of(cell), answers.of(other[cell.column])
        assert one is not None
        assert two is not None
        if not are_alike([one, two]):
            return None
        apart = answers.jackknife(cell)[1] - answers.jackknife(other[cell.column])[1]
        blocks = len(apart)
        error = float(np.sqrt((blocks - 1) / blocks * ((apart - apart.mean()) ** 2).sum()))
        errors[cell.column] = error * cell.measure.scale
    whole = _combine_widths(a, lambda cell: errors[cell.column])
    tasks: dict[str, list[float]] = {}
    for cell in a:
        tasks.setdefault(cell.task, []).append(convert_to_points(cell) - convert_to_points(other[cell.column]))
    value = sum(sum(each) / len(each) for each in tasks.values())
    return float(2 * norm.sf(abs(value) / whole)) if whole > 0 else 1.0
