"""The whole of a run on the toy corpus: what is repeatable, what is refused, what is written."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from conftest import THREE_EPOCHS, TOY_MODEL, TOY_TASK, load_toy_module

from marble_bench.features import pipeline
from marble_bench.protocols.linear import PROTOCOL as LINEAR
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.records.schema import build_schema
from marble_bench.runs import run
from marble_bench.runs.kinds.kind import choose


@pytest.fixture
def corpus_dir(tmp_path):
    """The toy corpus, whole, in a folder of its own."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    load_toy_module().write(folder)
    return folder


@pytest.mark.slow
def test_a_run_writes_a_record_of_the_declared_form_with_grid_and_predictions(toy, tmp_path):
    ended = toy("--mini")
    assert ended.code == 0, ended.err
    record = ended.record
    jsonschema.validate(record, build_schema())
    assert record["data"]["clips"] == {"train": 24, "valid": 12, "test": 15}
    assert record["selection"]["probes"] == 3 * (3 + 1) * len(MARBLE.learning_rates)
    (path,) = (tmp_path / "results").glob("*/*/*/*.json")
    assert path.name == "toy-task.mini.json"
    assert json.loads(path.read_text()) == record
    score = record["scores"]["accuracy"]
    assert score["trivial"] == pytest.approx(1 / 3)
    assert 0.5 < score["test"] < 1
    assert score["ci95"][0] < score["test"] < score["ci95"][1]


@pytest.mark.slow
def test_scores_can_be_recomputed_from_the_predictions_beside_the_record(toy_record, tmp_path):
    record = json.loads(toy_record().read_text())
    (path,) = (tmp_path / "results").rglob("*.predictions.parquet")
    table = pd.read_parquet(path)
    right = table.outputs.map(np.argmax) == table.truth.str[0]
    for split, key in (("test", "per_seed"), ("valid", "valid")):
        by_seed = right[table.split == split].groupby(table.seed).mean()
        expected = record["scores"]["accuracy"][key]
        assert (by_seed.tolist() if key == "per_seed" else by_seed.mean()) == pytest.approx(expected)


@pytest.mark.slow
def test_the_chosen_probe_is_the_best_of_the_grid_on_validation(toy_record, tmp_path):
    record = json.loads(toy_record().read_text())
    (path,) = (tmp_path / "results").rglob("*.grid.parquet")
    grid = pd.read_parquet(path)
    assert len(grid) == record["selection"]["probes"]
    for choice in record["selection"]["per_seed"]:
        assert choice["valid"] == grid[grid.seed == choice["seed"]].valid.max()


@pytest.mark.slow
def test_the_same_run_twice_gives_the_same_bytes_of_scores_and_no_encoder_work(toy, toy_record, tmp_path, monkeypatch):
    first = json.loads(toy_record().read_text())

    def never(*_):
        raise AssertionError("the encoder was run again")

    monkeypatch.setattr(pipeline, "run", never)
    second = toy("--mini", "--results-dir", tmp_path / "other")
    assert second.code == 0, second.err
    scores = [json.dumps(record["scores"]) for record in (first, second.record)]
    assert scores[0] == scores[1]
    assert first["cost"]["cached"] is False
    assert second.record["cost"]["cached"] is True
    tables = [sorted((tmp_path / name).rglob("*.parquet")) for name in ("results", "other")]
    for one, other in zip(*tables, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_the_encoders_precision_is_in_the_record_and_has_features_of_its_own(toy, tmp_path):
    made = [
        toy("--mini", *THREE_EPOCHS, "--dtype", each, "--results-dir", tmp_path / each).record
        for each in ("float32", "bfloat16")
    ]
    assert [record["environment"]["dtype"] for record in made] == ["float32", "bfloat16"]
    assert [record["cost"]["cached"] for record in made] == [False, False]


@pytest.mark.slow
def test_an_edited_encoder_file_is_encoded_anew_and_is_another_record(bench, tmp_path):
    text = Path(TOY_MODEL.split(":")[0]).read_text()
    records = []
    for factor in ("bands", "bands * 0"):
        (tmp_path / "mine.py").write_text(text.replace("pool(bands)", f"pool({factor})"))
        ended = bench(
            "run", "--task", TOY_TASK, "--model", f"{tmp_path}/mine.py:TOY", "--mini", "--json", "--layers", "0"
        )
        records.append(ended.record)
    assert [record["cost"]["cached"] for record in records] == [False, False]
    assert records[0]["model"]["weights_sha256"] != records[1]["model"]["weights_sha256"]
    assert records[1]["scores"]["accuracy"]["test"] == pytest.approx(1 / 3)


def test_an_edited_miniature_is_made_anew(bench, tmp_path):
    text = Path(TOY_TASK).read_text()
    for loudness in ("0.3", "0.2"):
        (tmp_path / "own.py").write_text(text.replace("hum = 0.3", f"hum = {loudness}"))
        assert bench("check", tmp_path / "own.py", "--cache-dir", tmp_path / "c").code == 0
    assert len(list((tmp_path / "c/mini").iterdir())) == 2


@pytest.mark.slow
def test_a_rerun_that_agrees_leaves_the_record_alone(toy, toy_record):
    path = toy_record()
    before = path.stat().st_mtime_ns
    assert toy("--mini").code == 0
    assert path.stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_rerun_that_would_change_a_record_is_refused_with_the_difference(toy, toy_record):
    path = toy_record()
    record = json.loads(path.read_text())
    record["scores"]["accuracy"]["test"] = 0.123
    path.write_text(json.dumps(record))
    ended = toy("--mini")
    assert ended.code == 1
    assert "scores.accuracy.test: 0.123 ->" in ended.err
    assert json.loads(path.read_text())["scores"]["accuracy"]["test"] == 0.123
    assert toy("--mini", "--overwrite").code == 0
    assert json.loads(path.read_text())["scores"]["accuracy"]["test"] != 0.123


@pytest.mark.slow
def test_shuffled_test_labels_do_not_change_the_chosen_probe(toy, corpus_dir, tmp_path):
    honest = toy("--data-dir", corpus_dir).record
    source = tmp_path / "shuffled_task.py"
    text = Path(TOY_TASK).read_text().replace("REGISTERS[index % 3]", "REGISTERS[(index + (split == 'test')) % 3]")
    source.write_text(text)
    shuffled = toy("--data-dir", corpus_dir, "--task", source)
    records = [json.loads(line) for line in shuffled.out.splitlines()]
    assert records[0]["selection"] == records[1]["selection"] == honest["selection"]
    assert records[1]["scores"]["accuracy"]["test"] != records[0]["scores"]["accuracy"]["test"]


@pytest.mark.slow
def test_a_probe_chosen_alone_scores_as_in_the_grid(toy, toy_record):
    whole = json.loads(toy_record().read_text())
    for choice in whole["selection"]["per_seed"][:1]:
        alone = toy("--mini", "--layers", choice["layer"]).record
        same = alone["selection"]["per_seed"][choice["seed"]]
        assert same == choice
        assert alone["scores"]["accuracy"]["per_seed"][0] == whole["scores"]["accuracy"]["per_seed"][0]


@pytest.mark.slow
def test_a_full_run_is_comparable_and_what_is_less_says_why_not(toy, corpus_dir):
    full = toy("--data-dir", corpus_dir).record
    assert full["comparable"]
    assert full["why_not"] == []
    for arguments, reason in (
        (("--limit", 9), "limited to 9 clips a split"),
        (("--seeds", 1), "1 seeds"),
        (("--layers", "1-2"), "only layers 1-2"),
    ):
        less = toy("--data-dir", corpus_dir, *THREE_EPOCHS, *arguments).record
        assert not less["comparable"]
        assert reason in less["why_not"][0]


@pytest.mark.slow
def test_limit_takes_so_many_clips_of_each_split(toy):
    record = toy("--mini", "--limit", 10, *THREE_EPOCHS).record
    assert record["data"]["clips"] == {"train": 10, "valid": 10, "test": 10}


@pytest.mark.slow
def test_the_linear_protocol_is_a_record_of_its_own(toy, tmp_path):
    ended = toy("--mini", "--protocol", "linear")
    assert ended.code == 0, ended.err
    assert ended.record["selection"]["probes"] == 3 * len(LINEAR.penalties)
    score = ended.record["scores"]["accuracy"]
    assert score["test"] > score["trivial"]
    assert list((tmp_path / "results").glob("toy/*/linear/toy-task.mini.json"))


@pytest.mark.slow
def test_a_missing_clip_stops_the_run_by_name_unless_allowed(toy, corpus_dir):
    (corpus_dir / "hums/train03.wav").unlink()
    stopped = toy("--data-dir", corpus_dir)
    assert stopped.code == 3
    assert "1 of 51 clips of Hums are missing" in stopped.err
    assert "hums/train03.wav" in stopped.err
    assert "--allow-missing" in stopped.err
    allowed = toy("--data-dir", corpus_dir, "--allow-missing", *THREE_EPOCHS)
    assert allowed.code == 0
    assert allowed.record["data"]["missing"] == ["hums/train03.wav"]
    assert not allowed.record["comparable"]


@pytest.mark.slow
def test_damaged_clips_are_all_named_and_nothing_is_written(toy, corpus_dir, tmp_path):
    import soundfile

    whole = (corpus_dir / "hums/train01.wav").read_bytes()
    (corpus_dir / "hums/train01.wav").write_bytes(whole[: len(whole) // 2])
    soundfile.write(corpus_dir / "hums/valid02.wav", np.zeros(8000), 8000)
    soundfile.write(corpus_dir / "hums/test04.wav", np.random.default_rng(0).normal(size=16000) * 0.1, 16000)
    ended = toy("--data-dir", corpus_dir)
    assert ended.code == 3
    for name in ("train01", "valid02", "test04"):
        assert name in ended.err
    assert "3 of 51 clips cannot be used" in ended.err
    assert not list((tmp_path / "results").rglob("*.json"))
    allowed = toy("--data-dir", corpus_dir, "--allow-missing", *THREE_EPOCHS)
    assert allowed.code == 0
    assert len(allowed.record["data"]["missing"]) == 3


@pytest.mark.slow
def test_a_miniature_given_as_data_is_known_for_one(toy, bench, tmp_path):
    assert bench("check", TOY_TASK).code == 0  # which makes the miniature
    (folder,) = (tmp_path / "cache/mini").iterdir()
    record = toy("--data-dir", folder, *THREE_EPOCHS).record
    assert record["data"]["mini"]
    assert record["why_not"] == ["made on the miniature corpus"]


@pytest.mark.slow
def test_annotations_that_list_less_than_was_published_stop_the_run_unless_allowed(toy, corpus_dir, tmp_path):
    text = Path(TOY_TASK).read_text().replace("counts=PER_SPLIT", 'counts={**PER_SPLIT, "train": 30}')
    (tmp_path / "toy_task.py").write_text(text)
    stopped = toy("--data-dir", corpus_dir, "--task", tmp_path / "toy_task.py")
    assert "'train': 24" in stopped.err
    assert "'train': 30" in stopped.err
    allowed = toy("--data-dir", corpus_dir, "--task", tmp_path / "toy_task.py", "--allow-missing", *THREE_EPOCHS)
    assert json.loads(allowed.out.splitlines()[-1])["data"]["missing"] == []
    assert json.loads(allowed.out.splitlines()[-1])["data"]["absent"] == 6
    (tmp_path / "toy_task.py").write_text(text.replace('"train": 30', '"train": 3'))
    more = toy("--data-dir", corpus_dir, "--task", tmp_path / "toy_task.py", "--allow-missing")
    assert "not the published corpus" in more.err


@pytest.mark.slow
def test_a_known_fault_is_left_out_and_recorded(toy, corpus_dir, tmp_path):
    text = Path(TOY_TASK).read_text()
    text = text.replace(
        "sample_rate_hz=RATE_HZ,", 'sample_rate_hz=RATE_HZ,\n    faults=(Fault("hums/train05.wav", "cut"),),'
    )
    text = text.replace("Corpus, Schedule,", "Corpus, Fault, Schedule,")
    (tmp_path / "faulty.py").write_text(text)
    (corpus_dir / "hums/train05.wav").write_bytes(b"nothing of use")
    ended = toy("--data-dir", corpus_dir, "--task", tmp_path / "faulty.py", *THREE_EPOCHS)
    faulty = json.loads(ended.out.splitlines()[-1])
    assert faulty["data"]["faults"] == [{"clip": "train05", "why": "cut"}]
    assert faulty["data"]["clips"]["train"] == 23
    assert faulty["comparable"]


def test_a_results_folder_that_cannot_be_written_is_told_before_any_work(toy, tmp_path):
    (tmp_path / "file").write_text("")
    ended = toy("--mini", "--results-dir", tmp_path / "file")
    assert ended.code == 1
    assert "cannot be written" in ended.err
    assert not (tmp_path / "cache" / "features").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--task", "gtzann"), "did you mean 'gtzan'?"),
        (("--model", "mfc"), "did you mean 'mfcc'?"),
        (("--protocol", "marbel"), "did you mean 'marble'?"),
        (("--layers", "7"), "no layer '7'; layers are 0, 1, 2"),
        (("--layers", "2-1"), "no layer '2-1'"),
        (("--weights", "w.safetensors"), "weights"),
        (("--mini", "--data-dir", "."), "exclude each other"),
        (("--seeds", "0"), "seeds"),
        (("--limit", "-1"), "limit"),
    ],
)
def test_a_wrong_request_ends_with_exit_code_2_and_says_what_is_wrong(toy, arguments, words):
    base = () if "--mini" in arguments else ("--mini",)
    ended = toy(*base, *arguments)
    assert ended.code == 2
    assert words in ended.err
    assert "Traceback" not in ended.err


def test_wrong_layers_are_told_before_anything_is_encoded(toy, tmp_path):
    assert toy("--mini", "--layers", "9").code == 2
    assert not (tmp_path / "cache" / "features").exists()


def test_a_missing_data_folder_says_what_it_should_hold(toy, tmp_path):
    for folder in (tmp_path / "nowhere", tmp_path):
        ended = toy("--data-dir", folder)
        assert ended.code == 3
        assert str(folder) in ended.err
        assert "hums/<split><NN>.wav" in ended.err


def test_the_traceback_comes_with_debug_only(toy, tmp_path):
    from marble_bench.errors import DataError

    with pytest.raises(DataError):
        toy("--data-dir", tmp_path / "nowhere", "--debug")


def test_dry_run_says_what_would_be_done_and_does_nothing(toy, tmp_path):
    plan = toy("--mini", "--dry-run").record
    assert plan["clips"] == {"train": 24, "valid": 12, "test": 15}
    assert plan["probes"] == 72
    assert plan["layers"] == ["0", "1", "2", "sum"]
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "cache" / "features").exists()


def test_an_interrupted_run_says_that_what_is_finished_is_kept(toy, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupted)
    ended, fresh = toy("--mini"), toy("--mini", "--fresh-features")
    assert ended.code == fresh.code == 130
    assert ended.err.endswith("the same command continues from there\n")
    assert "--fresh-features would set what it made aside again: leave it out" in fresh.err


@pytest.mark.slow
def test_several_runs_go_on_after_one_fails_and_end_with_4(bench, tmp_path):
    (tmp_path / "short.py").write_text(Path(TOY_MODEL.split(":")[0]).read_text().replace("min_s=0.1", "min_s=3.0"))
    ended = bench(
        "run", "--task", TOY_TASK, "--model", f"{tmp_path}/short.py:TOY", "--model", TOY_MODEL, "--mini", "--json"
    )
    assert ended.code == 4
    assert "needs at least 3.000 s" in ended.err
    assert ended.record["model"]["name"] == "toy"


def test_equal_scores_go_to_the_first_of_the_grid():
    from marble_bench.probes.trainer import Probe, TrainedProbe

    grid = [
        TrainedProbe(Probe(layer, 0.1, 0.0, 0), valid, 0, (valid,), False, {})
        for layer, valid in ((0, 0.5), (1, 0.8), (2, 0.8))
    ]
    assert choose(grid, 1)[0].probe.layer == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run",), ("--model NAME (bench list models)", "--task NAME (bench list tasks)")),
        (("plan",), ("--model NAME (bench list models)", "--task NAME (bench list tasks)")),
        (("run", "--task", "none.py"), ("--model NAME (bench list models)",)),
        (
            ("run", "--task", TOY_TASK, "--model", "none.py:X"),
            ("no encoder file none.py: give the path of one as FILE.py:NAME, or a name (bench list models)",),
        ),
        (("check", "tests/mime.py:X"), ("no encoder file tests/mime.py; did you mean 'mine.py'?",)),
        (
            ("run", "--task", "none.py", "--model", "mfcc"),
            ("no task file none.py: give the path of one as FILE.py, or a name (bench list tasks)",),
        ),
        (
            ("reproduce", "none.json"),
            ("no record none.json: give the path of its .json (bench results check names all)",),
        ),
        (("compare", "none.json", "two"), ("no record none.json: give the path",)),
    ],
)
def test_what_is_not_there_is_told_with_the_next_step(bench, tmp_path, arguments, words):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/mine.py").touch()
    ended = bench(*arguments)
    assert ended.code in (2, 3)
    for each in words:
        assert each in ended.err


@pytest.mark.slow
def test_one_of_something_is_told_in_the_singular(bench, toy, tmp_path):
    assert toy("--mini", "--seeds", 1, "--layers", "0").code == 0
    assert "1 record, 0 invalid" in bench("results", "check").err
    (path,) = (tmp_path / "results").rglob("*.json")
    path.write_text(path.read_text()[:-9])
    assert "1 record, 1 invalid" in bench("results", "check").err
    assert "1 invalid record is left off" in bench("list", "results").err
    path.with_name("other.json").write_text("{}")
    assert "2 records, 2 invalid" in bench("results", "check").err
    assert "2 invalid records are left off" in bench("list", "results").err
