"""Padded windows for an encoder that declares `masks` and whose model has no mask: the valid samples alone are encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marble_bench import Encode, Pool
from marble_bench.errors import UsageError

if TYPE_CHECKING:
    import torch


def encode_by_length(encode: Encode, least: int) -> Encode:
    """`encode` with `valid=None` besides: windows with as many valid samples are cut to them and encoded together.

    least: the fewest samples that the model takes. What is returned raises UsageError for fewer valid ones.
    """

    def masked(waveforms: torch.Tensor, pool: Pool, valid: torch.Tensor | None = None) -> list[torch.Tensor]:
        import torch

        if valid is None:
            return list(encode(waveforms, pool))
        if (fewest := int(valid.min())) < least:
            raise UsageError(f"a window has {fewest} valid samples, and the model takes at least {least}")
        rows, parts = [], []
        for length in sorted({int(each) for each in valid}):
            rows.append((valid == length).nonzero()[:, 0].to(waveforms.device))
            parts.append(encode(waveforms[rows[-1], :length], pool))
        back = torch.cat(rows).argsort()
        return [torch.cat(layer)[back] for layer in zip(*parts, strict=True)]

    return masked
