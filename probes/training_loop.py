"""Trains blocks of probes one after another, keeps those that are finished, and says how it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any
from typing import Protocol as Interface

from .grid import Probe, ProbeCache, Progress, TrainedProbe
from .schedule import ProbeTracker


class TrainableBlock(Interface):
    """Probes that train together."""

    tracker: ProbeTracker[Any]

    def run_round(self) -> None:
        """Some training and one validation."""

    def results(self) -> Iterable[TrainedProbe]:
        """Every probe at its best, in the order given; asked for once."""


def _keep_whole(members: Sequence[Probe]) -> Sequence[Sequence[Probe]]:
    return [members]


def train_blocks(
    blocks: Sequence[Sequence[Probe]],
    begin: Callable[[Sequence[Probe]], TrainableBlock],
    progress: Progress | None = None,
    probe_cache: ProbeCache | None = None,
    split: Callable[[Sequence[Probe]], Sequence[Sequence[Probe]]] = _keep_whole,
) -> list[TrainedProbe]:
    """Every probe of every block, trained or taken from the probe cache, in the order of the blocks.

    begin: makes a block of some probes ready; not called for one that the cache has. split: the parts of a block, one after
    another, that the cache keeps apart; only those that it lacks are trained.
    """
    done: list[TrainedProbe] = []
    todo, best = sum(len(members) for members in blocks), -math.inf

    def report(ended: int, score: float, alive: int) -> None:
        if progress:
            progress(len(done) + ended, todo, max(best, score), alive)

    for members in blocks:
        parts = split(members)
        kept = {at: found for at, part in enumerate(parts) if probe_cache and (found := probe_cache.get(part))}
        ended = 0
        for found in kept.values():
            ended += len(found)
            best = _find_best(best, found)
            report(ended, best, 0)
        if missing := [at for at in range(len(parts)) if at not in kept]:
            results = iter(_train(begin([probe for at in missing for probe in parts[at]]), len(members), report))
            for at in missing:
                kept[at] = _keep(list(islice(results, len(parts[at]))), probe_cache)
            del results  # which hold more than what is kept
        done += [one for at in range(len(parts)) for one in kept[at]]
        best = _find_best(best, done)
    return done


def _train(block: TrainableBlock, probes: int, report: Callable[[int, float, int], None]) -> Iterable[TrainedProbe]:
    """Train a block to its end. probes: how many there are, with those that the cache had."""
    while block.tracker.alive:
        block.run_round()
        alive = len(block.tracker.alive)
        report(probes - alive, block.tracker.best, alive)
    return block.results()


def _find_best(best: float, found: Iterable[TrainedProbe]) -> float:
    return max([best, *(one.valid for one in found if one.valid == one.valid)])


def _keep(found: list[TrainedProbe], probe_cache: ProbeCache | None) -> list[TrainedProbe]:
    if not probe_cache:
        return found
    probe_cache.put(found)
    return probe_cache.map_kept(found)
