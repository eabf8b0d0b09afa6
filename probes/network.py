"""Forward and backward of many probes at once, written out, so that probes that read the same input share a product.

Every tensor has the probes first and the windows last: a probe's weights are one stretch of memory for the optimiser, and
the weights of neighbouring probes stacked are one matrix for the product. Parameters are those of the heads in this
folder, transposed: `first (probes, hidden, width)`, `last (probes, outputs, hidden)`, `weight (probes, outputs, width)`,
biases `(probes, ..., 1)`; `mix (probes, layers)` of a weighted sum; `join (probes, width, widths of all layers)` of a
concatenation, with `join_bias`.

A group is the probes of one input: same layer, seed, scaling and dropout. A weighted sum is a group of its own, and so is
what a concatenation is mapped to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .kernels import multiply_linear
from .product import multiply_grouped

if TYPE_CHECKING:
    import torch

    from marble_bench.scoring.targets import Loss


LOG2_E = math.log2(math.e)


def transpose(parameters: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Parameters of one probe from a head's form `(inputs, outputs)` to this module's and back; `mix` is the same."""
    return {
        name: value.clone() if name == "mix" else value.transpose(-2, -1).contiguous()
        for name, value in parameters.items()
    }


def compute_loss_gradients(
    outputs: torch.Tensor, truth: torch.Tensor, loss: Loss, of: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """`(probes,)` mean losses, and their gradient by `outputs (probes, outputs, windows)`, of the same shape.

    truth: `(groups, windows)` or `(groups, windows, outputs)`; masked tags are below 0 where nobody judged, and the mean is
    over those judged. of: `(probes,)` each probe's group, None for one group.
    """
    from torch.nn import functional

    windows = outputs.shape[2]
    if loss == "cross_entropy":
        where = (truth.expand(len(outputs), -1) if of is None else truth[of])[:, None]
        logs = functional.log_softmax(outputs, dim=1)
        value = logs.gather(1, where).mean(dim=(1, 2)).neg_()
        probabilities = logs.mul_(LOG2_E).exp2_()  # a quarter of the time of `exp_` on a CPU
        gradient = probabilities.scatter_add_(1, where, logs.new_full((), -1.0).expand(where.shape))
        return value, gradient.div_(windows)
    target = (truth if of is None else truth[of]).mT
    values = outputs.shape[1] * windows
    if loss == "binary_cross_entropy":
        target = target.expand_as(outputs)
        value = functional.binary_cross_entropy_with_logits(outputs, target, reduction="none").mean(dim=(1, 2))
        return value, (outputs.sigmoid() - target).div_(values)
    if loss == "masked_binary_cross_entropy":
        judged = (target >= 0).expand_as(outputs)
        target = target.expand_as(outputs)
        count = judged.sum(dim=(1, 2), keepdim=True).clamp(min=1)
        value = functional.binary_cross_entropy_with_logits(outputs, target, reduction="none").mul_(judged)
        return value.sum(dim=(1, 2)) / count[:, 0, 0], (outputs.sigmoid() - target).mul_(judged).div_(count)
    apart = outputs - target
    return apart.square().mean(dim=(1, 2)), apart.mul_(2 / values)


def mix_layers(parameters: dict[str, torch.Tensor], layers: torch.Tensor) -> torch.Tensor:
    """`(probes, windows, width)`: each probe's softmax-weighted sum of `layers (layers, windows, width)`."""
    return (parameters["mix"].softmax(dim=-1) @ layers.flatten(1)).view(-1, *layers.shape[1:])


def join_layers(parameters: dict[str, torch.Tensor], joined: torch.Tensor) -> torch.Tensor:
    """`(probes, windows, width)`: each probe's affine map of all layers side by side, `joined (windows, widths of all)`.

    The map commutes with the mean over time: of pooled features it gives what pooling its frames would.
    """
    join = parameters["join"]
    probes, width, widths = join.shape
    mapped = multiply_linear(join.view(probes * width, widths), joined).view(probes, width, len(joined))
    return mapped.add_(parameters["join_bias"]).mT.contiguous()


def forward(
    parameters: dict[str, torch.Tensor],
    x: torch.Tensor,
    counts: Sequence[int],
    dropout_mask: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Outputs `(probes, outputs, windows)`, and what is hidden `(probes, hidden, windows)`, None without a hidden layer.

    x: `(groups, windows, width)`. dropout_mask: `(1 or probes, hidden, windows)`, 0 or 1 / (1 - rate).
    """
    import torch

    if "weight" in parameters:
        return multiply_grouped(parameters["weight"], x, counts).add_(parameters["bias"]), None
    hidden = multiply_grouped(parameters["first"], x, counts).add_(parameters["first_bias"]).relu_()
    if dropout_mask is not None:
        hidden *= dropout_mask
    return torch.baddbmm(parameters["last_bias"], parameters["last"], hidden), hidden


def backward(
    parameters: dict[str, torch.Tensor],
    x: torch.Tensor,
    counts: Sequence[int],
    hidden: torch.Tensor | None,
    output_gradient: torch.Tensor,
    dropout_mask: torch.Tensor | None = None,
    layers: torch.Tensor | None = None,
    into: dict[str, torch.Tensor] | None = None,
) -> dict[str, torch.Tensor]:
    """The gradient of every parameter, from `output_gradient`, that by the outputs, and what `forward` was given and gave.

    layers: `(layers, windows, width)`, what a weighted sum was made of, or `(windows, widths)`, a concatenation. into: where
    gradients that come in parts are put.
    """
    import torch

    before = into or {}
    if hidden is None:
        inner, name = output_gradient, "weight"
        found = {"bias": torch.sum(output_gradient, dim=2, keepdim=True, out=before.get("bias"))}
    else:
        found = {"last": torch.bmm(output_gradient, hidden.mT, out=before.get("last"))}
        found["last_bias"] = torch.sum(output_gradient, dim=2, keepdim=True, out=before.get("last_bias"))
        # what is dropped is 0 in `hidden`, like what relu cut: of dropout only the factor is left, and is cheapest here
        by_last = (
            output_gradient if dropout_mask is None else output_gradient * dropout_mask.amax(dim=(1, 2), keepdim=True)
        )
        inner, name = torch.bmm(parameters["last"].mT, by_last), "first"
        inner.mul_(hidden.sign())  # what relu cut has no gradient; in place: no memory anew
        found["first_bias"] = torch.sum(inner, dim=2, keepdim=True, out=before.get("first_bias"))
    found[name] = multiply_grouped(inner, x.mT, counts, before.get(name))
    if layers is not None:
        by_input = torch.stack(
            [multiply_linear(one.T, weight.T) for one, weight in zip(inner, parameters[name], strict=True)]
        )
        found |= (
            _backward_joined(by_input, layers) if "join" in parameters else _backward_mix(parameters, by_input, layers)
        )
    return found


def _backward_mix(
    parameters: dict[str, torch.Tensor], by_input: torch.Tensor, layers: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The gradient of `mix`, from `by_input (probes, windows, width)`, that by what `mix_layers` gave."""
    share = parameters["mix"].softmax(dim=-1)
    by_share = by_input.flatten(1) @ layers.flatten(1).T
    return {"mix": share * (by_share - (share * by_share).sum(dim=-1, keepdim=True))}


def _backward_joined(by_input: torch.Tensor, joined: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients of `join` and `join_bias`, from `by_input`, that by what `join_layers` gave."""
    probes, windows, width = by_input.shape
    by_map = multiply_linear(by_input.mT.reshape(probes * width, windows), joined.T)
    return {"join": by_map.view(probes, width, -1), "join_bias": by_input.sum(dim=1)[..., None]}
