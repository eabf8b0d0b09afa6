"""Mutated label files of every corpus: each is refused by name, or read as the same labels.

    python benchmarks/fuzz_labels.py --count 1000 --seed 0

A trial changes one label file of a corpus (its rows, columns, cells, ids, values, bytes, encoding or structure), reads
the corpus as `bench check` and `bench run` do, looks at it as `bench data check` does, and compares every clip with
that of the sound file. Its outcome is one of

- refused: a DataError in `bench check`, or a finding of `bench data check`, that names the file in a few hundred characters;
- same: every clip, split, path, group and label is what it was (an empty line at the end, CRLF, a byte order mark);
- plausible: a label has another value that it could well have, and no published list or digest has it (a beat moved by some
  milliseconds); nothing can tell, so these are counted;
- bad: anything else. A traceback, another exception, an error that is long or names no file, a changed number of
  clips, id, path or split that is accepted, a trial of ten seconds, or a gigabyte of memory.

Prints the table of outcomes by corpus and by kind of mutation, and ends with exit code 1 if a trial was bad. The
corpora are small, their audio is one file of noise under many names: labels are what is tried.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import gzip
import importlib
import io
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from marble_bench import audio
from marble_bench.core import plugins
from marble_bench.core.plugins import Named
from marble_bench.core.task import SPLITS, Clip
from marble_bench.data import corpus, inspection
from marble_bench.data.checks import check_ends
from marble_bench.data.examples import find
from marble_bench.errors import DataError
from marble_bench.scoring.targets import Frames

CORPORA = "marble_bench.tasks.corpora"
LONGEST = 900  # characters of an error; ten clips are named in some
SLOWEST_S, MOST_MB = 10.0, 1000.0
OUTCOMES = ("refused", "same", "plausible", "bad")


@dataclass(frozen=True)
class Made:
    """A corpus on disk. labels: its label files below `root`. lists: where its shipped lists were copied to, if those
    are tried."""

    name: str
    root: Path
    labels: tuple[str, ...]
    tasks: tuple[Named, ...]
    lists: bool = False


@dataclass
class Tally:
    """Outcomes by corpus and by kind of mutation, and what was bad."""

    by_corpus: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_kind: Counter[tuple[str, str]] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)


# ---- corpora


def _load_module(name: str) -> Any:
    return importlib.import_module(f"{CORPORA}.{name}")


def _make_named(names: Sequence[str], root: Path) -> tuple[Named, ...]:
    """Tasks whose counts are those of the corpus made here, so that one clip more or less is as wrong as in a whole
    corpus."""
    found = []
    for name in names:
        named = plugins.find_task(name)
        clips = list(named.task.clips(root))
        counts = {split: sum(clip.split == split for clip in clips) for split in SPLITS}
        found.append(dataclasses.replace(named, task=dataclasses.replace(named.task, counts=counts)))
    return tuple(found)


def _write_noise(root: Path, rate_hz: int, length_s: float) -> Path:
    path = root / ".noise.wav"
    random_ = np.random.default_rng(0)
    soundfile.write(path, 0.1 * random_.standard_normal(round(rate_hz * length_s)), rate_hz, subtype="PCM_U8")
    return path


def _write_sounds(root: Path, rate_hz: int, names: Sequence[str], length_s: float = 0.1) -> None:
    """One file of noise under every name."""
    noise = _write_noise(root, rate_hz, length_s)
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(noise, root / name)
    noise.unlink()


def make_emomusic(root: Path) -> Made:
    """All 744 songs with the ratings of the shipped list, which a changed one is compared with."""
    emomusic = _load_module("emomusic")
    songs = emomusic.songs()
    _write_sounds(root, emomusic.RATE_HZ, [f"clips_45seconds/{row['song_id']}.mp3" for row in songs])
    rated = [[r["song_id"], r["mean_arousal"], "0.5", f"{r['mean_valence']}\t", "0.5"] for r in songs]
    head = ["song_id", " mean_arousal", " std_arousal", " mean_valence", " std_valence"]
    infos = [
        [r["song_id"], f"{r['song_id']}.mp3", f"Artist {r['song_id']}\t", f"\tSong {r['song_id']}", "0.0", "0.45", "\tNone",
         "evaluation\t" if r["split"] == "test" else "development\t"]
        for r in songs
    ]  # fmt: skip
    names = ["song_id", "file_name", "Artist", "Song title", "start of the segment (min.sec)",
             "end of the segment (min.sec)", "Genre", "Mediaeval 2013 set"]  # fmt: skip
    for name, rows in ((emomusic.RATINGS, [head, *rated]), (emomusic.SONGS, [names, *infos])):
        with (root / name).open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\r\n").writerows(rows)
    return Made("emomusic", root, (emomusic.RATINGS, emomusic.SONGS), _make_named(["emo"], root))


def make_giantsteps(root: Path) -> Made:
    giantsteps = _load_module("giantsteps")
    songs = giantsteps.songs()
    homes = {row["track"]: giantsteps.FOLDERS[row["collection"]] for row in songs}
    _write_sounds(root, 16000, [f"{homes[row['track']]}/audio/{row['track']}.LOFI.mp3" for row in songs])
    labels = []
    for row in songs[::60]:
        labels.append(f"{homes[row['track']]}/annotations/key/{row['track']}.LOFI.key")
        (root / labels[-1]).parent.mkdir(parents=True, exist_ok=True)
        (root / labels[-1]).write_text(row["key"])
    return Made("giantsteps", root, tuple(labels), _make_named(["gs"], root))


def make_gtzan_rhythm(root: Path) -> Made:
    """Half of the tracks in JAMS, half in `.beats`, in four forms."""
    rhythm = _load_module("gtzan_rhythm")
    chosen = [row for split in SPLITS for row in rhythm.tracks() if row["split"] == split][::40]
    _write_sounds(root, rhythm.RATE_HZ, [f"genres/{row['genre']}/{row['track']}.au" for row in chosen], rhythm.MINI_S)
    labels = []
    for number, row in enumerate(chosen):
        random_ = np.random.default_rng(number)
        piece = rhythm.groove(random_)
        beats = rhythm.beat_times(piece, random_)
        places = [(index + piece.pickup) % piece.meter + 1 for index in range(len(beats))]
        bars = [(index + piece.pickup) // piece.meter + 1 for index in range(len(beats))]
        downbeats = [beat for beat, place in zip(beats, places, strict=True) if place == 1]
        if number % 2:
            labels.append(f"jams/{row['track']}.wav.jams")
            text = rhythm.jams(tuple(beats), tuple(downbeats))
        else:
            labels.append(f"beats/gtzan_{row['track'].replace('.', '_')}.beats")
            rows = zip(beats, places, bars, strict=True)
            form = number // 2 % 4
            text = "".join((f"{t}\t{p}\n", f"{t}\t{b}.{p}\n", f"{t}\t{p}\t{b}\n", f"{t}\n")[form] for t, p, b in rows)
        (root / labels[-1]).parent.mkdir(parents=True, exist_ok=True)
        (root / labels[-1]).write_text(text)
    return Made("gtzan-rhythm", root, tuple(labels), _make_named(["gtzan-rhythm"], root))


def make_magnatagatune(root: Path) -> Made:
    mtt = _load_module("magnatagatune")
    random_ = random.Random(0)
    paths = [f"{'0123456789abcdef'[n % 16]}/artist-album-{n:02}-song_{n}-0-29.mp3" for n in range(64)]
    _write_sounds(root, mtt.RATE_HZ, [f"mp3/{path}" for path in paths])
    rows = [[str(7 * n + 2), *(str(int(random_.random() < 0.2)) for _ in mtt.TAGS), paths[n]] for n in range(64)]
    with (root / mtt.ANNOTATIONS).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t", lineterminator="\n").writerows([["clip_id", *mtt.TAGS, "mp3_path"], *rows])
    return Made("magnatagatune", root, (mtt.ANNOTATIONS,), _make_named(["mtt"], root))


def make_mtg_jamendo(root: Path) -> Made:
    """A miniature, since lists on disk are read in one alone; its marker has the lists' digests, which `data check`
    compares."""
    mtg = _load_module("mtg_jamendo")
    random_ = random.Random(0)
    labels = []
    chosen = [
        (split, 1100 + 3 * number)
        for split in SPLITS
        for number in range(12 * SPLITS.index(split), 12 * SPLITS.index(split) + 12)
    ]
    _write_sounds(root, mtg.RATE_HZ, [f"audio-low/{n % 100:02}/{n}.low.mp3" for _, n in chosen])
    for subset in mtg.SUBSETS:
        for split, makers in mtg.MAKERS_SPLITS.items():
            lines = [mtg.HEAD]
            for of, n in chosen:
                tags = random_.sample(sorted(mtg.WRITTEN[subset]), 1 + random_.randrange(5))
                if of == split:
                    row = [f"track_{n:07}", f"artist_{n:06}", f"album_{n:06}", f"{n % 100:02}/{n}.mp3", "30.4", *tags]
                    lines.append("\t".join(row))
            labels.append(f"{mtg.LISTS}/autotagging_{subset}-{makers}.tsv")
            (root / labels[-1]).parent.mkdir(parents=True, exist_ok=True)
            (root / labels[-1]).write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    (root / corpus.MARKER).touch()
    names = [path.relative_to(root).as_posix() for path in corpus.walk(root) if path.name != corpus.MARKER]
    about = "".join(f"{audio.digest(root / name)}  {name}\n" for name in names)
    (root / corpus.MARKER).write_text(f"Made for a fuzz. sha256 of each file:\n{about}")
    tasks = ["mtg-genre", "mtg-instrument", "mtg-moodtheme", "mtg-top50"]
    return Made("mtg-jamendo", root, (*labels, corpus.MARKER), tuple(plugins.find_task(name) for name in tasks))


def make_nsynth(root: Path) -> Made:
    nsynth = _load_module("nsynth")
    labels = []
    for place, split in enumerate(SPLITS):
        entries = {}
        for number in range(12):
            family, pitch = nsynth.FAMILIES[(number + place) % 11], 30 + 5 * number
            instrument = f"{family}_synthetic_{100 * place + number:03}"
            name = f"{instrument}-{pitch:03}-100"
            entries[name] = {
                "note_str": name, "instrument": number, "instrument_str": instrument,
                "instrument_family": nsynth.FAMILIES.index(family), "instrument_family_str": family,
                "pitch": pitch, "velocity": 100, "sample_rate": 16000,
            }  # fmt: skip
        _write_sounds(root, nsynth.RATE_HZ, [f"nsynth-{split}/audio/{name}.wav" for name in entries])
        labels.append(f"nsynth-{split}/examples.json")
        (root / labels[-1]).write_text(json.dumps(entries, indent=1))
    return Made("nsynth", root, tuple(labels), _make_named(["nsynth-instrument", "nsynth-pitch"], root))


def make_lists(root: Path) -> list[Made]:
    """The shipped lists, whose digests are known: of GTZAN, VocalSet, MUSDB18, and all others."""
    shutil.copytree(_load_module_lists().SPLIT_LISTS, root, dirs_exist_ok=True)
    tasks = {
        "gtzan": (["gtzan"], ["gtzan.csv"]),
        "vocalset": (["vocalset-technique", "vocalset-singer"], ["vocalset_technique.csv", "vocalset_singer.csv"]),
        "musdb18": (["musdb"], ["musdb18.csv"]),
        "lists of others": (
            ["emo", "gs", "mtg-moodtheme"],
            ["emomusic.csv", "giantsteps.csv", "mtg-jamendo/autotagging_moodtheme-test.tsv.gz"],
        ),
    }
    return [
        Made(name, root, tuple(labels), tuple(plugins.find_task(task) for task in names), lists=True)
        for name, (names, labels) in tasks.items()
    ]


def _load_module_lists() -> Any:
    return importlib.import_module(CORPORA)


MAKERS: dict[str, Callable[[Path], Made]] = {
    "emomusic": make_emomusic,
    "giantsteps": make_giantsteps,
    "gtzan-rhythm": make_gtzan_rhythm,
    "magnatagatune": make_magnatagatune,
    "mtg-jamendo": make_mtg_jamendo,
    "nsynth": make_nsynth,
}


# ---- mutations: (random, text, delimiter) -> text or bytes

Mutation = Callable[[random.Random, str, str], str | bytes]


def _mutate_rows(change: Callable[[random.Random, list[str]], list[str]]) -> Mutation:
    """A change of the lines, their ends kept."""

    def mutate(drawn: random.Random, text: str, delimiter: str) -> str:
        return "".join(change(drawn, text.splitlines(keepends=True)))

    return mutate


def _mutate_cells(change: Callable[[random.Random, list[str]], list[str]], head: bool = False) -> Mutation:
    """A change of the cells of one line: of the head, or of any behind it."""

    def mutate(drawn: random.Random, text: str, delimiter: str) -> str:
        lines = text.splitlines(keepends=True)
        at = 0 if head or len(lines) < 2 else drawn.randrange(1, len(lines))
        body = lines[at].rstrip("\r\n")
        lines[at] = delimiter.join(change(drawn, body.split(delimiter))) + lines[at][len(body) :]
        return "".join(lines)

    return mutate


def _replace_cell(*values: str) -> Mutation:
    """One cell becomes one of these; `{}` is what it was."""

    def change(drawn: random.Random, cells: list[str]) -> list[str]:
        at = drawn.randrange(len(cells))
        cells[at] = drawn.choice(values).replace("{}", cells[at])
        return cells

    return _mutate_cells(change)


def _drop(drawn: random.Random, parts: list[str]) -> list[str]:
    del parts[drawn.randrange(len(parts))]
    return parts


def _repeat_part(drawn: random.Random, parts: list[str]) -> list[str]:
    at = drawn.randrange(len(parts))
    return [*parts[:at], parts[at], *parts[at:]]


def _exchange(drawn: random.Random, parts: list[str]) -> list[str]:
    a, b = drawn.randrange(len(parts)), drawn.randrange(len(parts))
    parts[a], parts[b] = parts[b], parts[a]
    return parts


def _insert(what: str) -> Callable[[random.Random, list[str]], list[str]]:
    def change(drawn: random.Random, parts: list[str]) -> list[str]:
        at = drawn.randrange(1, len(parts) + 1)
        return [*parts[:at], what, *parts[at:]]

    return change


def _mutate_column(how: str) -> Mutation:
    """A whole column is dropped, doubled, or exchanged with its neighbour."""

    def mutate(drawn: random.Random, text: str, delimiter: str) -> str:
        lines = text.splitlines(keepends=True)
        at = drawn.randrange(max(1, lines[0].count(delimiter) + 1)) if lines else 0
        changed = []
        for line in lines:
            body = line.rstrip("\r\n")
            cells = body.split(delimiter)
            if at < len(cells):
                if how == "drop":
                    del cells[at]
                elif how == "double":
                    cells.insert(at, cells[at])
                else:
                    cells[at], cells[at - 1] = cells[at - 1], cells[at]
            changed.append(delimiter.join(cells) + line[len(body) :])
        return "".join(changed)

    return mutate


def _change_digit(drawn: random.Random, text: str, delimiter: str) -> str:
    places = [at for at, letter in enumerate(text) if letter.isdigit()]
    if not places:
        return text
    at = drawn.choice(places)
    return text[:at] + drawn.choice([d for d in "0123456789" if d != text[at]]) + text[at + 1 :]


def _change_letter(drawn: random.Random, text: str, delimiter: str) -> str:
    at = drawn.randrange(max(1, len(text)))
    return text[:at] + drawn.choice("aZ\u00e9\u0301 \t\"',;.-_/\\0{}[]\n\u2028") + text[at + 1 :]


def _splice(*pieces: bytes) -> Mutation:
    def mutate(drawn: random.Random, text: str, delimiter: str) -> bytes:
        content = text.encode()
        at = drawn.randrange(len(content) + 1)
        return content[:at] + drawn.choice(pieces) + content[at:]

    return mutate


def _flip_bit(drawn: random.Random, text: str, delimiter: str) -> bytes:
    content = bytearray(text.encode())
    if content:
        content[drawn.randrange(len(content))] ^= 1 << drawn.randrange(8)
    return bytes(content)


def _truncate(drawn: random.Random, text: str, delimiter: str) -> bytes:
    content = text.encode()
    return content[: drawn.randrange(max(1, len(content)))]


def _change_structure(drawn: random.Random, text: str, delimiter: str) -> str:
    """JSON of another shape; other text is put into brackets."""
    try:
        whole = json.loads(text)
    except ValueError:
        return json.dumps([text])
    inner = whole.get("annotations", whole) if isinstance(whole, dict) else whole
    if isinstance(inner, dict) and inner:
        key = drawn.choice(list(inner))
        change = drawn.randrange(7)
        if change == 0:
            inner[key] = None
        elif change == 1:
            inner[key] = [inner[key]]
        elif change == 2:
            del inner[key]
        elif change == 3 and isinstance(inner[key], dict):
            inner[key].pop(drawn.choice(list(inner[key])))
        elif change == 4 and isinstance(inner[key], dict):
            name = drawn.choice(list(inner[key]))
            inner[key][name] = drawn.choice([None, [], {}, -1, 1e9, float("nan"), True, "60", 45.5, "x" * 5000])
        elif change == 5:
            inner[f"{key}x"] = inner.pop(key)
        else:
            whole = [inner]
    elif isinstance(inner, list) and inner:
        at = drawn.randrange(len(inner))
        change = drawn.randrange(6)
        if change == 0:
            inner[at] = None
        elif change == 1:
            inner.append(inner[at])
        elif change == 2:
            del inner[at]
        elif change == 3:
            inner[at] = {
                **inner[at],
                "data": drawn.choice([None, {}, [None], [{"time": None}], [{"time": float("inf")}], "x"]),
            }
        elif change == 4:
            inner[at] = {**inner[at], "namespace": drawn.choice(["beats", None, 3])}
        else:
            inner[at] = {
                **inner[at],
                "sandbox": {"annotation_type": drawn.choice(["Downbeat", "bar", None, [], "beat"])},
            }
    return json.dumps(whole, indent=1)


SHAPES = ("null", "[]", "{}", "1", '"x"', "NaN", "[NaN]", '{"annotations": [[]]}')
MUTATIONS: dict[str, tuple[Mutation, ...]] = {
    "rows": (
        _mutate_rows(_drop),
        _mutate_rows(_repeat_part),
        _mutate_rows(_exchange),
        _mutate_rows(_insert("\n")),
        _mutate_rows(_insert("\t\n")),
        _mutate_rows(_insert("# a comment\n")),
        lambda drawn, text, delimiter: text + "\n\n",
        lambda drawn, text, delimiter: "".join(text.splitlines(keepends=True)[1:]),
        lambda drawn, text, delimiter: text.splitlines(keepends=True)[0] + text if text else text,
        lambda drawn, text, delimiter: "".join(text.splitlines(keepends=True)[:1]),
        lambda drawn, text, delimiter: "",
    ),
    "columns": (
        _mutate_column("drop"),
        _mutate_column("double"),
        _mutate_column("exchange"),
        _mutate_cells(_repeat_part, head=True),
        _mutate_cells(_drop, head=True),
        _mutate_cells(_exchange, head=True),
        _mutate_cells(_drop),
        _mutate_cells(_repeat_part),
        _mutate_cells(_exchange),
    ),
    "cells": (
        _replace_cell("NaN", "inf", "-1", "2", "1.0", "TRUE", ""),
        _replace_cell(" {}", "{} ", "\u00a0{}"),
        _replace_cell('"{}', '{}"', '"{}"x', '""{}'),
        _replace_cell("{},5", "{};{}"),
        _replace_cell("{}" * 40_000, "x" * 200_000, "9" * 5000),
        _replace_cell("e\u0301{}", "\u00e9{}"),
    ),
    "ids": (
        _replace_cell("../../../etc/passwd", "/etc/passwd", "con", "{}/../{}", "{}x", "X{}"),
        _mutate_cells(lambda drawn, cells: [f"{cells[0]}0", *cells[1:]]),
        _mutate_cells(lambda drawn, cells: [cells[0].swapcase() + "'", *cells[1:]]),
    ),
    "values": (_change_digit, _change_digit, _change_letter),
    "bytes": (
        _flip_bit,
        _truncate,
        _splice(b"\0", b"\xe9", b"\xff\xfe", b"\x80\x81", b"\xed\xa0\x80", b"\r", b"\x1a", b"\x0c"),
    ),
    "encoding": (
        lambda drawn, text, delimiter: text.encode("utf-16"),
        lambda drawn, text, delimiter: text.encode("utf-16-le"),
        lambda drawn, text, delimiter: text.encode("utf-32"),
        lambda drawn, text, delimiter: b"\xef\xbb\xbf" + text.encode(),
        lambda drawn, text, delimiter: b"\xef\xbb\xbf" * 2 + text.encode(),
        lambda drawn, text, delimiter: _splice("\u00e9".encode("latin-1"))(drawn, text, delimiter),
        lambda drawn, text, delimiter: text.replace("\r\n", "\n").replace("\n", "\r\n").encode(),
        lambda drawn, text, delimiter: text.replace("\r\n", "\n").replace("\n", "\r").encode(),
        lambda drawn, text, delimiter: text.encode("utf-7"),
        lambda drawn, text, delimiter: gzip.compress(text.encode()),
    ),
    "structure": (
        _change_structure,
        _change_structure,
        lambda drawn, text, delimiter: "[" * 100_000,
        lambda drawn, text, delimiter: '{"a":' * 20_000 + "1" + "}" * 20_000,
        lambda drawn, text, delimiter: drawn.choice(SHAPES),
    ),
}  # fmt: skip
# Kinds after which a label may have another value that it could well have. No other kind may change one.
MAY_CHANGE_VALUES = ("values", "columns", "cells", "bytes", "rows", "structure", "ids")


# ---- a trial


@contextmanager
def use_lists_at(place: Path | None) -> Iterator[None]:
    """The shipped lists are read from a folder, and read again."""
    modules = [_load_module_lists(), _load_module("mtg_jamendo")]
    before = [module.SPLIT_LISTS for module in modules]
    try:
        for module in modules:
            module.SPLIT_LISTS = place or module.SPLIT_LISTS
        forget()
        yield
    finally:
        for module, lists in zip(modules, before, strict=True):
            module.SPLIT_LISTS = lists
        forget()


def forget() -> None:
    """What was read of lists and folders is read again."""
    for name in ("emomusic", "giantsteps", "musdb18"):
        _load_module(name).songs.cache_clear()
    _load_module("vocalset")._recordings.cache_clear()


def read(made_corpus: Made, named: Named) -> list[Clip]:
    """Every clip of a task with its label, tried as `bench check` and `bench run` try it."""
    task = named.task
    if made_corpus.lists:
        clips = corpus.list_clips(named, None)
    else:
        there = find(named, made_corpus.root).examples
        clips = there.clips
        if isinstance(task.target, Frames) and (wrong := check_ends(task.target, there)):
            raise DataError("\n".join(wrong[:10]))
    task.target.encode([clip.target for clip in clips], [clip.id for clip in clips])
    return clips


def look(made_corpus: Made) -> list[str]:
    """What `bench data check` finds."""
    if made_corpus.lists:
        return []
    try:
        report = inspection.inspect(
            made_corpus.tasks[0].task.corpus, list(made_corpus.tasks), made_corpus.root, deep=False
        )
    except DataError as error:
        return [str(error)]
    damaged = [f"{name}: {why}" for name, why in report.damaged.items()]
    return [*report.annotations, *damaged, *report.missing, *report.warnings]


def read_facts(clips: Sequence[Clip]) -> dict[str, tuple[Any, ...]]:
    return {clip.id: (clip.split, clip.audio, clip.group, clip.start_s, clip.duration_s) for clip in clips}


def _drop_ids(clips: Sequence[Clip]) -> set[tuple[Any, ...]]:
    return {(clip.split, clip.audio, clip.group, clip.target) for clip in clips}


def judge(made_corpus: Made, sound: dict[str, list[Clip]], usual: list[str], label: str, kind: str) -> tuple[str, str]:
    """The outcome of a trial, and why it is bad or what was accepted. usual: what is found of the sound corpus."""
    started, messages, found = time.perf_counter(), [], {}
    try:
        for named in made_corpus.tasks:
            try:
                found[named.name] = read(made_corpus, named)
            except DataError as error:
                messages.append(str(error))
        seen = [words for words in look(made_corpus) if words not in usual]
    except Exception as error:  # noqa: BLE001  # whatever it is: that is what is looked for
        return "bad", f"{type(error).__name__}: {str(error)[:200]}"
    lasted_s = time.perf_counter() - started
    if lasted_s > SLOWEST_S:
        return "bad", f"took {lasted_s:.1f} s"
    if long := next((words for words in [*messages, *seen] if len(words) > LONGEST), None):
        return "bad", f"an error of {len(long):,} characters: {long[:200]}"
    if messages:
        name = Path(label).name
        named_it = any(name in words or Path(label).stem in words or "annotations list" in words for words in messages)
        by_path = any("missing" in words or "none of the" in words for words in messages)  # a path that leads nowhere
        if not named_it and not by_path:
            return "bad", f"the error does not name {label}: {messages[0][:200]}"
        return (
            ("refused", "")
            if seen or made_corpus.lists
            else ("bad", f"data check found nothing; a run says {messages[0][:200]}")
        )
    if seen:
        return "refused", ""
    for name, clips in found.items():
        if read_facts(clips) != read_facts(sound[name]):
            if made_corpus.name == "magnatagatune" and not _drop_ids(sound[name]) ^ _drop_ids(clips):
                return "plausible", "another clip_id, which no published list has"
            return "bad", f"{name} has other clips, and nothing was said"
    changed = [
        (before, after)
        for name, clips in found.items()
        for before, after in zip(sorted(sound[name], key=_get_id), sorted(clips, key=_get_id), strict=True)
        if before.target != after.target
    ]
    if not changed:
        return "same", ""
    before, after = changed[0]
    words = f"{len(changed)} labels, such as {after.id}: {str(before.target)[:80]} -> {str(after.target)[:80]}"
    return ("plausible", words) if kind in MAY_CHANGE_VALUES else ("bad", words)


def _get_id(clip: Clip) -> str:
    return clip.id


def make_corpora(place: Path, names: Sequence[str] = ()) -> list[Made]:
    """The corpora, made in a folder. names: only these; `lists` are the shipped ones."""
    found = []
    for name, maker in MAKERS.items():
        if not names or name in names:
            (place / name).mkdir(parents=True)
            found.append(maker(place / name))
    return found + (make_lists(place / "lists") if not names or "lists" in names else [])


def run_fuzz(place: Path, count: int, seed: int, names: Sequence[str] = ()) -> Tally:
    """`count` trials over all corpora in turn, in a folder of one's own."""
    drawn, tally, before_mb = random.Random(seed), Tally(), _measure_peak_mb()
    every = make_corpora(place, names)
    sound: dict[str, dict[str, list[Clip]]] = {}
    usual: dict[str, list[str]] = {}
    for made_corpus in every:
        with use_lists_at(made_corpus.root if made_corpus.lists else None):
            sound[made_corpus.name] = {named.name: read(made_corpus, named) for named in made_corpus.tasks}
            usual[made_corpus.name] = look(made_corpus)
    kinds = list(MUTATIONS)
    for trial in range(count):
        made_corpus, kind = every[trial % len(every)], kinds[trial // len(every) % len(kinds)]
        label = drawn.choice(made_corpus.labels)
        content = (made_corpus.root / label).read_bytes()
        packed = label.endswith(".gz")
        text = (gzip.decompress(content) if packed else content).decode()
        number = drawn.randrange(len(MUTATIONS[kind]))
        delimiter = "," if label.endswith(".csv") and "\t" not in text.splitlines()[0].strip() else "\t"
        changed = MUTATIONS[kind][number](drawn, text, delimiter)
        changed = changed.encode("utf-8", "surrogatepass") if isinstance(changed, str) else changed
        try:
            (made_corpus.root / label).unlink()
            (made_corpus.root / label).write_bytes(gzip.compress(changed) if packed else changed)
            with use_lists_at(made_corpus.root if made_corpus.lists else None):
                outcome, words = judge(made_corpus, sound[made_corpus.name], usual[made_corpus.name], label, kind)
        finally:
            (made_corpus.root / label).write_bytes(content)
        tally.by_corpus[made_corpus.name, outcome] += 1
        tally.by_kind[kind, outcome] += 1
        where = f"trial {trial}: {kind} {number} of {made_corpus.name} {label}: {words}"
        if outcome == "bad":
            tally.bad.append(where)
        elif outcome == "plausible":
            tally.accepted.append(where)
    if (peak_mb := _measure_peak_mb()) > before_mb + MOST_MB:
        tally.bad.append(f"{peak_mb:,.0f} MB of memory")
    return tally


def _measure_peak_mb() -> float:
    """The most memory that this process has had so far; in one that did something else before, what came before counts."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def format_table(counts: Counter[tuple[str, str]], what: str) -> str:
    """Outcomes as plain text, a line for each corpus or kind."""
    names = list(dict.fromkeys(name for name, _ in counts))
    out = io.StringIO()
    print(f"{what:<18}" + "".join(f"{outcome:>11}" for outcome in OUTCOMES), file=out)
    for name in names:
        print(f"{name:<18}" + "".join(f"{counts[name, outcome]:>11,}" for outcome in OUTCOMES), file=out)
    total = Counter({outcome: sum(n for (_, o), n in counts.items() if o == outcome) for outcome in OUTCOMES})
    print(f"{'all':<18}" + "".join(f"{total[outcome]:>11,}" for outcome in OUTCOMES), file=out)
    return out.getvalue()


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--count", type=int, default=1000)
    asked.add_argument("--seed", type=int, default=0)
    asked.add_argument("--corpus", action="append", default=[], help="only this one; `lists` are the shipped ones")
    options = asked.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        tally = run_fuzz(Path(place), options.count, options.seed, options.corpus)
    print(format_table(tally.by_corpus, "corpus"))
    print(format_table(tally.by_kind, "mutation"))
    for line in tally.accepted:
        print(f"plausible: {line}")
    for line in tally.bad:
        print(f"bad: {line}")
    print(
        f"{options.count:,} mutated label files in {time.perf_counter() - started:.0f} s, {len(tally.bad)} bad outcomes"
    )
    sys.exit(1 if tally.bad else 0)


if __name__ == "__main__":
    main()
