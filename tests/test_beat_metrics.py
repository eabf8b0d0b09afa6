"""Beat metrics against mir_eval, on random beats and on known ones."""

import mir_eval
import numpy as np
import pytest
import torch

from marble_bench.metrics import beat_metrics
from marble_bench.metrics.beats import COLUMNS, measure

BY_NAME = {metric.name: metric for metric in beat_metrics}


def _beats(random, bpm, jitter_s=0.0, length_s=30.0):
    times = np.arange(0.3, length_s, 60 / bpm)
    return np.sort(times + jitter_s * random.standard_normal(len(times)).clip(-2, 2))


def _tracks(count=12):
    random = np.random.default_rng(5)
    tracks = []
    for index in range(count):
        truth = _beats(random, 60 + 10 * index)
        found = _beats(random, (60 + 10 * index) * (2 if index % 4 == 0 else 1), 0.03)
        tracks.append((found, truth, None if index % 3 == 0 else truth[::4]))
    return tracks


def _score(name, tracks):
    rows = np.stack([measure((found, found[::4]), (truth, bars)) for found, truth, bars in tracks])
    outputs = torch.from_numpy(rows)[None]
    return float(BY_NAME[name].compute(outputs, torch.zeros(len(rows))))


@pytest.mark.parametrize(("name", "window"), [("f1", 0.07), ("f1_20ms", 0.02)])
def test_pooled_f_is_that_of_mir_evals_matches_over_all_tracks(name, window):
    tracks = _tracks()
    hits = sum(len(mir_eval.util.match_events(truth, found, window)) for found, truth, _ in tracks)
    found, truth = (sum(len(track[which]) for track in tracks) for which in (0, 1))
    assert 0 < hits < found
    precision, recall = hits / found, hits / truth
    assert _score(name, tracks) == pytest.approx(2 * precision * recall / (precision + recall))


def test_scores_by_track_are_mir_evals_after_five_seconds():
    tracks = [(mir_eval.beat.trim_beats(found), mir_eval.beat.trim_beats(truth)) for found, truth, _ in _tracks()]
    expected = np.mean([mir_eval.beat.f_measure(truth, found) for found, truth in tracks])
    assert _score("f1_mean", _tracks()) == pytest.approx(expected)
    every = np.mean([mir_eval.beat.continuity(truth, found) for found, truth in tracks], axis=0)
    for name, value in zip(("cmlc", "cmlt", "amlc", "amlt"), every, strict=True):
        assert _score(name, _tracks()) == pytest.approx(value)
    assert every[1] < every[3]  # a quarter of the tracks are found at double tempo, which AML allows


def test_downbeats_are_counted_where_they_are_annotated():
    tracks = _tracks()
    there = [(found[::4], bars) for found, _, bars in tracks if bars is not None]
    hits = sum(len(mir_eval.util.match_events(bars, found, 0.07)) for found, bars in there)
    expected = 2 * hits / sum(len(found) + len(bars) for found, bars in there)
    assert _score("downbeat_f1", tracks) == pytest.approx(expected)


def test_beats_60_ms_late_keep_the_wide_score_and_lose_the_strict_one():
    random = np.random.default_rng(0)
    tracks = [(truth + 0.06, truth, None) for truth in (_beats(random, bpm) for bpm in (70, 120, 170))]
    assert _score("f1", tracks) == 1
    assert _score("f1_20ms", tracks) == 0


def test_a_track_without_annotated_beats_behind_five_seconds_is_left_out_of_the_means():
    row = measure((np.array([1.0, 2.0]), np.empty(0)), (np.array([1.0, 2.0]), None))
    values = dict(zip(COLUMNS, row.tolist(), strict=True))
    assert (values["hits"], values["found"], values["annotated"]) == (2, 2, 2)
    assert np.isnan(values["f1_mean"])
    assert np.isnan(values["cmlt"])
    tracks = [*_tracks(4), (np.array([1.0, 2.0]), np.array([1.0, 2.0]), None)]
    assert _score("f1_mean", tracks) == _score("f1_mean", _tracks(4))


def test_nothing_found_scores_nothing():
    truth = np.arange(0.5, 30, 0.5)
    row = measure((np.empty(0), np.empty(0)), (truth, truth[::4]))
    assert row.tolist() == [0, 0, 0, len(truth), 0, 0, 0, 0, 0, 0, 0, len(truth[::4])]


@pytest.mark.parametrize("name", list(BY_NAME))
def test_tracks_counted_by_weight_score_as_tracks_repeated(name):
    rows = torch.from_numpy(np.stack([measure((f, f[::4]), (t, bars)) for f, t, bars in _tracks(6)]))[None]
    weights = torch.tensor([[2, 0, 1, 1, 0, 3], [1, 1, 1, 1, 1, 1]])
    found = BY_NAME[name].weighted(rows, torch.zeros(6), weights)
    for replicate, counts in zip(found, weights, strict=True):
        drawn = rows[:, torch.arange(6).repeat_interleave(counts)]
        assert torch.allclose(replicate, BY_NAME[name].compute(drawn, torch.zeros(drawn.shape[1])))
