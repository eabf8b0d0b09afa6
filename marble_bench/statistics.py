"""How sure a score is: intervals from the per-clip outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from marble_bench.metrics import Metric

RESAMPLES = 1000


def bootstrap_interval(
    metric: Metric, outputs: torch.Tensor, truth: torch.Tensor, groups: Sequence[str], seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile interval of a metric, averaged over probes, when test clips are drawn again.

    outputs: `(probes, clips, width)`. groups: `(clips,)`, clips of one group are drawn together. A tag that a resample
    leaves without both kinds of clip is left out of that resample's mean, as is a resample without any score.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    import numpy as np
    import torch

    _, of_group = np.unique(np.array(groups), return_inverse=True)
    members = [np.flatnonzero(of_group == group) for group in range(of_group.max() + 1)]
    random = np.random.default_rng(seed)
    compute = metric.on_resample or metric.compute
    scores = []
    for _ in range(RESAMPLES):
        drawn = random.integers(0, len(members), len(members))
        rows = torch.from_numpy(np.concatenate([members[group] for group in drawn]))
        scores.append(float(compute(outputs[:, rows], truth[rows]).mean()))
    low, high = np.nanpercentile(scores, [2.5, 97.5])
    return float(low), float(high)
