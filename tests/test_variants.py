"""Variants of a run: each flag against a direct computation, what a record then says, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import forgers
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TOY_MODEL, TOY_TASK
from marble_bench.probes import trainer

import marble_bench as mb
from marble_bench import Schedule, Window
from marble_bench.core import keys, plugins
from marble_bench.core.variants import POOLS, Variants, parse_variants
from marble_bench.errors import UsageError
from marble_bench.features import pooled
from marble_bench.features.store import name_folder
from marble_bench.metrics import accuracy
from marble_bench.protocols.jukemir import PROTOCOL as JUKEMIR
from marble_bench.protocols.linear import PROTOCOL as LINEAR
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.protocols.marble2 import PROTOCOL as MARBLE2
from marble_bench.records import comparable, results, validation
from marble_bench.records.corpus_facts import Corpora
from marble_bench.records.record import to_json
from marble_bench.records.schema import from_json
from marble_bench.runs import inputs, plan, probe_time, reproduce, run
from marble_bench.runs.callbacks import Lines
from marble_bench.runs.request import build_configs

ALL = Variants(pool="mean+std", window_s=0.5, learning_rate=1e-3, fixed=True, standardize=True, train_share=0.25)
ONE = {"layers": "1", "seeds": 2}
QUIET = Lines(None)


def _configs(**options):
    return build_configs([TOY_MODEL], [TOY_TASK], **{"mini": True, "device": "cpu", **options})


def _grid(tmp_path, name, **options):
    """The grid and the record of a toy run."""
    (config,) = _configs(results_dir=tmp_path / name, **options)
    outcome = run.run(config, QUIET)
    return pd.read_parquet(results.find_table_path(outcome.path, "grid")), outcome


# What encoders are asked.


def _hear(config, clip, length_s):
    """Every frame of every layer of a clip's windows, as the encoder itself gives them."""
    import soundfile

    wave, rate = soundfile.read(config.data.folder() / clip.audio, dtype="float32")
    encode = config.features.encoder.load(None, "cpu")
    windows = torch.from_numpy(wave[: len(wave) // round(length_s * rate) * round(length_s * rate)])
    return encode(windows.reshape(-1, round(length_s * rate)), lambda frames: frames)


def test_one_pass_stores_mean_deviation_and_maximum_of_the_encoders_own_frames():
    configs = _configs(pool="mean,mean+std,max", limit=3)
    found = [inputs.ensure_pooled(config, QUIET) for config in configs]
    assert [config.probes.variants.pool for config in configs] == list(POOLS)
    assert [bool(each.cost.audio_s) for each in found] == [True, False, False]  # one pass over the audio
    features = [pooled.load(each.store, each.spans).layers for each in found]
    for place, clip in enumerate(found[0].examples.clips):
        for layer, frames in enumerate(_hear(configs[0], clip, 1.0)):
            std = frames.std(dim=1, correction=0)
            of = (frames.mean(dim=1), torch.cat([frames.mean(dim=1), std], dim=1), frames.max(dim=1).values)
            for stored, right in zip(features, of, strict=True):
                assert torch.equal(torch.from_numpy(stored[layer][place]), right[0].half())
    again = inputs.ensure_pooled(_configs(pool="max", limit=3)[0], QUIET)
    assert again.store.folder == found[2].store.folder
    assert not again.cost.audio_s


def test_a_store_of_means_is_the_same_beside_others_and_alone(tmp_path):
    found = []
    for name, pool in (("alone", "mean"), ("beside", "mean,max")):
        config = _configs(pool=pool, limit=3, cache_dir=tmp_path / name)[0]
        made = inputs.ensure_pooled(config, QUIET)
        found.append((made.store.folder.name, [each.tobytes() for each in pooled.load(made.store, made.spans).layers]))
    assert found[0] == found[1]


def test_windows_are_as_long_as_asked_for():
    (config,) = _configs(window=0.25, limit=3)
    found = inputs.ensure_pooled(config, QUIET)
    features = pooled.load(found.store, found.spans)
    assert len(features.clip) == 4 * 9
    frames = _hear(config, found.examples.clips[0], 0.25)[2]
    assert np.allclose(np.asarray(features.layers[2][:4], np.float32), frames.mean(dim=1).half(), atol=1e-3)
    assert config.data.named.task.window == Window()  # what the record names stays as it is declared


# What probes are trained by.


def test_a_learning_rate_alone_gives_the_probes_that_it_gives_in_the_grid(tmp_path):
    whole, _ = _grid(tmp_path, "whole", **ONE)
    same = whole[whole.learning_rate == 1e-3].reset_index(drop=True)
    for name, options in (("lr", {**ONE, "lr": "0.001"}), ("fixed", {"seeds": 2, "select": "fixed:1,0.001"})):
        own, outcome = _grid(tmp_path, name, **options)
        pd.testing.assert_frame_equal(own, same)  # every validation score of every epoch
        assert outcome.record.selection.probes == 2


def test_a_share_of_the_training_clips_scores_as_its_point_of_the_few_shot_curve(tmp_path):
    _, curve = _grid(tmp_path, "curve", few_shot=True, lr=1e-2, **ONE)
    grid, share = _grid(tmp_path, "share", train_share=0.25, lr=1e-2, **ONE)
    (point,) = (each for each in curve.record.few_shot if each.share == 0.25)
    assert share.record.scores["accuracy"].per_seed == point.test
    assert tuple(each.valid for each in share.record.selection.per_seed) == point.valid
    assert list(grid.seed) == [0, 1]


def _splits():
    generator = torch.Generator().manual_seed(1)
    splits = []
    for clips in (40, 21):
        truth = torch.randint(0, 3, (clips,), generator=generator)
        layers = [3 * torch.randn(clips, 6, generator=generator) + 2 for _ in range(3)]
        for layer in layers:
            layer[:, :3] += torch.nn.functional.one_hot(truth, 3)
        splits.append(trainer.Split(layers, torch.arange(clips), truth))
    return splits


def test_standardised_features_train_as_under_a_protocol_that_standardises():
    small = replace(MARBLE, hidden=8, learning_rates=(1e-2,), seeds=1)
    found = []
    for rules in (Variants(standardize=True).adapt_protocol(small), replace(small, standardize=True)):
        recipe = trainer.Recipe(rules, Schedule(max_epochs=5), 3, "cross_entropy", accuracy.compute, summable=(1, 2))
        found.append(trainer.fit(trainer.build_grid(rules, (0, 1), True, 1), *_splits(), recipe))
    assert [one.probe.standardize for one in found[0]] == [True] * 3  # the grid says so
    for changed, declared in zip(*found, strict=True):
        assert changed.history == declared.history
        assert all(torch.equal(changed.state[name], declared.state[name]) for name in declared.state)


@pytest.mark.parametrize("head", ["mlp", "linear"])
def test_the_last_layer_and_the_concatenation_are_asked_of_any_protocol_that_trains_by_gradient(tmp_path, head):
    grid, outcome = _grid(tmp_path, head, layers="concat,last", head=None if head == "mlp" else head, lr=1e-3, seeds=1)
    assert list(grid.layer) == ["2", "concat"]
    assert outcome.record.why_not[:2] == ("made on the miniature corpus", "only layers concat,last")
    assert [each.is_valid for each in validation.check([outcome.path])] == [True]


# What records and keys say.


def test_keys_of_a_run_without_variants_are_what_they_were():
    assert Variants().facts() == {}
    assert parse_variants().list_all() == [Variants()]
    mfcc, gtzan = plugins.find_encoder("mfcc"), plugins.find_task("gtzan")
    key = pooled.make_key(mfcc, keys.digest_facts(mfcc), gtzan.task.window)
    assert name_folder(key.facts()) == "mfcc-32c3efca51c7"  # as version 0.7 called it
    assert key.facts()["pooling"] == "mean"


def test_facts_of_variants_come_back_and_stand_in_reasons_and_file_names():
    assert Variants.of_facts(ALL.facts()) == ALL
    assert "-".join(ALL.list_name_parts()) == "pool-mean+std-window0.5-lr0.001-fixed-standardized-share0.25"
    assert len(ALL.list_reasons()) == len(ALL.flags()) == 6
    odd = Variants(learning_rate=0.123456789)
    assert odd.list_name_parts() == ["lr0.123456789"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The corpus of hums, whole on disk, its task found by name."""
    import marble_bench.tasks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            marble_bench.tasks, "__path__", [*marble_bench.tasks.__path__, str(forgers.PLUGINS / "registered")]
        )
        yield forgers.build(tmp_path_factory.mktemp("world"), plugins.find_task("hums"))


def _hums(world, **options):
    where = {"data_dir": world.root, "cache_dir": world.folder / "cache", "results_dir": world.folder / "results"}
    (config,) = build_configs(["mfcc"], ["hums"], device="cpu", **where, **options)
    return run.run(config, QUIET)


def _kinds(world, path):
    return {each.kind for each in validation.check([path], Corpora(world.root)) if not each.is_valid}


VARIANTS = {
    "lr0.01": {"lr": 0.01},
    "layers-frames-lr0.01-fixed": {"select": "fixed:frames,0.01"},
    "lr0.01-standardized": {"standardize": True, "lr": 0.01},
    "lr0.01-share0.5": {"train_share": 0.5, "lr": 0.01},
    "pool-max-lr0.01": {"pool": "max", "lr": 0.01},
    "window0.25-lr0.01": {"window": 0.25, "lr": 0.01},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_a_record_tells_its_variants_and_no_forger_makes_a_full_run_of_it(world, name):
    outcome = _hums(world, **VARIANTS[name])
    record = outcome.record
    assert outcome.path.name == f"hums.{name}.json"
    assert not record.comparable
    assert from_json(to_json(record)) == record
    assert (record.protocol.name, record.protocol.hash) == ("marble", MARBLE.hash)
    assert record.task.hash == keys.hash_task(world.named)
    assert _kinds(world, outcome.path) == set()
    facts = to_json(record)
    facts |= {"comparable": True, "why_not": []}
    del facts["variants"], facts["digests"]
    forged = from_json(facts)
    path = results.record_path(world.folder / f"forged-{name}", forged)
    tables = [pd.read_parquet(results.find_table_path(outcome.path, kind)) for kind in results.TABLES]
    results.save(path, forged, *tables)
    assert _kinds(world, path) - {"misplaced", "duplicate"}


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"variants": {"learning_rate": 0.02}}, "the grid has learning_rate 0.01, and 'marble' tries 0.02"),
        ({"variants": {}}, "variants is there and says nothing"),
        ({"variants": {"learning_rate": 0.01, "select": "fixed"}}, "why_not does not say the layer"),
        ({"variants": {"select": "fixed"}}, "the rate is not said"),
        ({"variants": {"learning_rate": 0.01, "train_share": 1.0}}, "train_share is below 1"),
        ({"variants": {"learning_rate": 0.01, "pool": "max"}}, "identity.features"),
        ({"variants": {"learning_rate": 0.01, "window_s": 0.25}}, "identity.features"),
        ({"variants": {"learning_rate": 0.01, "standardize": True}}, "the grid has standardize of none"),
    ],
)
def test_variants_that_a_record_does_not_bear_out_are_found(world, tmp_path, changed, words):
    outcome = _hums(world, lr=0.01)
    facts = {**to_json(outcome.record), **changed}
    del facts["digests"]
    variants = Variants.of_facts(facts["variants"])
    facts["why_not"] = variants.list_reasons()
    forged = from_json(facts)
    path = results.record_path(tmp_path, forged, "-".join(variants.list_name_parts()))
    tables = [pd.read_parquet(results.find_table_path(outcome.path, kind)) for kind in results.TABLES]
    results.save(path, forged, *tables)
    found = validation.check([path], Corpora(world.root))
    assert any(words in each.words and not each.is_valid for each in found), found


def test_a_record_is_made_again_with_its_variants(world, tmp_path):
    outcome = _hums(world, pool="max", select="fixed:frames,0.01", train_share=0.5, seeds=2)
    config = reproduce.make_config(outcome.record, world.folder / "cache", tmp_path, "cpu", data_dir=world.root)
    assert config.probes.variants == comparable.find_variants(outcome.record)
    again = run.run(config, QUIET)
    assert reproduce.find_differences(results.read(outcome.path), results.read(again.path)) == []


def test_boards_show_variants_without_a_rank_and_names_are_compared_within_one_variant(world):
    where = {"results_dir": world.folder / "board", "cache_dir": world.folder / "cache"}
    made = {}
    for model, options in (("mfcc", {"lr": 0.01}), ("loudness", {"seeds": 3}), ("loudness", {"lr": 0.01})):
        (config,) = build_configs([model], ["hums"], device="cpu", data_dir=world.root, **where, **options)
        made[model, "lr" in options] = run.run(config, QUIET).path
    board = mb.leaderboard(where["results_dir"], task="hums", cache_dir=where["cache_dir"])
    ranks = board[board["mark"] == "measured"].set_index("model")["rank"]
    assert ranks.isna()["mfcc"]
    assert ranks["loudness"] == 1
    with pytest.raises(UsageError, match="different variants"):
        mb.compare("mfcc", "loudness", task="hums", **where)
    (both,) = mb.compare(made["mfcc", True], made["loudness", True], task="hums", **where).compared
    assert both.metric == "accuracy"
    made["loudness", False].unlink()
    assert len(mb.compare("mfcc", "loudness", task="hums", **where).compared) == 1


# What is refused.


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pool": "sum"}, "--pool 'sum': no such choice; choose from mean, mean+std, max"),
        ({"pool": "means"}, "did you mean 'mean'"),
        ({"window": 0}, "--window 0: give a number of seconds above 0"),
        ({"window": float("nan")}, "--window nan"),
        ({"lr": "fast"}, "--lr 'fast': give 'grid', or a learning rate above 0"),
        ({"lr": -1}, "--lr -1"),
        ({"select": "fixed:5"}, "--select 'fixed:5': give 'validation', or 'fixed:LAYER,LR'"),
        ({"select": "test"}, "--select 'test'"),
        ({"select": "fixed:all,0.1"}, "'fixed:all,0.1'"),
        ({"select": "fixed:1,0.1", "layers": "1"}, "names layer and learning rate: leave --layers out"),
        ({"select": "fixed:1,0.1", "lr": 0.1}, "leave --lr out"),
        ({"train_share": 1}, "--train-share 1: give a share above 0 and below 1"),
        ({"standardize": 1}, "--standardize 1: give True or False"),
    ],
)
def test_words_that_mean_nothing_are_refused_with_the_next_step(options, words):
    with pytest.raises(UsageError) as caught:
        parse_variants(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("variants", "protocol", "words"),
    [
        (Variants(learning_rate=0.1), LINEAR, "--lr 0.1: protocol 'linear' trains by no learning rate"),
        (Variants(learning_rate=0.1, fixed=True), JUKEMIR, "also chooses weight_decays and hiddens and"),
        (Variants(standardize=True), LINEAR, "protocol 'linear' standardises already"),
        (Variants(standardize=True), MARBLE2, "concatenation of layers, which takes features as they are"),
    ],
)
def test_protocols_refuse_what_they_do_not_have(variants, protocol, words):
    with pytest.raises(UsageError) as caught:
        variants.adapt_protocol(protocol)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("task", "options", "words"),
    [
        ("gtzan-rhythm", {"pool": "max"}, "--pool max is only for tasks of whole clips"),
        ("gtzan-rhythm", {"train_share": 0.5}, "--train-share 0.5 is only for tasks of whole clips"),
        ("gtzan-rhythm", {"standardize": True}, "--standardize is only for tasks of whole clips"),
        ("musdb", {"lr": 0.1}, "--lr 0.1: task 'musdb' separates stems"),
        ("musdb", {"window": 5.0}, "--window 5: task 'musdb' separates stems"),
        ("covers80", {"lr": 0.1}, "--lr 0.1 is of probes, and task 'covers80' trains none"),
        ("covers80", {"train_share": 0.1}, "--train-share 0.1 is of probes"),
        ("gtzan", {"train_share": 0.1, "few_shot": True}, "--train-share 0.1 and --few-shot exclude each other"),
        ("gtzan", {"select": "fixed:frames,statistics,0.1"}, "give 'validation', or 'fixed:LAYER,LR'"),
        ("mtt", {"window": 40.0}, None),
        ("gtzan", {"layers": "concat", "protocol": "linear"}, "protocol 'linear' solves its probes exactly"),
        ("gtzan", {"layers": "concat", "standardize": True}, "protocol 'marble' standardises them"),
    ],
)
def test_tasks_refuse_by_name_what_has_no_meaning_for_them(task, options, words):
    def ask():
        (config,) = build_configs(["mfcc"], [task], mini=True, device="cpu", **options)
        run.check(config)

    if words is None:
        ask()
        return
    with pytest.raises(UsageError) as caught:
        ask()
    assert words in str(caught.value)


def test_several_layers_are_not_one_fixed_layer():
    (config,) = _configs(select="fixed:0-1,0.1")
    with pytest.raises(UsageError, match=r"--select fixed:0-1: that is 2 layers"):
        run.check(config)


def test_brought_features_are_pooled_already(tmp_path):
    np.save(tmp_path / "train00.npy", np.zeros((1, 4), np.float32))
    for options, flag in (({"pool": "max"}, "--pool max"), ({"window": 2.0}, "--window 2")):
        (config,) = build_configs([], [TOY_TASK], features=Path(tmp_path), mini=True, device="cpu", **options)
        with pytest.raises(UsageError, match=f"{flag} says how features are made"):
            run.check(config)


def test_retrieval_takes_pooling_and_windows():
    for options in ({"pool": "mean+std"}, {"window": 2.0}):
        (config,) = build_configs(["mfcc"], ["covers80"], mini=True, device="cpu", **options)
        run.check(config)


def test_a_command_and_its_plan_take_the_flags(bench, monkeypatch):
    toy = ("--model", TOY_MODEL, "--task", TOY_TASK, "--mini", "--device", "cpu", "--json")
    ended = bench("run", *toy, "--pool", "mean,max", "--lr", "1e-3", "--dry-run")
    assert ended.code == 0, ended.err
    shown = [json.loads(line) for line in ended.out.splitlines()]
    assert [each["probes"] for each in shown] == [12, 12]  # three layers and their sum, three seeds
    assert [each["variants"].get("pool") for each in shown] == [None, "max"]
    with pytest.raises(UsageError, match="toy on toy-task, toy on toy-task with --pool max: call run for each"):
        mb.run(TOY_MODEL, task=TOY_TASK, mini=True, pool="mean,max")
    monkeypatch.setattr(plan, "MEASURE_S", 0.1)
    monkeypatch.setattr(probe_time, "MEASURE_S", 0.1)
    assert json.loads(bench("plan", *toy, "--lr", "1e-3", "--window", "0.5").out)["total"]["probes"] == 12
    own = plan.identify_pass(_configs(pool="mean,max")[0])
    assert own == plan.identify_pass(_configs(pool="mean,max")[1])
    assert own != plan.identify_pass(_configs()[0])


def test_the_list_of_stores_tells_their_pooling(bench):
    for config in _configs(pool="mean,mean+std", limit=1):
        inputs.ensure_pooled(config, QUIET)
    stores = json.loads(bench("features", "ls", "--json").out)
    assert sorted(each["kind"] for each in stores) == ["pooled", "pooled mean+std"]
