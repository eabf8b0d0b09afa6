"""The decoder finds the beats that madmom's own finds."""

from pathlib import Path

import numpy as np
import pytest

from marble_bench.errors import UsageError
from marble_bench.scoring import beat_decoder
from marble_bench.scoring.beat_decoder import BARS, BEATS, decode

GOLDEN = Path(__file__).parent / "golden" / "beats" / "madmom.npz"


def _curves():
    golden = np.load(GOLDEN)
    curves = np.split((golden["curves"] + 0.5) / 256, np.cumsum(golden["lengths"])[:-1])
    found = np.split(golden["found"], np.cumsum(golden["founds"])[:-1])
    return list(zip(curves, golden["rates"].tolist(), golden["bars"].tolist(), found, strict=True))


@pytest.mark.slow
def test_beats_of_200_curves_are_madmoms():
    every = _curves()
    assert len(every) == 200
    for rate in sorted({rate for _, rate, _, _ in every}):
        for tempo in (BEATS, BARS):
            members = [each for each in every if each[1] == rate and each[2] == (tempo is BARS)]
            times = decode([curve for curve, *_ in members], rate, tempo)
            for (_, _, _, expected), mine in zip(members, times, strict=True):
                assert np.array_equal(np.round(mine * rate), expected)


def test_a_curve_is_decoded_alike_alone_and_among_others(monkeypatch):
    curves = [curve for curve, rate, bars, _ in _curves() if rate == 75.0 and not bars][:12]
    monkeypatch.setattr(beat_decoder, "TOGETHER_BYTES", 64 << 20)
    together = decode(curves, 75.0)
    monkeypatch.setattr(beat_decoder, "TOGETHER_BYTES", 1)
    for curve, times in zip(curves, together, strict=True):
        assert np.array_equal(decode([curve], 75.0)[0], times)


@pytest.mark.parametrize("rate", [43.066, 50.0, 75.0, 86.13])
def test_a_clear_pulse_is_found_where_it_is(rate):
    beats = 0.37 + np.arange(0, 20, 60 / 128)
    curve = np.full(round(20.5 * rate), 0.02)
    at = np.round(beats * rate).astype(int)
    curve[at[at < len(curve)]] = 0.9
    (found,) = decode([curve], rate)
    assert np.abs(found[:, None] - beats).min(axis=0).max() <= 0.5 / rate + 1e-9
    assert len(found) <= len(beats) + 1


def test_silence_has_no_beats_and_nothing_gives_nothing():
    assert decode([np.zeros(500), np.zeros(3)], 75.0)[0].size == 0
    assert decode([], 75.0) == []


def test_too_few_frames_a_second_are_refused_with_what_is_needed():
    with pytest.raises(UsageError, match=r"5 frames a second are too few .* at least 7\.2"):
        decode([np.ones(100)], 5.0)
