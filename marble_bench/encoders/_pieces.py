"""Windows longer than a model of a fixed length takes: cut into pieces, which are encoded as windows and put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from marble_bench import Pool

if TYPE_CHECKING:
    import torch


def in_pieces(
    waveforms: torch.Tensor,
    piece: int,
    least: int,
    run: Callable[[torch.Tensor, Pool], Sequence[torch.Tensor]],
    pool: Pool,
) -> list[torch.Tensor]:
    """Encode windows `(windows, samples)` in pieces of `piece` samples, one after another, and pool over all of them.

    A last piece of fewer than `least` samples is dropped, unless it is the only one. run: as an encoder's `encode`, for at
    most `piece` samples.
    """
    import torch

    pieces = [each for each in torch.split(waveforms, piece, dim=1) if each.shape[1] >= least] or [waveforms]
    if len(pieces) == 1:
        return list(run(pieces[0], pool))
    parts = [run(each, lambda frames: frames) for each in pieces]
    return [pool(torch.cat(layer, dim=1)) for layer in zip(*parts, strict=True)]
