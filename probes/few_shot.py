"""Other training sets from the same features: nested shares of the clips, and shuffled labels."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .grid import Split

SHARES = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5)
FIRST_SEED = 1_000_003  # apart from the generators of training


def count_clips(share: float, clips: int) -> int:
    """How many of some clips a share is: rounded up, at least one."""
    return max(1, math.ceil(share * clips - 1e-9))


def take_share(train: Split, share: float, seed: int) -> Split:
    """The first clips of an order drawn by the seed, at least one: a smaller share is part of a larger one."""
    import torch

    order = torch.randperm(train.clips, generator=torch.Generator().manual_seed(FIRST_SEED + seed))
    chosen = order[: count_clips(share, train.clips)].sort().values
    place = torch.full((train.clips,), -1)
    place[chosen] = torch.arange(len(chosen))
    windows = (place[train.clip] >= 0).nonzero()[:, 0]
    rows = windows if train.rows is None else train.rows[windows]
    return replace(train, clip=place[train.clip[windows]], truth=train.truth[chosen], rows=rows)


def shuffle_labels(train: Split) -> Split:
    """The same clips with their labels dealt out anew: what a probe then scores above chance, it did not learn."""
    import torch

    order = torch.randperm(train.clips, generator=torch.Generator().manual_seed(FIRST_SEED - 1))
    return replace(train, truth=train.truth[order])
