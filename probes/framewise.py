"""Fits a grid of probes that answer frame by frame: every layer x learning rate x seed, a layer at a time.

A probe has a block of outputs for each part of the target. Every epoch draws one crop from each training clip, by the
probe's seed, and takes the crops in batches; a step's loss is the sum over the parts of the mean over the batch's frames
that have a label (`frame_losses`). A batch goes through in chunks of frames, so that what is hidden stays in the cache, and
the chunks' gradients are added up. Probes of one layer and seed share every chunk and its products (`network`). Features are
read from disk, a chunk at a time, so that no layer is ever wholly in memory.

A block is the probes that train together: on a CPU those of one layer and seed, on a GPU those of one layer, whose seeds
share what validation reads. Finished blocks are kept in a probe cache, if there is one.

After each epoch a probe is judged by minus the loss of the parts that the target names, over the whole clips of the
validation split: plateau, early stop and best weights follow from it (`probes/schedule.py`). Crops, their order and initial
weights depend on the seed alone, as do dropout masks (on one kind of device).

Shapes: features `(frames, width)`, outputs `(frames, outputs)`, truth `(frames, columns)`; truth is NaN where not annotated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from marble_bench.core.plugins import get_head

from . import frame_losses, network
from .adam import Adam
from .grid import Probe, ProbeCache, Progress, TrainedProbe
from .schedule import ProbeTracker, Rules
from .training_loop import train_blocks

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.core.protocol import Protocol
    from marble_bench.core.task import Schedule
    from marble_bench.scoring.frame_targets import Part

CHUNK_BYTES = 6 << 20  # of hidden activations at once on a CPU: they should stay in its cache
CHUNK_BYTES_GPU = 512 << 20


class FrameFeatures(Interface):
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
    """The clips of a split. truth: `(layer, clip) -> (frames, columns)` float32 at the layer's rate."""

    features: FrameFeatures
    truth: Callable[[int, int], NDArray[np.float32]]


@dataclass(frozen=True)
class Recipe:
    """What training needs beside the data. crop_s: seconds of a training crop; a shorter clip is taken whole.

    stops_by: names of the parts whose validation loss judges a probe; empty: all.
    """

    protocol: Protocol
    schedule: Schedule
    parts: Sequence[Part]
    crop_s: float
    summable: tuple[int, ...] = ()
    stops_by: tuple[str, ...] = ()

    @property
    def outputs(self) -> int:
        """Of all parts together."""
        return sum(part.width for part in self.parts)

    @property
    def validated_parts(self) -> list[int]:
        """Which parts the validation loss is taken of."""
        return [place for place, part in enumerate(self.parts) if not self.stops_by or part.name in self.stops_by]


def fit(
    probes: Sequence[Probe],
    train: Frameset,
    valid: Frameset,
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress | None = None,
    probe_cache: ProbeCache | None = None,
) -> list[TrainedProbe]:
    """Train every probe; in the order given. `valid` of the results is minus the validation loss.

    progress: called after each epoch with (probes finished, in all, best score so far, probes in training), and for each
    block that the cache had. probe_cache: where finished blocks are looked up and kept.
    """
    members = make_blocks(probes, device)
    done = train_blocks(members, lambda each: _Block(each, train, valid, recipe, device), progress, probe_cache)
    by_probe = {one.probe: one for one in done}
    return [by_probe[probe] for probe in probes]


def make_blocks(probes: Sequence[Probe], device: str) -> list[list[Probe]]:
    """The probes that train together, seed by seed."""
    kinds: dict[tuple[int | None, ...], list[Probe]] = {}
    for probe in probes:
        kinds.setdefault((probe.layer, probe.seed) if device == "cpu" else (probe.layer,), []).append(probe)
    return [sorted(members, key=lambda probe: probe.seed) for members in kinds.values()]


def compute_activations(
    fitted: Sequence[TrainedProbe], split: Frameset, recipe: Recipe, device: str = "cpu"
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Clip by clip `(clip, (probes, frames, outputs))`, of probes that read the same layer."""
    import torch

    assert len({one.probe.layer for one in fitted}) == 1
    states = [network.transpose(one.state) for one in fitted]
    parameters = {name: torch.stack([state[name] for state in states]).to(device) for name in states[0]}
    layers = fitted[0].probe.reads(recipe.summable)
    for clip in range(len(split.features)):
        parts = [
            frame_losses.compute_probabilities(recipe.parts, _forward(parameters, rows)[0]).mT.cpu()
            for rows in _read_chunks(split, layers, clip, _count_chunk_frames(parameters, device), device)
        ]
        yield clip, torch.cat(parts, dim=1).numpy()


def _count_chunk_frames(parameters: dict[str, torch.Tensor], device: str) -> int:
    """Frames that go through so many probes at once."""
    room = CHUNK_BYTES if device == "cpu" else CHUNK_BYTES_GPU
    probes, hidden, width = parameters["first"].shape
    return max(64, room // (4 * probes * (max(hidden, width) if "mix" in parameters else hidden)))


def _read_chunks(split: Frameset, layers: Sequence[int], clip: int, step: int, device: str) -> Iterator[torch.Tensor]:
    """A clip's frames in chunks `(layers, frames, width)` float32, of at most `step` frames."""
    length = split.features.length(layers[0], clip)
    for start in range(0, length, step):
        yield _read(split, layers, clip, start, min(step, length - start), device)


def _read(split: Frameset, layers: Sequence[int], clip: int, first: int, count: int, device: str) -> torch.Tensor:
    import torch

    return torch.stack(
        [torch.from_numpy(split.features.read(layer, clip, first, count)).to(device).float() for layer in layers]
    )


def _forward(
    parameters: dict[str, torch.Tensor], rows: torch.Tensor, dropout_mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, Callable[[torch.Tensor], dict[str, torch.Tensor]]]:
    """Outputs `(probes, outputs, frames)`, and what gives every parameter's gradient from that by the outputs.

    parameters: in the form of `network`, of probes of one input. rows: `(layers, frames, width)`.
    dropout_mask: `(1, hidden, frames)`.
    """
    probes = len(parameters["first"])
    x, counts, layers = rows, [probes], None
    if "mix" in parameters:  # each probe has an input of its own
        x, counts, layers = network.mix_layers(parameters, rows), [1] * probes, rows
    outputs, hidden = network.forward(parameters, x, counts, dropout_mask)
    return outputs, lambda output_gradient: network.backward(
        parameters, x, counts, hidden, output_gradient, dropout_mask, layers
    )


class _Block:
    """The probes of one layer, or of the weighted sum, while they train; those of a seed follow each other."""

    def __init__(self, probes: Sequence[Probe], train: Frameset, valid: Frameset, recipe: Recipe, device: str) -> None:
        import torch

        self.train, self.valid, self.recipe, self.device = train, valid, recipe, device
        self.layers = probes[0].reads(recipe.summable)
        seeds = dict.fromkeys(probe.seed for probe in probes)
        self.order = {seed: torch.Generator().manual_seed(3 * seed) for seed in seeds}
        self.dropout = {seed: torch.Generator(device).manual_seed(3 * seed + 1) for seed in seeds}
        starts = {seed: self._init_parameters(train, seed, probes[0].layer is None) for seed in seeds}
        parameters = {
            name: torch.stack([starts[probe.seed][name] for probe in probes]).to(device)
            for name in starts[probes[0].seed]
        }
        self.adam = Adam(parameters, [probe.weight_decay for probe in probes])
        schedule = recipe.schedule
        rules = Rules(schedule.stop_patience, schedule.max_epochs, schedule.lr_patience, recipe.protocol.plateau_factor)
        self.tracker: ProbeTracker[Probe] = ProbeTracker(probes, [probe.learning_rate for probe in probes], rules)

    def _init_parameters(self, train: Frameset, seed: int, is_sum: bool) -> dict[str, torch.Tensor]:
        """One probe's initial parameters, in the form of `network`."""
        import torch

        generator = torch.Generator().manual_seed(3 * seed + 2)
        width, protocol = train.features.widths[self.layers[0]], self.recipe.protocol
        init = get_head(protocol).init
        assert init is not None  # a head that fits itself answers for whole clips
        start = init(width, protocol.hidden, self.recipe.outputs, generator)
        if is_sum:
            start["mix"] = torch.randn(len(self.layers), generator=generator)
        return network.transpose(start)

    def _spans(self) -> dict[int, slice]:
        """The positions of each seed's living probes."""
        seeds = [probe.seed for probe in self.tracker.alive]
        return {seed: slice(seeds.index(seed), seeds.index(seed) + seeds.count(seed)) for seed in dict.fromkeys(seeds)}

    def run_round(self) -> None:
        """A crop of every training clip, then every validation clip whole, then what follows for each probe."""
        import torch

        train, valid = self.train, self.valid
        going, size = len(self.tracker.alive), self.recipe.protocol.batch_size
        with torch.inference_mode():
            crops = {seed: self._draw_crops(train, seed) for seed in self._spans()}
            total = torch.zeros(going, device=self.device)
            for start in range(0, len(train.features), size):
                total += self._step(train, {seed: each[start : start + size] for seed, each in crops.items()})
            losses = self._compute_valid_losses(valid)
        finite = total.isfinite().cpu() & losses.isfinite()
        staying = self.tracker.update(
            (-losses).tolist(),
            finite.tolist(),
            lambda index: {name: value[index].clone() for name, value in self.adam.parameters.items()},
        )
        if len(staying) < going:
            with torch.inference_mode():
                self.adam.select(staying)

    def _draw_crops(self, train: Frameset, seed: int) -> list[tuple[int, int, int]]:
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
        """One step of all probes, each on its seed's crops; their losses, none below 0."""
        import torch

        gradients = {name: torch.zeros_like(value) for name, value in self.adam.parameters.items()}
        total = torch.zeros(len(self.tracker.alive), device=self.device)
        for seed, span in self._spans().items():
            batch = crops[seed]
            own = {name: value[span] for name, value in self.adam.parameters.items()}
            truth = [train.truth(self.layers[0], clip)[first : first + count] for clip, first, count in batch]
            counts = torch.stack([torch.from_numpy(each).isfinite().sum(dim=0) for each in truth]).sum(dim=0)
            kept_units, at = self._draw_dropout(seed, sum(count for _, _, count in batch)), 0
            for rows, labels in self._iterate_chunks(train, batch, truth, _count_chunk_frames(own, self.device)):
                dropout_mask = None if kept_units is None else self._scale_mask(kept_units[at : at + len(labels)])
                at += len(labels)
                outputs, backward = _forward(own, rows, dropout_mask)
                loss, loss_gradient = frame_losses.compute_losses(
                    self.recipe.parts, outputs, labels.T, counts.to(self.device)
                )
                for name, gradient in backward(loss_gradient()).items():
                    gradients[name][span] += gradient
                total[span] += loss.sum(dim=-1)
        self.adam.step(gradients, self.tracker.rates)
        return total

    def _iterate_chunks(
        self, train: Frameset, batch: Sequence[tuple[int, int, int]], truth: Sequence[Any], step: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """A batch's frames `(layers, frames, width)` and labels `(frames, columns)`, `step` frames at once."""
        import torch

        rows: list[torch.Tensor] = []
        labels: list[torch.Tensor] = []
        waiting = 0
        for (clip, first, count), truths in zip(batch, truth, strict=True):
            start = 0
            while start < count:
                size = min(step - waiting, count - start)
                rows.append(_read(train, self.layers, clip, first + start, size, self.device))
                labels.append(torch.from_numpy(truths[start : start + size]).to(self.device))
                start, waiting = start + size, waiting + size
                if waiting == step:
                    yield torch.cat(rows, dim=1), torch.cat(labels)
                    rows, labels, waiting = [], [], 0
        if waiting:
            yield torch.cat(rows, dim=1), torch.cat(labels)

    def _draw_dropout(self, seed: int, frames: int) -> torch.Tensor | None:
        """Where dropout leaves the hidden layer of a batch alone, `(frames, hidden)`, the same for all probes of a seed."""
        import torch

        rate, hidden = self.recipe.protocol.dropout, self.recipe.protocol.hidden
        if not rate or not hidden:
            return None
        return torch.rand(frames, hidden, generator=self.dropout[seed], device=self.device) >= rate

    def _scale_mask(self, left: torch.Tensor) -> torch.Tensor:
        """`(frames, hidden)` -> `(1, hidden, frames)`: what hidden values are multiplied with."""
        return (left.T.contiguous().float() / (1 - self.recipe.protocol.dropout))[None]

    def _compute_valid_losses(self, valid: Frameset) -> torch.Tensor:
        """`(probes,)` on the CPU: the loss of these parts, over all frames of the validation split."""
        import torch

        parameters, parts, validated_parts = self.adam.parameters, self.recipe.parts, self.recipe.validated_parts
        step = _count_chunk_frames(parameters, self.device)
        truths = [torch.from_numpy(valid.truth(self.layers[0], clip)) for clip in range(len(valid.features))]
        counts = torch.stack([truth.isfinite().sum(dim=0) for truth in truths]).sum(dim=0).to(self.device)
        precise = torch.float64 if self.device != "mps" else torch.float32
        total = torch.zeros(len(self.tracker.alive), device=self.device, dtype=precise)
        for clip, truth in enumerate(truths):
            first = 0
            for rows in _read_chunks(valid, self.layers, clip, step, self.device):
                labels = truth[first : first + rows.shape[1]].to(self.device)
                loss, _ = frame_losses.compute_losses(parts, _forward(parameters, rows)[0], labels.T, counts)
                for part in validated_parts:
                    total += loss[:, part]
                first += rows.shape[1]
        return total.cpu()

    def results(self) -> list[TrainedProbe]:
        """Every probe at its best, weights on the CPU."""
        return [
            TrainedProbe(
                probe,
                tracked.valid,
                tracked.best_round,
                tuple(tracked.history),
                tracked.diverged,
                network.transpose({name: value.cpu() for name, value in tracked.state.items()}),
            )
            for probe, tracked in self.tracker.tracked.items()
        ]
