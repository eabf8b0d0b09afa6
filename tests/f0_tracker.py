"""A stated solver of the miniatures of melody: what goes on unchanged is taken off the spectrum, and the pitch is the one
whose harmonics hold most of what remains."""

import numpy as np
import soundfile
from scipy.ndimage import median_filter

from marble_bench.scoring.pitch_decoder import CENTRES

WINDOW, SIZE, HARMONICS, EVERY, HIGHEST = 1024, 4096, 8, 4, 1024


def track(path, labels_hz, steady_s=0.0):
    """MIDI numbers and salience `(frames,)` at the labels' times.

    Harmonic h of a pitch weighs 0.8 ** (h - 1). steady_s: the median over so many seconds is taken off the spectrum.
    """
    sound, rate = soundfile.read(path)
    count = int(np.ceil(len(sound) / rate * labels_hz))
    padded = np.pad(sound, (WINDOW // 2, WINDOW))
    starts = np.round(np.arange(0, count, EVERY) / labels_hz * rate).astype(int)
    spectra = np.abs(np.fft.rfft(padded[starts[:, None] + np.arange(WINDOW)] * np.hanning(WINDOW), SIZE))[:, :HIGHEST]
    if steady_s:
        length = 2 * round(steady_s * labels_hz / EVERY / 2) + 1
        spectra = np.maximum(spectra - median_filter(spectra, (length, 1), mode="nearest"), 0)
    spectra = np.sqrt(spectra)
    hz = 440 * 2 ** ((np.array(CENTRES) - 69) / 12)
    salience = np.zeros((len(starts), len(hz)))
    for harmonic in range(1, HARMONICS + 1):
        at = np.round(harmonic * hz * SIZE / rate).astype(int)
        salience += 0.8 ** (harmonic - 1) * spectra[:, at.clip(max=HIGHEST - 1)] * (at < HIGHEST)
    near = np.minimum((np.arange(count) + EVERY // 2) // EVERY, len(starts) - 1)
    return np.array(CENTRES)[salience.argmax(axis=1)][near], median_filter(salience.max(axis=1), 5)[near]
