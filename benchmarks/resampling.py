"""How long an interval takes on a full test split, against scoring each bootstrap sample by itself.

python benchmarks/resampling.py

The rival scores one sample after the other with the metric's own function, which is what any metric without `weighted`
gets. It is timed on a few samples and multiplied; both give the same scores, which is checked.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from marble_bench.metrics import Metric, accuracy, ap, r2, roc_auc
from marble_bench.scoring import statistics

FEW = 3
# name: metric, clips, width, as in the tasks' test splits
CASES = {
    "accuracy, 4,096 clips": (accuracy, 4096, 112),
    "R2, 125 clips": (r2, 125, 2),
    "ROC AUC, 5,329 clips, 50 tags": (roc_auc, 5329, 50),
    "AP, 5,329 clips, 50 tags": (ap, 5329, 50),
}


def _draw_data(metric: Metric, clips: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = np.random.default_rng(0)
    outputs = torch.from_numpy(random.normal(size=(3, clips, width)).astype(np.float32))
    if metric.kind == "classes":
        return outputs, torch.from_numpy(random.integers(0, width, clips))
    if metric.kind == "scalars":
        return outputs, torch.from_numpy(random.normal(size=(clips, width)))
    return outputs, torch.from_numpy((random.random((clips, width)) < 0.06).astype(np.float32))


def main() -> None:
    """Print seconds for one score's interval and for the rival's bootstrap alone."""
    for name, (metric, clips, width) in CASES.items():
        outputs, truth = _draw_data(metric, clips, width)
        groups = [f"{clip:05}" for clip in range(clips)]
        started = time.perf_counter()
        statistics.bootstrap_interval(metric, outputs, truth, groups)
        ours = time.perf_counter() - started
        alone = Metric(**{**vars(metric), "weighted": None})
        counts = statistics.resample(groups, FEW)
        started = time.perf_counter()
        scores = statistics.rescore(alone, outputs, truth, counts)
        rival = (time.perf_counter() - started) / FEW * statistics.RESAMPLES
        assert np.allclose(scores, statistics.rescore(metric, outputs, truth, counts))
        print(f"{name:32} {ours:7.2f} s   one by one {rival:7.2f} s   {rival / ours:5.1f} x")


if __name__ == "__main__":
    main()
