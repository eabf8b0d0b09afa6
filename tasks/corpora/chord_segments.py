"""Chords along a song as annotation files have them, and the miniatures of corpora of chords.

A file's segments are ascending (start_s, end_s, label). Starts and ends that are less than a millisecond apart are one
time. A longer gap is an unknown chord, `X`, which no score counts; a longer overlap is an error. A segment of no length is
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from marble_bench.errors import DataError
from marble_bench.files.tables import brief
from marble_bench.metrics._chord_labels import CHORD, NO_CHORD, UNKNOWN, Segment, is_label

TOLERANCE_S = 1e-3
MOST_S = 1e5  # what ends later is in milliseconds or samples


def join_segments(
    rows: Iterable[tuple[float, float, str, Any]], fault: Callable[[str, Any], DataError]
) -> tuple[Segment, ...]:
    """Segments without gaps. rows: start and end in seconds, label, and where it is written.

    fault: `(words, where) -> error`. Raises it for times that do not ascend, and for labels that mir_eval cannot read.
    """
    joined: list[Segment] = []
    for start_s, end_s, label, where in rows:
        last_s = joined[-1][1] if joined else 0.0
        if not 0 <= start_s <= end_s < MOST_S:
            raise fault(f"a chord lasts from {start_s:g} to {end_s:g} s; give ascending times in seconds", where)
        if start_s < last_s - TOLERANCE_S:
            raise fault(
                f"a chord begins at {start_s:g} s, and the one before it ends at {last_s:g} s; sort them", where
            )
        if not is_label(label):
            raise fault(f"the chord {brief(label)} is no label of Harte's syntax, such as C:min7/b3, N or X", where)
        if start_s > last_s + TOLERANCE_S:
            if joined:
                joined.append((last_s, start_s, UNKNOWN))
        elif joined:
            start_s = last_s
        if end_s > start_s:
            joined.append((start_s, end_s, label))
    return tuple(joined)


VOICINGS = ((0, 1, 2), (1, 2, 3), (0, 2, 4))  # of a triad's tones, those above the second an octave higher
MINI_RATE_HZ = 16000
MINI_CHORD_S = 2.0


def compose(name: str, timbre: str, chord_s: float = MINI_CHORD_S) -> tuple[Any, tuple[Segment, ...]]:
    """A piece of all 25 classes in an order drawn with its name as seed, each for `chord_s`: `(samples,)`, its segments.

    Every triad has one of three voicings and a level of its own; no chord is silence under a faint hiss.
    """
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng(list(name.encode()))
    length = round(chord_s * MINI_RATE_HZ)
    sound = np.zeros(len(CHORD.labels) * length)
    segments = []
    for place, index in enumerate(random.permutation(len(CHORD.labels)).tolist()):
        label, start_s = CHORD.labels[index], place * chord_s
        segments.append((start_s, start_s + chord_s, label))
        voicing, level = VOICINGS[int(random.integers(3))], float(random.uniform(0.5, 1.0))
        if label != NO_CHORD:
            tones = (0, 4 if index < 12 else 3, 7)
            pitches = [48 + index % 12 + tones[tone % 3] + 12 * (tone // 3) for tone in voicing]
            synth.place(sound, synth.chord(pitches, chord_s, MINI_RATE_HZ, timbre), start_s, MINI_RATE_HZ, level)
    return sound + 1e-4 * (random.random(len(sound)) - 0.5), tuple(segments)
