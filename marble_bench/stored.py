"""Records on disk with what was predicted: the outputs and the truth that a score was made of, to score anew.

A record whose predictions are not beside it is still a record; what needs them says so, and nothing is made up for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import metrics, plugins, results
from marble_bench.errors import DataError, UsageError, listing
from marble_bench.metrics import Metric

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Stored:
    """A record and its file."""

    path: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """`model task`, for messages."""
        return f"{self.record['model']['name']} {self.record['task']['name']}"


@dataclass(frozen=True)
class Predicted:
    """What a metric of a record was made of, items sorted by name.

    outputs: `(seeds, items, width)`. truth: `(items,)` or `(items, width)`. items, groups: `(items,)` names.
    """

    metric: Metric
    outputs: torch.Tensor
    truth: torch.Tensor
    items: list[str]
    groups: list[str]


def read_stored(folder: Path) -> list[Stored]:
    """Every record below a results folder, by path. Raises DataError naming a file that is none."""
    return [read_one(path) for path in results.paths(folder)]


def read_one(path: Path) -> Stored:
    """A record with its file. Raises DataError naming the file and the fields if it is not of a record's form."""
    record = results.read(path)
    if wrong := results.faults(record):
        raise DataError(f"{path} is no whole record (bench results check): {listing(wrong, most=3)}")
    return Stored(path, record)


def table(stored: Stored, kind: str) -> pd.DataFrame | None:
    """The `grid` or the `predictions` beside a record; None if there is none. Raises DataError if it cannot be read."""
    import pandas as pd

    path = results.table_path(stored.path, kind)
    if not path.is_file():
        return None
    try:
        return pd.read_parquet(path)
    except Exception as error:  # pyarrow has an error of its own for each way to be broken
        raise DataError(f"{path} cannot be read as a table: {error}") from error


def metric_of(record: dict[str, Any], name: str) -> tuple[Metric, str] | None:
    """The metric behind a score's name, and its view: `clip`, or `group` where outputs are averaged by group.

    None where it cannot be made of stored predictions: an ensemble over windows, a metric of a task that is not here.
    """
    known: dict[str, Metric] = {
        each.name: each for each in (getattr(metrics, key) for key in metrics.__all__) if isinstance(each, Metric)
    }
    grouped: dict[str, Metric] = {}
    try:
        task = plugins.find_task(record["task"]["name"]).task
    except UsageError:
        pass  # a user's own task: the suite's metrics may still serve, by their names
    else:
        known = {metric.name: metric for metric in task.metrics}
        if task.group_name:
            grouped = {f"{task.metrics[0].name}_{task.group_name}": task.metrics[0]}
    if name in known:
        return known[name], "clip"
    return (grouped[name], "group") if name in grouped else None


def predicted(stored: Stored, name: str, split: str = "test") -> Predicted | None:
    """What the score `name` of a record was made of; None where that is not stored. Raises DataError for a broken table."""
    found = metric_of(stored.record, name)
    frame = table(stored, "predictions") if found else None
    if found is None or frame is None:
        return None
    metric, view = found
    try:
        return _predicted(frame[frame["split"] == split], metric, view)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        path = results.table_path(stored.path, "predictions")
        raise DataError(f"{path} has not the predictions of {stored.name}: {error}") from error


def _rectangle(rows: Iterable[Sequence[float]]) -> NDArray[Any]:
    """Lists of numbers as `(items, longest)` float64, shorter ones filled up with -1 (times of events are not negative)."""
    import numpy as np

    each = [np.asarray(row, dtype=np.float64) for row in rows]
    made = np.full((len(each), max(map(len, each), default=0)), -1.0)
    for index, row in enumerate(each):
        made[index, : len(row)] = row
    return made


def _predicted(frame: pd.DataFrame, metric: Metric, view: str) -> Predicted:
    import numpy as np
    import torch

    seeds = [part.sort_values("clip") for _, part in frame.groupby("seed", sort=True)]
    if not seeds or any(list(part["clip"]) != list(seeds[0]["clip"]) for part in seeds):
        raise ValueError("seeds have not the same clips")
    first = seeds[0]
    if len({len(row) for part in seeds for row in part["outputs"]}) != 1:
        raise ValueError("outputs are not all of one length")
    answers = metric.kind in ("classes", "tags", "scalars")
    exact = np.array([np.stack(list(part["outputs"])) for part in seeds], dtype=np.float64)
    outputs = torch.from_numpy(exact).float() if answers else torch.from_numpy(exact)
    truth = torch.from_numpy(_rectangle(first["truth"]))
    if answers:
        if metric.kind != "classes" and truth.shape[-1] != outputs.shape[-1]:
            raise ValueError(f"{outputs.shape[-1]} outputs are held against a truth of {truth.shape[-1]}")
        truth = truth[:, 0].long() if metric.kind == "classes" else truth.float()
    items, groups = list(first["clip"]), list(first["group"])
    if view == "group":
        from marble_bench.scoring import Answers, by_group

        made = by_group(Answers({"test": outputs}, {"test": truth}, groups), {"test": groups})
        outputs, truth, items = made.outputs["test"], made.truth["test"], made.groups
        groups = items
    return Predicted(metric, outputs, truth, items, groups)


def alike(answers: Iterable[Predicted]) -> bool:
    """Whether all were scored on the same items with the same truth, so that they can be paired."""
    import torch

    first, *others = answers
    return all(
        each.items == first.items and each.groups == first.groups and torch.equal(each.truth, first.truth)
        for each in others
    )
