"""Ranks by cosine: the faults that published retrieval numbers carried, scikit-learn's average precision, exact chance."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from marble_bench.errors import DataError
from marble_bench.metrics import _ranking, ranking_metrics
from marble_bench.metrics._ranking import centre, find_copies, find_twins, measure, measure_chance, rank, whiten
from marble_bench.scoring.targets import Ranking


def score(vectors, works, ids=None, seed=0):
    """Every metric of plain vectors, by name."""
    ids = ids or [f"clip{place:04}" for place in range(len(works))]
    rows = rank(np.asarray(vectors, np.float64), ids, works, seed).rows()
    wide = torch.from_numpy(np.concatenate([rows, rows[:, [0, 0]]], axis=1))[None]
    return {metric.name: float(metric.compute(wide, torch.zeros(len(works)))[0]) for metric in ranking_metrics}


def pairs(count):
    return [f"work{place // 2}" for place in range(2 * count)]


def made(random, works, width=16, spread=1.0):
    """Versions of a work around a point of its own."""
    points = {work: random.normal(size=width) for work in sorted(set(works))}
    return np.stack([points[work] + spread * random.normal(size=width) for work in works])


# The seven known faults.


def test_1_perfect_pairs_score_one_and_a_miss_at_rank_two_scores_what_is_left():
    angles = np.array([0.0, 0.1, 2.0, 2.1])
    near = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = score(near, pairs(2))
    assert found["map"] == found["hit_at_1"] == found["r_precision"] == found["mr1"] == 1
    assert found["p_at_10"] == pytest.approx(0.1)
    angles = np.array([0.5, 0.0, 0.8, 1.3])  # the first of either pair is nearest to that of the other
    near = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert [each.tolist() for each in rank(near, list("abcd"), pairs(2)).ranks] == [[2], [1], [2], [1]]
    assert score(near, pairs(2))["map"] == 0.75


def test_2_an_item_is_no_hit_of_itself():
    # every item is alone at its own place: were it among its hits, the mean would be above chance by a half
    random = np.random.default_rng(0)
    found = [score(random.normal(size=(60, 8)), pairs(30))["map"] for _ in range(30)]
    assert np.mean(found) == pytest.approx(measure_chance(59, 1)[0], abs=0.02)


def test_3_byte_copies_within_a_work_are_found_and_twins_are_named():
    ids, works, digests = ["d", "a", "b", "c", "e"], ["w", "w", "w", "v", "w"], ["1", "1", "2", "1", ""]
    assert find_copies(ids, works, digests) == ["d"]
    assert find_copies(["a", "b"], ["w", "w"], ["", ""]) == []
    random = np.random.default_rng(1)
    vectors = random.normal(size=(300, 8))
    vectors[280] = 3 * vectors[7]
    assert find_twins(vectors, [str(place) for place in range(300)]) == [("7", "280")]


def test_4_self_is_left_out_by_id_where_it_is_not_the_nearest():
    vectors = np.ones((4, 3))  # all ties: who drops the first hit drops one that counts
    found = rank(vectors, list("abcd"), pairs(2))
    assert all(len(ranks) == 1 and 1 <= ranks[0] <= 3 for ranks in found.ranks)


def test_5_a_query_without_a_relevant_item_has_no_value_and_does_not_count():
    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    rows = rank(vectors, list("abc"), ["w", "w", "alone"]).rows()
    assert np.isnan(rows[2]).all()
    assert np.isfinite(rows[:2]).all()
    assert score(vectors, ["w", "w", "alone"])["map"] == 1


def test_6_identical_vectors_give_chance():
    works = pairs(80)
    equal = np.tile(np.random.default_rng(2).normal(size=33), (160, 1))
    found = [score(equal, works, seed=seed) for seed in range(40)]
    mean = {name: np.mean([each[name] for each in found]) for name in ("map", "mr1", "p_at_10", "hit_at_1")}
    # 40 x 160 draws: the standard error of `map` is .0016, that of `mr1` .57
    assert mean["map"] == pytest.approx(0.0355, abs=0.005)
    assert mean["mr1"] == pytest.approx(80.0, abs=2)
    assert mean["p_at_10"] == pytest.approx(0.0063, abs=0.001)
    assert mean["hit_at_1"] == pytest.approx(1 / 159, abs=0.004)
    assert len({each["map"] for each in found}) > 1


def test_7_neither_the_order_of_items_nor_the_scale_of_vectors_moves_a_score():
    random = np.random.default_rng(3)
    works = [f"work{place % 37}" for place in range(150)]
    vectors = made(random, works, spread=2.0).round(1)
    vectors[40:60] = vectors[20:40]  # with ties
    ids, before = [f"clip{place}" for place in range(150)], None
    before = score(vectors, works, ids)
    for order in (np.arange(150)[::-1], random.permutation(150)):
        moved = score(vectors[order], [works[at] for at in order], [ids[at] for at in order])
        assert moved == pytest.approx(before, abs=1e-12)
    scaled = score(vectors * random.uniform(0.01, 100, (150, 1)), works, ids)
    assert scaled == pytest.approx(before, abs=1e-3)  # the last bit of a vector's length may part a tie


# Beyond them.


@pytest.mark.parametrize("case", range(20))
def test_average_precision_is_scikit_learns(case):
    random = np.random.default_rng([case, 8])
    works = [f"work{random.integers(0, 12)}" for _ in range(60)]
    vectors = made(random, works, spread=1.5)
    unit = _ranking.scale_to_unit(vectors)
    found = rank(vectors, [str(place) for place in range(60)], works)
    for query, row in enumerate(found.rows()):
        others = [place for place in range(60) if place != query]
        truth = [works[place] == works[query] for place in others]
        near = unit[others] @ unit[query]
        if any(truth):
            assert row[0] == pytest.approx(average_precision_score(truth, near), abs=1e-9)
            order = np.argsort(-near)
            assert row[1] == 1 + np.asarray(truth)[order].argmax()
            assert row[2] == pytest.approx(np.asarray(truth)[order][:10].sum() / 10)
            right = sum(truth)
            assert row[4] == pytest.approx(np.asarray(truth)[order][:right].mean())
        else:
            assert np.isnan(row).all()


@pytest.mark.parametrize(("others", "relevant"), [(5, 1), (5, 2), (6, 6), (1, 1), (7, 3)])
def test_chance_is_the_mean_over_all_orders(others, relevant):
    from itertools import combinations

    rows = [measure([place + 1 for place in places]) for places in combinations(range(others), relevant)]
    assert measure_chance(others, relevant)[:5] == pytest.approx(np.mean(rows, axis=0), abs=1e-12)


def test_chance_of_eighty_pairs_is_what_is_published():
    average, first, top = measure_chance(159, 1)[:3]
    assert (round(average, 4), round(first, 1), round(top, 4)) == (0.0355, 80.0, 0.0063)
    rows = _ranking.measure_chance_of(pairs(80))
    assert rows.mean(axis=0) == pytest.approx(measure_chance(159, 1))


def test_centring_removes_what_all_items_share_and_whitening_what_many_vary_in():
    random = np.random.default_rng(5)
    works = pairs(40)
    vectors = made(random, works, width=24, spread=0.4)
    other = made(random, [f"other{place}" for place in range(200)], width=24)
    loud = random.normal(size=24) * 4
    few = made(random, works, width=24, spread=0.9)
    shifted, fit = few + loud, other + loud
    assert score(centre(shifted, fit), works)["map"] > score(shifted, works)["map"] + 0.05
    varied = np.concatenate([vectors, 12 * random.normal(size=(80, 2))], axis=1)
    fit = np.concatenate([other, 12 * random.normal(size=(200, 2))], axis=1)
    assert score(whiten(varied, fit), works)["map"] > score(centre(varied, fit), works)["map"] + 0.1


def test_whitening_is_the_inverse_root_of_sklearns_shrunk_covariance():
    from scipy.linalg import fractional_matrix_power
    from sklearn.covariance import LedoitWolf

    random = np.random.default_rng(6)
    fit, vectors = (random.normal(size=(count, 6)) * [1, 2, 3, 4, 5, 6] for count in (90, 10))
    fitted = LedoitWolf().fit(_ranking.scale_to_unit(fit).astype(np.float64))
    expected = (_ranking.scale_to_unit(vectors) - fitted.location_) @ fractional_matrix_power(fitted.covariance_, -0.5)
    assert np.allclose(whiten(vectors, fit), expected, rtol=1e-5, atol=1e-6)
    wide = random.normal(size=(5, 40))  # fewer items than numbers
    assert np.isfinite(whiten(wide, wide)).all()
    assert np.allclose(whiten(np.ones((3, 4)), np.ones((3, 4))), 0, atol=1e-6)


def test_halves_are_equal_whatever_the_order_and_without_drawing():
    works = [f"work{place}" for place in range(80)]
    halves = _ranking.deal_halves(works)
    assert sorted(halves.values()) == ["a"] * 40 + ["b"] * 40
    assert _ranking.deal_halves(works[::-1] * 2) == halves


def test_works_are_numbers_that_any_list_gives_and_another_target_is_refused():
    target = Ranking()
    both = target.encode(["one", "two", "one"], list("abc"))
    assert both[0] == both[2] != both[1]
    assert target.encode(["two"], ["b"])[0] == both[1]
    assert both.min() >= 0
    assert both.max() < 2**48
    with pytest.raises(DataError, match=r"clip 'b' has the target 7; give the id of its work"):
        target.encode(["one", 7], ["a", "b"])
