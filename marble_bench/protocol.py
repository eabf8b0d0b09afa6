"""Protocols: named, versioned rules of grid, training and selection.

Two results are compared only when their protocol and its hash are equal; a change makes a new version. Windows,
metrics and patience belong to the task.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from marble_bench.errors import UsageError, did_you_mean


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a grid.

    head: file in `probes/` that makes the head. hidden, dropout: its facts.
    layer_sum: also train a softmax-weighted sum over the layers behind the input embedding.
    standardize: z-score each feature by the training windows' mean and standard deviation.
    learning_rates, weight_decays: the grid; every layer and every seed meets each of them.
    seeds: how many; fewer makes a record not comparable.
    plateau_factor: what the learning rate is multiplied with on a plateau of the validation score.
    """

    name: str
    version: int
    description: str
    head: str
    hidden: int
    dropout: float
    layer_sum: bool
    standardize: bool
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...] = (0.0,)
    batch_size: int = 64
    plateau_factor: float = 0.5
    seeds: int = 3

    @property
    def hash(self) -> str:
        """`sha256:...` over everything but the description."""
        facts = {key: value for key, value in asdict(self).items() if key != "description"}
        return "sha256:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


MARBLE = Protocol(
    name="marble",
    version=1,
    description="MARBLE's constrained track: MLP 512 on each layer and on their weighted sum, six learning rates",
    head="mlp",
    hidden=512,
    dropout=0.2,
    layer_sum=True,
    standardize=False,
    learning_rates=(5e-5, 1e-4, 5e-4, 1e-3, 5e-3, 1e-2),
)
LINEAR = Protocol(
    name="linear",
    version=1,
    description="a linear probe on each standardised layer: a floor without capacity, the fastest look",
    head="linear",
    hidden=0,
    dropout=0.0,
    layer_sum=False,
    standardize=True,
    learning_rates=(1e-4, 1e-3, 1e-2),
    weight_decays=(0.0, 1e-3, 1e-2),
)
PROTOCOLS = {protocol.name: protocol for protocol in (MARBLE, LINEAR)}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name, or UsageError with the closest one."""
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol '{name}'{did_you_mean(name, PROTOCOLS)} (bench list protocols)")
    return PROTOCOLS[name]
