"""How near an estimated key is to the true one: MIREX weights through mir_eval.

The same key 1; same mode, the estimate a fifth above the reference 0.5; relative key 0.3; parallel key 0.2; else 0. The
fifth counts upwards only, as in JukeMIR and MARBLE; MIREX itself has counted both ways since 2017. mir_eval up to 0.8.2
knows no other way; where it has the argument `allow_descending_fifths`, it is pinned here.

Source: `mir_eval.key.weighted_score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from marble_bench.scoring.metric import Metric, mean_of

if TYPE_CHECKING:
    import torch

TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
# The order of classes that a key task must use, so that a class's index says which key it is.
KEYS = tuple(f"{tonic} {mode}" for mode in ("major", "minor") for tonic in TONICS)


@lru_cache(maxsize=1)
def _weights() -> Sequence[Sequence[float]]:
    """`[reference][estimate]` over KEYS, from mir_eval itself."""
    from inspect import signature

    from mir_eval.key import weighted_score

    pinned = {"allow_descending_fifths": False}
    known = {name: value for name, value in pinned.items() if name in signature(weighted_score).parameters}
    return [[weighted_score(reference, estimate, **known) for estimate in KEYS] for reference in KEYS]


def each_weighted(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, 24)`, `(clips,)` -> `(probes, clips)`: the weight of each decision."""
    import torch

    table = torch.tensor(_weights(), dtype=torch.float64, device=outputs.device)
    decided = outputs.argmax(dim=-1)
    return table[truth.expand_as(decided), decided]


def mean_weighted(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, 24)`, `(clips,)` -> `(probes,)`."""
    return each_weighted(outputs, truth).mean(dim=-1)


METRIC = Metric(
    "weighted",
    "classes",
    mean_weighted,
    each_weighted,
    "mir_eval.key.weighted_score",
    weighted=mean_of(each_weighted),
)
