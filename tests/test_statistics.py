"""Intervals from simulated scores whose truth is known."""

import numpy as np
import torch

from marble_bench.metrics import accuracy, roc_auc
from marble_bench.statistics import bootstrap_interval


def _outputs(right):
    """`(1, clips, 2)` outputs that are right where `right` is, for a truth of all zeros."""
    right = torch.as_tensor(right)
    return torch.stack([right.float(), 1 - right.float()], dim=-1)[None]


def test_an_interval_covers_the_true_accuracy_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(60):
        right = random.random(200) < 0.7
        names = [str(clip) for clip in range(200)]
        low, high = bootstrap_interval(accuracy, _outputs(right), torch.zeros(200, dtype=torch.int64), names)
        covered += low <= 0.7 <= high
    assert 52 <= covered <= 60  # 95 % of 60 is 57


def test_clips_of_one_group_are_drawn_together_and_widen_the_interval():
    random = np.random.default_rng(1)
    right = np.repeat(random.random(20) < 0.5, 10)
    truth = torch.zeros(200, dtype=torch.int64)
    alone = bootstrap_interval(accuracy, _outputs(right), truth, [str(clip) for clip in range(200)])
    together = bootstrap_interval(accuracy, _outputs(right), truth, [str(clip // 10) for clip in range(200)])
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_rare_tags_do_not_push_the_interval_off_the_score():
    random = np.random.default_rng(2)
    truth = torch.from_numpy((random.random((24, 30)) < 0.1).astype(np.float32))
    truth[0] = 1
    truth[1] = 0
    outputs = (truth + torch.from_numpy(random.normal(size=(24, 30))).float())[None]
    low, high = bootstrap_interval(roc_auc, outputs, truth, [str(clip) for clip in range(24)])
    assert low < float(roc_auc.compute(outputs, truth)) < high
