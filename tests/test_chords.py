"""Chords: labels and scores against mir_eval, the two corpora's files, and miniatures that a chroma template solves."""

import importlib
import json
from collections import Counter
from itertools import pairwise

import mir_eval
import numpy as np
import pytest
import soundfile
import torch

from marble_bench.core import plugins
from marble_bench.core.task import SPLITS
from marble_bench.data import corpus
from marble_bench.errors import DataError
from marble_bench.metrics import _chord_labels as chords
from marble_bench.metrics import chord_metrics
from marble_bench.metrics._chord_labels import CHORD, LABELS_HZ, SEVENTH, TARGET, find_chord, find_seventh, make_target
from marble_bench.metrics.chords import MEASURE, QUICK, measure_rules

BY_NAME = {metric.name: metric for metric in chord_metrics}
RULES = ("majmin", "root", "mirex", "sevenths")
ROOTS = ("C", "Db", "D#", "E", "Fb", "F#", "G", "Ab", "A", "B#")
QUALITIES = tuple(quality for quality in mir_eval.chord.QUALITIES if quality)
SONG = ((0.04, 2.0, "C:maj"), (2.0, 3.52, "A:min7"), (3.52, 5.08, "G:7/3"), (5.08, 6.0, "N"))


@pytest.fixture(scope="module")
def guitarset():
    return importlib.import_module("marble_bench.tasks.corpora.guitarset")


@pytest.fixture(scope="module")
def chords1217():
    return importlib.import_module("marble_bench.tasks.corpora.chords1217")


def _draw_segments(random, labels, length_s=20.0):
    edges = np.unique(np.round(random.uniform(0, length_s, int(random.integers(2, 12))), 3))
    return tuple((a, b, str(random.choice(labels))) for a, b in pairwise(edges))


def _draw_labels(random):
    of_quality = [f"{random.choice(ROOTS)}:{quality}" for quality in (*QUALITIES, "maj/3", "min/b7", "maj/2", "7(#9)")]
    return [*of_quality, *CHORD.labels, "N", "X", "D"]


def _by_mir_eval(annotated, found):
    both = [part for each in (annotated, found) for part in (np.array([s[:2] for s in each]), [s[2] for s in each])]
    return mir_eval.chord.evaluate(*both)


def _answer(segments, end_s):
    """What finds these segments: one-hot activations of both parts."""
    frames = chords.take_labels(segments)
    frames += [None] * (TARGET.count_labels(end_s) - len(frames))
    found = {}
    for part, find in ((CHORD, find_chord), (SEVENTH, find_seventh)):
        names = [find(label or "N") or "N" for label in frames]
        found[part.name] = np.eye(part.width)[[part.labels.index(name) for name in names]]
    return found


def _score(found, targets):
    rows = MEASURE.rows(found, targets)[None]
    return {name: float(metric.score(rows, torch.zeros(len(targets)))[0]) for name, metric in BY_NAME.items()}


@pytest.mark.filterwarnings("ignore:No reference chords were comparable")
def test_scores_of_200_random_songs_are_mir_evals():
    random = np.random.default_rng(0)
    pairs = 0
    while pairs < 200:
        annotated = _draw_segments(random, _draw_labels(random))
        found = _draw_segments(random, [*_draw_labels(random), *(label for _, _, label in annotated)], 25.0)
        if not annotated or not found or found[-1][1] <= annotated[0][0] or found[0][0] >= annotated[-1][1]:
            continue  # where nothing overlaps, mir_eval's segmentation scores end in an error
        pairs += 1
        expected, sums = _by_mir_eval(annotated, found), measure_rules(RULES, annotated, found)
        for rule, right_s, counted_s in zip(RULES, sums[::2], sums[1::2], strict=True):
            share = right_s / counted_s if counted_s else 0.0  # mir_eval has 0 where nothing is counted
            assert share == pytest.approx(expected[rule], abs=1e-9), (rule, annotated, found)


def test_weights_are_the_seconds_that_mir_eval_compares():
    random = np.random.default_rng(1)
    songs = [(_draw_segments(random, _draw_labels(random)), _draw_segments(random, CHORD.labels)) for _ in range(9)]
    songs = [(one, other) for one, other in songs if one and other]
    right = counted = 0.0
    for annotated, found in songs:
        ref, est = (np.array([s[:2] for s in each]) for each in (annotated, found))
        names = [[s[2] for s in each] for each in (annotated, found)]
        est, names[1] = mir_eval.util.adjust_intervals(est, names[1], ref.min(), ref.max(), "N", "N")
        merged, one, other = mir_eval.util.merge_labeled_intervals(ref, names[0], est, names[1])
        lengths, scores = mir_eval.util.intervals_to_durations(merged), mir_eval.chord.majmin(one, other)
        right, counted = right + (scores * lengths)[scores >= 0].sum(), counted + lengths[scores >= 0].sum()
    sums = np.sum([measure_rules(("majmin",), *song) for song in songs], axis=0)
    np.testing.assert_allclose(sums, [right, counted], rtol=1e-9)
    assert 0 < right < counted


def test_the_reference_itself_scores_one_by_every_metric():
    target = make_target(SONG)  # its edges lie between frames, where those of an answer lie
    assert _score([_answer(SONG, 6.0)], [target]) == pytest.approx(dict.fromkeys(BY_NAME, 1.0), abs=1e-9)


def test_a_transposed_answer_has_no_root_right():
    moved = [(start, end, chords.transpose(label, 1)) for start, end, label in SONG[:3]]
    found = _score([_answer(moved, 5.08)], [make_target(SONG[:3])])
    assert (found["root"], found["majmin"], found["sevenths"], found["chord_accuracy"]) == (0, 0, 0, 0)


def test_a_triad_for_its_seventh_chord_is_right_but_for_sevenths():
    found = _score([_answer(((0.0, 2.0, "C:maj"),), 2.0)], [make_target(((0.0, 2.0, "C:7"),))])
    assert {name: found[name] for name in RULES} == {"majmin": 1, "root": 1, "mirex": 1, "sevenths": 0}


def test_no_chord_at_the_end_counts_and_is_what_a_short_answer_is_filled_with():
    annotated = ((0.0, 3.0, "C:maj"), (3.0, 4.0, "N"))
    assert measure_rules(("majmin",), annotated, ((0.0, 4.0, "C:maj"),)) == pytest.approx([3, 4])
    assert measure_rules(("majmin",), annotated, ((0.0, 3.0, "C:maj"),)) == pytest.approx([4, 4])
    assert measure_rules(("majmin",), annotated, ()) == pytest.approx([1, 4])
    assert make_target(annotated)[0][-1] == "N"


def test_a_song_of_suspended_chords_has_no_score_and_not_nought():
    suspended, plain = ((0.0, 4.0, "D:sus4"),), ((0.0, 2.0, "C:maj"),)
    found = [_answer(plain, 4.0), _answer(plain, 2.0)]
    both = [make_target(suspended), make_target(plain)]
    assert both[0][0] == (None,) * 100
    alone = _score(found[:1], both[:1])
    assert np.isnan([alone["majmin"], alone["majmin_by_song"], alone["chord_accuracy"]]).all()
    assert alone["root"] == 0
    together = _score(found, both)
    assert (together["majmin"], together["majmin_by_song"], together["chord_accuracy"]) == (1, 1, 1)
    assert together["root"] == pytest.approx(2 / 6)
    rows = MEASURE.rows(found, both)[None]
    weighted = BY_NAME["majmin_by_song"].weighted(rows, torch.zeros(2), torch.tensor([[5, 1], [1, 0]]))
    assert weighted[0, 0] == 1
    assert weighted[1].isnan().all()


def test_songs_are_pooled_by_their_counted_time():
    targets = [make_target(((0.0, length, "C:maj"),)) for length in (1.0, 3.0)]
    found = [_answer(((0.0, 1.0, "G:min"),), 1.0), _answer(((0.0, 3.0, "C:maj"),), 3.0)]
    scores = _score(found, targets)
    assert (scores["majmin"], scores["majmin_by_song"]) == (pytest.approx(0.75), pytest.approx(0.5))
    quick = QUICK.rows([{"chord": each["chord"]} for each in found], targets)
    assert float(BY_NAME["majmin"].score(quick[None], torch.zeros(2))[0]) == pytest.approx(0.75)


def test_classes_are_those_of_the_triad_that_a_label_contains():
    major, minor = (np.array(mir_eval.chord.QUALITIES[quality], bool) for quality in ("maj", "min"))
    held = Counter()
    for quality in QUALITIES:
        _, semitones, _ = mir_eval.chord.encode(f"Bb:{quality}")
        is_major, is_minor = ((semitones.astype(bool) & triad == triad).all() for triad in (major, minor))
        name = {(True, False): "A#:maj", (False, True): "A#:min"}.get((bool(is_major), bool(is_minor)))
        assert find_chord(f"Bb:{quality}") == name, quality
        held[name] += 1
    assert min(held.values()) >= 3
    folded = [find_chord(label) for label in ("C", "C/3", "A:maj(b3)", "N", "X", "E:5", "E:1", "F:aug")]
    assert folded == ["C:maj", "C:maj", None, "N", None, None, None, None]


def test_the_61_classes_are_mir_evals_vocabulary_of_sevenths():
    assert (CHORD.width, SEVENTH.width) == (25, 61)
    for label in (*(f"G#:{quality}" for quality in QUALITIES), "Ab:7/b7", "Ab:maj/2", "N", "X"):
        found = find_seventh(label)
        (known,) = mir_eval.chord.sevenths([label], [label])
        assert (found is not None) == (known >= 0), label
        if found:
            assert mir_eval.chord.sevenths([label], [found]) == 1
    for label in SEVENTH.labels:
        assert find_seventh(label) == label


def test_frames_have_the_label_that_sounds_in_their_middle():
    target = make_target(((0.07, 0.2, "F:min7"), (0.2, 0.3, "X"), (0.3, 0.4, "N"), (0.4, 0.48, "D:sus4")))
    assert target[0] == (None, None, "F:min", "F:min", "F:min", None, None, "N", "N", "N", None, None)
    assert target[1][2:5] == ("F:min7", "F:min7", "F:min7")
    TARGET.encode([target], ["a"])
    inside, lost = TARGET.within(target, "a", 0.36)
    assert (len(inside[0]), inside[2][-1], lost) == (9, (0.3, 0.36, "N"), 3)


def test_a_target_is_transposed_whole():
    moved = TARGET.encode([chords.shift_target(make_target(SONG), 3)], ["a"])
    assert moved.tolist() == TARGET.encode([make_target(SONG)], ["a"]).tolist()
    expected = make_target([(start, end, chords.transpose(label, 3)) for start, end, label in SONG])
    assert chords.shift_target(make_target(SONG), 3) == expected
    assert [label for _, _, label in expected[2]] == ["D#:maj", "C:min7", "A#:7/3", "N"]


def test_the_trivial_answer_is_the_commonest_class():
    train = [
        make_target(((0.0, 3.0, "G:maj"), (3.0, 5.0, "A:min7"))),
        make_target(((0.0, 2.0, "A:7"), (2.0, 4.5, "X"))),
    ]
    (found,) = MEASURE.trivial(train, [4.0])
    assert CHORD.labels[found["chord"][50].argmax()] == "G:maj"
    test = make_target(((0.0, 1.0, "G:7"), (1.0, 4.0, "N")))
    assert _score([found], [test])["majmin"] == pytest.approx(0.25)
    silent = {"chord": np.eye(25)[[24] * 100], "seventh": np.eye(61)[[60] * 100]}
    assert _score([silent], [test])["majmin"] == pytest.approx(0.75)


def test_five_folds_partition_the_songs(chords1217):
    songs = chords1217.list_songs()
    assert len({row["song"] for row in songs}) == 1217
    assert all(Counter(row[f"fold{fold}"] for fold in range(5))["test"] == 1 for row in songs)
    counts = [Counter(row[f"fold{fold}"] for row in songs) for fold in range(5)]
    assert [tuple(each[split] for split in SPLITS) for each in counts] == [(730, 243, 244)] * 2 + [(731, 243, 243)] * 3


@pytest.fixture
def two_songs(tmp_path, chords1217):
    """A folder with a song of each layout of Chords1217."""
    lab, jsonl = (next(row["song"] for row in chords1217.list_songs() if row["fold0"] == s) for s in ("train", "test"))
    (tmp_path / "chordlab").mkdir()
    (tmp_path / "chordlab" / f"{lab}.lab").write_text("0.0\t1.5\tC:maj\n1.5\t2.25\tN\n\n")
    label = [
        {"start_time": 0.0, "end_time": 1.0, "chord_str": "Eb:min"},
        {"start_time": 0.9999999, "end_time": 2, "chord_str": "N"},
    ]
    song = {"audio_path": f"data/Chords1217/audio/{jsonl}.flac", "label": label, "sample_rate": 24000}
    (tmp_path / "Chords1217.test.jsonl").write_text(json.dumps(song) + "\n")
    return tmp_path, lab, jsonl


def test_both_layouts_of_chords1217_are_read(chords1217, two_songs):
    root, lab, jsonl = two_songs
    found = {clip.id: clip for clip in chords1217.clips(root)}
    assert {name: clip.split for name, clip in found.items()} == {lab: "train", jsonl: "test"}
    assert found[lab].target[2] == ((0.0, 1.5, "C:maj"), (1.5, 2.25, "N"))
    assert found[jsonl].target[2] == ((0.0, 1.0, "Eb:min"), (1.0, 2.0, "N"))
    assert found[jsonl].target[0][:1] + found[jsonl].target[0][-1:] == ("D#:min", "N")
    (root / "audio").mkdir()
    for path in (root / "audio" / f"{jsonl}.flac", root / "audio" / f"{lab}.mp3"):
        path.touch()
    assert chords1217.locate(root, found[jsonl].audio) == root / "audio" / f"{jsonl}.flac"
    assert chords1217.locate(root, found[lab].audio) == root / "audio" / f"{lab}.mp3"
    other = {clip.id: clip.split for clip in chords1217.clips(root, fold=1)}
    assert other != {name: clip.split for name, clip in found.items()}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0 1 C:maj\n1 2\n", r"line 2: has '1 2'; a line is start, end and chord"),
        ("0 one C:maj\n", r"line 1: has '0 one C:maj'"),
        ("0 1 C:maj\n0.5 2 N\n", r"line 2: a chord begins at 0\.5 s, and the one before it ends at 1 s; sort them"),
        ("0 1 C:maj\n1 0.5 N\n", r"line 2: a chord lasts from 1 to 0\.5 s"),
        ("0 1 H:maj\n", r"line 1: the chord 'H:maj' is no label of Harte's syntax"),
        ("0 1 C:maj\n1 350000 N\n", r"line 2: a chord lasts from 1 to 350000 s"),
        ("\n", "has no chord"),
    ],
)
def test_a_bad_lab_file_is_named_with_its_line(chords1217, two_songs, text, words):
    root, lab, _ = two_songs
    path = root / "chordlab" / f"{lab}.lab"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as caught:
        list(chords1217.clips(root))
    assert str(path) in str(caught.value)
    assert "1 annotation files cannot be used" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda song: "{", "is no JSON"),
        (lambda song: json.dumps([song]), "has no audio_path and label"),
        (lambda song: json.dumps({**song, "label": []}), "has no chord"),
        (lambda song: json.dumps({**song, "label": [{"start_time": "0"}]}), "give start_time, end_time and chord_str"),
        (lambda song: json.dumps(song) + "\n" + json.dumps(song), "is annotated before"),
    ],
)
def test_a_bad_jsonl_file_is_named(chords1217, two_songs, change, words):
    path = two_songs[0] / "Chords1217.test.jsonl"
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(DataError, match=words) as caught:
        list(chords1217.clips(two_songs[0]))
    assert str(path) in str(caught.value)


def test_a_gap_between_chords_is_an_unknown_chord(chords1217, tmp_path):
    (tmp_path / "a.lab").write_text("0.0 1.0 C\n1.0005 2 G\n2.5 3 A\n3 3 D\n")
    assert chords1217.read_lab(tmp_path / "a.lab") == (
        (0.0, 1.0, "C"), (1.0, 2.0, "G"), (2.0, 2.5, "X"), (2.5, 3.0, "A")
    )  # fmt: skip


def _write_jams(folder, name, instructed="G:maj", performed="G:maj7/1"):
    data = [[{"time": 0.0, "duration": 2.0, "value": label, "confidence": None}] for label in (instructed, performed)]
    notes = {"namespace": "note_midi", "data": []}
    path = folder / f"{name}.jams"
    path.write_text(json.dumps({"annotations": [notes, *({"namespace": "chord", "data": each} for each in data)]}))
    return path


def test_guitarset_is_read_by_player_without_solos_and_beside_what_a_mac_leaves(guitarset, tmp_path):
    (tmp_path / "__MACOSX").mkdir()
    for player in range(6):
        _write_jams(tmp_path, f"0{player}_SS2-88-F_comp")
        _write_jams(tmp_path, f"0{player}_SS2-88-F_solo", "C")
    (tmp_path / "__MACOSX" / "._03_SS2-88-F_comp.jams").write_bytes(b"\0\1")
    found = list(guitarset.clips(tmp_path))
    assert [clip.split for clip in found] == ["train"] * 4 + ["valid", "test"]
    assert found[0].target[2] == ((0.0, 2.0, "G:maj"),)
    assert next(guitarset.clips(tmp_path, layer="performed")).target[1][0] == "G:maj7"
    other = [clip.split for clip in guitarset.clips(tmp_path, test_player=0)]
    assert other == ["test", "train", "train", "train", "train", "valid"]
    assert found[0].audio == "audio_mono-mic/00_SS2-88-F_comp_mic.wav"
    (tmp_path / "00_SS2-88-F_comp_mic.wav").touch()  # a zip unpacked without a folder
    assert guitarset.locate(tmp_path, found[0].audio) == tmp_path / "00_SS2-88-F_comp_mic.wav"
    assert guitarset.locate(tmp_path, found[1].audio) is None
    assert "solo" in guitarset.filtered("audio_mono-mic/00_SS2-88-F_solo_mic.wav")
    assert not guitarset.filtered("other.wav")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda whole: whole["annotations"].pop(), "has 1 annotations of chords; GuitarSet has two"),
        (lambda whole: whole["annotations"][1]["data"].clear(), r"annotations\[1\] has no chord"),
        (lambda whole: whole["annotations"][1]["data"][0].update(time=True), r"data\[0\] has the time True"),
        (lambda whole: whole["annotations"][1]["data"][0].update(value=7), r"data\[0\] has no value as JAMS writes it"),
        (
            lambda whole: whole["annotations"][1]["data"][0].update(value="sol"),
            r"data\[0\]: the chord 'sol' is no label",
        ),
        (lambda whole: whole["annotations"].insert(0, "x"), r"annotations\[0\] has no namespace"),
    ],
)
def test_a_bad_jams_file_is_named_with_the_place(guitarset, tmp_path, change, words):
    path = _write_jams(tmp_path, "02_Jazz3-150-C_comp")
    whole = json.loads(path.read_text())
    change(whole)
    path.write_text(json.dumps(whole))
    with pytest.raises(DataError, match=words) as caught:
        list(guitarset.clips(tmp_path))
    assert str(path) in str(caught.value)


def test_two_annotations_of_an_excerpt_that_differ_are_refused(guitarset, tmp_path):
    (tmp_path / "annotation").mkdir()
    _write_jams(tmp_path, "02_Jazz3-150-C_comp")
    _write_jams(tmp_path / "annotation", "02_Jazz3-150-C_comp", "C")
    with pytest.raises(DataError, match="annotate one excerpt and differ"):
        list(guitarset.clips(tmp_path))


def test_what_a_folder_should_hold_is_said(guitarset, chords1217, tmp_path):
    for module, words in ((guitarset, "annotation/<excerpt>"), (chords1217, "chordlab/<song>")):
        with pytest.raises(DataError, match=words):
            list(module.clips(tmp_path))


def _match_templates(path):
    """The stated solver: the triad whose pitch classes hold the most of a flat chroma; no chord where it is faint."""
    sound, rate_hz = soundfile.read(path)
    points, frames = 4096, TARGET.count_labels(len(sound) / rate_hz)
    hz = np.fft.rfftfreq(points, 1 / rate_hz)
    heard = (hz > 100) & (hz < 2000)
    pitch_class = np.round(12 * np.log2(hz[heard] / 440) + 69).astype(int) % 12
    padded = np.pad(sound, (points // 2, points))
    at = ((np.arange(frames) + 0.5) * rate_hz / LABELS_HZ).astype(int)
    spectra = np.abs(np.fft.rfft(np.stack([padded[first : first + points] for first in at]) * np.hanning(points)))
    chroma = spectra[:, heard] @ np.eye(12)[pitch_class]
    tones = [[(root + step) % 12 for step in (0, third, 7)] for third in (4, 3) for root in range(12)]
    triads = chroma @ np.stack([np.eye(12)[each].sum(axis=0) for each in tones]).T
    energy = chroma.sum(axis=1)
    return np.where(energy < 0.02 * energy.max(), 24, triads.argmax(axis=1))


def _as_found(classes):
    return {"chord": np.eye(25)[classes], "seventh": np.eye(61)[np.where(classes == 24, 60, classes)]}


def _solve(name, miniatures):
    """The task's miniature: train targets, test targets, lengths and what the solver finds."""
    named = plugins.find_task(name)
    there = corpus.find_on_disk(named, corpus.ensure_mini(named.task.corpus, miniatures))
    test = [place for place, clip in enumerate(there.clips) if clip.split == "test"]
    train = [clip.target for clip in there.clips if clip.split == "train"]
    classes = [_match_templates(there.paths[place]) for place in test]
    return train, [there.clips[place].target for place in test], classes


@pytest.mark.parametrize("name", ["guitarset-chords", "chords1217"])
def test_a_flat_chroma_template_solves_the_miniature(name, miniatures):
    train, truth, classes = _solve(name, miniatures)
    trivial = _score(MEASURE.trivial(train, [50.0] * len(truth)), truth)
    cut = [TARGET.within(target, "a", len(each) / LABELS_HZ)[0] for target, each in zip(truth, classes, strict=True)]
    found = _score(list(map(_as_found, classes)), cut)
    for metric in BY_NAME:
        assert found[metric] >= trivial[metric] + 0.9 * (1 - trivial[metric]), metric
    away = np.arange(50) + 0  # frames of a chord's two seconds
    inner = (away > 5) & (away < 45)  # a window of 256 ms hears no other chord
    for target, each in zip(cut, classes, strict=True):
        wanted = np.array([CHORD.labels.index(label) for label in target[0]])
        keep = np.resize(inner, len(wanted))
        assert (each[: len(wanted)][keep] == wanted[keep]).all()


def test_a_permuted_label_scores_one_in_24(miniatures):
    """Over all rotations of the 24 triads, each is right once."""
    _, truth, classes = _solve("guitarset-chords", miniatures)
    inner = np.resize((np.arange(50) > 5) & (np.arange(50) < 45), len(classes[0]))
    wanted = [np.array([CHORD.labels.index(label) for label in target[0]])[inner] for target in truth]
    scores = []
    for turn in range(24):
        turned = [np.where(each == 24, 24, (each + turn) % 24)[inner] for each in classes]
        targets = [make_target(chords.list_runs(np.where(each == 24, 0, each), CHORD.labels)) for each in wanted]
        sung = [np.where(each == 24, (turn != 0) * 12, one) for each, one in zip(wanted, turned, strict=True)]
        scores.append(_score(list(map(_as_found, sung)), targets)["chord_accuracy"])
    assert scores[0] == 1
    assert np.mean(scores) == pytest.approx(1 / 24, abs=0.02)


def test_a_smoothed_path_leaves_out_what_flickers():
    random = np.random.default_rng(0)
    wanted = np.repeat([3, 17, 24], 50)
    activations = np.full((150, 25), 0.4 / 24)
    activations[np.arange(150), np.where(random.random(150) < 0.2, random.integers(0, 25, 150), wanted)] = 0.6
    (plain,), (found,) = (chords.add_smoothed([{"chord": activations}], LABELS_HZ, each) for each in (None, 0.99))
    assert list(plain) == ["chord"]
    assert (activations.argmax(axis=1) != wanted).sum() > 20
    assert (found["smoothed"] != wanted).sum() <= 2
    target = make_target(chords.list_runs(wanted, CHORD.labels))
    found["seventh"] = np.zeros((150, 61))
    scores = _score([found], [target])
    assert scores["majmin"] < 0.87
    assert scores["majmin_viterbi"] > 0.98


@pytest.mark.slow
def test_chroma_finds_the_miniatures_chords_in_another_timbre(bench, own_cache_with_miniatures):
    arguments = ("run", "--model", "chroma", "--task", "guitarset-chords", "--mini", "--seeds", 1, "--json")
    ended = bench(*arguments, "--cache-dir", own_cache_with_miniatures)
    assert ended.code == 0, ended.err
    scores = ended.record["scores"]
    assert list(scores) == list(BY_NAME)
    assert scores["majmin"]["trivial"] == pytest.approx(1 / 25, abs=0.01)
    assert scores["majmin_viterbi"]["test"] >= scores["majmin"]["test"] > 0.9
    assert ended.record["selection"]["per_seed"][0]["setting"] in chords.STAYS
    assert bench("results", "check", "results").code == 0
