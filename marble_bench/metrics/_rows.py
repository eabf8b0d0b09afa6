"""Metrics of the rows that a measure makes of each clip: pooled over clips, or the mean over the clips that have a value.

Shapes: outputs `(probes, clips, columns)` float64; columns are places of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from marble_bench.scoring.metric import Measure, Metric, weighted_nanmean

if TYPE_CHECKING:
    import torch


def make_pooled(
    name: str,
    score: Callable[[torch.Tensor], torch.Tensor],
    columns: tuple[int, ...],
    source: str,
    measure: Measure,
    chooses: Measure | None = None,
) -> Metric:
    """A metric that is computed from sums over clips. score: `(..., columns)` sums -> `(...)`."""
    one, each, weighted = (partial(way, score, columns) for way in (_score_sums, _score_each, _score_weighted))
    return Metric(name, "frames", one, each, source, weighted=weighted, measure=measure, chooses=chooses)


def make_mean(name: str, column: int, source: str, measure: Measure) -> Metric:
    """A metric that is the mean of one column over the clips that have a value there, which others mark by NaN."""
    one, each, weighted = (partial(way, column) for way in (_average, _take_column, _average_weighted))
    return Metric(name, "frames", one, each, source, weighted=weighted, measure=measure)


def _score_sums(
    score: Callable[[torch.Tensor], torch.Tensor], columns: tuple[int, ...], outputs: torch.Tensor, truth: torch.Tensor
) -> torch.Tensor:
    return score(outputs[..., list(columns)].double().sum(dim=-2))


def _score_each(
    score: Callable[[torch.Tensor], torch.Tensor], columns: tuple[int, ...], outputs: torch.Tensor, truth: torch.Tensor
) -> torch.Tensor:
    return score(outputs[..., list(columns)].double())


def _score_weighted(
    score: Callable[[torch.Tensor], torch.Tensor],
    columns: tuple[int, ...],
    outputs: torch.Tensor,
    truth: torch.Tensor,
    weights: torch.Tensor,
) -> torch.Tensor:
    import torch

    return score(torch.einsum("rc,pck->rpk", weights.double(), outputs[..., list(columns)].double()))


def _average(column: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return outputs[..., column].double().nanmean(dim=-1)


def _take_column(column: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return outputs[..., column].double()


def _average_weighted(column: int, outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weighted_nanmean(outputs[..., [column]], weights)[..., 0]
