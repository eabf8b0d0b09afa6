"""What a task's list of clips, and a corpus at hand, say of a record: clips, splits, labels, constant answer, files.

Many lists are shipped with the suite. With one alone, the clips of the predictions are compared, their splits, groups and
labels, and the score of the constant answer that the training labels give. With the corpus's folder the files are compared
too, by the fingerprint of the data, and a clip that a record leaves out for a known fault is read. No word of a record
names a file that is opened: clips are looked up in the list.

Kinds of what is found: `splits`, `truth`, `trivial`, `fingerprint`, `counts`; and `fault not here`, a warning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import audio
from marble_bench.core import plugins
from marble_bench.core.plugins import Named
from marble_bench.core.task import SPLITS, Clip
from marble_bench.data import corpus
from marble_bench.data.times import clip_annotation
from marble_bench.errors import DataError, UsageError, listing
from marble_bench.features import pooled
from marble_bench.metrics._ranking import find_copies, measure_chance_of
from marble_bench.records import claims, comparable, measured_facts
from marble_bench.records.comparable import BROUGHT
from marble_bench.records.record import Record
from marble_bench.records.record_file import Stored
from marble_bench.scoring import scores
from marble_bench.scoring.scores import convert_number
from marble_bench.scoring.targets import Frames, Ranking, Stems
from marble_bench.separation.stems import compute_digests

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from marble_bench.metrics import Metric

CLOSE = 1e-5  # labels and scores are stored in single precision


@dataclass
class AtHand:
    """The clips of a task as its list has them, and their files if there is a folder. root: None for the list alone."""

    named: Named
    root: Path | None
    clips: list[Clip]
    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)  # of the files that were read already, by clip
    lengths_s: dict[str, float] = field(default_factory=dict)  # of the clips whose files were measured already

    @cached_property
    def mini(self) -> bool:
        """Whether the folder is a miniature."""
        return corpus.is_mini(self.root)

    def length_s(self, clip: Clip) -> float:
        """Seconds of a clip whose file is here. Each is measured once. Raises DataError for a file that is no audio."""
        if clip.id not in self.lengths_s:
            self.lengths_s[clip.id] = clip.length_s(self.files[clip.id])
        return self.lengths_s[clip.id]

    def digest(self, clips: Sequence[Clip]) -> list[str]:
        """What runs know the audio of clips by. Each file is read once."""
        new = [clip for clip in clips if clip.id not in self.digests]
        paths, target = [self.files[clip.id] for clip in new], self.named.task.target
        digests = compute_digests(paths, target.names) if isinstance(target, Stems) else pooled.compute_digests(paths)
        self.digests |= {clip.id: digest for clip, digest in zip(new, digests, strict=True)}
        return [self.digests[clip.id] for clip in clips]


class Corpora:
    """What is at hand of the corpora of some records. root: a corpus's folder; task: of somebody's own. Both may be None."""

    def __init__(self, root: Path | None = None, task: Named | None = None) -> None:
        self.root, self.task = root, task
        self.known: dict[str, AtHand | None] = {}
        self.corpus = ""

    def of(self, record: Record) -> AtHand | None:
        """The list and the files of a record's task; None for a task or a list that is not here.

        Raises DataError for a folder that does not hold the corpus, UsageError where a folder is to hold several.
        """
        name = record.task.name
        if name not in self.known:
            self.known[name] = self._find(name)
        return self.known[name]

    def _find(self, name: str) -> AtHand | None:
        if self.task is not None and self.task.name == name:
            named = self.task
        else:
            try:
                named = plugins.find_registered_task(name)
            except UsageError:
                return None  # somebody's own
        if self.root is None:
            try:
                return AtHand(named, None, corpus.list_clips(named, None))
            except DataError:
                return None  # its list is in the corpus
        own = named.task.corpus.beside or named.task.corpus.name
        if self.corpus not in ("", own):
            raise UsageError(
                f"--data-dir names one corpus, but the records are of '{self.corpus}' and '{own}': check them separately"
            )
        self.corpus = own
        found = corpus.find_on_disk(named, self.root, allow_missing=True)
        clips = list(found.clips) if corpus.is_mini(self.root) else corpus.list_used_clips(named, self.root)
        return AtHand(named, self.root, clips, {c.id: p for c, p in zip(found.clips, found.paths, strict=True)})


def find_disagreements(stored: Stored, predictions: pd.DataFrame, here: AtHand) -> Iterator[tuple[str, str]]:
    """Where a record says other than the list and the corpus do: the kind, and what was found in plain words."""
    record = stored.record
    if record.data.mini and here.root is None:
        return  # which clips a miniature has, and how they are labelled, its folder alone says
    used, sure = find_used_clips(record, here)
    partly = not sure
    if here.root is not None and here.mini != record.data.mini:
        what = ("a miniature", "the corpus itself")
        yield (
            "fingerprint",
            f"it was made on {what[not record.data.mini]}, and {here.root} is {what[not here.mini]}",
        )
        return
    yield from _check_counts(record, used, partly)
    yield from _check_rows(predictions, used, here.clips, partly)
    yield from _check_truth(predictions, here)
    yield from _check_measured(predictions, here)
    if not partly:
        yield from _check_trivial(record, used, here)
        yield from _check_fingerprint(record, used, here)
    yield from _check_readable_faults(record, here)
    yield from _check_too_short(record, here)
    yield from _check_copies(record, here)


def find_used_clips(record: Record, here: AtHand) -> tuple[list[Clip], bool]:
    """The clips that a record's run used, and whether that is sure.

    A file that is absent is left out before a limit draws clips, a damaged one behind it, and a record calls both
    missing. So both ways are tried, and where neither gives the record's counts it is not sure.
    """
    data = record.data
    left_out = {*data.missing, *(each.clip for each in (*data.faults, *data.too_short))}
    left_out |= set(record.retrieval.copies) if record.retrieval else set()
    limit = comparable.find_departures(record, None).limit

    def rest(clips: Sequence[Clip]) -> list[Clip]:
        return [clip for clip in clips if clip.audio not in left_out and clip.id not in left_out]

    if limit is None:
        return rest(here.clips), True
    whole = here.named.task.ranks
    ways = [corpus.limit_clips(rest(here.clips), limit, whole), rest(corpus.limit_clips(here.clips, limit, whole))]
    fits = [way for way in ways if {s: sum(clip.split == s for clip in way) for s in SPLITS} == data.clips.as_dict()]
    return (fits or [rest(here.clips)])[0], bool(fits) or not data.missing


def _check_counts(record: Record, used: Sequence[Clip], partly: bool) -> Iterator[tuple[str, str]]:
    """Whether as many clips were trained on; of the others the predictions tell."""
    recorded, listed = record.data.clips.train, sum(clip.split == "train" for clip in used)
    if recorded > listed or (recorded != listed and not partly):
        yield "counts", f"{recorded} train clips in the record, {listed} in the corpus but for those it leaves out"


def _check_rows(
    predictions: pd.DataFrame, used: Sequence[Clip], every: Sequence[Clip], partly: bool
) -> Iterator[tuple[str, str]]:
    """Whether what was predicted are the clips of that split, in their groups."""
    split_of, known = {clip.id: clip.split for clip in every}, {clip.id: clip for clip in used}
    for split in ("valid", "test"):
        rows = predictions[predictions["split"] == split]
        group_of = dict(zip(rows["clip"], rows["group"], strict=True))
        for other in SPLITS:
            if moved := sorted(clip for clip in group_of if split_of.get(clip) == other != split):
                yield "splits", f"{len(moved)} {split} clips of the record are {other} clips: {listing(moved, most=5)}"
        if strange := sorted(clip for clip in group_of if clip not in split_of):
            yield (
                "splits",
                f"{len(strange)} {split} clips of the record are none of the task's: {listing(strange, most=5)}",
            )
        unused = sorted(clip for clip in group_of if split_of.get(clip) == split and clip not in known)
        if unused:
            yield "splits", f"{len(unused)} {split} clips are predicted and yet left out: {listing(unused, most=5)}"
        absent = sorted(clip.id for clip in used if clip.split == split and clip.id not in group_of)
        if absent and not partly:
            yield (
                "splits",
                f"{len(absent)} {split} clips have no prediction and no reason why: {listing(absent, most=5)}",
            )
        apart = [clip for clip, group in group_of.items() if clip in known and group != (known[clip].group or clip)]
        if apart:
            yield "splits", f"{len(apart)} {split} clips are in another group: {listing(sorted(apart), most=5)}"


def _check_truth(predictions: pd.DataFrame, here: AtHand) -> Iterator[tuple[str, str]]:
    """Whether the labels beside the predictions are those of the clips."""
    import numpy as np

    target, clips = here.named.task.target, {clip.id: clip for clip in here.clips}
    if isinstance(target, Stems):
        return  # its truth is audio
    wrong: dict[str, list[str]] = {}
    for split in ("valid", "test"):
        rows = predictions[predictions["split"] == split]
        for clip, truth in zip(rows["clip"], rows["truth"], strict=True):
            if clip not in clips:
                continue
            right = _label(clips[clip], here)
            recorded = np.asarray(truth, dtype=np.float64)
            if right is not None and (
                recorded.shape != right.shape or not np.allclose(recorded, right, rtol=CLOSE, atol=CLOSE)
            ):
                wrong.setdefault(split, []).append(clip)
    for split, names in wrong.items():
        unique = sorted(set(names))
        yield "truth", f"{len(unique)} {split} clips have another label in the corpus: {listing(unique, most=5)}"


def _check_measured(predictions: pd.DataFrame, here: AtHand) -> Iterator[tuple[str, str]]:
    """Whether what was found in the clips whose audio is here is measured again as in the predictions."""
    task, clips = here.named.task, {clip.id: clip for clip in here.clips if clip.id in here.files}
    if not clips or measured_facts.find_measure(task) is None:
        return

    @cache
    def find_annotation(name: str) -> Any:
        assert isinstance(task.target, Frames)
        clip = clips.get(name)
        return clip and clip_annotation(task.target, clip, here.length_s(clip))[0].target

    yield from measured_facts.find_disagreements(predictions, task, False, find_annotation)


def _label(clip: Clip, here: AtHand) -> NDArray[Any] | None:
    """The label of a clip as a table of predictions holds it; None where its audio is needed and not at hand."""
    import numpy as np

    target = here.named.task.target
    assert not isinstance(target, Stems)
    if not isinstance(target, Frames):
        return np.asarray(target.encode([clip.target], [clip.id]), dtype=np.float64).reshape(-1)
    if clip.id not in here.files:
        return None
    clipped, _ = clip_annotation(target, clip, here.length_s(clip))
    return np.asarray(target.list_first(clipped.target), dtype=np.float64)


def _check_trivial(record: Record, used: Sequence[Clip], here: AtHand) -> Iterator[tuple[str, str]]:
    """Whether the score of the constant answer is that of the training labels."""
    computed = compute_trivial_scores(used, here)
    for name, score in record.scores.items():
        if name not in computed:
            continue
        recorded, again = score.trivial, computed[name]
        same = (
            recorded is again
            if recorded is None or again is None
            else abs(recorded - again) <= CLOSE * max(1, abs(again))
        )
        if not same:
            shown = ["none" if value is None else f"{value:.6g}" for value in (recorded, again)]
            yield (
                "trivial",
                f"{name}: a constant answer gets {shown[1]} by the labels of the corpus, {shown[0]} in the record",
            )


def compute_trivial_scores(used: Sequence[Clip], here: AtHand) -> dict[str, float | None]:
    """What the constant answer of the training labels gets on the test clips, by score; no score of what needs audio."""
    import torch

    task = here.named.task
    of = {split: [clip for clip in used if clip.split == split] for split in SPLITS}
    if isinstance(task.target, Ranking):
        chance = torch.from_numpy(measure_chance_of([clip.target for clip in of["test"]]))
        truth = torch.zeros(len(chance))
        return {metric.name: convert_number(float(metric.compute(chance[None], truth)[0])) for metric in task.metrics}
    if not of["train"] or not of["test"] or isinstance(task.target, Stems):
        return {}
    if isinstance(task.target, Frames):
        measure, target = task.metrics[0].measure, task.target
        assert measure is not None
        if not all(clip.id in here.files for clip in used):
            return {}
        train, test = (
            [clip_annotation(target, clip, here.length_s(clip))[0].target for clip in of[split]]
            for split in ("train", "test")
        )
        found = measure.trivial(train, [here.length_s(clip) for clip in of["test"]])
        constant, truth = measure.rows(found, test), torch.zeros(len(test))
    else:
        encoded = {
            split: torch.from_numpy(task.target.encode([c.target for c in clips], [c.id for c in clips]))
            for split, clips in of.items()
        }
        constant, truth = torch.from_numpy(task.target.trivial(encoded["train"].numpy())), encoded["test"]
    trivials = {metric.name: _score_constant(metric, constant, truth) for metric in task.metrics}
    first = task.metrics[0]
    if task.ensemble:
        trivials[f"{first.name}_ensemble"] = trivials[first.name]
    if task.group_name:
        groups = [clip.group or clip.id for clip in of["test"]]
        empty = {"test": torch.zeros(1, len(truth), task.target.width)}
        grouped = scores.average_groups(scores.Answers(empty, {"test": truth}, groups), {"test": groups})
        trivials[f"{first.name}_{task.group_name}"] = _score_constant(first, constant, grouped.truth["test"])
    return trivials


def _score_constant(metric: Metric, constant: torch.Tensor, truth: torch.Tensor) -> float | None:
    return convert_number(float(metric.compute(constant.expand(1, len(truth), -1), truth)[0]))


def _check_fingerprint(record: Record, used: Sequence[Clip], here: AtHand) -> Iterator[tuple[str, str]]:
    """Whether the run's clips, labels and audio are those of the folder."""
    if record.model.source.startswith(BROUGHT):  # no audio was read
        digests = [""] * len(used)
    elif here.root is None:
        return
    else:
        if gone := [clip.id for clip in used if clip.id not in here.files]:
            yield "fingerprint", f"{len(gone)} clips that it used are not in {here.root}: {listing(gone, most=5)}"
            return
        digests = here.digest(used)
    clips, target = used, here.named.task.target
    if isinstance(target, Frames) and here.root is not None:
        clips = [clip_annotation(target, clip, here.length_s(clip))[0] for clip in used]
    if corpus.compute_fingerprint(clips, digests) != record.data.fingerprint:
        place = here.root or "the task's list"
        yield "fingerprint", f"clips, labels or audio are not those of {place}: the fingerprint of the data is another"


def _check_readable_faults(record: Record, here: AtHand) -> Iterator[tuple[str, str]]:
    """Whether a clip left out for a known fault can be read; `claims.check_faults` asks whether the fault is known."""
    left_out = {fault.clip for fault in record.data.faults}
    for clip in here.clips:
        known = clip.id in left_out and here.named.task.corpus.find_known_fault(clip.audio) is not None
        if known and clip.id in here.files and _can_be_read(clip, here):
            yield "fault not here", f"{clip.id!r} is left out for a known fault, and can be read in {here.root}"


def _check_too_short(record: Record, here: AtHand) -> Iterator[tuple[str, str]]:
    """Whether the clips that a protocol leaves out as too short are those of the list, and too short where they are here."""
    clips, task = {clip.id: clip for clip in here.clips}, claims.find_task(record)
    if strange := [each.clip for each in record.data.too_short if each.clip not in clips]:
        yield "splits", f"{listing(map(repr, strange), most=3)} is left out as too short, and is no clip of the task"
    for each in record.data.too_short:
        if task is None or each.clip not in here.files:
            continue
        length_s = here.length_s(clips[each.clip])
        if pooled.count_rows(length_s, claims.find_window(record, task)):
            yield "splits", f"'{each.clip}' is left out as too short, and lasts {length_s:.3f} s in {here.root}"


def _check_copies(record: Record, here: AtHand) -> Iterator[tuple[str, str]]:
    """Whether the items that a ranking leaves out as copies are of the list, and the same file as another of their work."""
    left_out = set(record.retrieval.copies) if record.retrieval else set()
    clips = {clip.id: clip for clip in here.clips}
    if strange := sorted(left_out - set(clips)):
        yield "splits", f"{listing(strange, most=3)} is left out as a copy, and is no item of the task"
    works = {clips[name].target for name in left_out & set(clips)}
    items = [clip for clip in here.clips if clip.target in works and clip.id in here.files]
    copies = find_copies([clip.id for clip in items], [clip.target for clip in items], here.digest(items))
    if wrong := sorted((left_out & {clip.id for clip in items}) - set(copies)):
        yield (
            "splits",
            f"{listing(wrong, most=3)} is left out as a copy, and no other item of its work is that file here",
        )


def _can_be_read(clip: Clip, here: AtHand) -> bool:
    rate = here.named.task.corpus.sample_rate_hz
    try:
        audio.read(here.files[clip.id], sample_rate_hz=rate or 22050, native_rate_hz=rate)
    except DataError:
        return False
    return True
