"""One hidden layer: `Linear(width, hidden) -> ReLU -> Dropout -> Linear(hidden, outputs)`; without one, `linear`.

Here are the initial weights. What they compute, `probes/network.py` has written out for many probes at once.

Sources: the probe of MARBLE's constrained track and of JukeMIR. Initial weights follow `torch.nn.Linear`: uniform in
+-1/sqrt(inputs) for weights and biases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marble_bench import Head
from marble_bench.core.head import LOSSES

if TYPE_CHECKING:
    import torch


def linear_init(inputs: int, outputs: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights `(inputs, outputs)` and biases `(1, outputs)` as `torch.nn.Linear` draws them."""
    import torch

    bound = inputs**-0.5
    weight = torch.empty(outputs, inputs).uniform_(-bound, bound, generator=generator)
    bias = torch.empty(1, outputs).uniform_(-bound, bound, generator=generator)
    return weight.T.contiguous(), bias


def init(width: int, hidden: int, outputs: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """The parameters of one probe."""
    if not hidden:
        weight, bias = linear_init(width, outputs, generator)
        return {"weight": weight, "bias": bias}
    first, first_bias = linear_init(width, hidden, generator)
    last, last_bias = linear_init(hidden, outputs, generator)
    return {"first": first, "first_bias": first_bias, "last": last, "last_bias": last_bias}


HEAD = Head(name="mlp", description="one hidden layer with ReLU and dropout", init=init, losses=LOSSES)
