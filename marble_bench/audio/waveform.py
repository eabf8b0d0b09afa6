"""Samples in memory: mean of channels, resampling, normalisation, windows, and what is odd about a sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from marble_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Normalize = Literal["none", "peak", "zscore"]
Channel = Literal["mean", "first"]  # how several channels become one
CANCELS = 0.01  # power of the mean of the channels over the mean of their powers: 20 dB below
LOUD = 10.0  # a peak so far beyond full scale (20 dB) comes of samples that were never scaled to [-1, 1]
ABSURD = 2.0**33  # beyond every scale of integers
QUIET = 1e-4  # a peak of -80 dB below full scale, three steps of 16 bits
# what is odd about a file that can be used all the same; worded to follow "n clips"
ODDITIES = {
    "cancels": "whose channels cancel each other: their mean is 20 dB below them or more",
    "loud": f"with samples beyond {LOUD:g} where full scale is 1, as if integers were stored as floats",
    "quiet": "whose mean of channels stays 80 dB below full scale",
    "surplus": "with bytes behind the samples that belong to nothing",
    "size": "whose container tells another size than the file has",
    "cut": "of mp3 that end inside a frame, as if cut",
    "foreign": "of mp3 with bytes between its frames that belong to nothing",
    "longer": "of mp3 with more frames than the header tells; all are read",
}


class Unusable(DataError):
    """A file that is not damaged but cannot be used: its message, unlike that of other faults, holds the next step."""


def average_channels(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(samples, channels)` -> `(samples,)`; two are added and halved: the same numbers in a tenth of the time."""
    import numpy as np

    if samples.shape[1] == 2:
        return (samples[:, 0] + samples[:, 1]) * np.float32(0.5)
    mean: NDArray[np.float32] = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return mean


def resample(samples: NDArray[np.float32], rate_hz: int, to_hz: int) -> NDArray[np.float32]:
    """`(samples,)` or `(samples, channels)` float32 at another rate, by soxr (HQ)."""
    import soxr

    if rate_hz == to_hz:
        return samples
    done: NDArray[np.float32] = soxr.resample(samples, rate_hz, to_hz, quality="HQ")
    return done


class Resampler:
    """Resamples a sound block by block: the same numbers, to the bit, as `resample` gives of the whole."""

    def __init__(self, rate_hz: int, to_hz: int, channels: int) -> None:
        import soxr

        self.stream = (
            None if rate_hz == to_hz else soxr.ResampleStream(rate_hz, to_hz, channels, dtype="float32", quality="HQ")
        )

    def add(self, block: NDArray[np.float32], last: bool = False) -> NDArray[np.float32]:
        """What is ready after a block, `(samples,)` or `(samples, channels)`; with the last one all the rest."""
        if self.stream is None:
            return block
        done: NDArray[np.float32] = self.stream.resample_chunk(block, last=last)
        return done


class SampleBuffer:
    """Samples that are added block by block, in memory once: the array grows in place."""

    def __init__(self) -> None:
        import numpy as np

        self.held, self.count = np.empty(1 << 16, np.float32), 0

    def add(self, block: NDArray[np.float32]) -> None:
        """block: of one dimension, or with channels, which are then kept one sample frame after another."""
        flat = block.reshape(-1)
        needed = self.count + len(flat)
        if needed > len(self.held):
            self.held.resize(max(needed, len(self.held) * 3 // 2), refcheck=False)
        self.held[self.count : needed] = flat
        self.count = needed

    def all(self) -> NDArray[np.float32]:
        """`(values,)` of everything; nothing can be added after."""
        self.held.resize(self.count, refcheck=False)
        return self.held


@dataclass
class Levels:
    """Measures of a sound, taken while it is read: largest magnitudes, powers of its channels and of their mean."""

    peak: float = 0.0
    mono_peak: float = 0.0
    power: float = 0.0
    mono_power: float = 0.0

    def add(self, block: NDArray[np.float32], mono: NDArray[np.float32]) -> None:
        """block: `(samples, channels)`. mono: their mean. Raises DataError if a sample is no number."""
        import numpy as np

        peak = float(max(block.max(), -block.min()))
        if not np.isfinite(peak):
            raise DataError("has samples that are NaN or infinite")
        if peak > ABSURD:
            raise DataError(f"has samples of {peak:.3g}, where full scale is 1")
        self.peak = max(self.peak, peak)
        if block.shape[1] == 1:
            self.mono_peak = self.peak
            return
        self.mono_peak = max(self.mono_peak, float(max(mono.max(), -mono.min())))
        flat = np.ascontiguousarray(block).reshape(-1)
        self.power += float(np.dot(flat, flat)) / block.shape[1]
        self.mono_power += float(np.dot(mono, mono))

    @property
    def oddities(self) -> list[str]:
        """Keys of `ODDITIES`."""
        found = []
        if self.power and self.mono_power < CANCELS * self.power:
            found.append("cancels")
        elif self.mono_peak < QUIET:
            found.append("quiet")
        if self.peak > LOUD:
            found.append("loud")
        return found


def normalize(waveform: NDArray[np.float32], how: Normalize) -> NDArray[np.float32]:
    """`(samples,)` as it is (`none`), over its largest magnitude (`peak`), or with mean 0 and variance 1 (`zscore`).

    zscore divides by sqrt(variance + 1e-7), the population variance, as transformers' Wav2Vec2FeatureExtractor does.
    """
    import numpy as np

    if how == "peak":
        scaled: NDArray[np.float32] = (waveform / np.abs(waveform).max()).astype(np.float32)
        return scaled
    if how == "zscore":
        exact = waveform.astype(np.float64)
        standard: NDArray[np.float32] = ((exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)).astype(np.float32)
        return standard
    return waveform


def cut(waveform: NDArray[np.float32], length: int | None, first: int | None = None) -> NDArray[np.float32]:
    """`(samples,)` -> `(windows, length)`: equal windows one after another; a remainder is dropped.

    length: samples of a window, None for one window of all. first: use only so many samples.
    Raises DataError (without the file's name, which the caller knows) if there is less than one window.
    """
    used = waveform[:first]
    if length is None:
        return used[None]
    windows = len(used) // length
    if not windows:
        raise DataError(f"{len(used):,} samples are less than one window of {length:,}")
    return used[: windows * length].reshape(windows, length)


def cut_padded(
    samples: NDArray[np.float32], rate_hz: int, length_s: float, min_ratio: float, to_hz: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Windows `(windows, int(length_s * to_hz))` of `(samples,)` at another rate, and each one's valid samples `(windows,)`.

    Windows follow one another in samples of the given rate, `int(length_s * rate_hz)` each; a remainder of at least
    `min_ratio` of a window is kept. Each is resampled by itself, then padded with zeros on the right. There may be none.
    Source: `BaseAudioDataset` of MARBLE's second version.
    """
    import numpy as np

    piece, length = int(length_s * rate_hz), int(length_s * to_hz)
    whole, rest = divmod(len(samples), piece)
    count = whole + (rest / piece >= min_ratio)
    windows, valid = np.zeros((count, length), np.float32), np.full(count, length, np.int64)
    for place in range(count):
        part = resample(samples[place * piece : (place + 1) * piece], rate_hz, to_hz)[:length]
        windows[place, : len(part)] = part
        if place == whole:  # a whole window lacks at most what resampling rounds away
            valid[place] = len(part)
    return windows, valid
