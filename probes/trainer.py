"""Fits a whole grid of probes as batched models: every layer x learning rate x ... x seed.

Probes that read the same layer with the same seed share their batches, and one matrix product serves them all
(`network`). Each has its own learning rate, plateau, early stop and best weights (`schedule`), and its update is one pass
over its memory (`adam`). Batch order, dropout masks and initial weights depend on the seed alone (`rng`); a probe trained
by itself meets the same numbers as in the grid. A probe that is finished, or that diverged, leaves its block.

A block is the probes that train together. On the CPU it is small, so that what the optimiser touches stays in the cache
from one step to the next, and each core trains a block of its own to its end before it takes the next; on a GPU a block is
as large as the memory allows.
Features stay on the device where they fit, and go there batch by batch where they do not.

Follows MARBLE's published code: Adam, `ReduceLROnPlateau` and early stopping on the validation score, best weights
kept; outputs averaged over a clip's windows before they are scored. Departs from it in precision: float32, where it
trained in mixed float16. For `jukemir` it follows JukeMIR's: batches drawn anew, validation every few steps and before
the first, dropout on the features too.

Shapes: features `(windows, width)`, outputs `(probes, clips, outputs)`, truth as in `marble_bench.scoring.targets`.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from marble_bench.core.plugins import get_head
from marble_bench.scoring.scores import aggregate_windows

from . import block as blocking
from . import exact, memory, network, self_fitting
from .block import ACTIVATION_BYTES, Block, list_layers, make_blocks
from .grid import Form, Probe, ProbeCache, Progress, Recipe, Split, TrainedProbe, build_grid
from .inputs import Features, Moments, read_chunk

if TYPE_CHECKING:
    import torch

__all__ = [
    "Form",
    "Probe",
    "ProbeCache",
    "Progress",
    "Recipe",
    "Split",
    "TrainedProbe",
    "build_grid",
    "fit",
    "make_blocks",
    "predict",
    "predict_windows",
    "torch_threads",
]


def fit(
    probes: Sequence[Probe],
    train: Split,
    valid: Split,
    recipe: Recipe,
    device: str = "cpu",
    progress: Progress | None = None,
    *,
    states: Literal["all", "best"] = "all",
    probe_cache: ProbeCache | None = None,
) -> list[TrainedProbe]:
    """Train every probe and return them in the order given.

    states: whose weights to hand back: all, or of each seed only the best one's, first of equals, which saves memory.
    probe_cache: where finished blocks are looked up and kept. While blocks train side by side on the CPU, torch's own
    threads are set to one, and always for an exact solution, so that its sums have one order.

    Raises BenchError if a probe does not fit the memory even alone.
    """
    solved = recipe.protocol.solver == "exact"
    if solved:
        device = exact.choose_device(device)
    memory.keep_freed_memory()
    todo = make_blocks(probes, train, valid, recipe, device)
    threads = min(blocking.count_threads(device), len(todo))
    run = _Run(probes, train, valid, recipe, device, progress, states, probe_cache, threads)
    # a block for each core: cores that share every small product wait for each other
    with torch_threads(1 if threads > 1 or solved else None):
        if threads < 2:
            for members in todo:
                run.block(members)
        else:
            _train_side_by_side(run, todo, threads)
    return run.collect()


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """torch's own threads on the CPU are so many as long as this is held; None leaves them."""
    import torch

    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _train_side_by_side(run: _Run, todo: Sequence[Sequence[Probe]], threads: int) -> None:
    """Train blocks side by side."""
    pool = ThreadPoolExecutor(threads)
    try:
        for done in wait([pool.submit(run.block, each) for each in todo], return_when=FIRST_EXCEPTION).done:
            done.result()
    except BaseException:
        run.stopped.set()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


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
        probe_cache: ProbeCache | None,
        threads: int,
    ) -> None:
        self.probes, self.train, self.valid, self.recipe, self.device = probes, train, valid, recipe, device
        self.progress, self.states, self.probe_cache, self.threads = progress, states, probe_cache, threads
        self.place = {probe: index for index, probe in enumerate(probes)}
        self.results: dict[Probe, TrainedProbe] = {}
        self.best = -math.inf
        self.alive: dict[int, tuple[int, int]] = {}  # by thread: probes in training, probes of the block that ended
        self.read: dict[tuple[int, ...], Features] = {}
        self.lock = threading.RLock()
        self.stopped = threading.Event()

    def block(self, members: Sequence[Probe]) -> None:
        """Train one block, or take it from the probe cache."""
        found = self.probe_cache.get(members) if self.probe_cache else None
        if found is None:
            found = self._train(members)
        with self.lock:
            if self.states == "best":
                found = _drop_states(found, list(self.results.values()), self.place)
            self.results.update({fitted.probe: fitted for fitted in found})
            if self.states == "best":
                others = _drop_states(list(self.results.values()), [], self.place)
                self.results = {one.probe: one for one in others}
        if self.probe_cache:
            self.probe_cache.put(found)
        self._report(max((one.valid for one in found if one.valid == one.valid), default=-math.inf), 0, 0)

    def _train(self, members: Sequence[Probe]) -> list[TrainedProbe]:
        features = self._features(list_layers(members, self.recipe))
        if self.recipe.protocol.solver == "exact":
            solve = self_fitting.solve if get_head(self.recipe.protocol).fits_itself else exact.solve
            return solve(members, features, self.recipe)
        block = Block(members, features, self.recipe, self.device)
        while block.alive:
            block.run_round(self.stopped.is_set)
            self._report(block.tracker.best, len(block.alive), len(members) - len(block.alive))
        return block.results()

    def _features(self, layers: tuple[int, ...]) -> Features:
        """Of some layers, loaded once for the blocks that follow each other; the oldest are let go first."""
        with self.lock:
            found = self.read.pop(layers, None)
            while found is None and len(self.read) >= self.threads:
                del self.read[next(iter(self.read))]
            self.read[layers] = found or Features(self.train, self.valid, layers, self.device)
            return self.read[layers]

    def _report(self, best: float, alive: int, ended: int) -> None:
        with self.lock:
            self.best = max(self.best, best)
            self.alive[threading.get_ident()] = (alive, ended)
            if self.progress:
                now = [sum(each) for each in zip(*self.alive.values(), strict=True)]
                self.progress(len(self.results) + now[1], len(self.probes), self.best, now[0])

    def collect(self) -> list[TrainedProbe]:
        """In the order asked for."""
        return [self.results[probe] for probe in self.probes]


def _drop_states(found: list[TrainedProbe], others: list[TrainedProbe], place: dict[Probe, int]) -> list[TrainedProbe]:
    """The same, with the weights of each seed's best alone. others: of earlier blocks, for comparison."""
    first: dict[int, TrainedProbe] = {}
    for one in sorted([*found, *others], key=lambda one: place[one.probe]):
        if one.valid == one.valid and (one.probe.seed not in first or one.valid > first[one.probe.seed].valid):
            first[one.probe.seed] = one
    return [one if first.get(one.probe.seed) is one else replace(one, state={}) for one in found]


def predict(fitted: TrainedProbe, split: Split, recipe: Recipe, device: str = "cpu") -> torch.Tensor:
    """`(clips, outputs)` float32 on the CPU: one trained probe's outputs, averaged over each clip's windows."""
    outputs = predict_windows(fitted, split, recipe, device)[None]
    return aggregate_windows(outputs, split.clip, split.clips, recipe.aggregation)[0]


def predict_windows(fitted: TrainedProbe, split: Split, recipe: Recipe, device: str = "cpu") -> torch.Tensor:
    """`(windows, outputs)` float32 on the CPU: one trained probe's outputs."""
    import torch

    parts = {name: value for name, value in fitted.state.items() if name not in ("mean", "spread")}
    if recipe.protocol.solver == "exact":
        device = exact.choose_device(device)
    if get_head(recipe.protocol).fits_itself:
        return self_fitting.predict_windows(fitted, split, recipe, device)
    dtype = next(iter(parts.values())).dtype
    parameters = {name: value[None].to(device) for name, value in network.transpose(parts).items()}
    layers = [split.layers[layer] for layer in list_layers([fitted.probe], recipe)]
    hidden = Form.of(fitted.probe, recipe.protocol).hidden
    step = max(1, ACTIVATION_BYTES // (4 * max(hidden, layers[0].shape[1] * len(layers))))
    done = []
    with torch.inference_mode():
        for start in range(0, len(split.clip), step):
            read = [read_chunk(layer, split.rows, start, step).to(device).to(dtype) for layer in layers]
            if "mean" in fitted.state:
                both = zip(fitted.state["mean"].to(device), fitted.state["spread"].to(device), strict=True)
                read = [Moments(*one).standardize(each) for one, each in zip(both, read, strict=True)]
            if "join" in parameters:
                x = network.join_layers(parameters, torch.cat(read, dim=1))
            else:
                x = network.mix_layers(parameters, torch.stack(read)) if fitted.probe.layer is None else read[0][None]
            done.append(network.forward(parameters, x, [1])[0][0].T.float().cpu())
    return torch.cat(done)
