"""Records on disk with what was predicted: the outputs and the truth that a score was made of, to score anew.

A record whose predictions are not beside it is still a record; what needs them says so, and nothing is made up for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core import plugins
from marble_bench.errors import DataError, UsageError, listing
from marble_bench.files.names import is_name, is_text
from marble_bench.metrics import Metric, stem_metrics
from marble_bench.metrics._bsseval import MEASURES
from marble_bench.records import results
from marble_bench.records.record import Record
from marble_bench.records.results import Stored as Stored

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from numpy.typing import NDArray


LAYERS = "layers"  # the form of the grid's table where no probe is trained
# What the tables of a run hold: the columns that each has, and those that some have.
COLUMNS = {
    "grid": {
        "layer": "text", "learning_rate": "number", "weight_decay": "number", "seed": "integer", "valid": "number",
        "best_epoch": "integer", "diverged": "flag",
    },
    "predictions": {
        "split": "text", "seed": "integer", "clip": "text", "group": "text", "truth": "numbers", "outputs": "numbers",
    },
    "bsseval": {"seed": "integer", "clip": "text", "stem": "text", **dict.fromkeys(MEASURES, "numbers")},
    LAYERS: {"layer": "text", "seed": "integer", "half": "text", "valid": "number", "own": "number"},
}  # fmt: skip
MORE_COLUMNS = {
    "grid": {
        "stem": "text", "hidden": "integer", "batch_size": "integer", "dropout": "number", "standardize": "flag",
        "history": "numbers",
    },
    "predictions": {},
    "bsseval": {},
    LAYERS: {},
}  # fmt: skip
MAY_BE_UNKNOWN = ("valid", "history", "outputs", *MEASURES)  # of a probe that diverged, of a stem that is silent
# The largest table of an honest run has 0.4 million rows and 60 million values: a full MTG-Jamendo split, eight changes.
MOST_ROWS, MOST_VALUES = 4_000_000, 80_000_000
MOST_COLUMNS, MOST_ROW_GROUPS = 1000, 100  # a group has a million rows; each kind of event has a column
# A value of an honest table takes at least half a byte: outputs do not repeat. Small tables may be of any kind.
SPARE_ROWS, SPARE_VALUES, VALUES_PER_BYTE = 1000, 2_000_000, 4
MOST_TIMES_THE_MEAN = 16  # how many more events than the mean the clip with most of them has


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
    return [results.read(path) for path in results.list_paths(folder)]


def load_table(stored: Stored, kind: str) -> pd.DataFrame | None:
    """The `grid`, the `predictions` or the `bsseval` windows beside a record; None if there is none.

    Raises DataError if it cannot be read or is not of the form that a run writes. Rows, values and columns are counted by
    the file's footer before anything is unpacked: 300 kB of Parquet can hold 100 million rows.
    """
    import pyarrow as pa

    path = results.find_table_path(stored.path, kind)
    if not path.is_file():
        return None
    form = LAYERS if kind == "grid" and stored.record.retrieval else kind
    try:
        frame = _read(path, form, _count_rows(stored.record, kind))
    except (
        pa.ArrowException,
        OSError,
        ValueError,
        TypeError,
        NotImplementedError,
    ) as error:  # pyarrow has one for each way
        raise DataError(f"{path} cannot be read as a table: {error}") from error
    if wrong := _find_unfit(frame, form):
        raise DataError(f"{path} is no table of a run: {wrong}")
    for name, holds in _list_forms(form).items():
        if holds == "text" and name in frame:
            frame[name] = frame[name].astype(object)
    return frame


def _read(path: Path, kind: str, rows: int) -> pd.DataFrame:
    """The table in a file. rows: how many its record tells of. Raises DataError if it is too large or of another form.

    Columns of text are read as dictionaries, so that one long text in a thousand rows is held, and asked about, once.
    """
    import pyarrow.parquet as pq

    limits: dict[str, Any] = {"thrift_string_size_limit": 1 << 24, "thrift_container_size_limit": 1 << 20}
    results.check_table_size(path)
    with path.open("rb") as held:  # pyarrow itself opens no path that is not UTF-8
        file = pq.ParquetFile(held, **limits)
        wrong = _find_oversized(file.metadata, path.stat().st_size, rows) or _find_misshapen(file.schema_arrow, kind)
        if wrong:
            raise DataError(f"{path} is no table of a run: {wrong}")
        texts = [name for name in file.schema_arrow.names if _list_forms(kind).get(name) == "text"]
        file = pq.ParquetFile(held, metadata=file.metadata, read_dictionary=texts, **limits)
        frame: pd.DataFrame = file.read(use_threads=False).to_pandas(ignore_metadata=True)
    return frame


def _list_forms(kind: str) -> dict[str, str]:
    """What each column of a table holds; a column of no name in it holds numbers."""
    return COLUMNS[kind] | MORE_COLUMNS[kind]


def _count_rows(record: Record, kind: str) -> int:
    """How many rows a record says that a table has."""
    if kind == "grid":
        return record.selection.probes or record.model.states * len(record.selection.per_seed)
    if kind == "bsseval":
        return record.data.clips.test * len(record.selection.per_seed)  # of each seed and stem
    clips = record.data.clips
    changed = sum(each.clips for each in record.perturbations.values())
    return (clips.valid + clips.test + changed) * record.selection.seeds


def _find_oversized(footer: Any, size_bytes: int, rows: int) -> str:
    """What is too much of a Parquet file, by its footer, to be read; empty if nothing is.

    Up to twice the rows that the record tells of are read, so that a verdict can count them clip by clip.
    """
    if footer.num_rows > min(2 * rows + SPARE_ROWS, MOST_ROWS):
        return f"{footer.num_rows:,} rows, and its record tells of {rows:,}"
    if footer.num_columns > MOST_COLUMNS or footer.num_row_groups > MOST_ROW_GROUPS:
        return (
            f"{footer.num_columns:,} columns in {footer.num_row_groups:,} groups of rows, and at most {MOST_COLUMNS:,} in "
            f"{MOST_ROW_GROUPS} are read"
        )
    groups = [footer.row_group(index) for index in range(footer.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    values = sum(column.num_values for column in columns)
    most = min(MOST_VALUES, SPARE_VALUES + VALUES_PER_BYTE * size_bytes)
    if values > most:
        return f"{values:,} values in {size_bytes:,} bytes, and at most {most:,} are read"
    unpacked = sum(column.total_uncompressed_size for column in columns)
    if unpacked > 16 * most:
        return f"{unpacked:,} bytes when unpacked, and at most {16 * most:,} are read"
    return ""


def _find_misshapen(schema: Any, kind: str) -> str:
    """What is wrong with the columns of a table; empty if nothing is."""
    import pyarrow as pa

    names, needed = list(schema.names), COLUMNS[kind]
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        return f"column {listing(map(ascii, twice))} twice"
    if absent := [name for name in needed if name not in names]:
        return f"no column {listing(absent)}"
    forms = _list_forms(kind)
    numeric: Callable[[Any], bool] = lambda form: pa.types.is_integer(form) or pa.types.is_floating(form)  # noqa: E731
    fits: dict[str, Callable[[Any], bool]] = {
        "text": lambda form: pa.types.is_string(form) or pa.types.is_large_string(form),
        "integer": pa.types.is_integer,
        "flag": pa.types.is_boolean,
        "number": numeric,
        "numbers": lambda form: (
            (pa.types.is_list(form) or pa.types.is_large_list(form))
            and (numeric(form.value_type) or pa.types.is_null(form.value_type))
        ),
    }
    for name, form in zip(names, schema.types, strict=True):
        # of events, the times that were found of each kind are in a column of the kind's name
        expected = forms.get(name) or ("numbers" if kind == "predictions" and is_name(name) else None)
        if expected is None:
            return f"a column {ascii(name)[:80]}, which no run writes"
        if not fits[expected](form):
            return f"column {ascii(name)[:80]} is of type {str(form)[:80]}, not {expected}"
    return ""


def _find_unfit(frame: pd.DataFrame, kind: str) -> str:
    """What is wrong with the values of a table; empty if nothing is. What may be unknown is NaN, or minus infinity."""
    import numpy as np

    forms = _list_forms(kind)
    for name in frame.columns:
        column, form = frame[name], forms.get(name, "numbers")
        if form != "number" and column.isna().any():
            return f"column {name} lacks a value in row {int(column.isna().to_numpy().argmax())}"
        if form == "text":
            bad = next((text for text in column.unique() if not is_text(text)), None)
            if bad is not None:
                return f"column {name} has {ascii(bad)[:80]}, which is no text on one line"
        elif form == "integer" and len(column) and int(column.min()) < (-1 if name == "best_epoch" else 0):  # -1: never
            return f"column {name} has {int(column.min())}"
        elif form == "number" or form == "numbers":
            rows = column.to_list() if form == "numbers" else [column.to_numpy()]
            values = np.concatenate([np.empty(0), *rows]).astype(np.float64)
            if ((values == np.inf).any() and name not in MEASURES) or (
                name not in MAY_BE_UNKNOWN and np.isinf(values).any()
            ):
                return f"column {name} holds infinity"
            if name not in MAY_BE_UNKNOWN and forms.get(name) and np.isnan(values).any():
                return f"column {name} holds NaN"
    return ""


def find_metric(record: Record, name: str) -> tuple[Metric, str] | None:
    """The metric behind a score's name, and its view: `clip`, or `group` where outputs are averaged by group.

    None where it cannot be made of stored predictions: an ensemble over windows, a metric of a task that is not here.
    """
    return None if _is_own_metric(record, name) else _find_metrics(record.task.name, record.selection.stems).get(name)


@lru_cache(maxsize=16)
def _find_metrics(task_name: str, stems: tuple[str, ...]) -> dict[str, tuple[Metric, str]]:
    """Metric and view of every score that can be made of stored predictions, by its name. stems: those of the record."""
    try:
        task = plugins.find_registered_task(task_name).task
    except UsageError:  # a user's own task: the suite's metrics may still serve, by their names
        known = {name: metric for name, metric in plugins.find_metrics().items() if metric.kind != "stems"}
        known |= {each.name: each for each in (stem_metrics(stems) if stems else ())}
        return {name: (metric, "clip") for name, metric in known.items()}
    first = task.metrics[0]
    grouped = {f"{first.name}_{task.group_name}": (first, "group")} if task.group_name else {}
    return grouped | {metric.name: (metric, "clip") for metric in task.metrics}


def _is_own_metric(record: Record, name: str) -> bool:
    """Whether a record says that a metric is of its maker's own file, whatever it is called."""
    sources = record.identity.sources if record.identity else ()
    return any(each.kind == "metric" and each.name == name and not each.shipped for each in sources)


def read_predictions(
    stored: Stored, name: str, split: str = "test", frame: pd.DataFrame | None = None
) -> Predicted | None:
    """What the score `name` of a record was made of; None where that is not stored. Raises DataError for a broken table.

    frame: the record's predictions, where they were read already.
    """
    found = find_metric(stored.record, name)
    if split == "valid" and not stored.record.data.clips.valid:
        return None  # a ranking may have none
    if found and frame is None:
        frame = load_table(stored, "predictions")
    if found is None or frame is None:
        return None
    metric, view = found
    try:
        return _read_predicted(frame[frame["split"] == split], metric, view)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        path = results.find_table_path(stored.path, "predictions")
        raise DataError(f"{path} has not the predictions of {stored.name}: {error}") from error


def _pad_rows(rows: Iterable[Sequence[float]]) -> NDArray[Any]:
    """Lists of numbers as `(items, longest)` float64, shorter ones filled up with -1 (times of events are not negative).

    Raises ValueError where one is so much longer than the others that filling them up takes far more than they hold.
    """
    import numpy as np

    each = [np.asarray(row, dtype=np.float64) for row in rows]
    longest, held = max(map(len, each), default=0), sum(map(len, each))
    if longest * len(each) > SPARE_VALUES + MOST_TIMES_THE_MEAN * held:
        raise ValueError(f"one of {len(each):,} items has {longest:,} values, and all of them {held:,}")
    padded = np.full((len(each), longest), -1.0)
    for index, row in enumerate(each):
        padded[index, : len(row)] = row
    return padded


def _read_predicted(frame: pd.DataFrame, metric: Metric, view: str) -> Predicted:
    import numpy as np
    import torch

    seeds = [part.sort_values("clip") for _, part in frame.groupby("seed", sort=True)]
    if not seeds or any(list(part["clip"]) != list(seeds[0]["clip"]) for part in seeds):
        raise ValueError("seeds have not the same clips")
    first = seeds[0]
    if len({len(row) for part in seeds for row in part["outputs"]}) != 1:
        raise ValueError("outputs are not all of one length")
    answers = metric.kind in ("classes", "tags", "masked_tags", "scalars")
    exact = np.array([np.stack(list(part["outputs"])) for part in seeds], dtype=np.float64)
    outputs = torch.from_numpy(exact).float() if answers else torch.from_numpy(exact)
    truth = torch.from_numpy(_pad_rows(first["truth"]))
    if answers:
        if metric.kind != "classes" and truth.shape[-1] != outputs.shape[-1]:
            raise ValueError(f"{outputs.shape[-1]} outputs, and the truth has {truth.shape[-1]}")
        if metric.kind == "classes" and not torch.equal(truth, truth.floor()):
            raise ValueError("a truth is no whole number of a class")
        truth = truth[:, 0].long() if metric.kind == "classes" else truth.float()
    items, groups = list(first["clip"]), list(first["group"])
    if view == "group":
        from marble_bench.scoring.scores import Answers, average_groups

        averaged = average_groups(Answers({"test": outputs}, {"test": truth}, groups), {"test": groups})
        outputs, truth, items = averaged.outputs["test"], averaged.truth["test"], averaged.groups
        groups = items
    return Predicted(metric, outputs, truth, items, groups)


def are_alike(answers: Iterable[Predicted]) -> bool:
    """Whether all were scored on the same items with the same truth, so that they can be paired."""
    import torch

    first, *others = answers
    return all(
        each.items == first.items and each.groups == first.groups and torch.equal(each.truth, first.truth)
        for each in others
    )
