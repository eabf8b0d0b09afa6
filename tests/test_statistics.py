"""Intervals, tests and tie groups against scipy and sklearn, and on simulated scores whose truth is known."""

import itertools

import numpy as np
import pytest
import torch
from scipy import special, stats
from sklearn.metrics import accuracy_score, average_precision_score, r2_score, roc_auc_score

from marble_bench.metrics import Metric, accuracy, ap, r2, r2_of, roc_auc, weighted
from marble_bench.metrics.stems import stem_metrics
from marble_bench.scoring import statistics
from marble_bench.scoring.metric import mean_of


def _names(clips):
    return [f"{clip:04}" for clip in range(clips)]


def _first(outputs, truth):
    return outputs[..., 0].double()


MEAN = Metric("mean", "scalars", lambda o, t: _first(o, t).mean(dim=-1), _first, "test", weighted=mean_of(_first))


def _pooled(outputs, truth):
    hits, estimated, reference = outputs.double().sum(dim=-2).unbind(-1)
    return 2 * hits / (estimated + reference)


# what an F pooled over tracks looks like to the statistics: a function of counts, and nothing that says how to weight it
POOLED_F = Metric("pooled", "scalars", _pooled, _first, "test")


def _data(kind, random, clips=40, probes=2):
    if kind in ("accuracy", "weighted"):
        return torch.from_numpy(random.normal(size=(probes, clips, 24))), torch.from_numpy(
            random.integers(0, 24, clips)
        )
    if kind.startswith("r2"):
        truth = random.normal(4, 2, size=(clips, 2))
        return torch.from_numpy(truth + random.normal(size=(probes, clips, 2))), torch.from_numpy(truth)
    truth = (random.random((clips, 6)) < 0.2).astype(np.float32)
    return torch.from_numpy(random.normal(size=(probes, clips, 6)).round(1)), torch.from_numpy(truth)


@pytest.mark.parametrize("metric", [accuracy, weighted, r2, r2_of("b", 1), roc_auc, ap], ids=lambda m: m.name)
def test_clips_counted_twice_score_as_clips_that_are_there_twice(metric):
    random = np.random.default_rng(0)
    outputs, truth = _data(metric.name, random)
    counts = random.integers(0, 4, (5, 40)).astype(np.float32)
    found = statistics.rescore(metric, outputs, truth, counts)
    one_by_one = Metric(**{**vars(metric), "weighted": None})
    expected = statistics.rescore(one_by_one, outputs, truth, counts)
    assert found == pytest.approx(expected, nan_ok=True)
    assert found.shape == (5, 2)


def test_weighted_scores_are_sklearns():
    random = np.random.default_rng(1)
    weight = random.integers(1, 4, 40).astype(np.float32)

    def ours(metric, outputs, truth):
        return statistics.rescore(metric, outputs, truth, weight[None])[0]

    outputs, truth = _data("accuracy", random)
    expected = [accuracy_score(truth, each.argmax(dim=1), sample_weight=weight) for each in outputs]
    assert ours(accuracy, outputs, truth) == pytest.approx(expected)
    outputs, truth = _data("r2", random)
    expected = [r2_score(truth, each, sample_weight=weight) for each in outputs]
    assert ours(r2, outputs, truth) == pytest.approx(expected)
    outputs, truth = _data("tags", random)
    for metric, authority in ((roc_auc, roc_auc_score), (ap, average_precision_score)):
        expected = [authority(truth, each, sample_weight=weight) for each in outputs]
        assert ours(metric, outputs, truth) == pytest.approx(expected)


def test_bca_is_scipys_where_both_use_the_normal_levels():
    random = np.random.default_rng(2)
    values = random.exponential(size=30)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=999, method="BCa", rng=random)
    again = stats.bootstrap((values,), np.mean, n_resamples=0, method="BCa", bootstrap_result=theirs)
    jackknife = (values.sum() - values) / 29
    normal = 2 * stats.t.cdf(stats.norm.ppf(0.975) / np.sqrt(30 / 29), 29) - 1  # where our t tail is 1.96
    ours = statistics.compute_bca_interval(values.mean(), theirs.bootstrap_distribution, jackknife, level=normal)
    assert ours == pytest.approx(again.confidence_interval)
    wider = statistics.compute_bca_interval(values.mean(), theirs.bootstrap_distribution, jackknife)
    assert wider[0] < ours[0]
    assert ours[1] < wider[1]


def test_bootstrap_samples_draw_whole_groups_as_often_as_chance_would():
    groups = ["a", "b", "a", "c", "b", "d"]
    counts = statistics.resample(groups, resamples=4000)
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 3, 5]].sum(axis=1) == 4).all()
    assert (counts[:, 0] == 0).mean() == pytest.approx(0.75**4, abs=0.02)


def test_a_jackknife_leaves_out_each_group_once_or_blocks_of_them():
    counts = statistics.jackknife(["a", "b", "a", "c"])
    assert sorted(map(tuple, counts)) == [(0, 1, 0, 1), (1, 0, 1, 1), (1, 1, 1, 0)]
    blocks = statistics.jackknife(_names(90), blocks=20)
    assert blocks.shape == (20, 90)
    assert ((1 - blocks).sum(axis=0) == 1).all()
    assert set((1 - blocks).sum(axis=1)) == {4, 5}


# Each: a law of (outputs, truth) with a known score. One standard error of 1,000 simulations at 95 % is 0.7 %.
def _shares(random):
    right = random.random((1, 120)) < 0.7
    flipped = right ^ (random.random((3, 120)) < 0.0)
    return torch.from_numpy(np.stack([flipped, ~flipped], axis=-1) * 1.0), torch.zeros(120, dtype=torch.int64)


def _explained(random):
    truth = random.normal(size=(60, 1))
    return torch.from_numpy(0.6 * truth + np.sqrt(0.24) * random.normal(size=(1, 60, 1))), torch.from_numpy(truth)


def _ranked(random):
    truth = np.arange(80)[:, None] < 24
    return torch.from_numpy(random.normal(size=(1, 80, 1)) + 1.5 * truth), torch.from_numpy(truth * 1.0)


def _counted(random):
    chances = random.beta(4, 2, 50)  # of a track's beats
    hits = random.binomial(60, chances)
    return torch.from_numpy(np.stack([hits, hits + 0 * hits + 60 - hits, hits * 0 + 60], axis=-1) * 1.0)[None], None


def _decibels(random):
    return torch.from_numpy(5 + 2 * random.normal(size=(1, 30, 1)) - random.exponential(size=(1, 30, 1))), None


WEIGHTED_F = Metric(
    **{
        **vars(POOLED_F),
        "weighted": lambda o, t, w: (lambda s: 2 * s[..., 0] / (s[..., 1] + s[..., 2]))(
            torch.einsum("rc,pck->rpk", w.double(), o.double())
        ),
    }
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("metric", "law", "score"),
    [
        (accuracy, _shares, 0.7),
        (r2, _explained, 0.6),  # 1 - ((1 - 0.6)**2 + 0.24)
        (roc_auc, _ranked, stats.norm.cdf(1.5 / np.sqrt(2))),
        (WEIGHTED_F, _counted, 4 / 6),
        (MEAN, _decibels, 4.0),
    ],
    ids=["accuracy", "R2", "ROC AUC", "pooled F", "mean of dB"],
)
def test_intervals_cover_the_truth_in_95_of_100_simulations(metric, law, score):
    simulations = 1000
    covered = 0
    for simulation in range(simulations):
        outputs, truth = law(np.random.default_rng([7, simulation]))
        truth = torch.zeros(outputs.shape[1]) if truth is None else truth
        low, high = statistics.bootstrap_interval(metric, outputs, truth, _names(outputs.shape[1]), seed=simulation)
        covered += low <= score <= high
    assert 0.93 <= covered / simulations <= 0.97


@pytest.mark.slow
def test_intervals_of_average_precision_cover_the_truth_where_the_bootstraps_do_not():
    """AP of few clips stands above AP of many, and above itself in bootstrap samples; over several tags that adds up."""
    truth = torch.from_numpy(np.stack([np.roll(np.arange(120) < 18, 22 * tag) for tag in range(6)], axis=1) * 1.0)
    big = np.arange(400_000) < 60_000
    score = average_precision_score(big, np.random.default_rng(3).normal(size=400_000) + 1.5 * big)
    held = []
    for simulation in range(300):
        outputs = torch.from_numpy(np.random.default_rng([5, simulation]).normal(size=(1, 120, 6))) + 1.5 * truth
        low, high = statistics.bootstrap_interval(ap, outputs, truth, _names(120))
        (one,) = statistics.replicate(ap, [outputs], truth, _names(120), seed=simulation, bootstrap=True)
        plain = np.nanquantile(one.bootstrap, [0.025, 0.975])
        held.append((low <= score <= high, plain[0] <= score <= plain[1]))
    ours, percentile = np.mean(held, axis=0)
    assert 0.92 <= ours <= 0.98
    assert percentile < ours - 0.03


def _few(random, clips, skill):
    """Five tags, each on 10 to 30 % of the clips, and outputs of two kinds of error: of the clip, and of the seed."""
    while True:
        truth = random.random((clips, 5)) < [0.1, 0.2, 0.3, 0.15, 0.25]
        if clips > 1000 or (truth.sum(axis=0) > 1).all():
            break
    noise = np.sqrt(0.8) * random.normal(size=(clips, 5)) + np.sqrt(0.2) * random.normal(size=(3, clips, 5))
    outputs = skill * truth + noise
    return torch.from_numpy(outputs), torch.from_numpy(truth * 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("clips", "skill", "score"), [(24, 0.5, 0.298), (24, 1.5, 0.623), (24, 3.0, 0.942), (60, 1.5, 0.623)]
)
def test_intervals_of_average_precision_cover_the_truth_in_95_of_100_simulations_or_a_few_more(clips, skill, score):
    simulations, covered = 1000, 0
    for simulation in range(simulations):
        outputs, truth = _few(np.random.default_rng([17, simulation]), clips, skill)
        low, high = statistics.bootstrap_interval(ap, outputs, truth, _names(clips))
        covered += low <= score <= high
    assert 0.93 <= covered / simulations <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize(("skill", "score"), [(0.5, 0.298), (1.5, 0.623), (3.0, 0.942)])
def test_the_scores_that_those_intervals_should_hold_are_those_of_very_many_clips(skill, score):
    outputs, truth = _few(np.random.default_rng(3), 400_000, skill)
    found = [
        average_precision_score(truth[:, tag].numpy(), each[:, tag].numpy()) for each in outputs for tag in range(5)
    ]
    assert np.mean(found) == pytest.approx(score, abs=0.002)


@pytest.mark.slow
def test_two_dozen_clips_that_are_ranked_almost_without_a_fault_have_an_interval_that_holds_the_truth():
    """The jackknife alone sees no error where there is no fault; the binomial variance beside it does."""
    only_jackknife = Metric(**{**vars(ap), "carried": None})
    outputs, truth = _few(np.random.default_rng(3), 100_000, 4.0)
    score = float(ap.compute(outputs, truth).mean())
    held = []
    for simulation in range(400):
        outputs, truth = _few(np.random.default_rng([14, simulation]), 24, 4.0)
        each = [statistics.bootstrap_interval(m, outputs, truth, _names(24)) for m in (ap, only_jackknife)]
        held.append([low <= score <= high for low, high in each])
    ours, jackknife = np.mean(held, axis=0)
    assert ours >= 0.95
    assert jackknife < 0.8


@pytest.mark.slow
@pytest.mark.parametrize("prevalence", [(0.12,), (0.2, 0.4)], ids=["one tag", "two tags"])
def test_few_tags_and_outputs_of_which_some_are_far_too_high_have_an_interval_that_holds_the_truth(prevalence):
    """A clip that lacks the tag and has the highest output halves the precision of others: the bias seems endless."""

    def draw(random, clips):
        while True:
            truth = random.random((clips, len(prevalence))) < prevalence
            if truth.any(axis=0).all():
                break
        return torch.from_numpy(2.5 * truth + random.exponential(size=truth.shape))[None], torch.from_numpy(truth * 1.0)

    outputs, truth = draw(np.random.default_rng(31), 400_000)
    true = np.mean([average_precision_score(truth[:, tag], outputs[0, :, tag]) for tag in range(len(prevalence))])
    held = []
    for simulation in range(400):
        low, high = statistics.bootstrap_interval(ap, *draw(np.random.default_rng([32, simulation]), 45), _names(45))
        held.append(low <= true <= high)
    assert np.mean(held) >= 0.91


@pytest.mark.parametrize("of_two", [0.5, 0.7], ids=["lower", "higher"])
def test_an_interval_holds_those_of_the_score_less_one_step_of_bias_and_less_two(of_two):
    """Two blocks that alter nothing alone, so that the first step finds no bias, and something together."""
    shares, pairs = np.array([0.5, 0.5]), np.array([[0.6, of_two], [of_two, 0.6]])
    low, high = statistics.compute_corrected_interval(0.6, np.full(2, 0.6), pairs, shares, 6000, 2000.0, None)
    plain, moved = statistics._compute_logit(np.full(2, 0.6), 2000), statistics._compute_logit(pairs, 2000)
    once, twice, wider = statistics._remove_bias(plain[0], plain, moved, shares, np.zeros(2))
    assert (once, wider) == (pytest.approx(plain[0]), 1)
    assert bool(twice < once) == (of_two < 0.6)
    share = (2000 * special.expit(twice) + 2) / 2004
    half = stats.t.ppf(0.975, 1) * np.sqrt(64 / 65 / (2004 * share * (1 - share)))
    ends = special.expit([min(once, twice) - half, max(once, twice) + half])
    assert (low, high) == pytest.approx(tuple((ends * 2001 - 0.5) / 2000))


@pytest.mark.slow
def test_many_tags_that_few_clips_carry_have_an_interval_that_holds_truth_and_score():
    """AP of twenty tags on 5 of 60 clips or so stands far above that of very many clips, often more than the error."""

    def draw(random, clips):
        while True:
            truth = random.random((clips, 20)) < 0.08
            if (truth.sum(axis=0) > 0).all():
                break
        noise = np.sqrt(0.8) * random.normal(size=(clips, 20)) + np.sqrt(0.2) * random.normal(size=(3, clips, 20))
        return torch.from_numpy(1.5 * truth + noise), torch.from_numpy(truth * 1.0)

    true = float(ap.compute(*draw(np.random.default_rng(20), 100_000)).mean())
    held = []
    for simulation in range(200):
        outputs, truth = draw(np.random.default_rng([21, simulation]), 60)
        score = float(ap.compute(outputs, truth).mean())
        low, high = statistics.bootstrap_interval(ap, outputs, truth, _names(60))
        assert low < score < high + 1e-9
        held.append(low <= true <= high)
    assert np.mean(held) >= 0.93


def test_a_score_without_a_fault_has_an_interval():
    """Wilson's, which scipy has too, of as many groups as there are, or as carry tags."""
    right = torch.eye(4, dtype=torch.float64)[torch.arange(24) % 4]
    wilsons = stats.binomtest(24, 24).proportion_ci(method="wilson")
    assert statistics.bootstrap_interval(accuracy, right[None], torch.arange(24) % 4, _names(24)) == pytest.approx(
        (wilsons.low, 1)
    )
    assert statistics.bootstrap_interval(accuracy, -right[None], torch.arange(24) % 4, _names(24)) == pytest.approx(
        (0, 1 - wilsons.low)
    )
    twelve = stats.binomtest(12, 12).proportion_ci(method="wilson")
    found = statistics.bootstrap_interval(accuracy, right[None], torch.arange(24) % 4, [str(c // 2) for c in range(24)])
    assert found == pytest.approx((twelve.low, 1))
    six = stats.binomtest(6, 6).proportion_ci(method="wilson")
    assert statistics.bootstrap_interval(
        roc_auc, right[None, :, :1], right[:, :1].float(), _names(24)
    ) == pytest.approx((six.low, 1))
    # no share: nothing is known of how far a mean of decibels that are all alike could be off
    alike = statistics.compute_interval(
        Metric(**{**vars(MEAN), "unit": "dB"}), right[None, :, :1] * 0 + 1, right, _names(24)
    )
    assert np.isnan([alike.low, alike.high]).all()
    assert "the same score whichever clips are drawn" in alike.why


@pytest.mark.slow
def test_small_test_splits_of_a_very_good_model_have_intervals_that_hold_the_truth():
    """Where a bootstrap of a sample without a fault holds nothing but its score; a third of these samples are such."""
    held = []
    for simulation in range(1000):
        right = np.random.default_rng([18, simulation]).random((1, 24)) < 0.955
        outputs = torch.from_numpy(np.stack([right, ~right], axis=-1) * 1.0)
        low, high = statistics.bootstrap_interval(accuracy, outputs, torch.zeros(24, dtype=torch.int64), _names(24))
        held.append((low <= 0.955 <= high, right.all()))
    covered, whole = np.mean(held, axis=0)
    assert covered >= 0.93
    assert whole > 0.3


def test_a_tag_without_a_fault_has_the_binomial_interval_of_the_clips_that_carry_it():
    """Boyd, Eng and Page's logit interval with the two successes and failures of Agresti and Coull; by groups too."""
    truth = torch.from_numpy((np.arange(40) % 4 == 0) * 1.0)[:, None]
    found = statistics.bootstrap_interval(ap, truth[None], truth, _names(40))
    share = (10 * (10.5 / 11) + 2) / 14
    # the jackknife saw no error, which is worth one degree of freedom, squared, to 64 of the binomial variance; t has 1 + 2
    half = stats.t.ppf(0.975, 3) * np.sqrt(64 / 65 / (14 * share * (1 - share)))
    low = (special.expit(special.logit(10.5 / 11) - half) * 11 - 0.5) / 10
    assert found == pytest.approx((low, 1))


def test_a_mean_over_tags_is_as_sure_as_a_share_of_so_many_clips():
    """Of answers right by chance, the same in all tags of a clip, the variance of the mean over tags, by simulation."""
    random = np.random.default_rng(19)
    truth = (random.random((60, 4)) < [0.1, 0.3, 0.2, 0.5]) * 1.0
    groups = [str(clip // 2) for clip in range(60)]
    held = truth.reshape(30, 2, 4).max(axis=1)
    right = random.random((200_000, 30)) < 0.7
    means = right @ (held / held.sum(axis=0)).mean(axis=1)
    assert statistics._count_carriers(torch.from_numpy(truth), groups) == pytest.approx(
        0.7 * 0.3 / means.var(), rel=0.02
    )
    one = torch.from_numpy(truth[:, :1])
    assert statistics._count_carriers(one, _names(60)) == pytest.approx(truth[:, 0].sum())


def test_the_degrees_of_freedom_of_a_jackknife_are_those_of_its_values():
    random = np.random.default_rng(15)
    normal = [statistics._estimate_freedom(random.normal(size=200) ** 2) for _ in range(50)]
    assert np.mean(normal) == pytest.approx(199, rel=0.1)
    one_block = np.zeros(30)
    one_block[3] = 1.0
    assert statistics._estimate_freedom(one_block) == pytest.approx(
        2 * 30 / 29
    )  # 2 n m2 ** 2 / (m4 - m2 ** 2), as if of two values
    assert statistics._estimate_freedom(np.zeros(30)) == 1
    assert statistics._estimate_freedom(np.ones(30)) == 29


@pytest.mark.slow
def test_the_interval_of_a_difference_in_average_precision_holds_it_where_the_bootstraps_does_not():
    """Two systems that share the clips' part of the error; the true scores are of 100,000 clips."""

    def pair(random, clips):
        (a, truth), own = _few(random, clips, 3.0), 0.7 * random.normal(size=(2, clips, 5))
        return [a + torch.from_numpy(own[0]), a + 0.4 * truth + torch.from_numpy(own[1])], truth

    systems, truth = pair(np.random.default_rng(16), 100_000)
    true = np.subtract(*(float(ap.compute(each, truth).mean()) for each in systems))
    held = []
    for simulation in range(200):
        systems, truth = pair(np.random.default_rng([17, simulation]), 24)
        one, other = statistics.replicate(ap, systems, truth, _names(24), seed=simulation, bootstrap=True)
        found = statistics.compute_difference(one, other)
        low, high = statistics.compute_bca_interval(
            found.value, one.bootstrap - other.bootstrap, one.jackknife - other.jackknife
        )
        held.append((found.low <= true <= found.high, low <= true <= high))
        assert (found.low + found.high) / 2 == pytest.approx(found.value)
    ours, bca = np.mean(held, axis=0)
    assert 0.93 <= ours <= 0.98
    assert bca < ours - 0.04


def test_the_bias_that_is_taken_off_is_that_of_a_squared_mean():
    """Of a mean m of n values, m ** 2 is too high by their variance / n; the blocks are of 3 and 4 clips."""
    values = np.random.default_rng(12).beta(2, 5, 100)
    kept = statistics.jackknife(_names(100), 30)
    shares = 1 - kept.mean(axis=1)
    weights = 1 - statistics.LESS * (1 - kept)
    moved = (weights @ values / weights.sum(axis=1)) ** 2 - values.mean() ** 2
    means = ((1 - kept) @ values) / (1 - kept).sum(axis=1)
    expected = (shares**2 * (means - values.mean()) ** 2).sum()
    assert statistics._estimate_bias(shares, moved) == pytest.approx(expected, rel=0.1)


def test_the_interval_of_a_corrected_mean_is_that_of_the_mean_on_the_logit_scale():
    values = np.random.default_rng(13).beta(20, 12, 400)
    share = Metric("share", "scalars", lambda o, t: _first(o, t).mean(dim=-1), _first, "test", interval="jackknife")
    outputs = torch.from_numpy(values)[None, :, None]
    low, high = statistics.bootstrap_interval(share, outputs, torch.zeros(400), _names(400))
    blocks = (
        (1 - statistics.jackknife(_names(400), 30)) @ values / (1 - statistics.jackknife(_names(400), 30)).sum(axis=1)
    )
    half = stats.t.ppf(0.975, 29) * blocks.std(ddof=1) / np.sqrt(30) / (values.mean() * (1 - values.mean()))
    expected = special.expit(special.logit(values.mean()) + np.array([-half, half]))
    assert (low, high) == pytest.approx(expected, abs=0.002)
    weighted = Metric(**{**vars(share), "weighted": mean_of(_first)})
    found = statistics.bootstrap_interval(weighted, outputs, torch.zeros(400), _names(400))
    assert found == pytest.approx((low, high))


def test_clips_of_one_group_are_drawn_together_and_widen_the_interval():
    random = np.random.default_rng(1)
    right = torch.from_numpy(np.repeat(random.random(20) < 0.5, 10) * 1.0)
    outputs, truth = torch.stack([right, 1 - right], dim=-1)[None], torch.zeros(200, dtype=torch.int64)
    alone = statistics.bootstrap_interval(accuracy, outputs, truth, _names(200))
    together = statistics.bootstrap_interval(accuracy, outputs, truth, [str(clip // 10) for clip in range(200)])
    assert together[1] - together[0] > 2 * (alone[1] - alone[0])


def test_rare_tags_do_not_push_the_interval_off_the_score():
    random = np.random.default_rng(2)
    truth = torch.from_numpy((random.random((24, 30)) < 0.1).astype(np.float32))
    truth[0] = 1
    truth[1] = 0
    outputs = (truth + torch.from_numpy(random.normal(size=(24, 30))).float())[None]
    low, high = statistics.bootstrap_interval(roc_auc, outputs, truth, _names(24))
    assert low < float(roc_auc.compute(outputs, truth)) < high


def test_a_perfect_score_and_a_lone_group_have_the_intervals_they_can_have():
    truth = torch.zeros(10, dtype=torch.int64)
    outputs = torch.tensor([[1.0, 0.0]]).expand(1, 10, 2)
    low, high = statistics.bootstrap_interval(accuracy, outputs, truth, _names(10))
    assert (low < 0.95, high) == (True, 1)  # ten clips without a fault do not show that there is none
    assert np.isnan(statistics.bootstrap_interval(accuracy, outputs, truth, ["one"] * 10)).all()
    tags = torch.eye(2).repeat(5, 1)
    low, high = statistics.bootstrap_interval(ap, tags[None], tags, _names(10))
    assert (low < 0.95, high) == (True, 1)
    assert np.isnan(statistics.bootstrap_interval(ap, tags[None], tags, ["one"] * 10)).all()


def test_flipped_signs_are_scipys_permutation_test_and_for_two_accuracies_mcnemars():
    values = np.random.default_rng(4).normal(0.4, 1, 10)
    theirs = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    )
    assert statistics.compute_sign_flip_p(values) == pytest.approx(theirs.pvalue)
    apart = np.array([1.0] * 9 + [-1.0] * 2 + [0.0] * 30)
    assert statistics.compute_sign_flip_p(apart) == pytest.approx(stats.binomtest(9, 11).pvalue, abs=0.01)
    assert statistics.compute_sign_flip_p(np.zeros(40)) == 1


def test_pseudo_values_of_a_mean_are_the_clips_own_differences():
    random = np.random.default_rng(5)
    a, b = (torch.from_numpy(random.normal(size=(2, 30, 1))) for _ in range(2))
    one, other = statistics.replicate(MEAN, [a, b], torch.zeros(30), _names(30))
    found = statistics.compute_difference(one, other)
    each = (a - b).mean(dim=0)[:, 0].numpy()
    assert found.value == pytest.approx(each.mean())
    assert found.p == pytest.approx(statistics.compute_sign_flip_p(each), abs=0.02)


def _pair(random, clips, better, metric):
    """Two systems on the same clips: what makes a clip hard is common to both."""
    hard = random.normal(size=(clips, 1))
    if metric is roc_auc:
        truth = (np.arange(clips)[:, None] % 3 == 0) * 1.0
        systems = [1.2 * truth + hard + 0.4 * random.normal(size=(clips, 1)) + add * truth for add in (better, 0)]
        return [torch.from_numpy(each)[None] for each in systems], torch.from_numpy(truth)
    margins = [0.5 + hard[:, 0] + 0.4 * random.normal(size=clips) + add for add in (better, 0)]
    return [torch.from_numpy(np.stack([m, -m], axis=-1))[None] for m in margins], torch.zeros(clips, dtype=torch.int64)


@pytest.mark.slow
@pytest.mark.parametrize(("metric", "better"), [(accuracy, 0.35), (roc_auc, 0.4)], ids=["accuracy", "ROC AUC"])
def test_the_paired_test_holds_its_level_and_finds_what_the_unpaired_one_misses(metric, better):
    simulations, clips = 200, 90
    found = {0.0: [], better: []}
    for add, simulation in itertools.product(found, range(simulations)):
        systems, truth = _pair(np.random.default_rng([6, simulation]), clips, add, metric)
        one, other = statistics.replicate(metric, systems, truth, _names(clips), seed=simulation)
        apart = abs(one.score - other.score) / np.hypot(one.bootstrap.std(), other.bootstrap.std())
        found[add].append((statistics.compute_difference(one, other).p < 0.05, 2 * stats.norm.sf(apart) < 0.05))
    level, power = (np.mean(rows, axis=0) for rows in found.values())
    assert level[0] < 0.05 + 3 * np.sqrt(0.05 * 0.95 / simulations)
    assert power[0] > 0.6
    assert power[0] > power[1] + 0.25


def test_a_metric_that_only_scores_rows_gets_intervals_and_tests_too():
    random = np.random.default_rng(8)
    reference = random.integers(20, 60, 25)
    systems = [
        torch.from_numpy(np.stack([h, reference + 0 * h, reference], axis=-1).astype(float))[None]
        for h in (random.binomial(reference, 0.8), random.binomial(reference, 0.5))
    ]
    one, other = statistics.replicate(POOLED_F, systems, torch.zeros(25), _names(25))
    low, high = one.interval()
    assert low < one.score < high
    found = statistics.compute_difference(one, other)
    assert found.p < 0.001
    assert found.low > 0


def test_holm_multiplies_each_p_by_the_number_of_tests_still_open():
    # Holm (1979), the example of section 4: p of 0.01, 0.06, 0.02 for three hypotheses
    assert statistics.correct_holm([0.01, 0.06, 0.02]) == pytest.approx([0.03, 0.06, 0.04])
    assert statistics.correct_holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert statistics.correct_holm([]) == []


def test_two_share_a_letter_exactly_if_they_cannot_be_told_apart():
    random = np.random.default_rng(9)
    for count in range(1, 8):
        pairs = list(itertools.combinations(range(count), 2))
        different = [pair for pair in pairs if random.random() < 0.5]
        found = statistics.assign_letters(count, different)
        assert all(found)
        for a, b in pairs:
            assert bool(set(found[a]) & set(found[b])) == ((a, b) not in different)
    assert statistics.assign_letters(3, []) == ["a", "a", "a"]
    assert statistics.assign_letters(3, [(0, 1), (0, 2), (1, 2)]) == ["a", "b", "c"]


def test_a_rank_counts_those_that_are_better_beyond_doubt():
    assert statistics.compute_ranks(4, [(0, 2), (0, 3), (1, 3)]) == [1, 1, 2, 3]


@pytest.mark.parametrize(("right", "count"), [(217, 290), (0, 12), (12, 12)])
def test_wilsons_interval_is_scipys(right, count):
    theirs = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert statistics.compute_wilson_interval(right / count, count) == pytest.approx((theirs.low, theirs.high))


def test_the_spread_of_seeds_is_their_standard_deviation():
    assert statistics.compute_spread([0.7, 0.8, 0.6]) == pytest.approx(np.std([0.7, 0.8, 0.6], ddof=1))
    assert statistics.compute_spread([0.7]) is None


@pytest.mark.slow
def test_a_median_is_tested_by_its_bootstrap():
    """It hardly moves when one clip is left out, so that a jackknife would find nothing in it, or anything."""
    median = Metric(
        "median", "scalars", lambda o, t: o[..., 0].double().quantile(0.5, dim=-1), _first, "test", smooth=False
    )
    found = {0.0: 0, 1.2: 0}
    for simulation in range(12):
        random = np.random.default_rng([11, simulation])
        tracks = random.normal(size=(1, 31, 1))
        for better in found:
            a, b = (torch.from_numpy(tracks + add + 0.5 * random.normal(size=(1, 31, 1))) for add in (better, 0))
            one, other = statistics.replicate(median, [a, b], torch.zeros(31), _names(31), seed=simulation)
            found[better] += statistics.compute_difference(one, other, smooth=False).p < 0.05
    assert found[0.0] <= 3
    assert found[1.2] >= 11


def _songs(random, songs, valued):
    """dB of `valued` of some songs, the others without the stem: truth 4 on average."""
    outputs = 5 + 2 * random.normal(size=(1, songs, 1)) - random.exponential(size=(1, songs, 1))
    outputs[:, valued:] = np.nan
    return torch.from_numpy(outputs)


SDR = stem_metrics(("vocals",))[0]
MEDIAN_SDR = next(metric for metric in stem_metrics(("vocals",)) if not metric.smooth)


@pytest.mark.slow
@pytest.mark.parametrize("valued", [2, 3, 4, 6])
def test_intervals_of_few_songs_hold_the_truth(valued):
    """Of six songs, some without the stem: those have no part in it. A bootstrap of two values holds it half the time."""
    held = []
    for simulation in range(300):
        outputs = _songs(np.random.default_rng([23, simulation]), 6, valued)
        low, high = statistics.bootstrap_interval(SDR, outputs, torch.zeros(6), _names(6), seed=simulation)
        held.append(low <= 4 <= high)
    assert 0.92 <= np.mean(held) <= 0.99


def test_three_songs_have_students_interval():
    outputs = _songs(np.random.default_rng(24), 9, 3)
    theirs = stats.ttest_1samp(outputs[0, :3, 0].numpy(), 0).confidence_interval(0.95)
    assert statistics.bootstrap_interval(SDR, outputs, torch.zeros(9), _names(9)) == pytest.approx(tuple(theirs))


def test_one_song_has_no_interval_and_says_why():
    outputs = _songs(np.random.default_rng(25), 3, 1)
    for metric in (SDR, MEDIAN_SDR):
        found = statistics.compute_interval(metric, outputs.expand(-1, -1, 2), torch.zeros(3), _names(3))
        assert np.isnan([found.low, found.high]).all()
        assert found.why == "too few groups of test clips have a value"


def test_a_mean_over_stems_of_which_one_song_alone_has_one_has_no_interval():
    both = stem_metrics(("vocals", "drums"))[0]
    random = np.random.default_rng(26)
    outputs = torch.from_numpy(random.normal(size=(2, 20, 4)))
    outputs[:, 1:, 0] = torch.nan
    assert np.isnan(statistics.bootstrap_interval(both, outputs, torch.zeros(20), _names(20))).all()
    outputs[:, 1:9, 0] = 1.0 + outputs[:, 1:9, 1]
    low, high = statistics.bootstrap_interval(both, outputs, torch.zeros(20), _names(20))
    assert low < float(both.compute(outputs, torch.zeros(20)).mean()) < high


def test_a_median_of_five_songs_has_no_interval_and_one_of_eight_has():
    outputs = torch.from_numpy(np.random.default_rng(27).normal(size=(1, 8, 2)))
    few = statistics.bootstrap_interval(MEDIAN_SDR, outputs[:, :5], torch.zeros(5), _names(5))
    low, high = statistics.bootstrap_interval(MEDIAN_SDR, outputs, torch.zeros(8), _names(8))
    assert np.isnan(few).all()
    assert low < float(MEDIAN_SDR.compute(outputs, torch.zeros(8))) < high


def _nearest(outputs, truth):
    """`(probes,)`: how often the clip nearest to a clip is of its class."""
    apart = torch.cdist(outputs.double(), outputs.double())
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return (truth[apart.argmin(dim=-1)] == truth).double().mean(dim=-1)


def _nearest_of_each(outputs, truth):
    apart = torch.cdist(outputs.double(), outputs.double())
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return (truth[apart.argmin(dim=-1)] == truth).double()


BY_NEIGHBOURS = Metric("nearest", "classes", _nearest, _nearest_of_each, "test")


def _places(clips=60):
    random = np.random.default_rng(28)
    truth = torch.from_numpy(random.integers(0, 3, clips))
    return torch.from_numpy(random.normal(size=(1, clips, 4))) + torch.nn.functional.one_hot(truth, 4), truth


def test_an_interval_without_its_score_is_refused():
    """In a bootstrap sample a clip's nearest neighbour is its own copy, which is of its class."""
    outputs, truth = _places()
    score = float(BY_NEIGHBOURS.compute(outputs, truth))
    (one,) = statistics.replicate(BY_NEIGHBOURS, [outputs], truth, _names(60))
    assert np.quantile(one.bootstrap, 0.025) > score
    found = statistics.compute_interval(BY_NEIGHBOURS, outputs, truth, _names(60))
    assert np.isnan([found.low, found.high]).all()
    assert "without the score" in found.why


def test_a_metric_that_compares_clips_has_an_interval_without_copies():
    metric = Metric(**{**vars(BY_NEIGHBOURS), "compares": True})
    outputs, truth = _places()
    low, high = statistics.bootstrap_interval(metric, outputs, truth, _names(60))
    score = float(metric.compute(outputs, truth))
    assert low < score < high
    kept = [torch.tensor([other for other in range(60) if other != clip]) for clip in range(60)]
    without = np.array([float(metric.compute(outputs[:, rows], truth[rows])) for rows in kept])
    half = stats.t.ppf(0.975, 59) * np.sqrt(59 / 60 * ((without - without.mean()) ** 2).sum())
    assert (low, high) == pytest.approx((score - half, score + half))
    other = outputs + 0.3 * torch.from_numpy(np.random.default_rng(29).normal(size=(1, 60, 4)))
    apart = statistics.compute_difference(*statistics.replicate(metric, [outputs, other], truth, _names(60)))
    assert apart.low < apart.value < apart.high


def test_a_difference_of_few_songs_has_students_interval_of_their_differences():
    random = np.random.default_rng(30)
    a, b = (_songs(random, 7, 3) for _ in range(2))
    found = statistics.compare_paired(SDR, (a, torch.zeros(7)), (b, torch.zeros(7)), _names(7))
    theirs = stats.ttest_rel(a[0, :3, 0].numpy(), b[0, :3, 0].numpy()).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(theirs))
    same = statistics.compare_paired(SDR, (a, torch.zeros(7)), (a, torch.zeros(7)), _names(7))
    assert np.isnan([same.low, same.high]).all()  # nothing is known of songs in which it would make a difference
