"""A board frozen in one file: rows, rules, versions and the tables as they were, which later versions show as they were.

An archive is data: nothing in it is run, opened or looked up. It is read as strictly as a record (every field, its type and
length), within `LARGEST` bytes, and compared with its own digest, so that a change by accident is told. Whoever changes
it on purpose can compute the digest again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from marble_bench._version import version
from marble_bench.board.board import Board
from marble_bench.board.table import Line, Matrix, build_matrix, list_facts, list_notes, name_board
from marble_bench.core import plugins
from marble_bench.core.task_set import TaskSet
from marble_bench.errors import BenchError, DataError, UsageError, suggest_name
from marble_bench.files.atomic import write_whole
from marble_bench.files.names import RULE, is_name, name_folder
from marble_bench.records.record import Digest, Interval, Name, Number, Part, Positive, Text
from marble_bench.records.schema import describe_fault

SCHEMA: Final = "marble-bench.board/1"
LARGEST = 64 * 2**20  # bytes of an archive; a board of every published score has 0.6 MB
FOLDER = Path("boards")  # where an archive lies that is named without a path

Mark = Annotated[str, Meta(max_length=40, pattern="^[a-z]+$")]
Texts = tuple[Text, ...]


class FrozenRules(Part, frozen=True, kw_only=True):
    """The protocol of a board. version, hash: None where the suite does not have it as a plug-in."""

    name: Name
    version: Positive | None
    hash: Digest | None


class FrozenSet(Part, frozen=True, kw_only=True):
    """The task set of a board, as `TaskSet` declares it."""

    name: Name
    version: Positive
    title: Text
    members: dict[Name, tuple[Name, ...]]
    averaging: Literal["tasks", "none"]
    source: Text


class FrozenDifference(Part, frozen=True, kw_only=True):
    """A measured score beside a printed one of the same model."""

    mark: Mark
    value: Number
    difference: Number
    verdict: Text


class FrozenCell(Part, frozen=True, kw_only=True):
    """One score, with the facts of `marble_bench.board.table.FACTS`."""

    model: Name
    mark: Mark
    protocol: Name
    task: Name
    metric: Name
    value: Number
    unit: Text
    source: Text
    weights: Text
    borrowed: bool
    interval: Interval | None
    basis: Text
    spread: Number | None
    trivial: Number | None
    higher_is_better: bool
    rank: Positive | None
    ties: Text
    comparable: bool
    why_not: Texts
    mini: bool
    main: bool
    averaged: bool
    contaminated: Text
    impossible: Text
    apart: Text
    against: tuple[FrozenDifference, ...]


class FrozenLine(Part, frozen=True, kw_only=True):
    """A row of a table. texts: one for each heading."""

    kind: Literal["measured", "published", "floor"]
    model: Text
    source: Text
    texts: Texts


class FrozenTable(Part, frozen=True, kw_only=True):
    """A table as it was: its title, a heading of two lines for each column, rows, and notes below."""

    title: Text
    heads: tuple[tuple[Text, Text], ...]
    lines: tuple[FrozenLine, ...]
    notes: Texts

    @property
    def matrix(self) -> Matrix:
        """The same as a board's own table."""
        return Matrix(self.heads, tuple(Line(line.kind, line.model, line.source, line.texts) for line in self.lines))


class FrozenBoard(Part, frozen=True, kw_only=True):
    """A board as it was. made: the day, UTC. tasks: the versions of those that the suite had. digest: of all else."""

    schema: Literal["marble-bench.board/1"]
    name: Name
    made: Annotated[str, Meta(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$", max_length=10)]
    suite: Text
    protocol: FrozenRules
    task_set: FrozenSet | None
    tasks: dict[Name, Positive]
    mini: bool
    tables: tuple[FrozenTable, ...]
    cells: tuple[FrozenCell, ...]
    digest: Digest


def freeze_board(board: Board, name: str) -> FrozenBoard:
    """The archive of a board. Raises UsageError for a name that no archive may have."""
    if not is_name(name):
        raise UsageError(f"--freeze {name!r}: give {RULE}")
    tasks = {cell.task for each in board.list_shown() for cell in each.cells} & {*plugins.list_task_names()}
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "name": name,
        "made": time.strftime("%Y-%m-%d", time.gmtime()),
        "suite": version(),
        "protocol": _freeze_rules(board.asked.protocol),
        "task_set": _freeze_set(board.task_set),
        "tasks": {task: plugins.find_registered_task(task).task.version for task in sorted(tasks)},
        "mini": board.asked.mini,
        "tables": [_freeze_table(each) for each in board.list_shown()],
        "cells": [_freeze_cell(each) for each in list_facts(board)],
        "digest": f"sha256:{'0' * 64}",
    }
    found = msgspec.convert(json.loads(json.dumps(facts)), FrozenBoard)
    return msgspec.structs.replace(found, digest=_compute_digest(found))


def _freeze_rules(name: str) -> dict[str, Any]:
    known = plugins.find_protocols().get(name)
    return {"name": name, "version": known.version if known else None, "hash": known.hash if known else None}


def _freeze_set(task_set: TaskSet | None) -> dict[str, Any] | None:
    if task_set is None:
        return None
    names = FrozenSet.__struct_fields__
    return {name: dict(value) if name == "members" else value for name in names for value in [getattr(task_set, name)]}


def _freeze_table(board: Board) -> dict[str, Any]:
    whole = build_matrix(board)
    lines = [
        {"kind": each.kind, "model": each.model, "source": each.source, "texts": each.texts} for each in whole.lines
    ]
    return {"title": name_board(board), "heads": whole.heads, "lines": lines, "notes": list_notes(board)}


def _freeze_cell(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a cell, the place of a record without the folder that results were kept in."""
    kept = "/".join(Path(facts["source"]).parts[-4:]) if facts["mark"] == "measured" else facts["source"]
    return {**facts, "source": kept}


def _compute_digest(board: FrozenBoard) -> str:
    facts = msgspec.to_builtins(board)
    facts.pop("digest")
    text = json.dumps(facts, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode('ascii')).hexdigest()}"


def find_archive(word: str) -> Path:
    """The file of an archive: a path as it is, a name in `FOLDER`."""
    return Path(word).expanduser() if _is_path(word) else FOLDER / f"{name_folder(word)}.json"


def _is_path(word: str) -> bool:
    return "/" in word or word.endswith(".json")


def write_archive(board: Board, word: str) -> Path:
    """Freeze a board under a name, or in a file. Raises UsageError if the file is there, for archives do not change."""
    path = find_archive(word)
    frozen = freeze_board(board, path.stem if _is_path(word) else word)
    if path.exists():
        raise UsageError(f"{path} is there already, and a frozen board does not change: give another name")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(msgspec.to_builtins(frozen), indent=1, allow_nan=False).encode("ascii"))
    except OSError as error:
        raise BenchError(f"the frozen board {path} cannot be written: {error.strerror}") from error
    return path


def read_archive(word: str) -> FrozenBoard:
    """The board of an archive. Raises UsageError if it is not there, DataError if it is damaged or no frozen board."""
    path = find_archive(word)
    if not path.is_file():
        names = [each.stem for each in sorted(FOLDER.glob("*.json"))]
        way = suggest_name(word, names) or ": bench leaderboard --freeze NAME makes one"
        raise UsageError(f"no frozen board {path}{way}")
    if path.stat().st_size > LARGEST:
        raise DataError(f"{path} has {path.stat().st_size:,} bytes, and no frozen board has more than {LARGEST:,}")
    try:
        found = msgspec.json.decode(path.read_bytes(), type=FrozenBoard)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise DataError(f"{path} is no frozen board that this version reads: {describe_fault(error)}") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    _check(found, path)
    return found


def _check(board: FrozenBoard, path: Path) -> None:
    """Raise DataError for a table whose rows do not fit its headings, and for a file that was changed."""
    for table in board.tables:
        for line in table.lines:
            if len(line.texts) != len(table.heads):
                raise DataError(f"{path}: row '{line.model}' has {len(line.texts)} of {len(table.heads)} columns")
    if _compute_digest(board) != board.digest:
        raise DataError(f"{path} was changed after it was written: its digest does not match. Get the file again")


def list_frozen_facts(board: FrozenBoard) -> list[dict[str, Any]]:
    """The facts of every cell, as `marble_bench.board.table.list_facts` gives those of a board."""
    found: Sequence[dict[str, Any]] = msgspec.to_builtins(board.cells)
    return list(found)


def describe_archive(board: FrozenBoard) -> str:
    """What a frozen board is, in a line."""
    return f"Frozen board '{board.name}' of {board.made}, made by marble-bench {board.suite} and shown as it was"
