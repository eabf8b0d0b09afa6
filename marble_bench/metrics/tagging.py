"""How well outputs rank clips, tag by tag: the area under the ROC curve and the average precision, macro-averaged.

Both ask of each tag whether clips that carry it rank above clips that do not; a tie counts half for the ROC curve, and
is one step of the precision-recall curve. A tag that every clip of the split carries, or none, has no such order: that
is an error naming the tag, not a tag left out, because leaving it out would make scores of different splits look alike.
Sources: `sklearn.metrics.roc_auc_score` and `average_precision_score` (macro), against which both are tested. MARBLE
and JukeMIR report the same two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

from marble_bench.scoring.metric import Metric

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
    """`(probes, clips)`: for each clip, how its own tags rank against the tags it lacks (its own ROC area).

    A clip that carries all tags or none has no order and gets 0.5.
    """
    import torch

    per_clip = roc_auc_by_tag(outputs.transpose(1, 2), truth.T)
    return torch.nan_to_num(per_clip, nan=0.5)


def _weighted_by_tag(
    outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each probe and tag in turn: the probe; and for each output that a clip carrying the tag has, ascending, the weight
    of the clips that carry the tag and have this output, of all clips with a lower one, and of all that have it:
    `(values, replicates)` each.

    Sums are of counts, which float32 holds exactly up to 16 million.
    """
    import torch

    by_clip = weights.T.contiguous()
    for probe, values in enumerate(outputs):
        for tag in range(values.shape[1]):
            carried = truth[:, tag].bool()
            found, place = values[carried, tag].unique(return_inverse=True)
            column = values[:, tag].contiguous()
            # even: between two of the values found, odd: equal to one
            segment = torch.searchsorted(found, column) + torch.searchsorted(found, column, right=True)
            sums = by_clip.new_zeros(2 * len(found) + 1, by_clip.shape[1]).index_add_(0, segment, by_clip)
            positives = by_clip.new_zeros(len(found), by_clip.shape[1]).index_add_(0, place, by_clip[carried])
            yield probe, positives.double(), sums.cumsum(dim=0)[0:-1:2].double(), sums[1::2].double()


def weighted_roc_auc(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Macro ROC area with every clip counted `weights (replicates, clips)` times: `(replicates, probes)`.

    The mean over the tags that still have both kinds of clip in a replicate; NaN where none has.
    """
    import torch

    total = weights.double().sum(dim=1)
    areas: list[list[torch.Tensor]] = [[] for _ in outputs]
    for probe, positives, below, equal in _weighted_by_tag(outputs, truth, weights):
        held = positives.sum(dim=0)
        # equals count half; less the positives' pairs among themselves
        pairs = (positives * (below + equal / 2)).sum(dim=0) - held.square() / 2
        areas[probe].append(pairs / (held * (total - held)))
    return torch.stack([torch.stack(each).nanmean(dim=0) for each in areas], dim=1)


def weighted_average_precision(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Macro average precision with every clip counted `weights (replicates, clips)` times: `(replicates, probes)`.

    The mean over the tags that some clip of a replicate carries; NaN where there is none.
    """
    import torch

    total = weights.double().sum(dim=1)
    found: list[list[torch.Tensor]] = [[] for _ in outputs]
    for probe, positives, below, _ in _weighted_by_tag(outputs, truth, weights):
        held = positives.sum(dim=0)
        hits = held - positives.cumsum(dim=0) + positives  # at this output or a higher one
        precision = torch.where(total > below, hits / (total - below), 0)
        found[probe].append((positives * precision).sum(dim=0) / held)
    return torch.stack([torch.stack(each).nanmean(dim=0) for each in found], dim=1)


def _mean_over_ordered(
    by_tag: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], outputs: torch.Tensor, truth: torch.Tensor
) -> torch.Tensor:
    """`(probes,)`: the mean over the tags that still have an order."""
    return by_tag(outputs, truth).nanmean(dim=-1)


def _of_tags(truth: torch.Tensor) -> torch.Tensor:
    """`Metric.carried` of a mean over tags, each a mean over the clips that carry it."""
    return truth


ROC_AUC = Metric(
    "roc_auc",
    "tags",
    macro_roc_auc,
    well_ordered,
    "macro; sklearn.metrics.roc_auc_score",
    on_resample=partial(_mean_over_ordered, roc_auc_by_tag),
    weighted=weighted_roc_auc,
)
AP = Metric(
    "ap",
    "tags",
    macro_average_precision,
    well_ordered,
    "macro; sklearn.metrics.average_precision_score",
    on_resample=partial(_mean_over_ordered, average_precision_by_tag),
    weighted=weighted_average_precision,
    interval="jackknife",
    carried=_of_tags,
)
METRIC = (ROC_AUC, AP)
