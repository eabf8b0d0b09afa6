"""The leaderboard as a matrix of texts: for a terminal, Markdown, LaTeX; and cell by cell as CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from marble_bench.board.board import Board
from marble_bench.board.means import AVERAGE
from marble_bench.board.published import IMPOSSIBLE, list_protocols_apart, read_published_sources
from marble_bench.board.rows import UNKNOWN, Cell
from marble_bench.core.task_set import TaskSet
from marble_bench.data.checks import ROUGH
from marble_bench.errors import listing
from marble_bench.records import escape
from marble_bench.records.copies import same_weights
from marble_bench.records.record import Record

if TYPE_CHECKING:
    import pandas as pd

UNITS = {"fraction": "%", "dB": "dB", "rank": ""}  # as headings show them
SHORT = {
    "accuracy": "acc",
    "chord_accuracy": "acc",
    "roc_auc": "AUC",
    "ap": "AP",
    "r2_arousal": "A",
    "r2_valence": "V",
    "weighted": "key",
    "f1": "F1",
    "map": "MAP",
    "mr1": "MR1",
    "p_at_10": "P@10",
    "hit_at_1": "hit@1",
    "r_precision": "R-prec",
    "sdr_vocals": "voc",
    "sdr_drums": "drums",
    "sdr_bass": "bass",
    "sdr_other": "other",
}
FACTS = (  # of a cell and its parts, as JSON and CSV have them
    *(
        "model",
        "mark",
        "protocol",
        "task",
        "metric",
        "value",
        "unit",
        "source",
        "weights",
        "borrowed",
        "interval",
        "basis",
    ),
    *("spread", "trivial", "higher_is_better", "rank", "ties", "comparable", "why_not", "mini", "main", "averaged"),
    *("contaminated", "impossible", "apart", "against"),
)
COLUMNS = (*(name for name in FACTS if name != "interval"), "low", "high")  # the same of CSV and of a table of pandas
COSTS = {
    "parameters": "parameters",
    "real_time_factor": "audio s/s",
    "peak_memory_mb": "peak MB",
    "feature_mb": "features MB",
    "probe_s": "probes s",
}


def format_score(value: float, unit: str) -> str:
    """A score as papers print it: percent with one decimal, decibels with two, ranks with one.

    >>> format_score(0.7483, "fraction"), format_score(5.5, "dB"), format_score(80.0, "rank")
    ('74.8', '5.50', '80.0')
    >>> format_score(-0.0001, "fraction"), format_score(float("nan"), "dB")
    ('0.0', 'n/a')
    """
    if value != value:
        return "n/a"
    text = f"{value:.2f}" if unit == "dB" else f"{value if unit == 'rank' else 100 * value:.1f}"
    return text if text.strip("-0.") else text.lstrip("-")  # no minus before a zero


def format_cell(cell: Cell, interval: bool = True) -> str:
    """A score with its marks, interval and tie letters."""
    unit, origin, bounds = cell.measure.unit, cell.origin, cell.uncertainty.interval
    text = format_score(cell.value, unit) + ("°" if origin.borrowed else "")
    text += ("" if origin.comparable or cell.mini else "*") + ("†" if origin.contaminated else "")
    text += "‡" if origin.impossible else ""
    if interval and bounds and cell.mark == "measured":
        low, high = ("n/a" if bound is None else format_score(bound, unit) for bound in bounds)
        text += f" [{low}, {high}]"
    return text + (f" {cell.position.ties}" if cell.position.ties else "")


def compute_cost(board: Board) -> dict[tuple[str, str, str], dict[str, float | None]]:
    """What each measured row took, over its records: the largest peak of memory, sums of features and probe seconds, the
    real-time factor of all audio encoded in those runs; None where every record's features were there already.
    """
    found: dict[tuple[str, str, str], list[Record]] = {}
    for each in board.stored:
        model = each.record.model
        found.setdefault((model.name, "measured", model.weights), []).append(each.record)
    costs: dict[tuple[str, str, str], dict[str, float | None]] = {}
    for row, records in found.items():
        cost = [record.cost for record in records]
        encoded, taken = sum(each.audio_s for each in cost), sum(each.extract_s for each in cost)
        costs[row] = {
            "parameters": records[0].model.parameters,
            "real_time_factor": encoded / taken if encoded and taken else None,
            "peak_memory_mb": max(each.peak_memory_mb for each in cost),
            "feature_mb": sum(each.feature_mb for each in cost),
            "probe_s": sum(each.probe_s for each in cost),
        }
    return costs


@dataclass(frozen=True)
class Line:
    """A row of a matrix. kind: `measured`, `published` or `floor`."""

    kind: str
    model: str
    source: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Matrix:
    """A board as texts: a heading `(task, what)` for each column, and lines."""

    heads: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]


def order(board: Board) -> list[tuple[str, str, str]]:
    """The rows of a board, best first: by the mean of its set where there is one, else by the column that most rows have."""
    by_row: dict[tuple[str, str, str], dict[tuple[str, str], Cell]] = {}
    for cell in [*board.cells, *board.averages]:
        by_row.setdefault(cell.row, {})[cell.column] = cell
    columns = board.columns
    if not columns:
        return []
    averages = (AVERAGE, board.task_set.name if board.task_set else "")
    most = max(columns, key=lambda column: sum(column in row for row in by_row.values()))

    def standing(row: tuple[str, str, str]) -> tuple[bool, float, bool, float]:
        mean, first = by_row[row].get(averages), by_row[row].get(most)
        return mean is None, -(mean.value if mean else 0), first is None, -(first.value if first else 0)

    return sorted(by_row, key=standing)


def list_columns(board: Board) -> list[tuple[str, str]]:
    """Task and metric of each column, that of the mean first."""
    return list(dict.fromkeys(cell.column for cell in board.averages)) + board.columns


def _name_column(column: tuple[str, str], unit: str) -> tuple[str, str]:
    """The two lines of a heading: task and metric, or set and `mean`."""
    task, metric = column
    what = UNITS[unit]
    return (metric, f"mean {what}") if task == AVERAGE else (task, f"{SHORT.get(metric, metric)} {what}".rstrip())


def build_matrix(board: Board, interval: bool = True, cost: bool = False) -> Matrix:
    """A row per model and source, a column per task and metric; blank where nothing is known, never a zero."""
    columns = list_columns(board)
    place: dict[tuple[str, str, str], dict[tuple[str, str], Cell]] = {}
    for cell in board.list_everything():
        place.setdefault(cell.row, {})[cell.column] = cell
    units = {cell.column: cell.measure.unit for cell in board.list_everything()}
    heads = [("", "tasks")] if len({cell.task for cell in board.cells}) > 1 else []
    heads += [_name_column(column, units[column]) for column in columns]
    costs = compute_cost(board) if cost else {}
    if cost:
        heads += [("cost", label) for label in COSTS.values()]
    names = [row[0] for row in board.coverage]

    def line(row: tuple[str, str, str], kind: str) -> Line:
        model, mark, weights = row
        covered = board.coverage.get(row)
        texts = ([f"{covered[0]}/{covered[1]}" if covered else ""] if heads and heads[0][1] == "tasks" else []) + [
            format_cell(place[row][column], interval) if column in place[row] else "" for column in columns
        ]
        if cost:
            texts += [_format_cost(costs.get(row, {}).get(name)) for name in COSTS]
        several = kind == "measured" and sum(r[0] == model and r[1] == mark for r in board.coverage) > 1
        assert kind != "measured" or model in names
        return Line(kind, f"{model} ({weights})" if several else model, "" if kind == "floor" else mark, tuple(texts))

    lines = [line(row, "measured" if row[1] == "measured" else "published") for row in order(board)]
    lines += [line(row, "floor") for row in dict.fromkeys(cell.row for cell in board.floors)]
    return Matrix(tuple(heads), tuple(lines))


def _format_cost(value: float | None) -> str:
    return "" if value is None else (f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}")


def name_board(board: Board) -> str:
    """The title of a board: its protocol, its set, and what keeps it from being compared with others."""
    asked = board.asked
    title = f"protocol {asked.protocol}"
    if why := list_protocols_apart().get(asked.protocol):
        return f"{title}, which this suite does not run: {why}. Not comparable with any other table"
    if asked.task_set:
        title += f", task set {asked.task_set.name} version {asked.task_set.version}"
    return title + (", on MINIATURES: synthesised music, says little about a model" if asked.mini else "")


def build_tables(whole: Matrix, width: int) -> list[Table]:
    """A matrix as tables that are no wider than `width` characters: one, or several with the same rows."""
    names = max([len("model"), *(len(line.model) for line in whole.lines)]) + 8
    names += max([len("source"), *(len(line.source) for line in whole.lines)])
    sizes = [
        max(len(task), len(what), *(len(line.texts[index]) for line in whole.lines)) + 3
        for index, (task, what) in enumerate(whole.heads)
    ]
    blocks: list[list[int]] = [[]]
    for index, size in enumerate(sizes):
        task = whole.heads[index][0]
        starts = index == 0 or whole.heads[index - 1][0] != task  # a task's columns stay together where they can
        together = sum(sizes[i] for i, head in enumerate(whole.heads) if head[0] == task) if starts and task else size
        taken = names + sum(sizes[i] for i in blocks[-1])
        if blocks[-1] and (taken + size > width or (taken + together > width and names + together <= width)):
            blocks.append([])
        blocks[-1].append(index)
    return [_build_table(whole, block) for block in blocks]


def _build_table(whole: Matrix, block: Sequence[int]) -> Table:
    table = Table(header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("source", no_wrap=True)
    for index in block:
        task, what = whole.heads[index]
        table.add_column(Text("\n").join([_make_plain(task), _make_plain(what)]), justify="right", no_wrap=True)
    kinds = {"measured": "bold", "published": "dim", "floor": "italic"}
    before = ""
    for line in whole.lines:
        if line.kind == "floor" and before != "floor":
            table.add_section()
        before = line.kind
        texts = [line.model, line.source, *(line.texts[index] for index in block)]
        table.add_row(*map(_make_plain, texts), style=kinds[line.kind])
    return table


def _make_plain(text: str) -> Text:
    """Text in which nothing is markup."""
    return Text(escape.escape_line(text))


def write_markdown(board: Board, cost: bool = False) -> str:
    """Each board that is shown as a table of GitHub's Markdown, with its notes."""
    return "\n".join(
        format_markdown(build_matrix(each, cost=cost), name_board(each), list_notes(each))
        for each in board.list_shown()
    )


def format_markdown(whole: Matrix, title: str, notes: Sequence[str]) -> str:
    """A matrix as a table of GitHub's Markdown, its title above it and its notes below."""
    heads = ["model", "source", *(" ".join(filter(None, head)) for head in whole.heads)]
    rows = [[line.model, line.source, *line.texts] for line in whole.lines]
    lines = [_format_cells(heads), ["---", "---", *["--:"] * len(whole.heads)], *map(_format_cells, rows)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    told = "\n".join(f"- {escape.escape_markdown(note)}" for note in notes)
    return f"**{escape.escape_markdown(title)}**\n\n{table}\n\n{told}\n"


def _format_cells(texts: Sequence[str]) -> list[str]:
    return [escape.escape_markdown(text) for text in texts]


def write_latex(board: Board, cost: bool = False) -> str:
    r"""Each board that is shown as a `tabular` with the rules of `booktabs`, without intervals.

    A column's best measured score is bold.
    """
    return "\n".join(_write_tabular(each, cost) for each in board.list_shown())


def _write_tabular(board: Board, cost: bool) -> str:
    whole = build_matrix(board, interval=False, cost=cost)
    columns = list_columns(board)
    best: dict[tuple[str, str], list[Cell]] = {}  # several where they are equal
    for cell in [*board.cells, *board.averages]:
        if cell.mark != "measured":
            continue
        held = best.setdefault(cell.column, [])
        if held and cell.value != held[0].value and (cell.value > held[0].value) == cell.measure.higher_is_better:
            held.clear()
        if not held or cell.value == held[0].value:
            held.append(cell)
    first = sum(head == ("", "tasks") for head in whole.heads)
    lines = [
        f"% {escape.escape_latex(name_board(board))}",
        r"\begin{tabular}{ll" + "r" * len(whole.heads) + "}",
        r"\toprule",
        " & ".join(["", "", *(escape.escape_latex(task) for task, _ in whole.heads)]) + r" \\",
        " & ".join(["model", "source", *(escape.escape_latex(what) for _, what in whole.heads)]) + r" \\",
        r"\midrule",
    ]
    before = whole.lines[0].kind if whole.lines else ""
    for line, row in zip(whole.lines, [*order(board), *[None] * len(whole.lines)], strict=False):
        if line.kind == "floor" and before != "floor":
            lines.append(r"\midrule")
        before = line.kind
        texts = [escape.escape_latex(text) for text in line.texts]
        for index, column in enumerate(columns):
            if row is not None and any(cell.row == row for cell in best.get(column, ())):
                texts[first + index] = rf"\textbf{{{texts[first + index]}}}"
        lines.append(" & ".join([escape.escape_latex(line.model), escape.escape_latex(line.source), *texts]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}", *(f"% {escape.escape_line(note)}" for note in list_notes(board))]
    return "\n".join(lines) + "\n"


def _list_facts(cell: Cell) -> dict[str, Any]:
    """The facts of a cell and its parts, by their names."""
    found = asdict(cell)
    for part in ("measure", "uncertainty", "origin", "position"):
        found |= found.pop(part)
    return {name: found[name] for name in FACTS}


def as_json(board: Board) -> str:
    """Every cell, floors and means too, as a list of objects; those of boards apart last."""
    return json.dumps(list_facts(board), indent=1)


def list_facts(board: Board) -> list[dict[str, Any]]:
    """The facts of every cell, floors and means too; those of boards apart last."""
    return [_list_facts(cell) for each in [board, *board.apart] for cell in each.list_everything()]


def make_row(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a cell as a row of a table has them: `interval` as `low` and `high`, lists as texts."""
    row = {name: facts[name] for name in FACTS}
    low, high = row.pop("interval") or (None, None)
    against = "; ".join(f"{each['mark']} {each['value']} {each['verdict']}" for each in row["against"])
    return {**row, "why_not": "; ".join(row["why_not"]), "against": against, "low": low, "high": high}


def as_frame(board: Board) -> pd.DataFrame:
    """Every cell, floors and means too, a row each, those of boards apart last; see `COLUMNS`."""
    import pandas as pd

    found = pd.DataFrame([make_row(facts) for facts in list_facts(board)], columns=list(COLUMNS))
    return found.astype(dict.fromkeys(("value", "low", "high", "spread", "trivial"), float))


def as_csv(board: Board) -> str:
    """Every cell, floors and means too, a line each, those of boards apart last."""
    return write_csv(list_facts(board))


def write_csv(cells: Sequence[dict[str, Any]]) -> str:
    """Cells as the lines of a CSV file, with a heading."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    for facts in cells:
        row = make_row(facts)
        bounds = row.pop("low"), row.pop("high")
        writer.writerow([*(escape.escape_csv_cell("" if value is None else value) for value in row.values()), *bounds])
    return buffer.getvalue()


def list_notes(board: Board) -> list[str]:
    """What the marks of a board mean, a line each, and how its records compare with what papers print of the same models."""
    cells = board.list_everything()
    lines = []
    used = {cell.mark for cell in cells}
    if "measured" in used:
        lines.append("measured: a record of this suite, mean over seeds, 95 % interval over test clips in brackets")
    if any(cell.position.ties for cell in cells):
        lines.append(
            "letters: two records that share one in a column do not differ significantly (paired test, Holm, 5 %)"
        )
    rough = dict.fromkeys(f"{cell.metric} of {cell.task}" for cell in board.cells if ROUGH in cell.uncertainty.basis)
    if rough:
        lines.append(f"rough intervals, since few test clips carry some of the tags: {', '.join(rough)}")
    lines += [f"{s.mark}: {s.citation}" for s in read_published_sources().values() if s.mark in used]
    strange = dict.fromkeys(
        name for cell in board.cells for name in cell.uncertainty.basis.partition(f"{UNKNOWN}: ")[2].split(", ") if name
    )
    if strange:
        lines.append(f"{UNKNOWN}, as the record says them: {', '.join(strange)}")
    lines += [f"{listing(names)}: the same weights, so one model under several names" for names in _same_models(board)]
    lines += _explain_marks(cells) + _explain_mean(board)
    if board.floors:
        lines.append("trivial: the best constant answer; random: answers by chance")
    return lines + [
        f"{cell.model} on {cell.task}, {cell.metric}: {each.difference * cell.measure.scale:+.2f} to "
        f"{format_score(each.value, cell.measure.unit)} of {each.mark}, which is {_place(each.verdict)}"
        for cell in board.cells
        for each in cell.position.against
    ]


def _explain_marks(cells: Sequence[Cell]) -> list[str]:
    """What the marks behind scores mean, a line for each that some cell has."""
    lines = {
        "°: that source took the number from another paper": any(cell.origin.borrowed for cell in cells),
        "*: not comparable; its record says why": any(not cell.origin.comparable and not cell.mini for cell in cells),
        "†: the model was trained on the corpus that this task tests on": any(
            cell.origin.contaminated for cell in cells
        ),
        IMPOSSIBLE: any(cell.origin.impossible for cell in cells),
    }
    return [line for line, used in lines.items() if used]


def _explain_mean(board: Board) -> list[str]:
    """What the mean on a board is of; of a set that was asked for, why there is none."""
    if board.task_set and board.averages:
        return [
            f"{board.task_set.name}: mean over the {len(board.task_set.members)} tasks of this set, several metrics of one "
            f"task averaged first; only for rows that have all of them ({board.task_set.source})"
        ]
    asked = board.asked.task_set
    if asked and board.asked.protocol not in list_protocols_apart():
        return [f"{asked.name}: {explain_no_mean(asked)}"]
    return []


def explain_no_mean(task_set: TaskSet) -> str:
    """Why no mean of a set stands on a board."""
    if task_set.averaging == "none":
        return f"no mean, for the set's source prints none ({task_set.source})"
    return f"no mean, for no row has all {len(task_set.members)} tasks"


def _same_models(board: Board) -> list[list[str]]:
    """The names of a board's models whose records declare the same weights, those of one model together."""
    models = {each.record.model.name: each.record for each in board.stored}
    groups: list[list[str]] = []
    for name, record in sorted(models.items()):
        for group in groups:
            if same_weights(record, models[group[0]]):
                group.append(name)
                break
        else:
            groups.append([name])
    return [group for group in groups if len(group) > 1]


def _place(verdict: str) -> str:
    return {
        "inside": "inside the interval",
        "above": "below the interval",
        "below": "above the interval",
        "no interval": "not to be judged without an interval",
    }[verdict]
