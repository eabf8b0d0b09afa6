"""The leaderboard as data: one `Cell` per model, source, task and metric. Values are fractions, or decibels for SDR."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import marble_bench


@dataclass(frozen=True)
class Cell:
    """One score. mark: `measured` for a record, else the published source's letter. borrowed: that source took the
    number from another paper. interval: 95 %, None for published rows. mini: made on a miniature, ranked apart.
    """

    model: str
    mark: str
    protocol: str
    task: str
    metric: str
    value: float
    unit: str
    borrowed: bool = False
    interval: tuple[float | None, float | None] | None = None
    trivial: float | None = None
    comparable: bool = True
    mini: bool = False
    main: bool = True


@dataclass(frozen=True)
class PublishedSource:
    """A paper's table: its letter on the board, the protocol it stands for, its citation."""

    source: str
    mark: str
    protocol: str
    citation: str


def _published_folder() -> Path:
    """`results/published`: inside the package when installed, at the root of a checkout."""
    package = Path(marble_bench.__file__).parent
    installed = package / "published"
    return installed if installed.is_dir() else package.parent / "results" / "published"


def _read(name: str) -> list[dict[str, str]]:
    with (_published_folder() / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=1)
def published_sources() -> dict[str, PublishedSource]:
    """The papers, by the name that `published.csv` gives them."""
    return {row["source"]: PublishedSource(**row) for row in _read("sources.csv")}


def published_cells() -> list[Cell]:
    """Every published score."""
    cells = []
    for row in _read("published.csv"):
        source = published_sources()[row["source"]]
        decibels = row["metric"].startswith("sdr")
        cells.append(
            Cell(
                model=row["model"],
                mark=source.mark,
                protocol=source.protocol,
                task=row["task"],
                metric=row["metric"],
                value=float(row["value"]) / (1 if decibels else 100),
                unit="dB" if decibels else "fraction",
                borrowed=row["origin"] == "borrowed",
            )
        )
    return cells


def record_cells(records: Iterable[dict[str, Any]]) -> list[Cell]:
    """Every score of some records."""
    return [
        Cell(
            model=record["model"]["name"],
            mark="measured",
            protocol=record["protocol"]["name"],
            task=record["task"]["name"],
            metric=metric,
            value=score["test"],
            unit=score["unit"],
            interval=(score["ci95"][0], score["ci95"][1]),
            trivial=score["trivial"],
            comparable=record["comparable"],
            mini=record["data"]["mini"],
            main=score["main"],
        )
        for record in records
        for metric, score in record["scores"].items()
        if score["test"] is not None
    ]
