"""Puts cells in order: ranks, floors, the means of task sets, and how far from what papers print.

One board is of one protocol. Papers whose rules the suite does not run are boards of their own beside it (`Board.apart`):
they are ranked with nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marble_bench.board.answers import Answers, replace_interval
from marble_bench.board.means import build_means
from marble_bench.board.published import list_protocols_apart, read_published_cells
from marble_bench.board.ranks import rank_columns
from marble_bench.board.rows import (
    Cell,
    Position,
    Provenance,
    PublishedDifference,
    Uncertainty,
    find_task,
    record_cells,
    tell_apart,
)
from marble_bench.core import plugins
from marble_bench.core.task_set import TaskSet
from marble_bench.records.record_file import Predicted, Stored

SHUFFLES = 200
Row = tuple[str, str, str]


@dataclass(frozen=True)
class BoardFilter:
    """Which part of all is shown: one protocol; miniatures or not; some tasks and models, all if empty; one task set.

    task_set: only its tasks, with the metrics that count in it.
    """

    protocol: str
    mini: bool = False
    tasks: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    task_set: TaskSet | None = None

    def is_shown(self, cell: Cell) -> bool:
        """Whether a cell is part of it."""
        right = cell.protocol == self.protocol and cell.mini == self.mini
        right = right and (self.task_set is None or cell.metric in self.task_set.members.get(cell.task, ()))
        return right and (not self.tasks or cell.task in self.tasks) and (not self.models or cell.model in self.models)


@dataclass(frozen=True)
class Board:
    """A leaderboard: cells with ranks and verdicts, floors, means of task sets, the records behind it.

    task_set: the set whose mean stands on it; the one that was asked for, else the protocol's own; None where it has none.
    means: of each set the mean of every row that has all of it, by the set's name. coverage: row -> (tasks it has, tasks of
    the board). curves: records with a curve of few shots, shown or not. perturbed: records with scores of changed test
    clips, shown or not. apart: boards of published rows whose rules the suite does not run. others: boards of other
    protocols, where they were asked for.
    """

    asked: BoardFilter
    cells: list[Cell]
    task_set: TaskSet | None = None
    floors: list[Cell] = field(default_factory=list)
    means: dict[str, list[Cell]] = field(default_factory=dict)
    coverage: dict[Row, tuple[int, int]] = field(default_factory=dict)
    stored: list[Stored] = field(default_factory=list)
    curves: list[Stored] = field(default_factory=list)
    perturbed: list[Stored] = field(default_factory=list)
    apart: list[Board] = field(default_factory=list)
    others: list[Board] = field(default_factory=list)

    @property
    def averages(self) -> list[Cell]:
        """The means of the board's own set."""
        return self.means.get(self.task_set.name, []) if self.task_set else []

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Task and metric of each column: tasks by name, the main metric of each first."""
        seen = dict.fromkeys((cell.task, not cell.measure.main, cell.metric) for cell in self.cells)
        return list(dict.fromkeys((task, metric) for task, _, metric in sorted(seen, key=lambda each: each[:2])))

    def list_everything(self) -> list[Cell]:
        """All cells that are ranked or stand beside those, floors and means too."""
        return [*self.cells, *self.averages, *self.floors]

    def list_shown(self) -> list[Board]:
        """The board itself, if it has anything, and those apart."""
        return [self] * bool(self.cells) + self.apart


def build_board(stored: Sequence[Stored], asked: BoardFilter, cache: Path | None = None) -> Board:
    """The board of some records and, where they are asked for, of what papers print.

    cache: a folder that keeps the jackknife of each record's scores, which full test splits need a minute for.
    """
    stored = tell_apart(stored)
    by_path = {str(each.path): each for each in stored}
    cells = [cell for cell in record_cells(stored) if asked.is_shown(cell)]
    answers = Answers(by_path, cache)
    cells = [replace_interval(cell, answers) for cell in cells]
    cells = compare_with_published(rank_columns(cells, answers)) + _select_published(asked)
    task_set = asked.task_set or find_own_set(asked.protocol)
    cells = [_mark_averaged(cell, task_set) for cell in cells]
    sets = [asked.task_set] if asked.task_set else plugins.find_task_sets().values()
    used = [by_path[path] for path in dict.fromkeys(cell.origin.source for cell in cells if cell.mark == "measured")]
    return Board(
        asked,
        cells,
        task_set,
        floors=_build_floors(cells, answers),
        means={each.name: build_means(cells, each, answers) for each in sets},
        coverage=count_coverage(cells, asked.task_set.members if asked.task_set else ()),
        stored=used,
        curves=[each for each in stored if each.record.few_shot and _is_asked_for(each, asked)],
        perturbed=[each for each in stored if each.record.perturbations and _is_asked_for(each, asked)],
        apart=_build_apart(asked),
    )


def find_own_set(protocol: str) -> TaskSet | None:
    """The set whose mean the board of a protocol shows if no other is asked for; None for none."""
    return next((each for each in plugins.find_task_sets().values() if each.protocol == protocol), None)


def _select_published(asked: BoardFilter) -> list[Cell]:
    return [] if asked.mini else [cell for cell in read_published_cells() if asked.is_shown(cell)]


def _mark_averaged(cell: Cell, task_set: TaskSet | None) -> Cell:
    """A cell that says whether it is part of the mean of a set."""
    if task_set is None or task_set.averaging == "none" or cell.metric not in task_set.members.get(cell.task, ()):
        return cell
    return replace(cell, measure=replace(cell.measure, averaged=True))


def _build_apart(asked: BoardFilter) -> list[Board]:
    """Published rows of the protocols that the suite does not run, a board for each that has some."""
    found = []
    for protocol in list_protocols_apart():
        other = replace(asked, protocol=protocol)
        if protocol != asked.protocol and (cells := _select_published(other)):
            found.append(Board(other, cells, coverage=count_coverage(cells)))
    return found


def build_measured_cells(stored: Sequence[Stored], cache: Path | None = None) -> list[Cell]:
    """The cells of some records with the intervals that the board shows, and without ranks.

    cache: see `build_board`.
    """
    answers = Answers({str(each.path): each for each in stored}, cache)
    return [replace_interval(cell, answers) for cell in record_cells(stored)]


def _is_asked_for(each: Stored, asked: BoardFilter) -> bool:
    return any(asked.is_shown(cell) for cell in record_cells([each]))


def count_coverage(cells: Iterable[Cell], wanted: Collection[str] = ()) -> dict[Row, tuple[int, int]]:
    """Of each row, how many tasks it has, of how many that are wanted; by default those on the board."""
    tasks: dict[Row, set[str]] = {}
    for cell in cells:
        tasks.setdefault(cell.row, set()).add(cell.task)
    every = wanted or set().union(*tasks.values())
    return {row: (len(found), len(every)) for row, found in tasks.items()}


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


def _build_floors(cells: Sequence[Cell], answers: Answers) -> list[Cell]:
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
