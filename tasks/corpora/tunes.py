"""Tunes in several versions, for the miniatures of corpora of covers: what stays is the contour of the melody.

A tune is two phrases of notes without repeated pitches. A version has its own key, tempo, timbre and order of phrases.
"""

from __future__ import annotations

from typing import Any

RATE_HZ = 16000
LENGTH_S = 10.4  # a window of 10 s and a little
NOTES = 6  # of a phrase
TIMBRES = ("flute", "piano", "string", "guitar", "organ", "brass")
KEYS = (0, 5, -4, 2)
SECONDS = (0.26, 0.31, 0.23, 0.28)  # of a note
FORMS = ((0, 1), (0, 0, 1), (1, 0, 1), (1, 1, 0, 0))  # phrases, repeated to the end


def make_phrases(tune: int) -> list[list[int]]:
    """The MIDI pitches of a tune's phrases in its first key, between 55 and 79."""
    import numpy as np

    random = np.random.default_rng([tune, 7])
    phrases = []
    for _ in range(2):
        pitches = [67 + int(random.integers(-3, 4))]
        while len(pitches) < NOTES:
            step = int(random.choice([-7, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 7]))
            if 58 <= pitches[-1] + step <= 76:
                pitches.append(pitches[-1] + step)
        phrases.append(pitches)
    return phrases


def compose(tune: int, version: int) -> Any:
    """A version of a tune, `(samples,)` at `RATE_HZ`."""
    import numpy as np

    from marble_bench.audio import synth

    mix = np.zeros(round(LENGTH_S * RATE_HZ))
    phrases, form = make_phrases(tune), FORMS[version % len(FORMS)]
    timbre = TIMBRES[(tune + 5 * version) % len(TIMBRES)]
    length_s, at_s, turn = SECONDS[version % len(SECONDS)], 0.0, 0
    made: dict[int, Any] = {}
    while at_s < LENGTH_S:
        for pitch in phrases[form[turn % len(form)]]:
            moved = pitch + KEYS[version % len(KEYS)]
            if moved not in made:
                made[moved] = synth.note(moved, 0.85 * length_s, RATE_HZ, timbre)
            synth.place(mix, made[moved], at_s, RATE_HZ)
            at_s += length_s
        turn += 1
    return mix
