"""Two models on the same clips: differences, classes and clips are those that the predictions give."""

import json

import numpy as np
import pandas as pd
import pytest
from made_records import CONTROL, CURVE, POINTS, make
from sklearn.metrics import average_precision_score, r2_score, recall_score

from marble_bench.api import compare
from marble_bench.board.published import read_published_cells
from marble_bench.records import results


def _table(path, split="test"):
    frame = pd.read_parquet(results.find_table_path(path, "predictions"))
    return frame[frame.split == split].sort_values(["seed", "clip"])


@pytest.fixture
def two(tmp_path, bench):
    """Records of a good and a poor model on two tasks, and `compare` as JSON."""
    paths = {
        (model, task): make(tmp_path / "results", model, task=task, skill=skill, seed=seed)
        for task in ("gtzan", "emo")
        for seed, (model, skill) in enumerate({"good": 3.0, "poor": 0.7}.items())
    }
    ended = bench("compare", "good", "poor", "--json")
    assert ended.code == 0, ended.err
    return paths, {(each["task"], each["metric"]): each for each in ended.record["compared"]}


@pytest.mark.slow
def test_differences_are_those_of_the_records(two):
    paths, compared = two
    for (task, metric), each in compared.items():
        scores = [json.loads(paths[model, task].read_text())["scores"][metric]["test"] for model in ("good", "poor")]
        assert [each["a"], each["b"]] == pytest.approx(scores)
        assert each["value"] == pytest.approx(scores[0] - scores[1])
        assert each["low"] < each["value"] < each["high"]
    assert compared["gtzan", "accuracy"]["holm"] < 0.05
    assert compared["gtzan", "accuracy"]["p"] <= compared["gtzan", "accuracy"]["holm"]
    assert {task for (task, _), each in compared.items() if each["holm"] is not None} == {"gtzan", "emo"}


@pytest.mark.slow
def test_classes_tags_and_dimensions_are_sklearns(two, bench, tmp_path):
    from marble_bench.core import plugins

    paths, compared = two
    paths["poor", "mtg-instrument"] = make(tmp_path / "results", "poor", task="mtg-instrument", skill=0.7)
    path = paths["poor", "mtg-instrument"]
    compared |= {
        ("mtg-instrument", each["metric"]): each for each in bench("compare", path, path, "--json").record["compared"]
    }
    frame = _table(paths["good", "gtzan"])
    decided, truth = frame.outputs.map(np.argmax), frame.truth.str[0].astype(int)
    recalls = recall_score(truth, decided, average=None)
    parts = compared["gtzan", "accuracy"]["parts"]
    assert [part["name"] for part in parts] == list(plugins.find_task("gtzan").task.target.names)
    assert [part["a"] for part in parts] == pytest.approx(recalls.tolist())
    assert sum(part["clips"] for part in parts) == 290

    for task, metric, authority in (("mtg-instrument", "ap", average_precision_score), ("emo", "r2", r2_score)):
        frame = _table(paths["poor", task])
        seeds = [(np.stack(list(part.truth)), np.stack(list(part.outputs))) for _, part in frame.groupby("seed")]
        each = compared[task, metric]["parts"]
        expected = np.mean([[authority(t[:, i], o[:, i]) for i in range(len(each))] for t, o in seeds], axis=0)
        assert [part["b"] for part in each] == pytest.approx(expected.tolist(), abs=1e-6)
    assert compared["emo", "r2_valence"]["parts"] == []


@pytest.mark.slow
def test_the_clips_that_moved_most_come_first_and_last(two):
    paths, compared = two
    right = {
        model: (lambda f: (f.outputs.map(np.argmax) == f.truth.str[0]).groupby(f["clip"]).mean())(
            _table(paths[model, "gtzan"])
        )
        for model in ("good", "poor")
    }
    gain = (right["good"] - right["poor"]).to_dict()
    moved = compared["gtzan", "accuracy"]["moved"]
    assert all(row["gain"] == pytest.approx(gain[row["clip"]]) for row in moved)
    assert moved[0]["gain"] == pytest.approx(max(gain.values()))
    assert moved[-1]["gain"] == pytest.approx(min(gain.values()))


@pytest.mark.slow
def test_words_say_who_is_better_and_what_was_left_out(tmp_path, bench, two):
    make(tmp_path / "results", "good", task="gs")
    ended = bench("compare", "good", "poor", "--classes", "--clips", "3")
    assert "good is better" in ended.out
    assert "gtzan, clips that moved most" in ended.out
    assert "not compared: gs: only good has it" in ended.err
    swapped = bench("compare", "poor", "good", "--task", "gtzan")
    assert "good is better" in swapped.out


@pytest.mark.slow
def test_a_model_against_itself_is_no_different(tmp_path, bench):
    path = make(tmp_path / "results", "one")
    (each,) = bench("compare", path, path, "--json").record["compared"]
    assert (each["value"], each["p"]) == (0, 1)
    assert each["low"] != each["low"]  # no clip differs, so nothing says how far others would: no interval
    assert each["moved"] == []


@pytest.mark.slow
def test_what_cannot_be_compared_says_why(tmp_path, bench, monkeypatch):
    import made_records

    make(tmp_path / "results", "one", mini=True)
    ended = bench("compare", "one", "on", "--mini")
    assert ended.code == 2
    assert "did you mean 'one'?" in ended.err
    monkeypatch.setitem(made_records.COUNTS, "test", 50)
    make(tmp_path / "results", "other", seed=1, mini=True)
    ended = bench("compare", "one", "other", "--mini")
    assert ended.code == 2
    assert "different test clips" in ended.err
    bare = make(tmp_path / "results", "bare", seed=2, mini=True)
    results.find_table_path(bare, "predictions").unlink()
    assert "predictions.parquet is missing beside it" in bench("compare", "other", bare, "--mini").err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mini", "option", "hint"),
    [
        (True, (), "1 record of protocol marble is of miniatures: add --mini"),
        (False, ("--mini",), "1 record of protocol marble is of the full corpora: leave --mini out"),
        (True, ("--mini", "--protocol", "linear"), "there are records of protocol marble: give --protocol"),
    ],
)
def test_records_of_the_other_kind_are_hinted_at(tmp_path, bench, mini, option, hint):
    make(tmp_path / "results", "one", mini=mini)
    make(tmp_path / "results", "two", mini=not mini, seed=1)
    ended = bench("compare", "one", "two", *option)
    assert ended.code == 2
    assert "no record of model 'one' in results" in ended.err
    assert hint in ended.err


@pytest.mark.slow
def test_a_control_is_never_compared_and_the_run_that_the_board_shows_is(tmp_path, bench):
    right = make(tmp_path / "results", "one", skill=3, mini=True)
    make(tmp_path / "results", "two", seed=1, mini=True)
    for reason, more in ((CONTROL, {}), (CURVE, {"few_shot": POINTS})):
        make(
            tmp_path / "results", "one", skill=0.2, mini=True, why_not=("made on the miniature corpus", reason), **more
        )
    (each,) = bench("compare", "one", "two", "--mini", "--json").record["compared"]
    assert each["a"] == pytest.approx(json.loads(right.read_text())["scores"]["accuracy"]["test"])
    for path in right.parent.glob("gtzan.mini*.json"):
        if "control" not in path.name:
            path.unlink()
    ended = bench("compare", "one", "two", "--mini")
    assert ended.code == 2
    assert "no record of model 'one'" in ended.err


@pytest.mark.slow
def test_two_weights_of_one_name_are_told_apart_by_their_digest(tmp_path, bench):
    paths = [
        make(tmp_path / "results", "one", skill=skill, weights=digit * 64) for digit, skill in (("a", 3), ("b", 1))
    ]
    make(tmp_path / "results", "two", seed=2)
    names = [f"one/{path.parts[-3]}" for path in paths]
    ended = bench("compare", "one", "two")
    assert ended.code == 2
    assert ", ".join(names) in ended.err
    for path, name in zip(paths, names, strict=True):
        (each,) = bench("compare", name, "two", "--json").record["compared"]
        assert each["a"] == pytest.approx(json.loads(path.read_text())["scores"]["accuracy"]["test"])


def test_a_model_of_the_hub_is_compared_by_its_name(tmp_path, bench):
    for seed in range(2):
        make(tmp_path / "results", "hf:org/name", seed=seed, weights=str(seed) * 64)
    make(tmp_path / "results", "hf:org/bad", seed=2)
    made = bench("compare", "hf:org/name/0000", "hf:org/bad", "--json")
    assert made.code == 0, made.err
    assert [made.record[side] for side in ("a", "b")] == ["hf:org/name", "hf:org/bad"]
    ended = bench("compare", "hf:org/name", "hf:org/bad")
    assert ended.code == 2
    assert all(f"hf:org/name/{str(seed) * 12}" in ended.err for seed in range(2))
    ended = bench("compare", "hf:org/nam", "hf:org/bad")
    assert "no record of model 'hf:org/nam'" in ended.err
    assert "did you mean 'hf:org/name'?" in ended.err


def test_intervals_of_a_comparison_are_kept_where_python_says(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "default"))
    make(tmp_path / "results", "one", weights="1" * 64)
    printed = next(cell.model for cell in read_published_cells() if cell.task == "gtzan")
    found = compare("one", printed, results_dir=tmp_path / "results", cache_dir=tmp_path / "other")
    assert found.printed
    assert any((tmp_path / "other/statistics").iterdir())
    assert not (tmp_path / "default").exists()
