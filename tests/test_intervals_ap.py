"""What `benchmarks/intervals_ap.py` compares: published intervals by formula, laws by their seed, coverage by hand."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

from marble_bench.metrics import ap
from marble_bench.scoring import statistics

SEED = 0x39DE90D3  # of the laws in docs/statistics.md


@pytest.fixture(scope="module")
def benchmark():
    path = Path(__file__).parent.parent / "benchmarks" / "intervals_ap.py"
    spec = importlib.util.spec_from_file_location("intervals_ap", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["intervals_ap"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["intervals_ap"]


def test_the_interval_of_one_tag_is_boyd_eng_and_pages(benchmark):
    """AP of 0.8 on 25 positives: eta is ln 4, tau is 1 / sqrt(25 * 0.8 * 0.2) = 1/2, 1.959964 / 2 = 0.979982."""
    odds = np.exp(np.log(4) + np.array([-0.979982, 0.979982]))
    assert benchmark.compute_logit_interval(0.8, 25) == pytest.approx(tuple(odds / (1 + odds)), abs=1e-7)
    assert np.isnan(benchmark.compute_logit_interval(1.0, 25)).all()


def test_the_jackknife_of_a_mean_on_the_logit_scale_is_the_standard_error_of_its_pseudo_values(benchmark):
    values = np.random.default_rng(0).beta(3, 2, 40)
    left_out = (values.sum() - values) / 39
    whole = special.logit(values.mean())
    pseudo_values = 40 * whole - 39 * special.logit(left_out)
    half = stats.t.ppf(0.975, 39) * stats.sem(pseudo_values)
    found = benchmark.compute_logit_jackknife_interval(values.mean(), left_out)
    assert found == pytest.approx(tuple(special.expit([whole - half, whole + half])))


def test_tags_are_combined_as_far_as_their_errors_go_together(benchmark):
    scores, positives = np.array([0.8, 0.8]), np.array([25, 25])
    up, down = np.array([1, 1, -1, -1]) * 0.01, np.array([1, -1, 1, -1]) * 0.01
    same = benchmark.compute_combined_interval(scores, positives, np.stack([0.8 + up, 0.8 + up], axis=1))
    assert same == pytest.approx(benchmark.compute_logit_interval(0.8, 25))
    apart = benchmark.compute_combined_interval(scores, positives, np.stack([0.8 + up, 0.8 + down], axis=1))
    assert apart == pytest.approx(benchmark.compute_logit_interval(0.8, 50))  # as of twice as many clips
    opposed = benchmark.compute_combined_interval(scores, positives, np.stack([0.8 + up, 0.8 - up], axis=1))
    assert opposed == pytest.approx((0.8, 0.8))


def test_laws_are_a_function_of_the_seed_alone(benchmark):
    np.random.seed(1)  # noqa: NPY002 the global state, which nothing here may read
    laws = [benchmark.draw_law(SEED, cell) for cell in range(24)]
    np.random.seed(2)  # noqa: NPY002
    assert [benchmark.draw_law(SEED, cell) for cell in reversed(range(24))] == laws[::-1]
    assert len({*laws, benchmark.draw_law(SEED + 1, 0)}) == 25
    assert (laws[0].songs, len(laws[0].prevalence), laws[0].seeds) == (72, 2, 3)  # the first row that the docs print
    for law in laws:
        assert 24 <= law.songs * law.clips_of_song <= 1000 + law.clips_of_song
        assert 1 <= len(law.prevalence) == len(law.skill) == len(law.tags_alike) <= 50
        assert all(max(0.02, 3 / law.songs) <= share <= 0.5 for share in law.prevalence)


def test_the_truth_of_a_law_is_its_average_precision(benchmark, monkeypatch):
    """Of one tag and normal noise, AP is the mean over carriers of the precision at their score: an integral."""
    monkeypatch.setattr(benchmark, "SCORES_OF_TRUTH", 200_000)
    law = replace(benchmark.draw_law(SEED, 0), prevalence=(0.1,), skill=(1.5,), tags_alike=(0.5,))

    def precision(score):
        carried, others = 0.1 * stats.norm.sf(score - 1.5), 0.9 * stats.norm.sf(score)
        return stats.norm.pdf(score - 1.5) * carried / (carried + others)

    assert benchmark.compute_true_score(law, SEED, 0) == pytest.approx(integrate.quad(precision, -6, 8)[0], abs=0.01)


def test_drawn_splits_are_those_of_their_law(benchmark):
    law = benchmark.Law(2000, 5, 2, (0.1, 0.4), (0.0, 2.0), (0.7, -0.7), 0.0, 1.0, 0.5, "exponential", 0.0)
    outputs, truth = benchmark.draw_split(law, np.random.default_rng(0), 2000, 2)
    assert outputs.shape == (2, 10_000, 2)
    assert truth.mean(dim=0).numpy() == pytest.approx([0.1, 0.4], abs=0.03)
    assert (truth.reshape(2000, 5, 2).std(dim=1) == 0).all()  # clips of a song carry the same tags
    together = stats.multivariate_normal(cov=[[1, -0.49], [-0.49, 1]]).cdf(stats.norm.ppf([0.1, 0.4]))
    assert truth.prod(dim=1).mean().item() == pytest.approx(together, abs=0.008)
    noise = outputs - torch.tensor([0.0, 2.0]) * truth
    assert stats.kstest(noise[0, ::5, 0].numpy(), "expon").pvalue > 0.001
    assert np.corrcoef(noise[0, 0::5, 0], noise[0, 1::5, 0])[0, 1] > 0.25
    ties = replace(law, noise="normal, ties", step=0.5)
    assert len(benchmark.draw_split(ties, np.random.default_rng(0), 2000, 2)[0].unique()) < 30
    few = replace(law, prevalence=(0.02,) * 2, clips_of_song=1)
    for seed in range(30):
        carried = benchmark.draw_split(few, np.random.default_rng(seed), 24, 1)[1].sum(dim=0)
        assert ((carried > 0) & (carried < 24)).all()


def test_each_way_makes_its_interval_of_the_same_split(benchmark):
    law = replace(benchmark.draw_law(SEED, 0), skill=(0.5, 0.5), prevalence=(0.3, 0.4))
    outputs, truth = benchmark.draw_split(law, np.random.default_rng(0), 40, 1)
    groups = [f"{clip:02}" for clip in range(40)]
    found = benchmark.compute_intervals(outputs, truth, groups, 5)
    assert tuple(found) == benchmark.WAYS
    assert found["ours"] == statistics.bootstrap_interval(ap, outputs, truth, groups)
    (one,) = statistics.replicate(ap, [outputs], truth, groups, 5, bootstrap=True)
    assert found["BCa"] == pytest.approx(statistics.compute_bca_interval(one.score, one.bootstrap, one.jackknife))
    assert found["Boyd et al."] == pytest.approx(benchmark.compute_logit_jackknife_interval(one.score, one.jackknife))
    single = benchmark.compute_intervals(outputs[..., :1], truth[:, :1], groups, 5)
    alone = float(ap.compute(outputs[..., :1], truth[:, :1]).mean())
    assert np.isfinite(single["Boyd et al."]).all()
    assert single["Boyd et al."] == benchmark.compute_logit_interval(alone, float(truth[:, 0].sum()))


def test_coverage_counts_what_holds_what_is_above_and_what_is_missing(benchmark):
    bounds = np.array([[0.1, 0.5], [0.3, 0.5], [np.nan, np.nan], [0.0, 0.1], [0.2, 0.4]])
    found = benchmark.count_coverage(bounds, 0.2)
    assert (found.holds, found.above, found.none) == (0.4, 0.2, 0.2)
    assert found.width == pytest.approx((0.4 + 0.2 + 0.1 + 0.2) / 4)
    assert found.error == pytest.approx(np.sqrt(0.4 * 0.6 / 5))


def test_a_cell_is_simulated_and_printed(benchmark, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "SCORES_OF_TRUTH", 20_000)
    monkeypatch.setattr(
        sys, "argv", ["intervals_ap.py", "39de90d3", "--cells", "1", "--first", "1", "--simulations", "3"]
    )
    threads = torch.get_num_threads()
    benchmark.main()
    torch.set_num_threads(threads)
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].startswith("| 1 | 46 | 5 | 3 | t, 3 dof | 3 | 0.7")
    assert lines[2].count(" above, ") == 4
    assert lines[4].startswith("ours ")
    assert lines[4].endswith("of 1 cells")
