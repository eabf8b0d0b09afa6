"""Prints what commands found: tables to stdout, words to stderr."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Container, Sequence
from itertools import chain, repeat, zip_longest
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from marble_bench.errors import counted
from marble_bench.records.escape import escape_line, escape_lines

if TYPE_CHECKING:
    from marble_bench.board.board import Board
    from marble_bench.board.compare import Comparison
    from marble_bench.board.printed import MeasuredScore, PrintedScore
    from marble_bench.board.table import Matrix
    from marble_bench.records.record import Choice, FewShotPoint, Perturbation
    from marble_bench.records.validation import Verdict
    from marble_bench.runs.config import Outcome
    from marble_bench.runs.reproduce import Difference, ScoreComparison

WIDE = 200  # columns off a terminal, where nobody folds: a cut table would lose numbers
GAP = 2  # spaces between two columns


def _open_console() -> Console:
    """The console of stdout: as wide as the terminal or `COLUMNS` says, and off a terminal `WIDE`."""
    return Console() if sys.stdout.isatty() or os.environ.get("COLUMNS") else Console(width=WIDE)


def print_table(rows: Sequence[dict[str, Any]], right: Container[str] = (), group_by: str = "") -> None:
    """Rows with the same keys, the keys as heading; see `print_columns`.

    right: the keys whose columns stand flush right. group_by: a key, if the rows have it, whose value is shown in the first
    row of a group only.
    """
    if not rows:
        print("nothing there yet", file=sys.stderr)
        return
    names = list(rows[0])
    flush = [place for place, name in enumerate(names) if name in right]
    group = names.index(group_by) if group_by in names else None
    print_columns(names, [list(row.values()) for row in rows], flush, group=group)


def print_columns(
    names: Sequence[str],
    rows: Sequence[Sequence[object]],
    right: Container[int] = (),
    styles: Sequence[str] = (),
    group: int | None = None,
) -> None:
    """A table in which no word is ever broken; a value that is a list has a line for each item.

    Where the longest words of all columns do not fit beside each other, a row is a block of lines, one for each column. Off
    a terminal there is no such limit. right: the columns that stand flush right. styles: of the rows. group: the column
    whose value a table shows in the first row of a group only; it heads no block.
    """
    heading, texts = [escape_line(name) for name in names], [[_lines(value) for value in row] for row in rows]
    columns = list(zip(heading, *texts, strict=True))
    least = [max(map(_longest_word, column)) for column in columns]
    console, needed = _open_console(), sum(least) + GAP * (len(least) - 1)
    if needed > console.width and (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        head = 1 if group == 0 and len(names) > 1 else 0
        _print_blocks(console, *([each[head], *each[:head], *each[head + 1 :]] for each in (heading, *texts)))
        return
    texts = texts if group is None else _show_once(texts, group)
    console.width = max(console.width, needed)
    wanted = [max(cell_len(line) for text in column for line in text.splitlines() or [""]) for column in columns]
    table = Table(header_style="bold", pad_edge=False, box=None, padding=(0, GAP, 0, 0))
    for place, width in enumerate(_widths(wanted, least, console.width - GAP * (len(least) - 1))):
        table.add_column(Text(heading[place]), width=width, justify="right" if place in right else "left")
    for row, style in zip_longest(texts, styles):
        table.add_row(*map(Text, row), style=style)
    console.print(table)


def _show_once(texts: Sequence[list[str]], column: int) -> list[list[str]]:
    """Rows in which a column is empty where it says what the row before says."""
    before: Sequence[list[str]] = [[], *texts[:-1]]
    same = [bool(above) and above[column] == row[column] for above, row in zip(before, texts, strict=True)]
    return [[*row[:column], "", *row[column + 1 :]] if again else row for row, again in zip(texts, same, strict=True)]


def _lines(value: object) -> str:
    return "\n".join(escape_line(_format_value(each)) for each in (value if isinstance(value, list) else [value]))


def _widths(wanted: Sequence[int], least: Sequence[int], room: int) -> list[int]:
    """The widths of columns that share some room: the widest give way first, and none beyond its longest word."""
    widths = list(wanted)
    while sum(widths) > room:
        widths[max(range(len(widths)), key=lambda at: (widths[at] > least[at], widths[at]))] -= 1
    return widths


def _longest_word(text: str) -> int:
    return max(map(cell_len, text.split()), default=0)


def _print_blocks(console: Console, names: Sequence[str], *texts: Sequence[str]) -> None:
    """Each row as a block of lines, headed by its first value. A word that is longer than a line is left whole."""
    indent = max(map(cell_len, names[1:]), default=0) + GAP + 2
    for row in texts:
        console.print(Text(row[0], style="bold"), soft_wrap=True)
        for name, text in zip(names[1:], row[1:], strict=True):
            starts = chain([f"  {name}"], repeat(""))
            for start, line in zip(starts, _wrap(text, max(20, console.width - indent)), strict=False):
                console.print(Text(f"{start:{indent}}{line}"), soft_wrap=True)


def _wrap(text: str, width: int) -> list[str]:
    """The lines of a text, broken between words alone."""
    return [
        line
        for given in text.splitlines()
        for line in textwrap.wrap(given, width, break_long_words=False, break_on_hyphens=False)
    ]


def _make_plain(text: str, style: str = "") -> Text:
    """Text in which nothing is markup, and nothing controls the terminal."""
    return Text(escape_line(text), style=style)


def print_line(value: dict[str, Any]) -> None:
    """A line of JSON Lines, which is there for a reader of a pipe at once."""
    print(json.dumps(value), flush=True)


def print_words(*lines: str) -> None:
    """Lines on stderr: an error, or what is to be told beside the data."""
    for line in lines:
        print(escape_lines(line), file=sys.stderr)


def print_left_off(lines: Sequence[str]) -> None:
    """Records that are not shown, with what is wrong with each."""
    print_words(*(f"left off: {line}" for line in lines))
    if lines:
        are = "is" if len(lines) == 1 else "are"
        print_words(f"{counted(len(lines), 'invalid record')} {are} left off (bench results check)")


def _format_value(value: object) -> str:
    """A value in a table: a number to four digits, an interval by its bounds."""
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, tuple) and len(value) == 2 and all(isinstance(each, float | None) for each in value):
        return " to ".join("n/a" if bound is None else _format_value(bound) for bound in value)
    return str(value)


def print_plan(plan: dict[str, Any], as_json: bool) -> None:
    """What a run would do."""
    if as_json:
        print_line(plan)
        return
    print("\n".join(escape_line(f"{key}: {value}") for key, value in plan.items()))


def _describe_layers_by_seed(chosen: Sequence[Choice]) -> str:
    """The layers that validation chose, seed by seed; for each stem, or half of works, apart where these
    choose for themselves."""
    of: dict[str, list[str]] = {}
    for choice in chosen:
        of.setdefault(choice.stem or choice.half or "", []).append(choice.layer)
    return ", ".join(f"{stem} {' '.join(layers)}".strip() for stem, layers in of.items())


def print_outcome(outcome: Outcome, as_json: bool, quiet: bool = False) -> None:
    """A record: as one line of JSON, or its scores as a table and where it was written."""
    from marble_bench.board.table import format_score
    from marble_bench.records.record import to_json

    record = outcome.record
    if as_json:
        print_line(to_json(record))
        return
    rows, layers = [], _describe_layers_by_seed(record.selection.per_seed)
    for metric, score in record.scores.items():
        values = [score.test, *score.ci95, score.valid, score.trivial]
        test, low, high, valid, trivial = (
            "n/a" if value is None else format_score(value, score.unit) for value in values
        )
        rows.append(
            {"model": record.model.name, "task": record.task.name, "metric": metric, "test": test,
             "95 %": f"{low} to {high}", "valid": valid, "trivial": trivial,
             "layer by seed": layers if score.main else ""}
        )  # fmt: skip
    print_table(rows, right=("test", "valid", "trivial"))
    if record.few_shot:
        name, score = next(iter(record.main_scores.items()))
        print_table([_describe_point(each, name, score.unit) for each in record.few_shot])
    if record.perturbations:
        print_perturbed(record.perturbations, record.units)
    if record.retrieval and not quiet:
        _print_layers(outcome)
    if quiet:
        return
    print_words(str(outcome.path) if outcome.written else f"{outcome.path} exists already with the same result")
    if record.why_not:
        print_words(f"not comparable: {'; '.join(record.why_not)}")


def _print_layers(outcome: Outcome) -> None:
    """Each layer's own score, which other items did not choose and which is never ranked."""
    from marble_bench.board.table import format_score
    from marble_bench.records.record_file import Stored, load_table

    record, metric = outcome.record, outcome.record.selection.metric
    layers = load_table(Stored(outcome.path, record), "grid")
    if layers is not None:
        each = layers.drop_duplicates("layer")
        rows = [
            {"layer": name, f"{metric} by itself, not ranked": format_score(own, record.scores[metric].unit)}
            for name, own in zip(each["layer"], each["own"], strict=True)
        ]
        print_table(rows, right=(f"{metric} by itself, not ranked",))


def _describe_point(point: FewShotPoint, metric: str, unit: str) -> dict[str, str]:
    """A point of a few-shot curve: clips trained on, and the mean over those seeds whose score is a number."""
    from marble_bench.board.table import format_score

    def mean(values: Sequence[float | None]) -> str:
        known = [value for value in values if value is not None]
        return format_score(sum(known) / len(known), unit) if known else "n/a"

    share = f"{100 * point.share:g} %"
    return {
        "trained on": share, "clips": str(point.clips), "metric": metric,
        "test": mean(point.test), "valid": mean(point.valid),
    }  # fmt: skip


def print_perturbed(changed: dict[str, Perturbation], units: dict[str, str]) -> None:
    """What the scores are on changed test clips, and what was lost."""
    from marble_bench.board.table import format_score

    def text(value: float | None, metric: str) -> str:
        return "n/a" if value is None else format_score(value, units[metric])

    print_table(
        [
            {"perturbation": name, "metric": metric, "clean": text(score.clean, metric),
             "test": text(score.test, metric), "drop": text(score.drop, metric),
             "95 %": " to ".join(text(bound, metric) for bound in score.drop_ci95 or ()) or "n/a",
             "clips": found.clips, "left out": found.left_out}
            for name, found in changed.items()
            for metric, score in found.scores.items()
        ]
    )  # fmt: skip


def print_board(board: Board, cost: bool) -> None:
    """The leaderboard of one protocol and the tables apart, with what their marks mean."""
    from marble_bench.board.table import build_matrix, list_notes, name_board

    for place, each in enumerate(board.list_shown()):
        print_matrix(build_matrix(each, cost=cost), name_board(each), list_notes(each), first=not place)


def print_matrix(matrix: Matrix, title: str, notes: Sequence[str], first: bool = True) -> None:
    """A table of scores below its title, as several if it is too wide, and notes; after an empty line if not the first."""
    from marble_bench.board.table import build_tables

    console = _open_console()
    if not first:
        console.print()
    console.print(_make_plain(title, "bold"), highlight=False, soft_wrap=True)
    for table in build_tables(matrix, console.width):
        console.print(table)
    for line in notes:
        console.print(_make_plain(line, "dim"), highlight=False, soft_wrap=True)


def print_comparison(found: Comparison, classes: bool, clips: bool) -> None:
    """Two models' scores side by side, in percent or decibels; class by class and clip by clip where asked for."""
    from marble_bench.board.table import format_score

    console = _open_console()
    lines, names = [], ("task", "metric", found.a, found.b, "difference", "95 %", "p", "p (Holm)", "")
    for each in found.compared:
        apart = each.difference
        a, b, value, low, high = (
            format_score(x, each.unit) for x in (each.a, each.b, apart.value, apart.low, apart.high)
        )
        corrected = "" if each.holm is None else f"{each.holm:.4f}"
        verdict = "" if each.holm is None or each.holm >= 0.05 else (found.a if apart.value > 0 else found.b)
        texts = (
            each.task, each.metric, a, b, value if value[0] in "-n" else f"+{value}", f"{low} to {high}", f"{apart.p:.4f}",
            corrected, verdict and f"{verdict} is better",
        )  # fmt: skip
        lines.append(texts)
    print_columns(names, lines, range(2, 8), ["bold" if each.main else "dim" for each in found.compared])
    for each in found.compared:
        if classes and each.parts:
            rows = sorted(each.parts, key=lambda part: part.difference)
            console.print("\n", _make_plain(f"{each.task}, {each.metric}", "bold"), sep="", highlight=False)
            print_table(
                [
                    {"part": part.name, "test clips": part.clips, found.a: format_score(part.a, each.unit),
                     found.b: format_score(part.b, each.unit), "difference": format_score(part.difference, each.unit)}
                    for part in rows
                ]
            )  # fmt: skip
        if clips and each.main and each.moved:
            console.print("\n", _make_plain(f"{each.task}, clips that moved most", "bold"), sep="", highlight=False)
            print_table(
                [
                    {"clip": moved.clip, "truth": moved.truth, found.a: round(moved.a, 3), found.b: round(moved.b, 3),
                     "gain": round(moved.gain, 3)}
                    for moved in each.moved
                ]
            )  # fmt: skip


def print_printed(found: Comparison) -> None:
    """Measured scores beside those that papers print of the other model, in percent or decibels, and the papers."""
    from marble_bench.board.printed import explain_printed
    from marble_bench.board.table import format_score

    def text(side: MeasuredScore | PrintedScore, unit: str, mark: str = "") -> str:
        bounds = ["n/a" if bound is None else format_score(bound, unit) for bound in side.interval or ()]
        made = format_score(side.value, unit) + mark + ("†" if side.contaminated else "")
        return f"{made} [{bounds[0]}, {bounds[1]}]" if bounds else made

    measured, printed = found.printed[0].measured.model, found.printed[0].printed.model
    table = Table(header_style="bold", pad_edge=False, box=None)
    for name in ("task", "metric", measured, f"{printed}, printed", "diff.", "verdict", "source"):
        table.add_column(_make_plain(name), justify="right" if name == "diff." else "left")
    for each in found.printed:
        difference = format_score(each.difference, each.unit)
        texts = (
            each.task, each.metric, text(each.measured, each.unit),
            text(each.printed, each.unit, "°" * each.printed.borrowed + "‡" * bool(each.printed.impossible)),
            difference if difference[0] in "-n" else f"+{difference}",
            each.verdict + ("" if each.same_protocol else ", other protocol"),
            f"{each.printed.source}, {each.printed.protocol}",
        )  # fmt: skip
        table.add_row(*map(_make_plain, texts), style="bold" if each.main else "dim")
    console = _open_console()
    console.print(table)
    for line in explain_printed(found.printed):
        console.print(_make_plain(line, "dim"), highlight=False, soft_wrap=True)


def print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """Files with what was found about them."""
    console = _open_console()
    before = ""
    for each in verdicts:
        if each.path != before:
            console.print(_make_plain(each.path, "bold"), highlight=False, soft_wrap=True)
        before = each.path
        style = "green" if each.kind == "ok" else ("yellow" if each.is_valid else "red")
        line = Text(f"  {each.kind}: ", style=style).append(escape_line(each.words), style="default")
        console.print(line, highlight=False, soft_wrap=True)


def print_reproduction(
    rows: Sequence[ScoreComparison], units: dict[str, str], differing: Sequence[Difference], changed: Sequence[str]
) -> None:
    """The scores of a record and of its rerun, what speaks against the record, and what else is not the same."""
    from marble_bench.board.table import format_score

    def text(value: float | None, metric: str) -> str:
        return "n/a" if value is None else format_score(value, units[metric.partition(",")[0]])

    print_table(
        [
            {"metric": row.metric, "record": text(row.record, row.metric), "again": text(row.again, row.metric),
             "difference": text(row.difference, row.metric),
             "95 %": " to ".join(text(bound, row.metric) for bound in row.interval), "verdict": row.verdict}
            for row in rows
        ]
    )  # fmt: skip
    for why in dict.fromkeys(row.basis for row in rows):
        if why not in ("the record", "its predictions"):
            of = ", ".join(row.metric.replace(", ", " under ") for row in rows if row.basis == why)
            print_words(f"interval of {why} ({of})")
    for each in differing:
        _open_console().print(Text(escape_lines(f"differs: {each.kind}: {each.words}"), style="red"), soft_wrap=True)
    print_words(*(f"changed: {line}" for line in changed))
