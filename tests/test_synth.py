"""Synthesised music is what it says, and the same bytes everywhere."""

import hashlib

import librosa
import numpy as np
import pytest
import soundfile

from marble_bench.audio import synth

RATE = 22050


def test_pitches_are_equal_temperament():
    for pitch in range(21, 109):
        assert synth.hertz(pitch) == pytest.approx(librosa.midi_to_hz(pitch), rel=1e-8)
    assert synth.hertz(60.5) == pytest.approx(librosa.midi_to_hz(60.5), rel=1e-3)


def test_the_table_is_a_sine():
    cycles = np.linspace(0, 50, 10001)
    assert np.abs(synth.sine(cycles) - np.sin(2 * np.pi * cycles)).max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("timbre", sorted(synth.TIMBRES))
def test_a_note_sounds_at_its_pitch(timbre):
    heard = librosa.pyin(synth.note(57, 1.0, RATE, timbre), fmin=60, fmax=800, sr=RATE)[0]
    assert np.nanmedian(heard) == pytest.approx(220.0, rel=0.01)


def test_a_triad_has_the_notes_of_its_scale():
    assert synth.triad(60, "major", 0) == [60, 64, 67]
    assert synth.triad(60, "minor", 0) == [60, 63, 67]
    sound = synth.chord(synth.triad(60, "major", 4), 3.2, RATE, "piano")
    chroma = librosa.feature.chroma_cqt(y=sound, sr=RATE).mean(axis=1)
    assert set(np.argsort(chroma)[-3:]) == {7, 11, 2}  # G, B, D


def test_vibrato_swings_as_fast_and_as_wide_as_asked():
    curve = synth.vibrato(440.0, 2.0, RATE, speed_hz=6.0, depth=0.03)
    assert curve.max() / 440 == pytest.approx(1.03, abs=1e-3)
    crossings = np.flatnonzero((curve[:-1] < 440) & (curve[1:] >= 440))
    assert len(crossings) == pytest.approx(12, abs=1)


def test_drums_differ_in_brightness():
    random = np.random.default_rng(0)
    bright = [
        librosa.feature.spectral_centroid(y=sound, sr=RATE, n_fft=1024).mean()
        for sound in (synth.kick(RATE), synth.snare(RATE, random), synth.hihat(RATE, random))
    ]
    assert bright[0] < 500 < bright[1] < bright[2]


def test_what_is_placed_beyond_the_ends_is_left_out():
    mix = np.zeros(10)
    synth.place(mix, np.ones(4), -2.0, 1)
    synth.place(mix, np.ones(4), 8.0, 1, level=2.0)
    synth.place(mix, np.ones(4), 30.0, 1)
    assert mix.tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 2, 2]


@pytest.mark.parametrize("suffix", ["wav", "au", "flac"])
def test_what_is_written_is_what_was_made(tmp_path, suffix):
    sound = np.stack([synth.tone(440.0, 0.2, RATE), synth.tone(550.0, 0.2, RATE)], axis=1)
    synth.write(tmp_path / f"deep/x.{suffix}", sound, RATE)
    back, rate = soundfile.read(tmp_path / f"deep/x.{suffix}", dtype="int16")
    assert rate == RATE
    assert np.array_equal(back, synth.quantize_to_int16(sound))
    assert np.abs(back).max() == round(0.8 * 32767)


def test_the_samples_are_the_same_everywhere():
    random = np.random.default_rng(1)
    mix = np.zeros(RATE)
    synth.place(mix, synth.note(60, 0.8, RATE, "guitar", 0.3), 0.0, RATE)
    synth.place(mix, synth.tone(synth.vibrato(330.0, 0.5, RATE), 0.5, RATE, synth.TIMBRES["voice"]), 0.3, RATE)
    for at, sound in enumerate((synth.kick(RATE), synth.snare(RATE, random), synth.hihat(RATE, random))):
        synth.place(mix, sound, 0.25 * at, RATE)
    mix = synth.distorted(mix, 1.5) + synth.noise(1.0, RATE, random, smooth=4)
    digest = hashlib.sha256(synth.quantize_to_int16(mix).tobytes()).hexdigest()
    assert digest == "d630e7f9ef7ea438c1dc1f2abb1466c9ce0a5ca7d9b9dca270abd2c87cab16b4"
