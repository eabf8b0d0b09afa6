"""Records beside the scores that papers print of another model, of which nobody has the predictions.

Such a comparison is unpaired: the verdict is the board's own, whether the printed score lies in the measured score's 95 %
interval. How far the printed score itself may be off is shown where the size of the test split tells it, and is not in the
verdict. A record that is not of a full run on a published corpus is not compared with printed scores at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from marble_bench.board.board import build_measured_cells, compute_published_difference
from marble_bench.board.published import IMPOSSIBLE, list_protocols_apart, read_published_cells
from marble_bench.board.rows import Cell
from marble_bench.records.record_file import Stored


@dataclass(frozen=True)
class PrintedScore:
    """A score as a paper prints it, a fraction or in decibels.

    label: what the paper calls the model. interval: 95 %, from the size of the test split alone; None where `basis` says
    why it has none. source: the paper's letter on the board. borrowed: the paper took the number from another one.
    contaminated: the model's training data that names the task's corpus, empty for none. impossible: why no number of test
    clips gives the score, empty if one does.
    """

    model: str
    label: str
    value: float
    interval: tuple[float | None, float | None] | None
    basis: str
    source: str
    citation: str
    borrowed: bool
    protocol: str
    contaminated: str
    impossible: str


@dataclass(frozen=True)
class MeasuredScore:
    """A record's score, a fraction or in decibels. interval: 95 %, over test clips. record: the path of its file."""

    model: str
    value: float
    interval: tuple[float | None, float | None] | None
    protocol: str
    record: str
    contaminated: str


@dataclass(frozen=True)
class PrintedComparison:
    """A measured score beside one that a paper prints of the other model.

    difference: A minus B, whichever of them is printed. verdict: where the measured score is, `inside` if the printed one
    lies in its interval, else `above` or `below`, or `no interval`. same_protocol: whether both were made by the rules of
    one protocol, so that like is compared with like.
    """

    task: str
    metric: str
    main: bool
    unit: str
    measured: MeasuredScore
    printed: PrintedScore
    difference: float
    verdict: str
    same_protocol: bool


def find_printed_scores(model: str) -> list[Cell]:
    """What papers print of a model, by the name that its encoder has here; none for a model that no paper has."""
    return [cell for cell in read_published_cells() if cell.model == model]


def compare_with_printed(
    stored: Sequence[Stored], printed: Sequence[Cell], measured_is_a: bool, cache: Path | None = None
) -> tuple[list[PrintedComparison], list[str]]:
    """Records of one model beside the printed scores of another, and a line for each reason why some are not.

    measured_is_a: whether the records are those of A, from which B is subtracted. cache: see `build_board`.
    """
    comparable = [each for each in stored if each.record.comparable]
    of_column: dict[tuple[str, str], list[Cell]] = {}
    for cell in printed:
        of_column.setdefault(cell.column, []).append(cell)
    tasks = {task for task, _ in of_column}
    cells = build_measured_cells([each for each in comparable if each.record.task.name in tasks], cache)
    cells.sort(key=lambda cell: (cell.task, not cell.measure.main))
    found = [
        _compare(cell, other, measured_is_a)
        for cell in cells
        for other in sorted(
            of_column.get(cell.column, ()), key=lambda each: (each.protocol != cell.protocol, each.mark)
        )
    ]
    return found, _group(_find_reasons(stored, printed, {each.task for each in found}))


def _compare(cell: Cell, other: Cell, measured_is_a: bool) -> PrintedComparison:
    beside = compute_published_difference(cell, other)
    return PrintedComparison(
        task=cell.task,
        metric=cell.metric,
        main=cell.measure.main,
        unit=cell.measure.unit,
        measured=MeasuredScore(
            cell.model,
            cell.value,
            cell.uncertainty.interval,
            cell.protocol,
            cell.origin.source,
            cell.origin.contaminated,
        ),
        printed=PrintedScore(
            other.model,
            other.origin.label,
            other.value,
            other.uncertainty.interval,
            other.uncertainty.basis,
            other.mark,
            other.origin.source,
            other.origin.borrowed,
            other.protocol,
            other.origin.contaminated,
            other.origin.impossible,
        ),
        difference=beside.difference if measured_is_a else -beside.difference,
        verdict=beside.verdict,
        same_protocol=cell.protocol == other.protocol,
    )


def explain_printed(found: Sequence[PrintedComparison]) -> list[str]:
    """What the columns and marks of a comparison with printed scores mean, and its sources, a line each."""
    measured, printed = found[0].measured, found[0].printed
    lines = [
        f"unpaired: papers print no predictions. above, below: where {measured.model} is. inside: the printed score lies "
        f"in the 95 % interval of {measured.model}. The printed score's own uncertainty does not enter"
    ]
    if any(each.printed.interval for each in found):
        lines.append("interval of a printed score: Wilson's, computed from the number of test clips")
    if not all(each.same_protocol for each in found):
        lines.append(f"other protocol: the record is of {measured.protocol}, so like is not compared with like")
    apart = list_protocols_apart()
    lines += [
        f"{name} is not run by this suite: {apart[name]}"
        for name in dict.fromkeys(each.printed.protocol for each in found)
        if name in apart
    ]
    papers = {each.printed.source: each.printed for each in found}
    lines += [
        f"{mark}: {each.citation}; {printed.model} is its '{each.label}'" for mark, each in sorted(papers.items())
    ]
    if any(each.printed.borrowed for each in found):
        lines.append("°: that source took the number from another paper")
    if any(each.printed.impossible for each in found):
        lines.append(IMPOSSIBLE)
    if any(each.printed.contaminated or each.measured.contaminated for each in found):
        lines.append("†: the model was trained on the corpus that this task tests on")
    return lines


def _find_reasons(stored: Sequence[Stored], printed: Sequence[Cell], done: set[str]) -> Iterator[tuple[str, str]]:
    """Of each record that is beside no printed score: its task, and why."""
    published = {cell.task for cell in read_published_cells()}
    (model,) = {cell.model for cell in printed}
    for each in stored:
        record = each.record
        if record.task.name in done:
            continue
        if record.task.name not in published:
            yield record.task.name, f"no paper has a score on this task (corpus '{record.data.corpus}')"
        elif record.comparable:
            yield record.task.name, f"no paper has a score of {model} on this task"
        else:
            why = "; ".join(record.why_not)
            yield record.task.name, f"{why}, and printed scores are of full runs on full corpora"


def _group(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """A line for each reason, with all the tasks that it holds for."""
    tasks: dict[str, list[str]] = {}
    for task, why in reasons:
        tasks.setdefault(why, []).append(task)
    return [f"{', '.join(names)} with printed scores: {why}" for why, names in tasks.items()]
