"""A task's clips as a Hugging Face `datasets.DatasetDict`, to look at with the tools that people know."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core.plugins import Named, find_task
from marble_bench.core.task import HUB_SPLITS
from marble_bench.data import corpus, examples
from marble_bench.data.examples import Example, Examples
from marble_bench.errors import counted, listing
from marble_bench.scoring.frame_targets import ClassPart, MomentPart, Part, SegmentPart, SpanPart, TagPart
from marble_bench.scoring.targets import Classes, Frames, MaskedTags, Ranking, Stems, Tags, Target

if TYPE_CHECKING:
    import datasets

SEGMENT = ("start_s", "end_s", "label")  # the fields of a segment


def dataset(
    task: str, root: Path | str | None = None, allow_missing: bool = False, decode: bool | None = None
) -> datasets.DatasetDict:
    """The clips of a task, typed, in the splits `train`, `validation` and `test`; audio stays where it is.

    task: a name or the path of a task file. root: the corpus's folder. Without it the labels of the shipped list are given,
    where there is one, and no column `audio`. allow_missing: leave out clips whose file is not there, with a warning that
    names them; a miniature holds some of the clips by design. decode: whether `audio` gives decoded sound, by torchcodec, or
    the path of the file; by default it decodes where torchcodec is installed.

    Columns: `id`; `audio`: the whole file, an `Audio` feature; `file`: its name as the makers of the corpus have it;
    `start_s`, `duration_s`: the clip's span in the file in seconds (null: to the end); `group`: what clips are drawn
    together by; `target`: a ClassLabel, a list of ClassLabels, a list of float32 values, or of `Frames` by part the labels
    of its frames, the times of its moments, or its segments (null where not annotated). A task of stems has no `target`.

    Raises DataError naming the files that are not there, and UsageError for an unknown task.
    """
    import datasets

    named = find_task(task)
    found = _find(named, root, allow_missing)
    target = named.task.target
    columns: dict[str, Any] = {
        "id": datasets.Value("string"),
        **({} if root is None else {"audio": datasets.Value("string")}),
        "file": datasets.Value("string"),
        "start_s": datasets.Value("float64"),
        "duration_s": datasets.Value("float64"),
        "group": datasets.Value("string"),
        **({} if isinstance(target, Stems) else {"target": _find_feature_type(target)}),
    }
    audio = datasets.Audio(decode=datasets.config.TORCHCODEC_AVAILABLE if decode is None else decode)
    splits = {}
    for split, name in HUB_SPLITS.items():
        rows = _list_columns(found.of(split), target)
        chosen = {column: rows[column] for column in columns}
        splits[name] = datasets.Dataset.from_dict(chosen, features=datasets.Features(columns))
        if root is not None:  # a path becomes an Audio by a cast, which needs no torchcodec
            splits[name] = splits[name].cast_column("audio", audio)
    return datasets.DatasetDict(splits)


def _find(named: Named, root: Path | str | None, allow_missing: bool) -> Examples:
    """The examples of a task, those of a folder all with their files."""
    if root is None:
        return Examples.of_clips(corpus.list_clips(named, None))
    found = examples.find(named, Path(root), allow_missing=allow_missing)
    if found.missing:
        left_out = counted(len(found.missing), "clip")
        warnings.warn(f"{named.name}: {left_out} without a file left out: {listing(found.missing)}", stacklevel=3)
    return found.examples


def _list_columns(found: Sequence[Example], target: Target) -> dict[str, list[Any]]:
    """What each column says of some examples."""
    clips = [each.clip for each in found]
    return {
        "id": [clip.id for clip in clips],
        "audio": [str(each.path) for each in found],
        "file": [clip.audio for clip in clips],
        "start_s": [clip.start_s for clip in clips],
        "duration_s": [clip.duration_s for clip in clips],
        "group": [clip.group or clip.id for clip in clips],
        "target": [_convert_value(target, clip.target) for clip in clips],
    }


def _find_feature_type(target: Target) -> Any:
    """The type of a column of targets."""
    import datasets

    if isinstance(target, Frames):
        return {part.name: datasets.List(_find_part_type(part)) for part in target.parts}
    if isinstance(target, Ranking):
        return datasets.Value("string")
    label = datasets.ClassLabel(names=list(target.names))
    if isinstance(target, Classes):
        return label
    if isinstance(target, Tags):
        return datasets.List(label)
    if isinstance(target, MaskedTags):
        return {"present": datasets.List(label), "absent": datasets.List(label)}
    return datasets.List(datasets.Value("float32"))


def _find_part_type(part: Part) -> Any:
    """The type of a label of a frame, or of a moment."""
    import datasets

    if isinstance(part, ClassPart):
        return datasets.ClassLabel(names=list(part.labels))
    if isinstance(part, TagPart):
        return datasets.List(datasets.ClassLabel(names=list(part.labels)))
    if isinstance(part, (SegmentPart, SpanPart)):
        return {name: datasets.Value("string" if name == "label" else "float64") for name in SEGMENT}
    return datasets.Value("float64" if isinstance(part, MomentPart) else "float32")


def _name_fields(segments: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    return None if segments is None else [dict(zip(SEGMENT, each, strict=True)) for each in segments]


def _convert_value(target: Target, given: Any) -> Any:
    if isinstance(target, Frames):
        parts = zip(target.parts, given, strict=True)
        return {
            part.name: _name_fields(each) if isinstance(part, (SegmentPart, SpanPart)) else each for part, each in parts
        }
    if isinstance(target, MaskedTags):
        return {
            kind: [name for name, value in given.items() if value is holds]
            for kind, holds in (("present", True), ("absent", False))
        }
    return list(given) if isinstance(given, tuple) else given
