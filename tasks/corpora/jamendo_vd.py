"""The Jamendo corpus for singing voice detection: 93 songs, with the times at which somebody sings.

Read is the layout of the archive on Zenodo (record 2585988) as public code for it expects it; the archive itself was
not read here: `audio/`, `labels/<song>.lab` and `filelists/{train,valid,test}`, in the folder or one below. What M.
Ramona's page handed out before is read too, by the code of Schlueter and Grill (f0k/ismir2015): songs in
`{train,valid,test}/`, `jamendo_lab/<song>.lab`, and perhaps `jam_{train,valid,test}_list.txt` with names that end in
`.trs`. The split is the makers', 61, 16 and 16 songs. Their lists come with the corpus and are not shipped here.

A line of a `.lab` file is start and end in seconds and `sing` or `nosing`. What no line covers has no label.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.core.task import SPLITS
from marble_bench.errors import DataError, listing
from marble_bench.files.tables import brief, fault, read_lines
from marble_bench.metrics.activity import LABELS_HZ, TAG

LABELS = {"sing": (TAG,), "nosing": ()}
SUFFIXES = (".mp3", ".ogg", ".wav", ".flac")
NUMBER = re.compile(r"\d{1,5}(\.\d{1,20})?")
Segments = Sequence[tuple[float, float, str]]


def read_segments(path: Path) -> list[tuple[float, float, str]]:
    """Start and end in seconds and label of every line.

    Raises DataError naming the file and line if one is not of that form, if two overlap, or if there is none.
    """
    segments: list[tuple[float, float, str]] = []
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 3 or not all(NUMBER.fullmatch(each) for each in fields[:2]) or fields[2] not in LABELS:
            raise fault(path, f"is {brief(line)}; a line is start, end, and sing or nosing: get the file again", number)
        start, end = float(fields[0]), float(fields[1])
        before = segments[-1][1] if segments else 0.0
        if not before <= start <= end:
            raise fault(path, f"lasts from {start:g} to {end:g} s, behind {before:g} s: sort the lines", number)
        segments.append((start, end, fields[2]))
    if not segments:
        raise fault(path, "is empty: get the file again")
    return segments


def make_frames(segments: Segments) -> tuple[tuple[str, ...] | None, ...]:
    """What holds in the middle of every frame of 1 / LABELS_HZ s: `("sing",)`, `()`, or None without a label."""
    frames: list[tuple[str, ...] | None] = [None] * math.ceil(segments[-1][1] * LABELS_HZ - 0.5)
    for start, end, label in segments:
        for k in range(math.ceil(start * LABELS_HZ - 0.5), math.ceil(end * LABELS_HZ - 0.5)):
            frames[k] = LABELS[label]
    return tuple(frames)


def find_folder(root: Path) -> Path:
    """The folder of the corpus: with `labels/` or `jamendo_lab/`. Raises DataError if there is none."""
    for folder in (root, *sorted(each for each in root.glob("*") if each.is_dir())):
        if any((folder / name).is_dir() for name in ("labels", "jamendo_lab")):
            return folder
    raise DataError(f"no labels in {root}: it should hold {JAMENDO_VD.layout} (bench data get jamendo-vd)")


def list_songs(folder: Path, split: str) -> list[str]:
    """The songs of a split, by their lists or by the folder that they are in; without suffix."""
    for name in (f"filelists/{split}", f"filelists/{split}.txt", f"jam_{split}_list.txt"):
        if (folder / name).is_file():
            return [Path(line.strip()).stem for line in read_lines(folder / name)]
    return sorted(path.stem for path in (folder / split).glob("*") if path.suffix in SUFFIXES)


def locate(root: Path, audio: str) -> Path | None:
    """A song's file, in any of the folders and formats that are read."""
    song = Path(audio).name.removesuffix(".mp3")
    folders = (root, *sorted(each for each in root.glob("*") if each.is_dir()))
    places = (
        folder / place / f"{song}{suffix}" for folder in folders for place in ("audio", *SPLITS) for suffix in SUFFIXES
    )
    return next((path for path in places if path.is_file()), None)


def clips(root: Path | None) -> Iterator[Clip]:
    """Every song with its labels. Raises DataError naming every bad file."""
    if root is None:
        raise DataError("labels and lists are in the corpus alone: give --data-dir DIR with its annotations")
    folder = find_folder(root)
    labels = folder / ("labels" if (folder / "labels").is_dir() else "jamendo_lab")
    made, bad = [], []
    songs = {split: list_songs(folder, split) for split in SPLITS}
    if not any(songs.values()):
        raise DataError(f"no songs are listed in {folder}: it should hold {JAMENDO_VD.layout}")
    for split in SPLITS:
        for song in songs[split]:
            try:
                target = (make_frames(read_segments(labels / f"{song}.lab")),)
            except DataError as error:
                bad.append(str(error))
                continue
            made.append(Clip(song, split, f"audio/{song}.mp3", target))
    if bad:
        raise DataError(f"{len(bad)} annotation files cannot be used: {listing(bad)}")
    yield from made


# Hz of the first three formants of vowels, and what the harmonics of a voice are multiplied by around them.
VOWELS = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (270, 2290, 3010),
    "o": (570, 840, 2410),
    "u": (300, 870, 2240),
}
WIDTHS_HZ, LEVELS = (80, 110, 160), (1.0, 0.6, 0.35)
TRACTS = {"train": (0.9, 1.0, 1.15), "valid": (0.95,), "test": (1.07,)}  # how much higher a singer's formants lie
SOLOISTS = {"train": ("organ", "reed", "string"), "valid": ("brass",), "test": ("guitar", "piano")}
CHORDS = {"train": ("string", "organ"), "valid": ("flute",), "test": ("bass",)}
MINI_CLIPS = {"train": 8, "valid": 4, "test": 6}
MINI_RATE_HZ = 16000
MINI_S = 34.0
SUNG = 0.56  # of a song's time
BLOCK = 320  # samples that all have the same level, before it is drawn
SWAY_S = 0.4  # between two drawn levels


def sing(pitch: float, length_s: float, vowel: str, tract: float, speed_hz: float) -> Any:
    """A sung note with vibrato: `(samples,)`, harmonics shaped by the formants of a vowel."""
    from marble_bench.audio import synth

    hz = synth.hertz(pitch)
    harmonics = [
        sum(
            level / (1 + ((number * hz - tract * formant) / width) ** 2)
            for formant, width, level in zip(VOWELS[vowel], WIDTHS_HZ, LEVELS, strict=True)
        )
        for number in range(1, int(3800 / hz) + 1)
    ]
    curve = synth.vibrato(hz, length_s, MINI_RATE_HZ, speed_hz, 0.025)
    return synth.shaped(synth.tone(curve, length_s, MINI_RATE_HZ, harmonics), MINI_RATE_HZ, 0.04, 0.04)


def draw_segments(random: Any) -> list[tuple[float, float, str]]:
    """Stretches with and without singing by turns, of drawn lengths; SUNG of the whole is sung."""
    import numpy as np

    count = int(random.integers(5, 8))
    lengths = [random.uniform(1.5, 4, count) for _ in range(2)]
    scaled = [each / each.sum() * share * MINI_S for each, share in zip(lengths, (SUNG, 1 - SUNG), strict=True)]
    first = int(random.integers(2))
    order = [("sing", "nosing")[(first + place) % 2] for place in range(2 * count)]
    left = {"sing": iter(scaled[0]), "nosing": iter(scaled[1])}
    ends = np.round(np.cumsum([next(left[name]) for name in order]), 3).tolist()
    return list(zip([0.0, *ends[:-1]], ends, order, strict=True))


def level(sound: Any, random: Any) -> Any:
    """A sound with a level that is drawn, whatever it had: every block is as loud, then comes a curve of its own."""
    import numpy as np

    blocks, places = len(sound) // BLOCK, np.arange(len(sound))
    even = sound
    for _ in range(3):  # between the middles of blocks the gain is a straight line, so each time a little is left
        loud = np.sqrt(np.square(even[: blocks * BLOCK]).reshape(blocks, BLOCK).mean(axis=1)) + 1e-6
        even = even * np.interp(places, (np.arange(blocks) + 0.5) * BLOCK, 1 / loud)
    knots = np.arange(0, MINI_S + SWAY_S, SWAY_S)
    return even * np.interp(places, knots * MINI_RATE_HZ, random.uniform(0.3, 1.0, len(knots)))


def compose(song: str, split: str) -> tuple[Any, list[tuple[float, float, str]]]:
    """The miniature's song of a name: `(samples,)` at MINI_RATE_HZ, and its segments.

    Chords sound all the time. Over them somebody sings, or an instrument plays the same kind of notes, equally loud.
    """
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([ord(letter) for letter in song])
    rate = MINI_RATE_HZ
    segments = draw_segments(random)
    tonic, tract = int(random.integers(52, 60)), float(random.choice(TRACTS[split]))
    soloist, chords = str(random.choice(SOLOISTS[split])), str(random.choice(CHORDS[split]))
    over, under = np.zeros(round(MINI_S * rate)), np.zeros(round(MINI_S * rate))
    for bar in range(int(MINI_S) + 1):
        synth.place(
            under, synth.chord(synth.triad(tonic - 12, "major", (0, 3, 4, 5)[bar % 4]), 1.0, rate, chords), bar, rate
        )
    for start, end, label in segments:
        at_s = start
        while end - at_s > 0.05:
            length_s = min(float(random.uniform(0.3, 0.8)), end - at_s)
            pitch = tonic + int(random.choice([0, 2, 4, 5, 7, 9]))
            vowel, speed_hz = str(random.choice(list(VOWELS))), float(random.uniform(5, 6.5))
            voice = label == "sing"
            played = (
                sing(pitch, length_s, vowel, tract, speed_hz) if voice else synth.note(pitch, length_s, rate, soloist)
            )
            synth.place(over, played / (np.sqrt(np.square(played).mean()) + 1e-6), at_s, rate)
            at_s += length_s
    under /= np.sqrt(np.square(under).mean())
    hiss = synth.noise(MINI_S, rate, random)[: len(over)] * 0.05
    return level(over + 0.7 * under + hiss, random), segments


def mini(folder: Path) -> None:
    """Songs in the layout of the archive; voices and instruments of the test songs are heard in no training song."""
    from marble_bench.audio import synth

    for name in ("labels", "filelists"):
        (folder / name).mkdir()
    for split, count in MINI_CLIPS.items():
        songs = [f"{number:02} - {split} song" for number in range(1, count + 1)]
        for song in songs:
            sound, segments = compose(song, split)
            synth.write(folder / "audio" / f"{song}.wav", sound, MINI_RATE_HZ)
            lines = [f"{start:.6f} {end:.6f} {label}\n" for start, end, label in segments]
            (folder / "labels" / f"{song}.lab").write_text("".join(lines), encoding="utf-8")
        (folder / "filelists" / split).write_text("".join(f"{song}.wav\n" for song in songs), encoding="utf-8")


JAMENDO_VD = Corpus(
    name="jamendo-vd",
    title="Jamendo singing voice detection",
    home="https://zenodo.org/records/2585988",
    license="audio: Creative Commons, by song; annotations: not stated",
    citation="M. Ramona, G. Richard and B. David, Vocal detection in music with support vector machines, ICASSP 2008",
    layout="audio/<song>.mp3 (or .ogg), labels/<song>.lab and filelists/{train,valid,test}",
    mini=mini,
    locate=locate,
    sources=(
        Source(
            url="https://zenodo.org/records/2585988/files/jamando.zip",
            unpack=True,
            note="named so in code that fetches it; neither its digest nor its content was checked here",
        ),
    ),
)
