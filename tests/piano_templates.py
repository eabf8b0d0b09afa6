"""A stated solver of the miniature of a piano: how much of each key's harmonics explains a frame's spectrum."""

import numpy as np
import soundfile

from marble_bench.metrics.transcription import FRAMES_HZ, PITCHES

WINDOW, SIZE, HIGHEST, ROUNDS = 2048, 4096, 1000, 40
KEYS = range(40, 90)  # MIDI numbers that the miniature may use
DECAYS = (0.3, 0.5, 0.7)  # harmonic h of a template has the level decay ** (h - 1)


def make_templates(rate):
    """`(bins, keys x decays)` magnitudes of the window's spectrum at each harmonic."""
    times, window = np.arange(WINDOW) / rate, np.hanning(WINDOW)
    columns = []
    for key in KEYS:
        hz = 440 * 2 ** ((key - 69) / 12)
        for decay in DECAYS:
            waves = [decay ** (h - 1) * np.sin(2 * np.pi * h * hz * times) for h in range(1, 9) if h * hz < rate / 2]
            spectrum = np.abs(np.fft.rfft(np.sum(waves, axis=0) * window, SIZE))[:HIGHEST]
            columns.append(spectrum / np.linalg.norm(spectrum))
    return np.array(columns).T


def explain(path):
    """`(frames, 88)` activations: nonnegative factors of the magnitudes by Kullback-Leibler, templates fixed."""
    sound, rate = soundfile.read(path)
    count = int(np.ceil(len(sound) / rate * FRAMES_HZ))
    starts = np.round((np.arange(count) + 0.5) / FRAMES_HZ * rate).astype(int)
    padded = np.pad(sound, (WINDOW // 2, WINDOW))
    spectra = np.abs(np.fft.rfft(padded[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW), SIZE))
    spectra = spectra[:, :HIGHEST].T + 1e-3
    templates = make_templates(rate)
    factors = np.ones((templates.shape[1], count))
    for _ in range(ROUNDS):
        factors *= (templates.T @ (spectra / (templates @ factors + 1e-6))) / templates.sum(axis=0)[:, None]
    levels = factors.reshape(len(KEYS), len(DECAYS), count).sum(axis=1).T
    roll = np.zeros((count, len(PITCHES)))
    roll[:, [PITCHES.index(str(key)) for key in KEYS]] = levels
    return roll
