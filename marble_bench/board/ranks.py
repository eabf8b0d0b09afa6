"""Who cannot be told apart: ranks and letters of the measured cells of one column.

Of one column, every pair of measured systems that were scored on the same clips is tested (paired,
`marble_bench.scoring.statistics`), the p-values corrected together by Holm. `rank` is 1 + the number of systems that are
better beyond doubt (corrected p below 5 %). `ties` are letters: two systems share a letter exactly if they cannot be told
apart. Published rows have no predictions, so they can be neither ranked nor tied; nor can medians, of which a jackknife
says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

from marble_bench.board.answers import Answers, is_smooth
from marble_bench.board.rows import Cell, Position
from marble_bench.records.record_file import are_alike
from marble_bench.scoring import statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

ALPHA = 1 - statistics.LEVEL


def rank_columns(cells: list[Cell], answers: Answers) -> list[Cell]:
    """Cells with rank and letters, column by column."""
    columns: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        columns.setdefault(cell.column, []).append(cell)
    done: dict[int, Cell] = {}
    for column in columns.values():
        able = [cell for cell in _select_same_clips(column, answers) if is_smooth(cell, answers)]
        apart = {
            (one, other): _compute_p(answers.jackknife(able[one]), answers.jackknife(able[other]))
            for one, other in combinations(range(len(able)), 2)
        }
        for cell, (rank, ties) in zip(able, rank_cells(able, apart), strict=True):
            done[id(cell)] = replace(cell, position=Position(rank, ties))
    return [done.get(id(cell), cell) for cell in cells]


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


def _select_same_clips(column: Sequence[Cell], answers: Answers) -> list[Cell]:
    """The cells of a column that are ranked, on the same clips: of several such sets the largest, of equals the first."""
    sets: list[list[Cell]] = []
    for cell in column:
        found = answers.of(cell) if answers.is_ranked(cell) else None
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
