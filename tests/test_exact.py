"""Linear probes solved to their end, against scikit-learn."""

import numpy as np
import pytest
import torch
from marble_bench.probes import exact, trainer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from marble_bench.core.task import Schedule
from marble_bench.errors import BenchError
from marble_bench.metrics import accuracy, ap, r2
from marble_bench.protocols.linear import PROTOCOL as LINEAR
from marble_bench.runs.kinds.kind import choose

LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error")
CLOSE = 1e-6  # of a probability, or of a prediction in units of the label's spread


def _splits(loss, windows_per_clip):
    generator = torch.Generator().manual_seed(3)
    truth_of = torch.randn(24, 4, generator=generator)
    found = []
    for clips in (90, 60):
        clip = torch.arange(clips).repeat_interleave(windows_per_clip)
        x = 3 * torch.randn(clips, 24, generator=generator)[clip] + torch.randn(len(clip), 24, generator=generator) + 5
        answer = torch.stack([x[clip == each].mean(dim=0) for each in range(clips)]) @ truth_of
        answer = answer - answer.mean(dim=0) + 6 * torch.randn(clips, 4, generator=generator)
        truth = {
            "cross_entropy": answer.argmax(dim=1),
            "binary_cross_entropy": (answer > 0).float(),
            "squared_error": answer / answer.std(dim=0),
        }[loss]
        found.append(trainer.Split([torch.zeros(len(clip), 3), x], clip, truth))
    return found


def _recipe(loss):
    metric = dict(zip(LOSSES, (accuracy, ap, r2), strict=True))[loss]
    return trainer.Recipe(LINEAR, Schedule(), 4, loss, metric.compute)


def _fit(train, valid, loss, layers=(1,)):
    return trainer.fit(trainer.build_grid(LINEAR, layers, False, 1), train, valid, _recipe(loss))


def _answers(one, valid, loss):
    """`(windows, outputs)` float64 of a probe: probabilities, or predictions."""
    outputs = trainer.predict_windows(one, valid, _recipe(loss)).double()
    return {
        "cross_entropy": outputs.softmax(dim=1),
        "binary_cross_entropy": outputs.sigmoid(),
        "squared_error": outputs,
    }[loss].numpy()


def _sklearn(loss, penalty, x, y, valid):
    """`(windows, outputs)` of scikit-learn's own solution for the valid windows, by the same loss; 0 for absent classes."""
    if loss == "squared_error":
        return Ridge(alpha=penalty * len(x), solver="svd").fit(x, y).predict(valid)
    solver = {"C": 1 / (penalty * len(x)), "tol": 1e-12, "max_iter": 10_000, "solver": "newton-cholesky"}
    if loss == "binary_cross_entropy":
        made = [LogisticRegression(**solver).fit(x, tag).predict_proba(valid)[:, 1] for tag in y.T]
        return np.stack(made, axis=1)
    if len(set(y)) > 2:
        solver["solver"] = "newton-cg"  # the other's line search gives up where classes are parted by a plane
    fitted = LogisticRegression(**solver).fit(x, y)
    made = np.zeros((len(valid), 4))
    made[:, fitted.classes_] = fitted.predict_proba(valid)
    return made


def _apart(fitted, train, valid, loss, layer=1):
    """The largest difference of answers from scikit-learn's, over the valid windows and the penalties."""
    scaler = StandardScaler().fit(train.layers[layer].double().numpy())
    x, held = (scaler.transform(split.layers[layer].double().numpy()) for split in (train, valid))
    y = train.truth[train.clip].double().numpy() if loss != "cross_entropy" else train.truth[train.clip].numpy()
    found = []
    for one in fitted:
        assert not one.diverged
        theirs = _sklearn(loss, one.probe.weight_decay, x, y, held)
        found.append(np.abs(_answers(one, valid, loss) - theirs).max())
    return max(found)


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("windows_per_clip", [1, 3])
def test_every_penalty_gives_scikit_learns_answer(loss, windows_per_clip):
    train, valid = _splits(loss, windows_per_clip)
    recipe = _recipe(loss)
    fitted = _fit(train, valid, loss)
    assert [one.probe.weight_decay for one in fitted] == list(LINEAR.penalties)
    assert _apart(fitted, train, valid, loss) < CLOSE
    for one in fitted:
        again = float(recipe.score(trainer.predict(one, valid, recipe)[None], valid.truth))
        assert again == pytest.approx(one.valid, abs=1e-9)


def _odd(kind, x):
    """Features `(windows, 24)` that are hard on a solver."""
    x = x.double()
    if kind == "wider than windows":
        return torch.cat([x, x.square(), x.roll(1, dims=1) * x], dim=1).half()
    if kind == "collinear":
        return torch.cat([x, x[:, :12] + 1e-4 * x[:, 12:], x[:, :5], 0 * x[:, :2] + 1e6], dim=1).float()
    if kind == "of all scales":
        return (x * torch.logspace(-14, 14, 24, dtype=torch.float64)).float()
    return (x + 1e4).float()  # far off


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:(?i).*line search")  # scikit-learn's, at its last digits
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["wider than windows", "collinear", "of all scales", "far off"])
def test_hard_features_give_scikit_learns_answer_too(loss, kind):
    train, valid = _splits(loss, 1)
    if kind == "wider than windows":
        train = trainer.Split(train.layers, train.clip[:45], train.truth[:45], torch.arange(45))
    layers = [[split.layers[0], _odd(kind, split.layers[1])[: len(split.clip)]] for split in (train, valid)]
    train, valid = (trainer.Split(each, s.clip, s.truth) for each, s in zip(layers, (train, valid), strict=True))
    assert _apart(_fit(train, valid, loss), train, valid, loss) < CLOSE


def _loud(clips, seed):
    """Features that all say how loud a clip is, and little besides, with four tags that have nothing to do with it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(clips, 160, generator=generator) + 100 * torch.randn(clips, 1, generator=generator)
    truth = (torch.rand(clips, 4, generator=generator) < 0.2).float()
    return trainer.Split([x.half()], torch.arange(clips), truth)


def test_no_convex_problem_diverges_and_threads_change_nothing():
    found = {}
    threads = torch.get_num_threads()
    for count in (1, 2):
        torch.set_num_threads(count)
        try:
            of_seed = [_fit(_loud(60, seed), _loud(40, 9 + seed), "binary_cross_entropy", (0,)) for seed in range(4)]
        finally:
            torch.set_num_threads(threads)
        found[count] = of_seed
    for one, other in zip(found[1], found[2], strict=True):
        assert not [each.probe for each in one + other if each.diverged]
        assert choose(one, 1)[0].probe == choose(other, 1)[0].probe
        for a, b in zip(one, other, strict=True):
            assert a.valid == b.valid
            for name, value in a.state.items():
                assert (value - b.state[name]).abs().max() < 1e-9, (a.probe, name)


@pytest.mark.parametrize("there", [(0, 1, 3), (1, 3)])
def test_a_class_without_training_clips_has_no_probability(there):
    """Its output would drift to minus infinity, as far as the solver's patience goes; scikit-learn has none for it."""
    train, valid = _splits("cross_entropy", 1)
    kept = torch.isin(train.truth, torch.tensor(there)).nonzero()[:, 0]
    train = trainer.Split(train.layers, torch.arange(len(kept)), train.truth[kept], kept)
    fitted = _fit(train, valid, "cross_entropy")
    absent = [each for each in range(4) if each not in there]
    for one in fitted:
        assert (_answers(one, valid, "cross_entropy")[:, absent] == 0).all()
    layers = [train.layers[0][kept], train.layers[1][kept]]
    assert _apart(fitted, trainer.Split(layers, train.clip, train.truth), valid, "cross_entropy") < CLOSE


def test_a_single_training_clip_gives_its_class_to_all():
    train, valid = _splits("cross_entropy", 1)
    one_clip = trainer.Split(train.layers, torch.zeros(1, dtype=torch.int64), train.truth[5:6], torch.tensor([5]))
    for one in _fit(one_clip, valid, "cross_entropy"):
        expected = np.eye(4)[int(train.truth[5])]
        assert (_answers(one, valid, "cross_entropy") == expected).all()


def test_a_tag_of_no_training_clip_or_of_all_is_certain():
    train, valid = _splits("binary_cross_entropy", 1)
    truth = train.truth.clone()
    truth[:, 1], truth[:, 2] = 0, 1
    fitted = _fit(trainer.Split(train.layers, train.clip, truth), valid, "binary_cross_entropy")
    whole = _fit(train, valid, "binary_cross_entropy")
    for one, other in zip(fitted, whole, strict=True):
        found, expected = (_answers(each, valid, "binary_cross_entropy") for each in (one, other))
        assert (found[:, 1] == 0).all()
        assert (found[:, 2] == 1).all()
        assert np.abs(found[:, [0, 3]] - expected[:, [0, 3]]).max() < 1e-9  # the others do not notice


def test_a_problem_that_does_not_end_is_an_error_and_not_a_score(monkeypatch):
    monkeypatch.setattr(exact, "MOST_STEPS", 2)
    with pytest.raises(BenchError, match=r"at penalty .* from its end after 2 steps"):
        _fit(*_splits("cross_entropy", 1), "cross_entropy")


def test_a_constant_layer_is_no_better_than_a_constant_answer_and_not_an_error():
    train, valid = _splits("squared_error", 1)
    fitted = trainer.fit(trainer.build_grid(LINEAR, (0,), False, 1), train, valid, _recipe("squared_error"))
    for one in fitted:
        assert not one.diverged
        assert one.valid <= 1e-6  # R2 of a constant
