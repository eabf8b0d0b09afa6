"""Where a recording's voice begins: SoX's `vad` effect, as `torchaudio.functional.vad` computes it with its defaults.

MARBLE cuts VocalSet into chunks from there on, so the published lists of chunks mean nothing without it. Twenty times a
second, a tenth of a second's spectrum is smoothed over time, an adaptive estimate of the noise is taken off, and the
power of its cepstrum between the lifters is measured in nepers above a floor. When the running mean of that measure
reaches the trigger, the effect looks back up to a second for quieter sound, over gaps of up to a quarter of a second.

Tested against torchaudio 2.9.1 run once. Source: SoX's manual, effect `vad`; the defaults are its own.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

MEASURES_HZ = 20.0
MEASURE_S = 2 / MEASURES_HZ
TRIGGER = 7.0
TRIGGER_S = 0.25
SEARCH_S = 1.0
GAP_S = 0.25
BOOT_S = 0.35
NOISE_UP_S, NOISE_DOWN_S, NOISE_TAKEN_OFF = 0.1, 0.01, 1.35
SMOOTH_S = 0.4
BAND_HZ = (50.0, 6000.0)
LIFTER_HZ = (150.0, 2000.0)
FLOOR = 21.0


def _kept(time_s: float) -> float:
    """What a time constant keeps from one measure to the next."""
    return math.exp(-1 / (time_s * MEASURES_HZ))


@dataclass
class _Meter:
    """The smoothed spectrum and the noise under it, as they are after the measures so far."""

    rate_hz: int

    def __post_init__(self) -> None:
        import numpy as np
        from scipy.signal.windows import hann

        self.length = int(self.rate_hz * MEASURE_S + 0.5)
        self.points = max(16, 1 << (self.length - 1).bit_length())
        self.band = slice(
            max(1, int(BAND_HZ[0] / self.rate_hz * self.points + 0.5)),
            min(self.points // 2, int(BAND_HZ[1] / self.rate_hz * self.points + 0.5)),
        )
        width = self.band.stop - self.band.start
        self.window = (hann(self.length, sym=False) * 2 / math.sqrt(self.length)).astype(np.float32)
        self.taper = (hann(width, sym=False) * 2 / math.sqrt(width)).astype(np.float32)
        self.lifter = slice(
            math.ceil(self.rate_hz * 0.5 / LIFTER_HZ[1]),
            min(self.points // 4, math.floor(self.rate_hz * 0.5 / LIFTER_HZ[0])),
        )
        self.spectrum, self.noise = np.zeros(width, np.float32), np.zeros(width, np.float32)
        self.count, self.boot = 0, int(BOOT_S * MEASURES_HZ - 0.5)

    def measure(self, samples: NDArray[Any]) -> float:
        """Take in the next `(length,)` samples; returns how much voice is in them, at least 0."""
        import numpy as np

        booting = self.count <= self.boot
        now = np.abs(np.fft.rfft(samples * self.window, self.points)[self.band]).astype(np.float32)
        keep = self.count / (1 + self.count) if booting else _kept(SMOOTH_S)
        self.spectrum = np.float32(keep) * self.spectrum + np.float32(1 - keep) * now
        power = self.spectrum**2
        keeps = 0.0 if booting else np.where(power > self.noise, _kept(NOISE_UP_S), _kept(NOISE_DOWN_S))
        self.noise = (keeps * self.noise + (1 - keeps) * power).astype(np.float32)
        self.count += 1
        clean = np.zeros(self.points // 2, np.float32)
        clean[self.band] = np.sqrt(np.maximum(0, power - NOISE_TAKEN_OFF * self.noise)) * self.taper
        total = float((np.abs(np.fft.rfft(clean)[self.lifter]) ** 2).sum())
        return max(0.0, FLOOR + math.log(total / (self.lifter.stop - self.lifter.start))) if total > 0 else 0.0


def voice_start(samples: NDArray[Any], rate_hz: int) -> int | None:
    """The sample at which the voice begins in `(samples,)`, or None if none is found (MARBLE then has no chunks)."""
    meter = _Meter(rate_hz)
    period, back = int(rate_hz / MEASURES_HZ + 0.5), math.ceil(SEARCH_S * MEASURES_HZ)
    recent: deque[float] = deque([0.0] * back, maxlen=back)  # the newest first
    mean, keep = 0.0, _kept(TRIGGER_S)
    for end in range(meter.length, len(samples), period):
        recent.appendleft(meter.measure(samples[end - meter.length : end]))
        mean = mean * keep + recent[0] * (1 - keep)
        if mean >= TRIGGER:
            flushed = (back - _measures_before(list(recent))) * period
            return max(end - (back * period + meter.length) + flushed, 0)
    return None


def _measures_before(recent: list[float]) -> int:
    """How many measures back from the trigger the voice begins; `recent` from the newest on."""
    gap = int(GAP_S * MEASURES_HZ + 0.5)
    loud = quiet = len(recent)
    for place, level in enumerate(recent):
        if level >= TRIGGER and place <= loud + gap:
            quiet = loud = place
        elif level == 0 and loud >= quiet:
            quiet = place
    return min(len(recent) - 1, quiet)
