"""The head contract: the small network, or rule, that reads frozen features. A file in `probes/heads/` declares one `HEAD`.

There are two kinds. A head with `init` is trained by gradient: it draws the initial weights of a probe, and
`probes/network.py` computes what they do, of a whole grid at once. A head with `fit` and `predict` fits itself, one probe
after another, in any way it likes; its protocol has the solver `exact`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, get_args

from marble_bench.core.declared import (
    allow_function,
    find_axis_problem,
    find_bool_problem,
    find_problems,
    find_whole_problem,
    is_empty,
    is_number,
    shorten_repr,
)
from marble_bench.errors import UsageError
from marble_bench.files.names import RULE, is_name, is_text
from marble_bench.scoring.targets import Loss

if TYPE_CHECKING:
    import torch

LOSSES: tuple[Loss, ...] = get_args(Loss)
WHOLE_LOSSES = LOSSES[:3]  # of targets without gaps: a head is given gaps only where it says that it reads them

# `init(width, hidden, outputs, generator)` -> the parameters of one probe: `first (width, hidden)`, `first_bias`,
# `last (hidden, outputs)`, `last_bias`; or, without a hidden layer, `weight (width, outputs)` and `bias`. A bias is
# `(1, ...)`.
Init: TypeAlias = "Callable[[int, int, int, torch.Generator], dict[str, torch.Tensor]]"
State: TypeAlias = "dict[str, torch.Tensor]"  # whatever a head that fits itself keeps of one probe


@dataclass(frozen=True)
class TrainingSet:
    """What a head that fits itself is given for one probe.

    x: `(windows, width)` float32, of one layer, scaled where the protocol says so. truth: `(windows,)` int64 of classes,
    `(windows, outputs)` float32 of 0 and 1 for tags, or of numbers. outputs: classes, tags or numbers to answer with.
    loss: which of the three it is. strength: one of the head's `strengths`. seed: of the probe, for what is drawn.
    """

    x: torch.Tensor
    truth: torch.Tensor
    outputs: int
    loss: Loss
    strength: float
    seed: int


def _is_strength(value: Any) -> bool:
    return is_number(value) and value >= 0


def _is_loss(value: Any) -> bool:
    return isinstance(value, str) and value in LOSSES


FORMS = {
    "init": allow_function("(width, hidden, outputs, generator) -> parameters"),
    "fit": allow_function("(data) -> state"),
    "predict": allow_function("(state, x) -> outputs"),
}


@dataclass(frozen=True, kw_only=True)
class Head:
    """What is declared of a head: `init`, or `fit` and `predict`. Every mistake found in it is reported in one error.

    init: see `Init`. hidden_layer: whether its probes have one, of the protocol's size; False: `hidden` is 0.
    fit: `(TrainingSet) -> state`, tensors by name; none may be called `mean` or `spread`.
    predict: `(state, x (windows, width)) -> (windows, outputs)` float32, higher where a class or tag is likelier.
    strengths: what `fit` is tried with, one probe each, such as penalties or numbers of neighbours; validation chooses.
    losses: which kinds of target it learns, by their loss; a run on another target is refused before any work. All but
        `masked_binary_cross_entropy`, unless given: of masked tags, truth is -1 where nobody judged.
    version: raised whenever the same features and labels would give other outputs.
    code: the source digest of a user's file; set by the machinery.
    """

    name: str
    description: str
    init: Init | None = None
    hidden_layer: bool = True
    fit: Callable[[TrainingSet], State] | None = None
    predict: Callable[[State, torch.Tensor], torch.Tensor] | None = None
    strengths: tuple[float, ...] = (1.0,)
    losses: tuple[Loss, ...] = WHOLE_LOSSES
    version: int = 1
    code: str = ""

    def __post_init__(self) -> None:
        problems = []
        if not (isinstance(self.name, str) and is_name(self.name)):
            problems.append(f"name {shorten_repr(self.name)} cannot be used in a record: give {RULE}")
        if not (isinstance(self.description, str) and self.description and is_text(self.description)):
            problem = "is empty" if is_empty(self.description) else f"is {shorten_repr(self.description)}"
            problems.append(f"description {problem}: give a line that says what it computes")
        given = {name for name in ("init", "fit", "predict") if getattr(self, name) is not None}
        if given not in ({"init"}, {"fit", "predict"}):
            problems.append(f"it has {' and '.join(sorted(given)) or 'no function'}: give init, or fit and predict")
        problems += find_problems(self, FORMS)
        if is_empty(self.strengths):
            problems.append("strengths is empty: give what fit is tried with, or leave it out")
        if is_empty(self.losses):
            problems.append("losses is empty: give those that it learns, or leave it out")
        others = (
            find_axis_problem("strengths", self.strengths, _is_strength, "finite numbers from 0 on"),
            find_axis_problem("losses", self.losses, _is_loss, " or ".join(map(repr, LOSSES))),
            find_bool_problem("hidden_layer", self.hidden_layer),
            find_whole_problem("version", self.version, 1),
        )
        problems += [problem for problem in others if problem]
        if problems:
            raise UsageError("\n".join(f"head {shorten_repr(self.name)}: {problem}" for problem in problems))

    @property
    def fits_itself(self) -> bool:
        """Whether it has a fit of its own, and is not trained by gradient."""
        return self.fit is not None
