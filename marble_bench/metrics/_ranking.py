"""Ranks items by cosine, without a probe: where the other versions of each query's work come among all other items.

An item is a clip, its work is what it is a version of. Every item is a query and ranks all other items; the query itself is
left out by its id, never by its place. Vectors are scaled to length 1, cosines are computed in float32 and ties are broken
by a number drawn from the ids of both items, so that neither the order of the items nor the scale of a vector moves a score,
and equal vectors are ranked by chance. A query whose work has no other item has no value.

Second views of the same vectors are never the main score: `centred` takes the mean of other items off the vectors of length
1, `whitened` also scales their directions by the covariance of these, shrunk as Ledoit and Wolf do (A well-conditioned
estimator for large-dimensional covariance matrices, Journal of Multivariate Analysis 88, 2004). Both are scaled to length 1
again.

Chance is exact: of a query with R relevant among M other items, a random order has the average precision
(H_M + (R - 1) (M - H_M) / (M - 1)) / M on average, with the harmonic number H_M; the first relevant item has rank
(M + 1) / (R + 1); and R / M of any ranks are relevant.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS = ("average_precision", "first_rank", "precision_at_10", "hit_at_1", "r_precision")  # of a query, by its ranks
VIEWS = ("centred", "whitened")
WIDTH = len(COLUMNS) + len(VIEWS)  # of a row: the average precision of each further view stands behind
RANK_COLUMNS = ("ranks", "cosines", *(f"ranks_{view}" for view in VIEWS))  # beside a row in a table of predictions
HALVES: tuple[Literal["a", "b"], ...] = ("a", "b")
TOP = 10  # ranks of `precision_at_10`, which is divided by 10 however few are relevant
TWINS = 0.9999  # cosine above which two items may be the same sound
AT_ONCE = 256  # queries whose cosines are held


@dataclass(frozen=True)
class Ranked:
    """Of each query the ranks of its relevant items, ascending from 1 on, and their cosines; empty where there are none."""

    ranks: list[NDArray[Any]]
    cosines: list[NDArray[Any]]

    def rows(self) -> NDArray[Any]:
        """`(queries, len(COLUMNS))` float64, see `measure`."""
        import numpy as np

        return np.stack([measure(ranks) for ranks in self.ranks])


def measure(ranks: Sequence[int] | NDArray[Any]) -> NDArray[Any]:
    """`COLUMNS` of a query by the ranks of its relevant items, ascending; NaN where there are none.

    >>> measure([2]).tolist(), measure([1, 4]).tolist()[:2]
    ([0.5, 2.0, 0.1, 0.0, 0.0], [0.75, 1.0])
    """
    import numpy as np

    places = np.asarray(ranks, np.float64)
    if not len(places):
        return np.full(len(COLUMNS), np.nan)
    precision = np.arange(1, len(places) + 1) / places
    top = [(places <= most).sum() / most for most in (TOP, 1, len(places))]
    return np.array([precision.mean(), places[0], *top])


def measure_chance(others: int, relevant: int) -> NDArray[Any]:
    """What `measure` gives on average for a random order of `others` items, `relevant` of them right, and each view's
    average precision: `(WIDTH,)`; NaN where none is relevant.

    >>> measure_chance(159, 1).round(4).tolist()[:3]
    [0.0355, 80.0, 0.0063]
    """
    import numpy as np

    if not relevant:
        return np.full(WIDTH, np.nan)
    harmonic = (1 / np.arange(1, others + 1)).sum()
    pairs = (relevant - 1) * (others - harmonic) / (others - 1) if others > 1 else 0.0
    average, share = (harmonic + pairs) / others, relevant / others
    return np.array(
        [average, (others + 1) / (relevant + 1), min(TOP, others) / TOP * share, share, share, average, average]
    )


def measure_chance_of(works: Sequence[str]) -> NDArray[Any]:
    """`(items, WIDTH)`: what a random order gives every item of some works."""
    import numpy as np

    sizes = {work: works.count(work) for work in set(works)}
    return np.stack([measure_chance(len(works) - 1, sizes[work] - 1) for work in works])


def scale_to_unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """`(items, width)` float32 of length 1; a vector of zeros stays."""
    import numpy as np

    exact = np.asarray(vectors, np.float64)
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    unit: NDArray[Any] = (exact / np.where(length > 0, length, 1)).astype(np.float32)
    return unit


def rank(vectors: NDArray[Any], ids: Sequence[str], works: Sequence[str], seed: int = 0) -> Ranked:
    """Every item as a query. vectors: `(items, width)`; ids: `(items,)`, no two alike; seed: of the order of ties."""
    import numpy as np

    order = sorted(range(len(ids)), key=lambda place: ids[place])  # sums are rounded alike in whatever order items come
    unit, work = scale_to_unit(vectors)[order], np.array(works, object)[order]
    # of equal vectors a product is computed once, for sums of equal numbers may be rounded otherwise in another place
    different, place = np.unique(unit, axis=0, return_inverse=True)
    place = place.reshape(-1)
    keys = _make_keys([ids[at] for at in order], seed)
    ranks, cosines = [np.empty(0, np.int64)] * len(ids), [np.empty(0, np.float32)] * len(ids)
    for start in range(0, len(order), AT_ONCE):
        queries = np.arange(start, min(start + AT_ONCE, len(order)))
        near = (different[place[queries]] @ different.T)[:, place]
        for query, row in zip(queries, near, strict=True):
            right = np.flatnonzero(work == work[query])
            right = right[right != query]
            found = _find_ranks(row, int(query), right, keys)
            best = np.argsort(found)
            ranks[order[query]], cosines[order[query]] = found[best], row[right[best]]
    return Ranked(ranks, cosines)


def _find_ranks(row: NDArray[Any], query: int, right: NDArray[Any], keys: NDArray[Any]) -> NDArray[Any]:
    """The ranks of some items among all but the query.

    row: `(items,)` cosines. right: `(relevant,)` places. keys: `(items,)`.
    """
    import numpy as np

    ascending = np.sort(np.delete(row, query))
    above = len(ascending) - np.searchsorted(ascending, row[right], side="right")
    equal = np.searchsorted(ascending, row[right], side="right") - np.searchsorted(ascending, row[right], side="left")
    for place in np.flatnonzero(equal > 1):
        tied = np.flatnonzero(row == row[right[place]])
        tied = tied[tied != query]
        drawn = _mix(keys[np.append(tied, right[place])] ^ _mix(keys[query : query + 1]))
        above[place] += (drawn[:-1] < drawn[-1]).sum()
    found: NDArray[Any] = above + 1
    return found


def _make_keys(ids: Sequence[str], seed: int) -> NDArray[Any]:
    """`(items,)` uint64 of the sha256 of each id and the seed."""
    import numpy as np

    return np.array([_hash(f"{seed} {name}") for name in ids], np.uint64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _mix(numbers: NDArray[Any]) -> NDArray[Any]:
    """uint64 -> uint64, each bit of the one in all of the other: the end of splitmix64 (Steele, Lea and Flood, 2014)."""
    import numpy as np

    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: NDArray[Any] = mixed ^ (mixed >> np.uint64(31))
    return found


def centre(vectors: NDArray[Any], fit: NDArray[Any]) -> NDArray[Any]:
    """`(items, width)` vectors of length 1 less the mean of those of other items, `fit`."""
    import numpy as np

    unit, others = (scale_to_unit(each).astype(np.float64) for each in (vectors, fit))
    centred: NDArray[Any] = unit - others.mean(axis=0)
    return centred


def whiten(vectors: NDArray[Any], fit: NDArray[Any]) -> NDArray[Any]:
    """What `centre` gives, times the inverse root of the shrunk covariance of `fit`; `(items, width)`.

    Directions in which `fit` does not vary have the shrunk variance that all have at least. Where `fit` does not vary at
    all it is `centre`.
    """
    import numpy as np
    from sklearn.covariance import ledoit_wolf_shrinkage

    unit = scale_to_unit(fit).astype(np.float64)
    apart, centred = unit - unit.mean(axis=0), centre(vectors, fit)
    mean_variance = np.square(apart).sum() / apart.size
    if not mean_variance > 0 or len(unit) < 2:
        return centred
    share = min(1.0, max(1e-6, float(ledoit_wolf_shrinkage(apart, assume_centered=True))))
    _, singular, directions = np.linalg.svd(apart, full_matrices=False)
    least = share * mean_variance
    scales = 1 / np.sqrt((1 - share) * singular**2 / len(unit) + least) - 1 / np.sqrt(least)
    white: NDArray[Any] = centred / np.sqrt(least) + (centred @ directions.T * scales) @ directions
    return white


def deal_halves(works: Sequence[str]) -> dict[str, str]:
    """The half of each work, `a` or `b`: works in the order of the sha256 of their ids go to either in turn."""
    dealt = sorted(set(works), key=lambda work: hashlib.sha256(work.encode()).hexdigest())
    return {work: HALVES[place % 2] for place, work in enumerate(dealt)}


def find_copies(ids: Sequence[str], works: Sequence[str], digests: Sequence[str]) -> list[str]:
    """The items whose audio has the digest of another item of the same work, but the first of each by id.

    digests: `(items,)`; an empty one, of audio that is not known, is no copy.
    """
    seen, copies = set[tuple[str, str]](), []
    for name, work, digest in sorted(zip(ids, works, digests, strict=True)):
        if digest and (work, digest) in seen:
            copies.append(name)
        seen.add((work, digest))
    return copies


def find_twins(vectors: NDArray[Any], ids: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of items whose cosine is above `TWINS`."""
    import numpy as np

    unit, found = scale_to_unit(vectors), []
    for start in range(0, len(ids), AT_ONCE):
        pairs = np.argwhere(np.triu(unit[start : start + AT_ONCE] @ unit.T, start + 1) > TWINS).tolist()
        found += [(ids[start + row], ids[column]) for row, column in pairs]
    return found
