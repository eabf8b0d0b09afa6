"""What can be done to a test clip: six changes that a listener hears through, each of one declared strength.

A change is made on the whole clip, mono, at the file's own rate, before anything is resampled, normalised or cut, so that
every encoder is given the same changed sound. It keeps the number of samples, so a clip gives as many windows as before.

- `gain`: 20 dB softer.
- `noise`: white noise at 20 dB SNR, power against power over the whole clip, Gaussian, seeded by the file's digest and the
  clip's start.
- `mp3`: to 64 kb/s mono and back, by libsndfile (LAME, constant bit rate).
- `low-pass`: Butterworth of order 8 at 4 kHz, 3 dB down there. A file of 8 kHz or less has nothing above and stays.
- `pitch-shift`: a semitone up, by librosa's phase vocoder. Moves the label where `Task.shifted` says so.
- `time-stretch`: slower by librosa's phase vocoder at rate 0.9, cut to the clip's own length. Faster would leave clips that
  are shorter than a window. Moves events.

The kinds are those of the Audio Degradation Toolbox (Mauch and Ewert, ISMIR 2013) and of Kim et al., "Are Nearby Neighbors
Relatives?" (2019); the strengths are this project's own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from marble_bench.errors import DataError, UsageError, suggest_name
from marble_bench.files.locks import one_at_a_time

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GAIN_DB = -20.0
SNR_DB = 20.0
MP3_BPS = 64_000
CUTOFF_HZ, ORDER = 4000.0, 8
SEMITONES = 1
RATE = 0.9
# the highest and lowest bit rate (kb/s) of each version of MPEG audio layer III, by its rates in Hz (ISO 11172-3, 13818-3)
MP3_RATES = (((32000, 44100, 48000), 320, 32), ((16000, 22050, 24000), 160, 8), ((8000, 11025, 12000), 64, 8))


@dataclass(frozen=True)
class Change:
    """One perturbation.

    what: kind and strength; part of the key that changed features are stored by. semitones: how far it moves every pitch.
    rate: what was at t seconds is then at t / rate.
    apply: `(samples,)` float32 mono, its rate in Hz and a seed -> as many samples.
    """

    name: str
    what: str
    apply: Callable[[NDArray[np.float32], int, int], NDArray[np.float32]]
    semitones: int = 0
    rate: float = 1.0


def apply_change(name: str, samples: NDArray[np.float32], rate_hz: int, seed: int) -> NDArray[np.float32]:
    """`(samples,)` float32 after a change. Raises DataError for a rate that an mp3 cannot have."""
    import numpy as np

    changed = np.ascontiguousarray(CHANGES[name].apply(samples, rate_hz, seed), np.float32)
    if changed.shape != samples.shape:
        raise DataError(
            f"'{name}' changed the number of samples from {len(samples):,} to {len(changed):,} at {rate_hz:,} Hz"
        )
    return changed


def parse_names(text: str) -> tuple[str, ...]:
    """The changes that `--perturb` asks for: names with commas, or `all`; in the order of `CHANGES`, each once.

    >>> parse_names("noise,gain")
    ('gain', 'noise')

    Raises UsageError for a name that is none.
    """
    asked = [part.strip() for part in text.split(",")]
    for part in asked:
        if part not in CHANGES and part != "all":
            choices = [*CHANGES, "all"]
            raise UsageError(
                f"--perturb: no perturbation '{part}'{suggest_name(part, choices)} (there are {', '.join(choices)})"
            )
    return tuple(CHANGES) if "all" in asked else tuple(name for name in CHANGES if name in asked)


def shift_target(shifted: Callable[[Any, int], Any] | None, target: Any, name: str) -> Any:
    """A clip's target after a change; None where it has left the labels. shifted: as `Task.shifted`."""
    semitones = CHANGES[name].semitones
    return shifted(target, semitones) if shifted and semitones else target


def shift_times(target: Sequence[Sequence[float] | None], name: str, length_s: float) -> Any:
    """A target of `Events` after a change, without what is then behind the end of its audio.

    None where fewer than two of the main kind are left, which tell no tempo.
    """
    rate = CHANGES[name].rate
    moved = [None if times is None else tuple(t / rate for t in times if t / rate < length_s) for times in target]
    return tuple(moved) if len(moved[0] or ()) > 1 else None


def seed_of(digest: str, start_s: float) -> int:
    """The seed of what is random about a clip: by its file's sha256 and where it starts."""
    return int(digest[:16] or "0", 16) + round(start_s * 1e6)


def _change_gain(samples: NDArray[np.float32], rate_hz: int, seed: int) -> NDArray[np.float32]:
    import numpy as np

    return samples * np.float32(10 ** (GAIN_DB / 20))


def _add_noise(samples: NDArray[np.float32], rate_hz: int, seed: int) -> NDArray[np.float32]:
    import numpy as np

    power = float(np.mean(np.square(samples, dtype=np.float64)))
    spread = (power / 10 ** (SNR_DB / 10)) ** 0.5
    random = np.random.default_rng(seed)
    return samples + np.float32(spread) * random.standard_normal(len(samples), np.float32)


def _encode_mp3(samples: NDArray[np.float32], rate_hz: int, seed: int) -> NDArray[np.float32]:
    import soundfile

    bounds = next(((high, low) for rates, high, low in MP3_RATES if rate_hz in rates), None)
    if bounds is None:
        known = sorted(rate for rates, _, _ in MP3_RATES for rate in rates)
        raise DataError(f"mp3 does not support {rate_hz:,} Hz (only {', '.join(map(str, known))}): leave 'mp3' out")
    high, low = bounds
    # libsndfile takes the bit rate as a place between the highest, 0, and the lowest, 1
    level = (high - MP3_BPS / 1000) / (high - low)
    held = io.BytesIO()
    facts = {"format": "MP3", "subtype": "MPEG_LAYER_III", "compression_level": level, "bitrate_mode": "CONSTANT"}
    soundfile.write(held, samples, rate_hz, **facts)
    held.seek(0)
    decoded: NDArray[np.float32] = soundfile.read(held, dtype="float32")[0]
    return decoded


def _filter_low_pass(samples: NDArray[np.float32], rate_hz: int, seed: int) -> NDArray[np.float32]:
    from scipy.signal import butter, sosfilt

    if rate_hz <= 2 * CUTOFF_HZ:
        return samples
    filtered: NDArray[np.float32] = sosfilt(butter(ORDER, CUTOFF_HZ, "lowpass", fs=rate_hz, output="sos"), samples)
    return filtered


@cache
def _compile() -> None:
    """Use librosa's phase vocoder once, so that what it compiles is compiled by one process at a time."""
    import numpy as np

    with one_at_a_time():
        from librosa.effects import pitch_shift

        pitch_shift(np.ones(4096, np.float32), sr=22050, n_steps=SEMITONES)


def _shift_pitch(samples: NDArray[np.float32], rate_hz: int, seed: int) -> NDArray[np.float32]:
    _compile()
    from librosa.effects import pitch_shift

    shifted: NDArray[np.float32] = pitch_shift(samples, sr=rate_hz, n_steps=SEMITONES)
    return shifted


def _time_stretch(samples: NDArray[np.float32], rate_hz: int, seed: int) -> NDArray[np.float32]:
    _compile()
    from librosa.effects import time_stretch

    stretched: NDArray[np.float32] = time_stretch(samples, rate=RATE)[: len(samples)]
    return stretched


CHANGES = {
    change.name: change
    for change in (
        Change("gain", f"{GAIN_DB:g} dB", _change_gain),
        Change("noise", f"white noise at {SNR_DB:g} dB SNR", _add_noise),
        Change("mp3", f"mp3 at {MP3_BPS // 1000} kb/s mono", _encode_mp3),
        Change("low-pass", f"Butterworth {ORDER} at {CUTOFF_HZ:g} Hz", _filter_low_pass),
        Change("pitch-shift", f"{SEMITONES:+d} semitone", _shift_pitch, SEMITONES),
        Change("time-stretch", f"rate {RATE:g}, cut to length", _time_stretch, rate=RATE),
    )
}
