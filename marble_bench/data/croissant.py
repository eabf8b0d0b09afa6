"""A task's clips, splits and labels as a Croissant data set: `croissant.json` beside a table `clips.parquet`.

Croissant is MLCommons' JSON-LD vocabulary for data sets (mlcommons.org/croissant, version 1.1); `mlcroissant` reads it. The
table holds what a task reads of its corpus, and names the audio files. It holds no audio, whose licence is its makers'.

The labels are those of `data.hf`, in other types: a column of this table holds plain values or flat lists of them, so each
dimension is a column of its own and the tags of a frame are one text of JSON, where `datasets` has nested lists.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marble_bench.core.plugins import Named
from marble_bench.core.task import HUB_SPLITS, Clip, Corpus
from marble_bench.data import corpus as corpora
from marble_bench.data import examples
from marble_bench.errors import BenchError
from marble_bench.files.atomic import write_whole
from marble_bench.scoring.frame_targets import ClassPart, MomentPart, Part, SegmentPart, SpanPart, TagPart
from marble_bench.scoring.targets import Classes, Frames, MaskedTags, Ranking, Scalars, Tags, Target

VERSION = "http://mlcommons.org/croissant/1.1"
METADATA, TABLE = "croissant.json", "clips.parquet"
SPLIT_CLASSES = {"train": "cr:TrainingSplit", "valid": "cr:ValidationSplit", "test": "cr:TestSplit"}
_TERMS = (
    "arrayShape citeAs column containedIn equivalentProperty extract field fileObject fileProperty fileSet format includes "
    "isArray isLiveDataset jsonPath key md5 parentField path recordSet references regex repeated replace samplingRate "
    "separator source subField transform value"
).split()
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}


@dataclass(frozen=True)
class Column:
    """A column of the table: its type in Croissant, what it holds, and its value for a clip.

    labels: the name of the enumeration that its values are from, empty for none. target: whether it is what is asked.
    """

    name: str
    type: str
    about: str
    value: Callable[[Clip], Any]
    repeated: bool = False
    labels: str = ""
    target: bool = False


def list_columns(target: Target) -> list[Column]:
    """The columns of a task's table: the clip, its split and span, and the target in one or several columns."""
    return [
        Column("id", "sc:Text", "The clip's name, unique in the task.", lambda clip: clip.id),
        Column("split", "sc:Text", "The split it belongs to.", lambda clip: HUB_SPLITS[clip.split], labels="splits"),
        Column("file", "sc:Text", "Its audio file, as the makers of the corpus name it.", lambda clip: clip.audio),
        Column("start_s", "sc:Float", "Where it starts in the file, in seconds.", lambda clip: clip.start_s),
        Column(
            "duration_s", "sc:Float", "How long it lasts, in seconds; null: to the end.", lambda clip: clip.duration_s
        ),
        Column("group", "sc:Text", "Clips of one group stay together.", lambda clip: clip.group or clip.id),
        *_list_target_columns(target),
    ]


def _list_target_columns(target: Target) -> list[Column]:
    if isinstance(target, Classes):
        return [Column("target", "sc:Text", "Its class.", lambda clip: clip.target, labels="labels", target=True)]
    if isinstance(target, Ranking):
        return [Column("target", "sc:Text", "The id of its work.", lambda clip: clip.target, target=True)]
    if isinstance(target, Tags):
        about = "Its tags."
        return [Column("target", "sc:Text", about, lambda clip: list(clip.target), True, "labels", target=True)]
    if isinstance(target, MaskedTags):
        return [
            Column(
                f"target_{kind}",
                "sc:Text",
                f"The tags that were judged and {'hold' if holds else 'do not hold'}.",
                _take_judged(holds),
                True,
                "labels",
                target=True,
            )
            for kind, holds in (("present", True), ("absent", False))
        ]
    if isinstance(target, Scalars):
        return [
            Column(f"target_{name}", "sc:Float", f"Its {name}.", _take_part(at, float), target=True)
            for at, name in enumerate(target.names)
        ]
    if isinstance(target, Frames):
        return [_build_part_column(part, at, target.rate_hz) for at, part in enumerate(target.parts)]
    return []  # the stems of a song are files


def _build_part_column(part: Part, at: int, rate_hz: float | None) -> Column:
    """The column of one part of `Frames`: a value for each frame, or the time in seconds of each moment."""
    name, pace = f"target_{part.name}", f", {rate_hz:g} a second" if rate_hz else ""
    if isinstance(part, ClassPart):
        about, labels = f"The {part.name} of each frame{pace}.", f"labels_{part.name}"
        return Column(name, "sc:Text", about, _take_part(at, _map_frames(str)), True, labels, target=True)
    if isinstance(part, TagPart):
        about = f"The {part.name} of each frame{pace}, a JSON list."
        return Column(name, "sc:Text", about, _take_part(at, _map_frames(_dump_list)), True, target=True)
    if isinstance(part, (SegmentPart, SpanPart)):
        about = f"Each of the {part.name}, a JSON list of start and end in seconds, and label."
        return Column(name, "sc:Text", about, _take_part(at, _map_frames(_dump_list)), True, target=True)
    about = (
        f"Each {part.name}, in seconds." if isinstance(part, MomentPart) else f"The {part.name} of each frame{pace}."
    )
    return Column(name, "sc:Float", about, _take_part(at, _map_frames(float)), True, target=True)


def _take_part(at: int, kind: Callable[[Any], Any]) -> Callable[[Clip], Any]:
    """What gives one part of a clip's target, None where that is not annotated."""
    return lambda clip: None if clip.target[at] is None else kind(clip.target[at])


def _take_judged(holds: bool) -> Callable[[Clip], Any]:
    """What gives the tags of a clip that were judged so."""
    return lambda clip: [name for name, value in clip.target.items() if value is holds]


def _map_frames(kind: Callable[[Any], Any]) -> Callable[[Any], list[Any]]:
    """What gives the values of all frames, None for a frame that is not annotated."""
    return lambda values: [None if each is None else kind(each) for each in values]


def _dump_list(values: Iterable[object]) -> str:
    return json.dumps(list(values))


def list_labels(target: Target) -> dict[str, tuple[str, ...]]:
    """The labels that the values of columns are from, by the name of the enumeration."""
    if isinstance(target, Frames):
        return {f"labels_{part.name}": part.labels for part in target.parts if isinstance(part, ClassPart)}
    return {"labels": target.names} if isinstance(target, Classes | Tags | MaskedTags) else {}


def write_croissant(named: Named, folder: Path, root: Path | None = None, allow_missing: bool = False) -> Path:
    """Describe a task's clips in a folder; the path of `croissant.json`, which is written last.

    root: the corpus's folder, which tasks need whose labels the suite does not ship. With it, the clips are those whose
    files are there. Raises DataError as `examples.find` does, BenchError if the disk refuses.
    """
    if root is None:
        clips = corpora.list_clips(named, None)
    else:
        clips = examples.find(named, root, allow_missing=allow_missing).examples.clips
    fields = list_columns(named.task.target)
    content = _build_table(clips, fields)
    described = describe(named, fields, content, corpora.is_mini(root))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / TABLE, content)
        write_whole(folder / METADATA, (json.dumps(described, indent=2, ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise BenchError(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder / METADATA


def _build_table(clips: Sequence[Clip], fields: Sequence[Column]) -> bytes:
    """The clips as a Parquet file, typed: a reader of text would take an id of digits for a number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"sc:Text": pa.string(), "sc:Float": pa.float64()}
    arrays = {}
    for field in fields:
        kind = pa.list_(kinds[field.type]) if field.repeated else kinds[field.type]
        arrays[field.name] = pa.array([field.value(clip) for clip in clips], kind)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), buffer)
    return bytes(buffer.getvalue())


def describe(named: Named, fields: Sequence[Column], content: bytes, mini: bool) -> dict[str, Any]:
    """The JSON-LD of a task's clips. content: the table's file. mini: whether the clips are those of the miniature."""
    task, corpus = named.task, named.task.corpus
    year = re.search(r"\b(?:19|20)\d\d\b", corpus.citation)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": f"{named.name}-miniature" if mini else named.name,
        "description": _describe_task(named, mini),
        "conformsTo": VERSION,
        "version": f"{task.version + corpus.version - 1}.0.0",  # whichever is raised, clips or labels are others
        "license": _find_license(corpus),
        **({"url": corpus.home} if re.match("https?://", corpus.home) else {}),
        "creator": {"@type": "sc:Organization", "name": f"The authors of {corpus.title}, see citeAs"},
        **({"datePublished": year[0]} if year else {}),
        "citeAs": corpus.citation,
        "distribution": [_describe_file(content)],
        "recordSet": [
            _describe_splits(),
            *(_describe_labels(name, labels) for name, labels in list_labels(task.target).items()),
            {
                "@type": "cr:RecordSet",
                "@id": "clips",
                "name": "clips",
                "description": f"What is asked: {task.title}.",
                "key": {"@id": "clips/id"},
                "field": [_describe_field(each) for each in fields],
            },
        ],
    }


def _describe_file(content: bytes) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": TABLE,
        "name": TABLE,
        "description": "A row for each clip.",
        "contentUrl": TABLE,
        "contentSize": f"{len(content)} B",
        "encodingFormat": "application/x-parquet",
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def _describe_task(named: Named, mini: bool) -> str:
    what = (
        f"Clips, splits and labels of {named.task.corpus.title} as task '{named.name}' of marble-bench, version "
        f"{named.task.version}, reads them: {named.task.title}. The audio is not part of it"
    )
    if mini:
        return f"{what}. These are the clips of a miniature: synthesised music in the layout of the corpus, for tests only."
    return f"{what}; get it from {named.task.corpus.home}."


def _find_license(corpus: Corpus) -> str:
    """A licence by its address where it is a Creative Commons one by its SPDX name, else in the corpus's own words."""
    spdx = re.fullmatch(r"CC-BY(?:-[A-Z]+)*-\d\.\d|CC0-1\.0", corpus.license)
    return f"https://spdx.org/licenses/{corpus.license}" if spdx else corpus.license


def _describe_field(column: Column) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"clips/{column.name}",
        "name": column.name,
        "description": column.about,
        "dataType": [column.type, "cr:Label"] if column.target else column.type,
        # a list references nothing: mlcroissant would join it as one value
        **({"repeated": True} if column.repeated else {}),
        **(
            {"references": {"field": {"@id": f"{column.labels}/name"}}} if column.labels and not column.repeated else {}
        ),
        "source": {"fileObject": {"@id": TABLE}, "extract": {"column": column.name}},
    }


def _describe_splits() -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": "splits",
        "name": "splits",
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [
            {"@type": "cr:Field", "@id": "splits/name", "name": "name", "dataType": "sc:Text"},
            {"@type": "cr:Field", "@id": "splits/url", "name": "url", "dataType": ["sc:URL", "cr:Split"]},
        ],
        "data": [{"splits/name": HUB_SPLITS[split], "splits/url": meaning} for split, meaning in SPLIT_CLASSES.items()],
    }


def _describe_labels(name: str, labels: Sequence[str]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "dataType": "sc:Enumeration",
        "key": {"@id": f"{name}/name"},
        "field": [{"@type": "cr:Field", "@id": f"{name}/name", "name": "name", "dataType": "sc:Text"}],
        "data": [{f"{name}/name": label} for label in labels],
    }
