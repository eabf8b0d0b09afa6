"""How well versions of a work find each other, of a row of numbers for each query: see `marble_bench.metrics._ranking`.

- `map` (main): the mean over queries of the average precision, `sklearn.metrics.average_precision_score` of a query where
  no two items are equally near.
- `mr1`: the mean rank of the first relevant item; lower is better.
- `p_at_10`: the share of relevant items among the first ten, divided by ten however few are relevant.
- `hit_at_1`: the share of queries whose nearest item is relevant.
- `r_precision`: the share of relevant items among the first R, R being how many are relevant.
- `map_centred`, `map_whitened`: `map` of centred and of whitened vectors, second numbers.

Queries without a relevant item have no value. Intervals draw works and leave the items that are ranked as they are.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from marble_bench.metrics._ranking import VIEWS, measure, rank
from marble_bench.scoring.metric import Metric, weighted_nanmean

if TYPE_CHECKING:
    import torch

NAMES = ("map", "mr1", "p_at_10", "hit_at_1", "r_precision")
SOURCE = "mean over queries, all other items ranked by cosine; sklearn.metrics.average_precision_score for each query"


def _over_queries(column: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes,)`: over the queries that have a value."""
    return outputs[..., column].double().nanmean(dim=1)


def _of_query(column: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, queries)`: NaN where no item is relevant."""
    return outputs[..., column].double()


def _weighted(column: int, outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`(replicates, probes)`: every query counted `weights (replicates, queries)` times."""
    return weighted_nanmean(outputs[..., [column]], weights)[..., 0]


def _metric(name: str, column: int) -> Metric:
    return Metric(
        name,
        "ranking",
        partial(_over_queries, column),
        partial(_of_query, column),
        SOURCE,
        higher_is_better=name != "mr1",
        unit="rank" if name == "mr1" else "fraction",
        weighted=partial(_weighted, column),
        measured_by=(rank, measure),
    )


METRIC = tuple(_metric(name, column) for column, name in enumerate([*NAMES, *(f"map_{view}" for view in VIEWS)]))
