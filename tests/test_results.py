"""`bench results check`: a clear verdict for every broken record, none for a whole one. `bench reproduce`: one run again."""

import hashlib
import json
import math
import os
import re
import shutil
from pathlib import Path

import made_records
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TOY_MODEL, TOY_TASK
from made_records import make

from marble_bench.core import plugins
from marble_bench.records import results


@pytest.fixture
def record(tmp_path):
    """A whole record of a full run, on the clips that the suite lists."""
    return make(tmp_path / "results", "one")


def test_what_differs_between_two_records_is_told_in_short_lines():
    choice = {"seed": 0, "layer": "3", "valid": 2 / 3}
    old = {
        "data": {"fingerprint": f"sha256:{'a' * 64}", "missing": [f"{n}.wav" for n in range(800)], "mini": False},
        "scores": {"accuracy": {"test": 8 / 15, "ci95": [0.26666666666666666, 0.8]}},
        "selection": {"per_seed": [choice, {**choice, "seed": 1}]},
    }
    new = {
        "data": {"fingerprint": f"sha256:{'b' * 64}", "missing": [f"{n}.wav" for n in range(1, 801)], "marks": ["odd"]},
        "scores": {"accuracy": {"test": 0.1, "ci95": [0.26666666666666667, 0.7]}},
        "selection": {"per_seed": [choice, {**choice, "seed": 1, "valid": 2 / 3 + 1e-15}]},
        "cost": {"probe_s": 3},
    }
    assert list(results.list_differences(old, new)) == [
        f"data.fingerprint: sha256:{'a' * 30}... -> sha256:{'b' * 30}...",
        "data.marks: none -> [odd]",
        "data.mini: False -> none",
        "data.missing: a list of 800, not the same",
        "scores.accuracy.ci95: [0.2667, 0.8] -> [0.2667, 0.7]",
        "scores.accuracy.test: 0.5333 -> 0.1",
        "selection.per_seed[1].valid: 0.6666666666666666 -> 0.6666666666666676",
    ]


@pytest.fixture
def verdicts(bench):
    """The kinds of verdict of each record, by its file's name, and the exit code."""

    def call(*paths):
        ended = bench("results", "check", *paths, "--json")
        found = {}
        for each in ended.record["validation"]:
            found.setdefault(each["path"], {})[each["kind"]] = each["words"]
        return found, ended.code

    return call


def _edit(path, change, reseal=False):
    """Change a record's JSON by hand; reseal: with a digest that hides it."""
    record = json.loads(path.read_text())
    change(record)
    if reseal:
        record["digests"]["record"] = results.compute_digest(record)
    path.write_text(json.dumps(record, indent=1))


def test_a_whole_record_stands(record, verdicts):
    found, code = verdicts()
    assert [list(kinds) for kinds in found.values()] == [["ok"]]
    assert code == 0


@pytest.mark.slow
def test_a_record_of_a_real_run_stands(toy_record, bench):
    toy_record()
    ended = bench("results", "check")
    assert ended.code == 0, ended.out
    assert "ok" in ended.out
    assert "1 record, 0 invalid" in ended.err


def _score(record):
    record["scores"]["accuracy"]["test"] = 0.99


def _all_scores(record):
    record["scores"]["accuracy"].update(test=0.99, per_seed=[0.99] * 3)


def _above_one(record):
    record["scores"]["accuracy"].update(test=1.2, per_seed=[1.2] * 3, ci95=[1.1, 1.2])


def _name(record):
    record["model"]["name"] = "other"


def _choice(record):
    record["selection"]["per_seed"][0].update(layer="1")


def _newer(record):
    record["schema"] = "marble-bench.record/2"


def _other_schema(record):
    record["schema"] = "somebody.else/1"


def _field(record):
    record["scores"]["accuracy"]["test"] = "high"


def _missing_field(record):
    del record["cost"]


def _mini(record):
    record["data"]["mini"] = True


def _interval(record):
    record["scores"]["accuracy"]["ci95"] = [0.9, 0.2]


def _counts(record):
    record["data"]["clips"]["test"] += 1


def _no_score(record):
    record["scores"]["accuracy"].update(test=None, std=None, per_seed=[None] * 3)


def _no_mean(record):
    record["scores"]["accuracy"]["test"] = None


def _valid(record):
    record["scores"]["accuracy"]["valid"] = 0.99


def _spread(record):
    record["scores"]["accuracy"]["std"] = 0.0


def _decibels(record):
    record["scores"]["accuracy"]["unit"] = "dB"


def _own_score(record):
    record["scores"]["wow"] = record["scores"]["accuracy"] | {"main": False}


def _not_a_number(record):
    record["scores"]["accuracy"].update(test=float("nan"), per_seed=[float("nan")] * 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reseal", "kind", "words"),
    [
        (_no_score, True, "scores", "none, none, none in the record"),
        (_no_mean, True, "scores", "test is none, the mean of its seeds"),
        (_valid, True, "scores", "valid is 0.99 in the record"),
        (_spread, True, "scores", "std is 0, the spread of its seeds"),
        (_decibels, True, "impossible", "the record says otherwise"),
        (_own_score, True, "impossible", "wow is no score of its task, which has accuracy"),
        (_not_a_number, True, "form", "NaN is no number of JSON"),
        (_score, False, "edited", "changed after it was written"),
        (_score, True, "scores", "the mean of its seeds"),
        (_all_scores, True, "scores", "by its predictions"),
        (_above_one, True, "impossible", "more than the best"),
        (_name, True, "misplaced", "belongs to other/"),
        (_choice, True, "choice", "best of the grid"),
        (_newer, False, "newer schema", "update marble-bench"),
        (_other_schema, False, "no record", "somebody.else/1"),
        (_field, False, "form", "scores.accuracy.test"),
        (_missing_field, False, "form", "'cost' is a required property"),
        (_mini, True, "impossible", "calls itself comparable"),
        (_interval, True, "impossible", "runs from 0.9 to 0.2"),
        (_counts, True, "counts", "290 test clips, the record has 291"),
    ],
)
def test_an_edit_by_hand_gets_a_verdict_that_names_it(record, verdicts, change, reseal, kind, words):
    _edit(record, change, reseal)
    found, code = verdicts()
    (kinds,) = found.values()
    assert code == 3
    assert words in kinds[kind]


def test_a_truncated_file_is_told_from_a_foreign_one(record, verdicts):
    record.write_text(record.read_text()[:300])
    found, code = verdicts()
    assert list(found[str(record.relative_to(record.parents[4]))]) == ["truncated"]
    assert code == 3
    record.write_text("[1, 2]")
    assert "no record" in next(iter(verdicts()[0].values()))


@pytest.mark.slow
def test_tables_that_are_gone_broken_or_changed_are_named(record, verdicts):
    predictions = results.find_table_path(record, "predictions")
    frame = pd.read_parquet(predictions)
    frame["outputs"] = frame["outputs"].map(lambda row: np.roll(row, 1))
    frame.to_parquet(predictions, index=False)
    (kinds,) = verdicts()[0].values()
    assert "gtzan.predictions.parquet is not the table" in kinds["edited"]
    assert "by its predictions" in kinds["scores"]
    predictions.write_bytes(predictions.read_bytes()[:100])
    (kinds,) = verdicts()[0].values()
    assert "cannot be read" in kinds["tables"]
    predictions.unlink()
    (kinds,) = verdicts()[0].values()
    assert "gtzan.predictions.parquet is missing beside it" in kinds["tables"]
    pd.DataFrame({"a": [1]}).to_parquet(results.find_table_path(record, "grid"))
    (kinds,) = verdicts()[0].values()
    assert "edited" in kinds
    assert "tables" in kinds


def _without(column):
    return lambda frame: frame.drop(columns=column)


def _rows(keep):
    return lambda frame: frame.iloc[keep]


def _with(column, made):
    return lambda frame: frame.assign(**{column: [made(row) for row in frame[column]]})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "kind", "change"),
    [
        ("gtzan", "predictions", _rows(slice(0, 0))),
        ("gtzan", "predictions", _rows(slice(0, -3))),
        ("gtzan", "predictions", _without("split")),
        ("gtzan", "predictions", _without("seed")),
        ("gtzan", "predictions", _without("truth")),
        ("gtzan", "predictions", _with("outputs", lambda row: "x")),
        ("gtzan", "predictions", _with("outputs", lambda row: row[: 3 + (row[0] > 0)])),
        ("gtzan", "predictions", _with("truth", lambda row: row[:0])),
        ("mtt", "predictions", _with("truth", lambda row: row[:0])),
        ("mtt", "predictions", _with("outputs", lambda row: row[:1])),
        ("emo", "predictions", _with("truth", lambda row: row[:0])),
        ("gtzan", "grid", _without("valid")),
        ("gtzan", "grid", _without("best_epoch")),
        ("gtzan", "grid", _with("valid", lambda value: "x")),
    ],
)
def test_a_table_of_any_other_form_is_a_verdict_and_the_next_record_gets_its_own(
    tmp_path, verdicts, task, kind, change
):
    broken, whole = (make(tmp_path / "results", name, task, seed=seed) for seed, name in enumerate(("broken", "whole")))
    table = results.find_table_path(broken, kind)
    change(pd.read_parquet(table)).to_parquet(table, index=False)
    found, code = verdicts()
    kinds = {path.split("/")[1]: words for path, words in found.items()}
    assert "tables" in kinds["broken"]
    assert not kinds["whole"].keys() & {"tables", "scores", "edited", "form"}
    assert code == 3
    assert whole.is_file()


def test_a_whole_record_says_which_score_could_not_be_made_again(tmp_path, verdicts):
    make(tmp_path / "results", "one", task="gs", mini=True)
    (kinds,) = verdicts()[0].values()
    assert kinds["ok"].endswith(
        "the same; not computed again: weighted_ensemble, which needs the answers of windows; "
        "facts not known here: model 'one'"
    )


def test_brackets_without_end_are_a_verdict(record, verdicts):
    record.write_text("[" * 100_000)
    assert "deeper" in next(iter(verdicts()[0].values()))["truncated"]


@pytest.mark.slow
def test_a_duplicate_and_answers_copied_from_another_model_are_found(record, verdicts, tmp_path):
    folder = record.parents[3]
    shutil.copytree(folder, tmp_path / "copy")
    found, code = verdicts("results", "copy")
    assert code == 3
    assert [list(kinds) for kinds in found.values()] == [["ok"], ["duplicate"]]
    make(tmp_path / "results", "thief", weights="f" * 64)  # the same seed, so the same outputs
    found, code = verdicts()
    assert code == 3
    assert {kind for kinds in found.values() for kind in kinds} == {"ok", "same answers"}


@pytest.mark.slow
def test_a_copy_of_a_registered_models_record_falls_whatever_it_is_called(tmp_path, verdicts):
    make(tmp_path / "results", "mfcc")
    make(tmp_path / "results", "aaa")  # the same seed, so the same outputs
    found, _ = verdicts()
    assert {Path(path).parts[-4]: list(kinds) for path, kinds in found.items()} == {
        "aaa": ["same answers"],
        "mfcc": ["ok"],
    }


@pytest.mark.slow
def test_ones_own_model_after_an_edit_that_changes_nothing_is_a_warning_that_says_what_to_do(tmp_path, verdicts):
    make(tmp_path / "results", "mine", weights="a" * 64)
    make(tmp_path / "results", "mine", weights="b" * 64)  # the same seed, so the same outputs
    found, code = verdicts()
    assert code == 0
    assert sorted(map(list, found.values())) == [["near answers"], ["ok"]]
    (words,) = (kinds["near answers"] for kinds in found.values() if "near answers" in kinds)
    assert "with other code or weights under the same name" in words
    assert "keep one of the two" in words


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "kind"), [(0.005, "same answers"), (0.06, "near answers"), (0.15, "ok")])
def test_answers_with_noise_on_them_are_a_warning_until_they_might_be_another_models(
    tmp_path, verdicts, monkeypatch, noise, kind
):
    """noise: its deviation as a share of the outputs', so that they correlate at 1 / sqrt(1 + noise^2)."""
    make(tmp_path / "results", "one")
    outputs, random = made_records._draw_outputs, torch.Generator().manual_seed(7)

    def noisy(*given):
        made = outputs(*given)  # of the same seed, so those of the first record
        centred = made - made.mean(dim=2, keepdim=True)
        centred = centred - centred.mean(dim=1, keepdim=True)
        return made + noise * centred.std() * torch.randn(made.shape, generator=random)

    monkeypatch.setattr(made_records, "_draw_outputs", noisy)
    make(tmp_path / "results", "two", weights="f" * 64)
    found, code = verdicts()
    (one, two) = ([path for path in found if f"/{name}/" in path] for name in ("one", "two"))
    assert list(found[one[0]]) == ["ok"]
    assert list(found[two[0]]) == [kind]
    assert code == (3 if kind == "same answers" else 0)
    if kind == "near answers":
        told = float(re.search(r"another model, at (0\.\d{4}) of 1", found[two[0]][kind])[1])
        assert told == pytest.approx(1 / math.sqrt(1 + noise**2), abs=5e-4)


@pytest.mark.slow
def test_a_record_that_does_not_stand_takes_no_other_off_the_board(tmp_path, verdicts):
    make(tmp_path / "results", "one")
    copied = make(tmp_path / "results", "another")
    copied.write_text(copied.read_text().replace('"python": "', '"python": "3'))  # its digest is another
    shutil.copytree(tmp_path / "results/one", tmp_path / "results/a-copy")  # misplaced
    found, _ = verdicts()
    kinds = {Path(path).parts[-4]: list(kinds) for path, kinds in found.items()}
    assert kinds == {"another": ["edited", "near answers"], "a-copy": ["misplaced"], "one": ["near answers"]}


def test_a_pipe_or_a_folder_in_a_records_place_is_a_line_and_is_not_waited_for(record, bench):
    os.mkfifo(record.with_name("pipe.json"))
    record.with_name("folder.json").mkdir()
    record.with_name("loop.json").symlink_to("loop.json")
    ended = bench("list", "results", "--json")
    assert ended.code == 0
    assert len(json.loads(ended.out)) == 1
    assert ended.err.count("it is no file") == 2


def test_a_class_is_a_whole_number(record, verdicts):
    path = results.find_table_path(record, "predictions")
    frame = pd.read_parquet(path)
    frame["truth"] = [[value + 0.5 for value in truth] for truth in frame["truth"]]
    frame.to_parquet(path, index=False)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _edit(record, lambda each: each["digests"].update(predictions=digest), reseal=True)
    (kinds,) = verdicts()[0].values()
    assert "a truth is no whole number of a class" in kinds["tables"]


@pytest.mark.slow
def test_a_score_below_the_floor_is_a_warning(tmp_path, verdicts, record):
    make(tmp_path / "results", "bad", skill=-3.0, seed=4)
    found, code = verdicts()
    assert code == 0
    (bad,) = [kinds for path, kinds in found.items() if "bad" in path]
    assert "a constant answer gets" in bad["below floor"]


def test_a_record_without_digests_still_stands_with_a_warning(record, verdicts):
    _edit(record, lambda each: each.pop("digests"))
    found, code = verdicts()
    assert code == 0
    assert [list(kinds) for kinds in found.values()] == [["no digests"]]


def test_fewer_clips_than_published_are_not_comparable(record, verdicts, monkeypatch):
    monkeypatch.setitem(plugins.find_task("gtzan").task.counts, "train", 444)
    found, _ = verdicts()
    (kinds,) = found.values()
    assert "old task" in kinds  # the counts are part of what the task's hash is made of


@pytest.mark.slow
def test_the_difference_to_what_papers_print_is_shown(tmp_path, bench):
    make(tmp_path / "results", "mert-95m")
    ended = bench("results", "check", "results/mert-95m", "--reference", "--json")
    rows = {row["source"]: row for row in ended.record["reference"]}
    assert rows["a"]["published"] == 0.748
    assert rows["a"]["difference"] == pytest.approx(rows["a"]["measured"] - 0.748)
    shown = bench("results", "check", "--reference").out
    low, high = rows["a"]["interval"]
    assert "0.7480" in shown
    assert f"{low:.4f} to {high:.4f}" in shown


@pytest.mark.slow
def test_a_record_of_another_form_has_its_verdict_beside_references_and_the_board_names_it(tmp_path, bench):
    path = make(tmp_path / "results", "mert-95m")
    other = make(tmp_path / "results", "mert-330m", seed=1)
    _edit(path, _missing_field)
    ended = bench("results", "check", "--reference")
    assert ended.code == 3, ended.err
    assert "form: the record: 'cost' is a required property" in ended.out
    assert "mert-330m" in ended.out.split("measured")[-1]
    ended = bench("compare", path, other)
    assert ended.code == 3
    assert "gtzan.json is no whole record (bench results check): the record: 'cost' is a required" in ended.err
    ended = bench("leaderboard")
    assert ended.code == 0
    assert "gtzan.json: form: the record: 'cost' is a required property" in ended.err
    assert "mert-330m" in ended.out


def test_a_path_that_is_not_there_is_named(bench):
    ended = bench("results", "check", "nowhere")
    assert ended.code == 3
    assert "nowhere does not exist" in ended.err


@pytest.mark.slow
def test_a_record_comes_out_again(toy, bench, tmp_path):
    toy("--mini", "--seeds", "2", "--limit", "10")
    (path,) = (tmp_path / "results").rglob("*.json")
    ended = bench("reproduce", path, "--model", TOY_MODEL, "--task", TOY_TASK, "--json", "--quiet")
    assert ended.code == 0, ended.err
    assert {row["verdict"] for row in ended.record["scores"]} == {"same"}
    assert ended.record["changed"] == []
    assert ended.record["record"]["data"]["clips"] == {"train": 10, "valid": 10, "test": 10}
    _edit(path, lambda each: each["scores"]["accuracy"].update(test=0.0123, ci95=[0.01, 0.02]))
    ended = bench("reproduce", path, "--model", TOY_MODEL, "--task", TOY_TASK, "--quiet")
    assert ended.code == 1
    assert "outside" in ended.out
    ended = bench("reproduce", path, "--model", TOY_MODEL)
    assert ended.code == 2
    assert "if it is one of your own, give its file: --task FILE.py" in ended.err


def test_a_record_of_brought_features_cannot_be_made_again(tmp_path, bench, record):
    _edit(record, lambda each: each["model"].update(source="features:mine"))
    ended = bench("reproduce", record)
    assert ended.code == 2
    assert "which a record does not hold" in ended.err


def test_a_device_that_is_none_or_not_here_is_told(bench, record):
    for device, words in (("gpu", "no such device; did you mean 'cuda'?"), ("mps", "finds no MPS device")):
        ended = bench("reproduce", record, "--device", device)
        assert ended.code == 2
        assert words in ended.err
