"""The board that somebody asks for: every name looked up first, and a hint where the records are on another board."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from marble_bench.board.board import Board, BoardFilter, build_board
from marble_bench.board.published import list_protocols_apart, list_published_protocols, read_published_cells
from marble_bench.board.rows import suggest_other_boards, tell_apart
from marble_bench.core import plugins
from marble_bench.core.schemes import scheme_of
from marble_bench.core.selection import find_recorded_model, find_recorded_task, select_names
from marble_bench.errors import UsageError, counted, suggest_name
from marble_bench.records.record import Record
from marble_bench.records.record_file import Stored


def build_asked_board(
    stored: Sequence[Stored], asked: BoardFilter, cache: Path, others: bool = False
) -> tuple[Board, str]:
    """The board of some records, and the option that shows the records if the board shows none of them; see `_hint`.

    cache: the cache root. others: with the boards of the other protocols that papers follow or records have.
    Raises UsageError for a protocol, task or model that is not known.
    """
    apart = tell_apart(stored)
    asked = _resolve_names(asked, [each.record for each in apart])
    board = build_board(apart, asked, cache / "statistics")
    if others:
        board = replace(board, others=_build_others(apart, asked, cache))
    return board, _hint(apart, asked)


def _build_others(stored: Sequence[Stored], asked: BoardFilter, cache: Path) -> list[Board]:
    recorded = sorted({each.record.protocol.name for each in stored})
    names = [*(name for name in list_published_protocols() if name not in list_protocols_apart()), *recorded]
    kept = [name for name in dict.fromkeys(names) if name != asked.protocol]
    found = [build_board(stored, replace(asked, protocol=name), cache / "statistics") for name in kept]
    return [each for each in found if each.cells]


def _hint(stored: Sequence[Stored], asked: BoardFilter) -> str:
    """The option that shows the records of the tasks and models asked for; empty if some are shown, or there are none."""
    of = [each for each in stored if not asked.tasks or each.record.task.name in asked.tasks]
    of = [each for each in of if not asked.models or each.record.model.name in asked.models]
    return suggest_other_boards(of, asked.protocol, asked.mini)


def _resolve_names(asked: BoardFilter, records: Sequence[Record]) -> BoardFilter:
    """What is asked for, several names in one word and globs resolved.

    Raises UsageError for a protocol, task or model that neither a record, a paper nor the suite has: a slip.
    """
    cells = read_published_cells()
    protocols = {record.protocol.name for record in records}
    if asked.protocol not in protocols:
        _refuse_several("protocol", asked.protocol, protocols)
        if asked.protocol not in list_published_protocols():
            plugins.find_registered_protocol(asked.protocol)
    tasks = {record.task.name for record in records} | {cell.task for cell in cells} | {*plugins.list_task_names()}
    models = {record.model.name for record in records} | {cell.model for cell in cells} | {*plugins.find_encoders()}
    chosen = {
        "task": list(map(find_recorded_task, select_names(asked.tasks, sorted(tasks), "task"))),
        "model": list(map(find_recorded_model, select_names(asked.models, sorted(models), "model"))),
    }
    for what, choices in (("task", tasks), ("model", models)):
        for name in chosen[what]:
            if name not in choices:
                _refuse_several(what, name, choices)
                if what == "model" and scheme_of(name):
                    raise UsageError(f"no record of model '{name}': bench run --model makes one")
                raise UsageError(f"no {what} '{name}'{suggest_name(name, sorted(choices))} (bench list {what}s)")
    return replace(asked, tasks=tuple(chosen["task"]), models=tuple(chosen["model"]))


def _refuse_several(what: str, name: str, choices: Iterable[str]) -> None:
    """Raise UsageError where a name stands for others with `@`: hashes of somebody's own protocol or task, or commits of
    a model of the hub."""
    if those := sorted(each for each in choices if each.rpartition("@")[0] == name):
        has = (
            f"has records of {counted(len(those), 'commit')}"
            if what == "model"
            else "has several hashes among the records"
        )
        raise UsageError(f"{what} '{name}' {has}: give --{what} {' or '.join(those)}")
