"""The leaderboard for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from marble_bench.leaderboard.rows import Cell, published_sources

SHORT = {
    "accuracy": "acc",
    "roc_auc": "AUC",
    "ap": "AP",
    "r2_arousal": "A",
    "r2_valence": "V",
    "weighted": "key",
    "f1": "F1",
    "sdr_vocals": "voc",
    "sdr_drums": "drums",
    "sdr_bass": "bass",
    "sdr_other": "other",
}


def shown(value: float, unit: str) -> str:
    """A score as papers print it: percent with one decimal, decibels with two.

    >>> shown(0.7483, "fraction"), shown(5.5, "dB")
    ('74.8', '5.50')
    """
    return f"{value:.2f}" if unit == "dB" else f"{100 * value:.1f}"


def ranked(cells: Sequence[Cell], title: str) -> Table:
    """One table: a row per model and source, a column per task and metric; blank where nothing is known.

    Rows are sorted by the first column that most rows have; records stand out, `°` marks a borrowed number, `*` a
    record that is not comparable. A row of trivial scores closes it.
    """
    columns = list(dict.fromkeys((cell.task, cell.metric) for cell in cells))
    by_row: dict[tuple[str, str], dict[tuple[str, str], Cell]] = {}
    for cell in cells:
        by_row.setdefault((cell.model, cell.mark), {})[cell.task, cell.metric] = cell
    key = max(columns, key=lambda column: sum(column in row for row in by_row.values()))
    order = sorted(
        by_row, key=lambda row: (key not in by_row[row], -by_row[row][key].value if key in by_row[row] else 0)
    )

    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("model", no_wrap=True)
    table.add_column("source", no_wrap=True)
    for task, metric in columns:
        unit = next(cell.unit for cell in cells if (cell.task, cell.metric) == (task, metric))
        table.add_column(f"{task}\n{SHORT.get(metric, metric)}{' dB' if unit == 'dB' else ' %'}", justify="right")
    for model, mark in order:
        row = by_row[model, mark]
        style = "bold" if mark == "measured" else "dim"
        table.add_row(model, mark, *(_cell(row.get(column)) for column in columns), style=style)
    trivial = {(cell.task, cell.metric): cell for cell in cells if cell.trivial is not None}
    if trivial:
        table.add_section()
        known = [trivial.get(column) for column in columns]
        table.add_row("trivial", "", *(shown(c.trivial, c.unit) if c and c.trivial is not None else "" for c in known))
    return table


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("")
    text = shown(cell.value, cell.unit) + ("°" if cell.borrowed else "") + ("" if cell.comparable or cell.mini else "*")
    if cell.interval and None not in cell.interval:
        low, high = (shown(bound, cell.unit) for bound in cell.interval if bound is not None)
        text += f" [{low}, {high}]"
    return Text(text)


def notes(cells: Sequence[Cell]) -> list[str]:
    """What the marks of a table mean, a line each."""
    lines = []
    used = {cell.mark for cell in cells}
    if "measured" in used:
        lines.append(
            "measured: a record of this suite, mean over seeds, 95 % bootstrap interval over test clips in brackets"
        )
    lines += [f"{s.mark}: {s.citation}" for s in published_sources().values() if s.mark in used]
    if any(cell.borrowed for cell in cells):
        lines.append("°: that source took the number from another paper")
    if any(not cell.comparable and not cell.mini for cell in cells):
        lines.append("*: not comparable; its record says why")
    return lines
