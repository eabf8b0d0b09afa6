"""vocadito: 40 excerpts of solo singing by 29 singers in seven languages, 44,100 Hz, with the pitch of every 256 samples.

On disk `Audio/vocadito_<n>.wav` and `Annotations/F0/vocadito_<n>_f0.csv`, as the zip unpacks. Notes and lyrics are not read.

The makers publish no split. The shipped list deals the singers to five folds of eight excerpts each: singers by how many
excerpts they have (more first, then by number), each to the fold with the fewest. Folds 0 to 2 are train, 3 is valid, 4 is
test. The singers are those of the makers' `vocadito_metadata.csv`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError

from . import f0, split_rows

LIST = "dbbbe5da7c5e0d266f3d76cd110143d8bedc6c7c4c1aa9851194a841482c3877"


@lru_cache(maxsize=1)
def tracks() -> tuple[dict[str, str], ...]:
    """The shipped list: `track`, `singer`, `fold`, `split`."""
    return tuple(split_rows("vocadito.csv", LIST))


def find_curve(root: Path, track: str) -> Path:
    """Where the curve of an excerpt lies, or should."""
    return root / "Annotations" / "F0" / f"vocadito_{track}_f0.csv"


def clips(root: Path | None) -> Iterator[Clip]:
    """Every excerpt whose curve is there; a singer is a group. Raises DataError naming every bad file."""
    if root is None:
        raise DataError("the pitch curves are in the corpus alone: give --data-dir DIR with its annotations")
    rows = {row["track"]: row for row in tracks() if find_curve(root, row["track"]).is_file()}
    if not rows:
        raise DataError(f"no pitch curves in {root}: it should hold {VOCADITO.layout}")
    for track, curve in f0.read_curves([(track, find_curve(root, track)) for track in rows]):
        audio, row = f"Audio/vocadito_{track}.wav", rows[track]
        yield Clip(f"vocadito_{track}", row["split"], audio, curve, group=row["singer"])


MINI_TRACKS = {"train": 6, "valid": 3, "test": 4}
MINI_VOWELS = {"train": "aoe", "valid": "oe", "test": "iu"}


def compose(track: str, split: str) -> tuple[Any, Any, Any]:
    """`(samples,)` sound of the miniature's excerpt, its frequencies and where it is voiced.

    Between phrases there is breath, at a third of the level of the voice.
    """
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([int(track), 40])
    lowest = 45 + 12 * random.random()
    hz, sounding = f0.draw_melody(random, lowest, lowest + 16)
    voice = f0.sing(hz, sounding, str(random.choice(list(MINI_VOWELS[split]))))
    breath = synth.noise(f0.MINI_S, f0.MINI_RATE_HZ, random, smooth=3)[: len(voice)]
    share = np.where(sounding, 0.03, 0.3)
    return voice / f0.level(voice) + share * breath / f0.level(breath), hz, sounding


def mini(folder: Path) -> None:
    """Some excerpts of every split, synthesised vowels with breath between phrases; the test split sings other vowels."""
    from marble_bench.audio import synth

    for track, split in f0.pick(tracks(), MINI_TRACKS):
        sound, hz, sounding = compose(track, split)
        synth.write(folder / "Audio" / f"vocadito_{track}.wav", sound, f0.MINI_RATE_HZ)
        f0.write_curve(find_curve(folder, track), hz, sounding)


VOCADITO = Corpus(
    name="vocadito",
    title="vocadito",
    home="https://zenodo.org/records/5578807",
    license="CC-BY-4.0",
    citation="R. M. Bittner, K. Pasalo, J. J. Bosch, G. Meseguer-Brocal and D. Rubinstein, vocadito: a dataset of solo "
    "vocals with f0, note, and lyric annotations, 2021",
    layout="Audio/vocadito_<n>.wav and Annotations/F0/vocadito_<n>_f0.csv, from vocadito.zip",
    mini=mini,
    sources=(
        Source(
            url="https://zenodo.org/record/5578807/files/vocadito.zip",
            unpack=True,
            md5="dea40fd18f14d899643c4ba221b33a46",
            note="the digest is mirdata's",
        ),
    ),
)
