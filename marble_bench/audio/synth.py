"""Music made of arithmetic, for miniature corpora: tones, chords, drums, mixes. Knows no task.

The same bytes on every machine: tones come from a sine table rounded to multiples of 2**-24, everything else from sums,
products, quotients and integer random numbers, which IEEE 754 and NumPy's PCG64 fix exactly. No filter and no power or
exponential of a library's own making reaches a sample.

Sounds are `(samples,)` float64 around [-1, 1]; pitches are MIDI numbers (69 is 440 Hz), lengths are seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Sound = NDArray[Any]

TABLE = 1 << 16
SEMITONES = tuple(round(2 ** (step / 12), 9) for step in range(12))
SCALES = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 10)}
# Amplitudes of the harmonics, the fundamental first.
TIMBRES = {
    "flute": (1.0, 0.15, 0.05),
    "organ": (1.0, 0.8, 0.5, 0.5, 0.0, 0.3, 0.0, 0.3),
    "brass": (0.6, 0.9, 1.0, 0.8, 0.6, 0.45, 0.3, 0.2, 0.12),
    "string": (1.0, 0.5, 0.33, 0.25, 0.2, 0.17, 0.14, 0.12, 0.11, 0.1),
    "reed": (1.0, 0.05, 0.6, 0.05, 0.4, 0.05, 0.25, 0.05, 0.15),
    "piano": (1.0, 0.45, 0.25, 0.12, 0.06, 0.03),
    "guitar": (1.0, 0.7, 0.4, 0.3, 0.2, 0.15, 0.08),
    "bass": (1.0, 0.5, 0.2, 0.05),
    "voice": (0.8, 1.0, 0.55, 0.2, 0.35, 0.4, 0.12, 0.05),
}


@lru_cache(maxsize=1)
def _build_sine_table() -> Sound:
    import numpy as np

    exact = np.sin(2 * np.pi * np.arange(TABLE) / TABLE)
    rounded: Sound = np.round(exact * 2**24) / 2**24
    return rounded


def hertz(pitch: float) -> float:
    """The frequency of a MIDI pitch; between semitones by a straight line.

    >>> hertz(69), hertz(57)
    (440.0, 220.0)
    """
    low = int(pitch // 1)
    octave, step = divmod(low - 69, 12)
    here = 440.0 * SEMITONES[step] * 2.0**octave
    above = here * SEMITONES[1]
    return here + (pitch - low) * (above - here)


def sine(cycles: Sound) -> Sound:
    """`(samples,)` phases in cycles, none negative -> the sine of them, the nearest of the table (80 dB clean)."""
    import numpy as np

    at = (cycles * TABLE + 0.5).astype(np.int64) & (TABLE - 1)
    value: Sound = _build_sine_table()[at]
    return value


def tone(hz: float | Sound, length_s: float, rate_hz: int, harmonics: Sequence[float] = (1.0,)) -> Sound:
    """A steady tone; `hz` may be a curve of `(samples,)`. Harmonics at or above half the rate are left out."""
    import numpy as np

    samples = round(length_s * rate_hz)
    curve = np.broadcast_to(np.asarray(hz, np.float64), (samples,))
    cycles = np.cumsum(curve / rate_hz)
    highest = float(curve.max()) if samples else 0.0
    out = np.zeros(samples)
    for index, level in enumerate(harmonics, 1):
        if level and index * highest < rate_hz / 2:
            out += level * sine(index * cycles)
    return out / sum(harmonics)


def vibrato(hz: float, length_s: float, rate_hz: int, speed_hz: float = 5.5, depth: float = 0.02) -> Sound:
    """A curve of frequency that swings by `depth` (a fraction of it) `speed_hz` times a second."""
    import numpy as np

    cycles = np.arange(round(length_s * rate_hz)) * (speed_hz / rate_hz)
    return hz * (1 + depth * sine(cycles))


def shaped(sound: Sound, rate_hz: int, attack_s: float = 0.01, release_s: float = 0.03, fall_s: float = 0.0) -> Sound:
    """A sound with a straight attack and release, and if `fall_s` is given, falling away with that time constant."""
    import numpy as np

    samples = len(sound)
    place = np.arange(samples)
    rise = np.minimum(1.0, (place + 1) / max(1, round(attack_s * rate_hz)))
    end = np.minimum(1.0, (samples - place) / max(1, round(release_s * rate_hz)))
    out: Sound = sound * rise * end
    if fall_s:
        out = out * np.cumprod(np.full(samples, 1 - 1 / (fall_s * rate_hz)))
    return out


def note(
    pitch: float, length_s: float, rate_hz: int, timbre: str, fall_s: float = 0.0, attack_s: float = 0.01
) -> Sound:
    """A note of a timbre of TIMBRES; plucked if `fall_s` is given."""
    plain = tone(hertz(pitch), length_s, rate_hz, TIMBRES[timbre])
    return shaped(plain, rate_hz, attack_s, min(0.05, length_s / 4), fall_s)


def chord(pitches: Sequence[float], length_s: float, rate_hz: int, timbre: str, fall_s: float = 0.0) -> Sound:
    """Notes together, as loud as one."""
    import numpy as np

    notes = [note(pitch, length_s, rate_hz, timbre, fall_s) for pitch in pitches]
    stacked: Sound = np.sum(notes, axis=0) / len(notes)
    return stacked


def triad(tonic: int, mode: str, degree: int) -> list[int]:
    """The pitches of a scale's triad; degree 0 is the tonic's.

    >>> triad(60, "minor", 4)
    [67, 70, 74]
    """
    scale = SCALES[mode]
    return [tonic + scale[(degree + step) % 7] + 12 * ((degree + step) // 7) for step in (0, 2, 4)]


def noise(length_s: float, rate_hz: int, random: np.random.Generator, smooth: int = 1) -> Sound:
    """White noise, or darker: the running mean over `smooth` samples."""
    import numpy as np

    samples = round(length_s * rate_hz)
    white = random.random(samples + smooth) * 2 - 1
    summed = np.cumsum(white)
    dark: Sound = (summed[smooth:] - summed[:-smooth]) / smooth
    return dark


def kick(rate_hz: int) -> Sound:
    """A bass drum: a tone that sinks from 120 to 45 Hz."""
    import numpy as np

    samples = round(0.25 * rate_hz)
    curve = 45 + 75 * np.cumprod(np.full(samples, 1 - 1 / (0.04 * rate_hz)))
    return shaped(tone(curve, 0.25, rate_hz), rate_hz, 0.001, 0.02, 0.09)


def snare(rate_hz: int, random: np.random.Generator) -> Sound:
    """A snare drum: noise over a short tone."""
    body = 0.5 * tone(185.0, 0.18, rate_hz) + 0.8 * noise(0.18, rate_hz, random)
    return shaped(body, rate_hz, 0.001, 0.02, 0.05)


def hihat(rate_hz: int, random: np.random.Generator) -> Sound:
    """A closed hi-hat: the difference of noise with its own running mean, which leaves the treble."""
    import numpy as np

    white = random.random(round(0.06 * rate_hz) + 1) * 2 - 1
    return shaped(np.diff(white) / 2, rate_hz, 0.001, 0.01, 0.015)


def distorted(sound: Sound, drive: float) -> Sound:
    """A sound driven into the soft limit 1.5 x - 0.5 x**3."""
    import numpy as np

    driven = np.clip(sound * drive, -1, 1)
    bent: Sound = 1.5 * driven - 0.5 * driven * driven * driven
    return bent


def place(mix: Sound, sound: Sound, at_s: float, rate_hz: int, level: float = 1.0) -> None:
    """Add a sound to a mix in place; what hangs over its end is left out."""
    start = round(at_s * rate_hz)
    room = mix[max(start, 0) : start + len(sound)]
    room += level * sound[max(-start, 0) :][: len(room)]


def write(path: Path, sound: Sound, rate_hz: int, peak: float = 0.8) -> None:
    """Write `(samples,)` or `(samples, channels)` with 16 bits, its largest magnitude at `peak`; the suffix is the format.

    wav, au, flac and mp3 (at libsndfile's own bit rate). The folder is made if it is not there.
    """
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, quantize_to_int16(sound, peak), rate_hz, format=path.suffix[1:].upper())


def quantize_to_int16(sound: Sound, peak: float = 0.8) -> Sound:
    """A sound as int16, its largest magnitude at `peak` of full scale; silence stays silence."""
    import numpy as np

    loudest = float(np.abs(sound).max())
    scaled: Sound = np.round(sound * (peak * 32767 / loudest if loudest else 1.0)).astype(np.int16)
    return scaled
