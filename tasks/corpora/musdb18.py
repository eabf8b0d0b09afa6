"""MUSDB18: 150 songs, 10 hours, 44,100 Hz, stereo, each with its vocals, drums, bass and the rest; 100 and 50 of them.

On disk `{train,test}/<song>.stem.mp4` (MUSDB18: AAC, five streams; needs PyAV) or `{train,test}/<song>/` with mixture.wav
and a wav for each stem (MUSDB18-HQ). The 14 validation songs are among the 100, by the `musdb` package's list; a copy that
has them in a folder `valid` is read too. The two editions are not the same bytes: in MUSDB18 the mixture was coded by itself
and is not exactly the sum of the stems; a record's fingerprint tells them apart.

Known errors of the stems, which are used as they are: PR - Oh No (test) does not add up to its mixture in the left channel;
in Detsky Sad - Walkie Talkie (test) the rest is mixed into the drums; Al James - Schoolboy Facination (test) has voices in
the rest; BKS - Bulldozer (test) has a cowbell there; in Hop Along - Sister Cities and Chris Durban - Celebrate (train)
others bleed into the vocals; Leaf - Wicked (train) has a guitar in drums and vocals. Source: the errata of the corpus's own
page.

The shipped list has the songs' names as they are in the archives; the makers' table writes two of them otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.separation import stems

from . import split_rows

RATE_HZ = 44100
STEMS = ("vocals", "drums", "bass", "other")
LIST = "b150ef27b1c097c8edc81d7c6ce68a84137f055cbcf390895afda16e1363f256"
FOLDERS = {"train": ("train", "valid"), "valid": ("train", "valid"), "test": ("test",)}


@lru_cache(maxsize=1)
def songs() -> tuple[dict[str, str], ...]:
    """The shipped list: `track`, `split`."""
    return tuple(split_rows("musdb18.csv", LIST))


def clips(root: Path | None) -> Iterator[Clip]:
    """Every song by its stem file's name; `root` is not read, for the stems are the labels."""
    for row in songs():
        folder = "test" if row["split"] == "test" else "train"
        yield Clip(row["track"], row["split"], f"{folder}/{row['track']}.stem.mp4", ())


def _plain(name: str) -> str:
    """A song's name without case, blanks and punctuation, which copies write differently."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@lru_cache(maxsize=4)
def _there(root: Path) -> dict[tuple[str, str], Path]:
    """Every song below a folder, by (folder, plain name): its mixture's wav, or else its stem file."""
    found: dict[tuple[str, str], Path] = {}
    for folder in ("train", "valid", "test"):
        for path in sorted((root / folder).glob("*.stem.mp4")):
            found[folder, _plain(path.name.removesuffix(".stem.mp4"))] = path
        for path in sorted((root / folder).glob("*/mixture.wav")):
            found[folder, _plain(path.parent.name)] = path
    return found


def locate(root: Path, audio: str) -> Path | None:
    """A song's mixture in wav, or its stem file; in the official folder, or in `valid`."""
    folder, _, name = audio.partition("/")
    places = _there(root)
    for at in FOLDERS[folder]:
        path = places.get((at, _plain(name.removesuffix(".stem.mp4"))))
        if path is not None and path.is_file():
            return path
    return None


MINI_SONGS = {"train": 5, "valid": 2, "test": 3}
MINI_S = 6.4
RESTS = {"vocals": (2.2, 3.9), "drums": (0.0, 1.1), "bass": (4.6, 5.8), "other": (1.2, 2.4)}  # seconds without the stem


def compose(number: int, silent: str = "") -> dict[str, Any]:
    """The stems of the miniature's song, `(samples, 2)` int16 each, so that their sum is the mixture without rounding.

    Each rests for a second or two; `silent` is one that is not heard at all.
    """
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([number, 18])
    step_s = 60 / int(random.integers(84, 133)) / 4
    tonic, mode = 57 + int(random.integers(-5, 6)), ("major", "minor")[int(random.integers(2))]
    degrees = [(0, 4, 5, 3), (0, 5, 3, 4), (0, 3, 0, 4)][int(random.integers(3))]
    timbre = ("piano", "organ", "string", "guitar")[int(random.integers(4))]
    samples = round(MINI_S * RATE_HZ)
    sound = {name: np.zeros((samples, 2)) for name in STEMS}

    def place(stem: str, note: Any, at_s: float, level: float, pan: float) -> None:
        """pan: 0 is left, 1 is right."""
        for channel, share in enumerate((1 - pan, pan)):
            synth.place(sound[stem][:, channel], note, at_s, RATE_HZ, 2 * level * share)

    lean, side = 0.3 + 0.1 * random.random(), 0.62 + 0.1 * random.random()
    strokes = (
        (synth.kick(RATE_HZ), (0, 7, 8), 0.7, 0.5),
        (synth.snare(RATE_HZ, random), (4, 12), 0.5, 0.5),
        (synth.hihat(RATE_HZ, random), range(0, 16, 2), 0.25, 0.7),
    )
    for step in range(int(MINI_S / step_s) + 1):
        for hit, steps, level, pan in strokes:
            if step % 16 in steps:
                place("drums", hit, step * step_s, level, pan)
    length_s = 8 * step_s
    for bar in range(int(MINI_S / length_s) + 1):
        pitches = synth.triad(tonic, mode, degrees[bar % 4])
        at_s = bar * length_s
        place("other", synth.chord(pitches, length_s, RATE_HZ, timbre, 0.7), at_s, 0.5, lean)
        for beat in range(2):
            low = synth.note(pitches[0] - 24, length_s / 2, RATE_HZ, "bass", 0.6)
            place("bass", low, at_s + beat * length_s / 2, 0.55, 0.5)
        for beat in range(4):
            sung = synth.hertz(pitches[int(random.integers(3))] + 12 * int(random.integers(1, 3)))
            curve = synth.vibrato(sung, length_s / 4, RATE_HZ, 5.5, 0.015)
            note = synth.shaped(synth.tone(curve, length_s / 4, RATE_HZ, synth.TIMBRES["voice"]), RATE_HZ, 0.03, 0.05)
            place("vocals", note, at_s + beat * length_s / 4, 0.45, side if bar % 2 else 1 - side)
    for stem, (first_s, last_s) in RESTS.items():
        sound[stem][round(first_s * RATE_HZ) : round(last_s * RATE_HZ)] = 0
        if stem == silent:
            sound[stem][:] = 0
    loudest = float(np.abs(sum(sound.values())).max())
    return {stem: np.round(0.8 * 32767 / loudest * each).astype(np.int16) for stem, each in sound.items()}


def mini(folder: Path) -> None:
    """Some songs of every split, synthesised, as MUSDB18-HQ has them; the last test song has no vocals."""
    import soundfile

    for split, count in MINI_SONGS.items():
        chosen = [row["track"] for row in songs() if row["split"] == split][:count]
        for number, track in enumerate(chosen):
            silent = "vocals" if (split, number) == ("test", count - 1) else ""
            parts = compose(list(MINI_SONGS).index(split) * 100 + number, silent)
            below = folder / ("test" if split == "test" else "train") / track
            below.mkdir(parents=True)
            for name, sound in {stems.MIXTURE: sum(parts.values()), **parts}.items():
                soundfile.write(below / f"{name}.wav", sound, RATE_HZ, subtype="PCM_16")


MUSDB18 = Corpus(
    name="musdb18",
    title="MUSDB18",
    home="https://sigsep.github.io/datasets/musdb.html",
    license="academic use only; 46 songs of MedleyDB are CC-BY-NC-SA 4.0, two of c't CC-BY-NC-SA 3.0",
    citation="Z. Rafii, A. Liutkus, F.-R. Stöter, S. I. Mimilakis and R. Bittner, The MUSDB18 corpus for music separation, "
    "2017; MUSDB18-HQ, 2019",
    layout="{train,test}/<song>.stem.mp4, or {train,test}/<song>/ with mixture, vocals, drums, bass and other .wav",
    mini=mini,
    locate=locate,
    parts=partial(stems.files, names=STEMS),
    sample_rate_hz=RATE_HZ,
    sources=(
        Source(
            url="https://zenodo.org/record/1117372/files/musdb18.zip",
            unpack=True,
            md5="af06762477334799bfc5abf237648207",
            note="stems in AAC, 4.7 GB; decoding them needs PyAV: pip install 'marble-bench[stems]'",
        ),
        Source(
            url="https://zenodo.org/record/3338373/files/musdb18hq.zip",
            mirror="hq",
            unpack=True,
            sha256="baac80d0483c61d74b2e5f3be75fa557eec52898339e6aa45c1fa48833c5d21d",
            note="uncompressed wav, 22.7 GB",
        ),
    ),
)
