"""Protocols: named, versioned rules of grid, training and selection.

Two results are compared only when their protocol and its hash are equal; a change makes a new version. Windows,
metrics and patience belong to the task, but where a protocol brings its own.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from marble_bench.errors import UsageError, did_you_mean

# Fields that the first protocols did not have: at their defaults they say nothing, so that old hashes stand.
LATER = frozenset(
    "hiddens dropouts batch_sizes standardizing input_dropout validate_steps stop_evaluations max_evaluations "
    "solver penalties both_ways".split()
)


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a grid.

    head: file in `probes/` that draws the initial weights, `mlp` or `linear`; `probes/network.py` computes both, and no
    other. hidden, dropout: its facts.
    layer_sum: also train a softmax-weighted sum over the layers behind the input embedding.
    standardize: z-score each feature by the training windows' mean and standard deviation.
    learning_rates, weight_decays: the grid; every layer and every seed meets each of them.
    seeds: how many; fewer makes a record not comparable.
    plateau_factor: what the learning rate is multiplied with on a plateau of the validation score.

    More axes of the grid, for protocols that have them; an axis that is empty stands at the one value above:
    hiddens (0: no hidden layer), dropouts, batch_sizes, standardizing.

    input_dropout: dropout strikes the features too. validate_steps: validate before the first step and after every so
    many, each on a batch drawn anew; 0: after each epoch. stop_evaluations: stop after so many validations without
    gain, without a plateau; 0: the task's schedule. max_evaluations: their limit; 0: none.
    solver: `adam`, or `exact`: the penalised problem is solved to its end for each of `penalties`, from the strongest
    (a penalty is the L2 term's weight per training window: mean loss + penalty / 2 * |weights|^2).
    both_ways: the LSTM of a separator reads a song forwards and backwards, half its width each way.
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
    hiddens: tuple[int, ...] = ()
    dropouts: tuple[float, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    standardizing: tuple[bool, ...] = ()
    input_dropout: bool = False
    validate_steps: int = 0
    stop_evaluations: int = 0
    max_evaluations: int = 0
    solver: Literal["adam", "exact"] = "adam"
    penalties: tuple[float, ...] = ()
    both_ways: bool = False

    @property
    def framewise(self) -> bool:
        """Whether its probes can answer frame by frame: plain networks, trained epoch by epoch on features as they are."""
        return self.solver == "adam" and self.head == "mlp" and not (self.standardize or self.validate_steps)

    @property
    def hash(self) -> str:
        """`sha256:...` over everything but the description, and but what came later and is not used."""
        unused = {spec.name for spec in fields(self) if spec.name in LATER and getattr(self, spec.name) == spec.default}
        facts = {key: value for key, value in asdict(self).items() if key != "description" and key not in unused}
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
MARBLE_BIDIRECTIONAL = replace(
    MARBLE,
    name="marble-bidirectional",
    description="marble with the separation LSTM that MARBLE's paper describes, and its code has not",
    both_ways=True,
)
JUKEMIR = Protocol(
    name="jukemir",
    version=1,
    description="JukeMIR's grid of 216: with and without scaling, linear and MLP 512, two batch sizes, three dropouts",
    head="mlp",
    hidden=512,
    dropout=0.5,
    layer_sum=False,
    standardize=False,
    learning_rates=(1e-5, 1e-4, 1e-3),
    weight_decays=(0.0, 1e-4, 1e-3),
    seeds=1,
    standardizing=(False, True),
    hiddens=(0, 512),
    batch_sizes=(64, 256),
    dropouts=(0.25, 0.5, 0.75),
    input_dropout=True,
    validate_steps=8,
    stop_evaluations=256,
)
LINEAR = Protocol(
    name="linear",
    version=3,
    description="logistic or ridge regression on each standardised layer: a floor without capacity, the fastest look",
    head="linear",
    hidden=0,
    dropout=0.0,
    layer_sum=False,
    standardize=True,
    learning_rates=(1.0,),
    seeds=1,
    solver="exact",
    penalties=tuple(10.0**power for power in (2, 1, 0, -1, -2, -3, -4)),
)
PROTOCOLS = {protocol.name: protocol for protocol in (MARBLE, MARBLE_BIDIRECTIONAL, JUKEMIR, LINEAR)}


def find_protocol(name: str) -> Protocol:
    """The protocol of a name, or UsageError with the closest one."""
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol '{name}'{did_you_mean(name, PROTOCOLS)} (bench list protocols)")
    return PROTOCOLS[name]
