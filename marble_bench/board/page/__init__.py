"""The board as one page: HTML, style, script and data in a single file that asks no network for anything.

`collect_data` is everything that the page shows, made of records and published rows; `page.html` is a skeleton, `page.js`
builds the views from the data. Scores come with the text that is shown, so that page and terminal round alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench._version import version
from marble_bench.board.board import Board, build_board
from marble_bench.board.means import convert_to_points
from marble_bench.board.published import (
    list_printed_metrics,
    list_protocols_apart,
    list_published_protocols,
    read_published_sources,
)
from marble_bench.board.rows import Cell, find_task
from marble_bench.board.table import COSTS, SHORT, UNITS, compute_cost, explain_no_mean, format_score, order
from marble_bench.core import plugins
from marble_bench.errors import BenchError
from marble_bench.files.atomic import write_whole
from marble_bench.records.escape import escape_json_in_html
from marble_bench.records.record import Record, to_json
from marble_bench.records.record_file import Stored, load_table

if TYPE_CHECKING:
    import pandas as pd

PARTS = ("page.css", "core.js", "board.js", "charts.js", "detail.js", "page.js")


def write_page(path: Path, board: Board) -> None:
    """Write the board to `path`. Raises BenchError if that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, write_html(collect_data(board)).encode())
    except OSError as error:
        raise BenchError(f"the page {path} cannot be written: {error.strerror}") from error


def write_html(facts: dict[str, Any]) -> str:
    """The whole file: the skeleton with style, script and data put in."""
    folder = files("marble_bench.board.page")
    page = (folder / "page.html").read_text(encoding="utf-8")
    for name in PARTS:
        page = page.replace(f"/* {name} */", (folder / name).read_text(encoding="utf-8"))
    return page.replace("/* data */", escape_json_in_html(facts))


def collect_data(board: Board) -> dict[str, Any]:
    """All that the page shows, ready for JSON."""
    # what papers print is of the full corpora: a board of miniatures has it in a table of its own, ranked with nothing
    papers = build_board([], replace(board.asked, mini=False)) if board.asked.mini else None
    beside = _list_beside(board)
    used = {cell.mark for each in (board, papers, *beside) if each for cell in each.cells}
    return {
        "protocol": board.asked.protocol,
        "mini": board.asked.mini,
        "version": version(),
        "tasks": _list_tasks(board),
        "rows": _list_rows(board),
        "own": board.task_set.name if board.averages and board.task_set else None,
        "asked": board.asked.task_set.name if board.asked.task_set else None,
        "sets": _list_sets(board),
        "papers": {"tasks": _list_tasks(papers), "rows": _list_rows(papers)} if papers and papers.cells else None,
        "beside": [_describe_beside(each) for each in beside],
        "sources": {each.mark: each.citation for each in read_published_sources().values() if each.mark in used},
        "costs": COSTS,
        "records": [_record(each, board.perturbed) for each in board.stored],
        "curves": _list_curves(board),
    }


def _list_beside(board: Board) -> list[Board]:
    """The boards of other protocols that stand below one: those of its request, of miniatures what papers print; then those
    whose rules the suite does not run."""
    full = replace(board.asked, mini=False)
    if not board.asked.mini:
        return [*board.others, *board.apart]
    kept = [name for name in list_published_protocols() if name not in list_protocols_apart()]
    others = [build_board([], replace(full, protocol=name)) for name in kept if name != full.protocol]
    return [*(each for each in others if each.cells), *build_board([], full).apart]


def _describe_beside(board: Board) -> dict[str, Any]:
    """A table below the board, whose records are not on the page. apart: what is different if the suite does not run it."""
    own = board.task_set.name if board.averages and board.task_set else None
    apart = list_protocols_apart().get(board.asked.protocol, "")
    rows = _list_rows(board)
    for row in rows:
        for cell in row["cells"].values():
            cell.pop("record", None)
    return {"protocol": board.asked.protocol, "apart": apart, "own": own, "tasks": _list_tasks(board), "rows": rows}


def _list_sets(board: Board) -> list[dict[str, Any]]:
    """The task sets that a reader can choose: those of which the board has something."""
    here, sets = set(board.columns), plugins.find_task_sets().values()
    return [
        {
            "name": each.name,
            "version": each.version,
            "title": each.title,
            "source": each.source,
            "tasks": {
                task: [name_column((task, metric)) for metric in metrics] for task, metrics in each.members.items()
            },
            "mean": bool(board.means.get(each.name)),
            "no_mean": "" if board.means.get(each.name) else explain_no_mean(each),
        }
        for each in ([board.asked.task_set] if board.asked.task_set else sets)
        if any((task, metric) in here for task, metrics in each.members.items() for metric in metrics)
    ]


def _list_rows(board: Board) -> list[dict[str, Any]]:
    """The rows of a board, best first, then the floors."""
    place: dict[tuple[str, str, str], dict[tuple[str, str], Cell]] = {}
    for cell in [*board.cells, *board.floors]:
        place.setdefault(cell.row, {})[cell.column] = cell
    means: dict[tuple[str, str, str], dict[str, Cell]] = {}
    for name, cells in board.means.items():
        for cell in cells:
            means.setdefault(cell.row, {})[name] = cell
    rows = [*order(board), *dict.fromkeys(cell.row for cell in board.floors)]
    costs = compute_cost(board)
    return [_describe_row(row, place[row], means.get(row, {}), board.coverage.get(row), costs.get(row)) for row in rows]


def name_column(column: tuple[str, str]) -> str:
    """How the page names a column."""
    return "/".join(column)


def name_row(row: tuple[str, str, str]) -> str:
    """How the page names a row."""
    return "/".join(row)


def record_id(path: Path) -> str:
    """A record's file below its results folder, wherever that lies: `<model>/<digest>/<protocol>/<task>.json`."""
    return "/".join(path.parts[-4:])


def _list_tasks(board: Board) -> list[dict[str, Any]]:
    """The tasks of the board with their columns, the main one first."""
    found: dict[str, dict[str, Any]] = {}
    first = {cell.column: cell for cell in reversed(board.cells)}
    of_papers = {(task, metric) for task, metrics in list_printed_metrics().items() for metric in metrics}
    for column in board.columns:
        cell, known = first[column], find_task(column[0])
        task = found.setdefault(
            cell.task,
            {
                "name": cell.task,
                "asks": known.title if known else "",
                "corpus": known.corpus.title if known else "",
                "columns": [],
            },
        )
        task["columns"].append(
            {
                "id": name_column(column),
                "metric": cell.metric,
                "short": SHORT.get(cell.metric, cell.metric),
                "unit": UNITS[cell.measure.unit],
                "main": _main(column, board),
                "lead": False,
                "higher": cell.measure.higher_is_better,
            }
        )
    for task in found.values():
        for column in task["columns"]:
            printed = (task["name"], column["metric"]) in of_papers
            otherwise = printed and _is_printed_otherwise(task["name"], board)
            column["lead"] = column["main"] or otherwise or bool(board.asked.task_set)
    return list(found.values())


def _main(column: tuple[str, str], board: Board) -> bool:
    return any(each.measure.main for each in board.cells if each.column == column)


def _is_printed_otherwise(task: str, board: Board) -> bool:
    """Whether papers print other scores of a task than its main one, which would leave their rows blank there."""
    printed = [cell for cell in board.cells if cell.task == task and cell.mark != "measured"]
    return bool(printed) and not any(cell.measure.main for cell in printed)


def _describe_row(
    row: tuple[str, str, str],
    cells: dict[tuple[str, str], Cell],
    means: dict[str, Cell],
    covered: tuple[int, int] | None,
    cost: dict[str, float | None] | None,
) -> dict[str, Any]:
    model, mark, weights = row
    kind = mark if mark in ("measured", "floor") else "published"
    return {
        "id": name_row(row),
        "model": model,
        "mark": mark,
        "kind": kind,
        "weights": weights,
        "covers": list(covered) if covered else None,
        "cost": cost,
        "cells": {name_column(column): _describe_cell(cell) for column, cell in cells.items()},
        "means": {name: _describe_cell(cell) for name, cell in means.items()},
    }


def _describe_cell(cell: Cell) -> dict[str, Any]:
    """A score: its value in points, the text shown, and what is known of it. What is not known is left out."""
    measure, uncertainty, origin, position = cell.measure, cell.uncertainty, cell.origin, cell.position
    unit, digits = measure.unit, 2 if measure.unit == "dB" else 1
    shown: dict[str, Any] = {
        "v": convert_to_points(cell),
        "t": format_score(cell.value, unit),
        "basis": uncertainty.basis,
    }
    if uncertainty.interval and None not in uncertainty.interval:
        bounds = [bound for bound in uncertainty.interval if bound is not None]
        shown["ci"] = [bound * measure.scale for bound in bounds]
        shown["ci_t"] = [format_score(bound, unit) for bound in bounds]
    if uncertainty.spread is not None:
        shown["sd_t"] = format_score(uncertainty.spread, unit)
    more = {
        "ties": position.ties, "rank": position.rank, "borrowed": origin.borrowed, "contaminated": origin.contaminated,
        "impossible": origin.impossible,
        "record": record_id(Path(origin.source)) if cell.mark == "measured" and origin.source else "",
        "why_not": list(origin.why_not),
    }  # fmt: skip
    shown |= {key: value for key, value in more.items() if value}
    if position.against:
        shown["against"] = [
            {
                "mark": each.mark,
                "t": format_score(each.value, unit),
                "d_t": f"{each.difference * measure.scale:+.{digits}f}",
                "verdict": each.verdict,
            }
            for each in position.against
        ]
    return shown


def _record(stored: Stored, perturbed: Sequence[Stored]) -> dict[str, Any]:
    """A record for the drill-down: itself, its grid, its layers, and what it loses under perturbations."""
    record = stored.record
    grid = load_table(stored, "grid")
    return {
        "id": record_id(stored.path),
        "row": _name_row_of_record(record),
        "task": record.task.name,
        "record": to_json(record),
        "grid": _describe_grid(grid) if grid is not None else None,
        "layers": summarize_layers(grid) if grid is not None else None,
        "perturbed": _describe_perturbed(stored, perturbed),
    }


def _describe_perturbed(stored: Stored, perturbed: Sequence[Stored]) -> dict[str, Any] | None:
    """The perturbations of a record: its own, else of the run of the same weights and clips that has most of them."""
    record = stored.record
    key = (_name_row_of_record(record), record.task.name, record.data.fingerprint)
    able = [
        each
        for each in perturbed
        if (_name_row_of_record(each.record), each.record.task.name, each.record.data.fingerprint) == key
    ]
    if not able:
        return None
    best = max(
        able,
        key=lambda each: (
            each.path == stored.path,
            len(each.record.perturbations),
            len(each.record.selection.per_seed),
        ),
    )
    units = best.record.units
    rows = [
        {"name": name, "metric": metric, "clips": found.clips, "left_out": found.left_out,
         "clean": _format_value(score.clean, units[metric]), "test": _format_value(score.test, units[metric]),
         "drop": _format_value(score.drop, units[metric]),
         "ci": [_format_value(bound, units[metric]) for bound in score.drop_ci95 or ()]}
        for name, found in best.record.perturbations.items()
        for metric, score in found.scores.items()
    ]  # fmt: skip
    return {"record": record_id(best.path), "rows": rows}


def _format_value(value: float | None, unit: str) -> str | None:
    return None if value is None else format_score(value, unit)


def _name_row_of_record(record: Record) -> str:
    return name_row((record.model.name, "measured", record.model.weights))


def _list_curves(board: Board) -> list[dict[str, Any]]:
    """The curves of few shots: of each row and task the one of the record shown, else another."""
    shown_first = sorted(board.curves, key=lambda each: each not in board.stored)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for each in shown_first:
        record, drawn = each.record, summarize_few_shot(each.record)
        key = (_name_row_of_record(record), record.task.name)
        if len(drawn) > 1 and key[0] in {name_row(row) for row in board.coverage}:
            metric = record.selection.metric
            unit = UNITS[record.scores[metric].unit]
            facts = {"row": key[0], "task": key[1], "metric": metric, "unit": unit, "record": record_id(each.path)}
            found.setdefault(key, {**facts, "points": drawn})
    return list(found.values())


def _describe_grid(grid: pd.DataFrame) -> dict[str, Any]:
    """Every probe, or layer of a ranking: the names of the axes of the grid, and a list for each of them, for the seed, the
    score and the epoch.

    Validation scores to six digits, null for a probe that diverged.
    """
    axes = [name for name in grid.columns if name not in ("seed", "valid", "own", "best_epoch", "diverged", "history")]
    columns: dict[str, Any] = {name: grid[name].tolist() for name in [*axes, "seed"]}
    return {
        "axes": axes,
        **columns,
        "valid": [_round_to_six(value) for value in grid["valid"]],
        **({"epoch": grid["best_epoch"].tolist()} if "best_epoch" in grid else {}),
        **({"own": [_round_to_six(value) for value in grid["own"]]} if "own" in grid else {}),
    }


def _round_to_six(value: float) -> float | None:
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def summarize_layers(grid: pd.DataFrame) -> list[dict[str, Any]]:
    """Each layer's best validation score: of each seed the best of its probes, then mean and spread over the seeds.

    Where stems have probes of their own, or halves of works choose, a seed's score is the mean over them. chosen: how many
    seeds (stems, halves) have their best probe of all on this layer (the first of equals, as a run chooses).
    """
    from marble_bench.scoring.statistics import compute_spread

    able = grid.dropna(subset=["valid"])
    keys = [name for name in ("seed", "stem", "half") if name in able]
    picked = [part["layer"].tolist()[int(part["valid"].to_numpy().argmax())] for _, part in able.groupby(keys)]
    summaries = []
    for layer in dict.fromkeys(grid["layer"]):
        best = able[able["layer"] == layer].groupby(keys)["valid"].max().groupby(level="seed").mean().tolist()
        summaries.append(
            {
                "layer": layer,
                "valid": _round_to_six(sum(best) / len(best)) if best else None,
                "sd": _round_to_six(found) if (found := compute_spread(best) if best else None) is not None else None,
                "chosen": picked.count(layer),
            }
        )
    return summaries


def summarize_few_shot(record: Record) -> list[dict[str, Any]]:
    """The curve of few shots, by number of training clips: the mean score over seeds, and the lowest and the highest.

    A seed without a score is left out, and so is a point that no seed has a score for.
    """
    curve = []
    for point in record.few_shot:
        known = [score for score in point.test if score is not None]
        if known:
            reaches = [min(known), max(known)] if len(known) > 1 else None
            curve.append({"n": point.clips, "v": sum(known) / len(known), "ci": reaches})
    return sorted(curve, key=lambda curve: float(curve["n"]))
