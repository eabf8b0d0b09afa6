"""How sure a score is, and whether two scores differ: all from per-clip outputs, for any metric.

Everything rests on one act: scoring the same clips with other multiplicities, the outputs untouched. Clips of one group (a
recording, a song) always go together. A metric is asked for its score only, so that a share of right clips, an area under a
curve, a pooled F or a mean over tracks are all treated alike.

- Interval: the bias-corrected and accelerated bootstrap (BCa; Efron, Better bootstrap confidence intervals, JASA 82, 1987),
  with its levels moved outwards for few groups (Hesterberg, What teachers should know about the bootstrap, The American
  Statistician 69, 2015, section 5: percentile intervals are narrow by sqrt((n - 1) / n) and take the normal for the t
  distribution). `benchmarks/intervals.py` says how often each way covers the truth.
- Interval where fewer than `T_GROUPS` groups have a value, or of a metric that compares clips with each other
  (`Metric.compares`): the score plus and minus t times Tukey's jackknife error, with groups - 1 degrees of freedom (Tukey,
  Bias and confidence in not-quite large samples, Annals of Mathematical Statistics 29, 1958); of a mean over groups that is
  Student's interval (The probable error of a mean, Biometrika 6, 1908). A bootstrap of few groups knows no value beyond
  theirs, and in a bootstrap sample a clip is compared with its own copies. Of few groups the interval reaches as far as
  BCa's too, which is the wider one on the open side of a share near 0 or 1.
- No interval where fewer than two groups have a value, where leaving one out leaves no score, where all samples have the
  same score (a share of 0 or 1 has Wilson's), of a median of fewer than `MEDIAN_GROUPS` groups (the range of five values
  holds the median of their law in 94 % of samples, which is the most that five can: Thompson, Annals of Mathematical
  Statistics 7, 1936), and where the interval would not hold its own score.
- Interval of a score that few clips raise, as they do average precision (`Metric.interval`): the score on the logit scale,
  as Boyd, Eng and Page advise for areas under precision-recall curves (Area under the precision-recall curve, ECML PKDD
  2013), less its bias, plus and minus t times the standard error of that difference. Bias and error are a jackknife's in
  which a block of groups counts a quarter and is not left out, so that no sample loses the few clips of a tag (between the
  jackknife and the infinitesimal one of Jaeckel 1972; Efron, The jackknife, the bootstrap and other resampling plans, 1982,
  chapter 6). A second jackknife within the first gives what is left of the bias, as biases are taken off bootstraps (Hall,
  The bootstrap and Edgeworth expansion, 1992, section 1.4), and how much wider the error becomes: taking a bias off makes
  a score less certain. One clip without the tag that stands above all others makes the second step too large, and many tags
  on few clips make the first too small: the interval reaches from the one's lower end to the other's upper end. Bootstrap
  samples hold some clips twice, and copies of a clip that carries a tag raise each other's precision; here no clip counts
  for more than one.
  A jackknife over the few clips that carry a tag is a poor judge of its own error, and sees none where all of them are
  ranked without a fault. So its variance is averaged with the binomial one of as many clips as carry a tag (Boyd, Eng and
  Page again) and the four that Agresti and Coull add to a share (Approximate is better than "exact", The American
  Statistician 52, 1998), as Smyth moderates variances (Linear models and empirical Bayes methods, SAGMB 3, 2004): by degrees
  of freedom, which the jackknife's own spread gives (Hinkley, Jackknife confidence limits using Student t approximations,
  Biometrika 64, 1977). They count squared: precisions are between 0 and 1, most of them not at either, so that the
  binomial variance is a bound, which many clips have no use for.
  `benchmarks/intervals_ap.py` compares this interval with Boyd, Eng and Page's on laws that were drawn after it was fixed.
- Interval of a difference: BCa of the differences in the same samples, or t and the jackknife where a score has these. Of a
  score that few clips raise: the difference plus and minus t times the error by the blocks that count a quarter, with
  Hinkley's degrees of freedom. What both systems have of the bias falls out.
- Paired test: both systems' score for the same clips, its difference cut into one jackknife pseudo-value for each group
  (Tukey 1958; Miller, The jackknife: a review, Biometrika 61, 1974), and the signs of those flipped (Fisher's
  randomisation test). For a mean over clips the pseudo-values are the clips' own differences; for a ROC area they are
  DeLong's components; for a ratio its linear part.
- Many tests: Holm, A simple sequentially rejective multiple test procedure, Scand. J. Statistics 6, 1979. It holds the
  chance of any false difference at 5 % whatever the dependence, which tests on the same clips need.
- Ties: the compact letter display of Piepho, An algorithm for a letter-based representation of all-pairwise comparisons,
  JCGS 13, 2004.
- Published accuracy without predictions: Wilson's score interval (JASA 22, 1927) from the number of test clips. The same for
  a share without a fault, or without a hit, of which every bootstrap sample has the same score.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from marble_bench.scoring.metric import Metric

RESAMPLES = 1000
LEVEL = 0.95
BLOCKS = 500  # of a jackknife: more groups than that are joined, which costs no power that could be seen
FLIPS = 9999  # random patterns of signs; few groups have all of theirs tried
EXACT = 12  # groups up to which all 2 ** groups patterns are tried
PAIR_BLOCKS = 30  # of a jackknife within a jackknife: 1 + 30 + 465 samples
LESS = 3 / 4  # of a block in these; half covers less where scores are low, all of it too often on two dozen clips
ADDED = 4  # clips that are added to a share before its variance is taken
SURE = 8  # degrees of freedom at which a jackknife's variance counts as much as the binomial one
T_GROUPS = 12  # with a value, from which on BCa holds as often as t with the jackknife (benchmarks/intervals.py few)
MEDIAN_GROUPS = 6
AT_ONCE = 40_000_000  # weights held at a time: 320 MB


def _index_groups(groups: Sequence[str]) -> tuple[NDArray[Any], int]:
    """Each clip's group as a number, and how many groups there are."""
    import numpy as np

    names, of_group = np.unique(np.array(groups), return_inverse=True)
    return of_group, len(names)


def resample(groups: Sequence[str], resamples: int = RESAMPLES, seed: int = 0) -> NDArray[Any]:
    """How often each clip stands in each bootstrap sample, `(resamples, clips)`: groups drawn with replacement."""
    import numpy as np

    of_group, count = _index_groups(groups)
    drawn = np.random.default_rng(seed).integers(0, count, (resamples, count), dtype=np.int32)
    flat = (drawn + count * np.arange(resamples)[:, None]).ravel()
    counts: NDArray[Any] = np.bincount(flat, minlength=resamples * count).reshape(resamples, count)[:, of_group]
    return counts.astype(np.float32)


def jackknife(groups: Sequence[str], blocks: int = BLOCKS) -> NDArray[Any]:
    """The samples of a jackknife, `(blocks, clips)`: each leaves one block out, a group, or several where there are many."""
    import numpy as np

    of_group, count = _index_groups(groups)
    order = np.random.default_rng(0).permutation(count)  # neighbours in a list are often alike: they are parted
    block = order[of_group] % min(count, blocks)
    remaining: NDArray[Any] = np.arange(min(count, blocks))[:, None] != block[None]
    return remaining.astype(np.float32)


def rescore(metric: Metric, outputs: torch.Tensor, truth: torch.Tensor, weights: NDArray[Any]) -> NDArray[Any]:
    """The score of every probe with clips counted `weights (replicates, clips)` times: `(replicates, probes)` float64."""
    import numpy as np
    import torch

    if metric.weighted is not None:
        step = max(1, AT_ONCE // weights.shape[1])
        parts = [
            metric.weighted(outputs, truth, torch.from_numpy(weights[first : first + step]))
            for first in range(0, len(weights), step)
        ]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)
    compute = metric.on_resample or metric.compute
    scores = []
    for counts in weights.astype(np.int64):
        rows = torch.from_numpy(np.repeat(np.arange(len(counts)), counts))
        scores.append(compute(outputs[:, rows], truth[rows]).double().numpy())
    return np.array(scores)


def compute_bca_interval(
    estimate: float, replicates: NDArray[Any], jackknife: NDArray[Any], level: float = LEVEL
) -> tuple[float, float]:
    """The BCa interval of an estimate from its bootstrap `(replicates,)` and its jackknife `(blocks,)`.

    The levels are those of a t distribution with blocks - 1 degrees of freedom (see the module). Replicates without a
    score are left out. (NaN, NaN) where the estimate or all replicates are NaN, one block is all there is, or leaving one
    out leaves no score.
    """
    import numpy as np
    from scipy.stats import norm, t

    usable = replicates[np.isfinite(replicates)]
    blocks = len(jackknife)
    if not len(usable) or blocks < 2 or not np.isfinite(estimate) or np.isnan(jackknife).any():
        return float("nan"), float("nan")
    # rounding must not part a replicate from the estimate that it equals: both are sums in another order
    near = np.isclose(usable, estimate, rtol=1e-9, atol=1e-12)
    below = (((usable < estimate) & ~near).sum() + near.sum() / 2) / len(usable)
    bias = norm.ppf(np.clip(below, 0.5 / len(usable), 1 - 0.5 / len(usable)))
    influence = np.mean(jackknife) - jackknife
    cubed = np.sum(influence**2) ** 1.5
    acceleration = np.sum(influence**3) / (6 * cubed) if cubed > 0 else 0.0
    tail = np.sqrt(blocks / (blocks - 1)) * t.ppf((1 + level) / 2, blocks - 1)
    moved = bias + np.array([-tail, tail])
    levels = norm.cdf(bias + moved / (1 - acceleration * moved))
    low, high = np.quantile(usable, levels)
    return float(low), float(high)


def compute_t_interval(estimate: float, jackknife: NDArray[Any]) -> tuple[float, float]:
    """The 95 % interval of an estimate, give or take t times the error that its jackknife `(blocks,)` shows (Tukey).

    (NaN, NaN) where the estimate or a sample of the jackknife is NaN, or one block is all there is.
    """
    import numpy as np
    from scipy.stats import t

    blocks = len(jackknife)
    if blocks < 2 or not np.isfinite(estimate) or not np.isfinite(jackknife).all():
        return float("nan"), float("nan")
    error = np.sqrt((blocks - 1) / blocks * np.square(jackknife - jackknife.mean()).sum())
    tail = float(t.ppf((1 + LEVEL) / 2, blocks - 1) * error)
    return estimate - tail, estimate + tail


def compute_corrected_interval(
    estimate: float,
    lessened: NDArray[Any],
    pairs: NDArray[Any],
    shares: NDArray[Any],
    groups: int,
    carriers: float | None,
    finer: tuple[NDArray[Any], NDArray[Any]] | None,
) -> tuple[float, float]:
    """The 95 % interval of a score between 0 and 1 less its bias, both on the logit scale (see the module).

    lessened: `(blocks,)`, the score with each block counted less, by `LESS` of itself. pairs: `(blocks, blocks)`, with two;
    the diagonal with one block lessened twice. shares: `(blocks,)`, of all clips. groups: how many stand in the blocks.
    carriers: how many groups raise the score, of which the binomial variance is; None: all, and the jackknife's is taken as
    it is. finer: lessened and shares of more and smaller blocks, whose variance is surer; None: there are none. The bias of
    many tags that few clips carry can be more than the error: then the interval reaches up to the score. (NaN, NaN) where
    the estimate is NaN, or one block is all there is.
    """
    import numpy as np
    from scipy.special import expit
    from scipy.stats import t

    if len(lessened) < 2 or not np.isfinite(estimate):
        return float("nan"), float("nan")
    count = groups if carriers is None else carriers
    whole, one, two = (_compute_logit(np.asarray(scores), count) for scores in (estimate, lessened, pairs))
    squares = _compute_squares(shares, one - whole)
    once, twice, wider = _remove_bias(whole, one, two, shares, squares)
    if finer is not None:
        squares = _compute_squares(finer[1], _compute_logit(finer[0], count) - whole)
    variance = wider * len(squares) / (len(squares) - 1) * squares.sum()
    freedom = _estimate_freedom(squares)
    if carriers is not None:
        binomial = _compute_binomial_variance(expit(twice), carriers)
        variance = (freedom**2 * variance + SURE**2 * binomial) / (freedom**2 + SURE**2)
        freedom = min(len(squares) - 1, freedom + 2)  # two for the binomial one
    tail = t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(variance)
    ends = np.array([min(once, twice) - tail, max(once, twice) + tail])
    low, high = np.clip((expit(ends) * (count + 1) - 0.5) / count, 0, 1)
    return min(float(low), estimate), max(float(high), estimate)


def _compute_logit(scores: NDArray[Any], count: float) -> NDArray[Any]:
    """The logit of `(count * score + 1/2) / (count + 1)`, which scores of 0 and 1 have too."""
    from scipy.special import logit

    scaled: NDArray[Any] = logit((count * scores + 0.5) / (count + 1))
    return scaled


def _remove_bias(
    whole: NDArray[Any], one: NDArray[Any], two: NDArray[Any], shares: NDArray[Any], squares: NDArray[Any]
) -> tuple[Any, Any, float]:
    """A score less its bias in one step and in two, and by what factor its variance grows by the first.

    whole: `()`, one: `(blocks,)` with each block lessened, two: `(blocks, blocks)` with two, on the logit scale. shares:
    `(blocks,)`, of all clips. squares: `(blocks,)`, the blocks' parts in the variance of the whole.
    """
    import numpy as np

    weights = 1 - LESS * np.eye(len(one))
    shares_within = weights * shares / (weights * shares).sum(axis=1, keepdims=True)
    once = whole - _estimate_bias(shares, one - whole)
    moved = one - _estimate_bias(shares_within, two - one[:, None])
    wider = _compute_squares(shares, moved - once).sum() / squares.sum() if squares.any() else 1.0
    return once, once - _estimate_bias(shares, moved - once), wider


def _compute_binomial_variance(share: float, count: float) -> float:
    """The variance of a share of `count` answers and of `ADDED` more, half of them right, on the logit scale."""
    moderate = (count * share + ADDED / 2) / (count + ADDED)
    return 1 / ((count + ADDED) * moderate * (1 - moderate))


def _estimate_bias(shares: NDArray[Any], moved: NDArray[Any]) -> Any:
    """The bias of a score, from what lessening each block adds to it, both `(..., blocks)`.

    A block of share p that counts less by d of itself is a step of -d p / (1 - d p) towards it. With these weights the first
    order of the score cancels over blocks, and d / 2 times the sum of p squared times the second is left; without the d it
    is the bias.
    """
    return ((1 - LESS * shares) / LESS * moved).sum(axis=-1) / LESS


def _compute_squares(shares: NDArray[Any], moved: NDArray[Any]) -> NDArray[Any]:
    """`(blocks,)`: the squared part of each block in a score's error, from what lessening it adds to the score."""
    slopes = (1 - LESS * shares) / LESS * moved
    squared: NDArray[Any] = (slopes - slopes.mean()) ** 2
    return squared


def _estimate_freedom(squares: NDArray[Any]) -> float:
    """The degrees of freedom of a jackknife's variance, from its `(blocks,)` squared deviations (Hinkley, see the module).

    Between 1, as where one block makes all of the variance or none does, and blocks - 1.
    """
    if not squares.any():
        return 1.0
    relative = squares.var() / squares.mean() ** 2 / len(squares)  # of the variance's own variance
    return float(min(len(squares) - 1, max(1.0, 2 / relative))) if relative > 0 else len(squares) - 1.0


def _count_carriers(truth: torch.Tensor, groups: Sequence[str]) -> float:
    """Of how many groups, each with one answer right or wrong, a mean over parts would have the same variance.

    truth: `(clips, parts)`, above 0 where a clip raises a part. Each part is a mean over the groups that raise it, and a
    group is taken to be as right in all of its parts: so many groups have as large a sum of squared weights.
    """
    import numpy as np

    of_group, count = _index_groups(groups)
    raised = truth.numpy() > 0
    held = np.zeros((count, raised.shape[1]))
    np.maximum.at(held, of_group, raised)
    held = held[:, held.any(axis=0)]
    return float(1 / ((held / held.sum(axis=0)).mean(axis=1) ** 2).sum())


def _average_corrected_interval(
    metric: Metric, outputs: torch.Tensor, truth: torch.Tensor, groups: Sequence[str]
) -> tuple[float, float]:
    """`corrected` of a metric, averaged over probes."""
    import numpy as np

    counts, shares = _lessen_blocks(groups)
    blocks = len(counts)
    first, second = np.triu_indices(blocks)
    whole = np.ones((1, len(groups)), dtype=np.float32)
    scores = rescore(metric, outputs, truth, np.concatenate([whole, counts, counts[first] * counts[second]]))
    estimate, lessened, of_pairs = np.split(scores.mean(axis=1), [1, 1 + blocks])
    pairs = np.empty((blocks, blocks))
    pairs[first, second] = pairs[second, first] = of_pairs
    in_all, finer = _index_groups(groups)[1], None
    if in_all > blocks:
        counts, shares_finer = _lessen_blocks(groups, BLOCKS)
        finer = rescore(metric, outputs, truth, counts).mean(axis=1), shares_finer
    carriers = _count_carriers(metric.carried(truth), groups) if metric.carried else None
    return compute_corrected_interval(float(estimate[0]), lessened, pairs, shares, in_all, carriers, finer)


def _lessen_blocks(groups: Sequence[str], most: int = PAIR_BLOCKS) -> tuple[NDArray[Any], NDArray[Any]]:
    """The samples in which each block counts less by `LESS` of itself, `(blocks, clips)`, and the blocks' shares of clips.

    Counts are whole numbers, for metrics without `weighted`: so many copies of a clip, and one of those that count less.
    """
    import numpy as np

    remaining = jackknife(groups, most)
    copies = 1 / (1 - LESS)
    return (1 + (copies - 1) * remaining).astype(np.float32), 1 - remaining.mean(axis=1)


# The forms of `Interval.why`, by which a record's words are known.
WHY = re.compile(
    r"there is no score|too few groups of test clips have a value|it has the same score whichever clips are drawn|"
    r"it would run from \S{1,20} to \S{1,20}, without the score of \S{1,20}"
)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, or (NaN, NaN) and why there is none."""

    low: float
    high: float
    why: str = ""


def admit_interval(score: float, low: float, high: float) -> Interval:
    """An interval if it is one: with two finite bounds, of some width, and around its own score."""
    from math import isfinite

    why = ""
    if not isfinite(score):
        why = "there is no score"
    elif not (isfinite(low) and isfinite(high)):
        why = "too few groups of test clips have a value"
    elif not low - 1e-9 <= score <= high + 1e-9:  # rounding: both are sums in another order
        why = f"it would run from {low:.4g} to {high:.4g}, without the score of {score:.4g}"
    elif high - low <= 1e-12 * max(1.0, abs(score)):
        why = "it has the same score whichever clips are drawn"
    return Interval(float("nan"), float("nan"), why) if why else Interval(low, high)


def find_valued(metric: Metric, systems: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> NDArray[Any]:
    """`(clips,)`: whether a clip has a value of the metric in every system, each its outputs and truth of the same clips."""
    import numpy as np

    known = [(~metric.score_clips(outputs, truth).isnan()).any(dim=0).numpy() for outputs, truth in systems]
    return np.asarray(np.logical_and.reduce(known))


def compute_interval(
    metric: Metric, outputs: torch.Tensor, truth: torch.Tensor, groups: Sequence[str], seed: int = 0
) -> Interval:
    """The 95 % interval of a metric, averaged over probes, when test clips are drawn again; see `Metric.interval`.

    outputs: `(probes, clips, ...)`. groups: `(clips,)`, clips of one group are drawn together; clips without a value count
    nowhere. A tag that a resample leaves without both kinds of clip is left out of that resample's mean, as is a resample
    without any score. A share of 1 or 0 that no resample changes has Wilson's interval, from the number of groups, or of
    those that carry tags.
    """
    score = float(metric.compute(outputs, truth).mean())
    there = find_valued(metric, [(outputs, truth)])
    if not there.all():
        outputs, truth = outputs[:, there], truth[there]
        groups = [group for group, known in zip(groups, there, strict=True) if known]
    if len(set(groups)) < 2:
        return admit_interval(score, float("nan"), float("nan"))
    if metric.interval == "jackknife":
        return admit_interval(score, *_average_corrected_interval(metric, outputs, truth, groups))
    (one,) = replicate(metric, [outputs], truth, groups, seed)
    unit, scalar = metric.unit == "fraction", metric.kind == "scalars" or metric.name.startswith("r2_")
    samples = one.bootstrap if len(one.bootstrap) else one.jackknife
    if unit and not scalar and one.score in (0, 1) and (samples == one.score).all():
        return admit_interval(
            score,
            *compute_wilson_interval(
                one.score,
                _count_carriers(truth, groups) if metric.kind in ("tags", "masked_tags") else len(set(groups)),
            ),
        )
    low, high = one.interval()
    if unit and one.by_t and one.score <= 1:  # t knows no bounds
        low, high = (low if scalar else max(low, 0.0)), min(high, 1.0)
    return admit_interval(score, low, high)


def bootstrap_interval(
    metric: Metric, outputs: torch.Tensor, truth: torch.Tensor, groups: Sequence[str], seed: int = 0
) -> tuple[float, float]:
    """The bounds of `compute_interval`; (NaN, NaN) where there is no interval."""
    found = compute_interval(metric, outputs, truth, groups, seed)
    return found.low, found.high


@dataclass(frozen=True)
class Difference:
    """Score of one system minus that of another on the same clips, with its 95 % interval and p (two-sided)."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Replicated:
    """A system's score on the clips as they are, in bootstrap samples `(resamples,)` and in a jackknife's `(blocks,)`.

    Two of one task and metric made from the same clips share their samples, so that they can be subtracted.

    lessened: for `Metric.interval` of `jackknife`, the score with each block counted less, and the blocks' shares of clips,
    `(blocks,)` each. by_t: whether its interval is of t and the jackknife, at least as wide as the bootstrap's if there is
    one. The bootstrap is empty where neither an interval nor somebody asks for it. able: whether its groups are enough for
    an interval at all.
    """

    score: float
    bootstrap: NDArray[Any]
    jackknife: NDArray[Any]
    lessened: tuple[NDArray[Any], NDArray[Any]] | None = None
    by_t: bool = False
    able: bool = True

    def interval(self) -> tuple[float, float]:
        """The interval of the score, 95 %, BCa or by t; `compute_interval` is a metric's own."""
        if not self.able:
            return float("nan"), float("nan")
        return self._interval(self.score, self.bootstrap, self.jackknife)

    def _interval(self, value: float, bootstrap: NDArray[Any], jackknife: NDArray[Any]) -> tuple[float, float]:
        """The interval of this score, or of its difference from another, by the way that is right for it."""
        if not self.by_t:
            return compute_bca_interval(value, bootstrap, jackknife)
        found = [compute_t_interval(value, jackknife)]
        if len(bootstrap):
            found.append(compute_bca_interval(value, bootstrap, jackknife))
        return min(low for low, _ in found), max(high for _, high in found)


@dataclass(frozen=True)
class _Samples:
    """The samples in which every system of a comparison is scored; see `Replicated`.

    drawn: the bootstrap's, `(resamples, clips)`, or None. cut: the jackknife's, `(blocks, clips)`. lessened: those of
    `_lessen_blocks`, or None.
    """

    drawn: NDArray[Any] | None
    cut: NDArray[Any]
    lessened: tuple[NDArray[Any], NDArray[Any]] | None
    by_t: bool
    able: bool


def replicate(
    metric: Metric,
    outputs: Sequence[torch.Tensor],
    truth: torch.Tensor,
    groups: Sequence[str],
    seed: int = 0,
    bootstrap: bool = False,
) -> list[Replicated]:
    """Every system's score, each the mean over its probes, in the same samples.

    outputs: a system each, `(probes, clips, ...)`, the clips in one order; those that have no value in one are left out of
    all. bootstrap: also where the metric's intervals are not made of it. The samples depend on groups and seed alone.
    """
    there = find_valued(metric, [(each, truth) for each in outputs])
    if there.any() and not there.all():
        outputs, truth = [each[:, there] for each in outputs], truth[there]
        groups = [group for group, known in zip(groups, there, strict=True) if known]
    samples = _draw_samples(metric, groups, seed, bootstrap)
    return [_replicate(metric, each, truth, samples) for each in outputs]


def _draw_samples(metric: Metric, groups: Sequence[str], seed: int, bootstrap: bool) -> _Samples:
    """The samples that the intervals and tests of a metric need."""
    count, by_jackknife = len(set(groups)), metric.interval == "jackknife"
    return _Samples(
        resample(groups, seed=seed) if bootstrap or not (by_jackknife or metric.compares) else None,
        jackknife(groups),
        _lessen_blocks(groups) if by_jackknife else None,
        by_t=metric.smooth and not by_jackknife and (metric.compares or count < T_GROUPS),
        able=metric.smooth or count >= MEDIAN_GROUPS,
    )


def _replicate(metric: Metric, outputs: torch.Tensor, truth: torch.Tensor, samples: _Samples) -> Replicated:
    """One system, outputs `(probes, clips, ...)`, scored in these samples."""
    import numpy as np

    def scored(weights: NDArray[Any]) -> NDArray[Any]:
        found: NDArray[Any] = rescore(metric, outputs, truth, weights).mean(axis=1)
        return found

    whole = float(scored(np.ones((1, samples.cut.shape[1]), dtype=np.float32))[0])
    return Replicated(
        whole,
        np.empty(0) if samples.drawn is None else scored(samples.drawn),
        # no acceleration can be read from the jackknife of a median
        scored(samples.cut) if metric.smooth else np.full(len(samples.cut), whole),
        None if samples.lessened is None else (scored(samples.lessened[0]), samples.lessened[1]),
        samples.by_t,
        samples.able,
    )


def compute_difference(a: Replicated, b: Replicated, smooth: bool = True) -> Difference:
    """a minus b, paired: both scored on the same clips and in the same samples.

    smooth: see `Metric`; where it is not, p is the level at which the bootstrap's percentile interval just reaches zero.
    """
    import numpy as np

    value = a.score - b.score
    apart = a.jackknife - b.jackknife
    if not a.able:
        low, high = float("nan"), float("nan")
    elif a.lessened:
        low, high = _compute_jackknife_interval(a, b)
    else:
        low, high = a._interval(value, a.bootstrap - b.bootstrap, apart)
    found = admit_interval(value, low, high)
    low, high = found.low, found.high
    if smooth:
        return Difference(value, low, high, compute_paired_p(value, apart))
    moved = a.bootstrap - b.bootstrap
    usable = moved[np.isfinite(moved)]
    beyond = min((usable <= 0).sum(), (usable >= 0).sum())
    return Difference(value, low, high, float(min(1.0, 2 * (1 + beyond) / (1 + len(usable)))))


def compare_paired(
    metric: Metric,
    a: tuple[torch.Tensor, torch.Tensor],
    b: tuple[torch.Tensor, torch.Tensor],
    groups: Sequence[str],
) -> Difference:
    """The score of a minus that of b, of the same clips in the same order; each its outputs and its own truth.

    So that clips can be paired with themselves changed, where the change moves what is true of them. Clips that have no
    value in one of the two are left out of both.
    """
    there = find_valued(metric, [a, b])
    if there.any() and not there.all():
        a, b = ((outputs[:, there], truth[there]) for outputs, truth in (a, b))
        groups = [group for group, known in zip(groups, there, strict=True) if known]
    (one,), (other,) = (replicate(metric, [outputs], truth, groups) for outputs, truth in (a, b))
    return compute_difference(one, other, metric.smooth)


def _compute_jackknife_interval(a: Replicated, b: Replicated) -> tuple[float, float]:
    """The interval of a difference of two scores that few clips raise: t times the error that lessening blocks shows.

    Not on the logit scale, where differences have no place, and not less its bias: what both have of it falls out.
    """
    import numpy as np
    from scipy.stats import t

    assert a.lessened is not None
    assert b.lessened is not None
    value, shares = a.score - b.score, a.lessened[1]
    blocks = len(shares)
    if blocks < 2 or not np.isfinite(value):
        return float("nan"), float("nan")
    squares = _compute_squares(shares, a.lessened[0] - b.lessened[0] - value)
    tail = float(t.ppf((1 + LEVEL) / 2, _estimate_freedom(squares)) * np.sqrt(blocks / (blocks - 1) * squares.sum()))
    return value - tail, value + tail


def compute_paired_p(value: float, jackknife: NDArray[Any]) -> float:
    """The two-sided p of a difference of zero, from the difference and its jackknife `(blocks,)` (see the module)."""
    blocks = len(jackknife)
    return compute_sign_flip_p(blocks * value - (blocks - 1) * jackknife)


def compute_sign_flip_p(values: NDArray[Any]) -> float:
    """The two-sided p of a mean of zero: how often flipped signs give a mean as far from it as the values' own.

    All patterns of signs for up to 12 values, else 9,999 random ones, the values' own pattern counted with them (Phipson
    and Smyth, Permutation p-values should never be zero, 2010). 1 where all values are zero; NaN ones are left out.
    """
    import numpy as np

    known = values[np.isfinite(values)]
    if not len(known):
        return 1.0
    observed = abs(known.sum())
    if len(known) <= EXACT:
        patterns = (np.arange(2 ** len(known))[:, None] >> np.arange(len(known))) & 1
        sums = np.abs((1.0 - 2.0 * patterns) @ known)
        return float((sums >= observed - 1e-9 * np.abs(known).sum()).mean())
    random = np.random.default_rng(0)
    reached = 0
    step = max(1, AT_ONCE // (4 * len(known)))
    for first in range(0, FLIPS, step):
        signs = random.integers(0, 2, (min(step, FLIPS - first), len(known)), dtype=np.int8)
        sums = np.abs(known.sum() - 2 * (signs @ known))
        reached += int((sums >= observed - 1e-9 * np.abs(known).sum()).sum())
    return (1 + reached) / (1 + FLIPS)


def correct_holm(p: Sequence[float]) -> list[float]:
    """p-values of one family, corrected so that rejecting those below 5 % errs at all in 5 % of families at most.

    >>> correct_holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p)), key=lambda index: p[index])
    corrected, least = [0.0] * len(p), 0.0
    for step, index in enumerate(order):
        least = max(least, min(1.0, (len(p) - step) * p[index]))
        corrected[index] = least
    return corrected


def assign_letters(count: int, different: Collection[tuple[int, int]]) -> list[str]:
    """Tie groups of `count` systems, best first: two share a letter exactly if their pair is not `different`.

    Insert and absorb, after Piepho (2004): the letters are the largest sets in which no two differ.

    >>> assign_letters(3, [(0, 2)])
    ['a', 'ab', 'b']
    """
    sets = [frozenset(range(count))] if count else []
    for pair in different:
        split = [
            part for each in sets for part in ([each - {pair[0]}, each - {pair[1]}] if {*pair} <= each else [each])
        ]
        unique = list(dict.fromkeys(split))
        sets = [each for each in unique if not any(each < other for other in unique)]
    sets.sort(key=lambda each: sorted(each))
    return ["".join(_name_letter(index) for index, each in enumerate(sets) if one in each) for one in range(count)]


def _name_letter(index: int) -> str:
    """a to z, then a2 to z2, and so on."""
    turn, place = divmod(index, 26)
    return chr(ord("a") + place) + (str(turn + 1) if turn else "")


def compute_ranks(count: int, better: Collection[tuple[int, int]]) -> list[int]:
    """1 + the number of systems that are better beyond doubt; better: pairs `(winner, loser)`.

    >>> compute_ranks(3, [(0, 2)])
    [1, 1, 2]
    """
    return [1 + sum(loser == one for _, loser in better) for one in range(count)]


def compute_wilson_interval(share: float, count: float) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent clips.

    >>> [round(bound, 4) for bound in compute_wilson_interval(0.5, 100)]
    [0.4038, 0.5962]
    """
    from math import sqrt
    from statistics import NormalDist

    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)


def compute_spread(per_seed: Sequence[float]) -> float | None:
    """The standard deviation over seeds; None for a single one."""
    from statistics import stdev

    return stdev(per_seed) if len(per_seed) > 1 else None
