"""The scores that papers print: `results/published/` as cells, and whether a printed score can be what it says it is.

A source's protocol is a name: it needs no file here. Sources whose rules the suite does not run say so in `apart`; their
scores stand in tables of their own. A printed accuracy is right answers of test clips, so only some numbers are possible
(`is_share_of`); one that is not possible is marked, and has no interval.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path

import marble_bench
from marble_bench.board.rows import (
    Cell,
    MetricReading,
    Provenance,
    Uncertainty,
    explain_contamination,
    find_task,
    find_training_data,
)
from marble_bench.scoring.statistics import compute_wilson_interval
from marble_bench.scoring.targets import Classes

# What the mark of an impossible score means.
IMPOSSIBLE = (
    "‡: no number of test clips gives this score, so it was measured in another way: other clips, a mean, an error"
)


@dataclass(frozen=True)
class PublishedSource:
    """A paper's table: its letter on the board, the protocol it belongs to, its citation.

    apart: what is different where this suite does not run the protocol; empty where it does.
    """

    source: str
    mark: str
    protocol: str
    apart: str
    citation: str


def _find_published_folder() -> Path:
    """`results/published`: inside the package when installed, at the root of a checkout."""
    package = Path(marble_bench.__file__).parent
    installed = package / "published"
    return installed if installed.is_dir() else package.parent / "results" / "published"


def _read(name: str) -> list[dict[str, str]]:
    with (_find_published_folder() / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=1)
def read_published_sources() -> dict[str, PublishedSource]:
    """The papers, by the name that `published.csv` gives them."""
    return {row["source"]: PublishedSource(**row) for row in _read("sources.csv")}


def list_protocols_apart() -> dict[str, str]:
    """The protocols that papers follow and this suite does not run, each with what is different, in the papers' order."""
    return {each.protocol: each.apart for each in read_published_sources().values() if each.apart}


def list_published_protocols() -> list[str]:
    """Every protocol that papers follow, in the papers' order."""
    return list(dict.fromkeys(each.protocol for each in read_published_sources().values()))


@lru_cache(maxsize=1)
def read_published_cells() -> tuple[Cell, ...]:
    """Every published score, with what can be said of its interval."""
    return tuple(_build_cell(row, read_published_sources()[row["source"]]) for row in _read("published.csv"))


def _build_cell(row: dict[str, str], source: PublishedSource) -> Cell:
    task, metric, decibels = row["task"], row["metric"], row["metric"].startswith("sdr")
    interval, basis, impossible = _judge(row, source)
    known = find_task(task)
    return Cell(
        model=row["model"],
        mark=source.mark,
        protocol=source.protocol,
        task=task,
        metric=metric,
        value=float(row["value"]) / (1 if decibels else 100),
        measure=MetricReading("dB" if decibels else "fraction", main=known is None or known.metrics[0].name == metric),
        uncertainty=Uncertainty(interval, basis),
        origin=Provenance(
            source.citation,
            row["label"],
            borrowed=row["origin"] == "borrowed",
            contaminated=explain_contamination(find_training_data(row["model"]), task),
            impossible=impossible,
            apart=source.apart,
        ),
    )


def list_printed_metrics() -> dict[str, tuple[str, ...]]:
    """The metrics that papers print of each task, in their order."""
    found: dict[str, dict[str, None]] = {}
    for row in _read("published.csv"):
        found.setdefault(row["task"], {})[row["metric"]] = None
    return {task: tuple(names) for task, names in found.items()}


@dataclass(frozen=True)
class PrintedShare:
    """A printed score that is a share of test clips. value: percent, as printed. possible: whether some number gives it."""

    source: str
    model: str
    label: str
    task: str
    metric: str
    value: str
    clips: int
    possible: bool


_NAMED = ("model", "label", "task", "metric", "value")


def check_published() -> list[PrintedShare]:
    """Every printed score that is a share of this suite's test clips, and whether some number of them gives it.

    Scores of protocols that the suite does not run are of other clips, so nothing is said of them.
    """
    return list(_judge_rows(_read("published.csv"), read_published_sources()))


def _judge_rows(rows: Iterable[dict[str, str]], sources: dict[str, PublishedSource]) -> Iterable[PrintedShare]:
    for row in rows:
        source = sources[row["source"]]
        if (clips := _count_shares(row, source)) is not None:
            possible = is_share_of(row["value"], clips, _STEPS[row["metric"]])
            model, label, task, metric, value = (row[name] for name in _NAMED)
            yield PrintedShare(source.mark, model, label, task, metric, value, clips, possible)


# Metrics that are a mean over clips of something between 0 and 1, and what a clip's share is a multiple of.
_STEPS = {"accuracy": Decimal(1), "weighted": Decimal("0.1")}


def _count_shares(row: dict[str, str], source: PublishedSource) -> int | None:
    """How many test clips a printed score is a share of; None where it is something else, or of other clips."""
    task = find_task(row["task"])
    if task is None or source.apart or row["metric"] not in _STEPS or not isinstance(task.target, Classes):
        return None
    return task.counts["test"]


def _judge(row: dict[str, str], source: PublishedSource) -> tuple[tuple[float, float] | None, str, str]:
    """What a test size says about a printed score: a 95 % interval or none, what that rests on, and why it is impossible.

    A mean of values between 0 and 1 varies at most as a share does (its variance is at most p (1 - p)), so that Wilson's
    interval is wide enough for it. Areas under curves, R2, pooled F and decibels depend on more than the test size. A
    share that no number of these test clips gives was measured in another way, and has no interval either.
    """
    found, printed = find_task(row["task"]), row["value"]
    if found is None or source.apart:
        return None, "none: the size of the test split is not known here", ""
    if (clips := _count_shares(row, source)) is None:
        return None, "none: this score's spread does not follow from the size of the test split", ""
    if not is_share_of(printed, clips, _STEPS[row["metric"]]):
        why = f"no number of {clips:,} test clips gives {printed} %"
        return None, f"none: {why}", why
    kind = "binomial" if row["metric"] == "accuracy" else "at most binomial"
    together = f"; too narrow, clips of one {found.group_name} go together" if found.group_name else ""
    basis = f"{kind} (Wilson), {clips:,} test clips, one run{together}"
    return compute_wilson_interval(float(printed) / 100, clips), basis, ""


def is_share_of(printed: str, count: int, step: Decimal) -> bool:
    """Whether a printed percentage is, rounded to its digits, what some sum of `count` clips gives.

    step: what a clip counts is a multiple of.

    >>> is_share_of("74.8", 290, Decimal(1)), is_share_of("73.5", 290, Decimal(1))
    (True, False)
    """
    value = Decimal(printed)
    ulp = Decimal(1).scaleb(int(value.as_tuple().exponent))
    nearest = (value / 100 * count / step).to_integral_value()
    shares = (100 * total * step / count for total in (nearest - 1, nearest, nearest + 1))
    return any(abs(share - value) <= ulp / 2 for share in shares)
