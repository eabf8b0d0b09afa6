"""A task's clips as a Hugging Face `datasets.DatasetDict`, to look at with the tools that people know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core.plugins import find_task
from marble_bench.core.task import SPLITS, Clip, Corpus
from marble_bench.data import corpus
from marble_bench.scoring.frame_targets import ClassPart, MomentPart, Part, TagPart
from marble_bench.scoring.targets import Classes, Frames, Stems, Tags, Target

if TYPE_CHECKING:
    import datasets


def dataset(task: str, root: Path | str | None = None) -> datasets.DatasetDict:
    """The clips of a task by split, typed; audio stays where it is.

    task: a name or the path of a task file. root: the corpus's folder; without it the labels of the shipped list are used,
    where there is one, and `path` is empty.

    Columns: `id`, `audio` (the path that the makers give it), `path` (the file on disk, or null), `start_s`, `duration_s`
    (null: to the end), `group`, and `target`: a ClassLabel, a list of ClassLabels, a list of float32 values, or of `Frames`
    by part the labels of its frames, or the times in seconds of its moments (null where not annotated). A task of stems has
    no `target`.
    """
    import datasets

    named = find_task(task)
    place = None if root is None else Path(root)
    clips = corpus.list_clips(named, place)
    target = named.task.target
    columns: dict[str, Any] = {
        "id": datasets.Value("string"),
        "audio": datasets.Value("string"),
        "path": datasets.Value("string"),
        "start_s": datasets.Value("float64"),
        "duration_s": datasets.Value("float64"),
        "group": datasets.Value("string"),
        **({} if isinstance(target, Stems) else {"target": _find_feature_type(target)}),
    }
    splits = {}
    for split in SPLITS:
        rows = _list_columns([clip for clip in clips if clip.split == split], target, named.task.corpus, place)
        chosen = {name: rows[name] for name in columns}
        splits[split] = datasets.Dataset.from_dict(chosen, features=datasets.Features(columns))
    return datasets.DatasetDict(splits)


def _list_columns(clips: Sequence[Clip], target: Target, of: Corpus, root: Path | None) -> dict[str, list[Any]]:
    """What each column says of some clips."""
    found = [root and corpus.find(of, root, clip.audio) for clip in clips]
    return {
        "id": [clip.id for clip in clips],
        "audio": [clip.audio for clip in clips],
        "path": [None if path is None else str(path) for path in found],
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
    label = datasets.ClassLabel(names=list(target.names))
    if isinstance(target, Classes):
        return label
    if isinstance(target, Tags):
        return datasets.List(label)
    return datasets.List(datasets.Value("float32"))


def _find_part_type(part: Part) -> Any:
    """The type of a label of a frame, or of a moment."""
    import datasets

    if isinstance(part, ClassPart):
        return datasets.ClassLabel(names=list(part.labels))
    if isinstance(part, TagPart):
        return datasets.List(datasets.ClassLabel(names=list(part.labels)))
    return datasets.Value("float64" if isinstance(part, MomentPart) else "float32")


def _convert_value(target: Target, given: Any) -> Any:
    if isinstance(target, Frames):
        return dict(zip(target.names, given, strict=True))
    return list(given) if isinstance(given, tuple) else given
