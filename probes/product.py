"""The one matrix product that the probes spend their time in.

On the CPU torch's own `mm` goes through MKL, which on other makers' processors leaves their widest units idle; oneDNN,
which torch carries too, does not. Measured on an AMD EPYC (Zen 5), one core, 3072 x 768 x 64: 230 against 105 GFLOP/s. So
on the CPU float32 products go through oneDNN where torch has it, and through `mm` elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`(rows, inner)` times `(columns, inner)` transposed: `(rows, columns)`, float32."""
    import torch

    if left.device.type == "cpu" and left.dtype == torch.float32 and torch._C._has_mkldnn:
        done: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
        return done
    return left @ right.T


def grouped(
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
        return product(left.view(probes * rows, inner), right[0]).view(probes, rows, columns)
    parts = []
    done = group = 0
    for count, same in groupby(counts):
        many = len(list(same))
        for start, together in [(0, many)] if left.device.type != "cpu" else [(each, 1) for each in range(many)]:
            first = done + start * count
            of = left[first : first + together * count].reshape(together, count * rows, inner)
            by = right[group + start : group + start + together]
            part = product(of[0], by[0])[None] if together == 1 else torch.bmm(of, by.mT)
            parts.append(part.view(together * count, rows, columns))
        done, group = done + many * count, group + many
    return torch.cat(parts, out=out)
