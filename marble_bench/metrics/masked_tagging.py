"""How well outputs find tags of which only some were judged for each clip: macro average precision and macro F1.

Each tag is scored on the clips that were judged for it, as `sklearn.metrics.average_precision_score` and `f1_score` score
these alone, against which both are tested. The score is the mean over tags. Truth is 1, 0, or below 0 where nobody judged.

Sources: OpenMIC-2018 (E. Humphrey et al., ISMIR 2018), whose baseline has the F1 of each instrument at a threshold of 0.5;
later papers print the macro average precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from marble_bench.metrics.tagging import average_precision_by_tag, roc_auc_by_tag, weighted_average_precision
from marble_bench.scoring.metric import Metric

if TYPE_CHECKING:
    import torch

TINY = 1e-12  # divided by where no clip carries a tag and none is said to


def _iterate_tags(
    outputs: torch.Tensor, truth: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Tag by tag: which clips were judged `(clips,)`, their outputs `(probes, judged, 1)` and truth `(judged, 1)`."""
    for tag in range(truth.shape[1]):
        judged = truth[:, tag] >= 0
        yield judged, outputs[:, judged, tag : tag + 1], truth[judged, tag : tag + 1]


def masked_average_precision_by_tag(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, tags)`, `(clips, tags)` -> `(probes, tags)`; NaN where no judged clip carries a tag."""
    import torch

    return torch.cat([average_precision_by_tag(*each) for _, *each in _iterate_tags(outputs, truth)], dim=1)


def masked_average_precision(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, tags)`, `(clips, tags)` -> `(probes,)`: the mean over tags."""
    return masked_average_precision_by_tag(outputs, truth).mean(dim=-1)


def _average_ordered(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes,)`: the mean over the tags that some judged clip carries."""
    return masked_average_precision_by_tag(outputs, truth).nanmean(dim=-1)


def _weighted_masked_average_precision(
    outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """The same with every clip counted `weights (replicates, clips)` times: `(replicates, probes)`."""
    import torch

    by_tag = [
        weighted_average_precision(scored, held, weights[:, judged])
        for judged, scored, held in _iterate_tags(outputs, truth)
    ]
    return torch.stack(by_tag).nanmean(dim=0)


def masked_well_ordered(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips)`: for each clip, how the tags that hold rank above those judged absent (the clip's own ROC area).

    A clip whose judged tags all hold, or none of them, has no order and gets 0.5.
    """
    import torch

    by_clip = [roc_auc_by_tag(*each) for _, *each in _iterate_tags(outputs.transpose(1, 2), truth.T)]
    return torch.nan_to_num(torch.cat(by_clip, dim=1), nan=0.5)


def masked_macro_f1(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes,)`: the mean over tags of F1, an output above 0 (a probability above 0.5) being a yes; 0 without any yes."""
    yes, judged = (outputs > 0).double(), (truth >= 0).double()
    holds = truth.clamp(min=0).double()
    hits = (yes * holds).sum(dim=1)
    said_and_true = (yes * judged).sum(dim=1) + holds.sum(dim=0)
    return (2 * hits / said_and_true.clamp(min=TINY)).mean(dim=-1)


def _weighted_masked_macro_f1(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The same with every clip counted `weights (replicates, clips)` times: `(replicates, probes)`."""
    import torch

    yes, judged, exact = (outputs > 0).double(), (truth >= 0).double(), weights.double()
    holds = truth.clamp(min=0).double()
    hits = torch.einsum("rc,pct->rpt", exact, yes * holds)
    said_and_true = torch.einsum("rc,pct->rpt", exact, yes * judged) + (exact @ holds)[:, None]
    return (2 * hits / said_and_true.clamp(min=TINY)).mean(dim=-1)


def share_right(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips)`: of each clip's judged tags, the share that an output above 0 tells rightly."""
    judged = truth >= 0
    right = ((outputs > 0) == (truth > 0)) & judged
    return right.double().sum(dim=-1) / judged.sum(dim=-1).clamp(min=1)


def _find_raised(truth: torch.Tensor) -> torch.Tensor:
    """`Metric.carried`: 1 where a clip carries a tag."""
    return truth.clamp(min=0)


MASKED_AP = Metric(
    "masked_ap",
    "masked_tags",
    masked_average_precision,
    masked_well_ordered,
    "macro over tags, each on its judged clips; sklearn.metrics.average_precision_score",
    on_resample=_average_ordered,
    weighted=_weighted_masked_average_precision,
    interval="jackknife",
    carried=_find_raised,
)
MASKED_F1 = Metric(
    "masked_f1",
    "masked_tags",
    masked_macro_f1,
    share_right,
    "macro over tags at a probability of 0.5, each on its judged clips; sklearn.metrics.f1_score",
    weighted=_weighted_masked_macro_f1,
)
METRIC = (MASKED_AP, MASKED_F1)
