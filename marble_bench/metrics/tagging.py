"""How well outputs rank clips, tag by tag: the area under the ROC curve and the average precision, macro-averaged.

Both ask of each tag whether clips that carry it stand above clips that do not; a tie counts half for the ROC curve, and
is one step of the precision-recall curve. A tag that every clip of the split carries, or none, has no such order: that
is an error naming the tag, not a tag left out, because leaving it out would make scores of different splits look alike.
Sources: `sklearn.metrics.roc_auc_score` and `average_precision_score` (macro), against which both are tested. MARBLE
and JukeMIR report the same two.
"""

from __future__ import annotations

from collections.abc import Iterator
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


def _weighted_by_tag(
    outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor, descending: bool
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """For each probe and tag in turn: the probe; and of the clips that carry the tag, in the order of the outputs, their
    weights `(replicates, positives)` and the first and the last place of their equals `(positives,)`; with the weights
    of all clips in that order `(replicates, clips)`."""
    import torch

    for probe, values in enumerate(outputs.double()):
        for tag in range(values.shape[1]):
            ordered, order = values[:, tag].sort(descending=descending)
            carried = truth[order, tag].bool()
            starts = torch.ones(len(ordered), dtype=torch.bool, device=ordered.device)
            starts[1:] = ordered[1:] != ordered[:-1]
            run = starts.cumsum(0) - 1
            first = torch.nonzero(starts)[:, 0]
            last = torch.cat([first[1:] - 1, first.new_tensor([len(ordered) - 1])])
            placed = weights[:, order].double()
            yield probe, placed[:, carried], first[run[carried]], last[run[carried]], placed


def weighted_roc_auc(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Macro ROC area with every clip counted `weights (replicates, clips)` times: `(replicates, probes)`.

    The mean over the tags that still have both kinds of clip in a replicate; NaN where none has.
    """
    import torch

    areas: list[list[torch.Tensor]] = [[] for _ in outputs]
    for probe, positives, first, last, placed in _weighted_by_tag(outputs, truth, weights, descending=False):
        below = torch.nn.functional.pad(placed.cumsum(dim=1), (1, 0))  # all clips, by weight, before each place
        own = torch.nn.functional.pad(positives.cumsum(dim=1), (1, 0))
        held = own[:, -1]
        ranks = (below[:, first] + below[:, last + 1]) / 2  # a positive's equals count half
        pairs = (positives * ranks).sum(dim=1) - held.square() / 2  # less the positives' pairs among themselves
        areas[probe].append(pairs / (held * (below[:, -1] - held)))
    return torch.stack([torch.stack(each).nanmean(dim=0) for each in areas], dim=1)


def weighted_average_precision(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Macro average precision with every clip counted `weights (replicates, clips)` times: `(replicates, probes)`.

    The mean over the tags that some clip of a replicate carries; NaN where there is none.
    """
    import torch

    found: list[list[torch.Tensor]] = [[] for _ in outputs]
    for probe, positives, _, last, placed in _weighted_by_tag(outputs, truth, weights, descending=True):
        taken = placed.cumsum(dim=1)[:, last]
        own = torch.nn.functional.pad(positives.cumsum(dim=1), (1, 0))
        held = own[:, -1]
        # hits up to the last of a positive's equals: the positives up to the last of them
        upto = torch.searchsorted(last.contiguous(), last, right=True)
        hits = own[:, upto]
        precision = torch.where(taken > 0, hits / taken, 0)
        found[probe].append((positives * precision).sum(dim=1) / held)
    return torch.stack([torch.stack(each).nanmean(dim=0) for each in found], dim=1)


ROC_AUC = Metric(
    "roc_auc",
    "tags",
    macro_roc_auc,
    well_ordered,
    "macro; sklearn.metrics.roc_auc_score",
    on_resample=lambda outputs, truth: roc_auc_by_tag(outputs, truth).nanmean(dim=-1),
    weighted=weighted_roc_auc,
)
AVERAGE_PRECISION = Metric(
    "ap",
    "tags",
    macro_average_precision,
    well_ordered,
    "macro; sklearn.metrics.average_precision_score",
    on_resample=lambda outputs, truth: average_precision_by_tag(outputs, truth).nanmean(dim=-1),
    weighted=weighted_average_precision,
)
