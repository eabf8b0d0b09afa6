"""A task's clips on disk: which files are there, which are missing, and the miniature if that is asked for."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from marble_bench.errors import DataError, UsageError, listing
from marble_bench.plugins import Named
from marble_bench.task import SPLITS, Clip, Corpus


@dataclass(frozen=True)
class OnDisk:
    """The clips whose files are there, in the task's order, with those files, and the clips whose files are not."""

    clips: tuple[Clip, ...]
    paths: tuple[Path, ...]
    missing: tuple[Clip, ...]


def ensure_mini(corpus: Corpus, cache: Path) -> Path:
    """The folder of a corpus's miniature, made now if it is not there. Its existence means that it is whole."""
    folder = cache / "mini" / f"{corpus.name}-{corpus.mini_version}"
    if folder.is_dir():
        return folder
    building = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    try:
        building.mkdir(parents=True)
        corpus.mini(building)
        os.replace(building, folder)
    except OSError as error:
        if not folder.is_dir():  # else another process was first, which is as good
            raise DataError(f"the miniature of {corpus.name} cannot be written to {folder}: {error}") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return folder


def listed(named: Named, root: Path | None) -> list[Clip]:
    """Every clip of a task, checked: known splits, no id twice."""
    clips = list(named.task.clips(root))
    unknown = {clip.split for clip in clips} - set(SPLITS)
    if unknown:
        raise UsageError(f"task '{named.name}' gives clips of splits {sorted(unknown)}; splits are {', '.join(SPLITS)}")
    twice = [clip for clip, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        raise UsageError(f"task '{named.name}' gives {len(twice)} clip ids more than once: {listing(twice)}")
    return clips


def on_disk(named: Named, root: Path, mini: bool, allow_missing: bool) -> OnDisk:
    """Find every clip's file. Raises DataError naming what is missing, unless the user allows it or it is a miniature.

    A miniature holds some of the listed clips by design, so the others are not called missing there.
    """
    corpus = named.task.corpus
    if not root.is_dir():
        raise DataError(
            f"no folder {root} for {corpus.title}; give --data-dir DIR with {corpus.layout} "
            f"(--mini runs on a synthesised miniature instead)"
        )
    clips = listed(named, root)
    counts = {split: sum(clip.split == split for clip in clips) for split in SPLITS}
    if not mini and counts != named.task.counts:
        raise DataError(f"task '{named.name}' lists {counts} clips; published are {named.task.counts}")
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
        () if mini else missing,
    )


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
