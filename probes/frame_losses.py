"""The losses of probes that answer frame by frame, part by part, with their gradients written out.

Every part of a target has a stretch of the outputs and one of the labels. Its loss is the mean over the frames that have a
label: cross-entropy of a class, or with the distribution over bins; binary cross-entropy, for tags the mean over them;
squared error of a value. Neighbouring parts with binary cross-entropy are computed as one.

Shapes: outputs `(probes, width, frames)`; labels `(columns, frames)`, NaN where a frame has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

    from marble_bench.scoring.frame_targets import AnsweredPart, FrameLoss

Losses: TypeAlias = "tuple[torch.Tensor, Callable[[], torch.Tensor]]"


@dataclass(frozen=True)
class _PartGroup:
    """Neighbouring parts of one form. outputs, columns: their places. sizes: labels of each part, whose mean counts."""

    loss: FrameLoss
    outputs: slice
    columns: slice
    sizes: tuple[int, ...]


def group_parts(parts: Sequence[AnsweredPart]) -> list[_PartGroup]:
    """Neighbouring parts that are computed together."""
    found, output, column = [], 0, 0
    for _, group in groupby(enumerate(parts), key=lambda each: -1 if each[1].loss == "binary" else each[0]):
        members = [part for _, part in group]
        width, columns = sum(part.width for part in members), sum(part.columns for part in members)
        sizes = tuple(part.columns if part.loss == "binary" else 1 for part in members)
        stretch = slice(output, output + width), slice(column, column + columns)
        found.append(_PartGroup(members[0].loss, *stretch, sizes))
        output, column = output + width, column + columns
    return found


def compute_losses(
    parts: Sequence[AnsweredPart], outputs: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor
) -> Losses:
    """`(probes, parts)` losses, and what gives the gradient of their sum by the outputs.

    counts: `(columns,)` labelled frames in all. A loss is a sum over its own count: added up over chunks, the mean.
    """
    import torch

    found = [
        _FORMS[run.loss](outputs[:, run.outputs], labels[run.columns], counts[run.columns].clamp(min=1), run)
        for run in group_parts(parts)
    ]
    if len(found) == 1:
        return found[0]
    return torch.cat([loss for loss, _ in found], dim=1), lambda: torch.cat(
        [gradient() for _, gradient in found], dim=1
    )


def compute_probabilities(parts: Sequence[AnsweredPart], outputs: torch.Tensor) -> torch.Tensor:
    """Outputs as probabilities, `(probes, width, frames)`: of classes, bins, tags and moments; values stay."""
    import torch

    ways: dict[FrameLoss, Callable[[torch.Tensor], torch.Tensor]] = {
        "binary": torch.sigmoid,
        "class": lambda each: each.softmax(dim=1),
        "bins": lambda each: each.softmax(dim=1),
        "value": lambda each: each,
    }
    found = [ways[run.loss](outputs[:, run.outputs]) for run in group_parts(parts)]
    return found[0] if len(found) == 1 else torch.cat(found, dim=1)


def _compute_binary_loss(outputs: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, run: _PartGroup) -> Losses:
    import torch
    from torch.nn import functional

    there, wanted, each = labels.isfinite(), labels.nan_to_num(nan=0.0), counts
    if len(run.sizes) < len(counts):  # tags: the mean over them
        sizes = [size for size in run.sizes for _ in range(size)]
        each = counts * torch.tensor(sizes, device=counts.device)
    entropy = functional.binary_cross_entropy_with_logits(outputs, wanted.expand_as(outputs), reduction="none")
    loss = torch.where(there, entropy, 0.0).sum(dim=2) / each
    if len(run.sizes) < len(counts):
        loss = torch.stack([part.sum(dim=1) for part in torch.split(loss, list(run.sizes), dim=1)], dim=1)
    return loss, lambda: torch.where(there, outputs.sigmoid() - wanted, 0.0) / each[:, None]


def _compute_class_loss(outputs: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, run: _PartGroup) -> Losses:
    import torch
    from torch.nn import functional

    there, wanted = labels.isfinite(), labels.nan_to_num(nan=0.0).long().expand(len(outputs), -1)[:, None]
    logs = functional.log_softmax(outputs, dim=1)
    loss = torch.where(there, -logs.gather(1, wanted), 0.0).sum(dim=2) / counts

    def gradient() -> torch.Tensor:
        apart = logs.exp().scatter_add_(1, wanted, logs.new_full((), -1.0).expand(wanted.shape))
        return torch.where(there, apart, 0.0) / counts

    return loss, gradient


def _compute_bin_loss(outputs: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, run: _PartGroup) -> Losses:
    import torch
    from torch.nn import functional

    there, wanted = labels[:1].isfinite(), labels.nan_to_num(nan=0.0)
    logs = functional.log_softmax(outputs, dim=1)
    loss = torch.where(there, -(wanted * logs).sum(dim=1, keepdim=True), 0.0).sum(dim=2) / counts[:1]
    return loss, lambda: torch.where(there, logs.exp() - wanted, 0.0) / counts[0]


def _compute_value_loss(outputs: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, run: _PartGroup) -> Losses:
    import torch

    apart = torch.where(labels.isfinite(), outputs - labels.nan_to_num(nan=0.0), 0.0)
    return apart.square().sum(dim=2) / counts, lambda: 2 * apart / counts


_FORMS: dict[FrameLoss, Callable[[torch.Tensor, torch.Tensor, torch.Tensor, _PartGroup], Losses]] = {
    "binary": _compute_binary_loss,
    "class": _compute_class_loss,
    "bins": _compute_bin_loss,
    "value": _compute_value_loss,
}
