"""Emomusic: 744 songs of the Free Music Archive, 45 s of each, 44,100 Hz mp3, rated by a crowd for arousal and valence.

On disk `clips_45seconds/<id>.mp3`, `songs_info.csv` and `static_annotations.csv` (the annotations' archive holds the csv
files; they are found beside the clips or in `annotations/`). Ratings run from 1 to 9 and are compared with those of
the shipped list. The fields of both csv files carry stray tabs and blanks, which are taken off. MARBLE's copy on the hub,
`emomusic/wav/<id, four digits>.wav`, is found too; it has no csv files, so the shipped list has its ratings.

The MediaEval 2013 evaluation set is the test split; the development set was divided into train and valid by JukeMIR, by a
hash of the artist, so no artist is in both. The list that ships is theirs.
"""

from __future__ import annotations

import csv
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.data import corpus
from marble_bench.errors import DataError
from marble_bench.files.tables import Row, brief, fault, read_table

from . import split_rows

RATE_HZ = 44100
RATINGS = "static_annotations.csv"
SONGS = "songs_info.csv"
RATED = ("mean_arousal", "mean_valence")
SET = "Mediaeval 2013 set"
CLOSE = 0.01  # the shipped list has four decimals
MIRRORS = ("emomusic/wav", "wav")  # MARBLE's copy on the hub, and its inside
HOME = "https://cvml.unige.ch/databases/emoMusic/"


@lru_cache(maxsize=1)
def songs() -> tuple[dict[str, str], ...]:
    """The split: rows of `song_id`, `split`, `mean_arousal`, `mean_valence`."""
    return tuple(split_rows("emomusic.csv", "1a038832e481d5cff2ada1a18c441bdcf6470ad7f7734876f0d3f376716d4c8e"))


def _file(root: Path, name: str) -> Path | None:
    """An annotation file where it may lie; None if it is not there."""
    return next((path for path in (root / name, root / "annotations" / name) if path.is_file()), None)


def _rows(path: Path, columns: tuple[str, ...]) -> dict[str, Row]:
    """An annotation file's rows by song id, stray tabs off."""
    rows = {row["song_id"]: row for row in read_table(path, columns=columns, unique=("song_id",), strip=True)}
    for row in rows.values():
        if not re.fullmatch(r"[1-9]\d{0,3}", row["song_id"]):
            raise row.fault(f"the song_id is {brief(row['song_id'])}, which is no number of a song")
    return rows


def _is_mirror(root: Path) -> bool:
    """Whether a folder is MARBLE's copy on the hub, which has no csv files."""
    return any((root / home).is_dir() for home in MIRRORS)


def ratings(root: Path | None) -> dict[str, tuple[float, float]]:
    """(arousal, valence) from 1 to 9 of each song: from the corpus's own file, or without a corpus from the split list.

    Raises DataError if the file is missing, a rating in it is no number from 1 to 9, or differs from the shipped
    list's. A miniature's songs are others, so its ratings are not compared.
    """
    listed = {row["song_id"]: (float(row["mean_arousal"]), float(row["mean_valence"])) for row in songs()}
    if root is None:
        return listed
    path = _file(root, RATINGS)
    if path is None:
        if _is_mirror(root):
            return listed
        raise DataError(
            f"{RATINGS} is neither in {root} nor in {root / 'annotations'}; it is part of {HOME}annotations.tar.gz"
        )
    found = {}
    for song, row in _rows(path, ("song_id", *RATED)).items():
        if list(row.cells).index(RATED[0]) > list(row.cells).index(RATED[1]):
            raise fault(
                path, f"the columns {' and '.join(RATED)} are exchanged: the makers' file has {RATED[0]} first", 1
            )
        try:
            found[song] = (row.number(RATED[0], 1, 9), row.number(RATED[1], 1, 9))
        except DataError as error:
            raise DataError(f"{error} (the rating of song {song})") from None
        if song in listed and not corpus.is_mini(root):
            for name, own, known in zip(RATED, found[song], listed[song], strict=True):
                if abs(own - known) > CLOSE:
                    raise row.fault(f"{name} of song {song} is {own:g}; the published split has {known:g}")
    return found


def check_sets(root: Path) -> None:
    """Compare the split list with `songs_info.csv`, where that is at hand. Raises DataError naming a song that differs.

    The evaluation set is the test split, and an artist's development songs are in train or in valid, never in both.
    """
    path = _file(root, SONGS)
    if path is None:
        return
    infos = _rows(path, ("song_id", "Artist", SET))
    of_artist: dict[str, tuple[str, str]] = {}
    for row in songs():
        info = infos.get(row["song_id"])
        if info is None:
            continue
        if info[SET] not in ("development", "evaluation"):
            raise info.fault(
                f"song {row['song_id']} is in the set {brief(info[SET])}; sets are development and evaluation"
            )
        if (info[SET] == "evaluation") != (row["split"] == "test"):
            raise info.fault(
                f"puts song {row['song_id']} into the '{info[SET]}' set; the published split has it in {row['split']}"
            )
        if row["split"] != "test" and (artist := info["Artist"]):
            first, split = of_artist.setdefault(artist, (row["song_id"], row["split"]))
            if split != row["split"]:
                raise info.fault(
                    f"gives songs {first} and {row['song_id']} to one artist, {brief(artist)}; the published "
                    "split has them in train and valid, which share no artist"
                )


def locate(root: Path, audio: str) -> Path | None:
    """A song's file: the makers' mp3, or MARBLE's wav."""
    path = root / audio
    if path.is_file():
        return path
    song = Path(audio).stem
    places = (root / home / f"{song:0>4}.wav" for home in MIRRORS)
    return next((place for place in places if place.is_file()), None)


def filtered(name: str) -> str:
    """Why a file of the whole corpus is in no split."""
    if re.fullmatch(r"(\d+)\.(mp3|wav)", Path(name).name):
        return "one of the 1,000 songs that the published set of 744 leaves out"
    return ""


def clips(root: Path | None) -> list[Clip]:
    """Every song of the split with its (arousal, valence). Raises DataError naming a song that is there but not rated."""
    rated = ratings(root)
    if root is not None:
        check_sets(root)
    made = []
    for row in songs():
        song, audio = row["song_id"], f"clips_45seconds/{row['song_id']}.mp3"
        if song not in rated and root is not None and locate(root, audio) is not None:
            raise DataError(
                f"{RATINGS} in {root} has no rating of song {song}, whose clip is there; get the file again"
            )
        made.append(Clip(song, row["split"], audio, rated.get(song)))
    return made


MINI_SONGS = {"train": 38, "valid": 15, "test": 19}
MINI_S = 10.4  # two windows of five seconds and a rest


def compose(song: int) -> tuple[Any, float, float]:
    """The miniature's song: `(samples,)` at RATE_HZ, arousal and valence.

    Arousal is heard in tempo, brightness and drums; valence in mode, register and, less, in tempo. Listeners disagree: a
    part of each rating is chance, so that no probe can be perfect.
    """
    import numpy as np

    from marble_bench.audio import synth

    random = np.random.default_rng([song, 2013])
    drive, mood = random.random(), random.random()
    beat_s = 60 / (60 + 100 * (0.7 * drive + 0.15 * mood + 0.15 * random.random()))
    mode = "major" if mood + 0.25 * (random.random() - 0.5) > 0.5 else "minor"
    tonic = 48 + int(random.integers(0, 7)) + round(8 * mood)
    timbre = ("flute", "piano", "string", "brass")[min(3, int(4 * (0.75 * drive + 0.25 * random.random())))]
    mix = np.zeros(round(MINI_S * RATE_HZ))
    degrees = (0, 3, 4, 0) if mood > 0.3 else (0, 5, 3, 0)
    for beat in range(int(MINI_S / beat_s)):
        pitches = synth.triad(tonic, mode, degrees[beat // 4 % 4])
        if beat % 2 == 0:
            synth.place(mix, synth.chord(pitches, 2 * beat_s, RATE_HZ, timbre, 0.8), beat * beat_s, RATE_HZ, 0.5)
        melody = synth.note(pitches[int(random.integers(3))] + 12, beat_s, RATE_HZ, timbre, 0.4)
        synth.place(mix, melody, beat * beat_s, RATE_HZ, 0.4)
        if drive > 0.45:
            synth.place(mix, synth.kick(RATE_HZ), beat * beat_s, RATE_HZ, 0.3 + 0.4 * drive)
            synth.place(mix, synth.hihat(RATE_HZ, random), (beat + 0.5) * beat_s, RATE_HZ, 0.3 * drive)
    mix += synth.noise(MINI_S, RATE_HZ, random, smooth=8)[: len(mix)] * 0.01
    opinion = 2.2 * (random.random(2) - 0.5)
    arousal = min(9.0, max(1.0, 2.2 + 5.2 * drive + opinion[0]))
    valence = min(9.0, max(1.0, 2.2 + 5.2 * mood + opinion[1]))
    return mix, round(arousal, 1), round(valence, 1)


def mini(folder: Path) -> None:
    """Some songs of every split, synthesised, under their official numbers, with both csv files and their stray tabs."""
    from concurrent.futures import ThreadPoolExecutor

    from marble_bench.audio import synth

    def make(song: str) -> tuple[float, float]:
        sound, arousal, valence = compose(int(song))
        synth.write(folder / "clips_45seconds" / f"{song}.mp3", sound, RATE_HZ)
        return arousal, valence

    of_split = {split: [row["song_id"] for row in songs() if row["split"] == split] for split in MINI_SONGS}
    chosen = {song: split for split, count in MINI_SONGS.items() for song in of_split[split][:count]}
    with ThreadPoolExecutor() as pool:
        made = dict(zip(chosen, pool.map(make, chosen), strict=True))
    infos, rated = [], []
    for song, (arousal, valence) in made.items():
        kind = "evaluation" if chosen[song] == "test" else "development"
        names = [f"{song}.mp3", f"Synthesiser {song}\t", f"\tMiniature {song}"]
        infos.append([song, *names, "0.0", "0.11", "\tNone", f"{kind}\t"])
        rated.append([song, arousal, 0.5, f"{valence}\t", 0.5])
    heads = {
        SONGS: ["song_id", "file_name", "Artist", "Song title", "start of the segment (min.sec)",
                "end of the segment (min.sec)", "Genre", "Mediaeval 2013 set"],
        RATINGS: ["song_id", " mean_arousal", " std_arousal", " mean_valence", " std_valence"],
    }  # fmt: skip
    for name, rows in ((SONGS, infos), (RATINGS, rated)):
        with (folder / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\r\n").writerows([heads[name], *rows])


EMOMUSIC = Corpus(
    name="emomusic",
    title="Emomusic",
    home=HOME,
    license="audio: Creative Commons, by song; annotations: research use",
    citation="M. Soleymani et al., 1000 songs for emotional analysis of music, CrowdMM 2013; "
    "split: R. Castellon, C. Donahue and P. Liang, Codified audio language modeling learns useful representations "
    "for music information retrieval, ISMIR 2021",
    layout=f"clips_45seconds/<id>.mp3 and {RATINGS}",
    mini=mini,
    locate=locate,
    filtered=filtered,
    sample_rate_hz=RATE_HZ,
    sources=(
        Source(url=f"{HOME}clips_45sec.tar.gz", unpack=True, note="the audio"),
        Source(url=f"{HOME}annotations.tar.gz", unpack=True, note="the csv files"),
        Source(url="hf:m-a-p/EMO", mirror="hub", note="as wav, by MARBLE; the ratings are those of the shipped list"),
    ),
)
