"""What a grid is made of: its probes, the data they train on, the rules they follow, and what becomes of them.

Shapes: features `(windows, width)`, outputs `(probes, clips, outputs)`, truth as in `marble_bench.scoring.targets`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Literal
from typing import Protocol as Interface

from .schedule import Rules

if TYPE_CHECKING:
    import torch

    from marble_bench.core.protocol import Protocol
    from marble_bench.core.task import Schedule
    from marble_bench.scoring.scores import Aggregation
    from marble_bench.scoring.targets import Loss


@dataclass(frozen=True)
class Probe:
    """One point of the grid.

    layer: index of a layer; None for the softmax-weighted sum of the summable layers; `concat` for an affine map of the
    concatenation of all layers to the last one's width.

    hidden, batch_size, dropout, standardize: where the protocol's grid has these axes; None: the protocol's one value.
    weight_decay: for an exact solution the penalty, of a head that fits itself its strength. stem: what a separator
    takes out of the mixture, by its index.
    """

    layer: int | Literal["concat"] | None
    learning_rate: float
    weight_decay: float
    seed: int
    hidden: int | None = None
    batch_size: int | None = None
    dropout: float | None = None
    standardize: bool | None = None
    stem: int | None = None

    def reads(self, summable: Sequence[int], every: Sequence[int] = ()) -> tuple[int, ...]:
        """The layers that it reads. summable: those of the weighted sum. every: those of the concatenation."""
        if self.layer is None:
            return tuple(summable)
        return (self.layer,) if isinstance(self.layer, int) else tuple(every)


@dataclass(frozen=True)
class Form:
    """A probe's own values of what else the protocol says once for all."""

    hidden: int
    batch_size: int
    dropout: float
    standardize: bool

    @classmethod
    def of(cls, probe: Probe, protocol: Protocol) -> Form:
        return cls(
            protocol.hidden if probe.hidden is None else probe.hidden,
            protocol.batch_size if probe.batch_size is None else probe.batch_size,
            protocol.dropout if probe.dropout is None else probe.dropout,
            protocol.standardize if probe.standardize is None else probe.standardize,
        )


@dataclass(frozen=True)
class Split:
    """Features and truth of one split.

    layers: per layer `(windows, width)`; a sequence may load a layer when it is asked for, and then has `widths`.
    clip: `(windows,)` int64, the row of `truth` that a window belongs to. truth: `(clips,)` or `(clips, outputs)`.
    rows: `(windows,)` int64, where the split's windows are in `layers`, so that splits share layers without a copy;
    None: the layers hold this split's windows alone, in order.
    """

    layers: Sequence[torch.Tensor]
    clip: torch.Tensor
    truth: torch.Tensor
    rows: torch.Tensor | None = None

    @property
    def clips(self) -> int:
        return len(self.truth)

    def width(self, layer: int) -> int:
        """Of a layer, without loading it where the sequence tells."""
        widths: Sequence[int] | None = getattr(self.layers, "widths", None)
        return int(widths[layer] if widths is not None else self.layers[layer].shape[1])


@dataclass(frozen=True)
class TrainedProbe:
    """A trained probe at its best round, or its last one, by the protocol: an epoch, or so many steps.

    valid: its validation score there, NaN where no round was finite. history: the validation score after each round.
    diverged: outputs or loss stopped being finite; what was best before is kept.
    state: parameter tensors without the axis of probes, as the head names and shapes them; `mean` and `spread` of the
    training windows where the probe reads scaled features. Empty where it was not asked for.
    """

    probe: Probe
    valid: float
    best_epoch: int
    history: tuple[float, ...]
    diverged: bool
    state: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Recipe:
    """All that training needs beside the data: the protocol's rules, the task's schedule, outputs, loss and score.

    score: `(outputs (probes, clips, outputs), truth) -> (probes,)`, higher is better. summable: layers of the sum. every:
    layers of the concatenation. aggregation: see `scores.aggregate_windows`.
    """

    protocol: Protocol
    schedule: Schedule
    outputs: int
    loss: Loss
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    summable: tuple[int, ...] = ()
    every: tuple[int, ...] = ()
    aggregation: Aggregation = "outputs"

    def layers_of(self, probe: Probe) -> tuple[int, ...]:
        """The layers that a probe reads."""
        return probe.reads(self.summable, self.every)

    @property
    def rules(self) -> Rules:
        """When a probe's rate is lowered, and when it stops."""
        if self.protocol.stop_evaluations:
            most = self.protocol.max_evaluations or None
            return Rules(self.protocol.stop_evaluations, most, kept=self.protocol.kept)
        task, rules = self.schedule, self.protocol
        return Rules(task.stop_patience, task.max_epochs, task.lr_patience, rules.plateau_factor, rules.kept)


class Progress(Interface):
    """Called after each round: probes finished, probes in all, best validation score so far, probes in training."""

    def __call__(self, done: int, todo: int, best: float, alive: int) -> None: ...


class ProbeCache(Interface):
    """Keeps finished blocks, so that a run that dies goes on from there."""

    def get(self, probes: Sequence[Probe]) -> list[TrainedProbe] | None:
        """What was kept of a block, or None."""

    def put(self, fitted: Sequence[TrainedProbe]) -> None:
        """Keep a block."""

    def map_kept(self, fitted: Sequence[TrainedProbe]) -> list[TrainedProbe]:
        """The same block, with weights that need no memory if they are kept."""


def build_grid(
    protocol: Protocol,
    layers: Sequence[int],
    with_sum: bool,
    seeds: int,
    stems: int = 0,
    with_concat: bool = False,
) -> list[Probe]:
    """Every probe of a run, in the order in which ties are broken: layer, then the axes as below, last seed and stem.

    stems: how many a separator each is trained for, 0 where nothing is separated. The sum, then the concatenation, follow
    the layers.
    """
    places: list[int | Literal["concat"] | None] = [*layers]
    places += [None] if with_sum else []
    places += ["concat"] if with_concat else []
    rates, decays = protocol.learning_rates, protocol.weight_decays
    if protocol.solver == "exact":
        decays = protocol.strengths
    scaled: Sequence[bool | None] = protocol.standardizing or (None,)
    hiddens: Sequence[int | None] = protocol.hiddens or (None,)
    sizes: Sequence[int | None] = protocol.batch_sizes or (None,)
    dropouts: Sequence[float | None] = protocol.dropouts or (None,)
    return [
        Probe(layer, rate, decay, seed, hidden, size, dropout, scale, stem)
        for layer, scale, hidden, size, rate, dropout, decay, seed, stem in product(
            places, scaled, hiddens, sizes, rates, dropouts, decays, range(seeds), range(stems) if stems else (None,)
        )
    ]
