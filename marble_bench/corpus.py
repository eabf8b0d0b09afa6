"""A task's clips on disk: which files are there, which are missing, and the miniature if that is asked for."""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from marble_bench import audio, synth
from marble_bench.errors import DataError, UsageError, listing
from marble_bench.names import is_text
from marble_bench.plugins import Named
from marble_bench.request import Request
from marble_bench.task import SPLITS, Clip, Corpus

MARKER = "MINIATURE.txt"  # stands in every miniature's folder, so that it is never taken for the corpus


@dataclass(frozen=True)
class OnDisk:
    """The clips whose files are there, in the task's order, with those files, and what is not there, a line each."""

    clips: tuple[Clip, ...]
    paths: tuple[Path, ...]
    missing: tuple[str, ...]


def files_below(root: Path) -> list[Path]:
    """Every file of a folder and those in it, sorted."""
    return sorted(path for path in root.rglob("*") if path.is_file())


def mini_files(root: Path) -> dict[str, str]:
    """The files that a miniature was made with and their sha256, by their paths below its folder."""
    lines = (root / MARKER).read_text().splitlines()[1:]
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def is_mini(root: Path | None) -> bool:
    """Whether a corpus's folder is a miniature."""
    return root is not None and (root / MARKER).is_file()


def ensure_mini(corpus: Corpus, cache: Path) -> Path:
    """The folder of a corpus's miniature, made now if it is not there. Its existence means that it is whole."""
    folder = cache / "mini" / f"{corpus.name}-{_code_of(corpus)[:12]}"
    if not folder.is_dir():
        write_mini(corpus, folder, there_is_fine=True)
    return folder


def _mini_of(corpus: Corpus) -> Callable[[Path], None]:
    if corpus.mini is None:
        raise UsageError(
            f"corpus '{corpus.name}' has no miniature: give its folder by --data-dir, or declare mini=, which writes one"
        )
    return corpus.mini


def _code_of(corpus: Corpus) -> str:
    """sha256 of the files that a miniature is made by, so that one of earlier code is not taken for it."""
    total = hashlib.sha256(Path(synth.__file__).read_bytes())
    made_by = inspect.getsourcefile(_mini_of(corpus))
    total.update(Path(made_by).read_bytes() if made_by else corpus.name.encode())
    return total.hexdigest()


def write_mini(corpus: Corpus, folder: Path, there_is_fine: bool = False) -> None:
    """Write a corpus's miniature into a new folder, whole or not at all.

    there_is_fine: another process may make the same one meanwhile. Raises DataError if the folder is there or cannot be
    written.
    """
    if folder.exists() and not there_is_fine:
        raise DataError(f"{folder} is there already; a miniature is written into a folder of its own")
    building = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        building.mkdir(parents=True)
        _mini_of(corpus)(building)
        made = {path.relative_to(building).as_posix(): audio.digest(path) for path in files_below(building)}
        about = f"Synthesised miniature of {corpus.title}, made by code {_code_of(corpus)}. sha256 of each file:\n"
        (building / MARKER).write_text(about + "".join(f"{digest}  {name}\n" for name, digest in made.items()))
        os.replace(building, folder)
    except OSError as error:
        if not (there_is_fine and folder.is_dir()):  # else another process was first, which is as good
            raise DataError(f"the miniature of {corpus.name} cannot be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)


def folder(request: Request) -> Path | None:
    """The corpus's folder of a run: the miniature's, made if need be, or the user's. None where none is needed."""
    return ensure_mini(request.named.task.corpus, request.cache) if request.mini else request.root


def listed(named: Named, root: Path | None) -> list[Clip]:
    """Every clip of a task, checked: known splits, no id twice."""
    clips = list(named.task.clips(root))
    unknown = {clip.split for clip in clips} - set(SPLITS)
    if unknown:
        raise UsageError(f"task '{named.name}' gives clips of splits {sorted(unknown)}; splits are {', '.join(SPLITS)}")
    strange = [ascii(text)[:80] for clip in clips for text in (clip.id, clip.audio, clip.group) if not is_text(text)]
    if strange:
        raise UsageError(
            f"task '{named.name}' gives clips no record can name, with control characters: {listing(strange, 3)}"
        )
    twice = [clip for clip, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise UsageError(f"task '{named.name}' gives {len(twice)} clip ids more than once: {listing(twice)}")
    return clips


def on_disk(named: Named, root: Path, allow_missing: bool = False) -> OnDisk:
    """Find every clip's file. Raises DataError naming what is missing, unless the user allows it or it is a miniature.

    A miniature holds some of the listed clips by design, so the others are not called missing there. A corpus whose
    annotations list fewer clips than were published lacks as many.
    """
    mini = is_mini(root)
    corpus = named.task.corpus
    if not root.is_dir():
        raise DataError(
            f"no folder {root} for {corpus.title}; give --data-dir DIR with {corpus.layout} "
            f"(--mini runs on a synthesised miniature instead)"
        )
    clips = listed(named, root)
    lacking = [] if mini else _lacking(named, clips, allow_missing)
    found = [corpus.locate(root, clip.audio) for clip in clips]
    missing = tuple(clip for clip, path in zip(clips, found, strict=True) if path is None)
    if len(missing) == len(clips):
        raise DataError(
            f"none of the {len(clips)} clips of {corpus.title} is in {root}; it should hold {corpus.layout}"
        )
    if missing and not mini and not allow_missing:
        raise DataError(
            f"{len(missing)} of {len(clips)} clips of {corpus.title} are missing in {root}: "
            f"{listing([clip.audio for clip in missing])}. Complete the corpus, or run with --allow-missing: "
            "the record then lists them and is not comparable"
        )
    return OnDisk(
        tuple(clip for clip, path in zip(clips, found, strict=True) if path is not None),
        tuple(path for path in found if path is not None),
        () if mini else (*lacking, *(clip.audio for clip in missing)),
    )


def _lacking(named: Named, clips: Sequence[Clip], allow_missing: bool) -> list[str]:
    """What the annotations list less than was published, a line for each split."""
    counts = {split: sum(clip.split == split for clip in clips) for split in SPLITS}
    published = named.task.counts
    more = {split for split in SPLITS if counts[split] > published[split]}
    if more or (counts != published and not allow_missing):
        raise DataError(
            f"the annotations list {counts} clips for task '{named.name}'; published are {published}. "
            + ("This is not the published corpus" if more else "Complete the corpus, or run with --allow-missing")
        )
    return [f"{published[s] - counts[s]} unlisted {s} clips" for s in SPLITS if counts[s] < published[s]]


def limited(clips: Sequence[Clip], limit: int) -> list[Clip]:
    """At most `limit` clips of each split, drawn by a fixed seed, in the given order."""
    drawn: set[str] = set()
    for split in SPLITS:
        members = sorted(
            (clip.id for clip in clips if clip.split == split), key=lambda name: hashlib.sha256(name.encode()).digest()
        )
        drawn.update(members[:limit])
    return [clip for clip in clips if clip.id in drawn]


def fingerprint(clips: Sequence[Clip], digests: Sequence[str]) -> str:
    """`sha256:...` over every clip's id, split, target and audio digest, whatever their order."""
    rows = sorted(f"{c.id}\t{c.split}\t{c.target!r}\t{d}" for c, d in zip(clips, digests, strict=True))
    return "sha256:" + hashlib.sha256("\n".join(rows).encode()).hexdigest()
