"""The two operators of torch that are not public, and the public ones that replace them.

A private operator is used where this torch has it and it gives on a small example what the public one gives; nowhere with
`BENCH_PUBLIC_TORCH=1` in the environment. How many times as long the public one takes, measured in alternate runs by
processor time on one core of an AMD EPYC (Zen 4) that was busy with other work, torch 2.13:

| | the operator alone | training six MLPs, 768 and 160 wide | 54 linear probes, 768 wide |
|---|--:|--:|--:|
| `mkldnn._linear_pointwise`, public: `@` | 1.0 to 1.4 | 1.21, 1.10 | 0.96 |
| `_fused_adam_`, public: `torch.optim.adam.adam(fused=True)` | MLPs 1.2, linear probes 2.4 to 3.1 | 1.07, 1.19 | 1.19 |

`@` goes through MKL, which leaves the widest units of other makers' processors idle; oneDNN, which torch carries too, does
not. That shows most on newer processors: on a Zen 5, 3072 x 768 x 64, 105 against 230 GFLOP/s, which is 2.2. The two round
differently, so probes differ in their last bits. The public Adam calls the same kernel and gives the same bits; it sorts
its tensors by device and type at every call, which small probes feel.
"""

from __future__ import annotations

import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PUBLIC = "BENCH_PUBLIC_TORCH"
BETAS, EPSILON = (0.9, 0.999), 1e-8  # torch.optim.Adam's defaults


def multiply_linear(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`(rows, inner)` times `(columns, inner)` transposed: `(rows, columns)`, float32."""
    import torch

    if left.device.type == "cpu" and left.dtype == torch.float32 and has_linear():
        return _multiply_linear(left, right)
    return left @ right.T


def step_adam(
    values: list[torch.Tensor],
    gradients: list[torch.Tensor],
    first: list[torch.Tensor],
    second: list[torch.Tensor],
    count: torch.Tensor,
    rate: float,
    decay: float,
) -> None:
    """One step of Adam on every tensor of `values`, in place, each with its gradient and moments.

    count: a scalar, the number of this step, from 1. decay: Adam's L2, as in torch.
    """
    (_step_adam if has_adam() else _step_public_adam)(values, gradients, first, second, count, rate, decay)


def _multiply_linear(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    import torch

    done: torch.Tensor = torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")
    return done


def _step_adam(
    values: list[torch.Tensor],
    gradients: list[torch.Tensor],
    first: list[torch.Tensor],
    second: list[torch.Tensor],
    count: torch.Tensor,
    rate: float,
    decay: float,
) -> None:
    import torch

    torch._fused_adam_(
        values,
        gradients,
        first,
        second,
        [],
        [count] * len(values),
        lr=rate,
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=decay,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
    )


def _step_public_adam(
    values: list[torch.Tensor],
    gradients: list[torch.Tensor],
    first: list[torch.Tensor],
    second: list[torch.Tensor],
    count: torch.Tensor,
    rate: float,
    decay: float,
) -> None:
    from torch.optim.adam import adam

    counts = (count - 1).repeat(len(values)).unbind()  # each is raised by the call
    adam(
        values,
        gradients,
        first,
        second,
        [],
        list(counts),
        fused=True,
        lr=rate,
        beta1=BETAS[0],
        beta2=BETAS[1],
        weight_decay=decay,
        eps=EPSILON,
        amsgrad=False,
        maximize=False,
    )


@cache
def has_linear() -> bool:
    """Whether torch's private product is to be used on the CPU."""
    import torch

    if os.environ.get(PUBLIC) == "1":
        return False
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    left, right = torch.arange(6.0).view(2, 3), torch.arange(12.0).view(4, 3)
    try:
        return torch.equal(_multiply_linear(left, right), left @ right.T)
    except (AttributeError, RuntimeError, TypeError):  # there is none in this torch, or it is called otherwise
        return False


@cache
def has_adam() -> bool:
    """Whether torch's private step of Adam is to be used."""
    import torch

    if os.environ.get(PUBLIC) == "1":
        return False
    public, private = torch.arange(3.0), torch.arange(3.0)
    for values, step in ((public, _step_public_adam), (private, _step_adam)):
        gradient, first, second = torch.ones(3, 3).unbind()
        try:
            step([values], [gradient], [first], [second], torch.ones(()), 0.1, 0.01)
        except (AttributeError, RuntimeError, TypeError):
            return False
    return torch.allclose(public, private)
