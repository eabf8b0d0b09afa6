"""No hidden layer: `Linear(width, outputs)`. What it computes, `probes/network.py` has written out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from marble_bench import Head
from marble_bench.core.head import LOSSES

from .mlp import linear_init

if TYPE_CHECKING:
    import torch


def init(width: int, hidden: int, outputs: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The parameters of one probe; `hidden` is not read."""
    weight, bias = linear_init(width, outputs, generator)
    return {"weight": weight, "bias": bias}


HEAD = Head(name="linear", description="one linear layer", init=init, hidden_layer=False, losses=LOSSES)
