"""Fits a grid of probes that answer frame by frame: every layer x learning rate x seed, in one pass over the frames.

A probe has a block of outputs for each part of the target. Every epoch draws one crop from each training clip, by the
probe's seed, and takes the crops in batches; a step's loss is the sum over the parts of the mean over the batch's frames
that have a label (`frame_losses`). A batch goes through in chunks of frames, so that what is hidden stays in the cache, and
the chunks' gradients are added up. Probes of one layer and seed, a group, share every chunk and its products (`network`).
Features are read from disk, a piece of a clip at a time, so that no layer is ever wholly in memory.

A block is the groups that train together. They share what does not depend on the layer: crops, their labels, dropout masks,
and each piece that is read, which the weighted sum reads too. On a CPU a block is the groups of a seed, on a GPU those of
all seeds, as many as `BLOCK_BYTES` or its memory allow. All of them have layers of one rate and length. A probe's numbers do
not depend on what it trains with. One that stops leaves its group, and a layer that nothing trains on is not read. A
finished block is kept in a probe cache, if there is one, group by group.

After each epoch a probe is judged by minus the loss of the parts that the target names, over the whole clips of the
validation split: plateau, early stop and best weights follow from it (`probes/schedule.py`). Crops, their order and initial
weights depend on the seed alone, as do dropout masks (on one kind of device).

Shapes: features `(frames, width)`, outputs `(frames, outputs)`, truth `(frames, columns)`; truth is NaN where not annotated.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from marble_bench.core.plugins import get_head

from . import frame_losses, memory, network
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
    from marble_bench.scoring.frame_targets import AnsweredPart

CHUNK_BYTES = 6 << 20  # of hidden activations at once on a CPU: they should stay in its cache
CHUNK_BYTES_GPU = 512 << 20
PIECE_BYTES = 16 << 20  # of frames that are read at once, of all layers
BLOCK_BYTES = 512 << 20  # of what a CPU block's probes keep: with all else, a process stays below 1 GB
COPIES = 5  # of its parameters that a probe keeps: themselves, gradient, two moments, best weights


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
    parts: Sequence[AnsweredPart]
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
    blocks = make_blocks(probes, train, valid, recipe, device)
    done = train_blocks(
        blocks,
        lambda each: _Block(each, train, valid, recipe, device),
        progress,
        probe_cache,
        lambda each: group_probes(each, device),
    )
    by_probe = {one.probe: one for one in done}
    return [by_probe[probe] for probe in probes]


def group_probes(probes: Sequence[Probe], device: str) -> list[list[Probe]]:
    """The probes that share products: on a CPU those of one layer and seed, on a GPU of one layer, seed by seed."""
    kinds: dict[tuple[object, ...], list[Probe]] = {}
    for probe in probes:
        kinds.setdefault((probe.layer, probe.seed) if device == "cpu" else (probe.layer,), []).append(probe)
    return [sorted(members, key=lambda probe: probe.seed) for members in kinds.values()]


def make_blocks(
    probes: Sequence[Probe], train: Frameset, valid: Frameset, recipe: Recipe, device: str
) -> list[list[Probe]]:
    """The probes that train together, group by group."""
    limit = BLOCK_BYTES if device == "cpu" else int(memory.SHARE * memory.free_bytes(device))
    kinds: dict[tuple[Any, ...], list[list[Probe]]] = {}
    for group in group_probes(probes, device):
        layer, seeds = group[0].reads(recipe.summable)[0], {probe.seed for probe in group}
        kinds.setdefault((*sorted(seeds), *_describe_times(train, layer), *_describe_times(valid, layer)), []).append(
            group
        )
    blocks = []
    for groups in kinds.values():
        most = max(1, limit // max(_count_kept_bytes(group, train, recipe) for group in groups))
        even = math.ceil(len(groups) / math.ceil(len(groups) / most))
        parts = [groups[start : start + even] for start in range(0, len(groups), even)]
        blocks += [[probe for group in part for probe in group] for part in parts]
    return blocks


def _describe_times(split: Frameset, layer: int) -> tuple[float, tuple[int, ...]]:
    """What layers must share to be read together: the rate, and how many frames each clip has."""
    features = split.features
    return features.rates[layer], tuple(features.length(layer, clip) for clip in range(len(features)))


def _count_kept_bytes(group: Sequence[Probe], train: Frameset, recipe: Recipe) -> int:
    """Bytes of what the probes of a group keep from step to step."""
    width, hidden = train.features.widths[group[0].reads(recipe.summable)[0]], recipe.protocol.hidden
    values = (width + 1) * hidden + (hidden + 1) * recipe.outputs if hidden else (width + 1) * recipe.outputs
    return 4 * COPIES * values * len(group)


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


class _Chunks:
    """Puts frames of some layers together as they are read, and hands them on in chunks.

    size: frames of a chunk. process: takes `(layers, frames, width)` float32, whose memory is used again after it, and how
    many frames came before them.
    """

    def __init__(
        self, layers: Sequence[int], width: int, size: int, device: str, process: Callable[[torch.Tensor, int], None]
    ) -> None:
        import torch

        self.layers, self.process = layers, process
        self.rows = torch.empty(len(layers), size, width, device=device)
        self.waiting = self.before = 0

    def add(self, pieces: Sequence[torch.Tensor]) -> None:
        """Take a piece of each layer, `(frames, width)` float16."""
        start, count, size = 0, len(pieces[0]), self.rows.shape[1]
        while start < count:
            many = min(size - self.waiting, count - start)
            for rows, piece in zip(self.rows, pieces, strict=True):
                rows[self.waiting : self.waiting + many] = piece[start : start + many]
            start, self.waiting = start + many, self.waiting + many
            if self.waiting == size:
                self.flush()

    def flush(self) -> None:
        """Hand on what waits, if anything does."""
        if self.waiting:
            self.process(self.rows[:, : self.waiting].contiguous(), self.before)
            self.before, self.waiting = self.before + self.waiting, 0


def _read_into(chunks: Sequence[_Chunks], split: Frameset, clip: int, first: int, count: int, device: str) -> None:
    """Read a stretch of a clip, each layer once, for all that want it."""
    import torch

    features, layers = split.features, sorted({layer for each in chunks for layer in each.layers})
    step = max(64, PIECE_BYTES // (2 * sum(features.widths[layer] for layer in layers)))
    for start in range(first, first + count, step):
        many = min(step, first + count - start)
        pieces = {layer: torch.from_numpy(features.read(layer, clip, start, many)).to(device) for layer in layers}
        for each in chunks:
            each.add([pieces[layer] for layer in each.layers])


class _Group:
    """The probes of one layer, or of the weighted sum, while they train; those of a seed follow each other.

    `gradients` and `losses` are of the step at hand.
    """

    def __init__(self, probes: Sequence[Probe], train: Frameset, recipe: Recipe, device: str) -> None:
        import torch

        self.alive, self.recipe, self.device = list(probes), recipe, device
        self.layers = probes[0].reads(recipe.summable)
        self.width = train.features.widths[self.layers[0]]
        starts = {probe.seed: self._init_parameters(probe) for probe in probes}
        parameters = {
            name: torch.stack([starts[probe.seed][name] for probe in probes]).to(device)
            for name in starts[probes[0].seed]
        }
        self.adam = Adam(parameters, [probe.weight_decay for probe in probes])
        self.gradients: dict[str, torch.Tensor] = {}
        self.losses = torch.zeros(0)

    def _init_parameters(self, probe: Probe) -> dict[str, torch.Tensor]:
        """One probe's initial parameters, in the form of `network`."""
        import torch

        generator = torch.Generator().manual_seed(3 * probe.seed + 2)
        protocol = self.recipe.protocol
        init = get_head(protocol).init
        assert init is not None  # a head that fits itself answers for whole clips
        start = init(self.width, protocol.hidden, self.recipe.outputs, generator)
        if probe.layer is None:
            start["mix"] = torch.randn(len(self.layers), generator=generator)
        return network.transpose(start)

    def find_span(self, seed: int) -> slice:
        """The positions of a seed's living probes, of which there are some."""
        seeds = [probe.seed for probe in self.alive]
        return slice(seeds.index(seed), seeds.index(seed) + seeds.count(seed))

    def begin_step(self) -> None:
        """Set gradients and losses to 0."""
        import torch

        self.gradients = {name: torch.zeros_like(value) for name, value in self.adam.parameters.items()}
        self.losses = torch.zeros(len(self.alive), device=self.device)

    def make_training_chunks(
        self, seed: int, labels: torch.Tensor, counts: torch.Tensor, kept_units: torch.Tensor | None
    ) -> _Chunks:
        """What a batch's frames are read into: gradients and losses of a seed's probes are added up.

        labels: `(frames, columns)` of the batch. counts: `(columns,)` labelled frames. kept_units: `(frames, hidden)`, where
        dropout leaves the hidden layer alone.
        """
        span = self.find_span(seed)
        own = {name: value[span] for name, value in self.adam.parameters.items()}

        def learn(rows: torch.Tensor, before: int) -> None:
            now = slice(before, before + rows.shape[1])
            outputs, backward = _forward(own, rows, None if kept_units is None else self._scale_mask(kept_units[now]))
            loss, loss_gradient = frame_losses.compute_losses(
                self.recipe.parts, outputs, labels[now].to(self.device).T, counts
            )
            for name, gradient in backward(loss_gradient()).items():
                self.gradients[name][span] += gradient
            self.losses[span] += loss.sum(dim=-1)

        return self._make_chunks(own, learn)

    def make_validation_chunks(self, labels: torch.Tensor, counts: torch.Tensor, total: torch.Tensor) -> _Chunks:
        """What frames are read into to be judged: `total (probes,)` is added to. labels, counts: as for training."""

        def judge(rows: torch.Tensor, before: int) -> None:
            now = labels[before : before + rows.shape[1]].to(self.device)
            outputs = _forward(self.adam.parameters, rows)[0]
            loss, _ = frame_losses.compute_losses(self.recipe.parts, outputs, now.T, counts)
            for part in self.recipe.validated_parts:
                total.add_(loss[:, part])

        return self._make_chunks(self.adam.parameters, judge)

    def _make_chunks(
        self, parameters: dict[str, torch.Tensor], process: Callable[[torch.Tensor, int], None]
    ) -> _Chunks:
        size = _count_chunk_frames(parameters, self.device)
        return _Chunks(self.layers, self.width, size, self.device, process)

    def _scale_mask(self, left: torch.Tensor) -> torch.Tensor:
        """`(frames, hidden)` -> `(1, hidden, frames)`: what hidden values are multiplied with."""
        return (left.T.contiguous().float() / (1 - self.recipe.protocol.dropout))[None]

    def select(self, staying: Sequence[int]) -> None:
        """Drop the probes that are not in `staying`, by position."""
        self.alive = [self.alive[index] for index in staying]
        self.gradients = {}
        self.adam.select(staying)


class _Block:
    """Groups of probes that train together; those whose probes have all stopped are gone."""

    def __init__(self, probes: Sequence[Probe], train: Frameset, valid: Frameset, recipe: Recipe, device: str) -> None:
        import torch

        self.train, self.valid, self.recipe, self.device = train, valid, recipe, device
        self.groups = [_Group(members, train, recipe, device) for members in group_probes(probes, device)]
        seeds = dict.fromkeys(probe.seed for probe in probes)
        self.order = {seed: torch.Generator().manual_seed(3 * seed) for seed in seeds}
        self.dropout = {seed: torch.Generator(device).manual_seed(3 * seed + 1) for seed in seeds}
        schedule = recipe.schedule
        rules = Rules(schedule.stop_patience, schedule.max_epochs, schedule.lr_patience, recipe.protocol.plateau_factor)
        ordered = [probe for group in self.groups for probe in group.alive]
        self.tracker: ProbeTracker[Probe] = ProbeTracker(ordered, [probe.learning_rate for probe in ordered], rules)

    @property
    def _layer(self) -> int:
        """A layer whose rate and lengths are those of all."""
        return self.groups[0].layers[0]

    def _list_starts(self) -> list[int]:
        """Where each group's probes begin among the living ones, and where the last ends."""
        return [0, *accumulate(len(group.alive) for group in self.groups)]

    def run_round(self) -> None:
        """A crop of every training clip, then every validation clip whole, then what follows for each probe."""
        import torch

        size, seeds = self.recipe.protocol.batch_size, sorted({probe.seed for probe in self.tracker.alive})
        with torch.inference_mode():
            crops = {seed: self._draw_crops(seed) for seed in seeds}
            total = torch.zeros(len(self.tracker.alive), device=self.device)
            for start in range(0, len(self.train.features), size):
                total += self._step({seed: each[start : start + size] for seed, each in crops.items()})
            losses = self._compute_valid_losses()
        finite = total.isfinite().cpu() & losses.isfinite()
        starts, going = self._list_starts(), len(self.tracker.alive)
        staying = self.tracker.update((-losses).tolist(), finite.tolist(), partial(self._copy_parameters, starts))
        if len(staying) < going:
            self._select(starts, staying)

    def _copy_parameters(self, starts: Sequence[int], position: int) -> dict[str, torch.Tensor]:
        """A probe's parameters, by its position among the living ones."""
        at = bisect_right(starts, position) - 1
        parameters = self.groups[at].adam.parameters
        return {name: value[position - starts[at]].clone() for name, value in parameters.items()}

    def _select(self, starts: Sequence[int], staying: Sequence[int]) -> None:
        import torch

        left = []
        with torch.inference_mode():
            for group, start, stop in zip(self.groups, starts, starts[1:], strict=False):
                own = [position - start for position in staying if start <= position < stop]
                if own and len(own) < stop - start:
                    group.select(own)
                left += [group] if own else []
        self.groups = left

    def _draw_crops(self, seed: int) -> list[tuple[int, int, int]]:
        """(clip, first frame, frames) of this epoch, in the order of training."""
        import torch

        features, layer, generator = self.train.features, self._layer, self.order[seed]
        wanted = round(self.recipe.crop_s * features.rates[layer])
        crops = []
        for clip in torch.randperm(len(features), generator=generator).tolist():
            length = features.length(layer, clip)
            room = max(length - wanted, 0)
            first = int(torch.randint(room + 1, (), generator=generator))
            crops.append((clip, first, min(wanted, length)))
        return crops

    def _step(self, crops: dict[int, list[tuple[int, int, int]]]) -> torch.Tensor:
        """One step of all probes, each on its seed's crops; their losses, none below 0."""
        import torch

        for group in self.groups:
            group.begin_step()
        for seed, batch in crops.items():
            labels = torch.cat(
                [
                    torch.from_numpy(self.train.truth(self._layer, clip)[first : first + count])
                    for clip, first, count in batch
                ]
            )
            counts = labels.isfinite().sum(dim=0).to(self.device)
            kept_units = self._draw_dropout(seed, len(labels))
            chunks = [
                group.make_training_chunks(seed, labels, counts, kept_units)
                for group in self.groups
                if any(probe.seed == seed for probe in group.alive)
            ]
            for crop in batch:
                _read_into(chunks, self.train, *crop, self.device)
            for each in chunks:
                each.flush()
        starts = self._list_starts()
        for group, start, stop in zip(self.groups, starts, starts[1:], strict=False):
            group.adam.step(group.gradients, self.tracker.rates[start:stop])
            group.gradients = {}  # not held while the block is judged, and best weights are copied
        return torch.cat([group.losses for group in self.groups])

    def _draw_dropout(self, seed: int, frames: int) -> torch.Tensor | None:
        """Where dropout leaves the hidden layer of a batch alone, `(frames, hidden)`, the same for all probes of a seed."""
        import torch

        rate, hidden = self.recipe.protocol.dropout, self.recipe.protocol.hidden
        if not rate or not hidden:
            return None
        return torch.rand(frames, hidden, generator=self.dropout[seed], device=self.device) >= rate

    def _compute_valid_losses(self) -> torch.Tensor:
        """`(probes,)` on the CPU: the loss of the parts that count, over all frames of the validation split."""
        import torch

        valid = self.valid
        truths = [torch.from_numpy(valid.truth(self._layer, clip)) for clip in range(len(valid.features))]
        labels = torch.cat(truths)
        counts = labels.isfinite().sum(dim=0).to(self.device)
        precise = torch.float64 if self.device != "mps" else torch.float32
        totals = [torch.zeros(len(group.alive), device=self.device, dtype=precise) for group in self.groups]
        chunks = [
            group.make_validation_chunks(labels, counts, total)
            for group, total in zip(self.groups, totals, strict=True)
        ]
        for clip, truth in enumerate(truths):
            _read_into(chunks, valid, clip, 0, len(truth), self.device)
            for each in chunks:  # a chunk is of one clip: its sum does not depend on what comes after it
                each.flush()
        return torch.cat(totals).cpu()

    def results(self) -> Iterator[TrainedProbe]:
        """Every probe at its best, weights on the CPU, one after another; asked for once."""
        for probe, tracked in self.tracker.tracked.items():
            state = network.transpose({name: value.cpu() for name, value in tracked.state.items()})
            tracked.state = {}  # else the weights of all probes would be there twice
            yield TrainedProbe(
                probe, tracked.valid, tracked.best_round, tuple(tracked.history), tracked.diverged, state
            )
