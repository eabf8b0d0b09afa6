"""Mean average precision of retrieval: every query ranks the items, and those that are right should come first.

Outputs are `(probes, queries, items)`, higher for nearer; truth is `(queries, items)`, 1 where an item is right for a query.
So it reads what a task of tags has, an item for a tag; a target of its own for rankings is not built yet. Equal outputs are
one step, as in scikit-learn. A query without any right item has no ranking and no value.

Source: `sklearn.metrics.average_precision_score` with average="samples", against which it is tested.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from marble_bench import Metric
from marble_bench.metrics.tagging import average_precision_by_tag
from marble_bench.scoring.metric import weighted_nanmean

if TYPE_CHECKING:
    import torch


def of_query(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes, queries)`: the average precision of each query's ranking, NaN where no item is right."""
    return average_precision_by_tag(outputs.transpose(1, 2), truth.T)


def mean_over_queries(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes,)`: over the queries that have a right item."""
    return of_query(outputs, truth).nanmean(dim=-1)


def weighted_mean(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """`(replicates, probes)`: every query counted `weights (replicates, queries)` times."""
    return weighted_nanmean(of_query(outputs, truth)[..., None], weights)[..., 0]


METRIC = Metric(
    "retrieval_map",
    "tags",
    mean_over_queries,
    of_query,
    "mean over queries; sklearn.metrics.average_precision_score(average='samples')",
    weighted=weighted_mean,
)
