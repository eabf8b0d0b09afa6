"""What `bench results export --eval-yaml` writes, the hub's own client reads back as the records' scores."""

import json

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries
from made_records import make

from marble_bench.board.eval_results import write_eval_results
from marble_bench.errors import DataError


def _read(path):
    return parse_eval_result_entries(yaml.safe_load(path.read_text()))


def _scores(path):
    return json.loads(path.read_text())["scores"]


def test_the_hubs_client_reads_the_scores_of_two_records(tmp_path, bench):
    records = {task: make(tmp_path / "results", "mfcc", task=task) for task in ("gtzan", "emo")}
    asked = ("--dataset", "lab/music-benchmark", "--source-url", "https://example.org/records", "--json")
    ended = bench("results", "export", *records.values(), "--eval-yaml", tmp_path / "model", *asked)
    assert ended.code == 0, ended.err
    assert ended.record["eval_results"] == [
        str(tmp_path / "model" / ".eval_results" / f"marble-bench-marble-{task}.yaml") for task in records
    ]
    for task, metric in (("gtzan", "accuracy"), ("emo", "r2")):
        (entry,) = _read(tmp_path / "model" / ".eval_results" / f"marble-bench-marble-{task}.yaml")
        score = _scores(records[task])[metric]
        assert (entry.dataset_id, entry.task_id) == ("lab/music-benchmark", task)
        assert entry.value == pytest.approx(100 * score["test"], abs=5e-5)
        assert entry.source_url == "https://example.org/records"
        low, high = (f"{100 * bound:.1f}" for bound in score["ci95"])
        assert f"{metric} in percent" in entry.notes
        assert f"95 % interval {low} to {high}" in entry.notes
        assert "protocol marble version 1" in entry.notes


def test_further_metrics_have_tasks_of_their_own(tmp_path, bench):
    path = make(tmp_path / "results", "mfcc", task="emo", training_data=())
    ended = bench(
        *("results", "export", path, "--eval-yaml", tmp_path / "model", "--dataset", "lab/music"),
        *("--metric", "r2_valence", "--metric", "r2"),
    )
    assert ended.code == 0, ended.err
    entries = _read(tmp_path / "model" / ".eval_results" / "marble-bench-marble-emo.yaml")
    told = {entry.task_id: entry.value for entry in entries}
    scores = _scores(path)
    assert told == pytest.approx(
        {"emo": 100 * scores["r2"]["test"], "emo/r2_valence": 100 * scores["r2_valence"]["test"]}, abs=5e-5
    )
    assert all(entry.source_url is None for entry in entries)


def test_a_score_on_the_training_corpus_says_so(tmp_path, bench):
    path = make(tmp_path / "results", "one", training_data=("GTZAN (all)",))
    bench("results", "export", path, "--eval-yaml", tmp_path / "model", "--dataset", "lab/music")
    (entry,) = _read(tmp_path / "model" / ".eval_results" / "marble-bench-marble-gtzan.yaml")
    assert "trained on this corpus (GTZAN (all))" in entry.notes


def test_what_is_no_score_of_a_model_is_not_written(tmp_path, bench):
    full, mini = make(tmp_path / "results", "one"), make(tmp_path / "results", "one", mini=True)
    other = make(tmp_path / "results", "other", task="emo", seed=1)
    to = ("--eval-yaml", tmp_path / "model", "--dataset", "lab/music")
    for arguments, code, words in (
        ((full, mini, *to), 3, "not comparable, so it is not exported: made on the miniature corpus"),
        ((full, other, *to), 2, "a repository has one model"),
        ((full, full, *to), 2, "two records of gtzan"),
        ((full, *to, "--metric", "acuracy"), 2, "did you mean 'accuracy'?"),
        ((full, "--eval-yaml", tmp_path / "model"), 2, "--dataset OWNER/NAME"),
        ((full, "--eval-yaml", tmp_path / "model", "--dataset", "a b/c"), 2, "as OWNER/NAME"),
        ((full, *to, "--museval", tmp_path / "m"), 2, "one of --museval DIR and --eval-yaml DIR"),
        ((full, "--museval", tmp_path / "m", "--dataset", "a/b"), 2, "are of --eval-yaml"),
        ((full,), 2, "one of --museval DIR and --eval-yaml DIR"),
    ):
        ended = bench("results", "export", *arguments)
        assert (ended.code, ended.out) == (code, ""), ended.err
        assert words in ended.err
    forged = json.loads(full.read_text())
    forged["scores"]["accuracy"]["test"] = 0.99
    full.write_text(json.dumps(forged))
    ended = bench("results", "export", full, *to)
    assert ended.code == 3
    assert "bench results check" in ended.err
    assert not (tmp_path / "model").exists()


def test_an_invalid_record_is_not_exported_from_python_either(tmp_path):
    path = make(tmp_path / "results", "mfcc")
    record = json.loads(path.read_text())
    record["scores"]["accuracy"]["test"] = 0.99
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"gtzan.json: .*\(bench results check\)"):
        write_eval_results([path], tmp_path / "model", "lab/music")
    assert not (tmp_path / "model").exists()
