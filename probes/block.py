"""Blocks: which probes train together, and how they do.

A block's probes have one form: input width, hidden size, batch size. Within it a group is the probes of one input: same
layer, seed, scaling and dropout; they share its product. A weighted sum has an input of its own for each probe, and so has
what a concatenation of layers is mapped to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING

from marble_bench.core.plugins import get_head
from marble_bench.errors import BenchError

from . import memory, network, rng
from .adam import Adam
from .grid import Form, Probe, Recipe, Split, TrainedProbe
from .heads.mlp import linear_init
from .inputs import Features
from .schedule import ProbeTracker

if TYPE_CHECKING:
    import torch

ACTIVATION_BYTES = 16 << 20  # of one hidden layer when scoring: windows go through in chunks of so much


def list_layers(probes: Sequence[Probe], recipe: Recipe) -> tuple[int, ...]:
    """The layers that probes read."""
    return tuple(sorted({layer for probe in probes for layer in recipe.layers_of(probe)}))


def count_threads(device: str) -> int:
    """Blocks that train at once: on the CPU as many as torch may use threads."""
    import torch

    return torch.get_num_threads() if device == "cpu" else 1


def make_blocks(
    probes: Sequence[Probe], train: Split, valid: Split, recipe: Recipe, device: str = "cpu"
) -> list[list[Probe]]:
    """Probes that train together: of one form, and within the memory; on the CPU also of one layer and seed."""
    free = memory.free_bytes(device)
    share = int(memory.SHARE * free)
    limit = memory.CACHE_BYTES // count_threads(device) if device == "cpu" else share
    kinds: dict[tuple[object, ...], list[Probe]] = {}
    for probe in probes:
        kinds.setdefault(_find_kind(probe, train, recipe, device), []).append(probe)
    groups = []
    for members in kinds.values():
        of_optimiser, beside = _count_bytes(members[0], train, valid, recipe)
        if of_optimiser + beside > free:
            raise BenchError(
                f"a single probe with {of_optimiser / 1e6:,.1f} MB of parameters, gradients and moments and "
                f"{beside / 1e6:,.1f} MB beside them does not fit the {free / 1e6:,.1f} MB that are free on "
                f"'{device}': use features of a smaller width, or a device with more memory"
            )
        per_probe = of_optimiser + (0 if device == "cpu" else beside)
        most = max(1, min(limit // per_probe, share // (of_optimiser + beside)))
        if recipe.protocol.solver == "exact":
            most = len(members)  # one after another, each from the last one's solution
        ordered = sorted(members, key=lambda probe: group_of(probe, recipe))
        even = math.ceil(len(ordered) / math.ceil(len(ordered) / most))
        groups += [ordered[start : start + even] for start in range(0, len(ordered), even)]
    return groups


def _find_kind(probe: Probe, train: Split, recipe: Recipe, device: str) -> tuple[object, ...]:
    """What probes must have in common to train together."""
    form = Form.of(probe, recipe.protocol)
    kind: tuple[object, ...] = (
        None if isinstance(probe.layer, int) else probe.layer or "sum",
        train.width(recipe.layers_of(probe)[0]),
        form.hidden,
        form.batch_size,
    )
    if not isinstance(probe.layer, int):
        return (*kind, probe.seed, form.dropout, form.standardize)
    if device == "cpu" or recipe.protocol.solver == "exact":
        kind += (probe.layer, probe.seed)
        if form.hidden:  # a group fills a block; without a hidden layer several do, and share what they read
            kind += (form.dropout, form.standardize)
    return kind


def _count_bytes(probe: Probe, train: Split, valid: Split, recipe: Recipe) -> tuple[int, int]:
    """Bytes of one probe: of parameters, gradients and moments; of its best weights, activations, inputs and outputs."""
    form = Form.of(probe, recipe.protocol)
    layers = recipe.layers_of(probe)
    joined = sum(map(train.width, layers)) if probe.layer == "concat" else 0
    width = train.width(layers[-1])
    inner = form.hidden or recipe.outputs
    values = (width + 1) * inner + ((form.hidden + 1) * recipe.outputs if form.hidden else 0)
    values += (joined + 1) * width if joined else 0
    batch = 4 * form.batch_size * (3 * inner + width * (2 + 2 * (len(layers) > 1)) + 2 * joined + 3 * recipe.outputs)
    return 16 * values, 4 * values + batch + 12 * valid.clips * recipe.outputs


def group_of(probe: Probe, recipe: Recipe) -> tuple[int, int, bool, float]:
    """What probes must share to have the same input: layer, seed, scaling, dropout."""
    form = Form.of(probe, recipe.protocol)
    layer = probe.layer if isinstance(probe.layer, int) else -1 if probe.layer is None else -2
    return (layer, probe.seed, form.standardize, form.dropout)


def validate(
    parameters: dict[str, torch.Tensor],
    features: Features,
    recipe: Recipe,
    keys: Sequence[tuple[int, int, bool, float]],
    counts: Sequence[int],
) -> torch.Tensor:
    """`(probes, clips, outputs)` float32: outputs for the valid split without dropout, averaged over each clip's windows.

    Where the protocol validates windows, `(probes, windows, outputs)`. parameters: in the form of `network`. keys: each
    group's layer (below 0: the sum, the concatenation), seed, scaling and dropout.
    """
    import torch

    probes = sum(counts)
    like = parameters["last" if "last" in parameters else "weight"]
    step = _count_chunk_windows(parameters, features, recipe, len(keys), probes)
    clips, windows = len(features.valid_truth), len(features.valid_clip)
    alone = windows == clips or recipe.protocol.validated == "windows"
    parts = []
    total = torch.zeros(probes, recipe.outputs, clips, device=like.device)
    for start in range(0, windows, step):
        if "mix" in parameters:
            read = [features.chunk(layer, start, step, keys[0][2], like.dtype) for layer in recipe.summable]
            x = network.mix_layers(parameters, torch.stack(read))
        elif "join" in parameters:
            read = [features.chunk(layer, start, step, False, like.dtype) for layer in recipe.every]
            x = network.join_layers(parameters, torch.cat(read, dim=1))
        else:
            x = torch.stack([features.chunk(layer, start, step, scaled, like.dtype) for layer, _, scaled, _ in keys])
        outputs = network.forward(parameters, x, counts)[0].float()
        if recipe.aggregation == "probabilities":
            outputs = outputs.softmax(dim=1)
        if alone:  # one window a clip, in order
            parts.append(outputs)
        else:
            total.index_add_(2, features.valid_clip[start : start + step], outputs)
    return (torch.cat(parts, dim=2) if parts else total / features.valid_counts).mT


def _count_chunk_windows(
    parameters: dict[str, torch.Tensor], features: Features, recipe: Recipe, groups: int, probes: int
) -> int:
    """How many windows are scored at once: what is hidden, and what goes in, takes about `ACTIVATION_BYTES`."""
    most = probes * (parameters["first"].shape[1] if "first" in parameters else recipe.outputs)
    inputs = len(recipe.summable) + probes if "mix" in parameters else groups
    values = inputs * features.width
    if "join" in parameters:
        values = sum(features.widths) + 2 * probes * features.widths[-1]
    return max(1, ACTIVATION_BYTES // (4 * max(most, values)))


class Stopped(Exception):
    """Another block failed, or the user gave up."""


class Block:
    """Probes that train together. Tensors hold the probes still alive, in the order of `alive`."""

    def __init__(self, probes: Sequence[Probe], features: Features, recipe: Recipe, device: str) -> None:
        import torch

        self.recipe, self.device, self.features = recipe, device, features
        self.form = Form.of(probes[0], recipe.protocol)
        self.is_sum, self.is_concat = probes[0].layer is None, probes[0].layer == "concat"
        self.tracker = ProbeTracker(probes, [probe.learning_rate for probe in probes], recipe.rules)
        self.draws = {probe.seed: rng.make_generators(probe.seed) for probe in probes}
        self.rounds = 0
        starts = {seed: self._init_parameters(init) for seed, (_, _, init) in self.draws.items()}
        names = list(next(iter(starts.values())))
        self.parameters = {name: torch.stack([starts[p.seed][name] for p in probes]).to(device) for name in names}
        several = len(self._groups[0]) > 1  # then gradients come in parts, and are put together in one place
        self.adam = Adam(self.parameters, [probe.weight_decay for probe in probes], own_gradients=several)

    @property
    def alive(self) -> list[Probe]:
        return self.tracker.alive

    def _init_parameters(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """One probe's initial parameters, in the form of `network`."""
        import torch

        init = get_head(self.recipe.protocol).init
        assert init is not None  # a head that fits itself is trained elsewhere
        widths = self.features.widths
        start = init(widths[-1], self.form.hidden, self.recipe.outputs, generator)
        if self.is_concat:
            start["join"], start["join_bias"] = linear_init(sum(widths), widths[-1], generator)
        if self.is_sum:
            start["mix"] = torch.randn(len(self.recipe.summable), generator=generator)
        return network.transpose(start)

    @cached_property
    def _seeds(self) -> tuple[list[int], torch.Tensor | None]:
        """The seeds of the living probes, and the place of each probe's own among them, None where there is one."""
        import torch

        seeds = sorted({probe.seed for probe in self.alive})
        if len(seeds) == 1:
            return seeds, None
        return seeds, torch.tensor([seeds.index(probe.seed) for probe in self.alive]).to(self.device)

    @cached_property
    def _groups(self) -> tuple[list[tuple[int, int, bool, float]], list[int], torch.Tensor | None]:
        """The inputs of the living probes, how many read each, and the input of each; of a sum every probe has its own."""
        import torch

        found = [
            (key, len(list(same))) for key, same in groupby(self.alive, lambda probe: group_of(probe, self.recipe))
        ]
        keys, counts = [key for key, _ in found], [count for _, count in found]
        if len(keys) == 1:
            return keys, [1] * counts[0] if self.is_sum or self.is_concat else counts, None
        of = torch.repeat_interleave(torch.arange(len(keys)), torch.tensor(counts)).to(self.device)
        return keys, counts, of

    def run_round(self, stopped: Callable[[], bool]) -> None:
        """Some training, one validation, and what follows from it for each probe.

        stopped: asked before each step, for a round can be long. Raises Stopped if it says so.
        """
        import torch

        total = torch.zeros(len(self.alive), device=self.device)
        with torch.inference_mode():
            for rows in self._make_batches():
                if stopped():
                    raise Stopped
                total += self._step(rows)
            keys, counts, _ = self._groups
            outputs = validate(self.parameters, self.features, self.recipe, keys, counts)
            finite = (total + outputs.abs().amax(dim=(1, 2))).isfinite()
            where = "cpu" if self.device == "mps" else self.device  # metrics count in float64, which MPS has not
            truth = self.features.valid_truth
            if self.recipe.protocol.validated == "windows":
                truth = truth[self.features.valid_clip]
            scores = self.recipe.score(outputs.to(where), truth.to(where))
        going = len(self.alive)
        staying = self.tracker.update(scores.tolist(), finite.tolist(), self._state)
        self.rounds += 1
        if 0 < len(staying) < going:
            with torch.inference_mode():
                self.adam.select(staying)
            del self._groups, self._seeds

    def _make_batches(self) -> list[dict[int, torch.Tensor]]:
        """The windows of this round's steps, by seed."""
        seeds = {seed: self.draws[seed][0] for seed in self._seeds[0]}
        windows, size, every = self.features.windows, self.form.batch_size, self.recipe.protocol.validate_steps
        if not every:
            drawn = {seed: rng.draw_epoch(windows, size, order) for seed, order in seeds.items()}
        elif self.rounds:
            drawn = {s: [rng.sample(windows, size, order) for _ in range(every)] for s, order in seeds.items()}
        else:
            return []
        return [dict(zip(drawn, rows, strict=True)) for rows in zip(*drawn.values(), strict=True)]

    def _step(self, rows: dict[int, torch.Tensor]) -> torch.Tensor:
        """One Adam step on the windows `rows`, by seed; returns the probes' losses, none below 0."""
        import torch

        counts, (seeds, of) = self._groups[1], self._seeds
        x, layers = self._inputs(rows)
        truth = torch.stack([self.features.truth(rows[seed]) for seed in seeds])
        dropout_mask = self._draw_dropout_mask(len(next(iter(rows.values()))))
        outputs, hidden = network.forward(self.parameters, x, counts, dropout_mask)
        loss, output_gradient = network.compute_loss_gradients(outputs, truth, self.recipe.loss, of)
        into = self.adam.gradients
        gradients = network.backward(self.parameters, x, counts, hidden, output_gradient, dropout_mask, layers, into)
        self.adam.step(gradients, self.tracker.rates)
        return loss

    def _inputs(self, rows: dict[int, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(groups, windows, width)`, and what a sum is made of, `(layers, windows, width)`, or a concatenation."""
        import torch

        keys = self._groups[0]
        if self.is_concat:
            joined = torch.cat([self.features.take(each, rows[keys[0][1]], False) for each in self.recipe.every], dim=1)
            return network.join_layers(self.parameters, joined), joined
        masks: dict[tuple[int, float], torch.Tensor] = {}
        if self.recipe.protocol.input_dropout:
            for seed, drawn in rows.items():
                noise = rng.draw_uniform(len(drawn), self.features.width, self.draws[seed][1]).to(self.device)
                for rate in dict.fromkeys(rate for _, own, _, rate in keys if own == seed and rate):
                    mask = torch.ge(noise, rate, out=torch.empty_like(noise))  # as float at once
                    masks[seed, rate] = mask.mul_(1 / (1 - rate))
        if self.is_sum:
            _, seed, scaled, rate = keys[0]
            layers = torch.stack([self.features.take(each, rows[seed], scaled) for each in self.recipe.summable])
            if (seed, rate) in masks:
                layers *= masks[seed, rate]
            return network.mix_layers(self.parameters, layers), layers
        read = {key: self.features.take(key[0], rows[key[1]], key[2]) for key in dict.fromkeys(k[:3] for k in keys)}
        if len(keys) == 1 and not masks:
            return read[keys[0][:3]][None], None
        one = next(iter(read.values()))
        inputs = one.new_empty(len(keys), *one.shape)
        for out, (layer, seed, scaled, rate) in zip(inputs, keys, strict=True):
            x = read[layer, seed, scaled]
            if (seed, rate) in masks:
                torch.mul(x, masks[seed, rate], out=out)
            else:
                out.copy_(x)
        return inputs, None

    def _draw_dropout_mask(self, batch: int) -> torch.Tensor | None:
        """What dropout leaves of the hidden layer, `(1 or probes, hidden, windows)`, by the same draw for a seed."""
        import torch

        keys, _, of = self._groups
        if not self.form.hidden or not any(rate for *_, rate in keys):
            return None
        drawn = {
            seed: rng.draw_uniform(batch, self.form.hidden, self.draws[seed][1]).to(self.device)
            for seed in dict.fromkeys(seed for _, seed, _, _ in keys)
        }
        masks = {(seed, rate): ((drawn[seed] >= rate) / (1 - rate)).T.contiguous() for _, seed, _, rate in keys}
        dropout_mask = torch.stack([masks[seed, rate] for _, seed, _, rate in keys])
        return dropout_mask if of is None else dropout_mask[of]

    def _state(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index].clone() for name, value in self.parameters.items()}

    def results(self) -> list[TrainedProbe]:
        """Every probe of the block at its best, weights on the CPU."""
        trained = []
        for probe, tracked in self.tracker.tracked.items():
            state = network.transpose({name: value.cpu() for name, value in tracked.state.items()})
            scaled = Form.of(probe, self.recipe.protocol).standardize
            state = self.features.with_moments(state, list_layers([probe], self.recipe) if scaled else ())
            valid, round_ = tracked.find_kept(self.recipe.rules.kept)
            trained.append(TrainedProbe(probe, valid, round_, tuple(tracked.history), tracked.diverged, state))
        return trained
