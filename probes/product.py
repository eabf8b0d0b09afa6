"""The matrix products that the probes spend their time in, one for each input that probes share."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from .kernels import multiply_linear

if TYPE_CHECKING:
    import torch


def multiply_grouped(
    left: torch.Tensor, right: torch.Tensor, counts: Sequence[int], out: torch.Tensor | None = None
) -> torch.Tensor:
    """`(probes, rows, inner)` times each group's `(groups, columns, inner)` transposed: `(probes, rows, columns)`.

    The probes of a group follow one another, `counts` of them each, and share one product. Off the CPU, neighbouring
    groups of one size share one call. out: where to put it if it comes in parts.
    """
    import torch

    probes, rows, inner = left.shape
    columns = right.shape[1]
    if len(counts) == 1:
        return multiply_linear(left.view(probes * rows, inner), right[0]).view(probes, rows, columns)
    parts = []
    done = group = 0
    for count, same in groupby(counts):
        many = len(list(same))
        for start, together in [(0, many)] if left.device.type != "cpu" else [(each, 1) for each in range(many)]:
            first = done + start * count
            of = left[first : first + together * count].reshape(together, count * rows, inner)
            by = right[group + start : group + start + together]
            part = multiply_linear(of[0], by[0])[None] if together == 1 else torch.bmm(of, by.mT)
            parts.append(part.view(together * count, rows, columns))
        done, group = done + many * count, group + many
    return torch.cat(parts, out=out)
