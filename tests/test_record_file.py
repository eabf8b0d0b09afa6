"""Predictions in a record's files come back as the metric reads them, whatever kind of answer they are."""

import numpy as np
import pandas as pd
import pytest
import torch
from made_records import make

from marble_bench.errors import DataError
from marble_bench.metrics import Metric
from marble_bench.records import record_file, results
from marble_bench.scoring import statistics


def _pooled(outputs, truth):
    hits, estimated, reference = outputs.sum(dim=-2).unbind(-1)
    return 2 * hits / (estimated + reference)


def _mean(outputs, truth):
    return outputs[..., 0].nanmean(dim=-1)


POOLED_F = Metric("f1", "events", _pooled, lambda o, t: o[..., 0], "counts of each track, pooled")
MEAN_DB = Metric(
    "sdr", "stems", _mean, lambda o, t: o[..., 0], "decibels of each track, NaN where a stem is silent", unit="dB"
)


def _table(path, truth_of, outputs_of, tracks=12, seeds=2):
    """Predictions as a task of events or stems writes them: clips in no order, what was measured of each in `outputs`."""
    order = np.random.default_rng(0).permutation(tracks)
    rows = [
        {"split": "test", "seed": seed, "clip": f"t{index:02}", "group": f"t{index:02}", "truth": truth_of(index),
         "outputs": outputs_of(seed, index)}
        for seed in range(seeds) for index in order
    ]  # fmt: skip
    pd.DataFrame(rows).to_parquet(results.find_table_path(path, "predictions"), index=False)


@pytest.fixture
def one(tmp_path):
    """A record whose predictions a test replaces."""
    path = make(tmp_path / "results", "one")
    return results.read(path)


def test_beats_are_counts_of_each_track_and_times_of_any_number(one, monkeypatch):
    monkeypatch.setattr(record_file, "find_metric", lambda record, name: (POOLED_F, "clip"))
    _table(one.path, lambda i: [0.5 * k for k in range(20 + i)], lambda s, i: [15.0 + i - s, 20.0, 20.0 + i])
    found = record_file.read_predictions(one, "f1")
    assert found.outputs.shape == (2, 12, 3)
    assert found.items == [f"t{i:02}" for i in range(12)]
    hits = np.array([[15 + i - s for i in range(12)] for s in range(2)])
    expected = 2 * hits.sum(axis=1) / (12 * 20 + sum(20 + i for i in range(12)))
    assert found.metric.compute(found.outputs, found.truth).tolist() == pytest.approx(expected.tolist())
    assert record_file.are_alike([found, found])
    low, high = statistics.bootstrap_interval(found.metric, found.outputs, found.truth, found.groups)
    assert low < expected.mean() < high


def test_a_silent_stem_has_no_score_and_a_mixture_no_truth(one, monkeypatch):
    monkeypatch.setattr(record_file, "find_metric", lambda record, name: (MEAN_DB, "clip"))
    _table(one.path, lambda i: [], lambda s, i: [float("nan") if i == 3 else 4.0 + i / 10])
    found = record_file.read_predictions(one, "sdr")
    assert found.truth.shape == (12, 0)
    expected = np.mean([4.0 + i / 10 for i in range(12) if i != 3])
    assert found.metric.compute(found.outputs, found.truth).tolist() == pytest.approx([expected] * 2)
    low, high = statistics.bootstrap_interval(found.metric, found.outputs, found.truth, found.groups)
    assert low < expected < high


def test_tracks_with_other_beats_are_not_the_same_tracks(one, monkeypatch):
    monkeypatch.setattr(record_file, "find_metric", lambda record, name: (POOLED_F, "clip"))
    found = []
    for shift in (0.0, 0.1):
        _table(one.path, lambda i, shift=shift: [shift + k for k in range(9)], lambda s, i: [5.0, 9.0, 9.0])
        found.append(record_file.read_predictions(one, "f1"))
    assert not record_file.are_alike(found)


def test_answers_come_back_to_the_last_digit(one):
    found = record_file.read_predictions(one, "accuracy")
    score = one.record.scores["accuracy"]
    assert found.metric.compute(found.outputs, found.truth).tolist() == list(score.per_seed)
    assert found.outputs.dtype == torch.float32
    assert list(statistics.bootstrap_interval(found.metric, found.outputs, found.truth, found.groups)) == pytest.approx(
        score.ci95
    )


def test_seeds_with_other_clips_are_an_error(one):
    frame = pd.read_parquet(results.find_table_path(one.path, "predictions"))
    frame.iloc[:-1].to_parquet(results.find_table_path(one.path, "predictions"), index=False)
    with pytest.raises(DataError, match="seeds have not the same clips"):
        record_file.read_predictions(one, "accuracy")


def test_what_is_not_stored_is_none(one):
    assert record_file.find_metric(one.record, "weighted_ensemble") is None
    assert record_file.read_predictions(one, "no_such_score") is None
    results.find_table_path(one.path, "predictions").unlink()
    assert record_file.read_predictions(one, "accuracy") is None


@pytest.mark.slow
def test_scores_by_recording_are_made_of_outputs_averaged_over_its_clips(tmp_path):
    path = make(tmp_path / "results", "one", task="vocalset-singer", mini=True)
    table = results.find_table_path(path, "predictions")
    frame = pd.read_parquet(table)
    # two clips to a recording, with one truth
    frame = frame[frame["split"] == "test"]
    pairs = {clip: f"r{index // 2}" for index, clip in enumerate(sorted(frame["clip"].unique()))}
    frame["group"] = frame["clip"].map(pairs)
    first = frame.drop_duplicates("group").set_index("group")["truth"]
    frame["truth"] = frame["group"].map(first)
    frame.to_parquet(table, index=False)
    found = record_file.read_predictions(results.read(path), "accuracy_recording")
    assert found.outputs.shape[1] == 30
    one_seed = frame[frame["seed"] == 0]
    means = one_seed.groupby("group")["outputs"].apply(lambda rows: np.mean(np.stack(list(rows)), axis=0))
    right = [means[group].argmax() == first[group][0] for group in found.items]
    assert float(found.metric.compute(found.outputs, found.truth)[0]) == pytest.approx(np.mean(right))
