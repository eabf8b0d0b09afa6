"""A task's clips on disk: which files are there, which are missing, and the miniature if that is asked for."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from marble_bench import audio
from marble_bench.audio import synth
from marble_bench.core import sources
from marble_bench.core.declared import find_problems
from marble_bench.core.plugins import Named
from marble_bench.core.task import CLIP_FORMS, SPLITS, Clip, Corpus
from marble_bench.core.user_files import digest_of_file, is_user_file
from marble_bench.errors import DataError, UsageError, counted, listing
from marble_bench.files.atomic import open_atomic_path, sweep_leftovers, walk
from marble_bench.files.names import is_text
from marble_bench.files.tables import brief, fault, read_lines

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
MARKER = "MINIATURE.txt"  # is in every miniature's folder, so that it is never taken for the corpus


@dataclass(frozen=True)
class OnDisk:
    """The clips whose files are there, in the task's order, with those files.

    missing: the clips that are listed and not there, by their `audio`. unlisted: how many clips the annotations list
    less than were published, which nothing names.
    """

    clips: tuple[Clip, ...]
    paths: tuple[Path, ...]
    missing: tuple[str, ...]
    unlisted: int = 0


def read_mini_files(root: Path) -> dict[str, str]:
    """The files that a miniature was made with and their sha256, by their paths below its folder."""
    digests = {}
    for number, line in enumerate(read_lines(root / MARKER)[1:], 2):
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not name:
            raise fault(root / MARKER, "is no digest and name of a file; make the miniature again", number)
        digests[name] = digest
    return digests


def is_mini(root: Path | None) -> bool:
    """Whether a corpus's folder is a miniature."""
    return root is not None and (root / MARKER).is_file()


def ensure_mini(corpus: Corpus, cache: Path) -> Path:
    """The folder of a corpus's miniature, made now if it is not there. Its existence means that it is whole."""
    folder = cache / "mini" / f"{corpus.name}-{_digest_code(corpus)[:12]}"
    if not folder.is_dir():
        write_mini(corpus, folder, there_is_fine=True)
    return folder


def _find_mini_maker(corpus: Corpus) -> Callable[[Path], None]:
    if corpus.mini is None:
        raise UsageError(
            f"corpus '{corpus.name}' has no miniature: give its folder by --data-dir, or declare mini=, which writes one"
        )
    return corpus.mini


def _digest_code(corpus: Corpus) -> str:
    """sha256 of what a miniature is made by, a user's helpers included, so that one of earlier code is not taken for it."""
    total = hashlib.sha256(Path(synth.__file__).read_bytes())
    made_by = _find_mini_maker(corpus)
    for path in sorted(set(sources.list_files(made_by))):
        total.update(digest_of_file(path).encode() if is_user_file(path) else path.read_bytes())
    if isinstance(made_by, partial):
        total.update(json.dumps(sources.describe_function(made_by)).encode())
    return total.hexdigest()


def write_mini(corpus: Corpus, folder: Path, there_is_fine: bool = False) -> None:
    """Write a corpus's miniature into a new folder, whole or not at all.

    there_is_fine: another process may make the same one meanwhile. Raises DataError if the folder is there or cannot be
    written.
    """
    import soundfile

    if folder.exists() and not there_is_fine:
        raise DataError(f"{folder} exists already; a miniature is written into a new folder")
    sweep_leftovers(folder.parent, f".{corpus.name}-*.tmp")
    try:
        with open_atomic_path(folder) as building:
            building.mkdir(parents=True)
            _find_mini_maker(corpus)(building)
            digests = {path.relative_to(building).as_posix(): audio.digest(path) for path in walk(building)}
            about = (
                f"Synthesised miniature of {corpus.title}, made by code {_digest_code(corpus)}. sha256 of each file:\n"
            )
            (building / MARKER).write_text(about + "".join(f"{digest}  {name}\n" for name, digest in digests.items()))
    except OSError as error:
        if not (there_is_fine and folder.is_dir()):  # else another process was first, which is as good
            raise _explain_missing_mini(corpus, folder, error) from error
    except soundfile.LibsndfileError as error:  # libsndfile does not tell what the disk said
        raise _explain_missing_mini(corpus, folder, error) from error


def _explain_missing_mini(corpus: Corpus, folder: Path, error: Exception) -> DataError:
    why = (isinstance(error, OSError) and error.strerror) or error
    free = ""
    with suppress(OSError):
        parent = next(place for place in folder.parents if place.is_dir())
        free = f" ({shutil.disk_usage(parent).free / 1e6:,.1f} MB are free there)"
    return DataError(
        f"the miniature of {corpus.name} cannot be written to {folder}: {why}{free}; make room, or give another --cache-dir"
    )


def find_folder(corpus: Corpus, cache: Path, mini: bool, root: Path | None) -> Path | None:
    """The corpus's folder of a run: the miniature's, made if need be, or the user's. None where none is needed."""
    return ensure_mini(corpus, cache) if mini else root


def list_clips(named: Named, root: Path | None) -> list[Clip]:
    """Every clip of a task, checked: clips indeed, known splits, no id twice."""
    given: object = named.task.clips(root)
    if not isinstance(given, Iterable):
        raise UsageError(f"{named.path}: clips returned {brief(given)}: yield each Clip(...), or return a list of them")
    clips = list(given)
    for place, clip in enumerate(clips, 1):
        _check_clip(named.path, place, clip)
    unknown = [clip for clip in clips if clip.split not in SPLITS]
    if unknown:
        raise DataError(
            f"task '{named.name}' gives clips of splits {sorted({clip.split for clip in unknown})}, such as clip "
            f"{brief(unknown[0].id)}; splits are {', '.join(SPLITS)}"
        )
    strange = [ascii(text)[:80] for clip in clips for text in (clip.id, clip.audio, clip.group) if not is_text(text)]
    if strange:
        raise UsageError(
            f"task '{named.name}' gives clips no record can name, with control characters: {listing(strange, 3)}"
        )
    _check_splits_apart(named.path, clips)
    twice = [clip for clip, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        of = {name: [clip.audio for clip in clips if clip.id == name] for name in twice[:3]}
        shown = "; ".join(
            f"{brief(name)} of {listing([brief(audio) for audio in audios], 3)}" for name, audios in of.items()
        )
        raise DataError(f"task '{named.name}' lists {len(twice)} clip ids more than once: {shown}")
    return clips


def list_used_clips(named: Named, root: Path) -> list[Clip]:
    """Every clip of a task that should be there: of an open list those whose files are, or all if none is."""
    clips = list_clips(named, root)
    if not named.task.open_list:
        return clips
    there = [clip for clip in clips if find(named.task.corpus, root, clip.audio) is not None]
    return there or clips


def _check_splits_apart(task: Path, clips: Sequence[Clip]) -> None:
    """Raise DataError for clips of two splits that are the same stretch of the same file: one would be tested on what it was
    trained on."""
    first: dict[tuple[str, float, float | None], Clip] = {}
    for clip in clips:
        other = first.setdefault((clip.audio, clip.start_s, clip.duration_s), clip)
        if other.split != clip.split:
            raise DataError(
                f"{task}: the clips {brief(other.id)} of {other.split} and {brief(clip.id)} of {clip.split} are the same "
                f"stretch of {brief(clip.audio)}: keep it in one split"
            )


def _check_clip(task: Path, place: int, clip: object) -> None:
    """Raise UsageError for what a task's file gives as its clip number `place`, if it is none, or has a field of another
    kind."""
    if not isinstance(clip, Clip):
        raise UsageError(f"{task}: clips gave {brief(clip)} as clip {place}: give a Clip(id, split, audio, target)")
    if problems := find_problems(clip, CLIP_FORMS):
        raise UsageError(f"{task}: clip {brief(clip.id)}, number {place}: {'; '.join(problems)}")


def find(corpus: Corpus, root: Path, audio: str) -> Path | None:
    """A clip's file: under its name as it is listed, or with letters composed or decomposed, as file systems write them."""
    names = [audio] if audio.isascii() else [audio, *(unicodedata.normalize(form, audio) for form in ("NFC", "NFD"))]
    try:
        found = next((path for name in dict.fromkeys(names) if (path := corpus.locate(root, name)) is not None), None)
    except OSError as error:
        raise DataError(
            f"{corpus.title} lists the file {brief(audio)}, which cannot be looked for: {error.strerror}"
        ) from error
    other: object = found
    if other is not None and not isinstance(other, Path):
        raise UsageError(f"corpus '{corpus.name}': locate returned {brief(other)}: return a Path, or None")
    return found


class Spellings:
    """The files below a folder by their names without case and form of Unicode, to hint at those that differ in
    nothing else."""

    def __init__(self, root: Path) -> None:
        self._of: dict[str, list[str]] = {}
        for path in walk(root):
            name = path.relative_to(root).as_posix()
            self._of.setdefault(_fold(_get_tail(name)), []).append(name)

    def find_near(self, audio: str) -> str | None:
        """The file that is there instead of a missing one, by its path below the folder; None if there is none."""
        for name in self._of.get(_fold(_get_tail(audio)), ()):
            if _get_tail(name) != _get_tail(audio) or (name != audio and _fold(name) == _fold(audio)):
                return name
        return None

    def hints(self, missing: Sequence[str]) -> dict[str, str]:
        """Of the missing files that are there under another spelling: the name, and what to tell of it."""
        found = {}
        for name in missing:
            if (near := self.find_near(name)) is not None:
                same_letters = unicodedata.normalize("NFC", _get_tail(near)) == unicodedata.normalize(
                    "NFC", _get_tail(name)
                )
                what = "the normal form of Unicode" if same_letters else "upper and lower case"
                found[name] = f"{name} (there is {near}: only {what} differs)"
        return found


def _get_tail(name: str) -> str:
    """A file's name with its folder's."""
    return "/".join(name.split("/")[-2:])


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def find_on_disk(named: Named, root: Path, allow_missing: bool = False) -> OnDisk:
    """Find every clip's file. Raises DataError naming what is missing, unless the user allows it.

    A miniature holds some of the listed clips by design, so the others are not called missing there; but what it was made
    with must be there. A corpus whose annotations list fewer clips than were published lacks as many.
    """
    mini = is_mini(root)
    corpus = named.task.corpus
    _check_folder(corpus, root)
    clips = list_used_clips(named, root)
    unlisted = 0 if mini else count_unlisted(named, clips, allow_missing)
    found = [find(corpus, root, clip.audio) for clip in clips]
    missing = [clip.audio for clip, path in zip(clips, found, strict=True) if path is None]
    hints = Spellings(root).hints(missing) if missing and (mini or not allow_missing) else {}
    if hints and mini:
        raise DataError(
            f"the miniature in {root} has {counted(len(hints), 'file')} of another name: {listing(hints.values(), 3)}"
        )
    if mini:
        _check_whole(root)
    if len(missing) == len(clips):
        raise DataError(
            f"none of the {len(clips)} clips of {corpus.title} is in {root}, such as {brief(missing[0])}; it should hold "
            f"{corpus.layout}{_find_instead(named, root, missing)}"
        )
    if missing and not mini and not allow_missing:
        raise _explain_incomplete(corpus, root, len(clips), missing, hints)
    return OnDisk(
        tuple(clip for clip, path in zip(clips, found, strict=True) if path is not None),
        tuple(path for path in found if path is not None),
        () if mini else tuple(missing),
        unlisted,
    )


def _check_folder(corpus: Corpus, root: Path) -> None:
    if root.is_file():
        raise DataError(
            f"{root} is a file, and a corpus is a folder: unpack it if it is an archive, and name its folder"
        )
    if not root.is_dir():
        raise DataError(
            f"no folder {root} for {corpus.title}; give --data-dir DIR with {corpus.layout}"
            + (" (--mini runs on a synthesised miniature instead)" if corpus.mini else "")
        )


def _find_instead(named: Named, root: Path, missing: Sequence[str]) -> str:
    """Where a corpus's files may be if none is where it should: in a folder above or below, under a name that differs in its
    folder or ending, or in an archive.

    missing: their names as they are listed. Empty if nothing like them is found.
    """
    names = [path.relative_to(root).as_posix() for path in walk(root)]
    by_stem = {_fold_stem(name): name for name in names}
    listed = next((name for name in missing if _fold_stem(name) in by_stem), None)
    if listed is None:
        archive = next((name for name in names if name.endswith(ARCHIVES)), None)
        return f"; {root / archive} is an archive: unpack it" if archive else ""
    near = by_stem[_fold_stem(listed)]
    below = (root / each for each in reversed(PurePosixPath(near).parents))
    place = next((each for each in below if find(named.task.corpus, each, listed)), None)
    if place is None:  # `locate` may read whole folders, and what is above is not the corpus's
        alike = Path(listed).with_suffix(Path(near).suffix)
        place = next((each for each in reversed(root.resolve().parents[:2]) if os.path.isfile(each / alike)), None)
    ways = [] if place is None else [f"give --data-dir {place}"]
    if is_user_file(named.path.resolve()):
        ways.append(f"list the files as they lie in {root}, with forward slashes")
    return f"; there is {brief(near)}{': ' * bool(ways)}{', or '.join(ways)}"


def _fold_stem(name: str) -> str:
    """A file's name without folders of either kind of path, and without its ending, in small letters."""
    return _fold(PureWindowsPath(name).stem)


def _explain_incomplete(
    corpus: Corpus, root: Path, clips: int, missing: list[str], hints: Mapping[str, str]
) -> DataError:
    """What is said of files that are not there. hints: what may be meant by some of them."""
    shown = [*hints.values(), *(name for name in missing if name not in hints)]
    return DataError(
        f"{len(missing)} of {clips} clips of {corpus.title} are missing in {root}: "
        f"{listing(shown)}. Complete the corpus, or run with --allow-missing: "
        "the record then lists them and is not comparable"
    )


def _check_whole(root: Path) -> None:
    """Raise DataError naming the files of a miniature that are gone: it is made by the suite, so it can be whole."""
    digests = read_mini_files(root)
    gone = [name for name in digests if not (root / name).is_file()]
    if gone:
        raise DataError(
            f"the miniature in {root} lacks {len(gone)} of {counted(len(digests), 'file')}: {listing(gone)}. "
            "Delete the folder and make it again: in the cache by --mini, elsewhere by bench data mini "
            "(--allow-missing is for corpora; a miniature must be complete)"
        )


def count_unlisted(named: Named, clips: Sequence[Clip], allow_missing: bool) -> int:
    """How many clips the annotations list less than were published."""
    counts = {split: sum(clip.split == split for clip in clips) for split in SPLITS}
    published = named.task.counts
    if named.task.open_list and all(counts[split] <= published[split] for split in SPLITS):
        return 0
    more = {split for split in SPLITS if counts[split] > published[split]}
    if more or (counts != published and not allow_missing):
        way = "This is not the published corpus" if more else "Complete the corpus, or run with --allow-missing"
        if is_user_file(named.path.resolve()):
            way += f"; if these are all clips of your own corpus, correct counts in {named.path}"
        raise DataError(
            f"the annotations list {counts} clips for task '{named.name}'; published are {published}. {way}"
        )
    return sum(published[split] - counts[split] for split in SPLITS)


def limit_clips(clips: Sequence[Clip], limit: int, whole_groups: bool = False) -> list[Clip]:
    """At most `limit` clips of each split, drawn by a fixed seed, in the given order.

    whole_groups: all of a group or nothing of it.
    """
    drawn: set[str] = set()
    if whole_groups:
        return _limit_groups(clips, limit)
    for split in SPLITS:
        members = sorted(
            (clip.id for clip in clips if clip.split == split), key=lambda name: hashlib.sha256(name.encode()).digest()
        )
        drawn.update(members[:limit])
    return [clip for clip in clips if clip.id in drawn]


def _limit_groups(clips: Sequence[Clip], limit: int) -> list[Clip]:
    """At most `limit` clips of each split: group after group in the order of their digests, those left out that are too
    large for what is left."""
    drawn: set[tuple[str, str]] = set()
    for split in SPLITS:
        sizes = Counter(clip.group for clip in clips if clip.split == split)
        left = limit
        for group in sorted(sizes, key=lambda name: hashlib.sha256(name.encode()).digest()):
            if sizes[group] <= left:
                drawn.add((split, group))
                left -= sizes[group]
    return [clip for clip in clips if (clip.split, clip.group) in drawn]


def measure_lengths_s(
    clips: Sequence[Clip], path_of: Mapping[str, Path], native_rate_hz: int | None = None
) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of each clip by its id, and of the others why their file cannot be used; each file is looked at once.

    A cut file, or one of another rate than the corpus has, is one that cannot be used, as its header tells.
    """
    lengths: dict[str, float] = {}
    wrong: dict[str, str] = {}
    of_path: dict[Path, float | str] = {}
    for clip in clips:
        if clip.duration_s is not None:
            lengths[clip.id] = clip.duration_s
            continue
        path = path_of[clip.id]
        if path not in of_path:
            try:
                of_path[path] = audio.read_duration_s(path, whole=True, native_rate_hz=native_rate_hz)
            except DataError as error:
                of_path[path] = str(error)
        found = of_path[path]
        if isinstance(found, str):
            wrong[clip.id] = found
        else:
            lengths[clip.id] = max(0.0, found - clip.start_s)
    return lengths, wrong


def compute_fingerprint(clips: Sequence[Clip], digests: Sequence[str]) -> str:
    """`sha256:...` over every clip's id, split, target and audio digest, whatever their order."""
    rows = sorted(f"{c.id}\t{c.split}\t{_write_exact(c.target)}\t{d}" for c, d in zip(clips, digests, strict=True))
    return "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest()


def _write_exact(target: object) -> str:
    """A target in full, the same in every process: arrays show a part of their digits, and sets have no order.

    >>> _write_exact(("a", 1.5)), _write_exact({"b", "a"}), _write_exact([frozenset("a")])
    ("('a', 1.5)", "{'a', 'b'}", "[{'a'}]")
    """
    if isinstance(target, (set, frozenset)):
        return f"{{{', '.join(sorted(map(_write_exact, target)))}}}"
    if isinstance(target, (tuple, list)):
        inside = ", ".join(map(_write_exact, target))
        return f"[{inside}]" if isinstance(target, list) else f"({inside}{',' * (len(target) == 1)})"
    if isinstance(target, Mapping):
        return (
            f"{{{', '.join(sorted(f'{_write_exact(key)}: {_write_exact(value)}' for key, value in target.items()))}}}"
        )
    values = getattr(target, "tolist", None)  # of numpy and torch
    return repr(values() if callable(values) else target)
