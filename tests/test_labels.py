"""Label files: what is odd in one is refused by file and line, in every command that reads labels."""

import importlib.util
import json
import os
import threading
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import TOY_MODEL, TOY_TASK
from marble_bench.tasks.corpora import (
    emomusic,
    giantsteps,
    gtzan,
    gtzan_rhythm,
    magnatagatune,
    mtg_jamendo,
    nsynth,
    vocalset,
)

from marble_bench import audio
from marble_bench.audio import files
from marble_bench.core import plugins
from marble_bench.core.task import Clip
from marble_bench.data import corpus, inspection
from marble_bench.data.examples import Examples
from marble_bench.errors import DataError
from marble_bench.files.atomic import walk
from marble_bench.files.tables import brief, read_json, read_lines, read_table, read_text
from marble_bench.records import corpus_facts

TASK_OF = {
    "emomusic": "emo",
    "giantsteps": "gs",
    "gtzan-rhythm": "gtzan-rhythm",
    "magnatagatune": "mtt",
    "mtg-jamendo": "mtg-genre",
    "nsynth": "nsynth-pitch",
}


def _fuzz():
    path = Path(__file__).parent.parent / "benchmarks" / "fuzz_labels.py"
    spec = importlib.util.spec_from_file_location("fuzz_labels", path)
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["fuzz_labels"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


FUZZ = _fuzz()


# ---- the reader


def _table(tmp_path, content, **options):
    path = tmp_path / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [row.cells for row in read_table(path, columns=("id", "label"), **options)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("last", ["", "\n", "\n\n  \n"])
def test_a_table_is_read_whatever_its_line_ends_and_mark(tmp_path, end, mark, last):
    text = ("id,label\n1,rock\n2,caf\u00e9\u2028x" + last).replace("\n", end)
    assert _table(tmp_path, mark + text.encode()) == [
        {"id": "1", "label": "rock"},
        {"id": "2", "label": "caf\u00e9\u2028x"},
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("id,label\n1,rock\n2,caf\u00e9\n".encode("latin-1"), "line 3: byte 0xe9 is not UTF-8 (Latin-1"),
        ("id,label\r1,rock\r2,caf\u00e9\r".encode("latin-1"), "line 3: byte 0xe9 is not UTF-8 (Latin-1"),
        ("id,label\n".encode("utf-16"), "line 1: is UTF-16, not UTF-8"),
        ("id,label\n1,a\n".encode("utf-16-le"), "line 1: has a NUL character"),
        (b"id,label\n1,a\n2,\0\n", "line 3: has a NUL character"),
        ("", "is empty; it should have the columns id, label"),
        ("id,label\n1,a\n\n2,b\n", "line 3: is blank"),
        ("id,label\n1,a\n2\n", "line 3: has 1 fields, the header 2"),
        ("id,label\n1,a,\n", "line 2: has 3 fields, the header 2"),
        ('id,label\n1,"a\n2,b\n', "line 2: has a stray quotation mark"),
        ('id,label\n1,"a"b\n2,b\n', "line 2: has a stray quotation mark"),
        ("id,label,label\n1,a,b\n", "line 1: the header has the column 'label' more than once"),
        ("id,labels\n1,a\n", "line 1: has no column label; did you mean 'labels'? (its columns are 'id', 'labels')"),
        ("id,label\n1,a\n2,b\n1,c\n", "line 4: id '1' is already in line 2"),
        (f"id,label\n1,{'x' * 5000}\n", "line 2: has a field of 5,000 characters"),
        (f"id,label\n1,{'x' * 200_000}\n", "line 2: has a stray quotation mark, or a field that is too long"),
        (f"id,label,{'y' * 100_000}\n1,a\n", "line 1: has a field of 100,000 characters"),
    ],
)
def test_what_a_table_may_not_have_is_told_with_its_line(tmp_path, content, words):
    with pytest.raises(DataError) as caught:
        _table(tmp_path, content, unique=("id",))
    assert str(caught.value).startswith(f"{tmp_path / 'labels.csv'}")
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_quoted_fields_are_read_also_with_stray_tabs_around_them(tmp_path):
    assert _table(tmp_path, '"id",label\n1,"a, b"\n') == [{"id": "1", "label": "a, b"}]
    assert _table(tmp_path, 'id,label\n1,\t"a, b" \t\n', strip=True) == [{"id": "1", "label": "a, b"}]
    assert _table(tmp_path, 'id,label\n1,5" disc\n') == [{"id": "1", "label": '5" disc'}]


def test_numbers_of_a_row_are_told_with_their_line(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("id,label\n1,3.5\n2,nan\n3,x\n4,11\n")
    first, *others = read_table(path, columns=("id", "label"))
    assert first.number("label", 1, 9) == 3.5
    for row, words in zip(
        others, ("'nan'; it runs from 1 to 9", "'x', which is no number", "'11'; it runs"), strict=True
    ):
        with pytest.raises(DataError, match=f"labels.csv line {row.line}: label is {words}"):
            row.number("label", 1, 9)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "has brackets that go deeper"),
        ('{"a": 1,\n "a": 2}', "has 'a' twice"),
        ('{"a": NaN}', "has NaN, which is no number of JSON"),
        ('{"a": [-Infinity]}', "has -Infinity, which is no number"),
        ('{\n"a": 1', "line 2: is no whole JSON"),
        ("9" * 5000, "4300"),
        ("\ufeff{}", "line 1: begins with a byte order mark"),
        ("", "line 1: is no whole JSON"),
    ],
)
def test_what_json_may_not_have_is_told(tmp_path, content, words):
    path = tmp_path / "x.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path))
    assert words in str(caught.value)
    assert len(str(caught.value)) < 400


def test_what_cannot_be_read_as_a_file_is_told(tmp_path):
    for path in (tmp_path / "none", tmp_path / ("x" * 300)):
        with pytest.raises(DataError, match="cannot be read"):
            read_text(path)
    assert brief({"a": ["x" * 10_000] * 10_000}, most=40).count("x") < 60
    (tmp_path / "lines").write_text("a\nb\n\n")
    assert read_lines(tmp_path / "lines") == ["a", "b"]


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_a_label_file_that_is_no_file_is_neither_waited_for_nor_read_without_end(tmp_path, kind):
    path = tmp_path / "labels.csv"
    {"pipe": os.mkfifo, "device": lambda p: p.symlink_to("/dev/null"), "folder": os.mkdir}[kind](path)
    late = threading.Timer(5.0, lambda: os.close(os.open(path, os.O_RDWR)))  # else a reader waits for ever
    late.start()
    try:
        with pytest.raises(DataError, match="is a folder" if kind == "folder" else "a pipe, a socket or a device"):
            read_text(path)
    finally:
        late.cancel()


def test_a_label_file_of_gigabytes_is_refused_unread(tmp_path):
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 31)
    with pytest.raises(DataError, match="has 2,147,483,648 bytes, too many for a label file"):
        read_text(tmp_path / "large")


# ---- every corpus, by every command


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Small corpora of noise by name, each with the mark of a miniature: some clips of many."""
    place = tmp_path_factory.mktemp("corpora")
    found = {one.name: one for one in FUZZ.make_corpora(place, list(TASK_OF))}
    for one in found.values():
        (one.root / corpus.MARKER).write_text("Made for tests.\n")
    return found


@pytest.fixture
def changed(corpora):
    """Write a label file of a corpus, for as long as a test lasts."""
    before = {}

    def change(name, label, content):
        path = corpora[name].root / label
        before[path] = path.read_bytes() if path.is_file() else None
        content = content(before[path].decode()) if callable(content) else content
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return corpora[name].root

    yield change
    for path, content in before.items():
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_bytes(content)


def _line(number, old, new):
    """A change of one line, from 1 on."""

    def change(text):
        lines = text.splitlines(keepends=True)
        assert old in lines[number - 1]
        lines[number - 1] = lines[number - 1].replace(old, new, 1)
        return "".join(lines)

    return change


def _doubled(number):
    def change(text):
        lines = text.splitlines(keepends=True)
        return "".join([*lines, lines[number - 1]])

    return change


def _entry(change):
    """A change of NSynth's entries."""

    def changed(text):
        entries = json.loads(text)
        return json.dumps(change(entries, *list(entries)[:2]) or entries, indent=1)

    return changed


def _set(key, value):
    return _entry(lambda entries, first, second: entries[first].update({key: value}))


def _twice(text):
    first, second = list(json.loads(text))[:2]
    return text.replace(f'"{second}": {{', f'"{first}": {{', 1)


MTT, NSYNTH_VALID = magnatagatune.ANNOTATIONS, "nsynth-valid/examples.json"
GENRES = f"{mtg_jamendo.LISTS}/autotagging_genre-train.tsv"
RATINGS, SONGS = emomusic.RATINGS, emomusic.SONGS
KEY = "giantsteps-mtg-key-dataset/annotations/key/0005061.LOFI.key"
REFUSED = [
    ("emomusic", RATINGS, _doubled(2), "line 746: song_id '2' is already in line 2"),
    ("emomusic", RATINGS, lambda text: text.replace(".", ","), "line 2: has 8 fields, the header 5"),
    ("emomusic", RATINGS, lambda text: text.encode("utf-16"), "line 1: is UTF-16"),
    (
        "emomusic",
        RATINGS,
        _line(1, " mean_arousal, std_arousal, mean_valence", "mean_valence,b,mean_arousal"),
        "are exchanged",
    ),
    (
        "emomusic",
        RATINGS,
        _line(1, " std_arousal", "mean_arousal"),
        "line 1: the header has the column 'mean_arousal' more than",
    ),
    ("emomusic", RATINGS, _line(3, "3.5", "nan"), "line 3: mean_arousal is 'nan'"),
    ("emomusic", RATINGS, _line(3, ",0.5", ""), "line 3: has 4 fields, the header 5"),
    ("emomusic", SONGS, _line(2, "Artist", "Andr\u00e9"), None),
    (
        "emomusic",
        SONGS,
        lambda text: text.replace("Artist 2\t", "Andr\u00e9").encode("latin-1"),
        "line 2: byte 0xe9 is not UTF-8",
    ),
    ("emomusic", SONGS, _line(5, ",0.45", ""), "line 5: has 7 fields, the header 8"),
    ("emomusic", SONGS, _line(5, "development", ""), "line 5: song 5 is in the set ''"),
    ("giantsteps", KEY, lambda text: text.encode("utf-16"), "line 1: is UTF-16"),
    ("giantsteps", KEY, lambda text: "\ufeff" + text, None),
    ("giantsteps", KEY, b"C min\xe9r", "line 1: byte 0xe9 is not UTF-8"),
    ("giantsteps", KEY, "E major", "line 1: says 'E major'; the published split has Eb minor"),
    ("giantsteps", KEY, "nonsense " * 5000, "line 1: says 'nonsense nonsense"),
    ("magnatagatune", MTT, _line(2, "\t0\t", "\tNaN\t"), "line 2: clip 2 has 'NaN' for"),
    ("magnatagatune", MTT, _line(3, "\t0\t", "\t1.0\t"), "line 3: clip 9 has '1.0' for"),
    ("magnatagatune", MTT, _line(3, "\t0\t", "\t 1\t"), "line 3: clip 9 has ' 1' for"),
    ("magnatagatune", MTT, lambda text: "\ufeff" + text, None),
    ("magnatagatune", MTT, lambda text: text.encode("utf-16"), "line 1: is UTF-16"),
    ("magnatagatune", MTT, lambda text: text.replace("song_1-", "s\u00f6ng_1-").encode("latin-1"), "line 3: byte 0xf6"),
    ("magnatagatune", MTT, _line(2, "\t0\t", "\t"), "line 2: has 51 fields, the header 52"),
    ("magnatagatune", MTT, _line(2, "\t0\t", "\t0\t0\t"), "line 2: has 53 fields, the header 52"),
    ("magnatagatune", MTT, _line(2, "\t0/art", '\t"0/art'), "line 2: has a stray quotation mark"),
    ("magnatagatune", MTT, _line(3, "\t1/art", "\t1/" + "a" * 3000), "line 3: clip 9 has the path '1/aaa"),
    ("magnatagatune", MTT, _line(2, "\t0/art", "\t/etc/art"), "line 2: clip 2 has the path '/etc/artist"),
    ("magnatagatune", MTT, _doubled(2), "line 66: clip_id '2' is already in line 2"),
    (
        "magnatagatune",
        MTT,
        _line(1, "classical", "guitar"),
        "line 1: the header has the column 'guitar' more than once",
    ),
    ("mtg-jamendo", GENRES, _line(3, "\t30.4", ""), "line 3: "),
    ("mtg-jamendo", GENRES, lambda text: text.replace("\r\n", "\r\n\r\n", 2), "line 2: is blank"),
    ("mtg-jamendo", GENRES, lambda text: text.replace("30.4", "30.4\u00e9", 1).encode("latin-1"), "line 2: byte 0xe9"),
    ("mtg-jamendo", GENRES, lambda text: text.encode("utf-16"), "line 1: is UTF-16"),
    ("mtg-jamendo", GENRES, _line(2, "genre---", "mood/theme---"), "line 2: track_0001100 has the tag 'mood/theme---"),
    ("mtg-jamendo", GENRES, _line(2, "genre---", ""), "which is none of the genre list"),
    ("mtg-jamendo", GENRES, _doubled(2), "line 14: track_0001100 stands in autotagging_genre-train.tsv line 2 already"),
    ("mtg-jamendo", GENRES, _line(2, "\t00/1100", "\t00/1103"), "line 2: track_0001100 has the path '00/1103.mp3'"),
    ("mtg-jamendo", GENRES, lambda text: "\ufeff" + text, None),
    ("nsynth", NSYNTH_VALID, _twice, "_synthetic_100-030-100' twice"),
    ("nsynth", NSYNTH_VALID, _set("pitch", 99), "has the pitch 99; its name says 30"),
    ("nsynth", NSYNTH_VALID, _set("pitch", 30.0), "has the pitch 30.0; its name says 30"),
    ("nsynth", NSYNTH_VALID, _set("instrument_family_str", "tuba"), "has the instrument_family_str 'tuba'"),
    ("nsynth", NSYNTH_VALID, lambda text: "[" * 100_000, "brackets that go deeper"),
    (
        "nsynth",
        NSYNTH_VALID,
        lambda text: json.dumps(list(json.loads(text).values())),
        "should be an object with an entry",
    ),
    ("nsynth", NSYNTH_VALID, _entry(lambda entries, first, second: {**entries, first: None}), "has the entry None"),
    ("nsynth", NSYNTH_VALID, _entry(lambda entries, first, second: {**entries, first: []}), "has the entry []"),
    (
        "nsynth",
        NSYNTH_VALID,
        _entry(lambda entries, first, second: {**entries, "x": entries[first]}),
        "'x' is no name of a note",
    ),
    ("nsynth", NSYNTH_VALID, lambda text: "\ufeff" + text, "line 1: begins with a byte order mark"),
    ("nsynth", NSYNTH_VALID, lambda text: text.encode("utf-16"), "line 1: is UTF-16"),
    (
        "nsynth",
        NSYNTH_VALID,
        lambda text: text.replace('"note_str"', '"n\u00f6te_str"', 1).encode("latin-1"),
        "line 3: byte 0xf6",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "label", "change", "words"), REFUSED, ids=[f"{r[0]}-{n}" for n, r in enumerate(REFUSED)]
)
def test_a_faulty_label_file_is_refused_by_every_command_and_named(bench, corpora, changed, name, label, change, words):
    """words: of the error; None where the file is to be read as if nothing was."""
    named = plugins.find_task(TASK_OF[name])
    sound = [(clip.id, clip.target) for clip in corpus.list_clips(named, corpora[name].root)]
    root = changed(name, label, change)
    if words is None:
        assert [(clip.id, clip.target) for clip in corpus.list_clips(named, root)] == sound
        assert inspection.inspect(named.task.corpus, [named], root, deep=False).annotations == []
        return
    checked = bench("check", named.name, "--data-dir", root)
    ran = bench("run", "--model", "mfcc", "--task", named.name, "--data-dir", root, "--limit", 2)
    looked = bench("data", "check", name, "--data-dir", root)
    for ended in (checked, ran, looked):
        assert ended.code == 3, ended.err
        assert label in ended.err
        assert words in ended.err
        assert "internal error" not in ended.err
        assert len(ended.err) < 1000


def test_a_note_in_two_splits_is_told_with_both_files(bench, corpora, changed):
    note, entry = next(iter(json.loads((corpora["nsynth"].root / "nsynth-train/examples.json").read_text()).items()))
    root = changed("nsynth", NSYNTH_VALID, _entry(lambda entries, *_: {**entries, note: entry}))
    ended = bench("data", "check", "nsynth", "--data-dir", root)
    assert ended.code == 3
    assert f"note '{note}' is in two splits, nsynth-train/examples.json and nsynth-valid/examples.json" in ended.err


def test_ratings_are_compared_with_the_shipped_list_outside_a_miniature(corpora, changed):
    root = changed("emomusic", RATINGS, _line(2, "3.1", "3.2"))
    assert emomusic.ratings(root)["2"] == (3.2, 3.0)
    marker = changed("emomusic", corpus.MARKER, "") / corpus.MARKER
    marker.unlink()
    with pytest.raises(DataError, match=r"line 2: mean_arousal of song 2 is 3\.2; the published split has 3.1"):
        emomusic.ratings(root)
    changed("emomusic", RATINGS, lambda text: text.replace("3.2", "3.1", 1))
    assert len(emomusic.ratings(root)) == 744


def test_a_clip_id_given_twice_by_a_task_of_ones_own_is_a_fault_of_data(toy, tmp_path, bench):
    text = Path(TOY_TASK).read_text()
    (tmp_path / "toy_task.py").write_text(
        text.replace(
            "def clips(",
            "def clips(root):\n    for each in once(root):\n        yield each\n        yield each\n\n\ndef once(",
            1,
        )
    )
    ended = bench("check", tmp_path / "toy_task.py")
    assert ended.code == 3
    assert "clip ids more than once: '" in ended.err


# ---- beats


BEATS = (0.33, 1.048, 1.766, 2.484, 3.203, 3.921, 4.639, 5.357, 6.075, 6.794)
PLACES = (1, 2, 3, 1, 2, 3, 1, 2, 3, 1)
BARS = (1, 1, 1, 2, 2, 2, 3, 3, 3, 4)
DOWNBEATS = (0.33, 2.484, 4.639, 6.794)


def _lines(*columns, between="\t"):
    return "".join(between.join(map(str, row)) + "\n" for row in zip(*columns, strict=True))


BAR_BEAT = [f"{bar}.{place}" for bar, place in zip(BARS, PLACES, strict=True)]


@pytest.mark.parametrize(
    "text",
    [
        _lines(BEATS, PLACES),
        _lines(BEATS, PLACES, between=" "),
        _lines(BEATS, PLACES, between=", "),
        _lines(BEATS, [f"{place}.0" for place in PLACES]),
        _lines(BEATS, BAR_BEAT),
        _lines(BEATS, PLACES, BARS),
        _lines(BEATS, BARS, PLACES),
        _lines(BEATS, [1 if place == 1 else 2 for place in PLACES]),
        _lines(BEATS, PLACES).replace("\n", "\r\n") + "\r\n",
    ],
)
def test_the_forms_of_beats_in_use_say_the_same(tmp_path, text):
    (tmp_path / "gtzan_blues_00000.beats").write_text(text)
    assert gtzan_rhythm.read(tmp_path / "gtzan_blues_00000.beats") == (BEATS, DOWNBEATS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            _lines([round(1000 * beat) for beat in BEATS], PLACES),
            "330 to 6794 s, mostly 718 s apart, .*; they may be milliseconds",
        ),
        (_lines(BAR_BEAT, BEATS), "the columns are exchanged, the time comes first"),
        (_lines(PLACES, BEATS), "the columns are exchanged, the time comes first"),
        (_lines(BEATS, [place + 1 for place in PLACES]), "no beat is at place 1 of a bar"),
        (_lines(BEATS, [place - 1 for place in PLACES]), "the places in the bar begin with 0; the downbeat is 1"),
        (_lines(BEATS, BARS), "neither places in the bar"),
        (_lines(BEATS, [1] * 10), "neither places in the bar"),
        (_lines(BEATS, [0.5 * place for place in PLACES]), "neither places in the bar"),
        (_lines(BEATS, PLACES, [7] * 10), "are not a place in the bar and a bar"),
        (_lines(BEATS, PLACES, BARS, BARS), "line 1: has 4 columns"),
        (_lines(BEATS, PLACES).replace("\t2\n", "\n", 1), "line 2: has 1 fields, line 1 has 2"),
        (_lines(BEATS, PLACES).replace("1.048\t2\n", ""), "neither places in the bar"),
        (_lines([str(beat).replace(".", ",") for beat in BEATS], PLACES), "line 1: has '33\\\\t1', which is no number"),
        (_lines(BEATS, PLACES).encode("utf-16"), "line 1: is UTF-16"),
        (b"\xef\xbb\xbf" + _lines(BEATS, PLACES).encode(), "line 1: begins with a byte order mark"),
        (_lines([0.05 * beat for beat in BEATS], PLACES), "which is no beat period"),
    ],
)
def test_beats_in_no_known_form_are_refused(bench, corpora, changed, text, words):
    label = next(name for name in corpora["gtzan-rhythm"].labels if name.endswith(".beats"))
    root = changed("gtzan-rhythm", label, text)
    with pytest.raises(DataError, match=words) as caught:
        gtzan_rhythm.read(root / label)
    assert str(root / label) in str(caught.value)
    report = inspection.inspect(gtzan_rhythm.GTZAN_RHYTHM, [plugins.find_task("gtzan-rhythm")], root, deep=False)
    assert [label in why for why in report.annotations] == [True]


def _jams(beats=BEATS, downbeats=DOWNBEATS, kind="downbeat"):
    return gtzan_rhythm.jams(beats, downbeats).replace('"downbeat"', json.dumps(kind))


@pytest.mark.parametrize("kind", ["downbeat", "Downbeat", "down-beat", "DOWN BEAT"])
def test_downbeats_of_jams_are_known_however_their_type_is_written(tmp_path, kind):
    (tmp_path / "blues.00000.wav.jams").write_text(_jams(kind=kind))
    assert gtzan_rhythm.read(tmp_path / "blues.00000.wav.jams") == (BEATS, DOWNBEATS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            _jams(downbeats=[beat + 0.359 for beat in DOWNBEATS]),
            r"4 of 4 downbeats are no beats, such as that at 0\.689 s: no beat is within 0\.07 s",
        ),
        (_jams(kind="dwnbeat"), "has no annotation of the type 'downbeat', and one of the type 'dwnbeat'"),
        ("[" * 100_000, "brackets that go deeper"),
        (_jams().replace("0.33,", "true,", 1), r"annotations\[0\].data\[0\] has the time True, which is no number"),
        (_jams().replace("0.33,", "NaN,", 1), "has NaN, which is no number of JSON"),
        (_jams().replace("0.33,", '"0.33",', 1), r"annotations\[0\].data\[0\] has no time as JAMS writes it"),
        (_jams().replace('"annotations"', '"annotation"'), "the file has no annotations as JAMS writes it"),
        (_jams().encode("utf-16"), "line 1: is UTF-16"),
        (_jams().replace('"sandbox": {}', '"sandbox": "\u00e9"').encode("latin-1"), "byte 0xe9 is not UTF-8"),
    ],
)
def test_jams_that_say_something_else_are_refused(tmp_path, text, words):
    path = tmp_path / "blues.00000.wav.jams"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=words) as caught:
        gtzan_rhythm.read(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 400


def test_two_different_annotations_of_a_track_are_refused(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "blues.00000.wav.jams").write_text(_jams())
    assert len(gtzan_rhythm.annotation_files(tmp_path)) == 1
    (tmp_path / "b" / "blues.00000.wav.jams").write_text(_jams(downbeats=DOWNBEATS[1:]))
    with pytest.raises(DataError, match="annotate one track and differ"):
        gtzan_rhythm.annotation_files(tmp_path)


def test_beats_behind_the_end_of_the_audio_are_told_before_anything_is_encoded(bench, corpora, changed, monkeypatch):
    from marble_bench.features import frames

    def encode(*_, **__):
        raise AssertionError("something was encoded")

    monkeypatch.setattr(frames, "extract", encode)
    label = next(name for name in corpora["gtzan-rhythm"].labels if name.endswith(".jams"))
    root = changed("gtzan-rhythm", label, _jams([3 * beat for beat in BEATS], [3 * beat for beat in DOWNBEATS]))
    track = Path(label).name.removesuffix(".wav.jams")
    for arguments in (
        ("check", "gtzan-rhythm", "--data-dir", root),
        ("data", "check", "gtzan-rhythm", "--data-dir", root),
        ("run", "--model", "mfcc", "--task", "gtzan-rhythm", "--data-dir", root),
    ):
        ended = bench(*arguments)
        assert ended.code == 3, ended.err
        assert f"clip '{track}' lasts 13.00 s and is annotated up to 20.38 s" in ended.err


def test_check_measures_each_file_once(bench, corpora, monkeypatch):
    measured, measure = Counter(), files.measure

    def counted(path):
        measured[path] += 1
        return measure(path)

    monkeypatch.setattr(files, "measure", counted)
    monkeypatch.setattr(audio, "read", lambda *_, **__: np.zeros(22050, np.float32))  # which opens its file anew
    assert bench("check", "gtzan-rhythm", "--data-dir", corpora["gtzan-rhythm"].root).code == 0
    assert len(measured) > 20
    assert set(measured.values()) == {1}


def test_the_record_checker_measures_each_clip_once(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(audio, "read_duration_s", lambda path: measured.append(path) or 10.0)
    clip = Clip("a", "test", "a.wav", ((0.5, 1.0), None), start_s=1.0)
    here = corpus_facts.AtHand(plugins.find_task("gtzan-rhythm"), tmp_path, [clip], {"a": tmp_path / "a.wav"})
    assert [here.length_s(clip), here.length_s(clip)] == [9.0, 9.0]
    assert list(corpus_facts._label(clip, here)) == [0.5, 1.0]
    assert measured == [tmp_path / "a.wav"]


def test_a_gap_in_beats_and_a_number_out_of_order_are_marked(corpora, changed):
    label = next(name for name in corpora["gtzan-rhythm"].labels if name.endswith(".jams"))
    root = changed("gtzan-rhythm", label, _jams([beat for beat in BEATS if beat != 3.203]))
    report = inspection.inspect(gtzan_rhythm.GTZAN_RHYTHM, [plugins.find_task("gtzan-rhythm")], root, deep=False)
    (warning,) = report.warnings
    assert "gaps of 1.7 periods and more lie between beats of 1 clips: " in warning
    root = changed("magnatagatune", MTT, _line(4, "16\t", "160\t"))
    report = inspection.inspect(magnatagatune.MAGNATAGATUNE, [plugins.find_task("mtt")], root, deep=False)
    assert report.warnings == ["mtt: clip ids ascend, but not at 160: was a number changed?"]


# ---- files and names


def test_folders_that_links_lead_to_are_looked_into_once_and_not_in_circles(tmp_path):
    (tmp_path / "real/a").mkdir(parents=True)
    (tmp_path / "real/a/x.wav").touch()
    (tmp_path / "real/a/up").symlink_to("..")
    (tmp_path / "real/a/self").symlink_to("self")
    (tmp_path / "real/a/gone.wav").symlink_to("nowhere")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/link").symlink_to("../real")
    (tmp_path / "corpus/y.txt").touch()
    assert [path.relative_to(tmp_path).as_posix() for path in walk(tmp_path / "corpus")] == [
        "corpus/link/a/x.wav",
        "corpus/y.txt",
    ]
    assert walk(tmp_path / "corpus", ".txt") == [tmp_path / "corpus/y.txt"]
    for number in range(12):
        (tmp_path / f"web/{number}").mkdir(parents=True)
        for other in range(12):
            (tmp_path / f"web/{number}/to{other}").symlink_to(f"../{other}")
    (tmp_path / "web/0/z").touch()
    assert 1 <= len(walk(tmp_path / "web")) <= 8
    with pytest.raises(DataError, match="nowhere cannot be read"):
        walk(tmp_path / "nowhere")


def test_vocalset_behind_a_link_is_found(tmp_path):
    recording = next(row[0] for row in vocalset.chunks("technique"))
    technique, _, name = recording.partition("/")
    person = ("female" if name[0] == "f" else "male") + name.partition("_")[0][1:]
    file = tmp_path / "disk" / person / "long_tones" / technique / f"{name}.wav"
    file.parent.mkdir(parents=True)
    file.touch()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/FULL").symlink_to(tmp_path / "disk")
    assert vocalset.locate(tmp_path / "corpus", f"{recording}.wav") == tmp_path / "corpus/FULL" / file.relative_to(
        tmp_path / "disk"
    )


def test_a_name_in_another_form_of_unicode_is_found_and_another_case_is_hinted(bench, corpora, changed):
    root = corpora["magnatagatune"].root
    before, composed = root / "mp3/1/artist-album-01-song_1-0-29.mp3", "\u00e9t\u00e9-album-01-song_1-0-29.mp3"
    after = before.with_name(composed)
    decomposed = unicodedata.normalize("NFD", composed)
    assert decomposed != composed
    changed("magnatagatune", MTT, _line(3, "artist-album-01-song_1-0-29.mp3", decomposed))
    before.rename(after)
    try:
        there = corpus.find_on_disk(plugins.find_task("mtt"), root)
        assert len(there.clips) == 64
        assert after in there.paths
        after.rename(after.with_name(composed.upper()))
        ended = bench("check", "mtt", "--data-dir", root)
        assert ended.code == 3
        assert f"(there is mp3/1/{composed.upper()}: only upper and lower case differs)" in ended.err
        (root / corpus.MARKER).rename(root / "marker")
        report = inspection.inspect(magnatagatune.MAGNATAGATUNE, [plugins.find_task("mtt")], root, deep=False)
        assert report.missing == [f"mp3/1/{decomposed}"]
        assert report.unexpected == []
        shown = bench("run", "--model", "mfcc", "--task", "mtt", "--data-dir", root, "--allow-missing", "--dry-run")
        assert shown.code == 0, shown.err
    finally:
        (root / "marker").rename(root / corpus.MARKER)
        after.with_name(composed.upper()).rename(before)


def test_official_files_in_capitals_are_found_and_filtered_tracks_are_known(tmp_path):
    for name in ("genres/blues/blues.00000.AU", "genres/jazz/jazz.00033.au", "genres/jazz/jazz.mystery.au"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert gtzan.locate(tmp_path, "genres/blues/blues.00000.au") == tmp_path / "genres/blues/blues.00000.AU"
    report = inspection.inspect(gtzan.GTZAN, [plugins.find_task("gtzan")], tmp_path, deep=False)
    assert report.filtered == {"genres/jazz/jazz.00033.au": "a track that the fault-filtered split leaves out"}
    assert report.unexpected == ["genres/jazz/jazz.mystery.au"]
    listed = {row["track"] for row in gtzan.tracks()}
    every = [f"genres/{genre}/{genre}.{number:05}.au" for genre in gtzan.GENRES for number in range(100)]
    assert sum(bool(gtzan.filtered(name)) and Path(name).stem not in listed for name in every) == 70


def test_a_path_that_no_file_can_have_is_a_fault_of_data(corpora):
    named = plugins.find_task("mtt")
    with pytest.raises(DataError, match=r"lists the file 'x+\.\.\.', which cannot be looked for"):
        corpus.find(named.task.corpus, corpora["magnatagatune"].root, "x" * 5000)


def test_mirrors_are_read_as_they_lie_or_are_not_offered(bench, tmp_path):
    wav = tmp_path / "emomusic/wav/0005.wav"
    wav.parent.mkdir(parents=True)
    wav.touch()
    assert emomusic.locate(tmp_path, "clips_45seconds/5.mp3") == wav
    assert emomusic.locate(tmp_path / "emomusic", "clips_45seconds/5.mp3") == wav
    assert emomusic.ratings(tmp_path) == emomusic.ratings(None)
    for name in ("giantsteps", "nsynth"):
        ended = bench("data", "get", name, "--from", "hub", "--data-dir", tmp_path / name)
        assert ended.code == 2
        assert "has no mirror 'hub'" in ended.err
    statuses = {source.status for source in giantsteps.GIANTSTEPS.sources + nsynth.NSYNTH.sources}
    assert "unread" in statuses


# ---- incomplete corpora


@pytest.mark.slow
def test_clips_that_nothing_names_are_counted_and_not_listed(bench, tmp_path):
    named = plugins.find_task(TOY_TASK)
    text = Path(TOY_TASK).read_text().replace("counts=PER_SPLIT", 'counts={**PER_SPLIT, "train": 30}')
    (tmp_path / "short.py").write_text(text)
    folder = tmp_path / "hums"
    corpus.write_mini(named.task.corpus, folder)
    (folder / corpus.MARKER).unlink()
    victim = next(path for path in walk(folder) if path.suffix == ".wav")
    victim.unlink()
    run = ("run", "--model", TOY_MODEL, "--task", tmp_path / "short.py", "--data-dir", folder, "--seeds", 1, "--json")
    ended = bench(*run, "--allow-missing", "--layers", "0", "--device", "cpu")
    assert ended.record["data"]["missing"] == [victim.relative_to(folder).as_posix()]
    assert ended.record["data"]["absent"] == 7
    assert "incomplete corpus (7 clips absent)" in ended.record["why_not"]
    assert not ended.record["comparable"]


@pytest.mark.slow
def test_beats_are_scored_where_no_clip_has_downbeats(bench, tmp_path):
    """With times alone, as the loader allows: a record with beats, and no value for downbeats, which is said beforehand."""
    cache = tmp_path / "own-cache"
    root = corpus.ensure_mini(gtzan_rhythm.GTZAN_RHYTHM, cache)
    own = tmp_path / "rhythm"
    (own / "beats").mkdir(parents=True)
    os.symlink(root / "genres", own / "genres")
    (own / corpus.MARKER).write_text("Made for a test.\n")
    for path in sorted((root / "jams").iterdir()):
        track = path.name.removesuffix(".wav.jams")
        beats, _ = gtzan_rhythm.read(path)
        (own / "beats" / f"gtzan_{track.replace('.', '_')}.beats").write_text("".join(f"{beat}\n" for beat in beats))
    checked = bench("check", "gtzan-rhythm", "--data-dir", own)
    assert checked.code == 0, checked.err
    assert "warning: no test clip has downbeats annotated: scores of downbeats have no value" in checked.out
    arguments = ("--model", "logmel", "--task", "gtzan-rhythm", "--data-dir", own, "--limit", 2, "--seeds", 2)
    ended = bench("run", *arguments, "--cache-dir", cache)
    assert ended.code == 0, ended.err
    assert ended.err.index("no test clip has downbeats") < ended.err.index("decoding the validation split")
    (path,) = (path for path in walk(tmp_path / "results", ".json"))
    record = json.loads(path.read_text())
    downbeats, beats = record["scores"]["downbeat_f1"], record["scores"]["f1"]
    assert [downbeats[name] for name in ("test", "valid", "std", "trivial")] == [None] * 4
    assert (downbeats["per_seed"], downbeats["ci95"]) == ([None, None], [None, None])
    assert 0 < beats["test"] <= 1
    assert beats["std"] is not None
    assert any("no test clip has downbeats" in mark for mark in record["data"]["marks"])
    assert bench("results", "check", tmp_path / "results").code == 0
    for arguments in (("leaderboard",), ("list", "results")):
        shown = bench(*arguments, "--results-dir", tmp_path / "results")
        assert shown.code == 0, shown.err


def test_numbers_that_are_all_the_same_have_no_r2_and_are_marked():
    import torch

    from marble_bench.core.task import Clip
    from marble_bench.data import checks
    from marble_bench.metrics import r2
    from marble_bench.scoring import scores
    from marble_bench.scoring.targets import Scalars

    outputs = torch.linspace(0, 1, 8).reshape(2, 4, 1)
    truth = {"valid": torch.tensor([[0.0], [1.0], [2.0], [3.0]]), "test": torch.ones(4, 1)}
    answers = scores.Answers({"valid": outputs, "test": outputs}, truth, list("abcd"))
    score = scores.compute_scores([r2], answers, torch.zeros(1))["r2"]
    assert [score[name] for name in ("test", "std", "trivial")] == [None] * 3
    assert score["ci95"] == [None, None]
    assert score["valid"] is not None
    clips = [
        Clip(f"{split}{n}", split, "x.wav", (float(n), 1.0)) for split in ("train", "valid", "test") for n in (0, 1)
    ]
    assert checks.check_labels(Scalars(("pace", "mood")), Examples.of_clips(clips)) == [
        "every valid clip has the same mood, 1: what compares clips by it has no value",
        "every test clip has the same mood, 1: what compares clips by it has no value",
    ]
