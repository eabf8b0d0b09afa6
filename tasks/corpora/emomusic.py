"""Emomusic: 744 songs of the Free Music Archive, 45 s of each, 44,100 Hz mp3, rated by a crowd for arousal and valence.

On disk `clips_45seconds/<id>.mp3`, `songs_info.csv` and `static_annotations.csv` (the annotations' archive holds the csv
files; they are found beside the clips or in `annotations/`). Ratings run from 1 to 9. The fields of both csv files carry
stray tabs and blanks, which are taken off.

The MediaEval 2013 evaluation set is the test split; the development set was divided into train and valid by JukeMIR, by a
hash of the artist, so no artist is in both. The list that ships is theirs.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path
from typing import Any

from marble_bench.errors import DataError
from marble_bench.source import Source
from marble_bench.task import Clip, Corpus

from . import split_rows

RATE_HZ = 44100
RATINGS = "static_annotations.csv"
SONGS = "songs_info.csv"
HOME = "https://cvml.unige.ch/databases/emoMusic/"


@lru_cache(maxsize=1)
def songs() -> tuple[dict[str, str], ...]:
    """The split: rows of `song_id`, `split`, `mean_arousal`, `mean_valence`."""
    return tuple(split_rows("emomusic.csv", "1a038832e481d5cff2ada1a18c441bdcf6470ad7f7734876f0d3f376716d4c8e"))


def _table(root: Path, name: str) -> dict[str, dict[str, str]] | None:
    """An annotation file's rows by song id, stray tabs off; None if it is not there."""
    for path in (root / name, root / "annotations" / name):
        if path.is_file():
            with path.open(encoding="utf-8-sig", errors="strict", newline="") as file:
                rows = [
                    {key.strip(): (value or "").strip() for key, value in row.items() if key is not None}
                    for row in csv.DictReader(file)
                ]
            if rows and "song_id" not in rows[0]:
                raise DataError(f"{path} has no column song_id; its columns are {', '.join(rows[0])}")
            return {row["song_id"]: row for row in rows}
    return None


def ratings(root: Path | None) -> dict[str, tuple[float, float]]:
    """(arousal, valence) from 1 to 9 of each song: from the corpus's own file, or without a corpus from the split list.

    Raises DataError if the file is missing or a rating in it is no number from 1 to 9.
    """
    if root is None:
        return {row["song_id"]: (float(row["mean_arousal"]), float(row["mean_valence"])) for row in songs()}
    table = _table(root, RATINGS)
    if table is None:
        raise DataError(
            f"{RATINGS} is neither in {root} nor in {root / 'annotations'}; it is part of {HOME}annotations.tar.gz"
        )
    found = {}
    for song, row in table.items():
        try:
            found[song] = (float(row["mean_arousal"]), float(row["mean_valence"]))
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{RATINGS} in {root}: song {song} has no numbers mean_arousal and mean_valence ({error})"
            ) from error
        if not all(1 <= rating <= 9 for rating in found[song]):
            raise DataError(f"{RATINGS} in {root}: song {song} is rated {found[song]}; ratings run from 1 to 9")
    return found


def check_sets(root: Path) -> None:
    """Hold the split list against `songs_info.csv`, where that is at hand. Raises DataError naming a song that differs.

    The evaluation set is the test split, and an artist's development songs are in train or in valid, never in both.
    """
    table = _table(root, SONGS)
    of_artist: dict[str, tuple[str, str]] = {}
    for row in songs() if table else ():
        info = table.get(row["song_id"]) if table else None
        if info and (info.get("Mediaeval 2013 set") == "evaluation") != (row["split"] == "test"):
            raise DataError(
                f"{SONGS} in {root} puts song {row['song_id']} into the {info.get('Mediaeval 2013 set')!r} set; "
                f"the published split has it in {row['split']}"
            )
        if info and row["split"] != "test" and (artist := info.get("Artist")):
            first, split = of_artist.setdefault(artist, (row["song_id"], row["split"]))
            if split != row["split"]:
                raise DataError(
                    f"{SONGS} in {root} gives songs {first} and {row['song_id']} to one artist, '{artist}'; the published "
                    "split has them in train and valid, which share no artist"
                )


def clips(root: Path | None) -> list[Clip]:
    """Every song of the split with its (arousal, valence). Raises DataError naming a song that is there but not rated."""
    rated = ratings(root)
    if root is not None:
        check_sets(root)
    made = []
    for row in songs():
        song, audio = row["song_id"], f"clips_45seconds/{row['song_id']}.mp3"
        if song not in rated and root is not None and (root / audio).is_file():
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

    from marble_bench import synth

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

    from marble_bench import synth

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
    sample_rate_hz=RATE_HZ,
    sources=(
        Source(url=f"{HOME}clips_45sec.tar.gz", unpack=True, note="the audio"),
        Source(url=f"{HOME}annotations.tar.gz", unpack=True, note="the csv files"),
        Source(url="hf:m-a-p/EMO", mirror="hub", note="re-packed"),
    ),
)
