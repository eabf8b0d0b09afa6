"""Looks at a corpus on disk: what is missing, what is damaged, what does not belong there, all by name."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marble_bench import audio
from marble_bench.core import plugins
from marble_bench.core.plugins import Named
from marble_bench.core.task import SPLITS, Clip, Corpus
from marble_bench.data import corpus
from marble_bench.data.checks import check_ends, check_frames, check_ids
from marble_bench.data.examples import Example, Examples
from marble_bench.errors import DataError, UsageError, suggest_name
from marble_bench.files.atomic import walk
from marble_bench.scoring.targets import Frames

MOST = 20  # labels that are told of one task
SOUNDS = (".wav", ".au", ".flac", ".ogg", ".mp3", ".mp4")


@dataclass
class Report:
    """What was found.

    counts: by task, clips listed, published and there per split. annotations: what is wrong with labels. warnings: what of
    them is only odd. filtered: files of the whole corpus that no split has, and why. hints: files that are there instead of
    missing ones. The rest is by the file's path.
    """

    corpus: str
    folder: str
    mini: bool
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    damaged: dict[str, str] = field(default_factory=dict)
    known_faults: dict[str, str] = field(default_factory=dict)
    unexpected: list[str] = field(default_factory=list)
    annotations: list[str] = field(default_factory=list)
    filtered: dict[str, str] = field(default_factory=dict)
    hints: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def valid(self) -> bool:
        """Whether nothing is missing, damaged or wrong in the annotations; unexpected and filtered files do no harm."""
        return not (self.missing or self.damaged or self.annotations)


def list_corpora() -> dict[str, list[Named]]:
    """Every corpus that a task asks, by name, with its tasks."""
    found: dict[str, list[Named]] = {}
    for name in plugins.list_task_names():
        named = plugins.find_task(name)
        found.setdefault(named.task.corpus.name, []).append(named)
    return found


def find_corpus(name: str) -> tuple[Corpus, list[Named]]:
    """A corpus and its tasks by its name, or UsageError with the closest one."""
    known = list_corpora()
    if name not in known:
        raise UsageError(f"no corpus '{name}'{suggest_name(name, known)} (bench data list)")
    return known[name][0].task.corpus, known[name]


def inspect(asked: Corpus, tasks: list[Named], root: Path, deep: bool) -> Report:
    """Compare a folder with what the tasks of its corpus list; `deep` decodes every file, else headers are read.

    Every label is tried. A miniature is compared with the files that it was made with. Raises DataError if the folder
    is not there.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root} for {asked.title}: give --data-dir; it should hold {asked.layout}")
    report = Report(asked.name, str(root), corpus.is_mini(root))
    files: dict[str, Path] = {}
    for named in tasks:
        _list(named, root, report, files)
    expected = _check_manifest(root, report) if report.mini else None
    _decode(asked, files, deep, report)
    _show_hints(root, report)
    belongs = {part.resolve() for path in files.values() for part in asked.parts(path)}
    instead = set(report.hints.values())
    for path in walk(root):
        name = path.relative_to(root).as_posix()
        if name in instead:
            continue  # is reported with the file that it replaces
        if expected is not None:
            if name not in expected and name != corpus.MARKER:
                report.unexpected.append(name)
        elif path.suffix.lower() in SOUNDS and path.resolve() not in belongs:
            if why := asked.filtered(name):
                report.filtered[name] = why
            else:
                report.unexpected.append(name)
    return report


def _show_hints(root: Path, report: Report) -> None:
    """Say which files are there instead of missing ones, their names differing in case or form of Unicode alone."""
    if report.missing:
        spellings = corpus.Spellings(root)
        near = {name: spellings.find_near(name) for name in report.missing}
        report.hints = {name: other for name, other in near.items() if other is not None}


def _list(named: Named, root: Path, report: Report, files: dict[str, Path]) -> None:
    """Note a task's counts and missing files, and where the others lie; what its annotations lack is told once."""
    try:
        clips = corpus.list_used_clips(named, root)
    except DataError as error:
        if str(error) not in report.annotations:
            report.annotations.append(str(error))
        return
    counts = {split: {"published": named.task.counts[split], "listed": 0, "there": 0} for split in SPLITS}
    missing = dict.fromkeys(report.missing)  # keeps the order, and tells at once whether a name is in it
    for clip in clips:
        try:
            path = files.get(clip.audio) or corpus.find(named.task.corpus, root, clip.audio)
        except DataError as error:
            report.annotations.append(str(error))
            continue
        counts[clip.split]["listed"] += 1
        if path is not None:
            files[clip.audio] = path
            counts[clip.split]["there"] += 1
        elif not report.mini:
            missing[clip.audio] = None
    report.missing = list(missing)
    report.counts[named.name] = counts
    _check_labels(named, clips, files, report)
    listed = {split: count["listed"] for split, count in counts.items()}
    if not report.mini and listed != named.task.counts and not named.task.open_list:
        report.annotations.append(f"{named.name}: {listed} clips are listed; published are {named.task.counts}")


def _check_labels(named: Named, clips: Sequence[Clip], files: dict[str, Path], report: Report) -> None:
    """Try every label as a run does: of each clip by itself only if they do not all fit together. files: of the clips
    there."""
    target = named.task.target
    there = Examples(Example(clip, files[clip.audio]) for clip in clips if clip.audio in files)
    wrong = []
    try:
        there.truth(target)
    except DataError:
        for clip in there.clips:
            try:
                target.encode([clip.target], [clip.id])
            except DataError as error:
                wrong.append(str(error))
    report.warnings += [f"{named.name}: {warning}" for warning in check_ids(there)]
    if isinstance(target, Frames) and not wrong:
        wrong += check_ends(target, there)
        report.warnings += [f"{named.name}: {warning}" for warning in check_frames(target, there)]
    report.annotations += wrong[:MOST] + (
        [f"{named.name}: and {len(wrong) - MOST} labels more"] if len(wrong) > MOST else []
    )


def _check_manifest(root: Path, report: Report) -> dict[str, str]:
    """Compare a miniature's files with those that it was made with."""
    digests = corpus.read_mini_files(root)
    for name, digest in digests.items():
        if not (root / name).is_file():
            report.missing.append(name)
        elif audio.digest(root / name) != digest:
            report.damaged[name] = "is not the file that the miniature was made with"
    return digests


def _decode(asked: Corpus, files: dict[str, Path], deep: bool, report: Report) -> None:
    """Open every file, or decode it whole, in threads; what is wrong with it goes into the report."""

    def faults(path: Path) -> dict[Path, str]:
        found = {}
        for part in asked.parts(path):
            try:
                if deep and part == path:
                    audio.read(part, sample_rate_hz=asked.sample_rate_hz or 22050, native_rate_hz=asked.sample_rate_hz)
                elif deep:
                    audio.read_channels(part, native_rate_hz=asked.sample_rate_hz)  # a part may be silent
                else:
                    audio.check_header(part, asked.sample_rate_hz)
            except DataError as error:
                found[part] = str(error)
        return found

    with ThreadPoolExecutor() as pool:
        for name, found in zip(files, pool.map(faults, files.values()), strict=True):
            known = asked.find_known_fault(name)
            if found and known:
                report.known_faults[name] = known.what
            elif found:
                report.damaged.update({_get_relative(part, Path(report.folder)): why for part, why in found.items()})


def _get_relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def as_rows(report: Report) -> list[dict[str, Any]]:
    """Every finding as a row of kind, name and what is wrong."""
    rows = [
        {"what": "missing", "name": name, "why": f"there is {report.hints[name]}" if name in report.hints else ""}
        for name in report.missing
    ]
    rows += [{"what": "damaged", "name": name, "why": why} for name, why in report.damaged.items()]
    rows += [{"what": "annotations", "name": "", "why": why} for why in report.annotations]
    rows += [{"what": "known fault", "name": name, "why": why} for name, why in report.known_faults.items()]
    rows += [{"what": "unexpected", "name": name, "why": "no task lists it"} for name in report.unexpected]
    rows += [{"what": "warning", "name": "", "why": warning} for warning in report.warnings]
    for why in dict.fromkeys(report.filtered.values()):
        names = [name for name, other in report.filtered.items() if other == why]
        rows.append({"what": "filtered", "name": f"{len(names)} files, such as {names[0]}", "why": why})
    return rows
