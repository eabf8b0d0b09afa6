"""What measured cells were made of: predictions, the jackknife of their scores, and intervals that these bear out."""

from __future__ import annotations

import hashlib
import math
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.board.rows import Cell
from marble_bench.records import comparable
from marble_bench.records.record_file import Predicted, Stored, read_predictions
from marble_bench.scoring import statistics
from marble_bench.scoring.scores import convert_number

if TYPE_CHECKING:
    from numpy.typing import NDArray

PLAUSIBLE = (
    0.6,
    1.7,
)  # an interval's width, in widths of the jackknife's by t; others are made again, which takes longer


@dataclass
class Answers:
    """What cells were made of, each read and cut once."""

    stored: dict[str, Stored]
    cache: Path | None

    def __post_init__(self) -> None:
        self._read: dict[tuple[str, str], Predicted | None] = {}
        self._cut: dict[tuple[str, str], tuple[float, NDArray[Any]]] = {}

    def of(self, cell: Cell) -> Predicted | None:
        """The predictions behind a measured cell; None where there are none."""
        key = (cell.origin.source, cell.metric)
        if key not in self._read:
            self._read[key] = read_predictions(self.stored[cell.origin.source], cell.metric)
        return self._read[key]

    def is_ranked(self, cell: Cell) -> bool:
        """Whether the record behind a measured cell follows the rules of its protocol; others are shown, and not ranked."""
        return not comparable.changes_rules(self.stored[cell.origin.source].record)

    def jackknife(self, cell: Cell) -> tuple[float, NDArray[Any]]:
        """Score, and the scores `(blocks,)` with one block of clips left out, both the mean over seeds."""
        key = (cell.origin.source, cell.metric)
        if key not in self._cut:
            self._cut[key] = self._load_or_compute(cell)
        return self._cut[key]

    def _load_or_compute(self, cell: Cell) -> tuple[float, NDArray[Any]]:
        import numpy as np

        from marble_bench.files.atomic import write_whole

        answers = self.of(cell)
        assert answers is not None
        digests = self.stored[cell.origin.source].record.digests
        digest = digests.predictions if digests else ""
        cached = self.cache / f"{digest}-{cell.metric}-{statistics.BLOCKS}.f64" if self.cache and digest else None
        if cached is not None and (values := _read_cached(cached)) is not None:
            return float(values[0]), values[1:]
        metric, outputs, truth = answers.metric, answers.outputs, answers.truth
        ones = np.ones((1, len(answers.groups)), dtype=np.float32)
        score = statistics.rescore(metric, outputs, truth, ones).mean()
        cut = statistics.rescore(metric, outputs, truth, statistics.jackknife(answers.groups)).mean(axis=1)
        if cached is not None:
            content = np.concatenate([[score], cut]).astype("<f8").tobytes()
            with suppress(OSError):  # a cache that cannot be written only costs the same time again
                cached.parent.mkdir(parents=True, exist_ok=True)
                write_whole(cached, hashlib.sha256(content).digest() + content)
        return float(score), cut


def _read_cached(path: Path) -> NDArray[Any] | None:
    """What was kept in the statistics cache; None if nothing was, or if it is not what was written."""
    import numpy as np

    try:
        content = path.read_bytes()
    except OSError:
        return None
    values = content[32:]
    return np.frombuffer(values, "<f8") if hashlib.sha256(values).digest() == content[:32] else None


def replace_interval(cell: Cell, answers: Answers) -> Cell:
    """A measured cell with an interval that its predictions bear out; where the record's is not of their width, theirs.

    Other versions made intervals in other ways, within `PLAUSIBLE` of the jackknife's. A score that cannot be made again
    from predictions keeps what the record says.
    """
    found = answers.of(cell)
    if found is None or _is_plausible(cell, answers):
        return cell
    low, high = statistics.bootstrap_interval(found.metric, found.outputs, found.truth, found.groups)
    computed = (convert_number(low), convert_number(high))
    recorded = cell.uncertainty.interval or (None, None)
    if all(one is other or _is_equal(one, other) for one, other in zip(recorded, computed, strict=True)):
        return cell
    words = "interval computed again from the predictions, because the record's does not follow from them"
    return replace(
        cell, uncertainty=replace(cell.uncertainty, interval=computed, basis=f"{cell.uncertainty.basis}; {words}")
    )


def _is_equal(one: float | None, other: float | None) -> bool:
    return one is not None and other is not None and math.isclose(one, other, rel_tol=1e-4)


def _is_plausible(cell: Cell, answers: Answers) -> bool:
    """Whether an interval holds its score and is about as wide as the jackknife's."""
    low, high = cell.uncertainty.interval or (None, None)
    if low is None or high is None or not low <= cell.value <= high or not is_smooth(cell, answers):
        return False
    score, cut = answers.jackknife(cell)
    below, above = statistics.compute_t_interval(score, cut)
    least, most = (times * (above - below) for times in PLAUSIBLE)
    return least <= high - low <= most


def is_smooth(cell: Cell, answers: Answers) -> bool:
    """Whether the score of a cell changes little when one clip is left out, so that a jackknife says how sure it is."""
    found = answers.of(cell)
    return found is not None and found.metric.smooth
