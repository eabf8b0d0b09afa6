"""Linear probes solved to their end, against scikit-learn."""

import numpy as np
import pytest
import torch
from marble_bench.probes import trainer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from marble_bench.metrics import accuracy, average_precision, r2
from marble_bench.protocol import LINEAR
from marble_bench.task import Schedule

LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error")


def _splits(loss, windows_per_clip):
    generator = torch.Generator().manual_seed(3)
    truth_of = torch.randn(24, 4, generator=generator)
    made = []
    for clips in (90, 60):
        clip = torch.arange(clips).repeat_interleave(windows_per_clip)
        x = 3 * torch.randn(clips, 24, generator=generator)[clip] + torch.randn(len(clip), 24, generator=generator) + 5
        answer = torch.stack([x[clip == each].mean(dim=0) for each in range(clips)]) @ truth_of
        answer = answer - answer.mean(dim=0) + 6 * torch.randn(clips, 4, generator=generator)
        truth = {
            "cross_entropy": answer.argmax(dim=1),
            "binary_cross_entropy": (answer > 0).float(),
            "squared_error": answer,
        }[loss]
        made.append(trainer.Split([torch.zeros(len(clip), 3), x], clip, truth))
    return made


def _recipe(loss):
    metric = dict(zip(LOSSES, (accuracy, average_precision, r2), strict=True))[loss]
    return trainer.Recipe(LINEAR, Schedule(), 4, loss, metric.compute)


def _sklearn(loss, penalty, x, y, valid):
    """`(windows, outputs)` of scikit-learn's own solution for the valid windows."""
    if loss == "squared_error":
        return Ridge(alpha=penalty * len(x)).fit(x, y).predict(valid)
    solver = {"C": 1 / (penalty * len(x)), "tol": 1e-8, "max_iter": 5000}
    if loss == "binary_cross_entropy":
        return np.stack([LogisticRegression(**solver).fit(x, tag).decision_function(valid) for tag in y.T], axis=1)
    return LogisticRegression(**solver).fit(x, y).decision_function(valid)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("windows_per_clip", [1, 3])
def test_every_penalty_gives_scikit_learns_answer(loss, windows_per_clip):
    train, valid = _splits(loss, windows_per_clip)
    recipe = _recipe(loss)
    fitted = trainer.fit(trainer.grid(LINEAR, (1,), False, 1), train, valid, recipe)
    assert [one.probe.weight_decay for one in fitted] == list(LINEAR.penalties)
    scaler = StandardScaler().fit(train.layers[1].numpy())
    x, held = (scaler.transform(split.layers[1].numpy()).astype(np.float64) for split in (train, valid))
    for one in fitted:
        ours = trainer.predict_windows(one, valid, recipe).numpy()
        theirs = _sklearn(loss, one.probe.weight_decay, x, train.truth[train.clip].numpy(), held)
        if loss == "cross_entropy":  # a constant added to all classes says nothing; scikit-learn's sum to zero
            ours = ours - ours.mean(axis=1, keepdims=True)
        assert np.abs(ours - theirs).max() < 3e-3 * np.abs(theirs).max() + 1e-5, one.probe
        again = float(recipe.score(trainer.predict(one, valid, recipe)[None], valid.truth))
        assert again == pytest.approx(one.valid, abs=1e-6)


def test_a_constant_layer_is_no_better_than_a_constant_answer_and_not_an_error():
    train, valid = _splits("squared_error", 1)
    fitted = trainer.fit(trainer.grid(LINEAR, (0,), False, 1), train, valid, _recipe("squared_error"))
    for one in fitted:
        assert not one.diverged
        assert one.valid <= 1e-6  # R2 of a constant
