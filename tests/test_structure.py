"""The Harmonix set: labels to functions, annotations and their faults, peaks, and a rule that solves the miniature."""

import csv
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from marble_bench.tasks.corpora import harmonix
from marble_bench.tasks.harmonix_structure import REACH_S, find_segments, pick_peaks
from scipy.ndimage import median_filter

from marble_bench.core import plugins
from marble_bench.core.task import SPLITS
from marble_bench.data import corpus
from marble_bench.errors import DataError
from marble_bench.metrics.structure import FUNCTIONS, LABELS_HZ

TASK = plugins.find_task("harmonix-structure").task
LABELS = Path(__file__).parent / "golden" / "structure" / "harmonix_labels.csv"
WHOLE = "0.0 intro\n8.5 verse\n25.25 chorus\n40.1 end\n"


def _write(folder, text, track="0001_12step"):
    path = folder / "segments" / f"{track}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_labels_have_the_function_of_the_first_text_that_they_contain():
    expected = {
        "silence": "silence",
        "PreChorus3": "verse",
        "pre-chorus": "verse",
        "postchorus": "chorus",
        "instchorus": "chorus",
        "chorus_instrumental": "chorus",
        "introchorus": "chorus",
        "refrain": "chorus",
        "stutter": "chorus",
        "introverse": "verse",
        "raps": "verse",
        "section12": "verse",
        "build": "verse",
        "instintro": "intro",
        "fadein": "intro",
        "instbridge": "bridge",
        "transition2a": "bridge",
        "bigoutro": "outro",
        "coda": "outro",
        "gtrbreak": "inst",
        "breakdown": "inst",
        "guitarsolo": "inst",
        "improv": "inst",
        "gtr": "inst",
        "mainriff": "inst",
    }
    assert {label: harmonix.find_function(label) for label in expected} == expected


def test_the_functions_have_the_shares_of_time_that_the_real_labels_give():
    # Counted from the makers' annotations: 912 songs, 54.7 hours, 10.6 segments a song.
    with LABELS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    seconds, fallback = Counter(), 0
    for row in rows:
        seconds[harmonix.find_function(row["label"])] += float(row["seconds"])
        fallback += int(row["segments"]) * (not any(text in row["label"] for text, _ in harmonix.RULES))
    whole = sum(seconds.values())
    assert len(rows) == 125
    assert whole / 3600 == pytest.approx(54.7, abs=0.05)
    assert sum(int(row["segments"]) for row in rows) / 912 == pytest.approx(10.6, abs=0.05)
    expected = {"chorus": 0.388, "verse": 0.334, "bridge": 0.089, "inst": 0.075, "intro": 0.069, "outro": 0.040}
    assert {name: round(seconds[name] / whole, 3) for name in expected} == expected
    assert seconds["silence"] / whole == pytest.approx(0.0045, abs=5e-5)
    assert fallback == 41  # and four second `end`, which are no segments here


def test_the_split_is_the_makers_rule_on_the_sorted_ids():
    rows = harmonix.tracks()
    ids = [row["track"] for row in rows]
    assert len(set(ids)) == 912
    assert ids == sorted(ids)
    fold = {0: "test", 1: "valid"}
    assert [row["split"] for row in rows] == [fold.get(k % 8, "train") for k in range(912)]
    assert Counter(row["split"] for row in rows) == TASK.counts


def test_an_annotation_becomes_frames_boundaries_and_segments(tmp_path):
    boundaries, labels = harmonix.read_segments(_write(tmp_path, "0.3 fadein\n8.5\tprechorus\n9.1 gtr\n10.2 end\n"))
    assert (boundaries, labels) == ((0.3, 8.5, 9.1, 10.2), ("fadein", "prechorus", "gtr"))
    frames, moments, segments = harmonix.make_target(boundaries, labels)
    assert frames == (None, *["intro"] * 16, "verse", *["inst"] * 2)  # at 0.25 s, 0.75 s, ... 9.75 s
    assert moments == boundaries
    assert segments == ((0.3, 8.5, "intro"), (8.5, 9.1, "verse"), (9.1, 10.2, "inst"))


def test_a_second_end_is_no_segment_and_two_songs_need_none(tmp_path):
    assert harmonix.read_segments(_write(tmp_path, WHOLE + "42.0 end\n"))[0][-1] == 40.1
    known = _write(tmp_path, "0.0 verse\n5.0 chorus\n9.0 outro\n", "0539_youandi")
    assert harmonix.read_segments(known) == ((0, 5, 9), ("verse", "chorus"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("0.0 intro\n8.5\n9.0 end\n", r"line 2: is '8\.5'; a line is a time in seconds and a label"),
        ("0.0 intro\n8,5 verse\n9.0 end\n", "line 2: is '8,5 verse'"),
        ("0.0 intro\n-8.5 verse\n9.0 end\n", r"line 2: is '-8\.5 verse'"),
        ("0.0 intro\nnan verse\n9.0 end\n", "line 2: is 'nan verse'"),
        ("0.0 intro\n8.5 verse two\n9.0 end\n", "line 2: is .*two"),
        ("0.0 intro\n8.5 verse\n8.5 end\n", r"line 3: 'end' begins at 8\.5 s, not behind 8\.5 s: sort the lines"),
        ("0.0 intro\n9.0 end\n12.0 verse\n", "line 3: 'verse' comes behind the end: remove the line"),
        ("0.0 intro\n8.5 verse\n", "has 2 segments and 0 'end'; it is not whole: get it again"),
        ("0.0 end\n", "has 0 segments and 1 'end'"),
        ("", "has 0 segments and 0 'end'"),
        ("0.0 intro\n\n9.0 end\n", "line 2: is blank"),
        (b"0.0 intr\xe9\n9.0 end\n", "line 1: byte 0xe9 is not UTF-8"),
    ],
)
def test_a_faulty_annotation_is_named_with_its_line(tmp_path, text, told):
    path = _write(tmp_path, text)
    with pytest.raises(DataError, match=told):
        harmonix.read_segments(path)
    with pytest.raises(DataError, match=r"1 annotation files cannot be used: .*0001_12step\.txt"):
        list(harmonix.clips(tmp_path))


def test_annotations_and_audio_are_found_where_the_makers_and_others_put_them(tmp_path):
    with pytest.raises(DataError, match=r"no segments in .*bench data get harmonix"):
        list(harmonix.clips(tmp_path))
    path = _write(tmp_path / "harmonixset-e35da7a" / "dataset", WHOLE)
    (clip,) = harmonix.clips(tmp_path)
    assert (clip.id, clip.split, clip.audio) == ("0001_12step", "test", "audio/0001_12step.mp3")
    path.unlink()
    assert harmonix.locate(tmp_path, clip.audio) is None
    for place in ("0001_12step.mp3", "tracks/0001_12step.flac", "audio/0001_12step.wav"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
        assert harmonix.locate(tmp_path, clip.audio) == tmp_path / place


def test_peaks_are_the_highest_of_six_seconds_to_both_sides():
    random = np.random.default_rng(0)
    for rate_hz in (2.0, 5.0):
        reach = round(REACH_S * rate_hz)
        for _ in range(50):
            values = random.random(200)
            slow = [
                k
                for k in range(200)
                if values[k] == values[max(0, k - reach) : k + reach + 1].max() and values[k] >= 0.9
            ]
            assert pick_peaks(values, rate_hz, 0.9) == slow
    flat = np.full(60, 0.5)
    assert pick_peaks(flat, 2.0, 0.5) == [0, 13, 26, 39, 52]  # of equals the first, and none within 6 s of it
    assert pick_peaks(flat, 2.0, 0.51) == []


def test_segments_have_the_function_with_the_highest_mean():
    functions = np.zeros((60, 7))
    functions[:, 0] = 0.3
    functions[:18, 1] = 1.0
    functions[18:30, 2] = 0.4
    boundary = np.full((60, 1), 0.1)
    boundary[20], boundary[34], boundary[0], boundary[50] = 0.9, 0.8, 0.9, 0.29
    (found,) = find_segments([{"function": functions, "boundary": boundary}], 2.0, 0.3)
    assert found["boundary"].tolist() == [10.25, 17.25]  # the middle of frames 20 and 34
    assert found["segment_function"].tolist() == [1, 0, 0]  # 10 frames of 0.4 in 14 are less than 14 of 0.3
    assert found["frame_function"].tolist() == [1] * 18 + [2] * 12 + [0] * 30
    assert found["function"].shape == (60, 7)
    assert found["function"].argmax(axis=1).tolist() == [1] * 20 + [0] * 40
    np.testing.assert_allclose(found["function"][20:34, 2], 0.4 * 10 / 14)


HOP_S, WINDOW_S = 0.1, 0.6
HEARD = {  # of each layer: the band in Hz, and the least magnitude
    "bass": (25, 100, 0.05),
    "pad": (120, 520, 0.01),
    "lead": (1000, 4100, 0.035),
}
HATS_HZ, HATS = 5500, 2e-4


def _listen(sound, rate_hz):
    """Which layers play, every HOP_S: `(frames, 4)` of bass, pad, lead and hats, by the spectrum alone."""
    hop, window = round(HOP_S * rate_hz), round(WINDOW_S * rate_hz)
    padded = np.pad(sound, window // 2)
    frames = np.stack([padded[start : start + window] for start in range(0, len(sound) - hop, hop)])
    magnitude = np.abs(np.fft.rfft(frames * np.hanning(window), axis=1)) * 4 / window
    hz = np.fft.rfftfreq(window, 1 / rate_hz)
    tones = [magnitude[:, (hz >= low) & (hz < high)].max(axis=1) > least for low, high, least in HEARD.values()]
    noise = np.median(magnitude[:, hz >= HATS_HZ], axis=1) > HATS  # a lead's overtones are few lines in that band
    return median_filter(np.stack([*tones, noise], axis=1).astype(int), (11, 1))


def _solve(sound, rate_hz):
    """The stated solver: a part is a stretch in which the same layers play, and its function is the one that they make."""
    names = (*HEARD, "hats")
    codes = {tuple(int(name in layers) for name in names): name for name, layers in harmonix.LAYERS.items()}
    heard = [codes.get(tuple(row)) for row in _listen(sound, rate_hz).tolist()]
    edges = [0, *(k for k, (one, other) in enumerate(pairwise(heard), 1) if one != other), len(heard)]
    parts = [(start, heard[start]) for start, end in pairwise(edges) if (end - start) * HOP_S > 2]
    functions = [FUNCTIONS.index(name) if name else 0 for _, name in parts]
    boundaries = np.array([start * HOP_S for start, _ in parts[1:]])
    times = np.arange(round(len(heard) * HOP_S * LABELS_HZ) + 2) / LABELS_HZ + 0.25
    return {
        "boundary": boundaries,
        "segment_function": np.array(functions),
        "frame_function": np.array(functions)[np.searchsorted(boundaries, times, side="right")],
    }


@pytest.mark.slow
def test_a_rule_that_hears_the_layers_solves_the_miniature(miniatures):
    root = corpus.ensure_mini(TASK.corpus, miniatures)
    members = [clip for clip in harmonix.clips(root) if clip.split == "test"]
    train = [clip.target for clip in harmonix.clips(root) if clip.split == "train"]
    found, lengths_s = [], []
    for clip in members:
        sound, rate_hz = soundfile.read(harmonix.locate(root, clip.audio))
        found.append(_solve(sound, rate_hz))
        lengths_s.append(len(sound) / rate_hz)
    measure, targets = TASK.metrics[0].measure, [clip.target for clip in members]
    solved, trivial = (measure.rows(each, targets)[None] for each in (found, measure.trivial(train, lengths_s)))
    for metric in TASK.metrics:
        low, score = (float(metric.compute(rows, torch.zeros(len(members)))) for rows in (trivial, solved))
        assert score > low + 0.9 * (1 - low), (metric.name, low, score)


@pytest.mark.slow
def test_pads_and_leads_of_the_miniature_are_new_in_the_test_split(miniatures):
    for timbres in (harmonix.PADS, harmonix.LEADS):
        assert not set(timbres["train"]) & set(timbres["test"])
    root = corpus.ensure_mini(TASK.corpus, miniatures)
    members = list(harmonix.clips(root))
    assert Counter(clip.split for clip in members) == harmonix.MINI_CLIPS
    for split in SPLITS:
        heard = {name for clip in members if clip.split == split for *_, name in clip.target[2]}
        assert heard <= set(FUNCTIONS), (split, heard)
        assert len(heard) >= (len(FUNCTIONS) if split != "valid" else 5), (split, heard)


@pytest.mark.slow
def test_a_run_on_the_miniature_names_what_it_scores(bench, own_cache_with_miniatures):
    arguments = ("--model", "loudness", "--task", "harmonix-structure", "--mini", "--limit", 2, "--seeds", 1)
    ended = bench("run", *arguments, "--json", "--device", "cpu")
    assert ended.code == 0, ended.err
    scores = ended.record["scores"]
    assert list(scores) == [metric.name for metric in TASK.metrics]
    assert scores["structure_accuracy"]["main"]
    assert all(0 <= score[of] <= 1 for score in scores.values() for of in ("test", "trivial"))
    assert ended.record["selection"]["per_seed"][0]["setting"] in TASK.target.settings
    assert "left out" not in ended.err
