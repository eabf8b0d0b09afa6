"""Croissant descriptions of tasks: what the specification asks for is there, and MLCommons' own reader gives the clips."""

import hashlib
import json
import math

import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import PLUGINS, TOY_TASK

from marble_bench.core import plugins
from marble_bench.core.plugins import Named
from marble_bench.core.task import HUB_SPLITS
from marble_bench.data import corpus
from marble_bench.data.croissant import SPLIT_CLASSES, list_columns, write_croissant
from marble_bench.data.hf import _convert_value
from marble_bench.errors import DataError
from marble_bench.scoring.frame_targets import ClassPart, Frames, MomentPart, TagPart
from marble_bench.scoring.targets import Tags

FRAMES = str(PLUGINS / "frames" / "toy_frames.py")
# "Required" in the specification (docs/croissant-spec-1.1.md of mlcommons/croissant), and of a corpus with a citation
REQUIRED = {"@context", "@type", "conformsTo", "description", "license", "name", "url", "creator", "datePublished"}


def _ids(part):
    """Every `@id` that is defined, and every one that is referred to."""
    if isinstance(part, list):
        found = [_ids(each) for each in part]
    elif isinstance(part, dict):
        found = [_ids(value) for key, value in part.items() if key not in ("@context", "data")]
        if "@id" in part:
            found.append(([part["@id"]], []) if len(part) > 1 else ([], [part["@id"]]))
    else:
        return [], []
    return [each for defined, _ in found for each in defined], [each for _, used in found for each in used]


def _rows(path):
    return pd.read_parquet(path.with_name("clips.parquet"))


def _with_labels():
    """The registered tasks whose labels the suite ships."""
    for name in plugins.list_task_names():
        try:
            next(iter(plugins.find_registered_task(name).task.clips(None)))
        except DataError:
            continue
        long = name.startswith("mtg-") and name != "mtg-moodtheme"
        yield pytest.param(name, marks=pytest.mark.slow) if long else name


@pytest.mark.parametrize("name", [*_with_labels(), FRAMES, TOY_TASK], ids=lambda name: name.rpartition("/")[2])
def test_what_the_specification_asks_for_is_there(tmp_path, name):
    named = plugins.find_task(name)
    path = write_croissant(named, tmp_path / "out")
    found = json.loads(path.read_text())
    own = {"url", "datePublished"} if name in (FRAMES, TOY_TASK) else set()  # made here, by nobody's paper
    assert REQUIRED - own <= found.keys()
    assert found["@type"] == "sc:Dataset"
    assert found["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    defined, used = _ids({key: found[key] for key in ("distribution", "recordSet")})
    assert len(set(defined)) == len(defined)
    assert set(used) <= set(defined)
    (table,) = found["distribution"]
    content = (path.parent / table["contentUrl"]).read_bytes()
    assert table["sha256"] == hashlib.sha256(content).hexdigest()
    assert table["contentSize"] == f"{len(content)} B"
    sets = {each["@id"]: each for each in found["recordSet"]}
    schema = pq.read_schema(path.parent / table["contentUrl"])
    fields = sets["clips"]["field"]
    assert [field["source"]["extract"]["column"] for field in fields] == schema.names
    for field in fields:
        kind = str(schema.field(field["name"]).type)
        assert kind.startswith("list<") == ("repeated" in field)
        assert ("double" in kind) == ("sc:Float" in str(field["dataType"]))
    assert {tuple(row.values()) for row in sets["splits"]["data"]} == {
        ("train", "cr:TrainingSplit"),
        ("validation", "cr:ValidationSplit"),
        ("test", "cr:TestSplit"),
    }


def test_the_table_has_the_clips_of_the_task(tmp_path):
    for name in ("gtzan", "mtg-moodtheme", "emo", "vocalset-singer", FRAMES):
        named = plugins.find_task(name)
        clips = list(named.task.clips(None))
        rows = _rows(write_croissant(named, tmp_path / named.name))
        assert list(rows["id"]) == [clip.id for clip in clips]
        assert list(rows["split"]) == [HUB_SPLITS[clip.split] for clip in clips]
        assert list(rows["file"]) == [clip.audio for clip in clips]
        assert [None if math.isnan(each) else each for each in rows["duration_s"]] == [c.duration_s for c in clips]
        if name == "emo":
            told = list(zip(rows["target_arousal"], rows["target_valence"], strict=True))
        elif name == FRAMES:
            told = [tuple(None if part is None else tuple(part) for part in each) for each in _frames(rows)]
        else:
            told = [each if isinstance(each, str) else tuple(each) for each in rows["target"]]
        assert told == [clip.target for clip in clips]


def _frames(rows):
    """Root and loudness of every frame, as the task gives them."""
    for root, loudness in zip(rows["target_root"], rows["target_loudness"], strict=True):
        yield root, None if loudness is None else [None if math.isnan(each) else each for each in loudness]


def test_tags_of_frames_are_json_and_moments_are_seconds():
    target = Frames(
        (TagPart("sounds", ("piano", "voice")), MomentPart("beat"), ClassPart("root", ("C", "E"))), rate_hz=4
    )
    clip = next(iter(plugins.find_task(TOY_TASK).task.clips(None)))
    clip = type(clip)("a", "train", "a.wav", ((("voice",), None, ()), (0.5, 1), None))
    values = {column.name: column.value(clip) for column in list_columns(target)}
    assert values["target_sounds"] == ['["voice"]', None, "[]"]
    assert values["target_beat"] == [0.5, 1.0]
    assert values["target_root"] is None
    given = _convert_value(target, clip.target)  # the same labels as `datasets` has them
    assert [None if each is None else tuple(json.loads(each)) for each in values["target_sounds"]] == [*given["sounds"]]
    assert values["target_beat"] == [*given["beat"]]
    assert [column.labels for column in list_columns(target)][-3:] == ["", "", "labels_root"]
    assert list_columns(Tags(("a", "b")))[-1].repeated


def test_a_miniature_is_called_one_and_missing_files_are_an_error(tmp_path, bench):
    named = plugins.find_task(TOY_TASK)
    corpus.write_mini(named.task.corpus, tmp_path / "toy")
    asked = ("data", "croissant", TOY_TASK, tmp_path / "out", "--data-dir", tmp_path / "toy")
    ended = bench(*asked)
    assert (ended.code, ended.out.strip()) == (0, str(tmp_path / "out" / "croissant.json")), ended.err
    found = json.loads((tmp_path / "out" / "croissant.json").read_text())
    assert found["name"] == "toy-task-miniature"
    assert "synthesised music" in found["description"]
    (tmp_path / "toy" / corpus.MARKER).unlink()  # as a corpus of one's own
    (tmp_path / "toy" / "hums" / "test03.wav").unlink()
    refused = bench(*asked)
    assert refused.code == 3
    assert "hums/test03.wav" in refused.err
    assert bench(*asked, "--allow-missing").code == 0
    rows = _rows(tmp_path / "out" / "croissant.json")
    assert len(rows) == 50
    assert "test03" not in set(rows["id"])
    assert bench("data", "croissant", "gtzna", tmp_path / "out").code == 2
    assert "of --data-dir" in bench("data", "croissant", "gtzan", tmp_path / "out", "--allow-missing").err


def test_labels_that_are_in_the_corpus_alone_ask_for_its_folder(tmp_path, bench):
    ended = bench("data", "croissant", "nsynth-pitch", tmp_path / "out")
    assert ended.code == 3
    assert "--data-dir" in ended.err
    assert not (tmp_path / "out").exists()


OF_THE_READER = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # it calls rdflib's and pandas' old names


@pytest.mark.slow
@OF_THE_READER
@pytest.mark.parametrize("name", ["gtzan", "emo", FRAMES], ids=["classes", "numbers", "frames"])
def test_mlcommons_reader_finds_no_fault_and_gives_the_clips(tmp_path, name):
    croissant = pytest.importorskip("mlcroissant", exc_type=ImportError)
    named = plugins.find_task(name)
    fields = list_columns(named.task.target)
    clips = {clip.id: clip for clip in named.task.clips(None)}
    described = croissant.Dataset(jsonld=write_croissant(named, tmp_path / "out"))
    assert not described.metadata.issues.errors
    unknown = {"datePublished"} if name == FRAMES else set()  # it is of no paper
    assert {
        each.partition("schema.org/")[2].partition('"')[0] for each in described.metadata.issues.warnings
    } == unknown
    assert set(SPLIT_CLASSES) == set(HUB_SPLITS)
    records = {_text(record["clips/id"]): record for record in described.records("clips")}
    assert records.keys() == clips.keys()
    for name, record in records.items():
        for field in fields:
            told, expected = record[f"clips/{field.name}"], field.value(clips[name])
            assert _plain(told) == (expected if field.repeated else _plain(expected)), (name, field.name)


@pytest.mark.slow
@OF_THE_READER
def test_mlcommons_reader_gives_the_tags(tmp_path):
    croissant = pytest.importorskip("mlcroissant", exc_type=ImportError)
    of = plugins.find_task("mtg-moodtheme")
    every = list(of.task.clips(None))[::500]
    task = type(of.task)(**{**vars(of.task), "clips": lambda root: every})
    described = croissant.Dataset(jsonld=write_croissant(Named(of.name, task, of.path), tmp_path / "out"))
    told = {_text(record["clips/id"]): _plain(record["clips/target"]) for record in described.records("clips")}
    assert told == {clip.id: list(clip.target) for clip in every}


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


def _plain(value):
    """A value as it was written: the reader gives text as bytes, and what is not known as NaN or None."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else _text(value)
