"""Fits a whole grid of probes as one batched model: every layer x learning rate x weight decay x seed.

Probes of one input width train together, with a leading axis of probes on every parameter, so that one batched matrix
product serves them all. Each has its own learning rate, plateau, early stop and best weights. Batch order, dropout
masks and initial weights depend on the seed alone; a probe trained by itself meets the same numbers as in the grid, and
probes of a seed are compared with common random numbers. A probe that is finished, or that diverged, leaves the batch.

Follows MARBLE's published code: Adam, `ReduceLROnPlateau` and early stopping on the validation score, best weights
kept; outputs averaged over a clip's windows before they are scored. Departs from it in precision: float32, where it
trained in mixed float16.

Shapes: features `(windows, width)`, outputs `(probes, clips, outputs)`, truth as in `marble_bench.targets`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marble_bench.plugins import find_head

from .adam import Adam
from .schedule import Book, Rules

if TYPE_CHECKING:
    import torch

    from marble_bench.protocol import Protocol
    from marble_bench.targets import Loss
    from marble_bench.task import Schedule

BLOCK_BYTES = 2 << 30  # parameters, gradients, both Adam moments and best weights of the probes that train together
GATHER_BYTES = 128 << 20  # features copied per probe at once when scoring


@dataclass(frozen=True)
class Probe:
    """One point of the grid. layer: index of a layer, or None for the softmax-weighted sum of the summable layers."""

    layer: int | None
    learning_rate: float
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Split:
    """Features and truth of one split.

    layers: per layer `(windows, width)`. clip: `(windows,)` int64, the row of `truth` that a window belongs to.
    truth: `(clips,)` or `(clips, outputs)`.
    """

    layers: Sequence[torch.Tensor]
    clip: torch.Tensor
    truth: torch.Tensor

    @property
    def clips(self) -> int:
        return len(self.truth)


@dataclass(frozen=True)
class Fitted:
    """A trained probe at its best epoch.

    valid: its validation score there, NaN where no epoch was finite. history: the validation score after each epoch.
    diverged: outputs or loss stopped being finite; what was best before is kept.
    state: parameter tensors without the axis of probes.
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

    score: `(outputs (probes, clips, outputs), truth) -> (probes,)`, higher is better. summable: layers of the sum.
    """

    protocol: Protocol
    schedule: Schedule
    outputs: int
    loss: Loss
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    summable: tuple[int, ...] = ()


def grid(protocol: Protocol, layers: Sequence[int], with_sum: bool, seeds: int) -> list[Probe]:
    """Every probe of a run, in the order in which ties are broken: layer, learning rate, weight decay, seed."""
    places: list[int | None] = [*layers, *([None] if with_sum else [])]
    return [
        Probe(layer, rate, decay, seed)
        for layer in places
        for rate in protocol.learning_rates
        for decay in protocol.weight_decays
        for seed in range(seeds)
    ]


def average_windows(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
    """`(probes, windows, outputs)` -> `(probes, clips, outputs)`: the mean over each clip's windows."""
    import torch

    if len(clip) == clips:
        return outputs  # one window a clip, in order
    total = outputs.new_zeros(outputs.shape[0], clips, outputs.shape[2]).index_add_(1, clip, outputs)
    return total / torch.bincount(clip, minlength=clips).clamp(min=1)[:, None]


def losses(outputs: torch.Tensor, truth: torch.Tensor, loss: Loss) -> torch.Tensor:
    """`(probes, windows, outputs)`, `(probes, windows[, outputs])` -> `(probes,)`: the mean loss of each probe."""
    from torch.nn import functional

    if loss == "cross_entropy":
        return functional.cross_entropy(outputs.transpose(1, 2), truth, reduction="none").mean(dim=1)
    if loss == "binary_cross_entropy":
        return functional.binary_cross_entropy_with_logits(outputs, truth, reduction="none").mean(dim=(1, 2))
    return (outputs - truth).square().mean(dim=(1, 2))


def standardized(train: Split, *others: Split) -> list[Split]:
    """Splits with every feature z-scored by the training windows; a constant feature is only centred."""
    result: list[list[torch.Tensor]] = [[] for _ in (train, *others)]
    for index, layer in enumerate(train.layers):
        mean = layer.double().mean(dim=0)
        spread = layer.double().std(dim=0, correction=0)
        spread[spread < 1e-12 * (1 + mean.abs())] = 1
        for out, split in zip(result, (train, *others), strict=True):
            out.append(((split.layers[index].double() - mean) / spread).float())
    return [Split(layers, split.clip, split.truth) for layers, split in zip(result, (train, *others), strict=True)]


def fit(
    probes: Sequence[Probe],
    train: Split,
    valid: Split,
    recipe: Recipe,
    device: str = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
) -> list[Fitted]:
    """Train every probe and return them in the order given.

    progress: called after each epoch with (probes finished, probes in all, best validation score so far).
    """
    results: dict[Probe, Fitted] = {}
    best = -math.inf
    for members in _blocks(probes, train, recipe):
        block = _Block(members, train, recipe, device)
        while block.alive:
            block.epoch(train, valid)
            best = max(best, block.book.best)
            if progress:
                progress(len(results) + len(members) - len(block.alive), len(probes), best)
        results.update({fitted.probe: fitted for fitted in block.finished()})
    return [results[probe] for probe in probes]


def predict(fitted: Fitted, split: Split, recipe: Recipe, device: str = "cpu") -> torch.Tensor:
    """`(clips, outputs)` float32 on the CPU: one trained probe's outputs, averaged over each clip's windows."""
    return average_windows(predict_windows(fitted, split, recipe, device)[None], split.clip, split.clips)[0]


def predict_windows(fitted: Fitted, split: Split, recipe: Recipe, device: str = "cpu") -> torch.Tensor:
    """`(windows, outputs)` float32 on the CPU: one trained probe's outputs."""
    import torch

    parameters = {name: value.to(device)[None] for name, value in fitted.state.items()}
    with torch.inference_mode():
        return _window_outputs(parameters, [fitted.probe], split, recipe, device)[0].cpu()


def _blocks(probes: Sequence[Probe], train: Split, recipe: Recipe) -> list[list[Probe]]:
    """Probes that train together: of one input width, sums apart, and within the memory for one block."""
    kinds: dict[tuple[bool, int], list[Probe]] = {}
    for probe in probes:
        layer = recipe.summable[0] if probe.layer is None else probe.layer
        kinds.setdefault((probe.layer is None, train.layers[layer].shape[1]), []).append(probe)
    blocks = []
    for (_, width), members in kinds.items():
        values = (width + recipe.outputs + 1) * max(recipe.protocol.hidden, 1) + (width + 1) * recipe.outputs
        most = max(1, BLOCK_BYTES // (5 * 4 * values))
        blocks += [members[start : start + most] for start in range(0, len(members), most)]
    return blocks


def _inputs(
    parameters: dict[str, torch.Tensor],
    probes: Sequence[Probe],
    rows: torch.Tensor,
    split: Split,
    recipe: Recipe,
    device: str,
) -> torch.Tensor:
    """`(probes, windows, width)` float32: for each probe the windows `rows (probes, windows)` of its layer or sum."""
    import torch

    if probes[0].layer is not None:
        parts = [split.layers[p.layer][row] for p, row in zip(probes, rows, strict=True) if p.layer is not None]
        return torch.stack(parts).to(device).float()
    stacked = torch.stack([split.layers[layer][rows] for layer in recipe.summable], dim=1).to(device).float()
    return torch.einsum("pl,plbw->pbw", parameters["mix"].softmax(dim=-1), stacked)


def _window_outputs(
    parameters: dict[str, torch.Tensor], probes: Sequence[Probe], split: Split, recipe: Recipe, device: str
) -> torch.Tensor:
    """`(probes, windows, outputs)`: outputs without dropout."""
    import torch

    head = find_head(recipe.protocol.head)
    width = split.layers[recipe.summable[0] if probes[0].layer is None else probes[0].layer].shape[1]
    copies = len(recipe.summable) if probes[0].layer is None else 1
    step = max(1, GATHER_BYTES // (4 * width * copies * len(probes)))
    windows = len(split.clip)
    parts = []
    for start in range(0, windows, step):
        rows = torch.arange(start, min(start + step, windows)).expand(len(probes), -1)
        parts.append(head.forward(parameters, _inputs(parameters, probes, rows, split, recipe, device), None))
    return torch.cat(parts, dim=1)


@dataclass
class _Streams:
    """The random numbers of one seed: batch order and dropout, apart, so that neither moves the other."""

    order: torch.Generator
    dropout: torch.Generator
    init: torch.Generator

    @classmethod
    def of(cls, seed: int) -> _Streams:
        import torch

        return cls(*(torch.Generator().manual_seed(3 * seed + part) for part in range(3)))


class _Block:
    """Probes that train together. Tensors hold the probes still alive, in the order of `alive`."""

    def __init__(self, probes: Sequence[Probe], train: Split, recipe: Recipe, device: str) -> None:
        import torch

        self.recipe, self.device = recipe, device
        self.head = find_head(recipe.protocol.head)
        self.streams = {probe.seed: _Streams.of(probe.seed) for probe in probes}
        schedule = recipe.schedule
        self.book = Book(
            probes,
            [probe.learning_rate for probe in probes],
            Rules(schedule.stop_patience, schedule.max_epochs, schedule.lr_patience, recipe.protocol.plateau_factor),
        )
        width = train.layers[recipe.summable[0] if probes[0].layer is None else probes[0].layer].shape[1]
        starts = {seed: self._start(width, probes[0].layer is None, self.streams[seed].init) for seed in self.streams}
        names = next(iter(starts.values()))
        self.parameters = {name: torch.stack([starts[p.seed][name] for p in probes]).to(device) for name in names}
        self.adam = Adam(self.parameters, [probe.weight_decay for probe in probes])

    @property
    def alive(self) -> list[Probe]:
        return self.book.alive

    def _start(self, width: int, is_sum: bool, generator: torch.Generator) -> dict[str, torch.Tensor]:
        import torch

        start: dict[str, torch.Tensor] = self.head.init(
            width, self.recipe.protocol.hidden, self.recipe.outputs, generator
        )
        if is_sum:
            start["mix"] = torch.randn(len(self.recipe.summable), generator=generator)
        return start

    def epoch(self, train: Split, valid: Split) -> None:
        """One pass over the training windows, one validation, and what follows from it for each probe."""
        import torch

        size = self.recipe.protocol.batch_size
        windows = len(train.clip)
        orders = {seed: torch.randperm(windows, generator=s.order) for seed, s in self.streams.items()}
        finite = torch.ones(len(self.alive), dtype=torch.bool, device=self.device)
        for start in range(0, windows, size):
            rows = torch.stack([orders[probe.seed][start : start + size] for probe in self.alive])
            finite &= self._step(rows, train)
        with torch.inference_mode():
            by_window = _window_outputs(self.parameters, self.alive, valid, self.recipe, self.device)
            outputs = average_windows(by_window, valid.clip.to(self.device), valid.clips)
            finite &= outputs.isfinite().flatten(1).all(dim=1)
            where = "cpu" if self.device == "mps" else self.device  # metrics count in float64, which MPS has not
            scores = self.recipe.score(outputs.to(where), valid.truth.to(where))
        going = len(self.alive)
        staying = self.book.judge(scores.tolist(), finite.tolist(), self._state)
        if len(staying) < going:
            self.adam.keep(staying)

    def _state(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index].clone() for name, value in self.parameters.items()}

    def _step(self, rows: torch.Tensor, train: Split) -> torch.Tensor:
        """One Adam step on the windows `rows (probes, batch)`; returns which probes' losses are finite."""
        import torch

        for value in self.parameters.values():
            value.requires_grad_(True)
        x = _inputs(self.parameters, self.alive, rows, train, self.recipe, self.device)
        truth = train.truth[train.clip[rows]].to(self.device)
        loss = losses(self.head.forward(self.parameters, x, self._keep(rows.shape[1])), truth, self.recipe.loss)
        gradients = torch.autograd.grad(loss.sum(), list(self.parameters.values()))
        for value in self.parameters.values():
            value.requires_grad_(False)
        with torch.no_grad():
            self.adam.step(dict(zip(self.parameters, gradients, strict=True)), self.book.rates)
        return loss.detach().isfinite()

    def _keep(self, batch: int) -> torch.Tensor | None:
        """Dropout masks `(probes, batch, hidden)`, the same for all probes of a seed."""
        import torch

        protocol = self.recipe.protocol
        if not protocol.hidden or not protocol.dropout:
            return None
        masks = {
            seed: (torch.rand(batch, protocol.hidden, generator=s.dropout) >= protocol.dropout) / (1 - protocol.dropout)
            for seed, s in self.streams.items()
        }
        return torch.stack([masks[probe.seed] for probe in self.alive]).to(self.device)

    def finished(self) -> list[Fitted]:
        """Every probe of the block at its best, weights on the CPU."""
        return [
            Fitted(p, k.valid, k.best_round, tuple(k.history), k.diverged, {n: v.cpu() for n, v in k.state.items()})
            for p, k in self.book.kept.items()
        ]
