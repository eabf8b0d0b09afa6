"""A head that fits itself, as one file: its answers are scikit-learn's, and a run with it is a record of its own."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import PLUGINS, TOY_MODEL, TOY_TASK
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor

from marble_bench import TrainingSet
from marble_bench.core import plugins

HEAD = PLUGINS / "knn_head.py"
LOSSES = ("cross_entropy", "binary_cross_entropy", "squared_error")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("count", [1, 4])
def test_the_answers_are_those_of_scikit_learn(loss, count):
    random = np.random.default_rng(count)
    x, new = (random.normal(size=(windows, 6)).astype(np.float32) for windows in (80, 30))
    truth = random.integers(0, 3, 80) if loss == "cross_entropy" else random.normal(size=(80, 3)).astype(np.float32)
    head = plugins.find_head(str(HEAD))
    data = TrainingSet(torch.from_numpy(x), torch.from_numpy(truth), 3, loss, count, 0)
    found = head.predict(head.fit(data), torch.from_numpy(new)).numpy()
    authority = (KNeighborsClassifier if loss == "cross_entropy" else KNeighborsRegressor)(count).fit(x, truth)
    expected = authority.predict_proba(new) if loss == "cross_entropy" else authority.predict(new)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.slow
def test_a_run_with_it_chooses_a_number_of_neighbours_and_says_whose_head_it_was(toy, bench, tmp_path):
    ended = toy("--mini", "--protocol", "linear", "--head", HEAD, "--seeds", 2)
    assert ended.code == 0, ended.err
    record = ended.record
    assert record["protocol"]["name"] == "linear+knn"
    assert record["protocol"]["hash"] != plugins.find_registered_protocol("linear").hash
    (head,) = (each for each in record["identity"]["sources"] if each["kind"] == "head")
    assert (head["name"], head["shipped"]) == ("knn", False)
    (path,) = (tmp_path / "results").rglob("*.grid.parquet")
    grid = pd.read_parquet(path)
    assert set(grid.weight_decay) == {1, 3, 5, 9}
    assert len(grid) == 3 * 4 * 2  # layers by neighbours by seeds
    grid = grid[grid.seed == 0]
    best = record["selection"]["per_seed"][0]
    chosen = grid[(grid.layer == best["layer"]) & (grid.weight_decay == best["weight_decay"])]
    assert chosen.valid.item() == grid.valid.max()
    assert record["scores"]["accuracy"]["test"] > record["scores"]["accuracy"]["trivial"]
    checked = bench("results", "check", "--results-dir", tmp_path / "results")
    assert checked.code == 0, checked.out
    assert "facts not known here: protocol 'linear+knn'" in checked.out
    shown = bench("leaderboard", "--protocol", "linear", "--mini", "--json", "--results-dir", tmp_path / "results")
    assert "linear+knn" not in shown.out
    assert not [cell for cell in shown.record if cell["model"] == "toy"]


def test_what_it_answers_in_a_run_is_what_scikit_learn_answers_on_the_same_features(toy, bench, tmp_path):
    record = toy("--mini", "--protocol", "linear", "--head", HEAD).record
    best = record["selection"]["per_seed"][0]
    exported = bench(
        *("features", "export", "--task", TOY_TASK, "--mini"),
        *("--model", TOY_MODEL, "--device", "cpu", "features"),
    )
    assert exported.code == 0, exported.err
    features = pd.read_parquet(tmp_path / "features/data").set_index("track")
    task = plugins.find_task(TOY_TASK).task
    clips = {split: [each for each in task.clips(None) if each.split == split] for split in ("train", "test")}
    x = {
        split: np.stack([features.loc[each.id, best["layer"]] for each in some]).astype(np.float64)
        for split, some in clips.items()
    }
    mean, spread = x["train"].mean(axis=0), x["train"].std(axis=0)
    authority = KNeighborsClassifier(int(best["weight_decay"]))
    truth = {split: [task.target.names.index(each.target) for each in some] for split, some in clips.items()}
    authority.fit((x["train"] - mean) / spread, truth["train"])
    right = authority.predict((x["test"] - mean) / spread) == truth["test"]
    assert record["scores"]["accuracy"]["test"] == pytest.approx(right.mean())


def test_an_edited_head_is_another_protocol_whose_probes_are_not_taken_for_the_earlier_ones(tmp_path):
    own = tmp_path / "mine.py"
    own.write_text(HEAD.read_text())
    first = plugins.find_protocol("linear", str(own))
    own.write_text(HEAD.read_text().replace("(1, 3, 5, 9)", "(1, 3, 5, 7)"))
    second = plugins.find_protocol("linear", str(own))
    assert first.name == second.name == "linear+knn"
    assert first.hash != second.hash
    assert second.strengths == (1, 3, 5, 7)


@pytest.mark.slow
def test_a_head_of_another_shape_or_an_error_in_it_is_told_with_the_next_step(toy, tmp_path):
    own = tmp_path / "mine.py"
    for old, new, words in (
        (
            'return {"windows": data.x',
            'return [data.x]; {"windows": data.x',
            "fit returned list: return a dict of tensors",
        ),
        ('"windows": data.x', '"mean": data.x, "windows": data.x', "a tensor called 'mean': give it another name"),
        (".mean(dim=1)", "", "predict returned torch.float32 (12, 1, 3) for 12 windows: return floating-point numbers"),
        ("truth = data.truth", "truth = data.truths", f"{own} line 19, in fit: AttributeError"),
    ):
        text = HEAD.read_text()
        assert old in text
        own.write_text(text.replace(old, new, 1))
        ended = toy("--mini", "--protocol", "linear", "--head", own)
        assert ended.code == 2, ended.err
        assert words in ended.err
        assert "Traceback" not in ended.err


def test_it_is_refused_where_probes_are_trained_by_gradient(toy):
    ended = toy("--mini", "--head", HEAD)
    assert ended.code == 2
    assert "head 'knn' fits itself, and protocol 'marble+knn' trains by gradient: give --protocol linear" in ended.err
