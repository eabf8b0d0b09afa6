"""How often intervals hold the truth, and how often paired tests err: simulated systems whose true score is known.

python benchmarks/intervals.py [SIMULATIONS [PART OF A NAME [SEED]]]
python benchmarks/intervals.py [SIMULATIONS] few

Of each kind of metric, clips and outputs are drawn from a fixed law, whose true score is the score of a very large draw.
Intervals: the plain percentile bootstrap, the same with levels of the t distribution, BCa, BCa with levels of the t
distribution (what the suite uses), the jackknife with the t distribution, and where a metric asks for it (`Metric.interval`)
the suite's jackknife of the score less its bias. Paired test: of two systems of equal true score, and of two that differ,
beside the unpaired test of the same scores. `print_few`: test splits of two to a dozen groups, BCa and the jackknife with t.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.stats import norm, t

from marble_bench.metrics import Metric, accuracy, ap, r2, roc_auc, weighted
from marble_bench.scoring import statistics as ours
from marble_bench.scoring.metric import mean_of

SEEDS = 3
Draw = Callable[[np.random.Generator, int, float], tuple[torch.Tensor, torch.Tensor]]


def _compute_pooled(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    hits, estimated, reference = outputs.double().sum(dim=-2).unbind(-1)
    return 2 * hits / (estimated + reference)


def _compute_weighted_pooled(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    hits, estimated, reference = torch.einsum("rc,pck->rpk", weights.double(), outputs.double()).unbind(-1)
    return 2 * hits / (estimated + reference)


def _take_first(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return outputs[..., 0].double()


POOLED_F = Metric(
    "pooled_f", "scalars", _compute_pooled, _take_first, "hits, estimated, reference", weighted=_compute_weighted_pooled
)
MEAN_DB = Metric(
    "mean_db",
    "scalars",
    lambda o, t: _take_first(o, t).mean(dim=-1),
    _take_first,
    "tracks",
    unit="dB",
    weighted=mean_of(_take_first),
)


def _draw_noise(random: np.random.Generator, clips: int, width: int) -> np.ndarray[Any, Any]:
    """Noise `(seeds, clips, width)` of which the clip has the larger part, as seeds of one encoder agree on most clips."""
    return np.sqrt(0.8) * random.normal(size=(1, clips, width)) + np.sqrt(0.2) * random.normal(
        size=(SEEDS, clips, width)
    )


def make_classes_law(width: int) -> Draw:
    def draw(random: np.random.Generator, clips: int, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
        truth = random.integers(0, width, clips)
        outputs = _draw_noise(random, clips, width)
        outputs[:, np.arange(clips), truth] += skill
        return torch.from_numpy(outputs), torch.from_numpy(truth)

    return draw


def make_tags_law(*prevalence: float) -> Draw:
    def draw(random: np.random.Generator, clips: int, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
        while True:
            truth = (random.random((clips, len(prevalence))) < np.array(prevalence)).astype(np.float32)
            if _is_ordered(truth):
                break
        return torch.from_numpy(_draw_noise(random, clips, len(prevalence)) + skill * truth), torch.from_numpy(truth)

    return draw


def _is_ordered(truth: np.ndarray[Any, Any]) -> bool:
    """Whether two clips carry each tag, and one does not."""
    held = truth.sum(axis=0)
    return len(truth) > 10_000 or bool(((held > 1) & (held < len(truth))).all())


def draw_pairs_of_tags(random: np.random.Generator, clips: int, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Ten tags, in pairs that go together nine times of ten, with outputs that err together."""
    prevalence = np.repeat(PREVALENCE, 2)
    while True:
        alike = np.repeat(random.random((clips, 5)), 2, axis=1) < prevalence
        own = random.random((clips, 10)) < prevalence
        truth = np.where(random.random((clips, 10)) < 0.1, own, alike).astype(np.float32)
        if _is_ordered(truth):
            break
    common = np.repeat(random.normal(size=(1, clips, 5)), 2, axis=2)
    noise = np.sqrt(0.8) * common + np.sqrt(0.2) * _draw_noise(random, clips, 10)
    return torch.from_numpy(noise + skill * truth), torch.from_numpy(truth)


def draw_heavy_tailed(random: np.random.Generator, clips: int, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Five tags, and outputs of which some are far off: noise of the t distribution with three degrees of freedom."""
    outputs, truth = tags(random, clips, 0.0)
    scale = np.sqrt(random.chisquare(3, size=(1, clips, 5)) / 3)
    return outputs / torch.from_numpy(scale) + skill * truth.double(), truth


PREVALENCE = (0.1, 0.2, 0.3, 0.15, 0.25)
tags = make_tags_law(*PREVALENCE)


def draw_scalars(random: np.random.Generator, clips: int, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
    truth = random.normal(size=(clips, 2))
    shrunk = skill * truth
    return torch.from_numpy(shrunk + np.sqrt(skill * (1 - skill)) * _draw_noise(random, clips, 2)), torch.from_numpy(
        truth
    )


def draw_beats(random: np.random.Generator, clips: int, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
    reference = random.integers(30, 90, clips)
    ability = 1 / (1 + np.exp(-(skill + 1.5 * _draw_noise(random, clips, 1)[..., 0])))
    hits = random.binomial(reference, ability)
    estimated = hits + random.poisson(0.3 * reference * (1 - ability))
    counts = np.stack([hits, estimated, np.broadcast_to(reference, hits.shape)], axis=-1).astype(np.float64)
    return torch.from_numpy(counts), torch.zeros(clips)


def draw_decibels(random: np.random.Generator, clips: int, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
    skewed = skill + 2 * _draw_noise(random, clips, 1) - random.exponential(1.5, size=(1, clips, 1))
    return torch.from_numpy(skewed), torch.zeros(clips)


# name: metric, law, skill, clips
CASES: dict[str, tuple[Metric, Draw, float, tuple[int, ...]]] = {
    "accuracy, near 0.7": (accuracy, make_classes_law(10), 2.0, (40, 290)),
    "accuracy, near 0.9": (accuracy, make_classes_law(10), 3.0, (40, 290)),
    "weighted key": (weighted, make_classes_law(24), 2.0, (24, 604)),
    "R2": (r2, draw_scalars, 0.6, (24, 125)),
    "ROC AUC, 5 tags": (roc_auc, tags, 1.5, (24, 60, 300)),
    "AP, 5 tags": (ap, tags, 1.5, (24, 60, 300)),
    "AP, 5 tags, low": (ap, tags, 0.5, (24, 60, 300)),
    "AP, 5 tags, high": (ap, tags, 3.0, (24, 60, 300)),
    "AP, 5 tags, near 1": (ap, tags, 4.0, (24, 60)),
    "AP, 1 tag, high": (ap, make_tags_law(0.25), 3.0, (24,)),
    "AP, pairs, low": (ap, draw_pairs_of_tags, 0.7, (24,)),
    "AP, pairs": (ap, draw_pairs_of_tags, 1.5, (24, 60)),
    "AP, pairs, high": (ap, draw_pairs_of_tags, 3.0, (24,)),
    "AP, 10 tags": (ap, make_tags_law(*np.arange(0.12, 0.32, 0.02)), 1.5, (24, 60)),
    "AP, heavy tails": (ap, draw_heavy_tailed, 2.0, (24, 60, 300)),
    "AP, 30 uneven tags": (ap, make_tags_law(*np.geomspace(0.03, 0.4, 30)), 1.5, (120, 300)),
    "pooled F": (POOLED_F, draw_beats, 1.5, (20, 100)),
    "mean of dB": (MEAN_DB, draw_decibels, 5.0, (12, 50)),
}


def compute_true_score(metric: Metric, draw: Draw, skill: float) -> float:
    """The score of a draw so large that its own error is far below what is asked of intervals."""
    scores = []
    for seed in range(10):
        outputs, truth = draw(np.random.default_rng([99, seed]), 40_000, skill)
        scores.append(float(metric.compute(outputs, truth).mean()))
    return float(np.mean(scores))


def compute_ways(one: ours.Replicated) -> dict[str, tuple[float, float]]:
    """The interval of each way."""
    usable, blocks = one.bootstrap[np.isfinite(one.bootstrap)], len(one.jackknife)
    tail = t.ppf(0.975, blocks - 1)
    error = np.sqrt((blocks - 1) / blocks * ((one.jackknife - one.jackknife.mean()) ** 2).sum())
    moved = norm.cdf(np.sqrt(blocks / (blocks - 1)) * tail)
    plain = norm.cdf(norm.ppf(0.975))
    # BCa with normal levels: the tail that the suite would take with endless blocks
    endless = ours.compute_bca_interval(
        one.score, one.bootstrap, np.tile(one.jackknife, 1), _compute_normal_level(blocks)
    )
    return {
        "percentile": (np.quantile(usable, 1 - plain), np.quantile(usable, plain)),
        "percentile t": (np.quantile(usable, 1 - moved), np.quantile(usable, moved)),
        "BCa": endless,
        "BCa t": ours.compute_bca_interval(one.score, one.bootstrap, one.jackknife),
        "jackknife t": (one.score - tail * error, one.score + tail * error),
    }


def _compute_normal_level(blocks: int) -> float:
    """The level at which the suite's t tail equals the normal's 1.96."""
    return float(2 * t.cdf(1.959964 / np.sqrt(blocks / (blocks - 1)), blocks - 1) - 1)


def simulate_coverage(name: str, clips: int, simulations: int, seed: int = 1) -> dict[str, tuple[float, float, float]]:
    """Of each way: the share of intervals that hold the truth, that lie above it, and the mean width."""
    metric, draw, skill, _ = CASES[name]
    truth_score = compute_true_score(metric, draw, skill)
    held: dict[str, list[tuple[bool, bool, float]]] = {}
    groups = [f"{clip:05}" for clip in range(clips)]
    for simulation in range(simulations):
        outputs, truth = draw(np.random.default_rng([seed, simulation]), clips, skill)
        (one,) = ours.replicate(metric, [outputs], truth, groups, seed=simulation, bootstrap=True)
        intervals = compute_ways(one)
        if metric.interval == "jackknife" or one.by_t:
            intervals["the suite"] = ours.bootstrap_interval(metric, outputs, truth, groups)
        for way, (low, high) in intervals.items():
            held.setdefault(way, []).append((low <= truth_score <= high, low > truth_score, high - low))
    return {way: tuple(float(v) for v in np.mean(rows, axis=0)) for way, rows in held.items()}  # type: ignore[misc]


def simulate_paired(name: str, clips: int, simulations: int, better: float) -> tuple[float, float, float, float]:
    """Two systems, the second's skill `better` higher: how often the paired and the unpaired test find a difference at
    5 %, and how often the difference's interval and its BCa interval hold the true one."""
    metric, draw, skill, _ = CASES[name]
    true = _compute_true_difference(name, better) if better else 0.0
    found = []
    groups = [f"{clip:05}" for clip in range(clips)]
    for simulation in range(simulations):
        # the same stream for both: clips and the clips' part of the noise are common, as for two encoders on one test set
        a, truth = draw(np.random.default_rng([2, simulation]), clips, skill)
        b, _ = draw(np.random.default_rng([2, simulation]), clips, skill + better)
        own = np.random.default_rng([3, simulation])
        a, b = (_draw_own_noise(each, own, metric) for each in (a, b))
        one, other = ours.replicate(metric, [a, b], truth, groups, seed=simulation, bootstrap=True)
        apart = abs(one.score - other.score) / np.hypot(one.bootstrap.std(), other.bootstrap.std())
        compared = ours.compute_difference(one, other)
        low, high = ours.compute_bca_interval(
            compared.value, one.bootstrap - other.bootstrap, one.jackknife - other.jackknife
        )
        found.append(
            (compared.p < 0.05, 2 * norm.sf(apart) < 0.05, compared.low <= true <= compared.high, low <= true <= high)
        )
    return tuple(float(share) for share in np.mean(found, axis=0))  # type: ignore[return-value]


def _compute_true_difference(name: str, better: float) -> float:
    metric, draw, skill, _ = CASES[name]
    scores = []
    for seed in range(10):
        own = np.random.default_rng([98, seed])
        for more in (0.0, better):
            outputs, truth = draw(np.random.default_rng([99, seed]), 40_000, skill + more)
            scores.append(float(metric.compute(_draw_own_noise(outputs, own, metric), truth).mean()))
    return float(np.mean(scores[0::2]) - np.mean(scores[1::2]))


def _draw_own_noise(outputs: torch.Tensor, random: np.random.Generator, metric: Metric) -> torch.Tensor:
    """A system's own noise on top of what both share, the same for its seeds."""
    if metric is POOLED_F:
        hits = outputs[..., :1]
        return torch.cat([hits - torch.from_numpy(random.binomial(hits[:1].int().numpy(), 0.05)), outputs[..., 1:]], -1)
    return outputs + 0.7 * torch.from_numpy(random.normal(size=(1, *outputs.shape[1:])))


BETTER = {
    "accuracy, near 0.7": 0.35, "accuracy, near 0.9": 0.35, "weighted key": 0.3, "R2": 0.2, "ROC AUC, 5 tags": 0.3,
    "AP, 5 tags": 0.3, "AP, 5 tags, low": 0.3, "AP, 5 tags, high": 0.3, "pooled F": 0.25, "mean of dB": 0.5,
}  # fmt: skip


def draw_songs(random: np.random.Generator, groups: int, skill: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight clips of each song, right as often as the song is easy."""
    easy = np.repeat(random.beta(2 * skill, 2 * (1 - skill), groups), 8)
    right = random.random((SEEDS, 8 * groups)) < easy
    return torch.from_numpy(np.stack([right, ~right], axis=-1) * 1.0), torch.zeros(8 * groups, dtype=torch.int64)


FEW: dict[str, tuple[Metric, Draw, float]] = {
    "mean of dB": (MEAN_DB, draw_decibels, 5.0),
    "pooled F": (POOLED_F, draw_beats, 1.5),
    "accuracy of songs": (accuracy, draw_songs, 0.67),
    "R2": (r2, draw_scalars, 0.6),
}


def print_few(simulations: int) -> None:
    """A table of the share of intervals that hold the truth, for few groups: BCa with levels of t, and the jackknife's."""
    sizes = (2, 3, 4, 6, 8, 10, 12)
    print("| simulated: BCa / jackknife with t / the suite | " + " | ".join(f"{size} groups" for size in sizes) + " |")
    print("|---|" + "--:|" * len(sizes))
    for name, (metric, draw, skill) in FEW.items():
        truth_score = 0.67 if draw is draw_songs else compute_true_score(metric, draw, skill)
        row = []
        for size in sizes:
            held = []
            for simulation in range(simulations):
                outputs, truth = draw(np.random.default_rng([4, simulation]), size, skill)
                each = len(truth) // size
                groups = [f"{clip // each:05}" for clip in range(len(truth))]
                (one,) = ours.replicate(metric, [outputs], truth, groups, seed=simulation, bootstrap=True)
                bca, student = (
                    ours.compute_bca_interval(one.score, one.bootstrap, one.jackknife),
                    ours.compute_t_interval(one.score, one.jackknife),
                )
                suite = ours.bootstrap_interval(metric, outputs, truth, groups, seed=simulation)
                held.append([low <= truth_score <= high for low, high in (bca, student, suite)])
            row.append(" / ".join(f"{100 * share:.0f}" for share in np.mean(held, axis=0)))
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


def main() -> None:
    """Print both tables."""
    simulations = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    part = sys.argv[2] if len(sys.argv) > 2 else ""
    if part == "few":
        torch.set_num_threads(1)
        print_few(simulations)
        return
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    torch.set_num_threads(1)
    cases = {name: case for name, case in CASES.items() if part in name}
    for name, (*_, sizes) in cases.items():
        for clips in sizes:
            started = time.perf_counter()
            rows = simulate_coverage(name, clips, simulations, seed)
            shown = "  ".join(
                f"{way} {100 * share:.1f} ({100 * above:.1f} above)" for way, (share, above, _) in rows.items()
            )
            print(f"{name:20} {clips:4} clips  {shown}  [{time.perf_counter() - started:.0f} s]", flush=True)
    print()
    for name, (*_, sizes) in cases.items():
        if name not in BETTER:
            continue
        for clips in sizes:
            level, power = (
                simulate_paired(name, clips, simulations, 0.0),
                simulate_paired(name, clips, simulations, BETTER[name]),
            )
            print(
                f"{name:20} {clips:4} clips  equal: paired {100 * level[0]:.1f}, unpaired {100 * level[1]:.1f}"
                f"  different: paired {100 * power[0]:.1f}, unpaired {100 * power[1]:.1f}"
                f"  interval holds: {100 * level[2]:.1f} and {100 * power[2]:.1f}"
                f", BCa {100 * level[3]:.1f} and {100 * power[3]:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
