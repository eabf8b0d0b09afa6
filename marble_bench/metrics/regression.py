"""R2, the coefficient of determination: 1 - (sum of squared errors) / (sum of squared deviations from the mean).

1 is perfect, 0 is what the mean of the scored clips would get, below 0 is worse. Undefined (NaN) where the truth is
constant. Source: `sklearn.metrics.r2_score`, uniform average over dimensions, against which it is tested.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from marble_bench.scoring.metric import Metric

if TYPE_CHECKING:
    import torch


def squared_errors(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, width)`, `(clips, width)` -> `(probes, clips)`: minus the mean squared error of each clip."""
    return -(outputs.double() - truth.double()).square().mean(dim=-1)


def r2_by_dimension(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, width)`, `(clips, width)` -> `(probes, width)`."""
    exact = truth.double()
    error = (outputs.double() - exact).square().sum(dim=-2)
    spread = (exact - exact.mean(dim=0)).square().sum(dim=0)
    return 1 - error / spread


def mean_r2(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, clips, width)`, `(clips, width)` -> `(probes,)`: uniform average over dimensions."""
    return r2_by_dimension(outputs, truth).mean(dim=-1)


def weighted_r2_by_dimension(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """R2 with every clip counted `weights (replicates, clips)` times: `(replicates, probes, width)`."""
    import torch

    exact, counts = truth.double(), weights.double()
    centred = exact - exact.mean(dim=0)  # near zero, so that the difference of sums below keeps its digits
    total = counts.sum(dim=1, keepdim=True)
    spread = counts @ centred.square() - (counts @ centred).square() / total
    error = torch.einsum("rc,pcw->rpw", counts, (outputs.double() - exact).square())
    return 1 - error / torch.where(spread > 0, spread, torch.nan)[:, None]


def weighted_mean_r2(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`(replicates, probes)`: uniform average over dimensions."""
    return weighted_r2_by_dimension(outputs, truth, weights).mean(dim=-1)


METRIC = Metric(
    "r2", "scalars", mean_r2, squared_errors, "uniform average; sklearn.metrics.r2_score", weighted=weighted_mean_r2
)


def _r2_of(dimension: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return r2_by_dimension(outputs, truth)[..., dimension]


def _errors_of(dimension: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return squared_errors(outputs[..., [dimension]], truth[..., [dimension]])


def _weighted_r2_of(dimension: int, outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weighted_r2_by_dimension(outputs, truth, weights)[..., dimension]


def r2_of(name: str, dimension: int) -> Metric:
    """The R2 of one dimension alone, reported as `r2_<name>`."""
    one, each, weighted = (partial(way, dimension) for way in (_r2_of, _errors_of, _weighted_r2_of))
    return Metric(f"r2_{name}", "scalars", one, each, "sklearn.metrics.r2_score", weighted=weighted)
