"""`bench features` and `bench plan`: made, listed, verified, pruned, exported, pushed, estimated."""

import json
import os
import re
import time
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pandas as pd
import pytest
from conftest import THREE_EPOCHS, TOY_MODEL, TOY_TASK, load_toy_module
from hub_server import HubServer

from marble_bench.errors import BenchError
from marble_bench.features import export, manage, store
from marble_bench.files.atomic import walk
from marble_bench.runs import plan

OF_TOY = ("--model", TOY_MODEL, "--task", TOY_TASK)
BYTES = 51 * 3 * 16 * 2  # clips, layers, width, half floats


@pytest.fixture
def made(bench, tmp_path):
    """The toy encoder's features of the toy miniature; the store's folder."""
    ended = bench("features", "extract", *OF_TOY, "--mini", "--json", "--device", "cpu")
    assert ended.code == 0, ended.err
    (folder,) = (tmp_path / "cache/features").iterdir()
    assert ended.record["stores"] == [str(folder)]
    return folder


def _shards(folder):
    return sorted(folder.glob("*.arrow"))


@pytest.mark.slow
def test_extracted_features_are_what_a_run_reads(bench, made):
    ended = bench("run", *OF_TOY, "--mini", "--json", "--device", "cpu", "--seeds", 1)
    assert ended.record["cost"]["cached"] is True
    again = bench("features", "extract", *OF_TOY, "--mini", "--json", "--device", "cpu")
    assert again.record["audio_s"] == 0
    assert again.record["clips"] == 51


def test_a_damaged_clip_is_told_and_ends_with_3_or_allowed_with_0(bench, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    load_toy_module().write(corpus)
    (corpus / "hums/train01.wav").write_bytes(b"RIFF nothing")
    call = ("features", "extract", *OF_TOY, "--data-dir", corpus, "--json", "--device", "cpu")
    stopped = bench(*call)
    assert stopped.code == 3
    assert "train01.wav is not a wav, RF64," in stopped.err
    allowed = bench(*call, "--allow-missing")
    assert allowed.code == 0
    assert allowed.record["left_out"] == ["hums/train01.wav"]
    assert allowed.record["clips"] == 50


@pytest.mark.slow
def test_ls_names_key_encoder_size_rows_and_last_use(bench, made):
    os.utime(made / "about.json", (0, 0))
    (row,) = bench("features", "ls", "--json").record
    assert (row["key"], row["encoder"], row["kind"], row["rows"], row["clips"]) == (made.name, "toy", "pooled", 51, 51)
    assert row["mb"] == round(sum(shard.stat().st_size for shard in _shards(made)) / 1e6, 3)
    assert row["last_use"].startswith(("1970", "1969"))
    store.Store(
        made.parent,
        {
            k: v
            for k, v in json.loads((made / "about.json").read_text()).items()
            if k not in ("format", "layers", "seal")
        },
        [],
    )
    assert bench("features", "ls", "--json").record[0]["last_use"].startswith(time.strftime("%Y"))
    assert made.name in bench("features", "ls").out
    assert bench("features", "ls", "--model", "other", "--json").record == []


def test_verify_reads_every_byte(bench, made):
    sound = bench("features", "verify", "--json")
    assert (sound.code, sound.record) == (0, {"valid": 2, "damaged": []})
    first, second = _shards(made)
    content = bytearray(first.read_bytes())
    place = content.rindex(np.float16(store_value(made)).tobytes())
    content[place] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:100])
    damaged = bench("features", "verify", "--json")
    assert damaged.code == 3
    problems = {each["path"]: each["problem"] for each in damaged.record["damaged"]}
    assert "its sha256 differs from the manifest's" in problems[str(first)]
    assert "its sha256 differs from the manifest's" in problems[str(second)]


def store_value(folder):
    """A number that stands in the first shard."""
    import pyarrow as pa

    return pa.ipc.open_file(str(_shards(folder)[0])).read_all()["layer:2"][7].as_py()[3]


@pytest.mark.slow
def test_prune_takes_what_is_damaged_and_the_next_run_mends_it(bench, made):
    before = {shard.name: shard.read_bytes() for shard in _shards(made)}
    _shards(made)[1].write_bytes(b"no arrow")
    assert bench("features", "extract", *OF_TOY, "--mini", "--device", "cpu").code == 3
    assert bench("features", "ls", "--json").record[0]["problem"]
    assert bench("features", "prune", "--damaged", "--yes").code == 0
    assert len(_shards(made)) == 1
    assert bench("features", "extract", *OF_TOY, "--mini", "--device", "cpu").code == 0
    assert {shard.name: shard.read_bytes() for shard in _shards(made)} == before


@pytest.mark.slow
def test_prune_by_encoder_and_by_use_and_never_unasked(bench, made):
    assert bench("features", "prune").code == 2
    unasked = bench("features", "prune", "--model", "toy")
    assert unasked.code == 2
    assert "--yes" in unasked.err
    assert bench("features", "prune", "--model", "toy", "--unused-days", 1, "--yes").err.startswith("nothing to remove")
    assert bench("features", "prune", "--model", "other", "--yes").err.startswith("nothing to remove")
    assert made.is_dir()
    os.utime(made / "about.json", (0, 0))
    assert bench("features", "prune", "--unused-days", 30, "--yes").code == 0
    assert not made.exists()


def test_a_store_of_another_format_is_listed_and_pruned_as_damaged(bench, made):
    about = json.loads((made / "about.json").read_text())
    about = {key: value for key, value in about.items() if key != "seal"} | {"format": "marble-bench.features/1"}
    (made / "about.json").write_text(json.dumps(about))
    assert "this version reads" in bench("features", "ls", "--json").record[0]["problem"]
    assert bench("features", "prune", "--damaged", "--yes").code == 0
    assert manage.list_stores(made.parent.parent) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out.parquet", "folder"])
def test_exported_features_give_the_scores_of_the_encoder(bench, made, tmp_path, name):
    exported = bench("features", "export", tmp_path / name, *OF_TOY, "--mini", "--device", "cpu")
    assert exported.code == 0, exported.err
    own = bench(
        "run", "--task", TOY_TASK, "--features", tmp_path / name, "--json", "--device", "cpu", "--mini", "--seeds", 1
    )
    run = bench("run", *OF_TOY, "--mini", "--json", "--device", "cpu", "--seeds", 1)
    assert own.code == 0, own.err
    assert own.record["scores"] == run.record["scores"]
    assert own.record["selection"]["per_seed"] == run.record["selection"]["per_seed"]


@pytest.mark.slow
def test_a_dataset_folder_is_one_for_the_datasets_library(bench, made, tmp_path):
    bench("features", "export", tmp_path / "hub", *OF_TOY, "--mini", "--device", "cpu")
    card = (tmp_path / "hub/README.md").read_text()
    assert card.startswith("---\nconfigs:")
    assert "| encoder's licence | CC0-1.0 |" in card
    assert "path: data/valid.parquet" in card
    import datasets

    loaded = datasets.load_dataset(str(tmp_path / "hub"), cache_dir=str(tmp_path / "hf"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 24, "validation": 12, "test": 15}
    assert len(loaded["test"][0]["2"]) == 16


def test_layers_of_several_widths_are_exported_and_read_back(tmp_path):
    from marble_bench.core.task import Clip
    from marble_bench.features.external import read_brought, stack_tracks

    kept = store.Store(tmp_path, {"encoder": "wide"}, [("a", 3), ("b", 5)])
    random = np.random.default_rng(0)
    clips = [Clip(f"c{index}", "train", f"{index}.wav", "x") for index in range(600)]
    spans = [store.Span(str(index), "0:") for index in range(600)]
    for index, span in enumerate(spans):
        kept.add(span, [random.normal(size=(1 + index % 3, width)) for width in (3, 5)])
    kept.flush()
    rows = export.to_parquet(kept, clips, spans, tmp_path / "wide.parquet")
    assert rows == 1200
    names = [clip.id for clip in clips]
    found = read_brought(tmp_path / "wide.parquet", names)
    assert found.names == ("a", "b")
    features = stack_tracks(found.tracks, found.names, names)
    for index in (0, 1):
        assert np.array_equal(features.layers[index], kept.read(index, spans).astype(np.float32))
    assert pd.read_parquet(tmp_path / "wide.parquet").window.max() == 2


@pytest.mark.slow
def test_push_puts_the_dataset_where_fsspec_can(bench, made, tmp_path):
    place = tmp_path / "server"
    pushed = bench("features", "push", f"file://{place}", *OF_TOY, "--mini", "--device", "cpu")
    assert pushed.code == 0, pushed.err
    assert sorted(path.name for path in place.rglob("*.*")) == [
        "README.md",
        "test.parquet",
        "train.parquet",
        "valid.parquet",
    ]
    ended = bench("run", "--task", TOY_TASK, "--features", place, "--json", "--mini", "--device", "cpu", "--seeds", 1)
    assert ended.code == 0, ended.err
    refused = bench("features", "push", "nowhere", *OF_TOY, "--mini", "--device", "cpu")
    assert refused.code == 2
    unknown = bench("features", "push", "nosuch://bucket/x", *OF_TOY, "--mini", "--device", "cpu")
    assert unknown.code == 1
    assert "cannot be pushed to nosuch://bucket/x" in unknown.err


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>':DeprecationWarning"
)  # of the hub's client, to its own transport
def test_push_to_the_hub_makes_a_dataset_that_comes_back_whole(bench, made, tmp_path, monkeypatch):
    of = (*OF_TOY, "--mini", "--device", "cpu")
    assert bench("features", "export", "here", *of).code == 0
    with HubServer() as hub:
        hub.writers = {"secret"}
        hub.use(monkeypatch, tmp_path / "home", "secret")
        pushed = bench("features", "push", "hf:me/toy-features", *of)
        assert pushed.code == 0, pushed.err
        there = hub.commits["datasets/me/toy-features", hub.heads["datasets/me/toy-features"]]
        here = {path.relative_to(tmp_path / "here").as_posix(): path.read_bytes() for path in walk(tmp_path / "here")}
        assert there == here
        assert len(hub.uploaded) == 3  # the tables are large, the card is not
        assert (
            pushed.out.strip() == f"{hub.url}/datasets/me/toy-features/commit/{hub.heads['datasets/me/toy-features']}"
        )
        assert "LFS files" in pushed.err  # the bar of the hub's client
        again = bench("features", "push", "hf:me/toy-features", *of, "--quiet")  # the repository is there already
        assert (again.code, again.err) == (0, "")
        back = huggingface_hub.snapshot_download("me/toy-features", repo_type="dataset")
        loaded = datasets.load_dataset(back, cache_dir=str(tmp_path / "loaded"))
        files = {"train": "train", "validation": "valid", "test": "test"}
        assert loaded.keys() == files.keys()
        for split, name in files.items():
            table = pd.read_parquet(tmp_path / "here" / "data" / f"{name}.parquet")
            assert loaded[split]["track"] == list(table.track)
            assert np.array_equal(loaded[split].with_format("numpy")["0"], np.stack(list(table["0"])))
    run = ("run", "--task", TOY_TASK, "--json", "--mini", "--device", "cpu", "--seeds", 1, *THREE_EPOCHS)
    scores = [bench(*run, "--features", place).record["scores"]["accuracy"]["test"] for place in ("here", back)]
    assert scores[0] == scores[1]


def test_push_without_a_token_that_may_write_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("# Features")
    for token in ("", "reader"):
        with HubServer() as hub:
            hub.writers = {"secret"}
            hub.use(monkeypatch, tmp_path / "home", token)
            with pytest.raises(BenchError, match=r"cannot be pushed to hf:me/mine[\s\S]*hf auth login"):
                export.push(tmp_path, "hf:me/mine", print)
            assert hub.commits == {}


@pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")
def test_a_large_file_that_the_hub_refuses_is_no_fault_of_ours(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.parquet").write_bytes(bytes(2000))
    with HubServer() as hub:
        hub.writers = {"secret"}
        hub.use(monkeypatch, tmp_path / "home", "secret")
        hub._keep = lambda request, *_: hub._send(request, 403, {}, b"")
        with pytest.raises(BenchError, match=r"cannot be pushed to hf:me/mine: .*data/train.parquet[\s\S]*403"):
            export.push(tmp_path, "hf:me/mine", print)
        assert set(hub.heads) == {"datasets/me/mine"}
        assert not hub.commits["datasets/me/mine", hub.heads["datasets/me/mine"]]


def test_plan_says_hours_gigabytes_and_time_before_anything_is_made(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MEASURE_S", 0.05)
    planned = bench("plan", *OF_TOY, "--mini", "--json", "--device", "cpu")
    assert planned.code == 0, planned.err
    total, (row,) = planned.record["total"], planned.record["each"]
    assert row["audio_h"] == round(51 / 3600, 3)
    assert row["features_gb"] == round(BYTES / 1e9, 4)
    assert row["rate"] > 1
    assert row["rate_from"].startswith("noise through the encoder")
    assert row["hours"] == pytest.approx(51 / 3600 / row["rate"], abs=1e-6)
    assert total["passes"] == 1
    assert not (tmp_path / "cache/features").exists()
    assert (row["stored_h"], total["stored_h"]) == (0, 0)
    assert re.search(r"and \d+ files read \([\d,]+ s/s in", row["rate_from"])
    assert (row["probe_bound"], row["probe_hours_from"]) == ("at most", "a first block trained on noise")
    assert row["probe_hours"] > 0
    printed = bench("plan", *OF_TOY, "--mini", "--device", "cpu")
    assert "0.0 of 0.014 hours are stored; 1 pass over 0.014 h of audio on cpu" in printed.out
    assert not printed.err  # no store, so no file is read for its digest


@pytest.mark.parametrize("apart", [("--limit", 4), ("--layers", "0"), ("--seeds", 1)])
def test_plan_takes_no_probe_time_of_a_run_with_other_probes(bench, apart):
    assert bench("run", *OF_TOY, "--mini", "--device", "cpu", *apart).code == 0
    (row,) = bench("plan", *OF_TOY, "--mini", "--json", "--device", "cpu").record["each"]
    assert row["probe_hours_from"] == "a first block trained on noise"
    assert row["rate_from"] == "1 record in results"  # the pace of the encoder is the same


@pytest.mark.slow
def test_plan_takes_the_pace_of_earlier_records_and_counts_a_shared_pass_once(bench, tmp_path):
    record = bench("run", *OF_TOY, "--mini", "--json", "--device", "cpu").record
    other = tmp_path / "twin_task.py"
    other.write_text(Path(TOY_TASK).read_text())
    call = ("plan", *OF_TOY, "--task", other, "--mini", "--json", "--device", "cpu")
    planned = bench(*call, "--ignore-stored").record
    assert planned["each"][0]["rate_from"] == "1 record in results"
    assert planned["each"][0]["rate"] == round(record["cost"]["real_time_factor"], 1)
    assert planned["each"][0]["probe_hours"] == round(record["cost"]["probe_s"] / 3600, 4)
    assert planned["total"]["passes"] == 1
    assert [each["passes"] for each in planned["each"]] == [1, 0]
    assert planned["each"][0]["stored_h"] is None
    stored = bench(*call).record
    assert [each["passes"] for each in stored["each"]] == [0, 0]
    assert (stored["total"]["passes"], stored["total"]["hours"], stored["total"]["features_gb"]) == (0, 0, 0)


@pytest.mark.slow
def test_plan_takes_off_what_is_stored_and_nothing_else(bench, tmp_path, monkeypatch):
    """20 of 51 seconds are made by way of --limit; a changed file and another precision are not those stored."""
    monkeypatch.setattr(plan, "MEASURE_S", 0.05)
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    load_toy_module().write(corpus)
    of = (*OF_TOY, "--data-dir", corpus, "--device", "cpu")
    assert bench("features", "extract", *of, "--limit", 7).code == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    printed = bench("plan", *of)
    assert "reading 51 files of toy-task to see which are stored" in printed.err
    assert "0.006 of 0.014 hours are stored; 1 pass over" in printed.out
    (row,) = bench("plan", *of, "--json").record["each"]
    assert row["stored_h"] == round(21 / 3600, 3)
    assert row["features_gb"] == round(30 * 3 * 16 * 2 / 1e9, 4)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    for path in (corpus / "hums").iterdir():
        path.write_bytes((corpus / "hums/test00.wav").read_bytes()[:-2] + b"\x01\x02")
    assert bench("plan", *of, "--json").record["each"][0]["stored_h"] == 0
    assert bench("plan", *of, "--dtype", "bfloat16", "--json").record["each"][0]["stored_h"] == 0


@pytest.mark.slow
def test_plan_counts_frames_that_every_layer_has(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MEASURE_S", 0.05)
    of = ("--model", TOY_MODEL, "--task", "gtzan-rhythm", "--mini", "--device", "cpu")
    assert bench("features", "extract", *of, "--layers", "1").code == 0
    (one,) = bench("plan", *of, "--layers", "1", "--json").record["each"]
    assert one["stored_h"] == one["audio_h"] > 0
    assert bench("plan", *of, "--json").record["each"][0]["stored_h"] == 0


@pytest.mark.slow
def test_plan_counts_the_probes_of_a_protocol(bench, monkeypatch):
    monkeypatch.setattr(plan, "MEASURE_S", 0.05)
    for protocol, probes in (("marble", 3 * 6 * 4), ("linear", 3 * 7), ("jukemir", 3 * 216)):
        planned = bench("plan", *OF_TOY, "--mini", "--device", "cpu", "--json", "--protocol", protocol).record
        assert planned["total"]["probes"] == probes
    assert "did you mean 'linear'" in bench("plan", *OF_TOY, "--mini", "--protocol", "linaer").err


def test_frames_are_not_exported_and_the_reason_is_told(bench, tmp_path):
    ended = bench(
        "features", "export", "x", "--model", TOY_MODEL, "--task", "gtzan-rhythm", "--mini", "--device", "cpu"
    )
    assert ended.code == 2
    assert "one vector for each window, which is all that --features can bring" in ended.err
    assert not (tmp_path / "cache/features").exists()


@pytest.mark.parametrize("option", ["--weights", "--data-dir", "--cache-dir"])
@pytest.mark.parametrize("command", [("run",), ("plan",), ("features", "extract"), ("features", "export", "x")])
def test_an_empty_path_is_not_the_current_folder(bench, tmp_path, command, option):
    ended = bench(*command, *OF_TOY, option, "")
    assert ended.code == 2
    assert "the path is empty" in ended.err
    assert not list(tmp_path.iterdir())


def test_wrong_requests_say_what_is_wrong(bench):
    for arguments, words in (
        (("features", "extract", "--task", TOY_TASK), "--model NAME"),
        (("features", "extract", "--model", TOY_MODEL), "--task NAME"),
        (
            ("features", "export", "x", "--model", TOY_MODEL, "--task", TOY_TASK, "--task", "gtzan"),
            "2 pairs of model and task were given",
        ),
        (("plan", "--model", TOY_MODEL, "--task", TOY_TASK, "--mini", "--data-dir", "."), "exclude each other"),
    ):
        ended = bench(*arguments)
        assert ended.code == 2
        assert words in ended.err
