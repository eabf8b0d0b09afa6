"""MedleyDB's 108 songs with a melody, 7.45 hours, 44,100 Hz, and its pitch every 256 samples.

Read is the second of the makers' three definitions of a melody (MELODY2): at each time the pitch of the source that is
predominant then. On disk `audio/<track>_MIX.wav` and `melody2/<track>_MELODY2.csv` (MedleyDB-Melody), or MedleyDB's own
folders: `<track>/<track>_MIX.wav`, perhaps below `V1/` or `Audio/`, and `Annotations/Melody/Melody2/<track>_MELODY2.csv`.

The split is that of MARBLE's first code, 67/15/26. It does not separate artists: songs of MatthewEntwistle, MusicDelta and
Mozart are in train and in test (10 of the 26 test songs). The column `split_by_artist` of the shipped list has every artist
in one split, that of most of their songs (of equals, the first of train, valid and test): 71/15/22.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError

from . import f0, split_rows

LIST = "91afa7ed75a673f89ccdf0771682e4192861a7b0794a571c087b9cc464f150a9"
CURVES = ("melody2", "Annotations/Melody/Melody2", "Melody2")
MIXES = ("audio/{0}_MIX.wav", "{0}/{0}_MIX.wav", "V1/{0}/{0}_MIX.wav", "Audio/{0}/{0}_MIX.wav")


@lru_cache(maxsize=1)
def tracks() -> tuple[dict[str, str], ...]:
    """The shipped list: `track`, `split`, `split_by_artist`."""
    return tuple(split_rows("medleydb_melody.csv", LIST))


def find_curve(root: Path, track: str) -> Path | None:
    """The curve of a song in one of the known layouts."""
    paths = (root / folder / f"{track}_MELODY2.csv" for folder in CURVES)
    return next((path for path in paths if path.is_file()), None)


def locate(root: Path, audio: str) -> Path | None:
    """A song's mixture in one of the known layouts."""
    track = Path(audio).name.removesuffix("_MIX.wav")
    paths = (root / form.format(track) for form in MIXES)
    return next((path for path in paths if path.is_file()), None)


def clips(root: Path | None, column: str = "split") -> Iterator[Clip]:
    """Every song whose curve is there. column: `split`, or `split_by_artist`. Raises DataError naming every bad file."""
    if root is None:
        raise DataError("the pitch curves are in the corpus alone: give --data-dir DIR with its annotations")
    splits = {row["track"]: row[column] for row in tracks()}
    files = [(track, path) for track in splits if (path := find_curve(root, track))]
    if not files:
        raise DataError(f"no melody annotations in {root}: it should hold {MEDLEYDB_MELODY.layout}")
    for track, curve in f0.read_curves(files):
        yield Clip(track, splits[track], f"audio/{track}_MIX.wav", curve)


MINI_TRACKS = {"train": 6, "valid": 3, "test": 4}
MINI_VOICES = {"train": ("sine", "sawtooth", "a"), "valid": ("sine", "sawtooth", "a"), "test": ("i", "e")}


def compose(track: str, split: str) -> tuple[Any, Any, Any]:
    """`(samples,)` sound of the miniature's song, the frequencies of its melody and where there is one.

    Chords go on through its rests; the melody is as loud as they are, or 6 dB louder.
    """
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([ord(letter) for letter in track])
    lowest = 60 + 5 * random.random()
    hz, sounding = f0.draw_melody(random, lowest, lowest + 16)
    voice = f0.sing(hz, sounding, str(random.choice(MINI_VOICES[split])))
    pads, length_s, tonic = np.zeros(len(voice)), 1.5, int(random.integers(48, 60))
    timbre, mode = str(random.choice(["organ", "string"])), str(random.choice(["major", "minor"]))
    for bar, degree in enumerate(random.integers(0, 6, 4).tolist()):
        chord = synth.chord(synth.triad(tonic, mode, degree), length_s, f0.MINI_RATE_HZ, timbre)
        synth.place(pads, chord, bar * length_s, f0.MINI_RATE_HZ)
    gain = float(random.choice([1.0, 2.0]))
    return gain * voice / f0.level(voice) + pads / f0.level(pads), hz, sounding


def mini(folder: Path) -> None:
    """Some songs of every split, synthesised melodies over chords; the test split has other voices."""
    from marble_bench.audio import synth

    for track, split in f0.pick(tracks(), MINI_TRACKS):
        sound, hz, sounding = compose(track, split)
        synth.write(folder / "audio" / f"{track}_MIX.wav", sound, f0.MINI_RATE_HZ)
        f0.write_curve(folder / "melody2" / f"{track}_MELODY2.csv", hz, sounding)


MEDLEYDB_MELODY = Corpus(
    name="medleydb-melody",
    title="MedleyDB melody",
    home="https://zenodo.org/records/2628782",
    license="CC-BY-NC-SA-4.0",
    citation="R. M. Bittner, J. Salamon, M. Tierney, M. Mauch, C. Cannam and J. P. Bello, MedleyDB: a multitrack dataset "
    "for annotation-intensive MIR research, ISMIR 2014",
    layout="audio/<track>_MIX.wav and melody2/<track>_MELODY2.csv (MedleyDB-Melody), or MedleyDB's own folders",
    mini=mini,
    locate=locate,
    sources=(
        Source(
            url="https://zenodo.org/records/2628782",
            status="gated",
            note="by request on that page; unpack MedleyDB-Melody.zip",
        ),
    ),
)
