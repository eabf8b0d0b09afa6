"""Covers without probes: miniatures that a rule of melody solves, the layer's choice, the record, and what is refused."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest
from conftest import TOY_MODEL

from marble_bench import audio
from marble_bench.core import plugins
from marble_bench.data import corpus
from marble_bench.errors import DataError
from marble_bench.metrics import _ranking
from marble_bench.records import claims, corpus_facts, ranking_facts, results

RUN = ("run", "--model", "mfcc", "--device", "cpu", "--json")


def contour(path: Path, rate_hz: int = 16000) -> np.ndarray:
    """A recording's melody by rule: how often each pair of successive steps occurs, in semitones without octaves.

    Key, tempo, timbre and the order of phrases leave it as it is.
    """
    wave = audio.read(path, sample_rate_hz=rate_hz).astype(np.float64)
    hop, size, fft = 480, 2048, 4096
    frames = np.lib.stride_tricks.sliding_window_view(wave, size)[::hop] * np.hanning(size)
    power = np.abs(np.fft.rfft(frames, fft)) ** 2
    hz = np.arange(power.shape[1]) * rate_hz / fft
    notes = np.arange(50, 84)
    bins = [[np.abs(hz - k * 440 * 2 ** ((note - 69) / 12)).argmin() for k in (1, 2, 3, 4)] for note in notes]
    strength = power[:, np.array(bins)] ** 0.5
    found = notes[(strength * [1, 0.8, 0.6, 0.4]).sum(axis=2).argmax(axis=1)] % 12
    loud = power.sum(axis=1)
    heard = found[loud > 0.02 * loud.max()]
    steady = [int(note) for before, note in pairwise(heard) if note == before]
    melody = [note for before, note in pairwise([None, *steady]) if note != before]
    steps = np.diff(melody) % 12
    counts = np.zeros((12, 12))
    np.add.at(counts, (steps[:-1], steps[1:]), 1)
    return np.sqrt(counts).ravel()


def score(vectors, clips):
    """Mean average precision of vectors by clip."""
    ranked = _ranking.rank(vectors, [clip.id for clip in clips], [clip.target for clip in clips])
    return float(np.nanmean(ranked.rows()[:, 0]))


@pytest.fixture(scope="module")
def solved(miniatures):
    """`solved(task)`: the test clips of a miniature, and their contours."""

    def call(name):
        named = plugins.find_task(name)
        found = corpus.find_on_disk(named, corpus.ensure_mini(named.task.corpus, miniatures))
        test = [(clip, path) for clip, path in zip(found.clips, found.paths, strict=True) if clip.split == "test"]
        return [clip for clip, _ in test], np.stack([contour(path) for _, path in test])

    return call


TASKS = ["covers80", "shs100k"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_contour_of_the_melody_solves_the_miniature_and_shuffled_it_is_chance(solved, name):
    clips, vectors = solved(name)
    chance = float(_ranking.measure_chance_of([clip.target for clip in clips])[:, 0].mean())
    found = score(vectors, clips)
    assert found >= chance + 0.9 * (1 - chance)
    random = np.random.default_rng(0)
    shuffled = [score(vectors[random.permutation(len(vectors))], clips) for _ in range(20)]
    assert np.mean(shuffled) == pytest.approx(chance, abs=0.03)


@pytest.fixture(scope="module")
def record_of(tmp_path_factory, miniatures):
    """`record_of(task, model)`: the path of a record on a miniature, made once; to be copied only."""
    made = {}

    def call(name, model):
        if (name, model) not in made:
            from marble_bench import api

            folder = tmp_path_factory.mktemp(name)
            (folder / "cache").mkdir()
            (folder / "cache" / "mini").symlink_to(miniatures / "mini")
            api.run(
                model, task=name, mini=True, device="cpu", results_dir=folder / "results", cache_dir=folder / "cache"
            )
            (made[name, model],) = (folder / "results").rglob("*.mini.json")
        return made[name, model]

    return call


@pytest.fixture
def copied(record_of, tmp_path):
    """`copied(task)`: the path of a record in a copy of its results folder; of the toy encoder, which takes no time."""

    def call(name, model=TOY_MODEL):
        path = record_of(name, model)
        shutil.copytree(path.parents[3], tmp_path / "results", dirs_exist_ok=True)
        return tmp_path / "results" / path.relative_to(path.parents[3])

    return call


def test_a_half_chooses_the_layer_for_the_other_and_the_record_has_no_probes(copied):
    path = copied("covers80")
    facts = json.loads(path.read_text())
    grid = pd.read_parquet(path.with_name("covers80.mini.grid.parquet"))
    rows = pd.read_parquet(path.with_name("covers80.mini.predictions.parquet"))
    assert facts["protocol"]["name"] == "retrieval"
    assert facts["selection"]["probes"] == 0
    assert [set(each) for each in facts["selection"]["per_seed"]] == [{"seed", "layer", "half", "valid"}] * 2
    assert facts["retrieval"]["queries"] == len(rows) == 48
    assert facts["scores"]["map"]["valid"] is None
    half_of = _ranking.deal_halves(list(rows["group"]))
    for choice in facts["selection"]["per_seed"]:
        own = grid[grid["half"] == choice["half"]]
        assert own["valid"].max() == choice["valid"] == float(own[own["layer"] == choice["layer"]]["valid"].iloc[0])
    average = np.stack(rows["outputs"])[:, 0]
    assert facts["scores"]["map"]["test"] == pytest.approx(average.mean(), abs=1e-12)
    assert facts["scores"]["map"]["trivial"] == pytest.approx(_ranking.measure_chance(47, 1)[0])
    assert sorted(half_of.values()).count("a") == 12


def test_check_makes_scores_again_from_ranks_and_sees_what_was_forged(bench, copied):
    path = copied("covers80")
    assert bench("results", "check", path).code == 0
    predictions, grid = (path.with_name(f"covers80.mini.{kind}.parquet") for kind in ("predictions", "grid"))
    whole, layers = pd.read_parquet(predictions), pd.read_parquet(grid)

    def check(rows, table, change):
        rows, table = rows.copy(), table.copy()
        change(rows, table)
        rows.to_parquet(predictions, index=False)
        table.to_parquet(grid, index=False)
        return bench("results", "check", path).out

    def put(rows, at, column, value):
        values = list(rows[column])
        values[at] = np.asarray(value)
        rows[column] = values

    def lift_rank(rows, table):
        put(rows, 3, "ranks", [1])

    def lift_row(rows, table):
        put(rows, 3, "outputs", [1, 1, 0.1, 1, 1, *rows["outputs"][3][5:]])

    def lift_layer(rows, table):
        table.loc[0, "valid"] += 0.5

    def take_items(rows, table):
        put(rows, 3, "ranks", [4, 4])

    assert "items have ranks or scores that no order gives" in check(whole, layers, lift_rank)
    assert "map: " in check(whole, layers, lift_row)
    assert "chose layer" in check(whole, layers, lift_layer)
    assert "items have ranks or scores that no order gives" in check(whole, layers, take_items)
    # rows that agree with ranks are still held against the table of layers
    better = whole.copy()
    for at in range(len(better)):
        put(better, at, "ranks", [1])
        put(better, at, "outputs", [*_ranking.measure([1]), *better["outputs"][at][5:]])
    record = results.read(path).record
    found = list(ranking_facts.check_ranks(record, better, layers))
    assert all("has another score on half" in words for _, words in found)
    assert len(found) == 2
    assert not list(ranking_facts.check_ranks(record, whole, layers))


def test_what_stands_beside_the_scores_of_a_ranking_is_held_against_them_too(copied):
    path = copied("covers80")
    record = results.read(path).record
    rows, layers = (
        pd.read_parquet(path.with_name(f"covers80.mini.{kind}.parquet")) for kind in ("predictions", "grid")
    )

    def ask(record=record, rows=rows, layers=layers):
        asked = (ranking_facts.check_ranks(record, rows, layers), ranking_facts.check_layers(record, layers))
        return " ".join(words for each in asked for _, words in each)

    assert ask() == ""
    other = next(name for name in layers["layer"] if name not in {each.layer for each in record.selection.per_seed})
    assert "the table of layers has" in ask(layers=layers[layers["layer"] != other])
    assert f"layer {other} has 1 by itself" in ask(layers=layers.assign(own=1.0))
    cosines = [np.full(len(each), at / 100) for at, each in enumerate(rows["cosines"])]
    assert "two items of a work have another cosine with each other" in ask(rows=rows.assign(cosines=cosines))
    unknown = [np.full(len(each), np.nan) for each in rows["cosines"]]
    assert "that no order gives" in ask(rows=rows.assign(cosines=unknown))
    assert "have another number than their work" in ask(rows=rows.assign(truth=[np.ones(1)] * len(rows)))
    lower = msgspec.structs.replace(record.scores["map"], trivial=0.01)
    assert "and trivial is 0.01" in ask(msgspec.structs.replace(record, scores={**record.scores, "map": lower}))
    by_valid = msgspec.structs.replace(record.selection, split="valid")
    found = claims.find_disagreements(msgspec.structs.replace(record, selection=by_valid))
    assert "and the task has it chosen by halves" in str(list(found))


def test_what_is_left_out_as_a_copy_is_looked_for_in_the_corpus(copied, miniatures):
    record = results.read(copied("covers80")).record
    named = plugins.find_task("covers80")
    root = corpus.ensure_mini(named.task.corpus, miniatures)
    found = corpus.find_on_disk(named, root)
    clips = list(found.clips)
    files = {clip.id: path for clip, path in zip(clips, found.paths, strict=True)}
    here = corpus_facts.AtHand(named, root, clips, files)

    def ask(*copies):
        claimed = msgspec.structs.replace(record.retrieval, copies=copies)
        return str(list(corpus_facts._check_copies(msgspec.structs.replace(record, retrieval=claimed), here)))

    assert ask() == "[]"
    assert "is no item of the task" in ask("nobody")
    assert "no other item of its work is that file here" in ask(clips[0].id)
    here.digests[clips[0].id], here.digests[clips[1].id] = "same", "same"
    assert ask(max(clips[0].id, clips[1].id)) == "[]"


def test_a_record_of_probes_and_one_of_ranks_cannot_pass_for_each_other(copied):
    from msgspec import UNSET, structs

    record = results.read(copied("covers80")).record
    assert not list(claims.find_disagreements(record))
    bare = structs.replace(record, retrieval=UNSET)
    assert any("chose among no probes" in words for _, words in claims.find_disagreements(bare))
    trained = structs.replace(record, selection=structs.replace(record.selection, probes=6))
    assert any("a ranking trains none" in words for _, words in claims.find_disagreements(trained))


def test_the_board_of_the_protocol_has_it_and_the_other_names_the_option(bench, copied):
    folder = copied("covers80").parents[3]
    shown = bench("leaderboard", "--results-dir", folder, "--mini", "--protocol", "retrieval", "--json")
    assert shown.code == 0, shown.err
    cells = {cell["metric"]: cell for cell in json.loads(shown.out) if cell["model"] == "toy"}
    assert set(cells) == {"map", "mr1", "p_at_10", "hit_at_1", "r_precision", "map_centred", "map_whitened"}
    text = bench("leaderboard", "--results-dir", folder, "--mini", "--protocol", "retrieval").out
    assert "MAP %" in text
    assert "MR1" in text
    other = bench("leaderboard", "--results-dir", folder, "--mini")
    assert "there are records of protocol retrieval: give --protocol" in other.out + other.err


@pytest.mark.slow
def test_a_run_again_finds_the_same_and_reproduces(bench, copied, miniatures, tmp_path):
    path = copied("covers80", "mfcc")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mini").symlink_to(miniatures / "mini")
    again = bench("reproduce", path)
    assert again.code == 0, again.out + again.err
    same = bench(*RUN, "--task", "covers80", "--mini")
    assert same.code == 0, same.err
    limited = bench(*RUN, "--task", "covers80", "--mini", "--limit", 20)
    assert limited.record["data"]["clips"] == {"train": 0, "valid": 0, "test": 20}
    assert limited.record["retrieval"]["left_out"] == 0
    assert bench("results", "check", tmp_path / "results").code == 0
    few = bench(*RUN, "--task", "covers80", "--mini", "--limit", 2)
    assert few.code != 0
    assert "a higher --limit" in few.err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            ("--task", "gtzan", "--protocol", "retrieval"),
            "task 'gtzan' is answered by probes, and protocol 'retrieval' trains",
        ),
        (
            ("--task", "covers80", "--protocol", "marble"),
            "task 'covers80' ranks items without probes, and protocol 'marble'",
        ),
        (("--task", "covers80", "--few-shot"), "--few-shot is of probes, and task 'covers80' trains none"),
        (("--task", "covers80", "--control", "shuffle"), "--control is of probes"),
        (("--task", "covers80", "--seeds", 3), "--seeds 3 is of probes"),
        (("--task", "covers80", "--perturb", "all"), "--perturb compares changed clips by probes"),
        (("--task", "covers80", "--head", "linear"), "protocol 'retrieval' trains no probe: leave --head out"),
        (("--task", "covers80", "--layers", "sum"), "protocol 'retrieval' reads single layers"),
        (("--task", "covers80", "--layers", "concat"), "--layers concat: protocol 'retrieval' reads single layers"),
    ],
)
def test_what_only_probes_can_be_asked_is_refused_by_name(bench, more, words):
    ended = bench(*RUN, "--mini", "--dry-run", *more)
    assert ended.code == 2
    assert words in ended.err


def test_lists_are_read_strictly(tmp_path):
    covers = __import__("marble_bench.tasks.corpora.covers80", fromlist=["clips"])
    folder = tmp_path / "covers32k"
    folder.mkdir()
    with pytest.raises(DataError, match=r"has no list1\.list or list1\.txt"):
        list(covers.clips(tmp_path))
    (folder / "list1.list").write_text("A/one\nB/one\n")
    (folder / "list2.list").write_text("A/two\nC/two\n")
    with pytest.raises(DataError, match=r"list2.list line 2: is of song 'C', and list1.list has 'B' there"):
        list(covers.clips(tmp_path))
    (folder / "list2.list").write_text("A/two.mp3\n")
    with pytest.raises(DataError, match=r"has 2 lines and .* has 1"):
        list(covers.clips(tmp_path))
    (folder / "list2.list").write_text("A/two.mp3\nB/../two\n")
    with pytest.raises(DataError, match=r"line 2: is 'B/../two'; give <song>/<file>"):
        list(covers.clips(tmp_path))
    (folder / "list2.list").write_text("A/two.mp3\nB/two\n")
    clips = list(covers.clips(tmp_path))
    assert [(clip.id, clip.audio, clip.target, clip.group) for clip in clips[:2]] == [
        ("A/one", "covers32k/A/one.mp3", "A", "A"),
        ("A/two", "covers32k/A/two.mp3", "A", "A"),
    ]


@pytest.mark.slow
def test_copies_of_a_file_are_left_out_and_named(bench, miniatures, tmp_path):
    named = plugins.find_task("covers80")
    source = corpus.ensure_mini(named.task.corpus, miniatures)
    root = tmp_path / "covers"
    shutil.copytree(source, root)
    (root / corpus.MARKER).unlink()
    first, second = (corpus_list.read_text().split() for corpus_list in sorted((root / "covers32k").glob("*.list")))
    shutil.copy(root / "covers32k" / f"{first[0]}.mp3", root / "covers32k" / f"{second[0]}.mp3")
    ended = bench(*RUN, "--task", "covers80", "--data-dir", root, "--allow-missing")
    assert ended.code == 0, ended.err
    record = ended.record
    assert record["retrieval"]["copies"] == [second[0]]
    assert record["retrieval"]["left_out"] == 1
    assert record["data"]["clips"]["test"] == 47
    assert any(mark.startswith("1 item left out, the same file as another item") for mark in record["data"]["marks"])
    assert bench("results", "check", tmp_path / "results", "--data-dir", root).code == 0


@pytest.mark.slow
def test_the_valid_split_chooses_the_layer_where_there_is_one(copied):
    path = copied("shs100k")
    facts = json.loads(path.read_text())
    grid = pd.read_parquet(path.with_name("shs100k.mini.grid.parquet"))
    rows = pd.read_parquet(path.with_name("shs100k.mini.predictions.parquet"))
    (choice,) = facts["selection"]["per_seed"]
    assert set(choice) == {"seed", "layer", "valid"}
    assert facts["selection"]["split"] == "valid"
    assert grid["valid"].max() == choice["valid"] == pytest.approx(facts["scores"]["map"]["valid"])
    assert set(rows["split"]) == {"valid", "test"}
    test = rows[rows["split"] == "test"]
    assert facts["scores"]["map"]["test"] == pytest.approx(np.stack(test["outputs"])[:, 0].mean())
    own = dict(zip(grid["layer"], grid["own"], strict=True))
    assert own[choice["layer"]] == pytest.approx(facts["scores"]["map"]["test"])
    assert facts["scores"]["map"]["trivial"] == pytest.approx(_ranking.measure_chance(95, 3)[0])
    assert facts["retrieval"]["items"] == ranking_facts.digest_items(list(test["clip"]), list(test["group"]))


@pytest.fixture
def own_copy(miniatures, tmp_path):
    """A folder of SHS100K as two laboratories have it: the lists and some audio, no miniature."""
    root = tmp_path / "shs100k"
    shutil.copytree(corpus.ensure_mini(plugins.find_task("shs100k").task.corpus, miniatures), root)
    (root / corpus.MARKER).unlink()
    return root


@pytest.mark.slow
def test_what_has_no_audio_is_not_missed_and_other_lists_are_not_compared(bench, own_copy, tmp_path):
    first = bench(*RUN, "--task", "shs100k", "--data-dir", own_copy)
    assert first.code == 0, first.err
    assert first.record["comparable"]
    assert first.record["data"]["clips"] == {"train": 0, "valid": 48, "test": 96}
    assert bench("results", "check", tmp_path / "results", "--data-dir", own_copy).code == 0
    assert bench("results", "check", tmp_path / "results").code == 0
    (own_copy / "audio" / "3_1.wav").unlink()
    __import__("marble_bench.tasks.corpora.shs100k", fromlist=["clips"])._list_audio.cache_clear()
    run = [each if each != "mfcc" else TOY_MODEL for each in RUN]
    other = bench(*run, "--task", "shs100k", "--data-dir", own_copy)
    assert other.code == 0, other.err
    assert other.record["data"]["clips"]["test"] == 95
    assert other.record["retrieval"]["items"] != first.record["retrieval"]["items"]
    compared = bench("compare", "mfcc", "toy", "--protocol", "retrieval")
    assert compared.code != 0
    assert "different lists of items" in compared.err
    board = json.loads(bench("leaderboard", "--protocol", "retrieval", "--json").out)
    ranked = {cell["model"] for cell in board if cell["metric"] == "map" and cell.get("rank")}
    assert len(ranked) == 1


def test_the_lists_of_pairs_and_videos_are_read_strictly(tmp_path):
    shs = __import__("marble_bench.tasks.corpora.shs100k", fromlist=["clips"])
    with pytest.raises(DataError, match="has no SHS100K-VAL: get the lists"):
        list(shs.clips(tmp_path))
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta" / "SHS100K-VAL").write_text("7\t0\n7\t1\n")
    (tmp_path / "meta" / "SHS100K-TEST").write_text("9\t0\n9\tone\n")
    with pytest.raises(DataError, match=r"SHS100K-TEST line 2: is '9\\tone'; give set_id and ver_id"):
        list(shs.clips(tmp_path))
    (tmp_path / "meta" / "SHS100K-TEST").write_text("9\t0\n9\t0\n")
    with pytest.raises(DataError, match="a second time"):
        list(shs.clips(tmp_path))
    (tmp_path / "meta" / "SHS100K-TEST").write_text("9\t0\n9\t1\n")
    assert [(clip.id, clip.split, clip.target) for clip in shs.clips(tmp_path)][1:3] == [
        ("7_1", "valid", "7"),
        ("9_0", "test", "9"),
    ]
    (tmp_path / "meta" / "list").write_text("9\t1\ta title\ta name\thttps://www.youtube.com/watch?v=abc-DEF_123\t1\n")
    for name in ("7_0.mp3", "7-1.wav", "9/0.m4a", "abc-DEF_123.webm"):
        path = tmp_path / "audio" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = [shs.locate(tmp_path, clip.audio) for clip in shs.clips(tmp_path)]
    assert [path.relative_to(tmp_path / "audio").as_posix() for path in found] == [
        "7_0.mp3",
        "7-1.wav",
        "9/0.m4a",
        "abc-DEF_123.webm",
    ]
    assert shs.locate(tmp_path, "audio/9_2") is None
    (tmp_path / "meta" / "list").write_text("9\t1\ta title\n")
    shs.read_videos.cache_clear()
    with pytest.raises(DataError, match=r"list line 1: has 3 columns"):
        shs.locate(tmp_path, "audio/9_2")


def test_lists_and_datasets_say_what_is_asked(bench, miniatures, tmp_path):
    rows = {row["name"]: row for row in bench("list", "tasks", "--json").record}
    assert {rows[name]["target"] for name in TASKS} == {"works"}
    root = corpus.ensure_mini(plugins.find_task("covers80").task.corpus, miniatures)
    assert bench("data", "croissant", "covers80", tmp_path / "described", "--data-dir", root).code == 0
    assert "The id of its work." in (tmp_path / "described" / "croissant.json").read_text()
    pytest.importorskip("datasets")
    from marble_bench.data.hf import dataset

    found = dataset("covers80", root)
    assert [len(found[split]) for split in ("train", "validation", "test")] == [0, 0, 48]
    assert found["test"][0]["target"] == "Tune_00"
