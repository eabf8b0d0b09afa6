"""The bookkeeping of probes that train side by side: best score and weights, plateau, early stop, divergence.

What is judged is a round: one stretch of training and the validation after it, whatever a trainer makes of that (an
epoch, so many steps). Scores are better when higher. The learning rate follows `torch.optim.lr_scheduler.
ReduceLROnPlateau(mode="max")`, probe by probe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

if TYPE_CHECKING:
    import torch

PLATEAU_THRESHOLD = 1e-4  # ReduceLROnPlateau's default, relative
LEAST_CHANGE = 1e-8  # ReduceLROnPlateau's eps: smaller changes of the rate are left undone

Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Rules:
    """stop_patience: rounds without a better score before a probe stops. max_rounds: the limit, None for none.

    lr_patience: rounds on a plateau before the rate is multiplied with `factor`; None leaves the rate as it is.
    kept: the weights of the `best` round, or of the `last` one.
    """

    stop_patience: int
    max_rounds: int | None = None
    lr_patience: int | None = None
    factor: float = 0.5
    kept: Literal["best", "last"] = "best"


@dataclass
class TrackedProbe:
    """What is remembered of one probe while it trains.

    valid: its best score, NaN before the first. history: every round's. state: the weights of the round that is kept, the
    best or the last one, without the axis of probes. diverged: a round was not finite; what was best before stays.
    """

    valid: float = math.nan
    best_round: int = -1
    waited: int = 0  # rounds since the best score, for the early stop
    plateau_best: float = -math.inf
    plateau_waited: int = 0
    diverged: bool = False
    history: list[float] = field(default_factory=list)
    state: dict[str, torch.Tensor] = field(default_factory=dict)

    def find_kept(self, kept: Literal["best", "last"]) -> tuple[float, int]:
        """The score and the number of the round whose weights are kept; NaN and -1 before the first."""
        if kept == "best" or not self.history:
            return self.valid, self.best_round
        return self.history[-1], len(self.history) - 1


class ProbeTracker(Generic[Name]):
    """Judges probes round by round. `alive`: those that still train. `rates`: theirs, in the same order."""

    def __init__(self, probes: Sequence[Name], rates: Sequence[float], rules: Rules) -> None:
        self.rules = rules
        self.alive = list(probes)
        self.rates = [float(rate) for rate in rates]
        self.tracked = {probe: TrackedProbe() for probe in probes}
        self.best = -math.inf

    def update(
        self, scores: Sequence[float], finite: Sequence[bool], state: Callable[[int], dict[str, torch.Tensor]]
    ) -> list[int]:
        """Enter one round; returns the positions in `alive` (as it was) of the probes that go on.

        finite: whether a probe's losses and outputs were all finite. state: `(position) -> weights`, a copy; asked for
        where a round is kept: a score is the best so far, or, by the rules, always. If not all go on, the trainer drops the
        others from its tensors.
        """
        staying = []
        for index, (probe, score, is_finite) in enumerate(zip(self.alive, scores, finite, strict=True)):
            tracked = self.tracked[probe]
            if not is_finite or math.isnan(score):
                tracked.diverged = True
                continue
            tracked.history.append(score)
            if math.isnan(tracked.valid) or score > tracked.valid:
                tracked.valid, tracked.best_round, tracked.waited = score, len(tracked.history) - 1, 0
                if self.rules.kept == "best":
                    tracked.state = state(index)
                self.best = max(self.best, score)
            else:
                tracked.waited += 1
            if self.rules.kept == "last":
                tracked.state = state(index)
            self.rates[index] = self._rate(tracked, score, self.rates[index])
            limit = self.rules.max_rounds
            if tracked.waited < self.rules.stop_patience and (limit is None or len(tracked.history) < limit):
                staying.append(index)
        self.alive = [self.alive[index] for index in staying]
        self.rates = [self.rates[index] for index in staying]
        return staying

    def _rate(self, tracked: TrackedProbe, score: float, rate: float) -> float:
        """The learning rate of the next round."""
        if self.rules.lr_patience is None:
            return rate
        if score > tracked.plateau_best * (1 + PLATEAU_THRESHOLD):
            tracked.plateau_best, tracked.plateau_waited = score, 0
            return rate
        tracked.plateau_waited += 1
        if tracked.plateau_waited <= self.rules.lr_patience:
            return rate
        tracked.plateau_waited = 0
        lower = rate * self.rules.factor
        return lower if rate - lower > LEAST_CHANGE else rate
