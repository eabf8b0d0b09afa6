"""No hidden layer: `Linear(width, outputs)`, for many probes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .mlp import linear_init

if TYPE_CHECKING:
    import torch


def init(width: int, hidden: int, outputs: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The parameters of one probe; `hidden` is not read."""
    weight, bias = linear_init(width, outputs, generator)
    return {"weight": weight, "bias": bias}


def forward(parameters: dict[str, torch.Tensor], x: torch.Tensor, keep: torch.Tensor | None) -> torch.Tensor:
    """`x (probes, windows, width)` -> `(probes, windows, outputs)`. `keep` (dropout) is not read: nothing is hidden."""
    import torch

    return torch.baddbmm(parameters["bias"], x, parameters["weight"])
