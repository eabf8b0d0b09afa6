"""How well beats and downbeats are found, all measured by mir_eval, a row of numbers for each track.

A found beat is a hit if it can be paired with an annotated one no further away than the tolerance, each used once
(`mir_eval.util.match_events`). Times are seconds.

- `f1`: hits, found and annotated beats counted over all tracks, at 70 ms: how MARBLE's code made its published numbers
  (its paper says 20 ms). No beats are left out at the beginning.
- `f1_20ms`: the same at 20 ms.
- `f1_mean`: the mean over tracks of `mir_eval.beat.f_measure` at 70 ms, the first 5 s left out, as MIREX has it.
- `cmlc`, `cmlt`, `amlc`, `amlt`: `mir_eval.beat.continuity`, the first 5 s left out: the longest stretch (c) or all (t) of
  the beats that follow the annotated metrical level (CML), or one that is also allowed (AML: double, half, off-beat).
- `downbeat_f1`: `f1` of downbeats, over the tracks whose downbeats are annotated.

A track without annotated beats behind the first 5 s has no `f1_mean` and no continuity, and is left out of those means.
Sources: M. Davies, N. Degara and M. Plumbley, Evaluation methods for musical audio beat tracking algorithms, 2009; mir_eval.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from marble_bench.scoring.metric import Measure, Metric, weighted_nanmean

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Found

TOLERANCE_S, STRICT_S = 0.07, 0.02
TRIM_S = 5.0
KINDS = ("beat", "downbeat")
# What is measured of a track, in this order. Counts are kept, not ratios, so that tracks can be pooled.
COLUMNS = (
    *("hits", "hits_20ms", "found", "annotated"),
    *("f1_mean", "cmlc", "cmlt", "amlc", "amlt"),
    *("downbeat_hits", "downbeats_found", "downbeats_annotated"),
)


def measure(
    found: tuple[NDArray[Any], NDArray[Any]], annotated: tuple[NDArray[Any], NDArray[Any] | None]
) -> NDArray[np.float64]:
    """`(COLUMNS,)` of one track from its found and annotated (beats, downbeats), ascending times in seconds.

    Annotated downbeats may be None: not annotated; nothing is then counted of the found ones.
    """
    import numpy as np
    from mir_eval.beat import trim_beats

    beats, downbeats = (np.asarray(each, np.float64) for each in found)
    truth = np.asarray(annotated[0], np.float64)
    counts = [_hits(truth, beats, TOLERANCE_S), _hits(truth, beats, STRICT_S), len(beats), len(truth)]
    by_track = _by_track(trim_beats(truth, TRIM_S), trim_beats(beats, TRIM_S))
    if annotated[1] is None:
        return np.array([*counts, *by_track, 0, 0, 0], np.float64)
    bars = np.asarray(annotated[1], np.float64)
    return np.array([*counts, *by_track, _hits(bars, downbeats, TOLERANCE_S), len(downbeats), len(bars)], np.float64)


def counts(annotated: Sequence[float], found: NDArray[Any]) -> tuple[int, int, int]:
    """Hits at 70 ms, found and annotated beats of one track."""
    import numpy as np

    truth = np.asarray(annotated, np.float64)
    return _hits(truth, found, TOLERANCE_S), len(found), len(truth)


def _hits(truth: NDArray[np.float64], found: NDArray[np.float64], tolerance_s: float) -> int:
    from mir_eval.util import match_events

    return len(match_events(truth, found, tolerance_s))


def _by_track(truth: NDArray[np.float64], found: NDArray[np.float64]) -> list[float]:
    """F at 70 ms and the four continuity scores of trimmed beats; NaN where nothing is annotated, 0 where none is found."""
    from mir_eval.beat import continuity, f_measure

    if not len(truth):
        return [float("nan")] * 5
    if not len(found):
        return [0.0] * 5
    f = f_measure(truth, found, TOLERANCE_S)
    if len(truth) < 2 or len(found) < 2:  # no interval, so nothing goes on
        return [f, 0.0, 0.0, 0.0, 0.0]
    return [f, *continuity(truth, found)]


def _of_clip(found: Found, target: Any) -> NDArray[np.float64]:
    beats, downbeats = found.values()
    return measure((beats, downbeats), target)


def _counts_of_clip(found: Found, target: Any) -> NDArray[np.float64]:
    """What `f1` reads, all else NaN: it is counted at once, and the rest takes the most of a validation's time."""
    import numpy as np

    row = np.full(len(COLUMNS), np.nan)
    beats = next(iter(found.values()))
    row[[COLUMNS.index(name) for name in ("hits", "found", "annotated")]] = counts(target[0], beats)
    return row


def steady(targets: Sequence[Any], lengths_s: Sequence[float]) -> list[Found]:
    """The trivial answer: events from 0 s on at the median interval of the training split, for clips of these lengths."""
    import numpy as np

    intervals = [
        [gap for target in targets for gap in np.diff(target[kind] or ()).tolist()] for kind in range(len(targets[0]))
    ]
    periods = [float(np.median(gaps)) if gaps else np.inf for gaps in intervals]
    return [
        {kind: np.arange(0.0, length, min(period, length)) for kind, period in zip(KINDS, periods, strict=True)}
        for length in lengths_s
    ]


MEASURE = Measure(_of_clip, steady)
QUICK = Measure(_counts_of_clip, steady, parts=1)


def _f_of(columns: Sequence[int], outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """F over all tracks: 2 hits / (found + annotated); NaN where there is neither."""
    counts = outputs[..., columns].double().sum(dim=-2)
    return 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


def _f_of_each(columns: Sequence[int], outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    counts = outputs[..., columns].double()
    return (2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])).nan_to_num(nan=0.0)


def _weighted_f(
    columns: Sequence[int], outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    import torch

    counts = torch.einsum("rc,pck->rpk", weights.double(), outputs[..., columns].double())
    return 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


def _pooled(name: str, hits: str, found: str, annotated: str, source: str, chooses: Measure | None = None) -> Metric:
    columns = [COLUMNS.index(column) for column in (hits, found, annotated)]
    one, each, weighted = (partial(way, columns) for way in (_f_of, _f_of_each, _weighted_f))
    return Metric(name, "events", one, each, source, weighted=weighted, measure=MEASURE, chooses=chooses)


def _mean_of_tracks(column: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The mean over the tracks that have a value."""
    return outputs[..., column].double().nanmean(dim=-1)


def _of_track(column: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return outputs[..., column].double()


def _weighted_mean_of_tracks(
    column: int, outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    return weighted_nanmean(outputs[..., [column]], weights)[..., 0]


def _mean(name: str, source: str) -> Metric:
    column = COLUMNS.index(name)
    one, each, weighted = (partial(way, column) for way in (_mean_of_tracks, _of_track, _weighted_mean_of_tracks))
    return Metric(name, "events", one, each, source, weighted=weighted, measure=MEASURE)


F1 = _pooled("f1", "hits", "found", "annotated", "pooled over tracks at 70 ms; mir_eval.util.match_events", QUICK)
F1_20MS = _pooled(
    "f1_20ms", "hits_20ms", "found", "annotated", "pooled over tracks at 20 ms; mir_eval.util.match_events"
)
F1_MEAN = _mean("f1_mean", "mean per track after 5 s; mir_eval.beat.f_measure")
CMLC, CMLT, AMLC, AMLT = (
    _mean(name, "mean per track after 5 s; mir_eval.beat.continuity") for name in ("cmlc", "cmlt", "amlc", "amlt")
)
DOWNBEAT_F1 = _pooled(
    "downbeat_f1",
    "downbeat_hits",
    "downbeats_found",
    "downbeats_annotated",
    "pooled over tracks at 70 ms; mir_eval.util.match_events",
)
METRIC = (F1, F1_20MS, F1_MEAN, CMLC, CMLT, AMLC, AMLT, DOWNBEAT_F1)
