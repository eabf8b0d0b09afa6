"""SHS100K: pairs of (work, version) of Second Hand Songs, whose audio everybody gets for themselves.

The lists are `SHS100K-VAL` and `SHS100K-TEST`, a pair a line, and `list`, the table of all versions (set_id, ver_id, title,
performer, URL, status, parted by tabs, without a head), from github.com/NovaFrost/SHS100K2; beside each other in the
corpus's folder or in its folder `meta`. The training pairs are not read. Counted there: 10,884 validation versions of
1,842 works and 10,547 test versions of 1,692 works.

The URLs are of YouTube. The audio was never published and much of it is gone, so no two laboratories have the same files.
Files lie below `audio/`, called `<set_id>_<ver_id>`, `<set_id>-<ver_id>`, `<set_id>/<ver_id>` or, if `list` is there, by the
11 characters that YouTube calls them by; with any ending. A version without a file is not in the run's list, which stands in
the record; only records of equal lists are compared.

Terms: the makers state no licence.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from marble_bench import Clip, Corpus, DataError, Source
from marble_bench.files.atomic import walk
from marble_bench.files.tables import brief, fault, read_lines

from . import tunes

LISTS = {"valid": "SHS100K-VAL", "test": "SHS100K-TEST"}
VIDEO = re.compile(r"(?:v=|youtu\.be/|/embed/|/v/)([A-Za-z0-9_-]{11})(?![A-Za-z0-9_-])")
COLUMNS = 6  # of `list`
MINI_WORKS = {"valid": range(24, 36), "test": range(24)}
MINI_VERSIONS = 4


def find_list(root: Path, name: str) -> Path | None:
    """A list in the corpus's folder or in its folder `meta`; None if it is in neither."""
    return next((path for folder in ("", "meta") if (path := root / folder / name).is_file()), None)


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """(set_id, ver_id) of each line. Raises DataError with the line that is otherwise, or is there twice."""
    found: dict[tuple[str, str], None] = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split()
        if len(fields) != 2 or not all(each.isascii() and each.isdigit() for each in fields):
            raise fault(path, f"is {brief(line)}; give set_id and ver_id, two whole numbers", number)
        if (pair := (fields[0], fields[1])) in found:
            raise fault(path, f"names version {brief(line)} a second time; remove the line", number)
        found[pair] = None
    return list(found)


@lru_cache(maxsize=4)
def read_videos(path: Path) -> dict[tuple[str, str], str]:
    """What YouTube calls each version, by (set_id, ver_id), of those whose URL says it.

    Raises DataError with the line that has other columns.
    """
    videos = {}
    for number, line in enumerate(read_lines(path), 1):
        fields = line.split("\t")
        if len(fields) != COLUMNS:
            raise fault(
                path,
                f"has {len(fields)} columns; set_id, ver_id, title, performer, URL and status are {COLUMNS}",
                number,
            )
        if video := VIDEO.search(fields[4]):
            videos[fields[0].strip(), fields[1].strip()] = video[1]
    return videos


@lru_cache(maxsize=4)
def _list_audio(root: Path) -> dict[str, Path]:
    """Every file below `audio`, by its path there without the ending."""
    folder = root / "audio"
    return (
        {path.relative_to(folder).with_suffix("").as_posix(): path for path in walk(folder)} if folder.is_dir() else {}
    )


def clips(root: Path | None) -> Iterator[Clip]:
    """Every validation and test version of the lists; the work is its set_id."""
    if root is None:
        raise DataError(
            "SHS100K's lists are in the corpus alone: give --data-dir with SHS100K-VAL, SHS100K-TEST and audio"
        )
    for split, name in LISTS.items():
        path = find_list(root, name)
        if path is None:
            raise DataError(
                f"{root} has no {name}: get the lists from github.com/NovaFrost/SHS100K2 (folder meta), and put audio "
                "beside them in a folder audio"
            )
        for work, version in read_pairs(path):
            yield Clip(f"{work}_{version}", split, f"audio/{work}_{version}", work, group=work)


def locate(root: Path, audio: str) -> Path | None:
    """A version's file by its ids, or by what YouTube calls it."""
    work, _, version = audio.removeprefix("audio/").partition("_")
    names = [f"{work}_{version}", f"{work}-{version}", f"{work}/{version}"]
    table = find_list(root, "list")
    if table is not None and (video := read_videos(table).get((work, version))):
        names.append(video)
    there = _list_audio(root)
    return next((there[name] for name in names if name in there), None)


def filtered(name: str) -> str:
    """Why a file of the corpus is in no split."""
    return "audio of the training pairs, or of none" if name.startswith("audio/") else ""


def mini(folder: Path) -> None:
    """Tunes in four versions each, synthesised; of each split one version is listed whose audio is gone."""
    from marble_bench.audio import synth

    rows = []
    for split, works in MINI_WORKS.items():
        pairs = [(work, version) for work in works for version in range(MINI_VERSIONS)]
        gone = (works[0], MINI_VERSIONS)
        (folder / LISTS[split]).write_text("".join(f"{work}\t{version}\n" for work, version in [*pairs, gone]))
        for work, version in pairs:
            synth.write(folder / "audio" / f"{work}_{version}.wav", tunes.compose(work, version), tunes.RATE_HZ)
        for work, version in [*pairs, gone]:
            url = f"https://www.youtube.com/watch?v=tune{work:03}v{version:03}"
            rows.append(f"{work}\t{version}\tTune {work}\tPlayer {version}\t{url}\t{int((work, version) != gone)}\n")
    (folder / "list").write_text("".join(rows))


SHS100K = Corpus(
    name="shs100k",
    title="SHS100K",
    home="https://github.com/NovaFrost/SHS100K2",
    license="not stated",
    citation="X. Xu, X. Chen and D. Yang, Key-invariant convolutional neural network toward efficient cover song "
    "identification, ICME 2018",
    layout="SHS100K-VAL, SHS100K-TEST and list, and audio/<set_id>_<ver_id>.<ending>",
    mini=mini,
    locate=locate,
    filtered=filtered,
    sources=(
        Source(
            url="https://github.com/NovaFrost/SHS100K2",
            status="unread",
            note="the lists, in the folder meta: clone it; the audio was never published, its URLs are in list",
        ),
    ),
)
