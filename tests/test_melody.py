"""Melody: mir_eval's own scores, the decoder, curves with every fault, and miniatures that can be solved."""

import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from f0_tracker import track
from marble_bench.tasks.corpora import f0, medleydb_melody, vocadito
from mir_eval import melody as reference

from marble_bench.core import plugins
from marble_bench.data import corpus
from marble_bench.errors import DataError, UsageError
from marble_bench.features.frames import Frames as StoredFrames
from marble_bench.features.frames import Sound
from marble_bench.features.store import Span
from marble_bench.metrics import melody, melody_metrics
from marble_bench.runs.frame_labels import Decoder, Scale, align_labels
from marble_bench.runs.kinds.frames import list_clips_without_value
from marble_bench.scoring import pitch_decoder
from marble_bench.scoring.frame_targets import BinPart, Frames

HOP_S = 256 / 44100
NAMES = ("Overall Accuracy", "Raw Pitch Accuracy", "Raw Chroma Accuracy", "Voicing Recall", "Voicing False Alarm")


def _draw_pair(random):
    """An annotation and an estimate at times of their own; some of it off by a little, an octave, or in voicing."""
    count = int(random.integers(20, 200))
    times = np.arange(count) * HOP_S + random.choice([0.0, 0.0, 0.046])
    hz = 110 * 2 ** (random.random() * 3) * (1 + 0.1 * random.random(count)) * (random.random(count) < 0.7)
    hop_s = random.choice([HOP_S, 0.01, 0.02])
    own = np.arange(0, times[-1], hop_s)
    guess = np.interp(own, times, np.where(hz > 0, hz, 220.0))
    guess *= 2 ** (random.normal(0, 40, len(own)) / 1200) * random.choice([0.5, 1, 1, 1, 2], len(own))
    return times, hz, own, guess * np.where(random.random(len(own)) < 0.7, 1, -1)


def test_scores_of_a_track_are_mir_evals():
    random = np.random.default_rng(0)
    for _ in range(200):
        pair = _draw_pair(random)
        expected = reference.evaluate(*pair)
        np.testing.assert_allclose(melody.measure_track(*pair), [expected[name] for name in NAMES], rtol=0, atol=1e-9)


def test_a_found_melody_is_scored_at_the_annotated_times_as_mir_eval_scores_the_file():
    random = np.random.default_rng(1)
    for first in [0, 8] * 20:
        pitches = [None if random.random() < 0.3 else float(random.uniform(40, 90)) for _ in range(300)]
        target = (
            tuple([None] * first + pitches),
            tuple([None] * first + [f0.UNVOICED if pitch is None else f0.VOICED for pitch in pitches]),
        )
        found = {"pitch": random.uniform(40, 90, 320), "voicing": (random.random(320) < 0.6).astype(float)}
        found["pitch"][first : first + 300] = [pitch or 60 for pitch in pitches] + random.normal(0, 0.5, 300)
        times = (first + np.arange(300)) / f0.LABELS_HZ
        hz = np.array([0 if pitch is None else 440 * 2 ** ((pitch - 69) / 12) for pitch in pitches])
        guess = 440 * 2 ** ((found["pitch"] - 69) / 12) * np.where(found["voicing"], 1, -1)
        expected = reference.evaluate(times, hz, np.arange(320) / f0.LABELS_HZ, guess)
        row = melody.MEASURE.of_clip(found, target)
        np.testing.assert_allclose(row, [expected[name] for name in NAMES], rtol=0, atol=1e-9)
        quick = melody.QUICK.of_clip(found, target)
        np.testing.assert_allclose(quick, [row[0], *[np.nan] * 4], rtol=0, atol=1e-9)


def _score(cents=0.0, voicing=None):
    """A melody of ten seconds, a quarter unvoiced, against itself moved by some cents."""
    times = np.arange(1000) * HOP_S
    hz = np.where(np.arange(1000) % 4 < 3, 220 * 2 ** (np.sin(times) / 2), 0)
    guess = np.where(hz > 0, hz * 2 ** (cents / 1200), 0) if voicing is None else np.where(hz > 0, hz, 220) * voicing
    return dict(zip(melody.COLUMNS, melody.measure_track(times, hz, times, guess), strict=True))


def test_an_octave_is_wrong_in_pitch_and_right_in_chroma():
    for octaves in (-1, 1, 2):
        found = _score(1200.0 * octaves)
        assert (found["rpa"], found["rca"], found["vr"], found["vfa"]) == (0, 1, 1, 0)
        assert found["oa"] == pytest.approx(0.25)  # the unvoiced share


def test_49_cents_are_right_and_51_are_wrong():
    assert [_score(cents)["rpa"] for cents in (-51, -49, 0, 49, 51)] == [0, 1, 1, 1, 0]
    assert [_score(cents)["oa"] for cents in (0, 51)] == [1, pytest.approx(0.25)]


def test_pitch_is_scored_where_it_is_found_unvoiced():
    found = _score(voicing=-1)
    assert (found["rpa"], found["vr"], found["vfa"]) == (1, 0, 0)
    assert found["oa"] == pytest.approx(0.25)
    found = _score(voicing=1)
    assert (found["rpa"], found["vr"], found["vfa"]) == (1, 1, 1)
    assert found["oa"] == pytest.approx(0.75)


def test_octave_errors_in_the_second_of_two_tracks_part_pitch_from_chroma():
    rows = torch.tensor(np.array([list(_score(cents).values()) for cents in (0.0, 1200.0)]))[None]
    scores = {metric.name: float(metric.compute(rows, torch.zeros(2))) for metric in melody_metrics}
    assert (scores["rpa"], scores["rca"]) == (0.5, 1.0)


def test_a_track_without_voice_has_no_pitch_score_and_is_left_out_of_the_mean_with_a_warning():
    silent = (None,) * 50, (f0.UNVOICED,) * 50
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        row = melody.MEASURE.of_clip({"pitch": np.full(50, 60.0), "voicing": np.arange(50) < 10}, silent)
    np.testing.assert_allclose(row, [0.8, np.nan, np.nan, np.nan, 0.2])
    rows = torch.tensor(np.array([row, list(_score().values())]))[None]
    scores = {metric.name: float(metric.compute(rows, torch.zeros(2))) for metric in melody_metrics}
    assert scores["oa"] == pytest.approx(0.9)
    assert (scores["rpa"], scores["rca"], scores["vr"]) == (1, 1, 1)
    drawn = melody_metrics[1].weighted(rows, torch.zeros(2), torch.tensor([[1, 1], [2, 0], [0, 2]]))
    np.testing.assert_array_equal(drawn[:, 0], [1, np.nan, 1])
    found = SimpleNamespace(outputs=rows, truth=torch.zeros(2), examples=SimpleNamespace(ids=["quiet", "song"]))
    told = list_clips_without_value(melody_metrics, found)
    assert told == [f"{name}: 1 of 2 test clips have no value: quiet" for name in ("rpa", "rca", "vr")]


def test_an_answer_that_is_too_short_is_an_error():
    with pytest.raises(UsageError, match="3 frames of a melody are answered, and frame 4 has a label"):
        melody.MEASURE.of_clip({"pitch": np.ones(3), "voicing": np.ones(3)}, ((60.0,) * 5, (f0.VOICED,) * 5))


def test_the_trivial_answer_is_the_median_pitch_everywhere_unvoiced():
    train = [((60.0, 62.0, None), (f0.VOICED, f0.VOICED, f0.UNVOICED)), ((70.0,), (f0.VOICED,))]
    (found,) = melody.MEASURE.trivial(train, [1.0])
    target = (62.2, 62.7, None, 50.0), (f0.VOICED, f0.VOICED, f0.UNVOICED, f0.VOICED)
    row = melody.MEASURE.of_clip(found, target)
    np.testing.assert_allclose(row, [1 / 4, 1 / 3, 2 / 3, 0, 0])  # 62 and 50 are an octave apart


def test_the_nearest_bin_is_always_right_and_a_semitone_is_not():
    """The ceiling: what a perfect probe of 20-cent bins is scored; a bin for each semitone fails half way between two."""
    random = np.random.default_rng(2)
    labels = np.concatenate([random.uniform(23.6, 95.4, 2000), np.arange(30, 90) + 0.5]).astype(np.float32)[:, None]
    times = np.arange(len(labels)) * HOP_S
    hz = melody.to_hz(labels[:, 0])

    def score(part):
        nearest = np.array(part.centres)[part.nearest(labels)[:, 0]]
        return melody.measure_track(times, hz, times, melody.to_hz(nearest))[1]

    assert score(pitch_decoder.PITCH) == 1.0
    semitones = BinPart("pitch", tuple(map(float, range(24, 96))))
    assert 0.9 < score(semitones) < 1


def test_labels_are_marbles_gaussian():
    """`MEDLEYDB_prober.one_hot` of MARBLE's branch, before its bins are made to add up to 1."""
    labels = np.array([[23.6], [40.03], [69.0], [95.4]], np.float32)
    distances = labels - np.array(pitch_decoder.CENTRES, np.float32)
    expected = np.exp(-(distances**2) / (2 * 0.18**2))
    expected[expected < 4e-3] = 0
    found = pitch_decoder.PITCH.spread(labels)
    np.testing.assert_allclose(found, expected / expected.sum(axis=1, keepdims=True), rtol=1e-4)
    assert ((found > 0).sum(axis=1) <= 6).all()
    beyond = pitch_decoder.PITCH.spread(np.array([[20.0], [110.0]], np.float32))  # no octave fold, no empty row
    np.testing.assert_array_equal(beyond.argmax(axis=1), [0, 359])
    np.testing.assert_array_equal(beyond.max(axis=1), [1, 1])


def test_a_cutoff_of_nothing_leaves_the_identity_of_a_task_as_it_was():
    before = ["BinPart", {"name": "pitch", "centres": (0.0, 1.0), "blur": 0.5, "loss": "bins"}]
    assert Frames((BinPart("pitch", (0.0, 1.0), 0.5),), rate_hz=4.0).facts()[0] == [before]
    cut = Frames((BinPart("pitch", (0.0, 1.0), 0.5, cutoff=0.1),), rate_hz=4.0)
    assert cut.facts()[0][0][1]["cutoff"] == 0.1


def test_the_decoded_pitch_is_the_weighted_mean_of_three_bins_as_marble_has_it():
    random = np.random.default_rng(3)
    activations = random.random((200, 360)).astype(np.float32) ** 8
    activations[:4] = 0
    activations[0, 0], activations[1, 359], activations[2, [10, 11]] = 1, 1, 1
    expected = []
    for row in activations:  # `est_notes_fn` of MARBLE's branch, frame by frame
        peak = int(row.argmax())
        near = [k for k in (peak - 1, peak, peak + 1) if 0 <= k < 360]
        weights = [float(row[k]) for k in near]
        mean = sum(weight * k / 5 for weight, k in zip(weights, near, strict=True)) / max(1e-3, sum(weights))
        expected.append(23.6 + mean)
    np.testing.assert_allclose(pitch_decoder.average_peak(activations), expected, rtol=0, atol=1e-6)


def test_what_is_learnt_decodes_to_the_label_and_voicing_follows_the_threshold():
    labels = np.random.default_rng(4).uniform(24, 95, (500, 1)).astype(np.float32)
    clip = {"pitch": pitch_decoder.PITCH.spread(labels), "voicing": np.linspace(0, 1, 500)[:, None]}
    for threshold in (0.2, 0.6):
        (found,) = pitch_decoder.find([clip], f0.LABELS_HZ, threshold)
        assert np.abs(found["pitch"] - labels[:, 0]).max() < 0.1
        assert found["voicing"].mean() == pytest.approx(1 - threshold, abs=0.01)
    assert list(pitch_decoder.find([{"pitch": clip["pitch"]}], 1.0, 0.5)[0]) == ["pitch"]


# Curves on disk.


def test_a_curve_is_read_at_its_own_times(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("".join(f"{k / f0.LABELS_HZ},{hz}\n" for k, hz in ((2, 0.0), (3, 440.0), (4, 220.0), (7, 0))))
    pitches, voicing = f0.read_curve(path)
    assert pitches == (None, None, None, 69.0, 57.0, None, None, None)
    assert voicing == (None, None, (), ("voiced",), ("voiced",), None, None, ())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no line: a curve has a time and a frequency in each"),
        ("time,f0\n0,0\n", "line 1: is 'time,f0': a line has a time in seconds and a frequency in Hz"),
        ("0,0\n0.0058\n", "line 2: is '0.0058': a line has"),
        ("0,0,0\n", "line 1: is '0,0,0': a line has"),
        ("0,0\n0.0058,-220\n", "line 2: the frequency is -220 Hz"),
        ("0,0\n0.0058,nan\n", "line 2: is '0.0058,nan': a line has"),
        ("0,0\n0.0058,2_20\n", "line 2: is '0.0058,2_20': a line has"),
        ("0,0\n0.0058,٢٢٠\n", "line 2: is '0.0058,٢٢٠': a line has"),
        ("0,0\n0.0058,5\n", "line 2: the frequency is 5 Hz: give 0, or 16 to 8000; not MIDI numbers?"),
        ("0,0\n0,0\n", "line 2: 0 s is not behind the line before by 0.0058 s"),
        ("0,0\n0.001,0\n", "line 2: 0.001 s is not behind the line before"),
        ("-1,0\n", "line 1: the time is -1 s, none of a recording"),
        ("0,0\n58000,0\n", "line 2: the time is 58000 s, none of a recording; milliseconds, perhaps?"),
        ("nan,0\n", "line 1: is 'nan,0': a line has"),
    ],
)
def test_a_bad_curve_is_named_with_what_is_wrong(tmp_path, text, words):
    path = vocadito.find_curve(tmp_path, "7")
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        list(vocadito.clips(tmp_path))
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("layout", ["MedleyDB-Melody", "MedleyDB"])
def test_medleydb_is_found_in_both_layouts(tmp_path, layout):
    name = "Phoenix_ScotchMorris"
    curve, mix = {
        "MedleyDB-Melody": (f"melody2/{name}_MELODY2.csv", f"audio/{name}_MIX.wav"),
        "MedleyDB": (f"Annotations/Melody/Melody2/{name}_MELODY2.csv", f"V1/{name}/{name}_MIX.wav"),
    }[layout]
    for path in (curve, mix):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("0,440\n")
    (clip,) = medleydb_melody.clips(tmp_path)
    assert (clip.id, clip.split, clip.target) == (name, "test", ((69.0,), (("voiced",),)))
    assert medleydb_melody.locate(tmp_path, clip.audio) == tmp_path / mix


def test_without_curves_the_user_is_told_what_the_folder_should_hold(tmp_path):
    for module in (vocadito, medleydb_melody):
        with pytest.raises(DataError, match="should hold"):
            list(module.clips(tmp_path))
        with pytest.raises(DataError, match="--data-dir"):
            list(module.clips(None))


# Splits.


def _split_artists(column):
    found = {}
    for row in medleydb_melody.tracks():
        found.setdefault(row[column], []).append(row["track"].split("_")[0])
    return {split: (len(artists), set(artists)) for split, artists in found.items()}


def test_marbles_split_leaks_three_artists_and_the_other_column_none():
    published, apart = _split_artists("split"), _split_artists("split_by_artist")
    assert {split: count for split, (count, _) in published.items()} == {"train": 67, "valid": 15, "test": 26}
    assert published["train"][1] & published["test"][1] == {"MatthewEntwistle", "Mozart", "MusicDelta"}
    leaking = [row for row in medleydb_melody.tracks() if row["split"] == "test" and row["track"].startswith("M")]
    assert len(leaking) == 10
    assert {split: count for split, (count, _) in apart.items()} == {"train": 71, "valid": 15, "test": 22}
    sets = [artists for _, artists in apart.values()]
    assert len(set.union(*sets)) == sum(map(len, sets))


def test_the_variant_of_the_docs_separates_artists(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "frame-by-frame.md").read_text()
    block = page.split("# melody_by_artist.py\n")[1].split("```")[0]
    (tmp_path / "melody_by_artist.py").write_text(block)
    task = plugins.find_task(str(tmp_path / "melody_by_artist.py")).task
    (tmp_path / "melody2").mkdir()
    for row in medleydb_melody.tracks():
        (tmp_path / "melody2" / f"{row['track']}_MELODY2.csv").write_text("0,440\n")
    assert Counter(clip.split for clip in task.clips(tmp_path)) == task.counts
    published = plugins.find_task("medleydb-melody").task
    assert Counter(clip.split for clip in published.clips(tmp_path)) == published.counts


def test_no_singer_of_vocadito_is_in_two_folds_and_folds_are_equal():
    folds = {}
    for row in vocadito.tracks():
        folds.setdefault((row["fold"], row["split"]), []).append(row["singer"])
    assert {key: len(singers) for key, singers in folds.items()} == {
        **{(str(fold), "train"): 8 for fold in range(3)},
        ("3", "valid"): 8,
        ("4", "test"): 8,
    }
    assert sum(len(set(singers)) for singers in folds.values()) == len(set().union(*folds.values())) == 29


# Miniatures.


@pytest.mark.slow
@pytest.mark.parametrize(("name", "steady_s"), [("vocadito-f0", 0.0), ("medleydb-melody", 2.2)])
def test_the_miniature_can_be_solved_from_its_sound(name, steady_s, tmp_path):
    """The tracker of `f0_tracker`, with a threshold of salience that is best on the validation split."""
    named = plugins.find_task(name)
    root = corpus.ensure_mini(named.task.corpus, tmp_path)
    clips = list(named.task.clips(root))
    heard = {
        clip.id: track(named.task.corpus.locate(root, clip.audio), f0.LABELS_HZ, steady_s)
        for clip in clips
        if clip.split != "train"
    }

    def score(split, threshold):
        rows = []
        for clip in clips:
            if clip.split == split:
                pitches, salience = heard[clip.id]
                found = {"pitch": pitches, "voicing": salience >= threshold * np.median(salience)}
                rows.append(melody.MEASURE.of_clip(found, clip.target))
        return np.nanmean(rows, axis=0)

    best = max(np.linspace(0.3, 1.2, 37), key=lambda threshold: score("valid", threshold)[0])
    oa, rpa, _, _, _ = score("test", best)
    (constant,) = melody.MEASURE.trivial([clip.target for clip in clips if clip.split == "train"], [f0.MINI_S])
    trivial = np.nanmean([melody.MEASURE.of_clip(constant, c.target) for c in clips if c.split == "test"], axis=0)
    assert (oa - trivial[0]) / (1 - trivial[0]) > 0.9
    assert (rpa - trivial[1]) / (1 - trivial[1]) > 0.9


def test_labels_finer_than_common_features_are_those_in_the_middle_of_a_frame_and_answers_those_around():
    """A frame of 20 ms is of a stretch, a label of a moment: neither comes half a frame late."""
    pitches = tuple(40 + 0.01 * k for k in range(600))
    encoded = [
        part.encode(pitches if part is pitch_decoder.PITCH else (f0.VOICED,) * 600, "") for part in f0.TARGET.parts
    ]
    taken = align_labels(f0.TARGET, encoded, 170, f0.FEATURES_HZ)
    middles_s = (np.arange(170) + 0.5) / f0.FEATURES_HZ
    found = pitch_decoder.average_peak(taken[:, :360])
    exact = 40 + 0.01 * middles_s * f0.LABELS_HZ
    assert np.abs(found - exact).max() < 0.045  # half a label, and what three bins cut off
    assert abs((found - exact).mean()) < 0.005

    sounds = [Sound("a", Span("a", "0:"), 3.4, lambda rate: None)]
    split = SimpleNamespace(features=StoredFrames([], sounds, [f0.FEATURES_HZ]))
    decoder = Decoder(f0.TARGET, None, Scale(), "cpu")
    outputs = np.repeat(np.arange(170.0)[:, None], 361, axis=1)
    answers = decoder._select_activations(outputs, f0.FEATURES_HZ, split, 0, None)["pitch"][:, 0]
    times_s = np.arange(len(answers)) / f0.LABELS_HZ
    np.testing.assert_array_equal(answers, np.floor(times_s * f0.FEATURES_HZ + 1e-6))


def test_at_equal_rates_label_and_frame_are_of_the_same_number():
    for rate in (50.0, 23.4, 44100 / 256):
        target = Frames((pitch_decoder.PITCH,), rate_hz=rate, feature_rate_hz=rate)
        rows = np.linspace(30, 90, 400, dtype=np.float32)[:, None]
        np.testing.assert_array_equal(
            align_labels(target, [rows], 400, rate), pitch_decoder.PITCH.spread(rows), err_msg=str(rate)
        )
