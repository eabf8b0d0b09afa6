"""GTZAN: 1,000 excerpts of 30 s, ten genres of a hundred, 22,050 Hz, mono, 16 bits. Its `genres/<genre>/<genre>.000NN.au`.

The fault-filtered split of Kereliuk, Sturm and Larsen (2015) uses 930 of them and keeps artists apart; it is the one that
JukeMIR and MARBLE score on. What remains wrong with the corpus (repetitions, mislabellings, distortions) is catalogued
in B. L. Sturm, The GTZAN dataset: its contents, its faults, arXiv:1306.1461.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marble_bench import Corpus, Fault, Source

from . import split_rows

GENRES = ("blues", "classical", "country", "disco", "hiphop", "jazz", "metal", "pop", "reggae", "rock")
RATE_HZ = 22050
HOMES = ("genres", "Data/genres_original", "genres_original", ".")  # official, Kaggle's, and either one's inside


def tracks() -> list[dict[str, str]]:
    """The filtered split: rows of `track` (`blues.00000`), `genre`, `split`."""
    return split_rows("gtzan.csv", "488812b4e6ec75cf212db475e2d68bf654c99ed82b2b9cb94cf950109eb703d9")


def locate(root: Path, audio: str) -> Path | None:
    """A track's file: official `.au` or the mirrors' `.wav`, in the official folder or the mirrors'."""
    below = Path(audio).relative_to("genres")
    for home in HOMES:
        for suffix in (".au", ".wav", ".AU", ".WAV"):
            path = root / home / below.with_suffix(suffix)
            if path.is_file():
                return path
    return None


def filtered(name: str) -> str:
    """Why a file of the whole corpus is in no split."""
    found = re.fullmatch(r"(\w+)\.000\d\d\.(au|wav)", Path(name).name, re.IGNORECASE)
    return "a track that the fault-filtered split leaves out" if found and found[1].lower() in GENRES else ""


@dataclass(frozen=True)
class Style:
    """How a genre of the miniature sounds. drums: kick and snare steps of sixteen. drive: distortion, 0 for none."""

    bpm: tuple[int, int]
    timbre: str
    mode: str
    degrees: tuple[int, ...]
    kicks: tuple[int, ...]
    snares: tuple[int, ...]
    hats: int
    fall_s: float
    drive: float
    register: int
    swing: float


STYLES = {
    "blues": Style((70, 110), "guitar", "minor", (0, 3, 0, 4), (0, 8), (4, 12), 4, 0.5, 1.2, 52, 0.33),
    "classical": Style((60, 120), "string", "major", (0, 3, 4, 0), (), (), 0, 0.0, 0.0, 64, 0.0),
    "country": Style((90, 130), "guitar", "major", (0, 3, 4, 0), (0, 8), (4, 12), 0, 0.3, 0.0, 60, 0.0),
    "disco": Style((112, 128), "brass", "minor", (0, 5, 3, 4), (0, 4, 8, 12), (4, 12), 2, 0.4, 0.0, 57, 0.0),
    "hiphop": Style((80, 100), "bass", "minor", (0, 0, 5, 0), (0, 7, 10), (4, 12), 2, 0.25, 0.0, 45, 0.1),
    "jazz": Style((100, 180), "reed", "major", (1, 4, 0, 5), (0,), (), 4, 0.4, 0.0, 60, 0.33),
    "metal": Style(
        (120, 180), "string", "minor", (0, 0, 5, 6), (0, 2, 4, 6, 8, 10, 12, 14), (4, 12), 2, 0.0, 6.0, 45, 0.0
    ),
    "pop": Style((95, 125), "piano", "major", (0, 4, 5, 3), (0, 8), (4, 12), 2, 0.6, 0.0, 60, 0.0),
    "reggae": Style((70, 95), "organ", "minor", (0, 3, 0, 3), (8,), (8,), 4, 0.12, 0.0, 57, 0.0),
    "rock": Style((100, 150), "guitar", "major", (0, 6, 3, 0), (0, 8, 10), (4, 12), 4, 0.0, 3.0, 50, 0.0),
}
BORROWED = 0.22  # how often a part of a clip comes from another genre, which keeps the miniature from being trivial
MINI_CLIPS = {"train": 6, "valid": 4, "test": 4}
MINI_S = 3.6


def compose(track: str, genre: str) -> Any:
    """The miniature's clip of a track: `(samples,)` float64 at RATE_HZ."""
    import numpy as np

    from marble_bench.audio import synth

    number = int(track.rpartition(".")[2])
    random = np.random.default_rng([number, GENRES.index(genre)])

    def part() -> Style:
        borrows = random.random() < BORROWED
        return STYLES[GENRES[int(random.integers(10))] if borrows else genre]

    pace, voice, harmony, drums = part(), part(), part(), part()
    step_s = 60 / int(random.integers(pace.bpm[0], pace.bpm[1] + 1)) / 4
    tonic = voice.register + int(random.integers(-3, 4))
    mix = np.zeros(round(MINI_S * RATE_HZ))
    for bar in range(int(MINI_S / (8 * step_s)) + 1):  # a chord lasts half a bar of sixteen steps
        length = 8 * step_s
        pitches = synth.triad(tonic, harmony.mode, harmony.degrees[bar % len(harmony.degrees)])
        strokes = (0.0,) if voice.fall_s > 0.3 or not voice.fall_s else (0.25, 0.75)
        for stroke in strokes:
            played = synth.chord(pitches, length / len(strokes), RATE_HZ, voice.timbre, voice.fall_s)
            synth.place(mix, played, bar * length + stroke * length, RATE_HZ, 0.6)
        synth.place(mix, synth.note(pitches[0] - 12, length, RATE_HZ, "bass", 0.5), bar * length, RATE_HZ, 0.4)
    if voice.drive:
        mix = synth.distorted(mix, voice.drive)
    for step in range(int(MINI_S / step_s) + 1):
        at_s = (step + (pace.swing if step % 2 else 0.0)) * step_s
        if step % 16 in drums.kicks:
            synth.place(mix, synth.kick(RATE_HZ), at_s, RATE_HZ, 0.7)
        if step % 16 in drums.snares:
            synth.place(mix, synth.snare(RATE_HZ, random), at_s, RATE_HZ, 0.5)
        if drums.hats and step % drums.hats == 0:
            synth.place(mix, synth.hihat(RATE_HZ, random), at_s, RATE_HZ, 0.3)
    hiss = 0.002 + 0.02 * random.random()
    return mix + synth.noise(MINI_S, RATE_HZ, random)[: len(mix)] * hiss


def mini(folder: Path) -> None:
    """Some tracks of every genre and split, synthesised, under their official names."""
    from marble_bench.audio import synth

    left = {(genre, split): count for genre in GENRES for split, count in MINI_CLIPS.items()}
    for row in tracks():
        if left[row["genre"], row["split"]]:
            left[row["genre"], row["split"]] -= 1
            path = folder / "genres" / row["genre"] / f"{row['track']}.au"
            synth.write(path, compose(row["track"], row["genre"]), RATE_HZ)


GTZAN = Corpus(
    name="gtzan",
    title="GTZAN",
    home="http://marsyas.info/downloads/datasets.html",
    license="none stated; research use",
    citation="G. Tzanetakis and P. Cook, Musical genre classification of audio signals, IEEE TSAP 10(5), 2002; "
    "split: C. Kereliuk, B. L. Sturm and J. Larsen, Deep learning and music adversaries, IEEE TMM 17(11), 2015",
    layout="genres/<genre>/<genre>.000NN.au (or .wav; Kaggle's Data/genres_original/ is read too)",
    mini=mini,
    locate=locate,
    filtered=filtered,
    sample_rate_hz=RATE_HZ,
    sources=(
        Source(
            url="http://opihi.cs.uvic.ca/sound/genres.tar.gz", status="dead", note="the makers' own, gone since 2022"
        ),
        Source(
            url="https://www.kaggle.com/datasets/andradaolteanu/gtzan-dataset-music-genre-classification",
            status="gated",
            note="needs a Kaggle account; jazz.00054 is damaged in it",
        ),
        Source(url="https://www.kaggle.com/datasets/carlthome/gtzan-genre-collection", status="gated"),
        Source(url="hf:m-a-p/GTZAN", mirror="hub", note="re-encoded"),
    ),
    faults=(Fault("genres/jazz/jazz.00054.au", "damaged in Kaggle's copy; MARBLE leaves it out too"),),
)
