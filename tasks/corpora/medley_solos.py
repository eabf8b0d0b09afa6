"""Medley-solos-DB: 21,571 clips of 3 s, each of one of eight instruments alone.

On disk `Medley-solos-DB_metadata.csv` (subset, instrument, instrument_id, song_id, uuid4) and the clips,
`Medley-solos-DB_<subset>-<instrument_id>_<uuid4>.wav`, beside it or in `audio/`; the metadata may lie in `annotation/`, as
mirdata puts it, and a clip may end in `.wav.wav`, as an older release has it. Training and validation are cut from MedleyDB,
test is cut from solosDB: other songs, players and rooms.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError
from marble_bench.files.tables import brief, read_table

from .resonances import place_resonances, play, write

METADATA = "Medley-solos-DB_metadata.csv"
INSTRUMENTS = (
    "clarinet", "distorted electric guitar", "female singer", "flute", "piano", "tenor saxophone", "trumpet", "violin",
)  # fmt: skip
SUBSETS = {"training": "train", "validation": "valid", "test": "test"}
COUNTS = {"train": 5841, "valid": 3494, "test": 12236}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)
HOME = "https://zenodo.org/records/3464194"


def clips(root: Path | None) -> Iterator[Clip]:
    """Every clip with its instrument; clips of one song are a group. Raises DataError for a table that is not whole."""
    if root is None:
        raise DataError(f"Medley-solos-DB's labels are in its own {METADATA}: give --data-dir DIR")
    path = next((each for each in (root / METADATA, root / "annotation" / METADATA) if each.is_file()), None)
    if path is None:
        raise DataError(f"no {root / METADATA}; it is to be had where the audio is, {HOME}")
    for row in read_table(
        path, columns=("subset", "instrument", "instrument_id", "song_id", "uuid4"), unique=("uuid4",)
    ):
        subset, instrument, uuid = row["subset"], row["instrument"], row["uuid4"]
        if subset not in SUBSETS:
            raise row.fault(f"the subset is {brief(subset)}; it should be one of {', '.join(SUBSETS)}")
        if not UUID.fullmatch(uuid):
            raise row.fault(
                f"the uuid4 is {brief(uuid)}; it should be of the form 0a282672-c22c-59ff-faaa-ff9eb73fc8e6"
            )
        if instrument not in INSTRUMENTS:
            raise row.fault(f"the instrument is {brief(instrument)}; it should be one of {', '.join(INSTRUMENTS)}")
        place = str(INSTRUMENTS.index(instrument))
        if row["instrument_id"] != place:
            raise row.fault(f"the instrument_id is {brief(row['instrument_id'])}; {instrument} has {place}")
        if not (row["song_id"].isascii() and row["song_id"].isdigit()):
            raise row.fault(f"the song_id is {brief(row['song_id'])}; it should be a number")
        audio = f"audio/Medley-solos-DB_{subset}-{place}_{uuid}.wav"
        yield Clip(uuid, SUBSETS[subset], audio, instrument, group=f"{subset}-{row['song_id']}")


def locate(root: Path, audio: str) -> Path | None:
    """A clip's file, in `audio/` or beside the metadata."""
    places = (root / audio, root / audio.removeprefix("audio/"))
    return next(
        (each for path in places for each in (path, path.with_name(f"{path.name}.wav")) if each.is_file()), None
    )


RESONANCES_HZ = place_resonances(len(INSTRUMENTS), 300.0, 6000.0)
MINI_SONGS = {"training": 4, "validation": 2, "test": 3}  # of each instrument, with so many clips each
MINI_CLIPS = 4
MINI_S = 1.2


def mini(folder: Path) -> None:
    """Clips of every instrument and subset, each told by its resonance; in test they have another timbre."""
    import numpy as np

    rows = ["subset,instrument,instrument_id,song_id,uuid4"]
    number = 0
    for song, (subset, place) in enumerate(
        (subset, place)
        for subset, songs in MINI_SONGS.items()
        for place in range(len(INSTRUMENTS))
        for _ in range(songs)
    ):
        for _ in range(MINI_CLIPS):
            number += 1
            uuid = f"{number:08x}-0000-5000-8000-{song:012x}"
            sound: Any = play(
                RESONANCES_HZ[place], MINI_S, np.random.default_rng([number, 21571]), odd=subset == "test"
            )
            write(folder / "audio" / f"Medley-solos-DB_{subset}-{place}_{uuid}.wav", sound)
            rows.append(f"{subset},{INSTRUMENTS[place]},{place},{song:03},{uuid}")
    (folder / METADATA).write_text("\n".join(rows) + "\n", encoding="utf-8")


MEDLEY_SOLOS = Corpus(
    name="medley-solos",
    title="Medley-solos-DB",
    home=HOME,
    license="CC-BY-4.0",
    citation="V. Lostanlen and C.-E. Cella, Deep convolutional networks on the pitch spiral for musical instrument "
    "recognition, ISMIR 2016",
    layout=f"{METADATA} and audio/Medley-solos-DB_<subset>-<instrument_id>_<uuid4>.wav",
    mini=mini,
    locate=locate,
    sources=(
        Source(
            url=f"https://zenodo.org/records/3464194/files/{METADATA}",
            md5="fda6a589c56785f2195c9227809c521a",
        ),
        Source(
            url="https://zenodo.org/records/3464194/files/Medley-solos-DB.tar.gz",
            unpack=True,
            md5="f5facf398793ef5c1f80c013afdf3e5f",
        ),
    ),
)
