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
        nonlocal best
        best = max(best, score)
        if progress:
            progress(len(done) + ended, todo, best, alive)

    for members in blocks:
        done += _train_block(split(members), begin, report, probe_cache)
    return done


def _train_block(
    parts: Sequence[Sequence[Probe]],
    begin: Callable[[Sequence[Probe]], TrainableBlock],
    report: Callable[[int, float, int], None],
    probe_cache: ProbeCache | None,
) -> list[TrainedProbe]:
    """One block, of parts that the cache keeps apart. report: takes how many of its probes ended, the best score, and how
    many are in training."""
    kept = {at: found for at, part in enumerate(parts) if probe_cache and (found := probe_cache.get(part))}
    ended = 0
    for found in kept.values():
        ended += len(found)
        report(ended, max((one.valid for one in found if one.valid == one.valid), default=-math.inf), 0)
    missing = [at for at in range(len(parts)) if at not in kept]
    if missing:
        members = [probe for at in missing for probe in parts[at]]
        block = begin(members)
        while block.tracker.alive:
            block.run_round()
            alive = len(block.tracker.alive)
            report(ended + len(members) - alive, block.tracker.best, alive)
        results = iter(block.results())
        kept |= {at: _keep(list(islice(results, len(parts[at]))), probe_cache) for at in missing}
    return [one for at in range(len(parts)) for one in kept[at]]


def _keep(found: list[TrainedProbe], probe_cache: ProbeCache | None) -> list[TrainedProbe]:
    if not probe_cache:
        return found
    probe_cache.put(found)
    return probe_cache.map_kept(found)
