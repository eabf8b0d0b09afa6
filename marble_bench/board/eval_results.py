"""Scores of records as the Hugging Face hub shows them on a model's page, by `.eval_results/*.yaml` in its repository.

The form is the hub's own (huggingface.co/docs/hub/eval-results), written by `huggingface_hub`. An entry names a benchmark: a
data set of the hub whose `eval.yaml` lists the tasks, which the user has to name, for no record knows one. Values are in
percent, decibels for SDR; the protocol, the metric and the interval are in the entry's notes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench.board.rows import Cell, record_cells
from marble_bench.board.table import format_score
from marble_bench.errors import BenchError, DataError, UsageError, listing, suggest_name
from marble_bench.files.atomic import write_whole
from marble_bench.files.names import name_folder
from marble_bench.records.record_file import Stored
from marble_bench.records.validation import read_valid

if TYPE_CHECKING:
    from huggingface_hub import EvalResultEntry

FOLDER = ".eval_results"  # in a model's repository
_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def build_entries(
    stored: Stored, dataset: str, metrics: Sequence[str] = (), source_url: str = ""
) -> list[EvalResultEntry]:
    """The entries of a record: one for its task's main metric, and one for each of `metrics`.

    stored: a valid record, see `read_valid`. dataset: the benchmark on the hub, `OWNER/NAME`. source_url: where the record
    or a report of it can be read.

    The task's name is the `task_id` of the main metric, `TASK/METRIC` that of another one. Raises DataError for a record
    that is not comparable or has no such score, UsageError for an unknown metric.
    """
    from huggingface_hub import EvalResultEntry

    record = stored.record
    if not record.comparable:
        raise DataError(f"{stored.path} is not comparable, so it is not exported: {'; '.join(record.why_not)}")
    cells = {cell.metric: cell for cell in record_cells([stored])}
    entries = []
    for metric in dict.fromkeys((*record.main_scores, *metrics)):
        if metric not in record.scores:
            hint = suggest_name(metric, record.scores) or f"; there are {listing(record.scores)}"
            raise UsageError(f"no score '{metric}' in {stored.path}{hint}")
        if metric not in cells:
            raise DataError(f"{stored.path} has no value of {metric}, so there is nothing to export")
        cell = cells[metric]
        entries.append(
            EvalResultEntry(
                dataset_id=dataset,
                task_id=record.task.name if cell.measure.main else f"{record.task.name}/{metric}",
                value=round(cell.value * cell.measure.scale, 4),
                source_url=source_url or None,
                source_name="marble-bench record" if source_url else None,
                notes=_describe(stored, cell),
            )
        )
    return entries


def _describe(stored: Stored, cell: Cell) -> str:
    """What a reader has to know about a score: what it is of, by which rules, how sure."""
    record, unit = stored.record, cell.measure.unit
    low, high = cell.uncertainty.interval or (None, None)
    known = low is not None and high is not None
    parts = [
        f"{cell.metric} in {'percent' if unit == 'fraction' else unit}",
        f"frozen encoder, protocol {record.protocol.name} version {record.protocol.version}",
        f"95 % interval {format_score(low, unit)} to {format_score(high, unit)}" if known else "",  # type: ignore[arg-type]
        f"trained on this corpus ({cell.origin.contaminated})" if cell.origin.contaminated else "",
        f"weights sha256 {record.model.weights}",
        f"marble-bench {record.suite.version}",
    ]
    return "; ".join(part for part in parts if part)


def write_eval_results(
    records: Sequence[Path], folder: Path, dataset: str, metrics: Sequence[str] = (), source_url: str = ""
) -> list[Path]:
    """Write the entries of one model's records below the folder of its repository; the files, one for each record.

    records: the paths of their JSON. See `build_entries`. Raises DataError for an invalid record, UsageError for records of
    several models and for two of one task and protocol, BenchError if the disk refuses. Nothing is written if any record is
    refused.
    """
    import yaml
    from huggingface_hub import eval_result_entries_to_yaml

    if not _DATASET.fullmatch(dataset):
        raise UsageError(
            f"--dataset '{dataset}': give the benchmark that the scores belong to, on the hub, as OWNER/NAME"
        )
    stored = [read_valid(path.expanduser()) for path in records]
    models = dict.fromkeys(f"{each.record.model.name}/{each.record.model.weights}" for each in stored)
    if len(models) > 1:
        raise UsageError(f"these are records of {listing(models)}: a repository has one model, so export them apart")
    texts: dict[Path, str] = {}
    for each in stored:
        entries = eval_result_entries_to_yaml(build_entries(each, dataset, metrics, source_url))
        record = each.record
        name = f"marble-bench-{name_folder(record.protocol.name)}-{name_folder(record.task.name)}.yaml"
        place = folder / FOLDER / name
        if place in texts:
            raise UsageError(f"two records of {record.task.name} by protocol {record.protocol.name}: give one of them")
        texts[place] = yaml.safe_dump(entries, sort_keys=False, allow_unicode=True, width=1000)
    for place, text in texts.items():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_whole(place, text.encode())
        except OSError as error:
            raise BenchError(f"{place} cannot be written: {error.strerror or error}") from error
    return list(texts)
