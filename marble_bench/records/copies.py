"""Whether the predictions of a record are another model's: equal, or as near as no two models come.

A record under a new name and new digests still has its predictions, maybe with noise on them, in another order of seeds, or
scaled. So outputs are compared as numbers: those of a seed for the test clips, without each output's mean over the clips
(for classes also without each clip's mean over the outputs, which decides nothing), by their correlation with those of
every seed of every record on the same clips. Where a metric reads counts or decibels of a clip, which two good models may
share, only tables that are equal throughout are meant. Two names whose records declare the same weights are one model, which
is said and is no fraud.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.records.claims import find_encoder
from marble_bench.records.record import Record
from marble_bench.records.record_file import Predicted, Stored, read_predictions

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

# of outputs; benchmarks/honest_records.py looks whether honest models come so near
SAME, NEAR = 0.9999, 0.995
FEWEST = 24  # numbers that vary freely; fewer agree by chance
NUMBERS = 4096  # of a seed that are compared, so that a board of many records is compared in a moment


@dataclass
class Answers:
    """What the records so far have answered, by task and test clips. fallen: those of them that are invalid."""

    known: dict[str, list[tuple[Stored, Any]]] = field(default_factory=dict)
    invalid: set[Path] = field(default_factory=set)

    def find_copies(self, stored: Stored, frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
        """Whether a record's predictions are those of a record before it that is of another model."""
        main = next(iter(stored.record.main_scores), "")
        found = read_predictions(stored, main) if main else None
        if found is None:
            return
        if found.metric.kind in ("classes", "tags", "masked_tags", "scalars"):
            own: Any = _compute_directions(found)
            where = "\n".join(["numbers", *found.items])
        else:
            own, where = _digest_content(frame), "content"
        if own is None:
            return
        before = self.known.setdefault(f"{stored.record.task.name}\n{where}", [])
        others = [
            (_compute_nearness(own, theirs), other)
            for other, theirs in before
            if _identify_model(other) != _identify_model(stored)
        ]
        before.append((stored, own))
        valid = [each for each in others if each[1].path not in self.invalid and each[0] >= SAME]
        most, other = max(valid or others, key=lambda each: each[0], default=(0.0, stored))
        if valid and _is_another_state(stored, other):
            yield (
                "near answers",
                f"its predictions are those of {other.name} with other code or weights under the same name ({other.path}); "
                "keep one of the two",
            )
        elif valid and same_weights(stored.record, other.record):
            yield (
                "same model",
                f"its weights are those of {other.name}, which is the same model under another name ({other.path})",
            )
        elif valid:
            yield "same answers", f"its predictions are those of {other.name}, another model ({other.path})"
        elif most >= NEAR:  # or the same as those of an invalid one, which takes no other with it
            yield (
                "near answers",
                f"its predictions go with those of {other.name}, another model, at {most:.4f} of 1 ({other.path})",
            )


def _is_another_state(stored: Stored, other: Stored) -> bool:
    """Whether two records are of one name that is registered nowhere: of somebody's own model, edited in between."""
    one, two = stored.record.model.name, other.record.model.name
    return one == two and find_encoder(stored.record) is None


def same_weights(one: Record, other: Record) -> bool:
    """Whether two records declare the same weights: one digest of what was loaded, or a file of tensors that both have.

    Of a model without weights the digest is of its declared facts, and says nothing of another name.
    """
    if "none" in (one.model.source, other.model.source):
        return False
    return one.model.weights_sha256 == other.model.weights_sha256 or bool(_files(one) & _files(other))


def _files(record: Record) -> set[str]:
    """The sha256 of every file of tensors that a record names, or that is declared of its registered encoder."""
    encoder = find_encoder(record)
    declared = encoder.weights.digests if encoder and encoder.weights else ()
    return {*record.model.files.values(), *(each for _, each in declared if len(each) == 64)}


def _identify_model(stored: Stored) -> tuple[str, str]:
    return stored.record.model.name, stored.record.model.weights_sha256


def _compute_directions(found: Predicted) -> NDArray[Any] | None:
    """`(seeds, numbers)`: what each seed answered, centred and of length 1; None where too little of it varies."""
    import numpy as np

    outputs = found.outputs.double().numpy()
    every = -(-outputs.shape[1] * outputs.shape[2] // NUMBERS)
    outputs = outputs[:, ::every]
    if found.metric.kind == "classes":
        outputs = outputs - outputs.mean(axis=2, keepdims=True)
    outputs = outputs - outputs.mean(axis=1, keepdims=True)
    free = (outputs.shape[1] - 1) * (outputs.shape[2] - (found.metric.kind == "classes"))
    rows = outputs.reshape(len(outputs), -1)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if free < FEWEST or not np.isfinite(lengths).all() or not (lengths > 0).all():
        return None
    directions: NDArray[Any] = rows / lengths
    return directions


def _compute_nearness(own: Any, theirs: Any) -> float:
    """The highest correlation between any two seeds; of digests of whole tables, whether they are equal."""
    return float(own == theirs) if isinstance(own, str) else float((own @ theirs.T).max())


def _digest_content(frame: pd.DataFrame) -> str:
    """A digest of all that a table says, whatever the order of its rows and columns and however it is packed."""
    columns = sorted(frame.columns)
    rows = sorted(
        repr([value.tolist() if hasattr(value, "tolist") else value for value in row])
        for row in frame[columns].itertuples(index=False)
    )
    return hashlib.sha256("\n".join([*columns, *rows]).encode()).hexdigest()
