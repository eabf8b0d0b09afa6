"""Scores of song structure against mir_eval: on random songs, on its own fixtures, and on shifts of known size."""

import json
import math
import warnings
from pathlib import Path

import mir_eval
import numpy as np
import pytest
import torch

from marble_bench.metrics import structure_metrics
from marble_bench.metrics.structure import (
    COLUMNS,
    FUNCTIONS,
    LABELS_HZ,
    MEASURE,
    QUICK,
    measure_boundaries,
    measure_pairs,
)

GOLDEN = Path(__file__).parent / "golden" / "structure" / "mir_eval.json"
BY_NAME = {metric.name: metric for metric in structure_metrics}
HITS = [
    (f"hr{name}_f_{how}", window, how == "trimmed")
    for name, window in (("05", 0.5), ("3", 3))
    for how in ("untrimmed", "trimmed")
]


def _song(edges, functions):
    """A target of a song by its boundaries and the indices of its functions."""
    segments = tuple(
        (float(start), float(end), FUNCTIONS[function])
        for start, end, function in zip(edges[:-1], edges[1:], functions, strict=True)
    )
    frames = [
        next((name for start, end, name in segments if start <= (k + 0.5) / LABELS_HZ < end), None)
        for k in range(math.ceil(edges[-1] * LABELS_HZ))
    ]
    return tuple(frames), tuple(map(float, edges)), segments


def _answer(boundaries, functions, length_s):
    """What a decoder finds: boundaries in seconds and the index of the function of each stretch between them."""
    places = np.searchsorted(boundaries, (np.arange(math.ceil(length_s * LABELS_HZ)) + 0.5) / LABELS_HZ, side="right")
    functions = np.asarray(functions)
    return {
        "boundary": np.asarray(boundaries, float),
        "segment_function": functions,
        "frame_function": functions[places],
    }


def _draw(random):
    """A random song of one to twelve segments, and an answer."""
    count = int(random.integers(1, 13))
    edges = random.uniform(0, 2) + np.concatenate([[0], np.cumsum(random.uniform(0.7, 30, count))])
    near = edges + random.normal(0, random.choice([0.1, 0.6, 3]), len(edges))
    found = np.unique(np.clip(near[random.random(len(near)) < 0.8], 0.1, None))
    target = _song(edges, random.integers(0, 7, count))
    return target, _answer(found, random.integers(0, 7, len(found) + 1), edges[-1] + 1)


def _expect(target, found):
    """The same scores by mir_eval alone."""
    reference = np.array([(start, end) for start, end, _ in target[2]])
    labels = [name for *_, name in target[2]]
    edges = np.concatenate([[0.0], found["boundary"], [1e4]])
    estimate, names = mir_eval.util.adjust_intervals(
        mir_eval.util.boundaries_to_intervals(edges),
        [FUNCTIONS[each] for each in found["segment_function"]],
        t_min=reference.min(),
        t_max=reference.max(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what has no boundary between the first and the last
        scores = {
            name: mir_eval.segment.detection(reference, estimate, window=window, trim=trim)[2]
            for name, window, trim in HITS
        }
    if len(reference) == 1:
        scores |= {name: math.nan for name, _, trim in HITS if trim}
    merged, left, right = mir_eval.util.merge_labeled_intervals(reference, labels, estimate, names)
    durations = mir_eval.util.intervals_to_durations(merged)
    same = np.array([one == other for one, other in zip(left, right, strict=True)], float)
    scores["structure_accuracy_by_song"] = mir_eval.chord.weighted_accuracy(same, durations)
    start = reference.min()
    scores["pairwise_f"] = mir_eval.segment.pairwise(reference - start, labels, estimate - start, names)[2]
    return scores


@pytest.mark.slow
def test_two_hundred_random_songs_score_what_mir_eval_says():
    random = np.random.default_rng(0)
    seen = []
    for _ in range(200):
        target, found = _draw(random)
        rows = MEASURE.rows([found], [target])[None]
        expected = _expect(target, found)
        for name, value in expected.items():
            score = float(BY_NAME[name].compute(rows, torch.zeros(1)))
            assert score == pytest.approx(value, abs=1e-9, nan_ok=True), (name, target, found)
        seen.append(list(expected.values()))
    assert np.nanstd(seen, axis=0).min() > 0.1  # none of them is the same for all songs


def test_mir_evals_own_fixtures_have_their_own_scores():
    for each in json.loads(GOLDEN.read_text(encoding="utf-8")):
        both = {}
        for side in ("ref", "est"):
            intervals, names = np.array([row[:2] for row in each[side]]), [row[2] for row in each[side]]
            end = None if side == "ref" else max(row[1] for row in each["ref"])
            intervals, names = mir_eval.util.adjust_intervals(intervals, names, t_min=0, t_max=end)
            numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
            both[side] = np.append(intervals[:, 0], intervals[-1, 1]), np.array([numbers[name] for name in names])
        narrow, _, wide, _ = measure_boundaries(both["ref"][0], both["est"][0])
        assert narrow == pytest.approx(each["scores"]["F-measure@0.5"], abs=1e-9)
        assert wide == pytest.approx(each["scores"]["F-measure@3.0"], abs=1e-9)
        assert measure_pairs(both["ref"], both["est"]) == pytest.approx(each["scores"]["Pairwise F-measure"], abs=1e-9)


@pytest.mark.parametrize(
    ("shift_s", "narrow", "wide"), [(0.4, 1, 1), (-0.4, 1, 1), (0.6, 0, 1), (-0.6, 0, 1), (3.1, 0, 0)]
)
def test_a_shift_costs_the_boundaries_that_leave_the_tolerance(shift_s, narrow, wide):
    edges = np.array([0.0, 20, 47, 61, 90])
    target = _song(edges, [0, 1, 2, 5])
    found = _answer(edges[1:-1] + shift_s, [0, 1, 2, 5], 90)
    values = dict(zip(COLUMNS, MEASURE.rows([found], [target])[0].tolist(), strict=True))
    assert (values["hr05_trimmed"], values["hr3_trimmed"]) == (narrow, wide)
    assert values["hr05_untrimmed"] == pytest.approx(1 if narrow else 0.4)  # the two ends of five are always found
    assert values["accuracy"] == pytest.approx(1 - 3 * abs(shift_s) / 90)


def test_a_song_in_which_nothing_is_found_scores_above_zero_untrimmed_alone():
    target = _song([0.0, 10, 20, 30], [0, 1, 2])
    values = dict(zip(COLUMNS, MEASURE.rows([_answer([], [1], 30)], [target])[0].tolist(), strict=True))
    assert values["hr05_untrimmed"] == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert values["hr05_trimmed"] == values["hr3_trimmed"] == 0
    assert values["accuracy"] == pytest.approx(1 / 3)


def test_a_song_of_one_segment_is_left_out_of_the_trimmed_means():
    one, two = _song([0.5, 30], [2]), _song([0.0, 10, 30], [0, 1])
    rows = MEASURE.rows([_answer([], [2], 30), _answer([10], [0, 1], 30)], [one, two])[None]
    assert math.isnan(rows[0, 0, COLUMNS.index("hr05_trimmed")])
    for metric in structure_metrics:
        assert float(metric.compute(rows, torch.zeros(2))) == 1, metric.name


def test_what_lies_outside_the_annotation_counts_nowhere():
    target = _song([5.0, 10, 20], [3, 4])
    plain, more = _answer([10], [3, 4], 40), _answer([2, 4.9, 10, 20.2, 33], [0, 1, 3, 4, 0, 6], 40)
    one, other = (MEASURE.rows([found], [target])[0] for found in (plain, more))
    assert one.tolist() == other.tolist()


def test_durations_are_pooled_and_songs_averaged():
    songs = [_song([0.0, 10], [0]), _song([0.0, 90], [1])]
    rows = MEASURE.rows([_answer([], [0], 10), _answer([], [0], 90)], songs)[None]
    assert float(BY_NAME["structure_accuracy"].compute(rows, torch.zeros(2))) == pytest.approx(0.1)
    assert float(BY_NAME["structure_accuracy_by_song"].compute(rows, torch.zeros(2))) == 0.5


def test_songs_drawn_again_score_as_if_they_were_there_twice():
    random = np.random.default_rng(1)
    songs = [_draw(random) for _ in range(6)]
    rows = MEASURE.rows([found for _, found in songs], [target for target, _ in songs])
    weights = torch.tensor([[1, 0, 2, 0, 3, 0], [0, 1, 1, 1, 1, 2]])
    for metric in structure_metrics:
        scores = metric.weighted(rows[None], torch.zeros(6), weights)
        for row, score in zip(weights, scores[:, 0].tolist(), strict=True):
            again = rows.repeat_interleave(row, dim=0)[None]
            assert score == pytest.approx(float(metric.compute(again, torch.zeros(again.shape[1])))), metric.name


def test_the_quick_measure_chooses_by_the_same_score():
    random = np.random.default_rng(2)
    songs = [_draw(random) for _ in range(5)]
    found, targets = [found for _, found in songs], [target for target, _ in songs]
    main = structure_metrics[0]
    assert main.chooses is QUICK
    whole, quick = (measure.rows(found, targets)[None] for measure in (MEASURE, QUICK))
    assert float(main.compute(whole, torch.zeros(5))) == float(main.compute(quick, torch.zeros(5))) > 0


def test_the_trivial_answer_is_the_longest_function_with_a_boundary_every_15_s():
    train = [_song([0.0, 5, 10, 15, 60], [1, 0, 1, 2]), _song([0.0, 10, 20, 30], [1, 0, 1])]  # most segments are verses
    (found,) = MEASURE.trivial(train, [40.2])
    assert found["boundary"].tolist() == [15, 30]
    assert (
        set(found["segment_function"].tolist()) == set(found["frame_function"].tolist()) == {FUNCTIONS.index("chorus")}
    )
    values = dict(zip(COLUMNS, MEASURE.rows([found], [_song([0.0, 14.6, 40], [2, 0])])[0].tolist(), strict=True))
    assert values["accuracy"] == pytest.approx(14.6 / 40)
    assert values["hr05_trimmed"] == pytest.approx(2 / 3)
    assert values["frames_right"] == 29  # the middle of the thirtieth frame is at 14.75 s


def test_a_song_whose_segments_are_all_behind_its_audio_counts_nowhere():
    song, found = _song([0, 10, 20], [1, 2]), _answer([12.0], [1, 2], 20.0)
    empty = ((*[None] * 39, "intro"), (), ())
    measure = structure_metrics[0].measure
    both = measure.rows([found, found], [song, empty])
    quick = structure_metrics[0].chooses.rows([found, found], [song, empty])
    truth = torch.zeros(2)
    for metric in structure_metrics:
        assert metric.compute(both[None], truth).tolist() == metric.compute(both[None, :1], truth[:1]).tolist()
    main = structure_metrics[0]
    assert main.compute(quick[None], truth).tolist() == main.compute(both[None], truth).tolist()
    assert measure.trivial([song, empty], [20.0])[0]["segment_function"].tolist() == [1, 1]
