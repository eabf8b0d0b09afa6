"""`bench leaderboard`, `compare`, `plot`: what records and papers say, beside each other."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marble_bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from marble_bench.board.board import Board, BoardFilter
    from marble_bench.records.record import Record
    from marble_bench.records.record_file import Stored

app = typer.Typer()

RESULTS = Path("results")
Results = Annotated[Path, typer.Option("--results-dir", help="Where records are kept.")]
Cache = Annotated[
    Path | None, typer.Option("--cache-dir", help="Cache root; else BENCH_CACHE, else the platform's cache folder.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Only these tasks; repeatable.")]
Models = Annotated[list[str] | None, typer.Option("--model", help="Only these models; repeatable.")]
RuleName = Annotated[str, typer.Option("--protocol", help="The protocol whose ranking is shown.")]
Mini = Annotated[bool, typer.Option("--mini", help="Records made on miniatures, which are never ranked with others.")]


class Format(str, Enum):
    """How a board is printed."""

    table = "table"
    csv = "csv"
    json = "json"
    latex = "latex"
    md = "md"


class Kind(str, Enum):
    """What can be drawn."""

    atlas = "atlas"
    cost = "cost"
    intervals = "intervals"


def _read_valid_records(folder: Path) -> list[Stored]:
    """The valid records of a folder; each other file is a line on stderr, and ends nothing."""
    from marble_bench.cli.show import print_left_off
    from marble_bench.records.results import list_paths
    from marble_bench.records.validation import keep_valid

    found = keep_valid(list_paths(folder))
    print_left_off(found.left_off)
    return found.valid


def _build_board(
    results_dir: Path, protocol: str, mini: bool, task: list[str] | None, model: list[str] | None, cache: Path | None
) -> tuple[Board, str]:
    """The board, and the option that shows the folder's records if it shows none of them; see `_suggest_option`."""
    from marble_bench.board.board import BoardFilter, build_board
    from marble_bench.board.rows import tell_apart
    from marble_bench.files.cache import find_cache_root

    folder = results_dir.expanduser()
    if results_dir != RESULTS and not folder.is_dir():  # without records of one's own there are still published rows
        raise UsageError(f"--results-dir: {folder} is not there")
    asked, stored = (
        BoardFilter(protocol, mini, tuple(task or ()), tuple(model or ())),
        tell_apart(_read_valid_records(folder)),
    )
    _check_names(asked, [each.record for each in stored])
    return build_board(stored, asked, find_cache_root(cache) / "statistics"), _suggest_option(stored, asked)


def _suggest_option(stored: Sequence[Stored], asked: BoardFilter) -> str:
    """The option that shows the records of the tasks and models asked for; empty if some are shown, or there are none."""
    from marble_bench.board.rows import suggest_other_boards

    of = [each for each in stored if not asked.tasks or each.record.task.name in asked.tasks]
    of = [each for each in of if not asked.models or each.record.model.name in asked.models]
    return suggest_other_boards(of, asked.protocol, asked.mini)


def _check_names(asked: BoardFilter, records: Sequence[Record]) -> None:
    """Raise UsageError for a protocol, task or model that neither a record, a paper nor the suite has: a slip."""
    from marble_bench.board.rows import read_published_cells
    from marble_bench.core import plugins
    from marble_bench.errors import suggest_name

    cells = read_published_cells()
    protocols = {record.protocol.name for record in records}
    if asked.protocol not in protocols:
        _refuse_ambiguous("protocol", asked.protocol, protocols)
        plugins.find_registered_protocol(asked.protocol)
    tasks = {record.task.name for record in records} | {cell.task for cell in cells} | {*plugins.list_task_names()}
    models = {record.model.name for record in records} | {cell.model for cell in cells} | {*plugins.find_encoders()}
    for what, names, choices in (("task", asked.tasks, tasks), ("model", asked.models, models)):
        for name in names:
            if name not in choices:
                _refuse_ambiguous(what, name, choices)
                raise UsageError(f"no {what} '{name}'{suggest_name(name, sorted(choices))} (bench list {what}s)")


def _refuse_ambiguous(what: str, name: str, choices: Iterable[str]) -> None:
    """Raise UsageError where a name stands for several of somebody's own, which are shown by name and hash."""
    if those := sorted(each for each in choices if each.rpartition("@")[0] == name):
        raise UsageError(f"{what} '{name}' has several hashes among the records: give --{what} {' or '.join(those)}")


@app.command()
def leaderboard(
    task: Tasks = None,
    model: Models = None,
    protocol: RuleName = "marble",
    mini: Mini = False,
    form: Annotated[Format, typer.Option("--format", help="table, or text for a machine or a paper.")] = Format.table,
    cost: Annotated[bool, typer.Option("--cost", help="Also what each model took.")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Write the board as one self-contained page.")] = None,
    results_dir: Results = RESULTS,
    cache_dir: Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    debug: Debug = False,
) -> None:
    """Records and published scores in one table, with ties, floors and the overall mean."""
    from marble_bench.board import table
    from marble_bench.cli.show import print_board, print_words

    board, hint = _build_board(results_dir, protocol, mini, task, model, cache_dir)
    wanted = Format.json if as_json else form
    if not board.cells and (html or wanted not in (Format.json, Format.csv)):
        where = f"protocol {protocol}" + (" on miniatures" if mini else "")
        raise UsageError(f"nothing to show for {where} in {results_dir}; {hint or 'make records with bench run'}")
    if hint:
        print_words(f"no record of {results_dir} is shown: {hint}")
    if html:
        from marble_bench.board.page import write_page

        write_page(html.expanduser(), board)
        print_words(f"wrote {html}")
        if cost or wanted is not Format.table:
            print("the page has all scores and costs; --cost and --format say how text is printed", file=sys.stderr)
    elif wanted is Format.table:
        print_board(board, cost)
    else:
        if cost and wanted in (Format.json, Format.csv):
            print("no costs in csv and json, which have scores alone; table, latex and md have them", file=sys.stderr)
        write = {Format.json: table.as_json, Format.csv: table.as_csv}.get(wanted)
        write_with_cost = table.write_latex if wanted is Format.latex else table.write_markdown
        text = write(board) if write else write_with_cost(board, cost)
        print(text.rstrip("\n"))


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="A model's name (NAME/DIGEST if it has several weights), or a record's path.")
    ],
    b: Annotated[str, typer.Argument(help="The model or record that it is compared with.")],
    task: Tasks = None,
    protocol: RuleName = "marble",
    mini: Mini = False,
    classes: Annotated[bool, typer.Option("--classes", help="Also class by class (tag, dimension).")] = False,
    clips: Annotated[int, typer.Option(min=0, help="Also the N clips that gained and that lost most.")] = 0,
    results_dir: Results = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout, with all parts.")] = False,
    debug: Debug = False,
) -> None:
    """A against B: on the same test clips where both have records, and against what papers print of B."""
    import json

    from marble_bench.board.compare import Choice, compare_models, is_path
    from marble_bench.cli.show import print_comparison, print_printed, print_words
    from marble_bench.files.cache import find_cache_root

    folder = results_dir.expanduser()
    here = [] if is_path(a) and is_path(b) else _read_valid_records(folder)
    choice = Choice(folder, here, protocol, mini, tuple(task or ()))
    found = compare_models(a, b, choice, clips or 5, find_cache_root(None) / "statistics")
    if as_json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        if found.compared:
            print_comparison(found, classes, clips > 0)
        if found.printed:
            print_printed(found)
        if (classes or clips) and not found.compared:
            print_words("--classes and --clips need records of both models: papers print no predictions")
    print_words(*(f"not compared: {line}" for line in found.apart))


@app.command()
def plot(
    kind: Annotated[
        Kind, typer.Argument(help="atlas: layers by tasks. cost: score against cost. intervals: one task.")
    ],
    out: Annotated[Path, typer.Argument(help="The file to write: .png, .svg or .pdf.")],
    task: Tasks = None,
    model: Annotated[str, typer.Option(help="Of atlas: the model; else the one with most layers.")] = "",
    score: Annotated[str, typer.Option(help="Of cost and intervals: the task; else the mean of all.")] = "",
    cost: Annotated[str, typer.Option(help="Of cost: which.")] = "real_time_factor",
    protocol: RuleName = "marble",
    mini: Mini = False,
    results_dir: Results = RESULTS,
    cache_dir: Cache = None,
    debug: Debug = False,
) -> None:
    """A figure of the board through matplotlib (extra: plot)."""
    from marble_bench.board.plot import write
    from marble_bench.cli.show import print_words

    board, hint = _build_board(results_dir, protocol, mini, task, None, cache_dir)
    if hint:
        raise UsageError(f"nothing to draw: {hint}")
    write(out.expanduser(), board, kind.value, model, score, cost)
    print_words(f"wrote {out}")
