"""OpenMIC-2018: 20,000 excerpts of 10 s from the Free Music Archive, with judgements on twenty instruments.

On disk, as the makers' archive unpacks: `openmic-2018/` with `audio/<000>/<sample_key>.ogg`,
`openmic-2018-aggregated-labels.csv` (sample_key, instrument, relevance, num_responses) and
`partitions/split01_train.csv` and `split01_test.csv` (a sample_key a line). The folder itself may be given too.

Of the twenty instruments of an excerpt only those in the table were judged, about two. An instrument is there from a
relevance of 0.5 on. Where a pair is in the table twice, the later row holds, as in the makers' own arrays. Every
excerpt of the table is in a partition: these arrays, which are made of the table, have 20,000 excerpts, as the
partitions do. The makers have no validation split: here it is made of the training tracks whose name has a sha256 that
leaves 0, 1 or 2 when divided by 20.

A report on the makers' repository names two pairs of equal files, 007954_184320 with 120195_184320 and 074658_372480 with
074328_372480. In the lists of the repository the first pair is in train and the second in test. Whether the release still
has them is not established; a run names equal files itself.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError
from marble_bench.files.tables import brief, fault, read_lines, read_table

from .resonances import RATE_HZ, place_resonances, play, write

LABELS = "openmic-2018-aggregated-labels.csv"
PARTITIONS = {"train": "partitions/split01_train.csv", "test": "partitions/split01_test.csv"}
INSTRUMENTS = (
    "accordion", "banjo", "bass", "cello", "clarinet", "cymbals", "drums", "flute", "guitar", "mallet_percussion",
    "mandolin", "organ", "piano", "saxophone", "synthesizer", "trombone", "trumpet", "ukulele", "violin", "voice",
)  # fmt: skip
KEY = re.compile(r"(?P<track>\d{6})_\d+", re.ASCII)
PRESENT = 0.5  # the least relevance of an instrument that is there
VALID_OF_20 = 3
COUNTS = {"train": 12670, "valid": 2245, "test": 5085}
HOME = "https://zenodo.org/records/1432913"


def find_split(track: str, partition: str) -> str:
    """The split of a track of a partition of the makers.

    >>> [find_split(track, "train") for track in ("000046", "000135", "000139")], find_split("000046", "test")
    (['train', 'train', 'train'], 'test')
    """
    if partition == "test":
        return "test"
    drawn = int(hashlib.sha256(track.encode()).hexdigest(), 16) % 20
    return "valid" if drawn < VALID_OF_20 else "train"


def _find_folder(root: Path) -> Path:
    """The folder with the makers' files: the one given, or `openmic-2018` in it."""
    inside = root / "openmic-2018"
    return inside if inside.is_dir() else root


def _read_judgements(path: Path, listed: Mapping[str, str]) -> dict[str, dict[str, bool]]:
    """Of each excerpt whether each judged instrument is there. listed: the excerpts of the partitions."""
    judged: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in read_table(path, columns=("sample_key", "instrument", "relevance")):
        key, instrument = row["sample_key"], row["instrument"]
        if not KEY.fullmatch(key):
            raise row.fault(f"the sample_key is {brief(key)}; it should be such as 000046_3840")
        if key not in listed:
            raise row.fault(f"excerpt {key} is in no partition; get the table and partitions/ from one archive")
        if instrument not in INSTRUMENTS:
            raise row.fault(f"the instrument is {brief(instrument)}; it should be one of {', '.join(INSTRUMENTS)}")
        try:
            relevance = float(row["relevance"])
        except ValueError:
            relevance = -1.0
        if not 0 <= relevance <= 1:
            raise row.fault(f"the relevance is {brief(row['relevance'])}; it should be a number from 0 to 1")
        judged[key][instrument] = relevance >= PRESENT
    return judged


def clips(root: Path | None) -> Iterator[Clip]:
    """Every excerpt of the two partitions; excerpts of one track are a group. Raises DataError for a table that is not
    whole."""
    if root is None:
        raise DataError(f"OpenMIC's judgements are in its own {LABELS}: give --data-dir DIR")
    folder = _find_folder(root)
    for name in (LABELS, *PARTITIONS.values()):
        if not (folder / name).is_file():
            raise DataError(f"no {folder / name}; it is part of the makers' archive, {HOME}")
    listed = _read_partitions(folder)
    judged = _read_judgements(folder / LABELS, listed)
    for number, (key, partition) in enumerate(listed.items()):
        if key not in judged:
            first = list(listed.values()).index(partition)
            words = f"excerpt {key} has no row in {LABELS}; get both files from one archive"
            raise fault(folder / PARTITIONS[partition], words, number - first + 1)
        track = key.partition("_")[0]
        yield Clip(key, find_split(track, partition), f"audio/{key[:3]}/{key}.ogg", dict(judged[key]), group=track)


def _read_partitions(folder: Path) -> dict[str, str]:
    """The partition of every excerpt, in the order of the files. Raises DataError for one that is listed twice."""
    listed: dict[str, str] = {}
    where: dict[str, str] = {}
    for partition, name in PARTITIONS.items():
        path = folder / name
        for number, key in enumerate(map(str.strip, read_lines(path)), 1):
            if not KEY.fullmatch(key):
                raise fault(path, f"holds {brief(key)}, which is no sample_key, such as 000046_3840", number)
            if key in listed:
                raise fault(path, f"excerpt {key} is in {where[key]} too", number)
            listed[key], where[key] = partition, f"{name} line {number}"
    return listed


def locate(root: Path, audio: str) -> Path | None:
    """An excerpt's file."""
    path = _find_folder(root) / audio
    return path if path.is_file() else None


RESONANCES_HZ = place_resonances(len(INSTRUMENTS), 400.0, 7000.0)
MINI_CLIPS = {"train": 120, "valid": 60, "test": 60}
MINI_S = 1.5
PLAYING = 3  # instruments of an excerpt


def choose_players(number: int) -> tuple[list[int], int]:
    """The instruments that play in an excerpt of the miniature, the first of them judged, and one judged absent."""
    import numpy as np

    random = np.random.default_rng([number, 2018])
    present = number % len(INSTRUMENTS)
    absent = (present + 1 + int(random.integers(len(INSTRUMENTS) - 1))) % len(INSTRUMENTS)
    others = [each for each in random.permutation(len(INSTRUMENTS)).tolist() if each not in (present, absent)]
    return [present, *others[: PLAYING - 1]], absent


def compose(number: int, odd: bool) -> Any:
    """An excerpt of the miniature, `(samples,)` of unit power: three instruments of drawn levels, in noise."""
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([number, 20000])
    players, _ = choose_players(number)
    mix = 0.05 * synth.noise(MINI_S, RATE_HZ, random)
    for player in players:
        sound = (0.6 + 0.4 * random.random()) * play(RESONANCES_HZ[player], MINI_S, random, odd)
        synth.place(mix, sound, 0.0, RATE_HZ)
    return mix / np.sqrt((mix * mix).sum() / len(mix))


def mini(folder: Path) -> None:
    """Excerpts in which three of the twenty play and two were judged; in test they have another timbre."""
    rows, keys = ["sample_key,instrument,relevance,num_responses"], dict[str, list[str]](train=[], test=[])
    wanted, number, track = dict(MINI_CLIPS), 0, 0
    while any(wanted.values()):
        track += 1
        drawn = find_split(f"{track:06}", "train")
        split = "test" if not any(wanted[each] for each in ("train", "valid")) else drawn
        if not wanted[split]:
            continue
        number, wanted[split] = number + 1, wanted[split] - 1
        key = f"{track:06}_0"
        players, absent = choose_players(number)
        keys["test" if split == "test" else "train"].append(key)
        rows += [f"{key},{INSTRUMENTS[players[0]]},0.9,3", f"{key},{INSTRUMENTS[absent]},0.1,3"]
        path = folder / "openmic-2018" / "audio" / key[:3] / f"{key}.ogg"
        write(path, compose(number, odd=split == "test"))
    home = folder / "openmic-2018"
    (home / "partitions").mkdir(parents=True, exist_ok=True)
    (home / LABELS).write_text("\n".join(rows) + "\n", encoding="utf-8")
    for partition, name in PARTITIONS.items():
        (home / name).write_text("\n".join(keys[partition]) + "\n", encoding="utf-8")


OPENMIC = Corpus(
    name="openmic",
    title="OpenMIC-2018",
    home=HOME,
    license="annotations: CC-BY-4.0; audio: Creative Commons or public domain, by track",
    citation="E. Humphrey, S. Durand and B. McFee, OpenMIC-2018: an open dataset for multiple instrument recognition, ISMIR "
    "2018",
    layout=f"openmic-2018/{LABELS}, openmic-2018/partitions/ and openmic-2018/audio/<000>/<sample_key>.ogg",
    mini=mini,
    locate=locate,
    sources=(
        Source(
            url="https://zenodo.org/records/1432913/files/openmic-2018-v1.0.0.tgz",
            unpack=True,
            md5="e4ccf187e2bb5ab2e115416e8aafe7f4",
        ),
    ),
)
