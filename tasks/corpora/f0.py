"""What corpora with a pitch curve share: how it is read and asked, and the melodies of their miniatures.

A curve is a line for each frame, its time in seconds and its frequency in Hz, separated by a comma; 0 Hz is unvoiced. Both
MedleyDB and vocadito have a line every 256 samples at 44,100 Hz. So labels stand at that rate: answers are scored at the
times that were annotated, as mir_eval asks. A time between two labels goes to the nearest, at most 2.9 ms away.

All layers are averaged to 50 frames a second, so that every probe learns from as many frames. A pitch that swings by 100
cents six times a second moves by up to 38 cents within half of such a frame, less than the 50 that count as wrong; with 25
a second it would be 75. Encoders hear 20 s at once, as in MARBLE's first code.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Frames
from marble_bench.errors import DataError, listing
from marble_bench.files.tables import brief, fault, read_lines
from marble_bench.scoring import pitch_decoder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LABELS_HZ, FEATURES_HZ, CONTEXT_S = 44100 / 256, 50.0, 20.0
LOWEST_HZ, HIGHEST_HZ = 16.0, 8000.0  # that a pitch may have; MIDI 12 to 119
LONGEST_S = 4 * 3600.0
NUMBER = re.compile(r"[+-]?\d{1,9}(\.\d{0,30})?([eE][-+]?\d{1,3})?", re.ASCII)
VOICED, UNVOICED = (pitch_decoder.VOICED,), ()
Curve = tuple[tuple[float | None, ...], tuple[tuple[str, ...] | None, ...]]

TARGET = Frames(
    (pitch_decoder.PITCH, pitch_decoder.VOICING),
    rate_hz=LABELS_HZ,
    decode=pitch_decoder.find,
    settings=pitch_decoder.THRESHOLDS,
    feature_rate_hz=FEATURES_HZ,
    context_s=CONTEXT_S,
)


def read_curve(path: Path) -> Curve:
    """Pitch (MIDI number, None where unvoiced) and voicing of every label's frame; None for a frame without a line.

    Raises DataError with file and line for what is no time and frequency, for times that do not ascend or that are closer
    than labels, and for frequencies that nobody sings or plays.
    """
    pitches: list[float | None] = []
    voicing: list[tuple[str, ...] | None] = []
    for number, line in enumerate(read_lines(path, byte_order_mark=False), 1):
        time_s, hz = _read_line(path, number, line)
        frame = round(time_s * LABELS_HZ)
        if frame < len(pitches):
            raise fault(
                path, f"{time_s:g} s is not behind the line before by {1 / LABELS_HZ:.4f} s, as curves are", number
            )
        pitches += [None] * (frame - len(pitches))
        voicing += [None] * (frame - len(voicing))
        pitches.append(69 + 12 * math.log2(hz / 440) if hz else None)
        voicing.append(VOICED if hz else UNVOICED)
    if not pitches:
        raise fault(path, "has no line: a curve has a time and a frequency in each; get it again")
    return tuple(pitches), tuple(voicing)


def _read_line(path: Path, number: int, line: str) -> tuple[float, float]:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 2 or not all(map(NUMBER.fullmatch, fields)):
        raise fault(path, f"is {brief(line)}: a line has a time in seconds and a frequency in Hz", number)
    time_s, hz = map(float, fields)
    if not 0 <= time_s <= LONGEST_S:
        raise fault(path, f"the time is {time_s:g} s, none of a recording; milliseconds, perhaps?", number)
    if hz and not LOWEST_HZ <= hz <= HIGHEST_HZ:
        raise fault(
            path, f"the frequency is {hz:g} Hz: give 0, or {LOWEST_HZ:g} to {HIGHEST_HZ:g}; not MIDI numbers?", number
        )
    return time_s, hz


def read_curves(files: Sequence[tuple[str, Path]]) -> Iterator[tuple[str, Curve]]:
    """The curve of each name. Raises DataError naming every bad file."""
    bad = []
    for name, path in files:
        try:
            yield name, read_curve(path)
        except DataError as error:
            bad.append(str(error))
    if bad:
        raise DataError(f"{len(bad)} pitch curves cannot be used: {listing(bad)}")


def shift(target: Curve, semitones: int) -> Curve:
    """A curve whose pitches are moved."""
    pitches, voicing = target
    return tuple(None if pitch is None else pitch + semitones for pitch in pitches), voicing


MINI_RATE_HZ, MINI_S = 16000, 6.0
# Formants (Hz, width in Hz) of sung vowels; the level of a harmonic is the sum of what they let through.
VOWELS = {
    "a": ((700.0, 130.0), (1220.0, 150.0), (2600.0, 250.0)),
    "o": ((450.0, 110.0), (800.0, 120.0), (2830.0, 250.0)),
    "e": ((530.0, 120.0), (1850.0, 180.0), (2500.0, 250.0)),
    "i": ((300.0, 100.0), (2300.0, 200.0), (3000.0, 250.0)),
    "u": ((320.0, 100.0), (870.0, 130.0), (2250.0, 250.0)),
}
PLAIN = {"sine": (1.0,), "sawtooth": tuple(1 / number for number in range(1, 13))}


def draw_melody(random: np.random.Generator, lowest: float, highest: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """`(samples,)` frequencies in Hz, and `(samples,)` whether something sounds: phrases of gliding notes, and rests."""
    import numpy as np

    from marble_bench.audio import synth

    at_s, pitch = 0.1 + 0.3 * random.random(), (lowest + highest) / 2
    corners: list[tuple[float, float]] = [(0.0, synth.hertz(pitch))]
    sounding: list[tuple[float, float]] = []
    while at_s < MINI_S - 0.4:
        begin_s = at_s
        for _ in range(int(random.integers(2, 5))):
            pitch = min(max(pitch + 10 * random.random() - 5, lowest), highest)
            end_s = at_s + 0.3 + 0.4 * random.random()
            corners += [(at_s + 0.08, synth.hertz(pitch)), (end_s, synth.hertz(pitch + random.random() - 0.5))]
            at_s = end_s
        sounding.append((begin_s, min(at_s, MINI_S)))
        at_s += 0.4 + 0.4 * random.random()
    seconds = np.arange(round(MINI_S * MINI_RATE_HZ)) / MINI_RATE_HZ
    times_s, frequencies = (np.array(column) for column in zip(*corners, strict=True))
    hz = np.interp(seconds, times_s, frequencies)
    hz = hz * (1 + 0.02 * random.random() * synth.sine(seconds * (5 + random.random())))
    return hz, np.any([(seconds >= begin) & (seconds < end) for begin, end in sounding], axis=0)


def sing(hz: NDArray[Any], sounding: NDArray[Any], voice: str) -> NDArray[Any]:
    """`(samples,)` of a voice of VOWELS or PLAIN that follows a curve, silent where nothing sounds."""
    import numpy as np

    from marble_bench.audio import synth

    cycles = np.cumsum(hz / MINI_RATE_HZ)
    out = np.zeros(len(hz))
    for number in range(1, int(0.45 * MINI_RATE_HZ / float(hz.max())) + 1):
        if voice in VOWELS:
            shares = [1 / (1 + ((number * hz - formant) / width) ** 2) for formant, width in VOWELS[voice]]
            out += sum(shares) * synth.sine(number * cycles) / number
        elif number <= len(PLAIN[voice]):
            out += PLAIN[voice][number - 1] * synth.sine(number * cycles)
    fade = round(0.02 * MINI_RATE_HZ)
    summed = np.cumsum(np.concatenate([np.zeros(fade), sounding, np.zeros(fade)]))
    here = summed[2 * fade :] - summed[: -2 * fade]  # how many of the samples around sound: a ramp at both ends
    edges = np.clip(here / fade - 1, 0, 1)
    heard: NDArray[Any] = out * edges[: len(out)]
    return heard


def level(sound: NDArray[Any]) -> float:
    """The root mean square where a sound is not silent, added up exactly, so that it is the same on every machine."""
    heard = sound[sound != 0]
    return math.sqrt(math.fsum((heard * heard).tolist()) / len(heard))


def write_curve(path: Path, hz: NDArray[Any], sounding: NDArray[Any]) -> None:
    """A melody as the corpora write one."""
    lines = []
    for frame in range(math.ceil(len(hz) / MINI_RATE_HZ * LABELS_HZ)):
        at = min(round(frame / LABELS_HZ * MINI_RATE_HZ), len(hz) - 1)
        lines.append(f"{frame / LABELS_HZ!r},{float(hz[at]) if sounding[at] else 0.0!r}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(lines), encoding="utf-8")


def pick(rows: Sequence[dict[str, str]], counts: dict[str, int]) -> Iterator[tuple[str, str]]:
    """(track, split) of the first rows of each split, so many as the miniature has."""
    left = dict(counts)
    for row in rows:
        if left[row["split"]]:
            left[row["split"]] -= 1
            yield row["track"], row["split"]
