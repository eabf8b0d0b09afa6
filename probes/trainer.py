"""Fits a whole grid of probes as batched models: every layer x learning rate x ... x seed.

Probes that read the same layer with the same seed share their batches, and one matrix product serves them all
(`network`). Each has its own learning rate, plateau, early stop and best weights (`schedule`), and its update is one pass
over its memory (`adam`). Batch order, dropout masks and initial weights depend on the seed alone (`draws`); a probe trained
by itself meets the same numbers as in the grid. A probe that is finished, or that diverged, leaves its block.

A block is the probes that train together. On the CPU it is small, so that what the optimiser touches stays in the cache
from one step to the next, and each core trains a block of its own to its end before it takes the next; on a GPU a block is
as large as the memory allows.
Features stay on the device where they fit, and go there batch by batch where they do not.

Follows MARBLE's published code: Adam, `ReduceLROnPlateau` and early stopping on the validation score, best weights
kept; outputs averaged over a clip's windows before they are scored. Departs from it in precision: float32, where it
trained in mixed float16. For `jukemir` it follows JukeMIR's: batches drawn anew, validation every few steps and before
the first, dropout on the features too.

Shapes: features `(windows, width)`, outputs `(probes, clips, outputs)`, truth as in `marble_bench.targets`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, product
from typing import TYPE_CHECKING, Literal
from typing import Protocol as Shape

from marble_bench.errors import BenchError
from marble_bench.plugins import find_head

from . import draws, memory, network
from .adam import Adam
from .features import Features, Moments, chunk
from .schedule import Book, Rules

if TYPE_CHECKING:
    import torch

    from marble_bench.protocol import Protocol
    from marble_bench.targets import Loss
    from marble_bench.task import Schedule

ACTIVATION_BYTES = 16 << 20  # of one hidden layer when scoring: windows go through in chunks of so much


@dataclass(frozen=True)
class Probe:
    """One point of the grid. layer: index of a layer, or None for the softmax-weighted sum of the summable layers.

    hidden, batch_size, dropout, standardize: where the protocol's grid has these axes; None: the protocol's one value.
    weight_decay: for an exact solution the penalty.
    """

    layer: int | None
    learning_rate: float
    weight_decay: float
    seed: int
    hidden: int | None = None
    batch_size: int | None = None
    dropout: float | None = None
    standardize: bool | None = None


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
    rows: `(windows,)` int64, where the split's windows stand in `layers`, so that splits share layers without a copy;
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
class Fitted:
    """A trained probe at its best round: an epoch, or so many steps, by the protocol.

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

    score: `(outputs (probes, clips, outputs), truth) -> (probes,)`, higher is better. summable: layers of the sum.
    """

    protocol: Protocol
    schedule: Schedule
    outputs: int
    loss: Loss
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    summable: tuple[int, ...] = ()

    @property
    def rules(self) -> Rules:
        """When a probe's rate is lowered, and when it stops."""
        if self.protocol.stop_evaluations:
            return Rules(self.protocol.stop_evaluations, self.protocol.max_evaluations or None)
        task = self.schedule
        return Rules(task.stop_patience, task.max_epochs, task.lr_patience, self.protocol.plateau_factor)


class Progress(Shape):
    """Called after each round: probes finished, probes in all, best validation score so far, probes in training."""

    def __call__(self, done: int, todo: int, best: float, alive: int) -> None: ...


class Shelf(Shape):
    """Keeps finished blocks, so that a run that dies goes on from there."""

    def get(self, probes: Sequence[Probe]) -> list[Fitted] | None:
        """What was kept of a block, or None."""

    def put(self, fitted: Sequence[Fitted]) -> None:
        """Keep a block."""


def grid(protocol: Protocol, layers: Sequence[int], with_sum: bool, seeds: int) -> list[Probe]:
    """Every probe of a run, in the order in which ties are broken: layer, then the axes as below, last the seed."""
    places: list[int | None] = [*layers, *([None] if with_sum else [])]
    rates, decays = protocol.learning_rates, protocol.weight_decays
    if protocol.solver == "exact":
        decays = protocol.penalties
    scaled: Sequence[bool | None] = protocol.standardizing or (None,)
    hiddens: Sequence[int | None] = protocol.hiddens or (None,)
    sizes: Sequence[int | None] = protocol.batch_sizes or (None,)
    dropouts: Sequence[float | None] = protocol.dropouts or (None,)
    return [
        Probe(layer, rate, decay, seed, hidden, size, dropout, scale)
        for layer, scale, hidden, size, rate, dropout, decay, seed in product(
            places, scaled, hiddens, sizes, rates, dropouts, decays, range(seeds)
        )
    ]


def average_windows(outputs: torch.Tensor, clip: torch.Tensor, clips: int) -> torch.Tensor:
    """`(probes, windows, outputs)` -> `(probes, clips, outputs)`: the mean over each clip's windows."""
    import torch

    if len(clip) == clips:
        return outputs  # one window a clip, in order
    total = outputs.new_zeros(outputs.shape[0], clips, outputs.shape[2]).index_add_(1, clip, outputs)
    return total / torch.bincount(clip, minlength=clips).clamp(min=1)[:, None]


def fit(
    probes: Sequence[Probe],
    train: Split,
    valid: Split,
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress | None = None,
    *,
    states: Literal["all", "best"] = "all",
    shelf: Shelf | None = None,
    block_bytes: int | None = None,
) -> list[Fitted]:
    """Train every probe and return them in the order given.

    states: whose weights to hand back: all, or of each seed only the best one's, first of equals, which saves memory.
    shelf: where finished blocks are looked up and kept. block_bytes: of parameters, gradients and moments that train
    together; else by the device. While blocks train side by side on the CPU, torch's own threads are set to one.

    Raises BenchError if a probe does not fit the memory even alone.
    """
    import torch

    todo = blocks(probes, train, valid, recipe, device, block_bytes)
    threads = min(_threads(device), len(todo))
    run = _Run(probes, train, valid, recipe, device, progress, states, shelf, threads)
    if threads < 2:
        for members in todo:
            run.block(members)
        return run.fitted()
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # a block for each core: cores that share every small product wait for each other
    pool = ThreadPoolExecutor(threads)
    try:
        for done in wait([pool.submit(run.block, each) for each in todo], return_when=FIRST_EXCEPTION).done:
            done.result()
    except BaseException:
        run.stopped.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)
    return run.fitted()


def _threads(device: str) -> int:
    """Blocks that train at once: on the CPU as many as torch may use threads."""
    import torch

    return torch.get_num_threads() if device == "cpu" else 1


class _Stopped(Exception):
    """Another block failed, or the user gave up."""


class _Run:
    """One call of `fit`: blocks hand in what they found, in whatever order they end."""

    def __init__(
        self,
        probes: Sequence[Probe],
        train: Split,
        valid: Split,
        recipe: Recipe,
        device: str,
        progress: Progress | None,
        states: Literal["all", "best"],
        shelf: Shelf | None,
        threads: int,
    ) -> None:
        self.probes, self.train, self.valid, self.recipe, self.device = probes, train, valid, recipe, device
        self.progress, self.states, self.shelf, self.threads = progress, states, shelf, threads
        self.place = {probe: index for index, probe in enumerate(probes)}
        self.results: dict[Probe, Fitted] = {}
        self.best = -math.inf
        self.alive: dict[int, tuple[int, int]] = {}  # by thread: probes in training, probes of the block that ended
        self.read: dict[tuple[int, ...], Features] = {}
        self.lock = threading.RLock()
        self.stopped = threading.Event()

    def block(self, members: Sequence[Probe]) -> None:
        """Train one block, or take it from the shelf."""
        found = self.shelf.get(members) if self.shelf else None
        if found is None:
            found = self._trained(members)
        with self.lock:
            if self.states == "best":
                found = _without_states(found, list(self.results.values()), self.place)
            self.results.update({fitted.probe: fitted for fitted in found})
            if self.states == "best":
                others = _without_states(list(self.results.values()), [], self.place)
                self.results = {one.probe: one for one in others}
        if self.shelf:
            self.shelf.put(found)
        self._tell(max((one.valid for one in found if one.valid == one.valid), default=-math.inf), 0, 0)

    def _trained(self, members: Sequence[Probe]) -> list[Fitted]:
        features = self._features(_layers(members, self.recipe))
        if self.recipe.protocol.solver == "exact":
            from .exact import solve

            return solve(members, features, self.recipe)
        block = _Block(members, features, self.recipe, self.device)
        while block.alive:
            if self.stopped.is_set():
                raise _Stopped
            block.round()
            self._tell(block.book.best, len(block.alive), len(members) - len(block.alive))
        return block.finished()

    def _features(self, layers: tuple[int, ...]) -> Features:
        """Of some layers, loaded once for the blocks that follow each other; the oldest are let go first."""
        with self.lock:
            found = self.read.pop(layers, None)
            while found is None and len(self.read) >= self.threads:
                del self.read[next(iter(self.read))]
            self.read[layers] = found or Features(self.train, self.valid, layers, self.device)
            return self.read[layers]

    def _tell(self, best: float, alive: int, ended: int) -> None:
        with self.lock:
            self.best = max(self.best, best)
            self.alive[threading.get_ident()] = (alive, ended)
            if self.progress:
                now = [sum(each) for each in zip(*self.alive.values(), strict=True)]
                self.progress(len(self.results) + now[1], len(self.probes), self.best, now[0])

    def fitted(self) -> list[Fitted]:
        """In the order asked for."""
        return [self.results[probe] for probe in self.probes]


def _without_states(found: list[Fitted], others: list[Fitted], place: dict[Probe, int]) -> list[Fitted]:
    """The same, with the weights of each seed's best alone. others: of earlier blocks, for comparison."""
    first: dict[int, Fitted] = {}
    for one in sorted([*found, *others], key=lambda one: place[one.probe]):
        if one.valid == one.valid and (one.probe.seed not in first or one.valid > first[one.probe.seed].valid):
            first[one.probe.seed] = one
    return [one if first.get(one.probe.seed) is one else replace(one, state={}) for one in found]


def predict(fitted: Fitted, split: Split, recipe: Recipe, device: str = "cpu") -> torch.Tensor:
    """`(clips, outputs)` float32 on the CPU: one trained probe's outputs, averaged over each clip's windows."""
    return average_windows(predict_windows(fitted, split, recipe, device)[None], split.clip, split.clips)[0]


def predict_windows(fitted: Fitted, split: Split, recipe: Recipe, device: str = "cpu") -> torch.Tensor:
    """`(windows, outputs)` float32 on the CPU: one trained probe's outputs."""
    import torch

    parts = {name: value for name, value in fitted.state.items() if name not in ("mean", "spread")}
    parameters = {name: value[None].to(device) for name, value in network.turned(parts).items()}
    layers = [split.layers[layer] for layer in _layers([fitted.probe], recipe)]
    hidden = Form.of(fitted.probe, recipe.protocol).hidden
    step = max(1, ACTIVATION_BYTES // (4 * max(hidden, layers[0].shape[1] * len(layers))))
    done = []
    with torch.inference_mode():
        for start in range(0, len(split.clip), step):
            read = [chunk(layer, split.rows, start, step).to(device).float() for layer in layers]
            if "mean" in fitted.state:
                both = zip(fitted.state["mean"].to(device), fitted.state["spread"].to(device), strict=True)
                read = [Moments(*one).scaled(each) for one, each in zip(both, read, strict=True)]
            x = network.mixed(parameters, torch.stack(read)) if fitted.probe.layer is None else read[0][None]
            done.append(network.forward(parameters, x, [1])[0][0].T.cpu())
    return torch.cat(done)


def _layers(probes: Sequence[Probe], recipe: Recipe) -> tuple[int, ...]:
    """The layers that probes read."""
    layers = {layer for p in probes for layer in (recipe.summable if p.layer is None else (p.layer,))}
    return tuple(sorted(layers))


def blocks(
    probes: Sequence[Probe],
    train: Split,
    valid: Split,
    recipe: Recipe,
    device: str = "cpu",
    block_bytes: int | None = None,
) -> list[list[Probe]]:
    """Probes that train together: of one form, and within the memory; on the CPU also of one layer and seed."""
    free = memory.free_bytes(device)
    share = int(memory.SHARE * free)
    limit = block_bytes or (memory.CACHE_BYTES // _threads(device) if device == "cpu" else share)
    kinds: dict[tuple[object, ...], list[Probe]] = {}
    for probe in probes:
        form = Form.of(probe, recipe.protocol)
        width = train.width(recipe.summable[0] if probe.layer is None else probe.layer)
        kind: tuple[object, ...] = (probe.layer is None, width, form.hidden, form.batch_size)
        if probe.layer is None:
            kind += (probe.seed, form.dropout, form.standardize)
        elif device == "cpu" or recipe.protocol.solver == "exact":
            kind += (probe.layer, probe.seed)
        kinds.setdefault(kind, []).append(probe)
    made = []
    for members in kinds.values():
        of_optimiser, beside = _bytes(members[0], train, valid, recipe)
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
        ordered = sorted(members, key=lambda probe: _group(probe, recipe))
        even = math.ceil(len(ordered) / math.ceil(len(ordered) / most))
        made += [ordered[start : start + even] for start in range(0, len(ordered), even)]
    return made


def _bytes(probe: Probe, train: Split, valid: Split, recipe: Recipe) -> tuple[int, int]:
    """Bytes of one probe: of parameters, gradients and moments; of its best weights, activations, inputs and outputs."""
    form = Form.of(probe, recipe.protocol)
    layers = recipe.summable if probe.layer is None else (probe.layer,)
    width = train.width(layers[0])
    inner = form.hidden or recipe.outputs
    values = (width + 1) * inner + ((form.hidden + 1) * recipe.outputs if form.hidden else 0)
    batch = 4 * form.batch_size * (3 * inner + width * (2 + 2 * (len(layers) > 1)) + 3 * recipe.outputs)
    return 16 * values, 4 * values + batch + 12 * valid.clips * recipe.outputs


def _group(probe: Probe, recipe: Recipe) -> tuple[int, int, bool, float]:
    """What probes must share to have the same input: layer, seed, scaling, dropout."""
    form = Form.of(probe, recipe.protocol)
    return (-1 if probe.layer is None else probe.layer, probe.seed, form.standardize, form.dropout)


def validated(
    parameters: dict[str, torch.Tensor],
    features: Features,
    recipe: Recipe,
    keys: Sequence[tuple[int, int, bool, float]],
    counts: Sequence[int],
) -> torch.Tensor:
    """`(probes, clips, outputs)`: outputs for the valid split without dropout, averaged over each clip's windows.

    parameters: in the form of `network`. keys: each group's layer (below 0: the sum), seed, scaling and dropout.
    """
    import torch

    is_sum, probes = "mix" in parameters, sum(counts)
    most = probes * (parameters["first"].shape[1] if "first" in parameters else recipe.outputs)
    inputs = len(recipe.summable) + probes if is_sum else len(keys)
    step = max(1, ACTIVATION_BYTES // (4 * max(most, inputs * features.width)))
    clips, windows = len(features.valid_truth), len(features.valid_clip)
    parts = []
    total = parameters["last" if "last" in parameters else "weight"].new_zeros(probes, recipe.outputs, clips)
    for start in range(0, windows, step):
        if is_sum:
            read = [features.chunk(layer, start, step, keys[0][2]) for layer in recipe.summable]
            x = network.mixed(parameters, torch.stack(read))
        else:
            x = torch.stack([features.chunk(layer, start, step, scaled) for layer, _, scaled, _ in keys])
        outputs, _ = network.forward(parameters, x, counts)
        if windows == clips:  # one window a clip, in order
            parts.append(outputs)
        else:
            total.index_add_(2, features.valid_clip[start : start + step], outputs)
    return (torch.cat(parts, dim=2) if parts else total / features.valid_counts).mT


class _Block:
    """Probes that train together. Tensors hold the probes still alive, in the order of `alive`."""

    def __init__(self, probes: Sequence[Probe], features: Features, recipe: Recipe, device: str) -> None:
        import torch

        self.recipe, self.device, self.features = recipe, device, features
        self.form = Form.of(probes[0], recipe.protocol)
        self.is_sum = probes[0].layer is None
        self.book = Book(probes, [probe.learning_rate for probe in probes], recipe.rules)
        self.draws = {probe.seed: draws.generators(probe.seed) for probe in probes}
        self.rounds = 0
        starts = {seed: self._start(init) for seed, (_, _, init) in self.draws.items()}
        names = list(next(iter(starts.values())))
        self.parameters = {name: torch.stack([starts[p.seed][name] for p in probes]).to(device) for name in names}
        self.adam = Adam(self.parameters, [probe.weight_decay for probe in probes])

    @property
    def alive(self) -> list[Probe]:
        return self.book.alive

    def _start(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """One probe's initial parameters, in the form of `network`."""
        import torch

        head = find_head(self.recipe.protocol.head if self.form.hidden else "linear")
        width = self.features.width
        start: dict[str, torch.Tensor] = head.init(width, self.form.hidden, self.recipe.outputs, generator)
        if self.is_sum:
            start["mix"] = torch.randn(len(self.recipe.summable), generator=generator)
        return network.turned(start)

    @cached_property
    def _groups(self) -> tuple[list[tuple[int, int, bool, float]], list[int], torch.Tensor | None]:
        """The inputs of the living probes, how many read each, and the input of each; of a sum every probe has its own."""
        import torch

        found = [(key, len(list(same))) for key, same in groupby(self.alive, lambda probe: _group(probe, self.recipe))]
        keys, counts = [key for key, _ in found], [count for _, count in found]
        if len(keys) == 1:
            return keys, [1] * counts[0] if self.is_sum else counts, None
        of = torch.repeat_interleave(torch.arange(len(keys)), torch.tensor(counts)).to(self.device)
        return keys, counts, of

    def round(self) -> None:
        """Some training, one validation, and what follows from it for each probe."""
        import torch

        finite = torch.ones(len(self.alive), dtype=torch.bool, device=self.device)
        with torch.inference_mode():
            for rows in self._batches():
                finite &= self._step(rows)
            keys, counts, _ = self._groups
            outputs = validated(self.parameters, self.features, self.recipe, keys, counts)
            finite &= outputs.isfinite().flatten(1).all(dim=1)
            where = "cpu" if self.device == "mps" else self.device  # metrics count in float64, which MPS has not
            scores = self.recipe.score(outputs.to(where), self.features.valid_truth.to(where))
        going = len(self.alive)
        staying = self.book.judge(scores.tolist(), finite.tolist(), self._state)
        self.rounds += 1
        if 0 < len(staying) < going:
            with torch.inference_mode():
                self.adam.keep(staying)
            del self._groups

    def _batches(self) -> list[dict[int, torch.Tensor]]:
        """The windows of this round's steps, by seed."""
        seeds = {seed: self.draws[seed][0] for _, seed, _, _ in self._groups[0]}
        windows, size, every = self.features.windows, self.form.batch_size, self.recipe.protocol.validate_steps
        if not every:
            drawn = {seed: draws.epoch(windows, size, order) for seed, order in seeds.items()}
        elif self.rounds:
            drawn = {s: [draws.sample(windows, size, order) for _ in range(every)] for s, order in seeds.items()}
        else:
            return []
        return [dict(zip(drawn, rows, strict=True)) for rows in zip(*drawn.values(), strict=True)]

    def _step(self, rows: dict[int, torch.Tensor]) -> torch.Tensor:
        """One Adam step on the windows `rows`, by seed; returns which probes' losses are finite."""
        import torch

        keys, counts, of = self._groups
        x, layers = self._inputs(rows)
        truth = torch.stack([self.features.truth(rows[seed]) for _, seed, _, _ in keys])
        keep = self._keep(len(next(iter(rows.values()))))
        outputs, hidden = network.forward(self.parameters, x, counts, keep)
        loss, slope = network.slopes(outputs, truth, self.recipe.loss, of)
        gradients = network.backward(self.parameters, x, counts, hidden, slope, keep, layers)
        self.adam.step(gradients, self.book.rates)
        return loss.isfinite()

    def _inputs(self, rows: dict[int, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(groups, windows, width)`, and what a sum is made of, `(layers, windows, width)`."""
        import torch

        keys = self._groups[0]
        noise: dict[int, torch.Tensor] = {}
        if self.recipe.protocol.input_dropout:
            for seed, drawn in rows.items():
                uniform = draws.uniform(len(drawn), self.features.width, self.draws[seed][1])
                noise[seed] = uniform.to(self.device)
        if self.is_sum:
            _, seed, scaled, rate = keys[0]
            layers = torch.stack([self.features.take(each, rows[seed], scaled) for each in self.recipe.summable])
            if noise and rate:
                layers *= (noise[seed] >= rate) / (1 - rate)
            return network.mixed(self.parameters, layers), layers
        read: dict[tuple[int, int, bool], torch.Tensor] = {}
        inputs = []
        for layer, seed, scaled, rate in keys:
            if (layer, seed, scaled) not in read:
                read[layer, seed, scaled] = self.features.take(layer, rows[seed], scaled)
            x = read[layer, seed, scaled]
            inputs.append(x * ((noise[seed] >= rate) / (1 - rate)) if noise and rate else x)
        return torch.stack(inputs) if len(inputs) > 1 else inputs[0][None], None

    def _keep(self, batch: int) -> torch.Tensor | None:
        """What dropout leaves of the hidden layer, `(1 or probes, hidden, windows)`, by the same draw for a seed."""
        import torch

        keys, _, of = self._groups
        if not self.form.hidden or not any(rate for *_, rate in keys):
            return None
        drawn = {
            seed: draws.uniform(batch, self.form.hidden, self.draws[seed][1]).to(self.device)
            for seed in dict.fromkeys(seed for _, seed, _, _ in keys)
        }
        made = {(seed, rate): ((drawn[seed] >= rate) / (1 - rate)).T.contiguous() for _, seed, _, rate in keys}
        keep = torch.stack([made[seed, rate] for _, seed, _, rate in keys])
        return keep if of is None else keep[of]

    def _state(self, index: int) -> dict[str, torch.Tensor]:
        return {name: value[index].clone() for name, value in self.parameters.items()}

    def finished(self) -> list[Fitted]:
        """Every probe of the block at its best, weights on the CPU."""
        made = []
        for probe, kept in self.book.kept.items():
            state = network.turned({name: value.cpu() for name, value in kept.state.items()})
            scaled = Form.of(probe, self.recipe.protocol).standardize
            state = self.features.with_moments(state, _layers([probe], self.recipe) if scaled else ())
            made.append(Fitted(probe, kept.valid, kept.best_round, tuple(kept.history), kept.diverged, state))
        return made
