"""A task's clips as a Hugging Face `datasets.DatasetDict`, to look at with the tools that people know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import corpus
from marble_bench.plugins import find_task
from marble_bench.targets import Classes, Tags
from marble_bench.task import SPLITS

if TYPE_CHECKING:
    import datasets


def dataset(task: str, root: Path | str | None = None) -> datasets.DatasetDict:
    """The clips of a task by split, typed; audio stays where it is.

    task: a name or the path of a task file. root: the corpus's folder; without it the labels of the shipped list are used,
    where there is one, and `path` is empty.

    Columns: `id`, `audio` (the path that the makers give it), `path` (the file on disk, or null), `start_s`, `duration_s`
    (null: to the end), `group`, and `target`: a ClassLabel, a list of ClassLabels, or a list of float32 values.
    """
    import datasets

    named = find_task(task)
    place = None if root is None else Path(root)
    clips = corpus.listed(named, place)
    target = named.task.target
    label: Any = datasets.ClassLabel(names=list(target.names))
    kind: Any = datasets.List(datasets.Value("float32"))
    if isinstance(target, (Classes, Tags)):
        kind = label if isinstance(target, Classes) else datasets.List(label)
    columns = {
        "id": datasets.Value("string"),
        "audio": datasets.Value("string"),
        "path": datasets.Value("string"),
        "start_s": datasets.Value("float64"),
        "duration_s": datasets.Value("float64"),
        "group": datasets.Value("string"),
        "target": kind,
    }
    made = {}
    for split in SPLITS:
        members = [clip for clip in clips if clip.split == split]
        found = [place and named.task.corpus.locate(place, clip.audio) for clip in members]
        rows: dict[str, list[Any]] = {
            "id": [clip.id for clip in members],
            "audio": [clip.audio for clip in members],
            "path": [None if path is None else str(path) for path in found],
            "start_s": [clip.start_s for clip in members],
            "duration_s": [clip.duration_s for clip in members],
            "group": [clip.group or clip.id for clip in members],
            "target": [list(clip.target) if isinstance(clip.target, tuple) else clip.target for clip in members],
        }
        made[split] = datasets.Dataset.from_dict(rows, features=datasets.Features(columns))
    return datasets.DatasetDict(made)
