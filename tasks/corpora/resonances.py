"""Miniature instruments that are told by where they resonate: tones whose harmonics are strong around one frequency.

Pitch, brightness, level and envelope are drawn apart from the instrument, so that a model must hear the resonance. Only
sums, products and quotients reach a level, as `marble_bench.audio.synth` asks for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

RATE_HZ = 16000
LOWEST_HZ, HIGHEST_HZ = 50.0, 75.0  # of fundamentals: so low that a harmonic lies in every resonance
WIDTH = 0.06  # of a resonance, as a share of its frequency
RMS = 0.1  # of a written file, full scale being 1
REACH = 3.0  # widths on either side of a resonance in which harmonics sound
BODY, FLOOR = 8, 0.1  # so many harmonics sound at any resonance, and their highest level


def place_resonances(count: int, lowest_hz: float, highest_hz: float) -> tuple[float, ...]:
    """So many frequencies in Hz, each the same ratio above the one before, to 1 %.

    >>> place_resonances(3, 400.0, 1600.0)
    (400.0, 800.0, 1600.0)
    """
    ratio = (highest_hz / lowest_hz) ** (1 / (count - 1))
    return tuple(float(round(lowest_hz * ratio**place)) for place in range(count))


def play(resonance_hz: float, length_s: float, random: np.random.Generator, odd: bool) -> Any:
    """`(samples,)` at RATE_HZ, of unit power: two or three tones one after another, of drawn pitches and attacks.

    odd: harmonics of even number are weak, as a clarinet's are: a timbre of its own at the same resonance.
    """
    import numpy as np

    from marble_bench.audio import synth

    tones = int(random.integers(2, 4))
    tilt = random.random()
    played = []
    for _ in range(tones):
        hz = LOWEST_HZ + (HIGHEST_HZ - LOWEST_HZ) * random.random()
        levels = []
        for number in range(1, int(0.48 * RATE_HZ / hz)):
            away = (number * hz - resonance_hz) / (WIDTH * resonance_hz)
            level = 1 / (1 + away * away) ** 2 if -REACH < away < REACH else 0.0
            level += FLOOR * tilt if number <= BODY else 0.0
            levels.append(level * (0.4 if odd and number % 2 == 0 else 1.0))
        sound = synth.tone(hz, length_s / tones, RATE_HZ, levels)
        played.append(synth.shaped(sound, RATE_HZ, 0.01 + 0.08 * random.random(), 0.05))
    together = np.concatenate(played)
    return together / np.sqrt((together * together).sum() / len(together))


def write(path: Path, sound: Any) -> None:
    """Write `(samples,)` of unit power, every file with the same power."""
    import numpy as np

    from marble_bench.audio import synth

    synth.write(path, sound, RATE_HZ, RMS * float(np.abs(sound).max()))
