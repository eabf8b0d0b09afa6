"""Windows that a protocol pads: how clips are cut, what an encoder hears of the zeros, and what a record says of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import PLUGINS

from marble_bench import Clip, Encoder, Layer, UsageError, Window, audio
from marble_bench.core.task import Task
from marble_bench.encoders._masks import encode_by_length
from marble_bench.encoders.weights import Weights
from marble_bench.features import pooled

RATE_HZ = 8000


# Cutting.


@pytest.mark.parametrize(
    ("seconds", "windows", "last_s"),
    [(4.0, 1, 4.0), (3.2, 1, 3.2), (3.199, 0, 0.0), (7.2, 2, 3.2), (7.199, 1, 4.0), (8.0, 2, 4.0), (11.5, 3, 3.5)],
)
def test_a_remainder_is_kept_from_the_least_share_on_and_padded_with_zeros(seconds, windows, last_s):
    samples = np.random.default_rng(0).standard_normal(round(seconds * RATE_HZ)).astype(np.float32)
    found, valid = audio.cut_padded(samples, RATE_HZ, 4.0, 0.8, RATE_HZ)
    assert found.shape == (windows, 4 * RATE_HZ)
    assert pooled.count_rows(seconds, Window(length_s=4.0, min_ratio=0.8)) == windows
    if windows:
        assert valid.tolist() == [4 * RATE_HZ] * (windows - 1) + [round(last_s * RATE_HZ)]
        assert not found[-1, valid[-1] :].any()
        assert np.array_equal(
            np.concatenate([row[:count] for row, count in zip(found, valid, strict=True)]), samples[: valid.sum()]
        )


def test_windows_are_cut_in_samples_of_the_files_own_rate_and_resampled_one_by_one():
    samples = np.random.default_rng(0).standard_normal(50_000).astype(np.float32)
    found, valid = audio.cut_padded(samples, 22_050, 1.01, 0.1, 24_000)
    piece = int(1.01 * 22_050)  # 22,270
    assert found.shape == (3, 24_240)
    alone = audio.resample(samples[piece : 2 * piece], 22_050, 24_000)[:24_240]
    assert np.array_equal(found[1, : len(alone)], alone)
    assert valid.tolist() == [24_240, 24_240, len(audio.resample(samples[2 * piece :], 22_050, 24_000))]


# What an encoder hears.


def _load(masks, normalize, weights, device):
    def encode(waveforms, pool):
        return [pool(waveforms.unfold(1, 80, 80))]

    return encode_by_length(encode, 80) if masks else encode


def _encoder(masks, normalize="none"):
    from functools import partial

    return Encoder(
        name="own",
        description="samples as they are, 80 a frame",
        sample_rate_hz=RATE_HZ,
        layers=(Layer("L1", 80, 100.0),),
        load=partial(_load, masks, normalize),
        license="CC0-1.0",
        citation="none",
        min_s=0.01,
        masks=masks,
        normalize=normalize,
    )


def _extract(tmp_path, samples, window, encoder, batch_size=None):
    """The pooled features of files of these samples, and what an extraction tells."""
    items = []
    for place, each in enumerate(samples):
        path = tmp_path / f"{place}.wav"
        soundfile.write(path, each, RATE_HZ, subtype="FLOAT")
        items.append(pooled.Item(Clip(f"c{place}", "test", path.name, None), path, audio.digest(path), RATE_HZ))
    weights = Weights(None, "0" * 64, "none", "", {})
    store, spans, cost = pooled.extract(
        items, encoder, weights, window, tmp_path / "cache", batch_size=batch_size, guard=None
    )
    return pooled.load(store, [span for span in spans if span in store.rows]).layers[0], cost


CHORD = Window(length_s=15.0, min_ratio=0.1)


def test_of_a_window_of_15_s_with_13_s_of_padding_a_masked_encoder_pools_2_s_alone(tmp_path):
    sound = (0.3 + 0.1 * np.random.default_rng(0).standard_normal(2 * RATE_HZ)).astype(np.float32)
    frames = sound.reshape(-1, 80)  # 200 of them, which are 2 s
    masked, _ = (
        _extract(tmp_path / "a", [sound], CHORD, _encoder(masks=True)) if (tmp_path / "a").mkdir() is None else 0
    )
    assert np.allclose(masked[0], frames.mean(axis=0), atol=2e-3)
    (tmp_path / "b").mkdir()
    heard, _ = _extract(tmp_path / "b", [sound], CHORD, _encoder(masks=False))
    assert np.allclose(heard[0], frames.sum(axis=0) / 1500, atol=2e-3)


def test_masked_windows_are_told_their_own_samples_whatever_else_is_in_the_batch(tmp_path):
    random = np.random.default_rng(0)
    sounds = [
        (0.2 * random.standard_normal(count) + 0.3).astype(np.float32) for count in (16_000, 40_000, 140_000, 24_000)
    ]
    found = []
    for place, size in enumerate((1, 3, 64)):
        (folder := tmp_path / str(place)).mkdir()
        found.append(np.asarray(_extract(folder, sounds, CHORD, _encoder(masks=True), size)[0]))
    assert len(found[0]) == 5
    assert all(np.allclose(each, found[0], atol=1e-3) for each in found)
    last = sounds[3].reshape(-1, 80).mean(axis=0)
    assert np.allclose(found[0][4], last, atol=2e-3)


def test_each_window_is_normalised_by_itself_and_its_padding_with_it_unless_it_is_masked(tmp_path):
    sound = np.concatenate([np.full(8000, 0.1), np.full(8000, 0.9), np.linspace(0.2, 0.6, 6400)]).astype(np.float32)
    sound += 0.05 * np.sin(np.arange(len(sound))).astype(np.float32)
    window = Window(length_s=1.0, min_ratio=0.5)
    for masks in (False, True):
        (folder := tmp_path / str(masks)).mkdir()
        found, _ = _extract(folder, [sound], window, _encoder(masks, "zscore"))
        padded = np.zeros(8000)
        padded[:6400] = sound[16_000:]
        of = padded[:6400] if masks else padded
        wanted = [(part - part.mean()) / part.std() for part in (sound[:8000], sound[8000:16_000], of)]
        for row, values in zip(found, wanted, strict=True):
            assert np.allclose(row, values.reshape(-1, 80).mean(axis=0), atol=5e-3)


def test_a_silent_window_stays_silent_and_a_file_of_one_is_still_refused(tmp_path):
    sound = np.zeros(16_000, np.float32)
    sound[:8000] = np.sin(np.arange(8000))
    found, _ = _extract(tmp_path, [sound], Window(length_s=1.0, min_ratio=1.0), _encoder(False, "peak"))
    assert not np.asarray(found[1]).any()
    assert np.isfinite(found).all()


@pytest.mark.parametrize("channel", ["mean", "first"])
def test_one_channel_or_the_mean_of_them_is_heard(tmp_path, channel):
    left, right = np.full(8000, 0.5, np.float32), np.full(8000, -0.1, np.float32)
    window = Window(length_s=1.0, min_ratio=1.0, channel=channel)
    found, _ = _extract(tmp_path, [np.stack([left, right], axis=1)], window, _encoder(False))
    assert np.allclose(found, 0.5 if channel == "first" else 0.2, atol=1e-3)


def test_a_clip_that_is_too_short_is_told_and_is_no_fault_of_its_file(tmp_path):
    sounds = [np.random.default_rng(0).standard_normal(count).astype(np.float32) / 9 for count in (8000, 3000, 6400)]
    found, cost = _extract(tmp_path, sounds, Window(length_s=1.0, min_ratio=0.8), _encoder(False))
    assert len(found) == 2
    assert cost.too_short == {"c1": "lasts 0.375 s, less than 0.8 of a window of 1 s"}
    assert not cost.damaged


def test_the_key_of_a_store_says_how_windows_are_padded():
    plain = pooled.make_key(_encoder(True), "0" * 64, Window(length_s=5.0))
    assert not {"min_ratio", "padding"} & set(plain.facts())
    assert plain.channels == "mean"
    window = Window(length_s=5.0, min_ratio=0.8, channel="first")
    of = {masks: pooled.make_key(_encoder(masks), "0" * 64, window).facts() for masks in (False, True)}
    assert [of[masks]["padding"] for masks in (False, True)] == ["heard", "masked"]
    assert (of[True]["min_ratio"], of[True]["channels"]) == (0.8, "first")


def test_a_mistake_in_a_padded_window_is_told():
    from marble_bench.core.plugins import find_registered_task

    task = find_registered_task("gtzan").task
    for window, words in (
        (Window(min_ratio=0.8), "min_ratio needs a window.length_s"),
        (Window(length_s=3.0, min_ratio=1.5), "min_ratio is 1.5: give a share up to 1"),
        (Window(length_s=3.0, channel="first"), "channel needs window.min_ratio"),
        (Window(length_s=3.0, min_ratio=0.5, channel="left"), "channel"),
    ):
        with pytest.raises(UsageError, match=words):
            replace(task, window=window)
    with pytest.raises(UsageError, match="frames and stems are not cut into padded windows"):
        replace(find_registered_task("gtzan-rhythm").task, window=Window(length_s=3.0, min_ratio=0.5))
    assert isinstance(replace(task, window=Window(length_s=3.0, min_ratio=0.5)), Task)


# A run.

RULES = """
from dataclasses import replace

from marble_bench import Protocol, Schedule, TaskRules, Window
from marble_bench.protocols.marble2{module} import PROTOCOL as BASE

ROW = TaskRules(
    task="hums",
    window=Window(length_s=0.4, min_ratio=0.5, channel="first"),
    monitor="accuracy",
    schedule=Schedule(max_epochs=6, lr_patience=2, stop_patience=3),
    batch_size=16,
)
PROTOCOL = replace(BASE, name="own2", hidden=8, learning_rates=(1e-3, 5e-3), tasks=(ROW,), departures=("a line",))
"""
MASKED = """

from dataclasses import replace

from marble_bench import Layer
from marble_bench.encoders._masks import encode_by_length

MASKED = replace(
    TOY,
    name="masked",
    layers=tuple(Layer(name, BANDS, 40.0) for name in ("L1", "L2", "L3")),
    load=lambda weights, device: encode_by_length(load(weights, device), 400),
    masks=True,
)
"""


@pytest.fixture
def run(bench, tmp_path):
    """`run(module, model)`: a record of the hums, one of which is too short, under a protocol with a table."""
    shutil.copy(PLUGINS / "toy_encoder.py", tmp_path / "own_encoder.py")
    with (tmp_path / "own_encoder.py").open("a") as file:
        file.write(MASKED)
    task = (PLUGINS / "toy_task.py").read_text()
    cut = "soundfile.write(folder / clip.audio, np.clip(hum, -1, 1)"
    assert cut in task
    task = task.replace(cut, f"hum = hum[:1500] if clip.id == 'test03' else hum\n        {cut}")
    (tmp_path / "hums.py").write_text(task)

    def call(module="", model="MASKED", *more, form=("--json",)):
        (tmp_path / "own2.py").write_text(RULES.replace("{module}", module))
        arguments = ("--task", tmp_path / "hums.py", "--model", f"{tmp_path / 'own_encoder.py'}:{model}", "--mini")
        ended = bench("run", *arguments, "--protocol", "own2.py", "--device", "cpu", *more, *form)
        assert ended.code == 0, ended.err
        return ended

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "heard"),
    [("MASKED", "not heard by this encoder, which is told the valid samples"), ("TOY", "heard by this encoder")],
)
def test_a_run_says_what_it_leaves_out_and_what_is_heard_of_the_padding(run, bench, model, heard):
    ended = run("", model)
    record = ended.record
    assert record["departures"] == ["a line", f"zeros that pad a window are {heard}"]
    assert record["data"]["too_short"] == [
        {"clip": "test03", "why": "lasts 0.188 s, less than 0.5 of a window of 0.4 s"}
    ]
    assert record["data"]["clips"] == {"train": 24, "valid": 12, "test": 14}
    assert record["selection"]["probes"] == (3 + 1) * 2 * 3
    names = {"MASKED": ("L1", "L2", "L3"), "TOY": ("0", "1", "2")}[model]  # declared, and never shifted
    assert {choice["layer"] for choice in record["selection"]["per_seed"]} <= {*names, "concat"}
    checked = bench("results", "check", "results")
    assert checked.code == 0, checked.out
    again = run("", model)  # from the store
    assert "left out by the protocol: clip 'test03' lasts 0.188 s" in run("", model, form=()).err
    assert again.record["data"]["too_short"] == record["data"]["too_short"]
    assert again.record["scores"] == record["scores"]


@pytest.mark.slow
def test_a_record_of_the_shipped_rules_says_that_windows_were_validated_and_is_valid(run, bench):
    record = run("_shipped").record
    assert (record["selection"]["validated"], record["selection"]["kept"]) == ("windows", "last")
    checked = bench("results", "check", "results")
    assert checked.code == 0, checked.out


@pytest.mark.slow
def test_the_layer_that_tells_the_class_is_the_one_that_is_named(run, tmp_path):
    """An encoder without an input state: its first layer is L1, not the second of a list that begins with 0."""
    place = tmp_path / "own_encoder.py"
    run()
    text = place.read_text().replace(
        "return [pool(bands), pool(bands.tanh()), pool(bands.abs().sqrt())]",
        "return [pool(0 * bands), pool(bands), pool(0 * bands)]",
    )
    place.write_text(text)
    record = run("", "MASKED", "--layers", "L1-L3", "--overwrite").record
    assert {choice["layer"] for choice in record["selection"]["per_seed"]} == {"L2"}


MINI = "run --model mfcc --task gtzan --mini --json --device cpu --seeds 1 --protocol".split()


@pytest.mark.slow
def test_both_versions_run_on_a_miniature_and_their_records_are_valid_and_stand_apart(bench, own_cache_with_miniatures):
    records = {}
    for name in ("marble2", "marble2-shipped"):
        ended = bench(*MINI, name)
        assert ended.code == 0, ended.err
        records[name] = ended.record
        assert ended.record["protocol"]["name"] == name
        assert ended.record["departures"][-1] == "zeros that pad a window are heard by this encoder"
        assert ended.record["selection"]["probes"] == (2 + 1) * 5
        assert ended.record["scores"]["accuracy"]["test"] > 0.5
    assert records["marble2-shipped"]["selection"]["kept"] == "last"
    checked = bench("results", "check", "results")
    assert checked.code == 0, checked.out
    for name, record in records.items():
        rows = json.loads(bench("leaderboard", "--protocol", name, "--mini", "--json").out)
        found = [row["value"] for row in rows if row["model"] == "mfcc" and row["task"] == "gtzan"]
        assert found == [record["scores"]["accuracy"]["test"]]
    (path,) = Path("results").glob("mfcc/*/marble2/*.json")
    told = json.loads(path.read_text())
    told["departures"] = told["departures"][1:]
    path.write_text(json.dumps(told))
    checked = bench("results", "check", path)
    assert checked.code != 0
    assert "departures has 9 lines that are not the 10 of 'marble2'" in checked.out
