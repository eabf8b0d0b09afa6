"""What surrounds the grid: going on after a run that died, few-shot curves, the control, warnings and memory."""

import json
from dataclasses import replace
from statistics import stdev

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TOY_MODEL, TOY_TASK
from marble_bench.probes import block, few_shot, memory, probe_cache, trainer
from marble_bench.probes import inputs as features

from marble_bench.core import plugins
from marble_bench.core.task import Clip, Schedule
from marble_bench.data import checks
from marble_bench.data.examples import Examples
from marble_bench.errors import BenchError, DataError
from marble_bench.features.types import Features
from marble_bench.metrics import accuracy, ap, roc_auc
from marble_bench.protocols import jukemir
from marble_bench.protocols.jukemir import PROTOCOL as JUKEMIR
from marble_bench.protocols.linear import PROTOCOL as LINEAR
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.runs.kinds.kind import choose
from marble_bench.scoring.targets import Classes, Tags


def _splits(clips=(40, 20), widths=(6, 6)):
    generator = torch.Generator().manual_seed(1)
    found = []
    for count in clips:
        truth = torch.randint(0, 3, (count,), generator=generator)
        layers = [torch.randn(count, width, generator=generator) for width in widths]
        found.append(trainer.Split(layers, torch.arange(count), truth))
    return found


def _recipe(rules=MARBLE):
    return trainer.Recipe(rules, Schedule(6, 2, 3), 3, "cross_entropy", accuracy.compute, (0, 1))


def test_the_first_protocol_keeps_its_hash_and_jukemirs_grid_has_216_points():
    assert MARBLE.hash == "sha256:278050cd90ea647d3663b3a1eee3358225f3b08aa0fa9fa9ea511ecab3879028"  # of version 0.1's
    assert len({rules.hash for rules in plugins.find_protocols().values()}) == len(plugins.find_protocols())
    assert len(set(trainer.build_grid(JUKEMIR, (0,), False, 1))) == 216
    assert len(trainer.build_grid(MARBLE, range(13), True, 3)) == 252
    assert replace(MARBLE, dropouts=(0.1,)).hash != MARBLE.hash


def test_a_run_that_died_goes_on_after_its_last_finished_block_with_the_same_result(tmp_path, monkeypatch):
    monkeypatch.setattr(block, "count_threads", lambda _: 1)  # with more, which block ends first is not known
    train, valid = _splits()
    recipe, probes = _recipe(), trainer.build_grid(MARBLE, (0, 1), True, 2)
    whole = trainer.fit(probes, train, valid, recipe, states="best")
    cache = probe_cache.ProbeCacheFolder(tmp_path, "key")

    def dies(done, *_):
        if done >= 15:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(probes, train, valid, recipe, progress=dies, states="best", probe_cache=cache)
    files = set(cache.root.iterdir())
    assert files
    alive = []
    again = trainer.fit(
        probes, train, valid, recipe, progress=lambda *now: alive.append(now), states="best", probe_cache=cache
    )
    assert alive[0][:2] == (6, len(probes))  # the first block was there
    assert set(cache.root.iterdir()) > files
    for one, other in zip(whole, again, strict=True):
        assert replace(one, state={}) == replace(other, state={})
        assert one.state.keys() == other.state.keys()
        assert all(torch.equal(value, other.state[name]) for name, value in one.state.items())
    (damaged, *_) = cache.root.iterdir()
    content = damaged.read_bytes()
    for spoilt in (b"half", content[:-1] + bytes([content[-1] ^ 1])):  # cut short; one bit of a weight or of a score
        damaged.write_bytes(spoilt)
        with pytest.raises(DataError, match=damaged.name):
            trainer.fit(probes, train, valid, recipe, states="best", probe_cache=cache)


def test_blocks_side_by_side_give_what_they_give_one_after_another(monkeypatch):
    train, valid = _splits()
    recipe, probes = _recipe(), trainer.build_grid(MARBLE, (0, 1), True, 2)
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(block, "count_threads", lambda _, threads=threads: threads)
        seen: list[tuple[int, int, float, int]] = []
        fitted = trainer.fit(
            probes, train, valid, recipe, progress=lambda *now, seen=seen: seen.append(now), states="best"
        )
        found.append([(one.probe, one.history, bool(one.state)) for one in fitted])
        assert seen[-1] == (36, 36, max(one.valid for one in fitted), 0)
        assert max(alive for *_, alive in seen) > 0
    assert found[0] == found[1]


def test_a_block_that_fails_ends_those_beside_it(monkeypatch):
    monkeypatch.setattr(block, "count_threads", lambda _: 3)
    train, valid = _splits()

    def dies(*_):
        raise RuntimeError("of the watcher")

    with pytest.raises(RuntimeError, match="of the watcher"):
        trainer.fit(trainer.build_grid(MARBLE, (0, 1), True, 2), train, valid, _recipe(), progress=dies)


def test_the_key_of_a_probe_cache_is_another_for_other_labels_or_facts():
    train, valid = _splits()
    keys = {
        probe_cache.digest({"protocol": "a"}, train, valid),
        probe_cache.digest({"protocol": "b"}, train, valid),
        probe_cache.digest({"protocol": "a"}, few_shot.shuffle_labels(train), valid),
        probe_cache.digest({"protocol": "a"}, few_shot.take_share(train, 0.5, 0), valid),
    }
    assert len(keys) == 4


def test_only_each_seeds_best_keeps_its_weights_where_that_is_asked_for():
    train, valid = _splits()
    fitted = trainer.fit(trainer.build_grid(MARBLE, (0, 1), False, 2), train, valid, _recipe(), states="best")
    assert [one for one in fitted if one.state] == sorted(choose(fitted, 2), key=fitted.index)


def test_shares_are_nested_and_keep_clips_whole():
    train = trainer.Split([torch.arange(90.0)[:, None]], torch.arange(30).repeat_interleave(3), torch.arange(30))
    before: set[int] = set()
    for share in (*few_shot.SHARES, 1.0):
        part = few_shot.take_share(train, share, 4)
        held = set(part.truth.tolist())
        assert len(held) == max(1, int(np.ceil(share * 30)))
        assert before <= held
        rows = train.layers[0][part.rows][:, 0]
        assert torch.equal(part.truth[part.clip], (rows // 3).long())  # a window's label is still its clip's
        before = held
    assert few_shot.take_share(train, 0.1, 5).truth.tolist() != few_shot.take_share(train, 0.1, 4).truth.tolist()


def test_features_scale_by_the_rows_of_their_own_split():
    base = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([3, 4, 9, 20])
    whole = trainer.Split([base[rows]], torch.arange(4), torch.zeros(4, dtype=torch.int64))
    view = trainer.Split([base], whole.clip, whole.truth, rows)
    ours, theirs = (features.Features(split, split, (0,), "cpu") for split in (view, whole))
    assert torch.equal(ours.take(0, torch.tensor([2, 0]), True), theirs.take(0, torch.tensor([2, 0]), True))
    assert torch.equal(ours.chunk(0, 1, 2, True), theirs.chunk(0, 1, 2, True))


def _few(toy, *arguments):
    ended = toy("--mini", "--layers", "1", *arguments)
    assert ended.code == 0, ended.err
    return ended.record


@pytest.mark.slow
def test_a_few_shot_curve_is_printed_with_the_means_of_the_record(bench):
    ended = bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", "--few-shot", "--seeds", 2)
    assert ended.code == 0, ended.err
    again = bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--mini", "--few-shot", "--seeds", 2, "--json")
    rows = [line.split() for line in ended.out.splitlines() if " % " in line and "accuracy" in line]
    assert [row[0] for row in rows] == ["1", "2", "5", "10", "25", "50", "100"]
    for row, point in zip(rows, again.record["few_shot"], strict=True):
        assert row[2:] == [str(point["clips"]), "accuracy", *(f"{50 * sum(point[s]):.1f}" for s in ("test", "valid"))]


@pytest.mark.slow
def test_a_few_shot_curve_ends_in_the_run_itself_and_has_a_file_of_its_own(toy, tmp_path):
    curve = _few(toy, "--few-shot", "--seeds", 2)
    plain = _few(toy, "--seeds", 2)
    assert [point["share"] for point in curve["few_shot"]] == [*few_shot.SHARES, 1.0]
    assert [point["clips"] for point in curve["few_shot"]] == [1, 1, 2, 3, 6, 12, 24]
    assert curve["few_shot"][-1]["test"] == plain["scores"]["accuracy"]["per_seed"]
    assert curve["scores"] == plain["scores"]
    assert "few-shot" in curve["why_not"][-1]
    assert plain["scores"]["accuracy"]["std"] == pytest.approx(stdev(plain["scores"]["accuracy"]["per_seed"]))
    assert not list((tmp_path / "cache/probes").rglob("*.safetensors"))  # the record is saved


@pytest.mark.slow
def test_a_probe_trained_on_shuffled_labels_is_near_chance(toy):
    honest, control = _few(toy), _few(toy, "--control", "shuffle")
    assert control["scores"]["accuracy"]["test"] < honest["scores"]["accuracy"]["test"] - 0.1
    assert not control["comparable"]


@pytest.mark.slow
def test_jukemirs_protocol_runs_and_names_its_axes(toy, monkeypatch, tmp_path):
    quick = replace(JUKEMIR, hiddens=(0, 8), batch_sizes=(8, 16), stop_evaluations=3, learning_rates=(1e-2,))
    monkeypatch.setattr(jukemir, "PROTOCOL", quick)
    record = _few(toy, "--protocol", "jukemir")
    assert record["selection"]["probes"] == 2 * 2 * 2 * 3 * 3
    assert {"hidden", "batch_size", "dropout", "standardize"} <= record["selection"]["per_seed"][0].keys()
    (path,) = (tmp_path / "results").rglob("*.grid.parquet")
    grid = pd.read_parquet(path)
    assert set(grid.hidden) == {0, 8}
    assert (grid.history.map(len) >= 4).all()  # one before the first step, and three without gain


def test_the_sum_is_refused_where_layers_are_solved_one_by_one(toy):
    ended = toy("--mini", "--protocol", "linear", "--layers", "sum")
    assert ended.code == 2
    assert "protocol 'linear' reads single layers" in ended.err


@pytest.mark.slow
def test_a_record_marks_fewer_windows_than_a_batch(toy):
    assert "24 training windows are fewer than a batch of 64" in json.dumps(_few(toy)["data"]["marks"])
    assert "marks" not in _few(toy, "--protocol", "linear")["data"]


def _clips(names):
    splits = ("train", "train", "valid", "test")
    return Examples.of_clips(
        Clip(f"c{index}", split, "", name) for index, (split, name) in enumerate(zip(splits, names, strict=True))
    )


def test_nan_and_infinity_are_told_by_layer_and_clip():
    layers = [np.ones((6, 3), np.float16) * np.arange(6)[:, None].astype(np.float16) for _ in range(3)]
    layers[1][2, 1] = np.nan
    layers[2][[4, 5], 0] = np.inf
    features = Features(("a", "b", "c"), layers, np.array([0, 0, 1, 2, 3, 3]))
    with pytest.raises(DataError) as caught:
        checks.check_features(features, _clips("xyxy"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "layer 'b' has NaN or infinity in 1 of 4 clips: c1"
    assert lines[1] == "layer 'c' has NaN or infinity in 1 of 4 clips: c3"


def test_constant_layers_and_absent_labels_are_marked():
    layers = [np.full((4, 3), 2.0, np.float32), np.random.default_rng(0).normal(size=(4, 3))]
    warnings = checks.check_features(Features(("0", "1"), layers, np.arange(4)), _clips("xyxy"))
    assert warnings == ["layer '0' is constant: it is the same for every clip"]
    assert checks.check_labels(Classes(("x", "y", "z")), _clips("xyxy")) == [
        "no train clip is labelled z",
        "no valid clip is labelled y, z",
        "no test clip is labelled x, z",
    ]
    tagged = _clips([("x",), (), ("x", "y"), ("y",)])
    assert checks.check_labels(Tags(("x", "y")), tagged) == ["no train clip is tagged y"]


def test_tags_that_few_test_clips_carry_are_marked_for_the_metric_whose_interval_they_make_rough():
    clips = [Clip(f"c{i}", "test", f"c{i}.wav", ("rare",) * (i < 4) + ("often",) * (i < 5)) for i in range(9)]
    both, tags = (roc_auc, ap), Tags(("rare", "often"))
    told = "ap: its interval is rough, since fewer than 5 test clips carry rare"
    assert checks.check_carriers(both, tags, Examples.of_clips(clips)) == [told]
    assert checks.check_carriers((roc_auc,), tags, Examples.of_clips(clips)) == []
    grouped = [replace(clip, group=str(index // 2)) for index, clip in enumerate(clips)]
    (warning,) = checks.check_carriers(both, tags, Examples.of_clips(grouped))
    assert warning.endswith("groups of test clips carry rare, often")
    assert checks.check_carriers((accuracy,), Classes(("x",)), _clips("xyxy")) == []


def test_a_probe_that_does_not_fit_alone_is_told_with_its_size(monkeypatch):
    train, valid = _splits()
    monkeypatch.setattr(memory, "free_bytes", lambda _: 50_000)
    with pytest.raises(BenchError, match=r"a single probe with 0.1 MB .* does not fit the 0.1 MB"):
        trainer.fit(trainer.build_grid(MARBLE, (0,), False, 1), train, valid, _recipe())


@pytest.mark.parametrize("rules", [MARBLE, LINEAR], ids=lambda rules: rules.name)
def test_a_grid_in_which_everything_diverged_is_an_error(rules):
    train, valid = _splits()
    wild = [each * float("inf") for each in train.layers] if rules is LINEAR else train.layers
    probes = [replace(p, learning_rate=1e38) for p in trainer.build_grid(rules, (0,), False, 1)]
    fitted = trainer.fit(probes, replace(train, layers=wild), valid, _recipe(rules))
    assert all(one.diverged for one in fitted)
    with pytest.raises(DataError, match="every probe of seed 0 diverged"):
        choose(fitted, 1)
