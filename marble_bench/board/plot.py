"""Figures of a board through matplotlib, for papers: PNG, SVG or PDF by the file's name. Needs the extra `plot`.

`atlas`: each model's layers against tasks. `cost`: the overall mean, or a task's score, against a cost. `intervals`: one
task's scores with their 95 % intervals and tie letters, floors as lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.board.board import Board
from marble_bench.board.means import AVERAGE, convert_to_points
from marble_bench.board.rows import Cell
from marble_bench.board.table import COSTS, UNITS, compute_cost, format_score
from marble_bench.errors import BenchError, DataError, UsageError, listing, suggest_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".pdf")
LEADER = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.5, "shrinkB": 3, "relpos": (0, 0.5)}  # name to point
MOST_LAYERS = 300  # that an atlas shows: a figure of 2 m
DOTS = 3  # that a cell of the atlas holds beside its score
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text
    "text.parse_math": False,  # a dollar in a name is a dollar
    "svg.hashsalt": "marble-bench",  # the same figure, the same file
}


def write(path: Path, board: Board, kind: str, model: str = "", task: str = "", cost: str = "real_time_factor") -> None:
    """Draw one figure of a board and write it. Raises UsageError where the board has nothing of that kind to show."""
    if path.suffix not in SUFFIXES:
        raise UsageError(f"{path} should end with one of {', '.join(SUFFIXES)}")
    if not any(cell.mark == "measured" for cell in board.cells):
        raise UsageError("nothing to draw: the board has no records (bench run makes them)")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError("figures need matplotlib, which is not installed: pip install 'marble-bench[plot]'") from None

    with mpl.rc_context(STYLE):
        if kind == "atlas":
            figure = _plot_atlas(board, model, Figure)
        elif kind == "cost":
            figure = _plot_cost(board, task, cost, Figure)
        else:
            figure = _plot_intervals(board, task, Figure)
        if board.asked.mini:
            figure.axes[0].annotate(
                "made on miniatures",
                (1, 0),
                (0, -86 if kind == "atlas" else -46),  # below the names of tasks, which are slanted
                "axes fraction",
                "offset points",
                ha="right",
                fontsize=7,
                color="0.4",
            )
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            dated = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix, {})
            figure.savefig(path, dpi=200, bbox_inches="tight", metadata=dated)
        except OSError as error:
            raise BenchError(f"the figure {path} cannot be written: {error.strerror}") from error


def build_layer_table(
    board: Board, model: str
) -> tuple[str, list[str], list[str], list[list[float | None]], list[list[int]]]:
    """A model, its layers, tasks, the mean validation score `[layer][task]` and how many seeds chose it.

    model: a name, or empty for the one with most layers. Raises UsageError with the closest name.
    """
    from marble_bench.board.page import summarize_layers
    from marble_bench.records.record_file import load_table

    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for each in board.stored:
        grid = load_table(each, "grid")
        if grid is not None:
            found.setdefault(each.record.model.name, {})[each.record.task.name] = summarize_layers(grid)
    if not found:
        raise DataError("all records of the board lack their files of the grid, so no layers can be drawn")
    if model and model not in found:
        raise UsageError(f"no grid of model '{model}'{suggest_name(model, found) or '; there are ' + listing(found)}")
    chosen = model or max(found, key=lambda name: max(map(len, found[name].values())))
    tasks = found[chosen]
    names = list(dict.fromkeys(layer["layer"] for rows in tasks.values() for layer in rows))
    place = {(task, layer["layer"]): layer for task, rows in tasks.items() for layer in rows}
    valid = [[place.get((task, name), {}).get("valid") for task in tasks] for name in names]
    picked = [[place.get((task, name), {}).get("chosen", 0) for task in tasks] for name in names]
    return chosen, names, list(tasks), valid, picked


def _plot_atlas(board: Board, model: str, make: type[Figure]) -> Figure:
    import numpy as np

    name, layers, tasks, valid, picked = build_layer_table(board, model)
    if len(layers) > MOST_LAYERS:
        raise UsageError(f"an atlas of '{name}' would have {len(layers):,} rows, and at most {MOST_LAYERS} can be read")
    scores = np.array(valid, dtype=float)
    low, high = np.nanmin(scores, axis=0), np.nanmax(scores, axis=0)
    share = (scores - low) / np.where(high > low, high - low, 1)
    figure = make(figsize=(1.6 + 0.85 * len(tasks), 1.0 + 0.28 * len(layers)))
    axes = figure.add_subplot()
    axes.imshow(share, cmap="BuGn", vmin=0, vmax=1.8, aspect="auto")
    for row in range(len(layers)):
        for column in range(len(tasks)):
            if np.isfinite(scores[row, column]):
                best = scores[row, column] == high[column]
                count = picked[row][column]  # a separator has a probe for each stem too: more dots than a cell holds
                dots = " •" * count if count <= DOTS else f" • {count}"
                text = format_score(scores[row, column], _find_unit(board, tasks[column])) + dots
                axes.text(column, row, text, ha="center", va="center", fontsize=7, weight="bold" if best else "normal")
    axes.set_xticks(range(len(tasks)), tasks, rotation=35, ha="right")
    axes.set_yticks(range(len(layers)), layers)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(
        f"{name}: best validation score of each layer (a dot for each seed that chose it)", fontsize=9, loc="left"
    )
    return figure


def _find_unit(board: Board, task: str) -> str:
    return next(cell.measure.unit for cell in board.cells if cell.task == task and cell.measure.main)


def _select_column(board: Board, task: str) -> list[Cell]:
    """The measured cells of a task's main score, or of the overall mean for an empty name; best first."""
    cells = [cell for cell in board.cells if cell.task == task and cell.measure.main] if task else board.averages
    cells = [cell for cell in cells if cell.mark == "measured"]
    if not cells and task:
        tasks = {cell.task for cell in board.cells if cell.mark == "measured"}
        raise UsageError(
            f"no record on task '{task}'{suggest_name(task, tasks) or '; there are ' + listing(sorted(tasks))}"
        )
    if not cells:
        raise UsageError("no model has every task of a set whose mean this board shows: choose --score TASK")
    return sorted(cells, key=lambda cell: cell.value, reverse=cells[0].measure.higher_is_better)


def _compute_bars(cell: Cell) -> tuple[float, float] | None:
    """How far the interval reaches below and above a score, in points."""
    low, high = cell.uncertainty.interval or (None, None)
    scale = cell.measure.scale
    return None if low is None or high is None else ((cell.value - low) * scale, (high - cell.value) * scale)


def _format_heading(task: str, cell: Cell) -> str:
    what = f"mean of {cell.metric}" if cell.task == AVERAGE else f"{task}, {cell.metric}"
    return f"{what} ({UNITS[cell.measure.unit] or cell.measure.unit})"


def _plot_cost(board: Board, task: str, cost: str, make: type[Figure]) -> Figure:
    if cost not in COSTS:
        raise UsageError(f"no cost '{cost}'{suggest_name(cost, COSTS) or '; there are ' + listing(COSTS)}")
    cells, costs = _select_column(board, task), compute_cost(board)
    drawn = [(cell, value) for cell in cells if (value := costs.get(cell.row, {}).get(cost)) is not None]
    if not drawn:
        raise UsageError(f"no record of the board has a cost '{cost}'")
    figure = make(figsize=(5.2, 3.4))
    axes = figure.add_subplot()
    for cell, value in drawn:
        _plot_point(axes, value, cell)
    axes.margins(x=0.18)
    _scale(axes, [value for _, value in drawn])
    axes.set_xlabel({"real_time_factor": "seconds of audio encoded per second"}.get(cost, COSTS[cost]))
    axes.set_ylabel(_format_heading(task, cells[0]))
    axes.grid(alpha=0.25)
    _name(axes, drawn)
    return figure


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of costs. Zero is a decade left of the least that is more, with no ticks between."""
    from math import ceil, floor, log10

    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

    positive = [value for value in values if value > 0]
    if len(positive) == len(values):
        axes.set_xscale("log")
        wide = max(positive) >= 100 * min(positive)  # then there is no room for 2 and 5
        axes.xaxis.set_major_locator(LogLocator(subs=(1,) if wide else (1, 2, 5)))
    else:
        least, most = (floor(log10(min(positive))), ceil(log10(max(positive)))) if positive else (0, 1)
        axes.set_xscale("symlog", linthresh=10.0**least)
        axes.set_xlim(-0.3 * 10.0**least, 10.0 ** (most + 0.3))
        axes.xaxis.set_major_locator(FixedLocator([0, *(10.0**power for power in range(least, most + 1))]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


def _plain(value: float) -> str:
    return f"{value / 1e6:,.10g} M" if abs(value) >= 1e6 else f"{value:,.10g}"


def _name(axes: Axes, drawn: Sequence[tuple[Cell, float]]) -> None:
    """Each point's name right of it; where another's is there, further down with a line to its point."""
    size, line = 8, 10  # points of print
    at = axes.transData.transform([(value, convert_to_points(cell)) for cell, value in drawn]) * (72 / axes.figure.dpi)
    ends = [x + 8 + 0.6 * size * len(cell.model) for (x, _), (cell, _) in zip(at, drawn, strict=True)]
    height: dict[int, float] = {}

    def met(index: int, y: float) -> list[float]:
        """The heights of names that one at y would write over."""
        return [
            h
            for i, h in height.items()
            if at[i][0] < ends[index] and at[index][0] < ends[i] and abs(h - y) < line - 1e-6
        ]

    order = sorted(range(len(drawn)), key=lambda index: -at[index][1])
    for index in order:  # who can stay beside its point does
        if not met(index, at[index][1]):
            height[index] = at[index][1]
    for index in [index for index in order if index not in height]:
        y = at[index][1]
        while over := met(index, y):
            y = min(over) - line
        height[index] = y
    for index, (cell, value) in enumerate(drawn):
        below = height[index] - at[index][1]
        axes.annotate(
            cell.model, (value, convert_to_points(cell)), (7, below), textcoords="offset points", fontsize=size, va="center",
            arrowprops=LEADER if below else None,
        )  # fmt: skip


def _plot_point(axes: Axes, x: float, cell: Cell) -> None:
    bars = _compute_bars(cell)
    error = [[bars[0]], [bars[1]]] if bars else None
    axes.errorbar(
        [x], [convert_to_points(cell)], yerr=error, fmt="o", color="#22577a", ecolor="#8fb0c4", capsize=0, markersize=5
    )


def _plot_intervals(board: Board, task: str, make: type[Figure]) -> Figure:
    cells = _select_column(board, task)
    figure = make(figsize=(5.2, 0.9 + 0.3 * len(cells)))
    axes = figure.add_subplot()
    for place, cell in enumerate(cells):
        bars = _compute_bars(cell)
        error = [[bars[0]], [bars[1]]] if bars else None
        axes.errorbar(
            [convert_to_points(cell)], [place], xerr=error, fmt="o", color="#22577a", ecolor="#8fb0c4", markersize=5
        )
        axes.annotate(
            cell.position.ties, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=8, color="0.35"
        )
    for floor, dash in (("trivial", "--"), ("random", ":")):
        for cell in board.floors:
            if cell.model == floor and cell.column == cells[0].column:
                axes.axvline(convert_to_points(cell), color="0.5", linestyle=dash, linewidth=1, label=floor)
    axes.set_yticks(range(len(cells)), [cell.model for cell in cells])
    axes.invert_yaxis()
    axes.set_xlabel(_format_heading(task, cells[0]))
    axes.grid(axis="x", alpha=0.25)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure
