"""Singing, frame by frame: counts against scikit-learn, labels and their faults, and a miniature that level cannot solve."""

import math
from collections import Counter

import numpy as np
import pytest
import soundfile
import torch
from marble_bench.tasks.corpora import jamendo_vd
from marble_bench.tasks.jamendo_singing import detect
from scipy.ndimage import median_filter
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from marble_bench.core import plugins
from marble_bench.data import corpus
from marble_bench.errors import DataError
from marble_bench.metrics import activity_metrics
from marble_bench.metrics.activity import LABELS_HZ, MEASURE

TASK = plugins.find_task("jamendo-singing").task
BY_NAME = {metric.name: metric for metric in activity_metrics}
WHOLE = "0.000000 1.5 nosing\n1.5 3.25 sing\n3.25 4.0 nosing\n"


def _songs(random, count):
    """Answers and targets of songs; about a tenth of the frames has no label."""
    songs = []
    for _ in range(count):
        frames, share = int(random.integers(1, 60)), random.random()
        truth = random.random(frames) < share
        known = random.random(frames) < 0.9
        target = tuple(
            (("sing",) if sings else ()) if labelled else None for sings, labelled in zip(truth, known, strict=True)
        )
        songs.append(({"voice": (random.random((frames, 1)) < random.random()).astype(float)}, (target,)))
    return songs


def _pool(songs):
    """All labelled frames together: truth and answer."""
    pairs = [
        ("sing" in tags, bool(answer))
        for found, (target,) in songs
        for tags, answer in zip(target, found["voice"][:, 0], strict=True)
        if tags is not None
    ]
    return zip(*pairs, strict=True)


@pytest.mark.slow
def test_two_hundred_random_answers_score_what_scikit_learn_says():
    random = np.random.default_rng(0)
    for _ in range(200):
        songs = _songs(random, int(random.integers(1, 5)))
        rows = MEASURE.rows([found for found, _ in songs], [target for _, target in songs])[None]
        if not rows[0, :, 1].sum():
            continue
        truth, answer = map(list, _pool(songs))
        each = [list(map(list, _pool([song]))) for song, row in zip(songs, rows[0], strict=True) if row[1]]
        _, recall, f1, _ = precision_recall_fscore_support(truth, answer, average="binary", zero_division=math.nan)
        precision = precision_recall_fscore_support(truth, answer, average="binary", zero_division=0)[0]
        expected = {
            "sing_accuracy": accuracy_score(truth, answer),
            "sing_precision": precision,
            "sing_recall": recall,
            "sing_f1": f1,
            "sing_accuracy_by_song": np.mean([accuracy_score(*both) for both in each]),
        }
        for name, value in expected.items():
            score = float(BY_NAME[name].compute(rows, torch.zeros(len(songs))))
            assert score == pytest.approx(value, abs=1e-9, nan_ok=True), name


def test_songs_drawn_again_score_as_if_they_were_there_twice():
    songs = _songs(np.random.default_rng(1), 6)
    rows = MEASURE.rows([found for found, _ in songs], [target for _, target in songs])
    weights = torch.tensor([[1, 0, 2, 0, 3, 0], [0, 1, 1, 1, 1, 2]])
    for metric in activity_metrics:
        scores = metric.weighted(rows[None], torch.zeros(6), weights)
        for row, score in zip(weights, scores[:, 0].tolist(), strict=True):
            again = rows.repeat_interleave(row, dim=0)[None]
            assert score == pytest.approx(float(metric.compute(again, torch.zeros(6)))), metric.name


def test_the_trivial_answer_is_what_most_training_frames_have():
    mostly, hardly = (("sing",), ("sing",), (), None), ((), (), ("sing",))
    for train, answer in (([(mostly,)], 1), ([(hardly,)], 0), ([(mostly,), (hardly,)], 1)):
        (found,) = MEASURE.trivial(train, [1.01])
        assert found["voice"].tolist() == [[answer]] * 26


def test_a_probability_holds_from_the_threshold_on():
    (found,) = detect([{"voice": np.array([[0.29], [0.3], [0.9]])}], 25.0, 0.3)
    assert found["voice"].tolist() == [[0], [1], [1]]


def _write(folder, text=WHOLE, song="03 - School"):
    path = folder / "labels" / f"{song}.lab"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_labels_hold_in_the_middle_of_each_frame(tmp_path):
    frames = jamendo_vd.make_frames(jamendo_vd.read_segments(_write(tmp_path, "0.1 0.2 sing\n0.3 0.4 nosing\n")))
    # frame k is of k x 40 ms: the middles 0.10, 0.14 and 0.18 s are sung, 0.30, 0.34 and 0.38 s are not
    assert frames == (None, None, ("sing",), ("sing",), ("sing",), None, None, (), (), ())
    whole = jamendo_vd.make_frames(jamendo_vd.read_segments(_write(tmp_path)))
    assert len(whole) == 4 * LABELS_HZ
    assert sum(map(bool, whole)) == round(1.75 * LABELS_HZ)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0.0 1.5 nosing\n1.5 sing\n", r"line 2: is '1\.5 sing'; a line is start, end, and sing or nosing"),
        ("0.0 1.5 nosing\n1.5 3.0 singing\n", r"line 2: is '1\.5 3\.0 singing'"),
        ("0.0 1,5 nosing\n", "line 1: is '0.0 1,5 nosing'"),
        ("0.0 1.5 nosing\n1.4 3.0 sing\n", r"line 2: lasts from 1\.4 to 3 s, behind 1\.5 s: sort the lines"),
        ("0.0 1.5 nosing\n3.0 2.0 sing\n", r"line 2: lasts from 3 to 2 s"),
        ("0.0 inf nosing\n", "line 1: is '0.0 inf nosing'"),
        ("", "is empty: get the file again"),
    ],
)
def test_a_faulty_annotation_is_named_with_its_line(tmp_path, text, told):
    with pytest.raises(DataError, match=told):
        jamendo_vd.read_segments(_write(tmp_path, text))
    (tmp_path / "filelists").mkdir()
    (tmp_path / "filelists" / "test").write_text("03 - School.mp3\n04 - You are.ogg\n")
    with pytest.raises(DataError, match=r"2 annotation files cannot be used: .*School\.lab.*You are\.lab"):
        list(jamendo_vd.clips(tmp_path))


@pytest.mark.parametrize("layout", ["archive", "below", "lists", "folders"])
def test_both_distributions_are_read(tmp_path, layout):
    root = tmp_path / "jamendo" if layout == "below" else tmp_path
    songs = {"train": "01 - One", "valid": "02 - Two.live", "test": "03 - School"}
    for split, song in songs.items():
        labels = _write(root, song=song)
        audio = root / ("audio" if layout in ("archive", "below") else split) / f"{song}.ogg"
        audio.parent.mkdir(exist_ok=True)
        audio.touch()
        if layout in ("archive", "below"):
            (root / "filelists").mkdir(exist_ok=True)
            (root / "filelists" / split).write_text(f"{song}.ogg\n")
        else:
            (root / "jamendo_lab").mkdir(exist_ok=True)
            labels.rename(root / "jamendo_lab" / labels.name)
        if layout == "lists":
            (root / f"jam_{split}_list.txt").write_text(f"{song}.trs\n")
    if layout in ("lists", "folders"):
        (root / "labels").rmdir()
    found = list(jamendo_vd.clips(tmp_path))
    assert {clip.split: clip.id for clip in found} == songs
    assert all(jamendo_vd.locate(tmp_path, clip.audio).suffix == ".ogg" for clip in found)


def test_without_labels_or_lists_the_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no labels in .*bench data get jamendo-vd"):
        list(jamendo_vd.clips(tmp_path))
    _write(tmp_path)
    with pytest.raises(DataError, match=r"no songs are listed in .*it should hold .*filelists"):
        list(jamendo_vd.clips(tmp_path))


@pytest.fixture(scope="module")
def heard(miniatures):
    """By split, of each song of the miniature its sound, its rate and whether somebody sings in each frame."""
    root = corpus.ensure_mini(TASK.corpus, miniatures)
    songs = {}
    for clip in jamendo_vd.clips(root):
        sound, rate_hz = soundfile.read(jamendo_vd.locate(root, clip.audio))
        songs.setdefault(clip.split, []).append((sound, rate_hz, np.array(list(map(bool, clip.target[0])))))
    return songs


def _find_vibrato(sound, rate_hz, count):
    """The stated solver: where overtones move. `(count,)` at LABELS_HZ: how much the logarithm of the spectrum between 500
    and 3,500 Hz changes in 60 ms, the median of half a second."""
    window, hop = 1024, round(rate_hz / LABELS_HZ / 2)
    padded = np.pad(sound, window // 2)
    frames = np.stack([padded[start : start + window] for start in range(0, len(sound), hop)])
    spectrum = np.log(np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) + 1e-3)
    hz = np.fft.rfftfreq(window, 1 / rate_hz)
    band = spectrum[:, (hz > 500) & (hz < 3500)]
    band -= band.mean(axis=1, keepdims=True)
    change = np.pad(np.abs(band[3:] - band[:-3]).mean(axis=1), (1, 2), mode="edge")
    return median_filter(change, 25)[np.minimum(2 * np.arange(count) + 1, len(change) - 1)]


@pytest.mark.slow
def test_a_rule_that_hears_vibrato_solves_the_miniature(heard):
    for split, songs in heard.items():
        right = [(_find_vibrato(sound, rate, len(sings)) > 0.9) == sings for sound, rate, sings in songs]
        trivial = np.concatenate([sings for *_, sings in songs]).mean()
        assert np.concatenate(right).mean() > trivial + 0.9 * (1 - trivial), split


@pytest.mark.slow
def test_no_detector_of_level_solves_the_miniature(heard):
    # Boosted trees see the level of every 20 ms of half a second, its steps and its spread.
    features, labels = {}, {}
    for split, songs in heard.items():
        for sound, rate_hz, sings in songs:
            block = round(0.02 * rate_hz)
            blocks = sound[: len(sound) // block * block].reshape(-1, block)
            level_db = 10 * np.log10(np.square(blocks).mean(axis=1) + 1e-10)
            at = 2 * np.arange(len(sings))
            near = np.stack([np.roll(level_db, shift)[at] for shift in range(-12, 13)], axis=1)
            row = np.concatenate([near, np.diff(near, axis=1), near.std(axis=1, keepdims=True)], axis=1)
            features.setdefault(split, []).append(row)
            labels.setdefault(split, []).append(sings)
    trees = HistGradientBoostingClassifier(max_iter=60, random_state=0)
    trees.fit(np.concatenate(features["train"]), np.concatenate(labels["train"]))
    for split in ("valid", "test"):
        sings = np.concatenate(labels[split])
        assert abs(sings.mean() - jamendo_vd.SUNG) < 0.005
        assert trees.score(np.concatenate(features[split]), sings) < jamendo_vd.SUNG + 0.03, split


@pytest.mark.slow
def test_voices_and_instruments_of_the_miniature_are_new_in_the_test_split(heard):
    for drawn in (jamendo_vd.TRACTS, jamendo_vd.SOLOISTS, jamendo_vd.CHORDS):
        assert not set(drawn["train"]) & set(drawn["test"])
    assert Counter({split: len(songs) for split, songs in heard.items()}) == jamendo_vd.MINI_CLIPS


@pytest.mark.slow
def test_loudness_stays_within_its_interval_of_the_trivial_score(bench, own_cache_with_miniatures):
    ended = bench("run", "--model", "loudness", "--task", "jamendo-singing", "--mini", "--json", "--device", "cpu")
    assert ended.code == 0, ended.err
    scores = ended.record["scores"]
    assert list(scores) == list(BY_NAME)
    main = scores["sing_accuracy"]
    assert main["trivial"] == pytest.approx(jamendo_vd.SUNG, abs=0.005)
    low, high = main["ci95"]
    assert low <= main["trivial"] <= high
