"""A metric as one file: it is scikit-learn's, is found in its folder, and scores a task of one's own."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PLUGINS, TOY_MODEL, TOY_TASK
from sklearn.metrics import average_precision_score, label_ranking_average_precision_score

import marble_bench.metrics
from marble_bench.core import plugins

FILE = PLUGINS / "retrieval_map.py"


@pytest.fixture
def metric(tmp_path, monkeypatch):
    """The metric, from a folder of metrics that its file was put into."""
    shutil.copy(FILE, tmp_path)
    monkeypatch.setattr(marble_bench.metrics, "__path__", [*marble_bench.metrics.__path__, str(tmp_path)])
    yield plugins.find_metrics()["retrieval_map"]
    sys.modules.pop("marble_bench.metrics.retrieval_map")


@pytest.mark.parametrize("decimals", [1, 9])
def test_it_is_scikit_learns_with_ties_and_without(metric, decimals):
    random = np.random.default_rng(decimals)
    outputs = random.normal(size=(3, 20, 12)).round(decimals)
    truth = (random.random((20, 12)) < 0.3).astype(np.int64)
    truth[:, 0] = 1
    found = metric.compute(torch.from_numpy(outputs), torch.from_numpy(truth)).tolist()
    assert found == pytest.approx([average_precision_score(truth, each, average="samples") for each in outputs])
    assert found == pytest.approx([label_ranking_average_precision_score(truth, each) for each in outputs])


def test_rankings_that_are_worked_out_by_hand(metric):
    outputs = torch.tensor([[[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]]])
    truth = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    # right at places 1 and 3: (1/1 + 2/3) / 2; at place 4: 1/4; nothing is right: no value
    assert metric.per_clip(outputs, truth)[0].tolist() == pytest.approx([5 / 6, 1 / 4, float("nan")], nan_ok=True)
    assert metric.compute(outputs, truth).tolist() == pytest.approx([(5 / 6 + 1 / 4) / 2])


def test_a_query_that_counts_twice_is_a_query_that_stands_there_twice(metric):
    random = torch.Generator().manual_seed(1)
    outputs = torch.rand(2, 6, 5, generator=random)
    truth = (torch.rand(6, 5, generator=random) < 0.5).long()
    weights = torch.tensor([[2, 0, 1, 1, 3, 1], [1, 1, 1, 1, 1, 1]])
    found = metric.weighted(outputs, truth, weights)
    for replicate, counts in zip(found, weights, strict=True):
        again = metric.compute(outputs.repeat_interleave(counts, dim=1), truth.repeat_interleave(counts, dim=0))
        assert replicate.tolist() == pytest.approx(again.tolist())


@pytest.mark.slow
def test_a_task_of_ones_own_is_scored_by_it_and_the_record_says_whose_metric_it_was(bench, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_retrieval.py").write_text(FILE.read_text())
    text = Path(TOY_TASK).read_text()
    for old, new in (
        ("import Classes, ", "import Tags, "),
        ("target=Classes(", "target=Tags("),
        ("from marble_bench.metrics import accuracy", "from own_retrieval import METRIC"),
        ("metrics=(accuracy,)", "metrics=(METRIC,)"),
        ("REGISTERS[index % 3])", "(REGISTERS[index % 3],))"),
        ("clip.target)", "clip.target[0])"),
    ):
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "ranked.py").write_text(text)
    run = ("--task", "ranked.py", "--model", TOY_MODEL, "--mini", "--device", "cpu", "--protocol", "linear", "--json")
    ended = bench("run", *run)
    assert ended.code == 0, ended.err
    score = ended.record["scores"]["retrieval_map"]
    assert score["test"] > score["trivial"]
    (source,) = (each for each in ended.record["identity"]["sources"] if each["kind"] == "metric")
    assert (source["name"], source["shipped"]) == ("retrieval_map", False)
    checked = bench("results", "check", "--results-dir", "results")
    assert checked.code == 0, checked.out
    assert "not recomputed: retrieval_map cannot be computed again" in checked.out
    sys.modules.pop("own_retrieval")
