"""How often intervals of average precision (AP) hold the truth, on laws that nobody chose.

python benchmarks/intervals_ap.py SEED [--cells 24] [--first 0] [--simulations 300]

SEED is the first eight hex digits of the hash of the commit that froze the suite's interval and this file. The hash was not
known while either was written, so neither can have been fitted to the laws, as the suite's interval was to the cells of
`benchmarks/intervals.py`. After a change of the interval, the hash of the changed commit draws new laws.

A cell is one law (`draw_law`): how many clips, alone or in songs, how many tags, how often each is carried, how well it is
ranked, what noise the scores have, and how tags, clips of a song and training seeds go together. The truth is the AP of
millions of scores. Every simulation draws a test split, and four intervals are made of it:

- ours: `marble_bench.scoring.statistics.compute_interval`, the product's own path.
- Boyd et al.: `compute_logit_interval` for one tag, `compute_logit_jackknife_interval` for the mean over several.
- their variances: `compute_logit_interval` for one tag, `compute_combined_interval` for the mean over several.
- BCa: the suite's BCa, levels of t, from 1,000 bootstrap samples.

`95.3±1.2 (0.7 above, 0.28 wide)`: 95.3 % hold the truth, with the Monte-Carlo standard error; 0.7 % lie above it; the mean
width. A simulation without an interval (a score of 1 has no logit; a bootstrap of it no spread) does not hold the truth, and
`none` is the share of those.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import expon, norm, t

from marble_bench.metrics import ap
from marble_bench.scoring import statistics as ours

Array = NDArray[Any]
NOISES: dict[str, Callable[[Array], Array]] = {  # each makes its noise of standard normal numbers
    "normal": lambda normal: normal,
    "t, 3 dof": lambda normal: t.ppf(norm.cdf(normal), 3),
    "exponential": lambda normal: expon.ppf(norm.cdf(normal)),
    "normal, ties": lambda normal: normal,
}
COMMON_TO_SEEDS = 0.8  # the share of noise that all training seeds have in common, as in benchmarks/intervals.py
LEAST_CARRIERS = 3  # clips, or songs, that are expected to carry a tag
SCORES_OF_TRUTH = 2_500_000  # in each of `DRAWS_OF_TRUTH` draws
DRAWS_OF_TRUTH = 4
HOLDS = 0.93  # the share from which an interval is said to hold
WAYS = ("ours", "Boyd et al.", "their variances", "BCa")


@dataclass(frozen=True)
class Law:
    """Of what clips and scores are drawn; shares are of the variance of a normal number behind labels or noise.

    clips_of_song: 1 where clips stand alone. seeds: probes whose scores are averaged. prevalence, skill: of each tag; skill
    is by how much a clip that carries the tag stands higher, in units of the noise. tags_alike: `(tags,)`, the loading of
    each label on one normal number of the clip. errors_alike: the share of noise that a clip has in all tags.
    songs_alike, errors_of_song: the share of labels and of noise that clips of a song have in common. step: scores are
    rounded to multiples of it; 0: they are not.
    """

    songs: int
    clips_of_song: int
    seeds: int
    prevalence: tuple[float, ...]
    skill: tuple[float, ...]
    tags_alike: tuple[float, ...]
    errors_alike: float
    songs_alike: float
    errors_of_song: float
    noise: str
    step: float


def draw_law(seed: int, cell: int) -> Law:
    """The law of a cell, a function of seed and cell alone. Kinds of noise take turns; every third cell is of songs."""
    random = np.random.default_rng([seed, cell, 0])
    clips_of_song = int(random.integers(2, 9)) if cell % 3 == 2 else 1
    songs = round(_log_uniform(random, 24, 1000 / clips_of_song))
    tags = int(_log_uniform(random, 1, 51))
    base = random.uniform(0.3, 3)
    noise = list(NOISES)[cell % len(NOISES)]
    return Law(
        songs,
        clips_of_song,
        seeds=int(random.choice([1, 3])),
        prevalence=tuple(_log_uniform(random, max(0.02, LEAST_CARRIERS / songs), 0.5) for _ in range(tags)),
        skill=tuple(base * random.uniform(0.6, 1.4, tags)),
        tags_alike=tuple(np.sqrt(random.uniform(0, 0.6)) * random.choice([-1, 1], tags)),
        errors_alike=random.uniform(0, 0.8),
        songs_alike=random.uniform(0.5, 1),
        errors_of_song=random.uniform(0.2, 0.8),
        noise=noise,
        step=random.uniform(0.25, 1) if noise.endswith("ties") else 0.0,
    )


def _log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


def draw_split(law: Law, random: np.random.Generator, songs: int, seeds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A test split: outputs `(seeds, clips, tags)` and truth `(clips, tags)`, the clips of a song one after another.

    A tag that no clip or every clip carries is drawn again: the suite refuses such a split.
    """
    tags, clips = len(law.prevalence), songs * law.clips_of_song

    def of_clips(width: int, share: float) -> Array:
        """Normal numbers `(clips, width)` of which the clips of a song have a share in common."""
        song = np.repeat(random.normal(size=(songs, width)), law.clips_of_song, axis=0)
        mixed: Array = np.sqrt(share) * song + np.sqrt(1 - share) * random.normal(size=(clips, width))
        return mixed

    loading, threshold = np.array(law.tags_alike), norm.isf(law.prevalence)
    common = of_clips(1, law.songs_alike)
    truth = np.zeros((clips, tags))
    again = np.ones(tags, dtype=bool)
    while again.any():
        own = of_clips(int(again.sum()), law.songs_alike)
        truth[:, again] = loading[again] * common + np.sqrt(1 - loading[again] ** 2) * own > threshold[again]
        again = (truth.sum(axis=0) == 0) | (truth.sum(axis=0) == clips)
    shared = np.sqrt(law.errors_alike) * of_clips(1, law.errors_of_song)
    shared = shared + np.sqrt(1 - law.errors_alike) * of_clips(tags, law.errors_of_song)
    own = random.normal(size=(seeds, clips, tags))
    noise = NOISES[law.noise](np.sqrt(COMMON_TO_SEEDS) * shared + np.sqrt(1 - COMMON_TO_SEEDS) * own)
    scores = np.array(law.skill) * truth + noise
    if law.step:
        scores = np.round(scores / law.step)
    return torch.from_numpy(scores), torch.from_numpy(truth)


def compute_true_score(law: Law, seed: int, cell: int) -> float:
    """The AP of draws so large that their own error is far below a width; seeds are alike, so that one is enough."""
    songs = SCORES_OF_TRUTH // len(law.prevalence) // law.clips_of_song
    draws = (draw_split(law, np.random.default_rng([seed, cell, 1, each]), songs, 1) for each in range(DRAWS_OF_TRUTH))
    return float(np.mean([float(ap.compute(*draw)) for draw in draws]))


def compute_logit_interval(score: float, positives: float) -> tuple[float, float]:
    """Boyd, Eng and Page's logit interval of one tag that so many clips carry.

    `expit(eta +- z tau)` with `eta = logit(score)` and `tau = (positives score (1 - score)) ** -1/2` (Area under the
    precision-recall curve: point estimates and confidence intervals, ECML PKDD 2013, section 3.2). Where clips go together,
    `positives` counts the songs. NaN for a score of 0 or 1, whose logit is infinite.

    >>> [round(bound, 4) for bound in compute_logit_interval(0.8, 25)]
    [0.6002, 0.9142]
    """
    if not 0 < score < 1:
        return float("nan"), float("nan")
    return _compute_around(score, (positives * score * (1 - score)) ** -0.5, norm.ppf(0.975))


def compute_logit_jackknife_interval(score: float, left_out: Array) -> tuple[float, float]:
    """The logit interval of a mean AP over tags, its error that of a jackknife.

    Boyd, Eng and Page speak of one tag. For the mean over tags, eta is the logit of the mean and tau its jackknife error:
    `tau ** 2 = (B - 1) / B sum((eta_b - mean eta_b) ** 2)`, where eta_b is the logit of `left_out (B,)`, the mean AP without
    one song, or one clip where clips stand alone (one of 500 blocks of them, where there are more). Instead of z stands t
    with B - 1 degrees of freedom (Tukey 1958).
    """
    blocks = len(left_out)
    if not 0 < score < 1 or not ((left_out > 0) & (left_out < 1)).all():
        return float("nan"), float("nan")
    moved = logit(left_out)
    tau = np.sqrt((blocks - 1) / blocks * ((moved - moved.mean()) ** 2).sum())
    return _compute_around(score, float(tau), t.ppf(0.975, blocks - 1))


def compute_combined_interval(scores: Array, positives: Array, left_out: Array) -> tuple[float, float]:
    """The logit interval of a mean AP over tags, each with Boyd, Eng and Page's variance, their correlation a jackknife's.

    scores: `(tags,)`. positives: `(tags,)`, clips or songs that carry each. left_out: `(B, tags)`, each tag's AP without one
    block, NaN where no carrier is left, which counts as no change. The variance of the mean is `w V w` with
    `V_jk = r_jk s_j s_k`, `s_j ** 2 = AP_j (1 - AP_j) / positives_j` and `w_j = 1 / tags`; r is the columns' correlation
    in `left_out`. `tau` is its root over `mean (1 - mean)` (the delta method), which for one tag is the paper's.
    """
    mean, weights = float(scores.mean()), np.full(len(scores), 1 / len(scores))
    if not 0 < mean < 1:
        return float("nan"), float("nan")
    moved = np.nan_to_num(left_out - scores, nan=0.0)
    moved = moved - moved.mean(axis=0)
    lengths = np.sqrt((moved**2).sum(axis=0))
    directions = moved / np.where(lengths > 0, lengths, 1)
    alike = directions.T @ directions
    np.fill_diagonal(alike, 1.0)
    spread = weights * np.sqrt(scores * (1 - scores) / positives)
    return _compute_around(mean, float(np.sqrt(spread @ alike @ spread)) / (mean * (1 - mean)), norm.ppf(0.975))


def _compute_around(score: float, tau: float, quantile: float) -> tuple[float, float]:
    low, high = expit(logit(score) + quantile * tau * np.array([-1, 1]))
    return float(low), float(high)


def compute_intervals(
    outputs: torch.Tensor, truth: torch.Tensor, groups: list[str], seed: int
) -> dict[str, tuple[float, float]]:
    """The interval of each of `WAYS`."""
    cut, tags = ours.jackknife(groups), range(truth.shape[1])
    by_tag = np.stack(
        [ours.rescore(ap, outputs[:, :, [tag]], truth[:, [tag]], cut).mean(axis=1) for tag in tags], axis=1
    )
    scores = np.array([float(ap.compute(outputs[:, :, [tag]], truth[:, [tag]]).mean()) for tag in tags])
    score, of_group = float(scores.mean()), np.unique(groups, return_inverse=True)[1]
    carried = np.zeros((len(set(groups)), len(tags)))
    np.maximum.at(carried, of_group, truth.numpy())
    positives = carried.sum(axis=0)
    left_out = np.array([np.nan if np.isnan(row).all() else np.nanmean(row) for row in by_tag])
    found = ours.compute_interval(ap, outputs, truth, groups)
    if len(tags) == 1:
        theirs = combined = compute_logit_interval(score, positives[0])
    else:
        theirs = compute_logit_jackknife_interval(score, left_out)
        combined = compute_combined_interval(scores, positives, by_tag)
    bootstrap = ours.rescore(ap, outputs, truth, ours.resample(groups, seed=seed)).mean(axis=1)
    bca = ours.admit_interval(score, *ours.compute_bca_interval(score, bootstrap, left_out))
    return dict(zip(WAYS, ((found.low, found.high), theirs, combined, (bca.low, bca.high)), strict=True))


@dataclass(frozen=True)
class Coverage:
    """Shares of simulations whose interval holds the truth, lies above it, is missing; and the mean width of those there."""

    holds: float
    above: float
    none: float
    width: float
    error: float  # Monte-Carlo standard error of `holds`

    def __str__(self) -> str:
        none = f", {100 * self.none:.1f} none" if self.none else ""
        shares = f"{100 * self.holds:.1f}±{100 * self.error:.1f} ({100 * self.above:.1f} above"
        return f"{shares}, {self.width:.2f} wide{none})"


def count_coverage(bounds: Array, true: float) -> Coverage:
    """Of `(simulations, 2)` bounds, NaN where there is no interval."""
    low, high = bounds.T
    holds = float(((low <= true) & (true <= high)).mean())
    there = np.isfinite(low)
    return Coverage(
        holds,
        float((low > true).mean()),
        float((~there).mean()),
        float((high - low)[there].mean()) if there.any() else float("nan"),
        float(np.sqrt(holds * (1 - holds) / len(bounds))),
    )


def simulate(law: Law, seed: int, cell: int, simulations: int) -> tuple[float, dict[str, Coverage]]:
    """The true score of a cell, and how often each way holds it."""
    true = compute_true_score(law, seed, cell)
    groups = [f"{song:05}" for song in range(law.songs) for _ in range(law.clips_of_song)]
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for simulation in range(simulations):
        split = draw_split(law, np.random.default_rng([seed, cell, 2, simulation]), law.songs, law.seeds)
        for way, bounds in compute_intervals(*split, groups, simulation).items():
            found[way].append(bounds)
    return true, {way: count_coverage(np.array(bounds), true) for way, bounds in found.items()}


def describe_cell(cell: int, law: Law, true: float) -> str:
    """The first columns of a row: cell, clips, tags, expected carriers of the rarest, noise, seeds, true score."""
    clips = f"{law.songs} x {law.clips_of_song}" if law.clips_of_song > 1 else str(law.songs)
    rarest = min(law.prevalence) * law.songs
    return f"{cell} | {clips} | {len(law.prevalence)} | {rarest:.0f} | {law.noise} | {law.seeds} | {true:.3f}"


def main() -> None:
    """Print a row for each cell as it is done, then what the rows come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", type=lambda digits: int(digits, 16), help="eight hex digits")
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--simulations", type=int, default=300)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| cell | clips | tags | rarest on | noise | seeds | true AP | " + " | ".join(WAYS) + " |")
    print("|--:|--:|--:|--:|---|--:|--:|" + "---|" * len(WAYS), flush=True)
    rows = []
    for cell in range(asked.first, asked.first + asked.cells):
        law, started = draw_law(asked.seed, cell), time.perf_counter()
        true, row = simulate(law, asked.seed, cell, asked.simulations)
        rows.append(row)
        took = f" <!-- {time.perf_counter() - started:.0f} s -->"
        print(
            f"| {describe_cell(cell, law, true)} | " + " | ".join(str(row[way]) for way in WAYS) + " |" + took,
            flush=True,
        )
    print()
    for way in WAYS:
        holds = np.array([row[way].holds for row in rows])
        print(
            f"{way:16} lowest {100 * holds.min():.1f}, median {100 * np.median(holds):.1f}, under {100 * HOLDS:.0f} % in "
            f"{(holds < HOLDS).sum()} of {len(rows)} cells"
        )


if __name__ == "__main__":
    main()
