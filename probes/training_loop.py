"""Trains blocks of probes one after another, keeps those that are finished, and says how it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any
from typing import Protocol as Shape

from .grid import Fitted, Probe, Progress, Shelf
from .schedule import Book


class Trains(Shape):
    """Probes that train together."""

    book: Book[Any]

    def round(self) -> None:
        """Some training and one validation."""

    def finished(self) -> list[Fitted]:
        """Every probe at its best."""


def in_turn(
    blocks: Sequence[Sequence[Probe]],
    begin: Callable[[Sequence[Probe]], Trains],
    progress: Progress | None = None,
    shelf: Shelf | None = None,
) -> list[Fitted]:
    """Every probe of every block, trained or taken from the shelf, in the order of the blocks.

    begin: makes a block ready; not called for one that the shelf has.
    """
    done: list[Fitted] = []
    todo, best = sum(len(members) for members in blocks), -math.inf

    def tell(ended: int, score: float, alive: int) -> None:
        if progress:
            progress(len(done) + ended, todo, max(best, score), alive)

    for members in blocks:
        found = shelf.get(members) if shelf else None
        if found is None:
            block = begin(members)
            while block.book.alive:
                block.round()
                alive = len(block.book.alive)
                tell(len(members) - alive, block.book.best, alive)
            found = block.finished()
            if shelf:
                shelf.put(found)
        else:
            tell(len(members), max((one.valid for one in found if one.valid == one.valid), default=-math.inf), 0)
        best = max([best, *(one.valid for one in found if one.valid == one.valid)])
        done += found
    return done
