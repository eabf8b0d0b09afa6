"""GiantSteps key: two collections of two-minute previews of electronic dance music, mp3, each annotated with one key.

`giantsteps-mtg-key-dataset` (1,486 previews) is divided into train and valid by JukeMIR: those whose annotation is
confident and names one key, artists kept apart by a hash; `giantsteps-key-dataset` (604) is the test split. On disk, as
the makers' two repositories with their downloaded audio: `<collection>-dataset/audio/<id>.LOFI.mp3` and the annotations
beside; all mp3s in one folder `audio/` are found too. The shipped list has the keys; annotation files that are at hand are
verified against it.

Beatport's and JKU's audio links are reported dead since 2026; GiantSteps+ (Zenodo 1095691) has other labels and is another
task.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.files.tables import brief, fault, read_text
from marble_bench.metrics.key import KEYS

from . import split_rows

FOLDERS = {"giantsteps": "giantsteps-key-dataset", "giantsteps-mtg": "giantsteps-mtg-key-dataset"}
COUNTS = {"train": 923, "valid": 236, "test": 604}
FLATS = {"C#": "Db", "D#": "Eb", "F#": "Gb", "G#": "Ab", "A#": "Bb", "CB": "B", "E#": "F", "FB": "E", "B#": "C"}


@lru_cache(maxsize=1)
def songs() -> tuple[dict[str, str], ...]:
    """The split: rows of `track`, `collection`, `key`, `split`."""
    return tuple(split_rows("giantsteps.csv", "47222bd816e01f393d9c5e114bd13f6abf745457a05d11b889930962ea6208f4"))


def key_of(text: str) -> str | None:
    """A key as KEYS spells it, or None if the text names none.

    >>> key_of("F#\tminor"), key_of("Bb maj"), key_of("-")
    ('Gb minor', 'Bb major', None)
    """
    found = re.fullmatch(r"([A-Ga-g][#b]?)[ \t:]+(maj|min)(or)?", text.strip())
    if not found:
        return None
    tonic = found[1][0].upper() + found[1][1:]
    return f"{FLATS.get(tonic.upper(), tonic)} {found[2]}or"


def _homes(root: Path, collection: str) -> list[Path]:
    """Where a collection may lie: its repository's folder, as cloned or as downloaded, or the root itself."""
    name = FOLDERS[collection]
    return [root / name, root / f"{name}-master", root]


def locate(root: Path, audio: str) -> Path | None:
    """A preview's mp3, in its collection's folder or with all others in `audio/`."""
    name = Path(audio).name
    collection = next(key for key, folder in FOLDERS.items() if audio.startswith(f"{folder}/"))
    for home in _homes(root, collection):
        if (home / "audio" / name).is_file():
            return home / "audio" / name
    return None


def _check_keys(root: Path) -> None:
    """Compare the list with the annotation files that are at hand. Raises DataError naming a song that differs."""
    for row in songs():
        for home in _homes(root, row["collection"]):
            path = home / "annotations" / "key" / f"{row['track']}.LOFI.key"
            if path.is_file():
                text = read_text(path)
                if key_of(text) != row["key"]:
                    raise fault(path, f"says {brief(text.strip())}; the published split has {row['key']}", 1)
                break


def filtered(name: str) -> str:
    """Why a file of the whole corpus is in no split."""
    if re.fullmatch(r"\d+\.LOFI\.mp3", Path(name).name):
        return "a preview that JukeMIR's split leaves out: its annotation is unsure, or names no key or several"
    return ""


def clips(root: Path | None) -> Iterator[Clip]:
    """Every song of the split with its key."""
    if root is not None:
        _check_keys(root)
    for row in songs():
        audio = f"{FOLDERS[row['collection']]}/audio/{row['track']}.LOFI.mp3"
        yield Clip(row["track"], row["split"], audio, row["key"])


# The miniature has these keys and so many songs of each by split.
MINI_KEYS = ("C minor", "D minor", "F minor", "G minor", "A minor", "C major", "F major", "G major")
MINI_SONGS = {"train": 5, "valid": 2, "test": 3}
RATE_HZ = 16000


def compose(track: str, key: str) -> Any:
    """The miniature's song, `(samples,)`: cadences and a melody in its key over four on the floor, 30 s or a minute."""
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([int(track), 2015])
    tonic_name, mode = key.split()
    tonic = 45 + KEYS.index(f"{tonic_name} major")
    timbre = ("organ", "piano", "brass", "string")[int(random.integers(4))]
    beat_s = 60 / int(random.integers(120, 136))
    phrase = np.zeros(round(16 * beat_s * RATE_HZ))
    for bar, degree in enumerate(((0, 3, 4, 0), (0, 5, 3, 4), (0, 3, 0, 4))[int(random.integers(3))]):
        pitches = synth.triad(tonic, mode, degree)
        synth.place(phrase, synth.chord(pitches, 4 * beat_s, RATE_HZ, timbre), 4 * bar * beat_s, RATE_HZ, 0.5)
        for beat in range(4):
            melody = tonic + 12 + synth.SCALES[mode][int(random.integers(7))]
            at_s = (4 * bar + beat) * beat_s
            synth.place(phrase, synth.note(pitches[0] - 12, beat_s, RATE_HZ, "bass", 0.3), at_s, RATE_HZ, 0.5)
            synth.place(phrase, synth.note(melody, beat_s, RATE_HZ, timbre, 0.3), at_s, RATE_HZ, 0.3)
            synth.place(phrase, synth.kick(RATE_HZ), at_s, RATE_HZ, 0.7)
            synth.place(phrase, synth.hihat(RATE_HZ, random), at_s + beat_s / 2, RATE_HZ, 0.2)
    length = round((61.0 if random.random() < 0.1 else 30.5) * RATE_HZ)
    looped: Any = np.tile(phrase, length // len(phrase) + 1)[:length]
    return looped + 0.01 * (random.random(length) - 0.5)


def mini(folder: Path) -> None:
    """Songs of eight keys in every split, synthesised, under official numbers, in the folders of both collections."""
    from concurrent.futures import ThreadPoolExecutor

    from marble_bench.audio import synth

    left = {(key, split): count for key in MINI_KEYS for split, count in MINI_SONGS.items()}
    chosen = []
    for row in songs():
        if left.get((row["key"], row["split"])):
            left[row["key"], row["split"]] -= 1
            chosen.append(row)

    def make(row: dict[str, str]) -> None:
        home = folder / FOLDERS[row["collection"]]
        synth.write(home / "audio" / f"{row['track']}.LOFI.mp3", compose(row["track"], row["key"]), RATE_HZ)
        (home / "annotations" / "key").mkdir(parents=True, exist_ok=True)
        (home / "annotations" / "key" / f"{row['track']}.LOFI.key").write_text(row["key"], encoding="utf-8")

    with ThreadPoolExecutor() as pool:
        list(pool.map(make, chosen))


GIANTSTEPS = Corpus(
    name="giantsteps",
    title="GiantSteps key",
    home="https://github.com/GiantSteps/giantsteps-key-dataset",
    license="annotations: none stated; audio: Beatport's previews, none stated",
    citation="P. Knees et al., Two data sets for tempo estimation and key detection in electronic dance music annotated "
    "from user corrections, ISMIR 2015; GiantSteps-MTG: A. Faraldo, Tonality estimation in electronic dance music, UPF 2018",
    layout="giantsteps-key-dataset/audio/<id>.LOFI.mp3 and giantsteps-mtg-key-dataset/audio/<id>.LOFI.mp3",
    mini=mini,
    locate=locate,
    filtered=filtered,
    sources=(
        Source(
            url="http://www.cp.jku.at/datasets/giantsteps/backup/",
            status="dead",
            note="test audio; gone in 2026",
        ),
        Source(
            url="http://www.cp.jku.at/datasets/giantsteps/mtg_key_backup/",
            status="dead",
            note="train and valid audio, reported gone in 2026",
        ),
        Source(
            url="hf:m-a-p/GS",
            status="unread",
            note="where the makers' own page points to now; MARBLE's copy holds clips of 30 s, "
            "giantsteps_clips/wav/<id>-<n>.wav, not the previews",
        ),
    ),
)
