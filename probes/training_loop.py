"""Trains blocks of probes one after another, keeps those that are finished, and says how it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from typing import Protocol as Interface

from .grid import Probe, ProbeCache, Progress, TrainedProbe
from .schedule import ProbeTracker


class TrainableBlock(Interface):
    """Probes that train together."""

    tracker: ProbeTracker[Any]

    def run_round(self) -> None:
        """Some training and one validation."""

    def results(self) -> list[TrainedProbe]:
        """Every probe at its best."""


def train_blocks(
    blocks: Sequence[Sequence[Probe]],
    begin: Callable[[Sequence[Probe]], TrainableBlock],
    progress: Progress | None = None,
    probe_cache: ProbeCache | None = None,
) -> list[TrainedProbe]:
    """Every probe of every block, trained or taken from the probe cache, in the order of the blocks.

    begin: makes a block ready; not called for one that the cache has.
    """
    done: list[TrainedProbe] = []
    todo, best = sum(len(members) for members in blocks), -math.inf

    def report(ended: int, score: float, alive: int) -> None:
        if progress:
            progress(len(done) + ended, todo, max(best, score), alive)

    for members in blocks:
        found = probe_cache.get(members) if probe_cache else None
        if found is None:
            block = begin(members)
            while block.tracker.alive:
                block.run_round()
                alive = len(block.tracker.alive)
                report(len(members) - alive, block.tracker.best, alive)
            found = block.results()
            del block  # which held more than its results
            if probe_cache:
                probe_cache.put(found)
                found = probe_cache.map_kept(found)
        else:
            report(len(members), max((one.valid for one in found if one.valid == one.valid), default=-math.inf), 0)
        best = max([best, *(one.valid for one in found if one.valid == one.valid)])
        done += found
    return done
