"""How well outputs rank clips, tag by tag: the area under the ROC curve and the average precision, macro-averaged.

Both ask of each tag whether clips that carry it stand above clips that do not; a tie counts half for the ROC curve, and
is one step of the precision-recall curve. A tag that every clip of the split carries, or none, has no such order: that
is an error naming the tag, not a tag left out, because leaving it out would make scores of different splits look alike.
Sources: `sklearn.metrics.roc_auc_score` and `average_precision_score` (macro), against which both are tested. MARBLE
and JukeMIR report the same two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marble_bench.metrics.metric import Metric

if TYPE_CHECKING:
    import torch


def roc_auc_by_tag(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, tags)`, `(clips, tags)` of 0 and 1 -> `(probes, tags)`; NaN where a tag has one kind of clip only.

    The rank-sum form of Mann and Whitney: the mean rank of the positives, shifted and scaled.
    """
    import torch

    positive = truth.double()
    count = positive.sum(dim=0)
    ordered, order = outputs.double().sort(dim=1)
    ranks = _mean_ranks(ordered)
    carried = positive.expand_as(ranks).gather(1, order)
    summed = (ranks * carried).sum(dim=1)
    area = (summed - count * (count + 1) / 2) / (count * (len(truth) - count))
    return torch.where((count > 0) & (count < len(truth)), area, torch.nan)


def _mean_ranks(ordered: torch.Tensor) -> torch.Tensor:
    """Ranks from 1 of values sorted along dim 1, equal values sharing their mean rank."""
    import torch

    clips = ordered.shape[1]
    place = torch.arange(1, clips + 1, dtype=torch.float64, device=ordered.device)[None, :, None].expand_as(ordered)
    starts = torch.ones_like(ordered, dtype=torch.bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    ends = torch.ones_like(starts)
    ends[:, :-1] = starts[:, 1:]
    first = torch.where(starts, place, 0).cummax(dim=1).values
    last = torch.where(ends, place, clips + 1).flip(1).cummin(dim=1).values.flip(1)
    return (first + last) / 2


def average_precision_by_tag(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, tags)`, `(clips, tags)` of 0 and 1 -> `(probes, tags)`; NaN where no clip carries a tag.

    The sum over thresholds of precision times the gain in recall; equal outputs are one threshold.
    """
    import torch

    positive = truth.double()
    count = positive.sum(dim=0)
    ordered, order = outputs.double().sort(dim=1, descending=True)
    hits = positive.expand_as(ordered).gather(1, order).cumsum(dim=1)
    taken = torch.arange(1, ordered.shape[1] + 1, dtype=torch.float64, device=ordered.device)[None, :, None]
    ends = torch.ones_like(ordered, dtype=torch.bool)
    ends[:, :-1] = ordered[:, 1:] != ordered[:, :-1]
    reached = torch.where(ends, hits, 0).cummax(dim=1).values  # hits at the last threshold so far
    before = torch.cat([torch.zeros_like(reached[:, :1]), reached[:, :-1]], dim=1)
    gained = torch.where(ends, hits - before, 0)
    return torch.where(count > 0, (gained * hits / taken).sum(dim=1) / count, torch.nan)


def macro_roc_auc(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, tags)`, `(clips, tags)` -> `(probes,)`: the mean over tags."""
    return roc_auc_by_tag(outputs, truth).mean(dim=-1)


def macro_average_precision(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, tags)`, `(clips, tags)` -> `(probes,)`: the mean over tags."""
    return average_precision_by_tag(outputs, truth).mean(dim=-1)


def well_ordered(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips)`: for each clip, how its own tags stand against the tags it lacks (its own ROC area).

    A clip that carries all tags or none has no order and gets 0.5.
    """
    import torch

    per_clip = roc_auc_by_tag(outputs.transpose(1, 2), truth.T)
    return torch.nan_to_num(per_clip, nan=0.5)


ROC_AUC = Metric(
    "roc_auc",
    "tags",
    macro_roc_auc,
    well_ordered,
    "macro; sklearn.metrics.roc_auc_score",
    on_resample=lambda outputs, truth: roc_auc_by_tag(outputs, truth).nanmean(dim=-1),
)
AVERAGE_PRECISION = Metric(
    "ap",
    "tags",
    macro_average_precision,
    well_ordered,
    "macro; sklearn.metrics.average_precision_score",
    on_resample=lambda outputs, truth: average_precision_by_tag(outputs, truth).nanmean(dim=-1),
)
