"""Fits separators on frame-wise features: for each layer, learning rate and seed a mask estimator for every stem.

The network is MARBLE's published one, which is open-unmix's with features in place of the spectrogram: features, shifted and
scaled by learned vectors -> linear to 512, batch norm, tanh -> three LSTM layers of 512, one way (dropout 0.4 between them)
-> beside their own input, linear to 512, batch norm, ReLU -> linear to a value per bin, batch norm, learned scale and
shift, ReLU: a mask, which the mixture's magnitude is multiplied with. The mixture is no input. `bidirectional` gives the
paper's variant, half the width each way. The loss is the mean squared difference of magnitudes, mono.

The stems of one seed train side by side, with as many layers as memory allows: a batch's magnitudes, features and dropout
masks are made once for all of them. Each has its own learning rate, plateau, early stop and best weights. Initial weights,
batch order and dropout masks depend on the seed alone, so that a separator trained by itself meets the same numbers.

Validation after each epoch is the global SDR, a mean over the validation tracks, with the mixture's phase and without the
Wiener step, which costs as much as everything else of it; scores that are reported have the step.

Features are put on the spectrogram's frames by time: frame t, at `t * hop / sample_rate` seconds, takes the layer's frame
that is nearest; beyond the last one, that is repeated (MARBLE pads with zeros, for which there is no need). `Features` is
what `marble_bench.features.frames.Frames` is.

Departs from MARBLE: the mixtures of training are drawn once (see `marble_bench.separation.mixing`); float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from marble_bench.errors import DataError
from marble_bench.metrics._bsseval import global_sdr
from marble_bench.probes import adam, network, schedule
from marble_bench.probes.grid import Probe, ProbeCache, Progress, TrainedProbe
from marble_bench.probes.training_loop import train_blocks
from marble_bench.separation import spectra
from marble_bench.separation.stems import MIXTURE

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.core.task import Separation
    from marble_bench.separation.mixing import Chunks, Track

    State = dict[str, torch.Tensor]

BLOCK_BYTES = 2 << 30  # parameters, gradients, Adam's moments and best weights of the separators that train together
CACHE_BYTES = 256 << 20  # magnitudes of training mixtures that are cached from epoch to epoch, if all fit
PIECE = 600  # frames of a track that are worked on at once
RUNNING = (".mean", ".var")  # endings of what batch norm remembers, which is not trained


class Features(Interface):
    """Frames of some sounds: `rates` (frames a second) and `widths` of the layers."""

    rates: list[float]
    widths: list[int]

    def length(self, layer: int, item: int) -> int:
        """Frames of a sound in a layer."""

    def read(self, layer: int, item: int, first: int, count: int) -> NDArray[np.float16]:
        """`(count, width)`: a stretch of a sound's frames."""


# The network ------------------------------------------------------------------------------------------------------------


def init_state(width: int, layers: int, rules: Separation, generator: torch.Generator) -> State:
    """Initial weights as torch's own layers draw them, from a generator. layers: of the sum, 0 for a single layer."""
    import torch

    def uniform(*shape: int, fan: int) -> torch.Tensor:
        return (2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(fan)

    hidden, bins = rules.hidden, rules.bins
    state: State = {"input_mean": torch.zeros(width), "input_scale": torch.ones(width)}
    if layers:
        state["mix"] = torch.randn(layers, generator=generator)
    each = hidden // 2 if rules.bidirectional else hidden
    for layer in range(rules.lstm_layers):
        for way in ("", "_back") if rules.bidirectional else ("",):
            for name, shape in (("ih", (4 * each, hidden)), ("hh", (4 * each, each)), ("bi", (4 * each,))):
                state[f"lstm{layer}{way}.{name}"] = uniform(*shape, fan=each)
            state[f"lstm{layer}{way}.bh"] = uniform(4 * each, fan=each)
    state["fc2"] = uniform(hidden, 2 * hidden, fan=2 * hidden)
    state["fc3"] = uniform(bins, hidden, fan=hidden)
    state["fc1"] = uniform(hidden, width, fan=width)  # last: what is before does not depend on the width
    for name, size in (("bn1", hidden), ("bn2", hidden), ("bn3", bins)):
        state |= {f"{name}.weight": torch.ones(size), f"{name}.bias": torch.zeros(size)}
        state |= {f"{name}.mean": torch.zeros(size), f"{name}.var": torch.ones(size)}
    state |= {"output_scale": torch.ones(bins), "output_mean": torch.ones(bins)}
    return state


def _normalize(state: State, name: str, x: torch.Tensor, training: bool) -> torch.Tensor:
    """Batch norm over all but the last axis; what it remembers is moved in place while training."""
    from torch.nn import functional

    flat = x.reshape(-1, x.shape[-1])
    done = functional.batch_norm(
        flat,
        state[f"{name}.mean"],
        state[f"{name}.var"],
        state[f"{name}.weight"],
        state[f"{name}.bias"],
        training=training,
    )
    return done.view(x.shape)


def encode_frames(state: State, x: torch.Tensor, training: bool = False) -> torch.Tensor:
    """`(..., width)` features -> `(..., hidden)`, what the LSTM reads."""
    from torch.nn import functional

    shifted = (x + state["input_mean"]) * state["input_scale"]
    return _normalize(state, "bn1", functional.linear(shifted, state["fc1"]), training).tanh()


def run_lstm(
    state: State, x: torch.Tensor, rules: Separation, dropout_masks: Sequence[torch.Tensor] = ()
) -> torch.Tensor:
    """`(batch, frames, hidden)` -> `(batch, frames, 2 * hidden)`: the input, and what the LSTM layers make of it.

    dropout_masks: `(batch, frames, hidden)` for each layer but the last; none in use.
    """
    import torch

    training = torch.is_grad_enabled()  # a GPU's kernel has to know whether it will be asked for gradients
    ways = ("", "_back") if rules.bidirectional else ("",)
    each = rules.hidden // len(ways)
    out = x
    for layer in range(rules.lstm_layers):
        weights = [state[f"lstm{layer}{way}.{name}"] for way in ways for name in ("ih", "hh", "bi", "bh")]
        zero = x.new_zeros(len(ways), x.shape[0], each)
        out = torch.lstm(out, (zero, zero), weights, True, 1, 0.0, training, rules.bidirectional, True)[0]
        if layer < len(dropout_masks):
            out = out * dropout_masks[layer]
    return torch.cat([x, out], dim=-1)


def mask(state: State, x: torch.Tensor, training: bool = False) -> torch.Tensor:
    """`(..., 2 * hidden)` -> `(..., bins)`, none negative."""
    from torch.nn import functional

    x = _normalize(state, "bn2", functional.linear(x, state["fc2"]), training).relu()
    x = _normalize(state, "bn3", functional.linear(x, state["fc3"]), training)
    return (x * state["output_scale"] + state["output_mean"]).relu()


# Features on the spectrogram's frames -----------------------------------------------------------------------------------


def align_frames(
    features: Features, layer: int, item: int, first: int, last: int, rules: Separation
) -> NDArray[np.float16]:
    """`(last - first, width)`: a layer's frames on the spectrogram's frames `first` to `last`."""
    import numpy as np

    length = features.length(layer, item)
    if not length:
        raise DataError(f"item {item} has no frames in layer {layer}: it is shorter than the encoder can take")
    times = np.arange(first, last) * (rules.hop / rules.sample_rate_hz)
    at = np.minimum(np.floor(times * features.rates[layer] + 0.5).astype(np.int64), length - 1)
    read = features.read(layer, item, int(at[0]), int(at[-1] - at[0]) + 1)
    placed: NDArray[np.float16] = read[at - at[0]]
    return placed


def _mix_layers(state: State, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The one layer, or the softmax-weighted sum of several, float32."""
    import torch

    if "mix" not in state:
        return inputs[0].float()
    mixed: torch.Tensor = network.mix_layers(
        {"mix": state["mix"][None]}, torch.stack([each.float() for each in inputs])
    )
    return mixed[0]


# Training ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingData:
    """What separators are trained and chosen on.

    chunks, train: the training mixtures and their features, in one order. tracks, valid: the validation songs and theirs.
    summable: layers of the sum.
    """

    chunks: Chunks
    train: Features
    tracks: Sequence[Track]
    valid: Features
    summable: Sequence[int] = ()


def fit(
    probes: Sequence[Probe],
    material: TrainingData,
    rules: Separation,
    device: str = "cpu",
    progress: Progress | None = None,
    probe_cache: ProbeCache | None = None,
) -> list[TrainedProbe]:
    """Train every separator and return them in the order given. `valid` of the results is the mean SDR in dB.

    progress: called after each epoch with (separators finished, in all, best validation score so far, in training), and
    for each block that the cache had. probe_cache: where finished blocks are looked up and kept.
    """
    targets = _Targets(material.chunks, device)
    blocks = _make_blocks(probes, material, rules)
    done = train_blocks(
        blocks, lambda members: _Block(members, material, rules, targets, device), progress, probe_cache
    )
    by_probe = {one.probe: one for one in done}
    return [by_probe[probe] for probe in probes]


def choose(fitted: Sequence[TrainedProbe], seeds: int, stems: int) -> list[list[TrainedProbe]]:
    """For each seed the best separator of each stem by validation; of equal ones, the first in the grid's order.

    A stem that no validation track has a score for takes the first one. Raises DataError if all of a seed and stem diverged.
    """
    chosen = []
    for seed in range(seeds):
        row = []
        for stem in range(stems):
            members = [one for one in fitted if (one.probe.seed, one.probe.stem) == (seed, stem) and one.state]
            if not members:
                raise DataError(
                    f"every separator of seed {seed}, stem {stem} diverged in its first steps: check the features' scale"
                )
            row.append(max(members, key=lambda one: one.valid))
        chosen.append(row)
    return chosen


def _make_blocks(probes: Sequence[Probe], material: TrainingData, rules: Separation) -> list[list[Probe]]:
    """Separators that train together: of one seed, and within the memory for one block."""
    blocks: list[list[Probe]] = []
    for seed in dict.fromkeys(probe.seed for probe in probes):
        used = 0
        for probe in (one for one in probes if one.seed == seed):
            width = material.train.widths[probe.reads(material.summable)[0]]
            each = rules.hidden // 2 if rules.bidirectional else rules.hidden
            ways = rules.hidden // each
            cells = rules.lstm_layers * ways * 4 * each * (rules.hidden + each + 2)
            size = 5 * 4 * (cells + rules.hidden * (width + 2 * rules.hidden + rules.bins))
            if not used or used + size > BLOCK_BYTES:
                blocks.append([])
                used = 0
            blocks[-1].append(probe)
            used += size
    return blocks


class _Targets:
    """Magnitudes of training mixtures, `(parts, frames, bins)` float16, the mixture first; cached where all fit."""

    def __init__(self, chunks: Chunks, device: str) -> None:
        self.chunks, self.device = chunks, device
        rules = chunks.rules
        size = 2 * len(chunks) * (1 + chunks.stems) * rules.frames(rules.chunk) * rules.bins
        self.cached: dict[int, torch.Tensor] | None = {} if size <= CACHE_BYTES else None

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """`(batch, parts, frames, bins)` float32."""
        import torch

        return torch.stack([self._load_one(index).to(self.device).float() for index in indices])

    def _load_one(self, index: int) -> torch.Tensor:
        import torch

        if self.cached is not None and index in self.cached:
            return self.cached[index]
        stems = torch.from_numpy(self.chunks.read(index)).to(self.device)
        magnitudes = spectra.compute_magnitudes(
            torch.cat([stems.sum(dim=0, keepdim=True), stems]), self.chunks.rules
        ).half()
        if self.cached is not None:
            self.cached[index] = magnitudes.cpu()
        return magnitudes


class _Block:
    """Separators of one seed that train together."""

    def __init__(
        self, probes: Sequence[Probe], material: TrainingData, rules: Separation, targets: _Targets, device: str
    ) -> None:
        import torch

        self.material, self.rules, self.targets, self.device = material, rules, targets, device
        seed = probes[0].seed
        self.order, self.dropout = (torch.Generator().manual_seed(3 * seed + part) for part in range(2))
        self.tracker = schedule.ProbeTracker(
            probes,
            [probe.learning_rate for probe in probes],
            schedule.Rules(rules.stop_patience, rules.max_epochs, rules.lr_patience, rules.plateau_factor),
        )
        self.states: dict[Probe, State] = {}
        self.steps: dict[Probe, adam.Adam] = {}
        for probe in probes:
            layers = probe.reads(material.summable)
            generator = torch.Generator().manual_seed(3 * seed + 2)
            state = init_state(
                material.train.widths[layers[0]], len(layers) if probe.layer is None else 0, rules, generator
            )
            self.states[probe] = {name: value.to(device) for name, value in state.items()}
            self.steps[probe] = adam.Adam(
                {name: value[None] for name, value in self.states[probe].items() if not name.endswith(RUNNING)},
                [probe.weight_decay],
            )

    def run_round(self) -> None:
        """One pass over the training mixtures, one validation, and what follows from it for each separator."""
        import torch

        indices = torch.randperm(len(self.material.chunks), generator=self.order).tolist()
        size = self.rules.batch_size
        losses = [self._step(indices[first : first + size]) for first in range(0, len(indices), size)]
        is_finite = torch.stack(losses).isfinite().all(dim=0).tolist()  # asked once: a GPU waits each time it is asked
        finite = dict(zip(self.tracker.alive, is_finite, strict=True))
        scores = self._validate([probe for probe in self.tracker.alive if finite[probe]])
        alive = list(self.tracker.alive)
        self.tracker.update(
            [scores.get(probe, math.nan) for probe in alive],
            [finite[probe] for probe in alive],
            lambda index: {name: value.detach().clone() for name, value in self.states[alive[index]].items()},
        )
        for probe in set(alive) - set(self.tracker.alive):
            del self.states[probe], self.steps[probe]

    def _step(self, indices: Sequence[int]) -> torch.Tensor:
        """One Adam step of every separator alive on the mixtures `indices`; their losses."""
        import torch

        magnitudes = self.targets.batch(indices)
        frames = magnitudes.shape[2]
        dropout_masks = self._draw_dropout_masks(len(indices), frames)
        inputs = {
            layer: self._inputs(layer, indices, frames)
            for layer in dict.fromkeys(x for probe in self.tracker.alive for x in probe.reads(self.material.summable))
        }
        losses = []
        for probe, rate in zip(self.tracker.alive, self.tracker.rates, strict=True):
            step, state = self.steps[probe], self.states[probe]
            leaves = {name: value.requires_grad_(True) for name, value in step.parameters.items()}
            live = {**state, **{name: value[0] for name, value in leaves.items()}}
            x = encode_frames(
                live, _mix_layers(live, [inputs[i] for i in probe.reads(self.material.summable)]), training=True
            )
            guess = mask(live, run_lstm(live, x, self.rules, dropout_masks), training=True) * magnitudes[:, 0]
            assert probe.stem is not None
            loss = (guess - magnitudes[:, 1 + probe.stem]).square().mean()
            gradients = torch.autograd.grad(loss, list(leaves.values()))
            for value in leaves.values():
                value.requires_grad_(False)
            step.step(dict(zip(leaves, gradients, strict=True)), [rate])
            losses.append(loss.detach())
        return torch.stack(losses)

    def _inputs(self, layer: int, indices: Sequence[int], frames: int) -> torch.Tensor:
        """`(batch, frames, width)` half precision."""
        import numpy as np
        import torch

        read = [align_frames(self.material.train, layer, index, 0, frames, self.rules) for index in indices]
        return torch.from_numpy(np.stack(read)).to(self.device)

    def _draw_dropout_masks(self, batch: int, frames: int) -> list[torch.Tensor]:
        """Dropout masks, `(batch, frames, hidden)`, of each LSTM layer but the last."""
        import torch

        share = 1 - self.rules.dropout
        shape = (batch, frames, self.rules.hidden)
        draws = (torch.rand(shape, generator=self.dropout) for _ in range(self.rules.lstm_layers - 1))
        return [((draw < share) / share).to(self.device) for draw in draws] if self.rules.dropout else []

    def _validate(self, probes: Sequence[Probe]) -> dict[Probe, float]:
        """Each separator's mean SDR over the validation tracks that have its stem; -inf where no track has."""
        found: dict[Probe, list[float]] = {probe: [] for probe in probes}
        for item, track in enumerate(self.material.tracks):
            mixture = self._move_to_device(track.read(MIXTURE))
            for stem in dict.fromkeys(probe.stem for probe in probes):
                assert stem is not None
                true = track.read(track.parts[1 + stem])
                for probe in (one for one in probes if one.stem == stem):
                    state = self.states[probe]
                    layers = probe.reads(self.material.summable)
                    guess = separate(state, mixture, self.material.valid, layers, item, self.rules, False, self.device)
                    sdr = global_sdr(true, guess)
                    if true.any():
                        found[probe].append(sdr)
        return {probe: sum(values) / len(values) if values else -math.inf for probe, values in found.items()}

    def _move_to_device(self, sound: NDArray[np.float32]) -> torch.Tensor:
        import torch

        return torch.from_numpy(sound).to(self.device)

    def results(self) -> list[TrainedProbe]:
        """Every separator of the block at its best, weights on the CPU."""
        return [
            TrainedProbe(
                p, k.valid, k.best_round, tuple(k.history), k.diverged, {n: v.cpu() for n, v in k.state.items()}
            )
            for p, k in self.tracker.tracked.items()
        ]


# In use -----------------------------------------------------------------------------------------------------------------


def separate(
    state: State,
    mixture: torch.Tensor,
    features: Features,
    layers: Sequence[int],
    item: int,
    rules: Separation,
    with_wiener: bool,
    device: str = "cpu",
) -> NDArray[np.float32]:
    """One stem of a whole track, `(channels, samples)`; mixture `(channels, samples)` on the device.

    The LSTM runs over the whole track; everything wider goes piece by piece, so that memory is a few times the sound's.
    """
    import torch

    frames = rules.frames(mixture.shape[1])
    back = spectra.Resynthesis(mixture.shape[1], mixture.shape[0], rules, device)
    with torch.inference_mode():
        squashed = [
            encode_frames(state, part)
            for part in _iterate_track_inputs(state, features, layers, item, frames, rules, device)
        ]
        hidden = run_lstm(state, torch.cat(squashed)[None], rules)[0]
        length = rules.wiener_frames if with_wiener else PIECE
        parts = zip(spectra.cut_pieces(frames, length), spectra.compute_spectra(mixture, rules, length), strict=True)
        for (first, last), spectrum in parts:
            magnitude = mask(state, hidden[first:last]) * spectrum.abs().mean(dim=-1)
            back.add(first, (spectra.filter_wiener if with_wiener else spectra.apply_phase)(magnitude, spectrum))
        found: NDArray[np.float32] = back.finish().cpu().numpy()
    return found


def _iterate_track_inputs(
    state: State,
    features: Features,
    layers: Sequence[int],
    item: int,
    frames: int,
    rules: Separation,
    device: str,
) -> Iterator[torch.Tensor]:
    """A track's features piece by piece, `(frames, width)` float32, of one layer or summed."""
    import torch

    for first, last in spectra.cut_pieces(frames, PIECE):
        read = [align_frames(features, layer, item, first, last, rules) for layer in layers]
        yield _mix_layers(state, [torch.from_numpy(part).to(device) for part in read])
