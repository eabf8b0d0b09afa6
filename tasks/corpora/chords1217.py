"""Chords1217: 1,217 popular songs with chords in Harte's syntax.

They are said to be the union of Isophonics, Billboard, RWC-Pop and USPop that E. Humphrey and J. P. Bello collected in 2015;
this is not confirmed.

Two layouts are read:

- of the ISMIR 2019 system (music-x-lab): `audio/<song>.mp3` and `chordlab/<song>.lab`, a line for each chord with start, end
  and label between tabs or spaces;
- of MARBLE's second version (`hf:m-a-p/Chords1217`): `audio/<song>.flac` and `Chords1217.{train,val,test}.jsonl`, an object
  for each song, `{"audio_path": ..., "label": [{"start_time": ..., "end_time": ..., "chord_str": ...}, ...]}`.

If a song has both annotations, the `.lab` is read. Audio and labels are not public. The lists of songs are public: five
folds whose test lists partition the songs; for validation the last quarter of a permutation of each training list, drawn
with numpy's seed 20190326 for one fold after the other, as the code of that system does. They ship here under its MIT
licence (`splits/chords1217.LICENSE.txt`). Which fold the lists of MARBLE's second version are is not known; its files are
read for their labels alone. It is not stated that no artist is in two splits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from marble_bench import Clip, Corpus, Source
from marble_bench.errors import DataError, listing
from marble_bench.files.tables import brief, fault, read_lines
from marble_bench.metrics._chord_labels import Segment, make_target

from . import split_rows
from .chord_segments import MINI_RATE_HZ, compose, join_segments

FOLDS = 5
JSONL = tuple(f"Chords1217.{split}.jsonl" for split in ("train", "val", "test"))
SUFFIXES = (".mp3", ".flac", ".wav")
NUMBER = re.compile(r"\d{1,9}(\.\d{0,30})?([eE][-+]?\d{1,3})?")


@lru_cache(maxsize=1)
def list_songs() -> tuple[dict[str, str], ...]:
    """The split: rows of `song` and `fold0` to `fold4`, each `train`, `valid` or `test`."""
    return tuple(split_rows("chords1217.csv", "d702a52ec1f890b1c6ae638940cde922184392ff4997a470415804d803c55be8"))


def read_lab(path: Path) -> tuple[Segment, ...]:
    """The chords of a `.lab` file. Raises DataError naming the file and line."""
    rows = []
    for number, line in enumerate(read_lines(path, byte_order_mark=False), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 3 or not all(map(NUMBER.fullmatch, fields[:2])):
            raise fault(path, f"has {brief(line)}; a line is start, end and chord", number)
        rows.append((float(fields[0]), float(fields[1]), fields[2], number))
    return _join(path, rows)


def _join(path: Path, rows: list[tuple[float, float, str, int]]) -> tuple[Segment, ...]:
    segments = join_segments(rows, lambda words, line: fault(path, words, line))
    if not segments:
        raise fault(path, "has no chord; get the file again", rows[0][3] if rows else None)
    return segments


def read_jsonl(path: Path) -> Iterator[tuple[str, tuple[Segment, ...]]]:
    """Each song of a file of MARBLE's and its chords. Raises DataError naming the file and line."""
    for number, line in enumerate(read_lines(path), 1):
        try:
            song = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise fault(path, f"is no JSON: {brief(line)}", number) from error
        audio, labels = (song.get(key) if isinstance(song, dict) else None for key in ("audio_path", "label"))
        if not isinstance(audio, str) or not isinstance(labels, list):
            raise fault(path, f"has no audio_path and label as MARBLE writes them: {brief(song)}", number)
        rows = [(*_read_chord(path, each, number), number) for each in labels]
        yield Path(audio).stem, _join(path, rows or [(0.0, 0.0, "N", number)])


def _read_chord(path: Path, each: Any, number: int) -> tuple[float, float, str]:
    start_s, end_s, label = (
        each.get(key) if isinstance(each, dict) else None for key in ("start_time", "end_time", "chord_str")
    )
    times = [time for time in (start_s, end_s) if isinstance(time, int | float) and not isinstance(time, bool)]
    if len(times) != 2 or not isinstance(label, str) or not all(abs(time) < 1e9 for time in times):
        raise fault(path, f"has the chord {brief(each)}; give start_time, end_time and chord_str", number)
    return float(times[0]), float(times[1]), label


def read_annotations(root: Path) -> dict[str, tuple[Segment, ...]]:
    """The chords of every song that is annotated in a folder. Raises DataError naming every bad file."""
    found: dict[str, tuple[Segment, ...]] = {}
    for path in (root / name for name in JSONL):
        for song, segments in read_jsonl(path) if path.is_file() else ():
            if song in found:
                raise fault(path, f"annotates {brief(song)}, which is annotated before; keep the right line")
            found[song] = segments
    bad = []
    for path in sorted(root.glob("chordlab/*.lab")):
        try:
            found[path.stem] = read_lab(path)
        except DataError as error:
            bad.append(str(error))
    if bad:
        raise DataError(f"{len(bad)} annotation files cannot be used: {listing(bad)}")
    return found


def locate(root: Path, audio: str) -> Path | None:
    """A song's file, in any of the two layouts."""
    paths = (root / Path(audio).with_suffix(suffix) for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def clips(root: Path | None, fold: int = 0) -> Iterator[Clip]:
    """Every annotated song of a fold's lists with its chords.

    fold: 0 to 4. For another fold than the first, a task file of one's own replaces `clips` by this function with another
    number, and gives the counts: folds 2 to 4 have 731/243/243 songs.
    """
    if root is None:
        raise DataError("the chords are in the corpus alone: give --data-dir DIR with its annotations")
    annotated = read_annotations(root)
    if not annotated:
        raise DataError(f"no chords in {root}: it should hold {CHORDS1217.layout}")
    for row in list_songs():
        if row["song"] in annotated:
            target = make_target(annotated[row["song"]])
            yield Clip(row["song"], row[f"fold{fold}"], f"audio/{row['song']}.mp3", target)


MINI_SONGS = {"train": ("organ", "guitar", "organ", "guitar"), "valid": ("guitar",), "test": ("string", "string")}


def mini(folder: Path) -> None:
    """Some songs of each split, synthesised: the 24 triads and no chord. The test songs' timbre is in no other split.

    As MARBLE's second version has them.
    """
    from marble_bench.audio import synth

    for (split, timbres), name in zip(MINI_SONGS.items(), JSONL, strict=True):
        lines = []
        songs = [row["song"] for row in list_songs() if row["fold0"] == split]
        for song, timbre in zip(songs, timbres, strict=False):
            sound, segments = compose(song, timbre)
            synth.write(folder / "audio" / f"{song}.flac", sound, MINI_RATE_HZ)
            chords = [{"start_time": start, "end_time": end, "chord_str": label} for start, end, label in segments]
            lines.append(json.dumps({"audio_path": f"data/Chords1217/audio/{song}.flac", "label": chords}))
        (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


CHORDS1217 = Corpus(
    name="chords1217",
    title="Chords1217",
    home="https://huggingface.co/datasets/m-a-p/Chords1217",
    license="labels: Billboard's CC0, the others none stated; audio: none stated",
    citation="lists: J. Jiang, K. Chen, W. Li and G. Xia, Large-vocabulary chord transcription via chord structure "
    "decomposition, ISMIR 2019; the labels' sources: not stated",
    layout="audio/<song>.mp3 and chordlab/<song>.lab, or audio/<song>.flac and Chords1217.{train,val,test}.jsonl",
    mini=mini,
    locate=locate,
    sources=(
        Source(
            url="hf:m-a-p/Chords1217",
            status="gated",
            note="audio as flac and labels as jsonl; ask for access with a Hugging Face account",
        ),
    ),
)
