"""`bench leaderboard`, `compare`, `plot`: what records and papers say, beside each other."""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from marble_bench.cli.completion import complete_names
from marble_bench.cli.config_file import Commands
from marble_bench.cli.options import RESULTS, Cache, Debug, Results, parse_path
from marble_bench.cli.show import print_words
from marble_bench.errors import UsageError

if TYPE_CHECKING:
    from marble_bench.board.board import Board

app = Commands()

Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help="Only these tasks: names, several with commas, globs; repeatable.",
        autocompletion=complete_names("tasks"),
    ),
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Only these models: names, several with commas, globs; repeatable.",
        autocompletion=complete_names("models"),
    ),
]
RuleName = Annotated[
    str,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="Which protocol's ranking to show.",
        autocompletion=complete_names("protocols"),
    ),
]
SetName = Annotated[
    str,
    typer.Option(
        "--set",
        metavar="NAME",
        help="Only the tasks and metrics of this set (bench list sets), with its mean.",
        autocompletion=complete_names("sets"),
    ),
]
Mini = Annotated[bool, typer.Option("--mini", help="Show records of miniatures; they are never ranked with others.")]
PagePath = Annotated[
    Path | None,
    typer.Option("--html", help="Write the board as one HTML page.", parser=parse_path, metavar="PATH"),
]


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


Form = Annotated[Format, typer.Option("--format", help="A table, or text for a program or a paper.")]
FreezeName = Annotated[
    str, typer.Option(metavar="NAME", help="Write the board as it is to boards/NAME.json, or to a FILE.json.")
]
FrozenName = Annotated[
    str, typer.Option(metavar="NAME", help="Show a board that --freeze wrote, as it was: NAME or FILE.json.")
]
LIMITS = (
    "protocol",
    "task",
    "model",
    "set",
    "mini",
    "cost",
    "html",
    "freeze",
)  # options that a frozen board cannot obey


def _build_board(
    results_dir: Path,
    protocol: str,
    mini: bool,
    task: list[str] | None,
    model: list[str] | None,
    cache: Path | None,
    task_set: str = "",
    others: bool = False,
) -> tuple[Board, str]:
    """The board, and the option that shows the folder's records if it shows none of them; invalid files are told."""
    from marble_bench.api import build_board
    from marble_bench.cli.show import print_left_off

    return build_board(
        results_dir,
        task=task or (),
        model=model or (),
        protocol=protocol,
        set=task_set,
        mini=mini,
        cache_dir=cache,
        on_left_off=print_left_off,
        others=others,
    )


@app.command()
def leaderboard(
    task: Tasks = None,
    model: Models = None,
    protocol: RuleName = "marble",
    task_set: SetName = "",
    mini: Mini = False,
    form: Form = Format.table,
    cost: Annotated[bool, typer.Option("--cost", help="Also show the cost of each model.")] = False,
    html: PagePath = None,
    freeze: FreezeName = "",
    frozen: FrozenName = "",
    results_dir: Results = RESULTS,
    cache_dir: Cache = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    debug: Debug = False,
) -> None:
    """Show records and published scores in one table, with ties, trivial scores and the mean of a task set."""
    wanted = Format.json if as_json else form
    if frozen:
        set_apart = (protocol != "marble", task, model, task_set, mini, cost, html, freeze)
        return _print_frozen(frozen, wanted, [name for name, each in zip(LIMITS, set_apart, strict=True) if each])
    board, hint = _build_board(results_dir, protocol, mini, task, model, cache_dir, task_set, html is not None)
    if not board.list_shown() and (html or freeze or wanted not in (Format.json, Format.csv)):
        where = f"protocol {protocol}" + (" on miniatures" if mini else "")
        raise UsageError(f"nothing to show for {where} in {results_dir}; {hint or 'make records with bench run'}")
    _explain_empty(board, results_dir, protocol, hint)
    if freeze:
        from marble_bench.board.frozen import write_archive

        print_words(f"wrote {write_archive(board, freeze)}")
    if html:
        _write_page(html, board, cost or wanted is not Format.table)
    if not (freeze or html):
        _print_board(board, wanted, cost)
    return None


def _explain_empty(board: Board, results_dir: Path, protocol: str, hint: str) -> None:
    """Say which part of a board has nothing in it. hint: the option that shows records, where none is shown."""
    if hint:
        print_words(f"no record of {results_dir} is shown: {hint}")
    elif not board.cells and board.apart:
        print_words(f"no score of protocol {protocol} is shown: the tables are apart")


def _write_page(html: Path, board: Board, asks_text: bool) -> None:
    from marble_bench.board.page import write_page

    write_page(html.expanduser(), board)
    print_words(f"wrote {html}")
    if asks_text:
        print_words("the page has all scores and costs; --cost and --format say how text is printed")


def _print_board(board: Board, wanted: Format, cost: bool) -> None:
    from marble_bench.board import table
    from marble_bench.cli.show import print_board

    if wanted is Format.table:
        return print_board(board, cost)
    if cost and wanted in (Format.json, Format.csv):
        print_words("no costs in csv and json: choose --format table, latex or md to see them")
    write = {Format.json: table.as_json, Format.csv: table.as_csv}.get(wanted)
    write_with_cost = table.write_latex if wanted is Format.latex else table.write_markdown
    print((write(board) if write else write_with_cost(board, cost)).rstrip("\n"))
    return None


def _print_frozen(word: str, wanted: Format, limits: list[str]) -> None:
    """A frozen board, in the form that is wanted. limits: options that were given and that it cannot obey."""
    from marble_bench.board.frozen import describe_archive, list_frozen_facts, read_archive
    from marble_bench.board.table import format_markdown, write_csv
    from marble_bench.cli.show import print_matrix

    if limits:
        raise UsageError(f"--frozen shows a board as it was: leave --{limits[0]} out")
    if wanted is Format.latex:
        raise UsageError("--frozen has no LaTeX: give --format table, md, csv or json")
    board = read_archive(word)
    print_words(describe_archive(board))
    if wanted is Format.json:
        print(json.dumps(list_frozen_facts(board), indent=1))
    elif wanted is Format.csv:
        print(write_csv(list_frozen_facts(board)).rstrip("\n"))
    elif wanted is Format.md:
        print("\n".join(format_markdown(each.matrix, each.title, each.notes) for each in board.tables).rstrip("\n"))
    else:
        for place, each in enumerate(board.tables):
            print_matrix(each.matrix, each.title, each.notes, first=not place)


@app.command()
def compare(
    a: Annotated[
        str, typer.Argument(help="A model's name (NAME/DIGEST if it has several weights), or a record's path.")
    ],
    b: Annotated[
        str, typer.Argument(help="What it is compared with: a record, or a model with records or printed scores.")
    ],
    task: Tasks = None,
    protocol: RuleName = "marble",
    mini: Mini = False,
    classes: Annotated[bool, typer.Option("--classes", help="Also show each class, tag or dimension.")] = False,
    clips: Annotated[int, typer.Option(min=0, help="Also show the N clips that gained most and lost most.")] = 0,
    results_dir: Results = RESULTS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout, with all details.")] = False,
    debug: Debug = False,
) -> None:
    """Compare A with B: on the same test clips if both have records, and with published scores of B."""
    from marble_bench.api import compare as compared
    from marble_bench.cli.show import print_comparison, print_left_off, print_printed

    found = compared(
        a,
        b,
        task=task or (),
        protocol=protocol,
        mini=mini,
        clips=clips or 5,
        results_dir=results_dir,
        on_left_off=print_left_off,
    )
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
    model: Annotated[str, typer.Option(help="For atlas: the model; default: the one with most layers.")] = "",
    score: Annotated[str, typer.Option(help="For cost and intervals: the task; default: the mean.")] = "",
    cost: Annotated[str, typer.Option(help="For cost: which cost.")] = "real_time_factor",
    protocol: RuleName = "marble",
    mini: Mini = False,
    results_dir: Results = RESULTS,
    cache_dir: Cache = None,
    debug: Debug = False,
) -> None:
    """Draw a figure of the board with matplotlib (extra: plot)."""
    from marble_bench.board.plot import write

    board, hint = _build_board(results_dir, protocol, mini, task, None, cache_dir)
    if hint:
        raise UsageError(f"nothing to draw: {hint}")
    write(out.expanduser(), board, kind.value, model, score, cost)
    print_words(f"wrote {out}")
