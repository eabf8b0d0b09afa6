"""Probes on frames and separators go on after a run that died: the same record, nothing trained twice, nothing stale."""

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import TOY_MODEL, TOY_TASK
from marble_bench.probes import framewise, grid, probe_cache, training_loop

from marble_bench.core import plugins
from marble_bench.core.task import Clip, Schedule, Window
from marble_bench.data.examples import Example, Examples
from marble_bench.encoders.weights import Weights
from marble_bench.errors import BenchError
from marble_bench.features import fingerprint, pooled
from marble_bench.features.frames import Frames, Sound
from marble_bench.features.store import Span
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.runs import identity
from marble_bench.runs.config import RunConfig
from marble_bench.runs.inputs import Coverage, FeatureSource, Inputs
from marble_bench.runs.kinds import frames, stems
from marble_bench.separation import probe as separation


def _probes(seeds):
    return [grid.Probe(0, rate, 0.0, seed) for seed in range(seeds) for rate in (0.1, 0.2)]


BEGUN: list[list[grid.Probe]] = []


class _Steps:
    """A block whose probes end after two rounds; a probe's score is its learning rate and its seed."""

    def __init__(self, probes):
        self.tracker = SimpleNamespace(alive=list(probes), best=-math.inf)
        self.probes, self.rounds = probes, 0
        BEGUN.append(probes)

    def run_round(self):
        self.rounds += 1
        self.tracker.best = max(probe.learning_rate + probe.seed for probe in self.probes)
        self.tracker.alive = [] if self.rounds == 2 else self.tracker.alive

    def results(self):
        return [grid.TrainedProbe(p, p.learning_rate + p.seed, 0, (0.0,), False, {}) for p in self.probes]


def test_progress_tells_the_best_of_all_blocks_and_what_the_cache_had(tmp_path):
    BEGUN.clear()
    blocks = [_probes(3)[start : start + 2] for start in (4, 0, 2)]
    kept, told = probe_cache.ProbeCacheFolder(tmp_path, "key"), []
    training_loop.train_blocks(blocks[:1], _Steps, None, kept)
    found = training_loop.train_blocks(blocks, _Steps, lambda *now: told.append(now), kept)
    assert [one.probe for one in found] == [probe for block in blocks for probe in block]
    assert blocks == BEGUN  # the first of them only once
    assert told == [(2, 6, 2.2, 0), (2, 6, 2.2, 2), (4, 6, 2.2, 0), (4, 6, 2.2, 2), (6, 6, 2.2, 0)]


def _dies_after(blocks, monkeypatch):
    """Make the disk refuse what comes after so many blocks; returns the probes of every block that was kept."""
    put, kept = probe_cache.ProbeCacheFolder.put, []

    def some(self, fitted):
        if len(kept) == blocks:
            raise BenchError("no room is left")
        put(self, fitted)
        kept.append([one.probe for one in fitted])

    monkeypatch.setattr(probe_cache.ProbeCacheFolder, "put", some)
    return kept


def _counted(module, monkeypatch):
    """The probes of every block that begins to train."""
    begun, block = [], module._Block

    def begin(members, *others):
        begun.append(list(members))
        return block(members, *others)

    monkeypatch.setattr(module, "_Block", begin)
    return begun


def _told(record):
    """What a record tells but of the machine and the hour: two runs of the same thing tell the same."""
    kept = {key: value for key, value in record.items() if key not in ("cost", "created", "environment")}
    return {**kept, "digests": {key: value for key, value in record["digests"].items() if key != "record"}}


def _a_run_that_dies_goes_on(bench, tmp_path, monkeypatch, module, arguments, blocks):
    """blocks: how many the run has. It dies after the first but one; the next goes on with the last."""
    whole = bench(*arguments, "--results-dir", "whole")
    assert whole.code == 0, whole.err
    assert not list((tmp_path / "cache/probes").rglob("*.safetensors"))
    with monkeypatch.context() as dying:
        kept = _dies_after(blocks - 1, dying)
        ended = bench(*arguments, "--results-dir", "again")
        assert "no room is left" in ended.err
    assert len(list((tmp_path / "cache/probes").rglob("*.safetensors"))) == blocks - 1
    begun = _counted(module, monkeypatch)
    again = bench(*arguments, "--results-dir", "again")
    assert again.code == 0, again.err
    assert len(begun) == 1
    assert begun[0] not in kept
    assert _told(whole.record) == _told(again.record)
    for kind in ("grid", "predictions"):
        files = [next((tmp_path / folder).rglob(f"*.{kind}.parquet")) for folder in ("whole", "again")]
        assert files[0].read_bytes() == files[1].read_bytes()
    assert not list((tmp_path / "cache/probes").rglob("*.safetensors"))


@pytest.mark.slow
def test_beats_go_on_after_the_last_finished_seed(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(frames, "schedule_of", lambda config, mini: Schedule(2, 2, 2))
    arguments = ("run", "--model", "logmel", "--task", "gtzan-rhythm", "--mini", "--seeds", 3, "--limit", 4, "--json")
    _a_run_that_dies_goes_on(bench, tmp_path, monkeypatch, framewise, (*arguments, "--device", "cpu"), 3)


@pytest.mark.slow
def test_separators_go_on_after_the_last_finished_block(bench, tmp_path, monkeypatch):
    told = stems.find_rules
    quick = {"max_epochs": 1, "mixtures_per_track": 1, "hidden": 16}
    monkeypatch.setattr(stems, "find_rules", lambda *asked: replace(told(*asked), **quick))
    monkeypatch.setattr(separation, "BLOCK_BYTES", 1)  # a separator each
    arguments = ("run", "--model", "logmel", "--task", "musdb", "--mini", "--seeds", 1, "--limit", 1, "--json")
    _a_run_that_dies_goes_on(bench, tmp_path, monkeypatch, separation, (*arguments, "--device", "cpu"), 4)


CLIP = Clip("a", "train", "a.wav", ((0.5, 1.0), None))
MODEL = {"name": "m", "version": 1, "weights_sha256": "0"}
FRAMES = Frames([], [Sound("a", Span("a", "0:"), 10.0, None)], [])
INPUTS = Inputs(Examples([Example(CLIP, None, "d")]), FRAMES, FeatureSource(MODEL, {}), Coverage(False, []))


def _asked(**more):
    named = plugins.find_task(TOY_TASK)
    given = {
        "named": named,
        "protocol": MARBLE,
        "encoder": None,
        "model": "m",
        "cache": Path(),
        "results": Path(),
        **more,
    }
    return RunConfig.of(**given)


def _stored(tmp_path, dtype="float32", change="", made="2026"):
    """A store of the toy encoder's features with a fingerprint of that date."""
    encoder, weights = plugins.find_encoder(TOY_MODEL), Weights(None, "0" * 64, "none", "")
    store = pooled.open_store(encoder, weights, Window(), tmp_path, dtype, change=change)
    layers = {layer.name: np.zeros(2, np.float32) for layer in encoder.layers}
    packed = fingerprint.pack(store.folder.name, fingerprint.Fingerprint(layers, made, "cpu"), list(layers))
    store.folder.mkdir(parents=True, exist_ok=True)
    (store.folder / fingerprint.FILE).write_bytes(packed)
    return store


def _from(store):
    """Inputs whose features are in a store."""
    return replace(INPUTS, source=FeatureSource(MODEL, {}, [store]))


def _key(inputs=INPUTS, config=None, rules=None):
    return probe_cache.digest(identity.list_probe_cache_facts(inputs, config or _asked(), rules))


@pytest.mark.parametrize(
    "other",
    [
        {"inputs": replace(INPUTS, examples=Examples([Example(replace(CLIP, target=((0.5, 1.1), None)), None, "d")]))},
        {"inputs": replace(INPUTS, examples=Examples([Example(CLIP, None, "other")]))},
        {"inputs": replace(INPUTS, source=FeatureSource({**MODEL, "weights_sha256": "1"}, {}))},
        {"inputs": replace(INPUTS, summable=(1, 2))},
        {"config": _asked(protocol=replace(MARBLE, hidden=8))},
        {"config": _asked(device="cuda")},
        {"config": _asked(named=replace(_asked().data.named, name="other"))},
        {"rules": {"crop_s": 9.0}},
    ],
    ids=["annotation", "audio", "model", "sum", "protocol", "device", "task", "rules"],
)
def test_what_was_kept_of_another_run_is_not_taken(other):
    asked = {"inputs": INPUTS, "rules": {"crop_s": 10.0}}
    assert _key(**asked) == _key(**asked)
    assert _key(**asked) != _key(**{**asked, **other})


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"change": "mp3"}, {"made": "2027"}])
def test_what_was_kept_is_not_taken_for_other_features(tmp_path, other):
    one, again = (_from(_stored(tmp_path / "one")) for _ in range(2))
    others = _from(_stored(tmp_path / "other", **other))
    assert _key(one) == _key(again)
    assert _key(one) != _key(others)


def test_more_seeds_take_the_probes_that_fewer_left():
    assert _key(config=_asked(seeds=1)) == _key(config=_asked(seeds=3))
