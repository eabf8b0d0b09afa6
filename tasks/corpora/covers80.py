"""Covers80: 80 songs in two versions each, 16,000 Hz, mono, 32 kb/s.

On disk `covers32k/<song>/<artist+album+NN-title>.mp3` with two lists, A and B in the same order, as `covers80.tgz` unpacks
(its folder `coversongs` may be kept). The lists are `list1.list` and `list2.list` in or beside `covers32k`, also as `.txt`;
a line is `<song>/<file>`, with or without `.mp3`. Only the files of the two lists are read: more mp3 files are said to lie
in the archive.

Terms: the makers state no licence. Wrong pairs: none is known.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from marble_bench import Clip, Corpus, DataError, Source
from marble_bench.files.tables import brief, fault, read_lines

from . import tunes

PAIRS = 80
MINI_PAIRS = 24
FOLDERS = ("covers32k", "coversongs/covers32k", "")


def find_list(root: Path, number: int) -> Path:
    """The first or second list. Raises DataError naming the folder if it is not there."""
    for folder in (*FOLDERS, "coversongs"):
        for suffix in (".list", ".txt"):
            path = root / folder / f"list{number}{suffix}"
            if path.is_file():
                return path
    raise DataError(
        f"{root} has no list{number}.list or list{number}.txt, in or beside covers32k: unpack covers80.tgz there "
        "(bench data list names its address)"
    )


def read_list(path: Path) -> tuple[tuple[str, str], ...]:
    """(song, file without suffix) of each line. Raises DataError with the line that is otherwise, or a file twice."""
    found: dict[tuple[str, str], None] = {}
    for number, line in enumerate(read_lines(path), 1):
        parts = line.strip().removesuffix(".mp3").split("/")
        if len(parts) != 2 or not all(parts) or ".." in parts:
            raise fault(path, f"is {brief(line)}; give <song>/<file>", number)
        if (parts[0], parts[1]) in found:
            raise fault(path, f"names {brief(line)} a second time; remove the line", number)
        found[parts[0], parts[1]] = None
    return tuple(found)


def clips(root: Path | None) -> Iterator[Clip]:
    """Both versions of each pair; the work is the song's folder. All of them are test clips."""
    if root is None:
        raise DataError("Covers80 is listed in the corpus alone: give --data-dir with covers32k and its two lists")
    first, second = (find_list(root, number) for number in (1, 2))
    a, b = read_list(first), read_list(second)
    if len(a) != len(b):
        raise DataError(f"{first} has {len(a)} lines and {second} has {len(b)}: both list the same songs in one order")
    for number, (one, other) in enumerate(zip(a, b, strict=True), 1):
        if one[0] != other[0]:
            raise fault(second, f"is of song {brief(other[0])}, and {first.name} has {brief(one[0])} there", number)
        for song, file in (one, other):
            yield Clip(f"{song}/{file}", "test", f"covers32k/{song}/{file}.mp3", song, group=song)


def locate(root: Path, audio: str) -> Path | None:
    """A version's file, wherever the archive's folder was put."""
    name = audio.removeprefix("covers32k/")
    return next((path for folder in FOLDERS if (path := root / folder / name).is_file()), None)


def filtered(name: str) -> str:
    """Why a file of the whole corpus is in no list."""
    parts = Path(name).parts
    return "a recording in neither list" if "covers32k" in parts and name.endswith(".mp3") else ""


def mini(folder: Path) -> None:
    """Tunes in two versions each, synthesised, in the archive's layout."""
    from marble_bench.audio import synth

    lines: dict[int, list[str]] = {1: [], 2: []}
    for tune in range(MINI_PAIRS):
        for number, names in lines.items():
            name = f"Tune_{tune:02}/player{number}+Tunes+{tune:02}-Tune_{tune:02}"
            names.append(name)
            version = (tune + 2 * number) % 4
            synth.write(folder / "covers32k" / f"{name}.mp3", tunes.compose(tune, version), tunes.RATE_HZ)
    for number, names in lines.items():
        (folder / "covers32k" / f"list{number}.list").write_text("".join(f"{name}\n" for name in names))


COVERS80 = Corpus(
    name="covers80",
    title="Covers80",
    home="http://labrosa.ee.columbia.edu/projects/coversongs/covers80/",
    license="not stated",
    citation="D. P. W. Ellis, The covers80 cover song data set, 2007",
    layout="covers32k/<song>/<file>.mp3, covers32k/list1.list and covers32k/list2.list, from covers80.tgz",
    mini=mini,
    locate=locate,
    filtered=filtered,
    sample_rate_hz=tunes.RATE_HZ,
    sources=(
        Source(
            url="http://labrosa.ee.columbia.edu/projects/coversongs/covers80/covers80.tgz",
            status="unread",
            note="164 MB, over http and without a digest, so the suite does not download it: do it by hand and unpack it",
        ),
    ),
)
