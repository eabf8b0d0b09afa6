"""How well frames are labelled, pooled over the labelled frames of all clips: a metric for each part of `Frames`.

- `<part>_accuracy` of a class or of bins: the share of frames that are right, as `mir_eval.melody`, `mir_eval.chord` and
  scikit-learn's `accuracy_score` count them.
- `<part>_f1` of tags: F over all (frame, tag) pairs, a tag being found from a probability of 0.5 on; scikit-learn's
  `f1_score(average="micro")`.
- `r2_<part>` of a value: 1 - (sum of squared errors) / (sum of squared deviations from the mean of the scored frames);
  scikit-learn's `r2_score`. It is below 0 for what is worse than that mean.

Frames without a label count nowhere. A clip weighs by its labelled frames; one without any has no value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from marble_bench.scoring.frame_answers import columns_of, measure_of
from marble_bench.scoring.frame_targets import BinPart, ClassPart, Frames, MomentPart, TagPart
from marble_bench.scoring.metric import Metric

if TYPE_CHECKING:
    import torch

Score: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"


def frame_metrics(target: Frames) -> tuple[Metric, ...]:
    """The metrics of a target's parts that have labels, in their order; the first is the main one."""
    found, first, measure = [], 0, measure_of(target)
    for part in target.answered:
        if isinstance(part, MomentPart):
            continue
        columns = tuple(range(first, first + len(columns_of(part))))
        first += len(columns)
        if isinstance(part, TagPart):
            name, score, source = f"{part.name}_f1", f1_of, "sklearn.metrics.f1_score(average='micro')"
        elif isinstance(part, (ClassPart, BinPart)):
            name, score, source = f"{part.name}_accuracy", share_of, "sklearn.metrics.accuracy_score"
        else:
            name, score, source = f"r2_{part.name}", r2_of_sums, "sklearn.metrics.r2_score"
        by_clip = minus_error if score is r2_of_sums else score
        one, weighted = partial(_pooled, score, columns), partial(_weighted, score, columns)
        each = partial(_of_clip, by_clip, columns)
        found.append(Metric(name, "frames", one, each, source, weighted=weighted, measure=measure))
    return tuple(found)


def share_of(sums: torch.Tensor) -> torch.Tensor:
    """`(..., 2)` frames that are right and that have a label -> their share; NaN without labels."""
    return sums[..., 0] / sums[..., 1]


def f1_of(sums: torch.Tensor) -> torch.Tensor:
    """`(..., 3)` hits, found and annotated pairs -> F; NaN where there is neither."""
    return 2 * sums[..., 0] / (sums[..., 1] + sums[..., 2])


def r2_of_sums(sums: torch.Tensor) -> torch.Tensor:
    """`(..., 4)` labelled frames, squared errors, sum and squares of the labels -> R2; NaN where all labels are the same."""
    import torch

    frames, errors, total, squares = sums.unbind(dim=-1)
    spread = squares - total.square() / frames
    return 1 - errors / torch.where(spread > 1e-9 * squares, spread, torch.nan)


def minus_error(sums: torch.Tensor) -> torch.Tensor:
    """`(..., 4)` as `r2_of_sums` -> minus the mean squared error; NaN without labels."""
    return -sums[..., 1] / sums[..., 0]


def _pooled(score: Score, columns: tuple[int, ...], outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return score(outputs[..., list(columns)].double().sum(dim=-2))


def _of_clip(score: Score, columns: tuple[int, ...], outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return score(outputs[..., list(columns)].double())


def _weighted(
    score: Score, columns: tuple[int, ...], outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    import torch

    return score(torch.einsum("rc,pck->rpk", weights.double(), outputs[..., list(columns)].double()))
