"""Fits a grid of probes that answer frame by frame: every layer x learning rate x seed, one layer at a time.

Every epoch draws one crop from each training clip, by the probe's seed, and takes the crops in batches; a step's loss is the
mean over the batch's frames, summed over the outputs (binary cross-entropy; a kind of event that a clip has no annotation of
is left out). Probes that read the same layer share one matrix product for each seed, and all their updates. Features are
read from disk, a batch at a time, so that no layer is ever wholly in memory.

After each epoch a probe is judged by minus the first output's loss over the whole clips of the validation split: plateau,
early stop and best weights follow from it (`probes/schedule.py`). Crops, their order and initial weights depend on the seed
alone, as do dropout masks (on one kind of device).

Shapes: features `(frames, width)`, truth and outputs `(frames, outputs)`; truth is NaN where not annotated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from typing import Protocol as Shape

from marble_bench.plugins import find_head

from .adam import Adam
from .schedule import Book, Rules
from .trainer import Fitted, Probe, Progress

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.protocol import Protocol
    from marble_bench.task import Schedule

CHUNK_BYTES = 6 << 20  # of hidden activations at once on a CPU: they should stay in its cache
CHUNK_BYTES_GPU = 512 << 20


class FrameFeatures(Shape):
    """Where frames are read from: `marble_bench.features.frames.Frames`, or anything like it."""

    widths: list[int]
    rates: list[float]

    def __len__(self) -> int: ...

    def length(self, layer: int, item: int) -> int:
        """Frames of a clip in a layer."""

    def read(self, layer: int, item: int, first: int, count: int) -> NDArray[np.float16]:
        """`(count, width)`: a stretch of a clip's frames."""


@dataclass(frozen=True)
class Frameset:
    """The clips of a split. truth: `(layer, clip) -> (frames, outputs)` float32 at the layer's rate."""

    features: FrameFeatures
    truth: Callable[[int, int], NDArray[np.float32]]


@dataclass(frozen=True)
class Recipe:
    """What training needs beside the data. crop_s: seconds of a training crop; a shorter clip is taken whole."""

    protocol: Protocol
    schedule: Schedule
    outputs: int
    crop_s: float
    summable: tuple[int, ...] = ()


def fit(
    probes: Sequence[Probe],
    train: Frameset,
    valid: Frameset,
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress | None = None,
) -> list[Fitted]:
    """Train every probe; in the order given. `valid` of the results is minus the validation loss.

    progress: called after each epoch with (probes finished, in all, best score so far of the layer, probes in training).
    """
    done: dict[Probe, Fitted] = {}
    for layer in dict.fromkeys(probe.layer for probe in probes):
        members = [probe for probe in probes if probe.layer == layer]
        block = _Block(members, train, recipe, device)
        while block.book.alive:
            block.epoch(train, valid)
            if progress:
                alive = len(block.book.alive)
                progress(len(done) + len(members) - alive, len(probes), block.book.best, alive)
        done.update({one.probe: one for one in block.finished()})
    return [done[probe] for probe in probes]


def activations(
    fitted: Sequence[Fitted], split: Frameset, recipe: Recipe, device: str = "cpu"
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Clip by clip `(clip, (probes, frames, outputs))` in 0..1, of probes that read the same layer."""
    import torch

    assert len({one.probe.layer for one in fitted}) == 1
    parameters = {
        name: torch.stack([one.state[name] for one in fitted]).to(device).contiguous() for name in fitted[0].state
    }
    layers = _layers(fitted[0].probe, recipe)
    for clip in range(len(split.features)):
        parts = [
            _forward(parameters, rows, None, recipe).sigmoid().cpu()
            for rows in _whole(split, layers, clip, len(fitted), recipe, device)
        ]
        yield clip, torch.cat(parts, dim=1).numpy()


def _layers(probe: Probe, recipe: Recipe) -> list[int]:
    return list(recipe.summable) if probe.layer is None else [probe.layer]


def _chunk(probes: int, recipe: Recipe, device: str) -> int:
    """Frames that go through so many probes at once."""
    room = CHUNK_BYTES if device == "cpu" else CHUNK_BYTES_GPU
    return max(64, room // (4 * probes * max(recipe.protocol.hidden, 1)))


def _whole(
    split: Frameset, layers: Sequence[int], clip: int, probes: int, recipe: Recipe, device: str
) -> Iterator[torch.Tensor]:
    """A clip's frames in chunks `(layers, frames, width)` float32."""
    step = _chunk(probes, recipe, device)
    for start in range(0, split.features.length(layers[0], clip), step):
        count = min(step, split.features.length(layers[0], clip) - start)
        yield _read(split, layers, clip, start, count, device)


def _read(split: Frameset, layers: Sequence[int], clip: int, first: int, count: int, device: str) -> torch.Tensor:
    import torch

    return torch.stack(
        [torch.from_numpy(split.features.read(layer, clip, first, count)).to(device).float() for layer in layers]
    )


def _forward(
    parameters: dict[str, torch.Tensor], rows: torch.Tensor, keep: torch.Tensor | None, recipe: Recipe
) -> torch.Tensor:
    """`rows (layers, frames, width)`, `keep (frames, hidden)` or None -> `(probes, frames, outputs)`."""
    import torch

    probes, _, hidden = parameters["first"].shape
    if "mix" in parameters:
        x = torch.einsum("pl,lfw->pfw", parameters["mix"].softmax(dim=-1), rows)
        given = {name: value for name, value in parameters.items() if name != "mix"}
        outputs: torch.Tensor = find_head(recipe.protocol.head).forward(given, x, keep)
        return outputs
    flat = parameters["first"].permute(1, 0, 2).reshape(-1, probes * hidden)  # one product for all probes
    middle = (rows[0] @ flat).view(-1, probes, hidden).transpose(0, 1) + parameters["first_bias"]
    middle = middle.relu()
    if keep is not None:
        middle = middle * keep
    return torch.baddbmm(parameters["last_bias"], middle, parameters["last"])


def _losses(outputs: torch.Tensor, truth: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """`(probes, frames, outputs)`, `(frames, outputs)`, `(outputs,)` annotated frames in all -> `(probes, outputs)`.

    The sum of each output's cross-entropies over its own count: added up over chunks, the mean.
    """
    import torch
    from torch.nn import functional

    there = truth.isfinite()
    each = functional.binary_cross_entropy_with_logits(
        outputs, truth.nan_to_num(nan=0.0).expand_as(outputs), reduction="none"
    )
    return torch.where(there, each, 0.0).sum(dim=1) / counts.clamp(min=1)


class _Block:
    """The probes of one layer, or of the weighted sum, while they train."""

    def __init__(self, probes: Sequence[Probe], train: Frameset, recipe: Recipe, device: str) -> None:
        import torch

        self.recipe, self.device = recipe, device
        self.layers = _layers(probes[0], recipe)
        seeds = dict.fromkeys(probe.seed for probe in probes)
        self.order = {seed: torch.Generator().manual_seed(3 * seed) for seed in seeds}
        self.dropout = {seed: torch.Generator(device).manual_seed(3 * seed + 1) for seed in seeds}
        starts = {seed: self._start(train, seed, probes[0].layer is None) for seed in seeds}
        parameters = {
            name: torch.stack([starts[probe.seed][name] for probe in probes]).to(device)
            for name in starts[probes[0].seed]
        }
        self.adam = Adam(parameters, [probe.weight_decay for probe in probes])
        schedule = recipe.schedule
        rules = Rules(schedule.stop_patience, schedule.max_epochs, schedule.lr_patience, recipe.protocol.plateau_factor)
        self.book: Book[Probe] = Book(probes, [probe.learning_rate for probe in probes], rules)

    def _start(self, train: Frameset, seed: int, is_sum: bool) -> dict[str, torch.Tensor]:
        import torch

        generator = torch.Generator().manual_seed(3 * seed + 2)
        width, protocol = train.features.widths[self.layers[0]], self.recipe.protocol
        start: dict[str, torch.Tensor] = find_head(protocol.head).init(
            width, protocol.hidden, self.recipe.outputs, generator
        )
        if is_sum:
            start["mix"] = torch.randn(len(self.layers), generator=generator)
        return start

    def epoch(self, train: Frameset, valid: Frameset) -> None:
        """A crop of every training clip, then every validation clip whole, then what follows for each probe."""
        import torch

        alive = self.book.alive
        crops = {seed: self._crops(train, seed) for seed in dict.fromkeys(probe.seed for probe in alive)}
        finite = torch.ones(len(alive), dtype=torch.bool)
        for start in range(0, len(train.features), self.recipe.protocol.batch_size):
            finite &= self._step(
                train, {seed: each[start : start + self.recipe.protocol.batch_size] for seed, each in crops.items()}
            )
        losses = self._valid_losses(valid)
        finite &= losses.isfinite()
        staying = self.book.judge(
            (-losses).tolist(),
            finite.tolist(),
            lambda index: {name: value[index].clone() for name, value in self.adam.parameters.items()},
        )
        if len(staying) < len(alive):
            self.adam.keep(staying)

    def _crops(self, train: Frameset, seed: int) -> list[tuple[int, int, int]]:
        """(clip, first frame, frames) of this epoch, in the order of training."""
        import torch

        features, layer, generator = train.features, self.layers[0], self.order[seed]
        wanted = round(self.recipe.crop_s * features.rates[layer])
        crops = []
        for clip in torch.randperm(len(features), generator=generator).tolist():
            length = features.length(layer, clip)
            room = max(length - wanted, 0)
            first = int(torch.randint(room + 1, (), generator=generator))
            crops.append((clip, first, min(wanted, length)))
        return crops

    def _step(self, train: Frameset, crops: dict[int, list[tuple[int, int, int]]]) -> torch.Tensor:
        """One step of all probes, each on its seed's crops; which of their losses are finite."""
        import torch

        alive, parameters = self.book.alive, self.adam.parameters
        gradients = {name: torch.zeros_like(value) for name, value in parameters.items()}
        total = torch.zeros(len(alive), device=self.device)
        for seed, batch in crops.items():
            members = [index for index, probe in enumerate(alive) if probe.seed == seed]
            where = torch.tensor(members, device=self.device)
            own = {name: value[where].requires_grad_(True) for name, value in parameters.items()}
            truth = [train.truth(self.layers[0], clip)[first : first + count] for clip, first, count in batch]
            counts = sum(torch.from_numpy(each).isfinite().sum(dim=0) for each in truth).to(self.device)  # type: ignore[union-attr]
            mask, at = self._keep(seed, sum(count for _, _, count in batch)), 0
            for rows, labels in self._chunks(train, batch, truth, len(members)):
                keep = None if mask is None else mask[at : at + len(labels)]
                at += len(labels)
                loss = _losses(_forward(own, rows, keep, self.recipe), labels, counts).sum(dim=-1)
                for name, slope in zip(own, torch.autograd.grad(loss.sum(), list(own.values())), strict=True):
                    gradients[name].index_add_(0, where, slope)
                total.index_add_(0, where, loss.detach())
        with torch.no_grad():
            self.adam.step(gradients, self.book.rates)
        return total.isfinite().cpu()

    def _chunks(
        self, train: Frameset, batch: Sequence[tuple[int, int, int]], truth: Sequence[Any], probes: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A batch's frames `(layers, frames, width)` and labels `(frames, outputs)`, as many at once as fit."""
        import torch

        step = _chunk(probes, self.recipe, self.device)
        rows: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        waiting = 0
        for (clip, first, count), truths in zip(batch, truth, strict=True):
            for start in range(0, count, step):
                size = min(step, count - start)
                if waiting and waiting + size > step:
                    yield torch.cat(rows, dim=1), torch.cat(labels)
                    rows, labels, waiting = [], [], 0
                rows.append(_read(train, self.layers, clip, first + start, size, self.device))
                labels.append(torch.from_numpy(truths[start : start + size]).to(self.device))
                waiting += size
        yield torch.cat(rows, dim=1), torch.cat(labels)

    def _keep(self, seed: int, frames: int) -> torch.Tensor | None:
        """Dropout masks `(frames, hidden)` of a batch, the same for all probes of a seed."""
        import torch

        rate, hidden = self.recipe.protocol.dropout, self.recipe.protocol.hidden
        if not rate or not hidden:
            return None
        drawn = torch.rand(frames, hidden, generator=self.dropout[seed], device=self.device)
        return (drawn >= rate) / (1 - rate)

    def _valid_losses(self, valid: Frameset) -> torch.Tensor:
        """`(probes,)` on the CPU: the first output's loss over all frames of the validation split."""
        import torch

        probes = len(self.book.alive)
        truths = [torch.from_numpy(valid.truth(self.layers[0], clip)) for clip in range(len(valid.features))]
        counts = torch.stack([truth.isfinite().sum(dim=0) for truth in truths]).sum(dim=0).to(self.device)
        total = torch.zeros(probes, device=self.device, dtype=torch.float64 if self.device != "mps" else torch.float32)
        with torch.inference_mode():
            for clip, truth in enumerate(truths):
                first = 0
                for rows in _whole(valid, self.layers, clip, probes, self.recipe, self.device):
                    labels = truth[first : first + rows.shape[1]].to(self.device)
                    outputs = _forward(self.adam.parameters, rows, None, self.recipe)
                    total += _losses(outputs, labels, counts)[:, 0]
                    first += rows.shape[1]
        return total.cpu()

    def finished(self) -> list[Fitted]:
        """Every probe at its best, weights on the CPU."""
        return [
            Fitted(
                probe,
                kept.valid,
                kept.best_round,
                tuple(kept.history),
                kept.diverged,
                {name: value.cpu() for name, value in kept.state.items()},
            )
            for probe, kept in self.book.kept.items()
        ]
