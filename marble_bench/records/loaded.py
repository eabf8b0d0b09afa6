"""The valid records of a folder, and their scores as one pandas table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.errors import UsageError, counted
from marble_bench.records import results
from marble_bench.records.record import Record, Score
from marble_bench.records.results import Stored
from marble_bench.records.validation import keep_valid

if TYPE_CHECKING:
    import pandas as pd

# The columns of `Results.to_pandas`, in order. Scores are fractions, or decibels where `unit` says dB.
SCORE_COLUMNS = {
    "model": "the encoder's name",
    "weights": "the first 12 hexadecimal digits of the digest of the encoder's weights",
    "task": "the task's name",
    "protocol": "the protocol's name",
    "metric": "the metric's name",
    "main": "whether this metric is the task's main metric, by which the best probe was chosen",
    "test": "the score on the test split, as the mean over seeds; NaN if the record has no test score",
    "ci95_low": "the lower bound of the test score's 95 % interval",
    "ci95_high": "the upper bound of this interval",
    "std": "the standard deviation of the test score over seeds; NaN for one seed",
    "valid": "the score on the validation split, as the mean over seeds",
    "trivial": "the test score of the best constant answer",
    "unit": "`fraction` or `dB`",
    "higher_is_better": "whether a higher score is better",
    "seeds": "how many seeds were trained",
    "test_clips": "how many clips the test split has",
    "comparable": "whether the record may be ranked with others",
    "why_not": "the reason why the record may not be ranked; empty for a comparable record",
    "mini": "whether the record was made on a miniature",
    "path": "the record's file",
}


@dataclass(frozen=True)
class Results:
    """The valid records of a results folder.

    stored: each record with its file. left_off: a line for each file that is no valid record, and why.
    """

    stored: tuple[Stored, ...]
    left_off: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.stored)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __repr__(self) -> str:
        also = f", {len(self.left_off)} invalid left off" if self.left_off else ""
        return f"Results({counted(len(self.stored), 'record')}{also})"

    @property
    def records(self) -> list[Record]:
        """The records, by path."""
        return [each.record for each in self.stored]

    def to_pandas(self) -> pd.DataFrame:
        """One row for each score of each record, with the columns of `SCORE_COLUMNS`."""
        import pandas as pd

        rows = [_row(each, name, score) for each in self.stored for name, score in each.record.scores.items()]
        return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))


def _row(each: Stored, metric: str, score: Score) -> dict[str, Any]:
    record = each.record
    low, high = score.ci95
    return {
        "model": record.model.name,
        "weights": record.model.weights,
        "task": record.task.name,
        "protocol": record.protocol.name,
        "metric": metric,
        "main": score.main,
        **{
            name: float("nan") if value is None else float(value)
            for name, value in (
                *(("test", score.test), ("ci95_low", low), ("ci95_high", high), ("std", score.std)),
                *(("valid", score.valid), ("trivial", score.trivial)),
            )
        },
        "unit": score.unit,
        "higher_is_better": score.higher_is_better,
        "seeds": record.selection.seeds,
        "test_clips": record.data.clips.test,
        "comparable": record.comparable,
        "why_not": "; ".join(record.why_not),
        "mini": record.data.mini,
        "path": str(each.path),
    }


def load(folder: Path, on_left_off: Callable[[Sequence[str]], None]) -> Results:
    """The valid records below a results folder, by path.

    on_left_off: is given a line for each file that is no valid record, if there are any. Raises UsageError if the folder is
    not there.
    """
    if folder.is_file():
        raise UsageError(f"--results-dir: {folder} is a file: give the folder that holds the records")
    if not folder.is_dir():
        raise UsageError(f"--results-dir: {folder} does not exist")
    found = keep_valid(results.list_paths(folder))
    if found.left_off:
        on_left_off(found.left_off)
    return Results(tuple(found.valid), tuple(found.left_off))
