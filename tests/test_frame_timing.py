"""Frames at one rate for all layers, and windows that overlap: against torch's own pooling of what the encoder gives."""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from conftest import PLUGINS
from torch.nn.functional import adaptive_avg_pool1d

from marble_bench.core import keys, plugins
from marble_bench.core.encoder import Encoder, Layer
from marble_bench.encoders import weights
from marble_bench.errors import BenchError, UsageError
from marble_bench.features import frames
from marble_bench.features.frames import Sound
from marble_bench.features.store import Span
from marble_bench.features.timing import Timing, Windows, average_to_rate
from marble_bench.runs.frame_labels import align_labels
from marble_bench.scoring.frame_targets import ClassPart, Frames, MomentPart
from marble_bench.scoring.targets import Events

RATE = 8000


def _load(path, device, dropped=1):
    """Two samples of each frame, and its place in the window from 0 to 1; the layers have 50, 200 and 20 frames a second."""

    def encode(waveforms, pool):
        taken = waveforms[:, : waveforms.shape[1] // dropped * dropped or waveforms.shape[1]]
        layers = []
        for hop in (160, 40, 400):
            cut = taken.unfold(1, hop, hop)[..., :2]
            place = (torch.arange(cut.shape[1]) + 0.5) * hop / waveforms.shape[1]
            layers.append(pool(torch.cat([cut, place[None, :, None].expand(len(cut), -1, 1)], dim=2)))
        return layers

    return encode


ENCODER = Encoder(
    name="placed",
    description="samples and places as frames",
    sample_rate_hz=RATE,
    layers=(Layer("a", 3, 50.0), Layer("fast", 3, 200.0), Layer("slow", 3, 20.0)),
    load=_load,
    license="MIT",
    citation="none",
    min_s=0.1,
)


def _sound(length_s, times=False):
    random, samples = np.random.default_rng(round(1000 * length_s)), round(length_s * RATE)
    wave = (np.arange(samples) / RATE if times else random.standard_normal(samples)).astype(np.float32)
    return Sound(f"of {length_s} s", Span(f"digest{length_s}", "0:"), length_s, lambda rate: wave)


def _extract(lengths_s, cache, timing, encoder=ENCODER, layers=(0, 1, 2), times=False, **options):
    sounds, facts = [_sound(each, times) for each in lengths_s], {"clip_normalize": "none"}
    loaded = weights.resolve(encoder, cache)
    got, _ = frames.extract(sounds, encoder, loaded, layers, cache, facts, timing=timing, **options)
    stored = [[got.read(at, item, 0, got.length(at, item)) for at in range(len(layers))] for item in range(len(sounds))]
    return got, stored


def _whole(length_s):
    """What the encoder gives for a whole sound, `(frames, width)` of each layer."""
    return [each[0] for each in _load(None, "cpu")(torch.from_numpy(_sound(length_s).read(RATE))[None], lambda x: x)]


@pytest.mark.parametrize(("count", "made"), [(300, 100), (300, 8), (30, 20), (43, 25), (10, 25), (20, 50), (7, 7)])
def test_averaging_is_torchs_adaptive_pooling_where_the_counts_have_the_ratio_of_the_rates(count, made):
    rows = torch.randn(2, count, 5, generator=torch.Generator().manual_seed(0))
    expected = adaptive_avg_pool1d(rows.mT, made).mT
    torch.testing.assert_close(average_to_rate(rows, count / 3, made / 3), expected)


def test_a_frame_is_the_mean_of_all_that_reach_into_its_time_by_exact_fractions():
    rows = torch.randn(1, 130, 4, generator=torch.Generator().manual_seed(0))
    got = average_to_rate(rows, 22050 / 512, 25.0)[0]
    own, wanted = Fraction(22050, 512), Fraction(25)
    assert len(got) == math.ceil(130 / own * wanted)
    for k, each in enumerate(got):
        inside = [j for j in range(130) if (j + 1) / own > k / wanted and j / own < (k + 1) / wanted]
        torch.testing.assert_close(each, rows[0, inside].mean(dim=0))


def test_every_layer_is_stored_at_the_common_rate(tmp_path):
    got, stored = _extract([3.0, 1.7], tmp_path, Timing(10.0))
    assert got.rates == [10.0] * 3
    for length_s, layers in zip((3.0, 1.7), stored, strict=True):
        for rows, own in zip(layers, _whole(length_s), strict=True):
            expected = adaptive_avg_pool1d(own.T, round(10 * length_s)).T.half().numpy()
            np.testing.assert_allclose(rows, expected, atol=2e-3)
    assert frames.estimate_bytes(4.7, ENCODER, [0, 1, 2], Timing(10.0)) == sum(
        x.nbytes for each in stored for x in each
    )


def test_a_slower_layer_gives_its_frames_several_times(tmp_path):
    _, (layers,) = _extract([1.0], tmp_path, Timing(40.0))
    slow = _whole(1.0)[2].half().numpy()
    np.testing.assert_array_equal(layers[2], np.repeat(slow, 2, axis=0))
    _, (layers,) = _extract([1.0], tmp_path, Timing(30.0))
    np.testing.assert_allclose(layers[2][:3], [slow[0], (slow[0] + slow[1]) / 2, slow[1]], atol=2e-3)


def test_a_sound_has_as_many_frames_as_begin_before_its_end(tmp_path):
    _, stored = _extract([1.25, 1.05, 1.01], tmp_path, Timing(2.0))
    assert [len(layers[0]) for layers in stored] == [3, 3, 2]
    assert [len(layers[1]) for layers in stored] == [3, 3, 3]  # of 1.01 s one layer gives 1.00 s, the other all
    own = _whole(1.25)[0]
    np.testing.assert_allclose(stored[0][0][2], own[50:62].mean(dim=0), atol=2e-3)  # over what there is


@pytest.mark.parametrize("rate_hz", [None, 10.0, 7.0])
@pytest.mark.parametrize("length_s", [0.8, 2.0, 2.1, 2.9, 5.3, 9.99])
def test_windows_overlap_by_half_and_the_middle_of_each_is_kept(tmp_path, rate_hz, length_s):
    _, (layers,) = _extract([length_s], tmp_path, Timing(rate_hz, 2.0))
    for rows, own, layer in zip(layers, _whole(length_s), ENCODER.layers, strict=True):
        stored_hz = rate_hz or min(layer.frame_rate_hz, 100.0)
        whole = average_to_rate(own[None], layer.frame_rate_hz, stored_hz)[0].half().numpy()
        assert len(whole) - (rate_hz == 7) <= len(rows) <= len(whole) + (rate_hz is None)
        if rate_hz != 7 and (rate_hz, length_s) != (None, 9.99):  # else a window begins within a frame of the layer
            np.testing.assert_allclose(rows[:, :2], whole[: len(rows), :2], atol=2e-3)
        times, window_s = (np.arange(len(rows)) + 0.5) / stored_hz, min(length_s, 2.0)
        beside = np.minimum(rows[:, 2], 1 - rows[:, 2]).astype(float) * window_s
        wanted = np.minimum(window_s / 4, np.minimum(times, length_s - times))
        assert (beside >= wanted - 0.75 / (rate_hz or 20.0)).all()


def test_what_an_encoder_takes_at_most_bounds_the_windows(tmp_path):
    small = replace(ENCODER, max_s=1.0)
    _, (layers,) = _extract([3.33], tmp_path / "pieces", Timing(10.0), small)
    expected = average_to_rate(_whole(3.33)[0][None], 50.0, 10.0)[0]
    np.testing.assert_allclose(layers[0][:, :2], expected[:, :2], atol=2e-3)
    _, (layers,) = _extract([3.33], tmp_path / "windows", Timing(10.0, 30.0), small)
    np.testing.assert_allclose(layers[0][:, :2], expected[:, :2], atol=2e-3)
    _, (layers,) = _extract([3.33], tmp_path / "of_task", Timing(10.0), piece_s=1.0)
    np.testing.assert_allclose(layers[0][:, :2], expected[:, :2], atol=2e-3)


@pytest.mark.parametrize("timing", [Timing(8.0), Timing(8.0, 2.0), Timing(None, 2.0), Timing(8.0, 0.95)])
@pytest.mark.parametrize("max_s", [None, 1.5])
def test_nothing_is_lost_of_an_encoder_that_drops_what_remains_of_its_stretches(tmp_path, timing, max_s):
    def load(path, device):
        return _load(path, device, dropped=7200)  # 0.9 s

    stretching = replace(ENCODER, load=load, stretch_s=0.9, max_s=max_s)
    _, (layers,) = _extract([4.0], tmp_path, timing, stretching, times=True)
    rate = timing.feature_rate_hz or 50.0
    times = layers[0][:, 0].astype(float)
    assert len(times) == pytest.approx(4 * rate, abs=1)
    expected = (np.arange(len(times)) + 0.5) / rate
    assert np.abs(times - expected)[:-1].max() < 0.03  # a frame of the layer is 0.02 s
    assert times[-1] > 3.9


def test_what_an_encoder_hears_twice_is_counted():
    windows = Windows.of(ENCODER, None, Timing(10.0, 2.0))
    assert [windows.count_encoded_s(length_s) for length_s in (1.5, 2.0, 3.0, 9.5)] == [1.5, 2.0, 4.0, 18.0]
    assert Windows.of(ENCODER, 2.0, Timing(10.0)).count_encoded_s(6.0) == pytest.approx(6.2)  # 0.1 s beyond two of them


def test_windows_too_short_for_an_encoder_are_refused_before_any_work(tmp_path):
    with pytest.raises(UsageError, match=r"placed needs 0.1 s of audio at once, and the task gives 0.05 s"):
        _extract([1.0], tmp_path, Timing(None, 0.05))


def test_a_window_that_gives_too_few_frames_moves_none_of_those_behind_it():
    windows = Windows.of(ENCODER, None, Timing(10.0, 2.0))
    rows = [np.zeros((20, 3), np.float16)] * len(windows.cut(5 * RATE))
    assert len(windows.join(rows, 10.0, 5 * RATE)) == 50
    rows[1] = rows[1][:12]
    with pytest.raises(BenchError, match=r"a window of 2.000 s gave 12 frames, and 15 were needed at 10 a second"):
        windows.join(rows, 10.0, 5 * RATE)


def test_keys_and_facts_of_what_declares_neither_are_what_they_were():
    mfcc, facts = plugins.find_encoder("mfcc"), {"clip_normalize": "peak"}
    plain = frames.make_key(mfcc, "0" * 64, 0, facts, None)
    # the facts of a store of `gtzan-rhythm`, as it was before
    assert {name: value for name, value in plain.facts().items() if name != "source"} == {
        "encoder": "mfcc",
        "version": 1,
        "weights_sha256": "0" * 64,
        "sample_rate_hz": 22050,
        "normalize": "peak",
        "clip_normalize": "peak",
        "kind": "frames",
        "dtype": "float32",
        "channels": "mean",
        "layer": "frames",
        "averaged": 1,
        "cut": {"piece": None, "beyond": 0, "stretch": 1, "least": round(mfcc.min_s * 22050), "piece_s": None},
        "pipeline": 1,
    }
    assert Events().facts() == []
    assert len(Frames((MomentPart("a"),)).facts()) == 4
    made = [frames.make_key(mfcc, "0" * 64, 0, facts, None, timing=each).digest for each in _EVERY]
    assert len(set(made)) == len(_EVERY)
    assert plain.digest == made[0]


_EVERY = [Timing(), Timing(25.0), Timing(2.0), Timing(25.0, 30.0), Timing(25.0, 24.0), Timing(None, 30.0)]


def test_both_stand_in_the_hash_of_a_task_and_are_checked():
    named = plugins.find_task(str(PLUGINS / "frames" / "toy_frames.py"))
    targets = [named.task.target]
    targets += [replace(targets[0], feature_rate_hz=each.feature_rate_hz, context_s=each.context_s) for each in _EVERY]
    hashes = [keys.hash_task(replace(named, task=replace(named.task, target=each))) for each in targets]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == len(_EVERY)
    bad = replace(targets[0], feature_rate_hz=0, context_s=math.inf)
    assert bad.problems() == [
        "target has the feature_rate_hz 0: give a number above 0, or leave it out",
        "target has the context_s inf: give a number above 0, or leave it out",
    ]


def test_labels_at_the_common_rate_are_those_of_the_frames():
    target = Frames((ClassPart("a", ("x", "y")), MomentPart("b")), 4.0, lambda *_: [], feature_rate_hz=4.0)
    rows = align_labels(target, [np.array([[0], [1], [0], [1]], np.float32), (0.7,)], 4, 4.0)
    np.testing.assert_array_equal(rows[:, 0], [0, 1, 0, 1])
    np.testing.assert_array_equal(rows[:, 1], [0, 1, 1, 1])  # 0.7 s x 4 = 2.8: frame 2, and its neighbours
