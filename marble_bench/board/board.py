"""Puts cells in order: who cannot be told apart, what the floors are, the overall mean, and how far from what papers print.

**Ranks and ties.** Of one column, every pair of measured systems that were scored on the same clips is tested (paired,
`marble_bench.scoring.statistics`), the p-values corrected together by Holm. `rank` is 1 + the number of systems that are
better beyond doubt (corrected p below 5 %). `ties` are letters: two systems share a letter exactly if they cannot be told
apart. Published rows have no predictions, so they can be neither ranked nor tied; nor can medians, of which a jackknife
says nothing.

**Overall mean.** MARBLE's rule: several metrics of one task are averaged first, then the tasks, in points (percent, and
decibels as they are), and only for systems that cover all tasks of the board. Its interval and ties take tasks of different
corpora as independent and those of one corpus as moving together, which is the wider of the two.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.board.rows import (
    Cell,
    MetricReading,
    Position,
    Provenance,
    PublishedDifference,
    Uncertainty,
    find_task,
    read_published_cells,
    record_cells,
    tell_apart,
)
from marble_bench.records.record_file import Predicted, Stored, are_alike, read_predictions
from marble_bench.scoring import statistics
from marble_bench.scoring.scores import convert_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHA = 1 - statistics.LEVEL
AVERAGE = "average"
SHUFFLES = 200
PLAUSIBLE = (
    0.6,
    1.7,
)  # an interval's width, in widths of the jackknife's by t; others are made again, which takes longer


@dataclass(frozen=True)
class BoardFilter:
    """Which part of all is shown: one protocol; miniatures or not; some tasks and models, all if empty."""

    protocol: str
    mini: bool = False
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()

    def is_shown(self, cell: Cell) -> bool:
        """Whether a cell is part of it."""
        right = cell.protocol == self.protocol and cell.mini == self.mini
        return right and (not self.tasks or cell.task in self.tasks) and (not self.models or cell.model in self.models)


@dataclass(frozen=True)
class Board:
    """A leaderboard: cells with ranks and verdicts, floors, overall means, the records behind it.

    coverage: row -> (tasks it has, tasks of the board). curves: records with a curve of few shots, shown or not.
    perturbed: records with scores of changed test clips, shown or not.
    """

    asked: BoardFilter
    cells: list[Cell]
    floors: list[Cell]
    averages: list[Cell]
    coverage: dict[tuple[str, str, str], tuple[int, int]]
    stored: list[Stored]
    curves: list[Stored]
    perturbed: list[Stored]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Task and metric of each column: tasks by name, the main metric of each first."""
        seen = dict.fromkeys((cell.task, not cell.measure.main, cell.metric) for cell in self.cells)
        return list(dict.fromkeys((task, metric) for task, _, metric in sorted(seen, key=lambda each: each[:2])))

    def list_everything(self) -> list[Cell]:
        """All cells, those of floors and means too."""
        return [*self.cells, *self.averages, *self.floors]


def build_board(stored: Sequence[Stored], asked: BoardFilter, cache: Path | None = None) -> Board:
    """The board of some records and, where they are asked for, of what papers print.

    cache: a folder that keeps the jackknife of each record's scores, which full test splits need a minute for.
    """
    stored = tell_apart(stored)
    by_path = {str(each.path): each for each in stored}
    cells = [cell for cell in record_cells(stored) if asked.is_shown(cell)]
    answers = _Answers(by_path, cache)
    cells = [_replace_interval(cell, answers) for cell in cells]
    cells = compare_with_published(_rank(cells, answers)) + (
        [] if asked.mini else [c for c in read_published_cells() if asked.is_shown(c)]
    )
    used = [by_path[path] for path in dict.fromkeys(cell.origin.source for cell in cells if cell.mark == "measured")]
    floors = _build_floors(cells, answers)
    curves = [each for each in stored if each.record.few_shot and _is_asked_for(each, asked)]
    perturbed = [each for each in stored if each.record.perturbations and _is_asked_for(each, asked)]
    return Board(asked, cells, floors, _build_averages(cells, answers), count_coverage(cells), used, curves, perturbed)


def build_measured_cells(stored: Sequence[Stored], cache: Path | None = None) -> list[Cell]:
    """The cells of some records with the intervals that the board shows, and without ranks.

    cache: see `build_board`.
    """
    answers = _Answers({str(each.path): each for each in stored}, cache)
    return [_replace_interval(cell, answers) for cell in record_cells(stored)]


def _is_asked_for(each: Stored, asked: BoardFilter) -> bool:
    return any(asked.is_shown(cell) for cell in record_cells([each]))


def count_coverage(cells: Iterable[Cell]) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Of each row, how many tasks it has, of how many on the board."""
    tasks: dict[tuple[str, str, str], set[str]] = {}
    for cell in cells:
        tasks.setdefault(cell.row, set()).add(cell.task)
    every = set().union(*tasks.values()) if tasks else set()
    return {row: (len(found), len(every)) for row, found in tasks.items()}


@dataclass
class _Answers:
    """What cells were made of, each read and cut once."""

    stored: dict[str, Stored]
    cache: Path | None

    def __post_init__(self) -> None:
        self._read: dict[tuple[str, str], Predicted | None] = {}
        self._cut: dict[tuple[str, str], tuple[float, NDArray[Any]]] = {}

    def of(self, cell: Cell) -> Predicted | None:
        """The predictions behind a measured cell; None where there are none."""
        key = (cell.origin.source, cell.metric)
        if key not in self._read:
            self._read[key] = read_predictions(self.stored[cell.origin.source], cell.metric)
        return self._read[key]

    def jackknife(self, cell: Cell) -> tuple[float, NDArray[Any]]:
        """Score, and the scores `(blocks,)` with one block of clips left out, both the mean over seeds."""
        key = (cell.origin.source, cell.metric)
        if key not in self._cut:
            self._cut[key] = self._load_or_compute(cell)
        return self._cut[key]

    def _load_or_compute(self, cell: Cell) -> tuple[float, NDArray[Any]]:
        import numpy as np

        from marble_bench.files.atomic import write_whole

        answers = self.of(cell)
        assert answers is not None
        digests = self.stored[cell.origin.source].record.digests
        digest = digests.predictions if digests else ""
        cached = self.cache / f"{digest}-{cell.metric}-{statistics.BLOCKS}.f64" if self.cache and digest else None
        if cached is not None and (values := _read_cached(cached)) is not None:
            return float(values[0]), values[1:]
        metric, outputs, truth = answers.metric, answers.outputs, answers.truth
        ones = np.ones((1, len(answers.groups)), dtype=np.float32)
        score = statistics.rescore(metric, outputs, truth, ones).mean()
        cut = statistics.rescore(metric, outputs, truth, statistics.jackknife(answers.groups)).mean(axis=1)
        if cached is not None:
            content = np.concatenate([[score], cut]).astype("<f8").tobytes()
            with suppress(OSError):  # a cache that cannot be written only costs the same time again
                cached.parent.mkdir(parents=True, exist_ok=True)
                write_whole(cached, hashlib.sha256(content).digest() + content)
        return float(score), cut


def _read_cached(path: Path) -> NDArray[Any] | None:
    """What was kept in the statistics cache; None if nothing was, or if it is not what was written."""
    import numpy as np

    try:
        content = path.read_bytes()
    except OSError:
        return None
    values = content[32:]
    return np.frombuffer(values, "<f8") if hashlib.sha256(values).digest() == content[:32] else None


def _replace_interval(cell: Cell, answers: _Answers) -> Cell:
    """A measured cell with an interval that its predictions bear out; where the record's is not of their width, theirs.

    Other versions made intervals in other ways, within `PLAUSIBLE` of the jackknife's. A score that cannot be made again
    from predictions keeps what the record says.
    """
    found = answers.of(cell)
    if found is None or _is_plausible(cell, answers):
        return cell
    low, high = statistics.bootstrap_interval(found.metric, found.outputs, found.truth, found.groups)
    computed = (convert_number(low), convert_number(high))
    recorded = cell.uncertainty.interval or (None, None)
    if all(one is other or _is_equal(one, other) for one, other in zip(recorded, computed, strict=True)):
        return cell
    words = "interval computed again from the predictions, because the record's does not follow from them"
    return replace(
        cell, uncertainty=replace(cell.uncertainty, interval=computed, basis=f"{cell.uncertainty.basis}; {words}")
    )


def _is_equal(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-4)


def _is_plausible(cell: Cell, answers: _Answers) -> bool:
    """Whether an interval holds its score and is about as wide as the jackknife's."""
    low, high = cell.uncertainty.interval or (None, None)
    if low is None or high is None or not low <= cell.value <= high or not _smooth(cell, answers):
        return False
    score, cut = answers.jackknife(cell)
    below, above = statistics.compute_t_interval(score, cut)
    least, most = (times * (above - below) for times in PLAUSIBLE)
    return least <= high - low <= most


def _rank(cells: list[Cell], answers: _Answers) -> list[Cell]:
    """Cells with rank and letters, column by column."""
    columns: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        columns.setdefault(cell.column, []).append(cell)
    done: dict[int, Cell] = {}
    for column in columns.values():
        able = [cell for cell in _select_same_clips(column, answers) if _smooth(cell, answers)]
        apart = {
            (one, other): _compute_p(answers.jackknife(able[one]), answers.jackknife(able[other]))
            for one, other in combinations(range(len(able)), 2)
        }
        for cell, (rank, ties) in zip(able, rank_cells(able, apart), strict=True):
            done[id(cell)] = replace(cell, position=Position(rank, ties))
    return [done.get(id(cell), cell) for cell in cells]


def _smooth(cell: Cell, answers: _Answers) -> bool:
    found = answers.of(cell)
    return found is not None and found.metric.smooth


def _compute_p(a: tuple[float, NDArray[Any]], b: tuple[float, NDArray[Any]]) -> float:
    return statistics.compute_paired_p(a[0] - b[0], a[1] - b[1])


def rank_cells(cells: Sequence[Cell], p: dict[tuple[int, int], float]) -> list[tuple[int, str]]:
    """Rank and letters of each cell of one column, from the p of every pair of their indices.

    Letters go from the best score to the worst.
    """
    pairs = list(p)
    corrected = dict(zip(pairs, statistics.correct_holm([p[pair] for pair in pairs]), strict=True))
    order = sorted(range(len(cells)), key=lambda index: _get_sort_value(cells[index]), reverse=True)
    place = {index: position for position, index in enumerate(order)}
    different = [
        tuple(sorted((place[one], place[other])))
        for (one, other) in pairs
        if corrected[one, other] < ALPHA and cells[one].value != cells[other].value
    ]
    better = [(first, second) for first, second in different]
    ranks, letters = statistics.compute_ranks(len(cells), better), statistics.assign_letters(len(cells), better)
    return [(ranks[place[index]], letters[place[index]]) for index in range(len(cells))]


def _get_sort_value(cell: Cell) -> float:
    return cell.value if cell.measure.higher_is_better else -cell.value


def _select_same_clips(column: Sequence[Cell], answers: _Answers) -> list[Cell]:
    """The cells of a column that were scored on the same clips: of several such sets the largest, of equals the first."""
    sets: list[list[Cell]] = []
    for cell in column:
        found = answers.of(cell)
        if found is None:
            continue
        for each in sets:
            first = answers.of(each[0])
            if first is not None and are_alike([first, found]):
                each.append(cell)
                break
        else:
            sets.append([cell])
    return max(sets, key=len, default=[])


def compare_with_published(cells: Sequence[Cell]) -> list[Cell]:
    """Measured cells beside what papers print of the same model, protocol, task and metric."""
    printed: dict[tuple[str, ...], list[Cell]] = {}
    for cell in read_published_cells():
        printed.setdefault((cell.model, cell.protocol, *cell.column), []).append(cell)
    return [
        cell
        if cell.mini
        else replace(
            cell,
            position=replace(
                cell.position,
                against=tuple(
                    compute_published_difference(cell, each)
                    for each in printed.get((cell.model, cell.protocol, *cell.column), ())
                ),
            ),
        )
        for cell in cells
    ]


def compute_published_difference(cell: Cell, printed: Cell) -> PublishedDifference:
    """How far a measured cell is from a published one of the same task and metric, and the verdict."""
    return PublishedDifference(
        printed.mark, printed.value, cell.value - printed.value, _judge_against_published(cell, printed.value)
    )


def compare_with_reference(stored: Sequence[Stored]) -> list[dict[str, Any]]:
    """How each score of some records compares with what papers print of the same model, protocol, task and metric."""
    return [
        {"model": cell.model, "task": cell.task, "metric": cell.metric,
         "measured": cell.value, "interval": cell.uncertainty.interval,
         "source": each.mark, "published": each.value, "difference": each.difference, "verdict": each.verdict}
        for cell in compare_with_published(record_cells(stored))
        for each in cell.position.against
    ]  # fmt: skip


def _judge_against_published(cell: Cell, published: float) -> str:
    low, high = cell.uncertainty.interval or (None, None)
    if low is None or high is None:
        return "no interval"
    return "inside" if low <= published <= high else ("above" if cell.value > published else "below")


def _build_floors(cells: Sequence[Cell], answers: _Answers) -> list[Cell]:
    """Two rows: the constant answer (`trivial`), and answers made by chance (`random`), of each measured column."""
    floors: dict[tuple[str, str, str], Cell] = {}
    for cell in cells:
        if cell.mark != "measured":
            continue
        if (trivial := cell.measure.trivial) is not None:
            ranks = (task := find_task(cell.task)) is not None and task.ranks
            basis = "a random order, exactly" if ranks else "the best constant answer made of training labels"
            floors.setdefault(("trivial", *cell.column), _build_floor(cell, "trivial", trivial, basis))
        if ("random", *cell.column) in floors:
            continue
        if (value := _score_by_chance(answers.of(cell))) is not None:
            basis = f"answers by chance, mean of {SHUFFLES} draws"
            floors[("random", *cell.column)] = _build_floor(cell, "random", value, basis)
    return sorted(floors.values(), key=lambda cell: cell.model, reverse=True)


def _build_floor(cell: Cell, model: str, value: float, basis: str) -> Cell:
    """A cell of a row of floors, in the column of a measured one."""
    return replace(
        cell,
        model=model,
        mark="floor",
        value=value,
        measure=replace(cell.measure, trivial=None),
        weights="",
        uncertainty=Uncertainty(basis=basis),
        origin=Provenance(),
        position=Position(),
    )


def _score_by_chance(found: Predicted | None) -> float | None:
    """The mean score of `SHUFFLES` random answers to the clips of some predictions. None for other kinds of answer.

    Classes and tags get outputs drawn alike for all clips; scalars get the truth of another clip.
    """
    import numpy as np
    import torch

    if found is None or found.metric.kind not in ("classes", "tags", "scalars"):
        return None
    random = np.random.default_rng(0)
    if found.metric.kind == "scalars":
        guesses = torch.stack([found.truth[random.permutation(len(found.truth))] for _ in range(SHUFFLES)])
    else:
        guesses = torch.from_numpy(random.normal(size=(SHUFFLES, *found.outputs.shape[1:])))
    return float((found.metric.on_resample or found.metric.compute)(guesses, found.truth).mean())


def convert_to_points(cell: Cell) -> float:
    """A score as MARBLE's mean takes it: percent, or decibels as they are."""
    return cell.value * cell.measure.scale


def compute_averages(cells: Sequence[Cell]) -> dict[tuple[str, str, str], float]:
    """MARBLE's overall mean, in points, of every row that covers all tasks of the cells (see the module)."""
    by_row: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for cell in cells:
        if cell.measure.averaged:
            by_row.setdefault(cell.row, {}).setdefault(cell.task, []).append(convert_to_points(cell))
    tasks = {cell.task for cell in cells}
    wanted = {task: max(len(row.get(task, ())) for row in by_row.values()) for task in tasks} if by_row else {}
    return {
        row: sum(sum(values) / len(values) for values in found.values()) / len(tasks)
        for row, found in by_row.items()
        if all(len(found.get(task, ())) == wanted[task] > 0 for task in tasks)
    }


def _build_averages(cells: Sequence[Cell], answers: _Answers) -> list[Cell]:
    """The overall mean of each row as a cell, with interval, rank and letters for measured rows."""

    found = compute_averages(cells)
    tasks = len({cell.task for cell in cells})
    if tasks < 2:
        return []
    of_row: dict[tuple[str, str, str], list[Cell]] = {row: [] for row in found}
    for cell in cells:
        if cell.row in of_row and cell.measure.averaged:
            of_row[cell.row].append(cell)
    means = [_build_mean(value, of_row[row], tasks) for row, value in found.items()]
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


def _build_mean(value: float, parts: Sequence[Cell], tasks: int) -> Cell:
    """The cell of an overall mean. value: in points. parts: the cells that it is the mean of."""
    first = parts[0]
    half = _combine_widths(parts, _compute_half_width) / tasks if first.mark == "measured" else math.nan
    known = math.isfinite(half)
    return replace(
        first,
        task=AVERAGE,
        metric=AVERAGE,
        value=value / 100,
        measure=MetricReading("fraction", first.measure.higher_is_better),
        uncertainty=Uncertainty(
            ((value - half) / 100, (value + half) / 100) if known else None,
            f"mean of {tasks} tasks" + ("; normal, from the tasks' intervals" if known else ""),
        ),
        origin=replace(
            first.origin,
            source="",
            borrowed=any(cell.origin.borrowed for cell in parts),
            comparable=all(cell.origin.comparable for cell in parts),
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


def _compute_p_of_means(a: Sequence[Cell], b: Sequence[Cell], answers: _Answers) -> float | None:
    """Two-sided p of two overall means being equal; None if they were not scored on the same clips of each task."""
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
