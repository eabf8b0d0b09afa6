"""The level curve against numpy, and against sounds of a known level."""

import numpy as np
import pytest
import torch

from marble_bench.core import plugins

RATE = 22050
LOUDNESS = plugins.find_encoder("loudness")


def _encode(waveforms):
    return [layer.numpy() for layer in LOUDNESS.load(None, "cpu")(waveforms, lambda frames: frames)]


def _level_db(samples):
    return 20 * np.log10(max(np.sqrt(np.mean(np.square(samples, dtype=np.float64))), 1e-5))


@pytest.mark.parametrize("length_s", [0.1, 1.0, 3.217])
def test_levels_are_the_root_mean_squares_of_numpy(length_s):
    random = np.random.default_rng(0)
    samples = round(length_s * RATE)
    swell = np.linspace(1e-4, 1, samples)
    waveforms = (random.normal(size=(2, samples)) * 0.2 * swell).astype(np.float32)
    frames, curve, moments = _encode(torch.from_numpy(waveforms))
    for number, window in enumerate(waveforms):
        expected = [_level_db(window[start : start + 441]) for start in range(0, samples - 440, 441)]
        np.testing.assert_allclose(frames[number, :, 0], expected, atol=1e-3)
        edges = [(k * samples // 32, -(-(k + 1) * samples // 32)) for k in range(32)]
        np.testing.assert_allclose(curve[number, 0], [_level_db(window[start:end]) for start, end in edges], atol=1e-3)
        np.testing.assert_allclose(moments[number, 0], [np.mean(expected), np.std(expected)], atol=1e-3)


def test_a_full_scale_sine_has_minus_three_decibels_and_silence_the_floor():
    time_s = torch.arange(RATE) / RATE
    sine, silence = torch.sin(2 * torch.pi * 1000 * time_s), torch.zeros(RATE)
    frames, curve, moments = _encode(torch.stack([sine, 0.1 * sine, silence]))
    np.testing.assert_allclose(frames[0], -3.01, atol=0.01)
    np.testing.assert_allclose(frames[1], -23.01, atol=0.01)
    assert (frames[2] == -100).all()
    assert (curve[2] == -100).all()
    assert moments[2].tolist() == [[-100, 0]]


def test_sounds_of_equal_level_are_the_same_whatever_they_are():
    time_s = np.arange(2 * RATE) / RATE
    random = np.random.default_rng(1)
    sounds = [
        np.sin(2 * np.pi * 220 * time_s),
        np.sign(np.sin(2 * np.pi * 997 * time_s)),
        random.normal(size=2 * RATE),
    ]
    levelled = []
    for sound in sounds:
        frames = sound.reshape(-1, 441)
        levelled.append((0.1 * frames / np.sqrt(np.square(frames).mean(axis=1, keepdims=True))).ravel())
    frames, *_ = _encode(torch.from_numpy(np.stack(levelled).astype(np.float32)))
    np.testing.assert_allclose(frames, -20, atol=1e-3)
