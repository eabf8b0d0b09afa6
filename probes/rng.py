"""The random numbers of one seed: initial weights, batches, dropout.

Each comes from a generator of its own, so that none moves another, and all of them depend on the seed, the number of
windows and the batch size alone: a probe meets the same numbers alone as in the grid, and probes of a seed are compared
with common random numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def make_generators(seed: int) -> tuple[torch.Generator, torch.Generator, torch.Generator]:
    """Of a seed: one for batches, one for dropout, one for initial weights."""
    import torch

    order, dropout, init = (torch.Generator().manual_seed(3 * seed + part) for part in range(3))
    return order, dropout, init


def draw_epoch(windows: int, size: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Batches of indices that visit every window once; the last may be shorter."""
    import torch

    order = torch.randperm(windows, generator=generator)
    return [order[start : start + size] for start in range(0, windows, size)]


def sample(windows: int, size: int, generator: torch.Generator) -> torch.Tensor:
    """One batch of `min(size, windows)` different windows, drawn anew, as JukeMIR's code draws its batches."""
    import torch

    if windows < 8 * size:
        return torch.randperm(windows, generator=generator)[:size]
    drawn: dict[int, None] = {}  # of many windows hardly any is drawn twice
    while len(drawn) < size:
        drawn.update(dict.fromkeys(torch.randint(windows, (2 * size,), generator=generator).tolist()))
    return torch.tensor(list(drawn)[:size])


def draw_uniform(windows: int, width: int, generator: torch.Generator) -> torch.Tensor:
    """`(windows, width)` in 0 to 1: where it is below the rate, dropout strikes."""
    import torch

    return torch.rand(windows, width, generator=generator)
