"""From activations of notes and of their onsets to a transcription, by one threshold.

A pitch sounds in the frames where its activation reaches the threshold; frames in a row are one span. A note begins in a
frame whose onset activation reaches the threshold and is the highest of the two frames on either side; of equals, the
first. Frame k is of the time from k / rate to (k + 1) / rate: a span ends with its last frame, an onset is in the middle of
its own.

Shapes: activations `(frames, pitches)`; found `(spans, 3)` start_s, end_s and index of the pitch, `(onsets, 2)` time_s and
index of the pitch, and `frames`: how many were answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.scoring.frame_targets import Activations, Found

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NOTE, ONSET, FRAMES = "note", "onset", "frames"
AROUND = 2  # frames on either side that an onset is compared with
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


def find(clips: Sequence[Activations], rate_hz: float, threshold: float | None) -> list[Found]:
    """The `decode` of a task with spans called `note`, and of their beginnings called `onset`."""
    return [_find_one(clip, rate_hz, 0.5 if threshold is None else threshold) for clip in clips]


def _find_one(clip: Activations, rate_hz: float, threshold: float) -> Found:
    import numpy as np

    found: dict[str, NDArray[Any]] = {}
    if NOTE in clip:
        found[NOTE] = find_spans(clip[NOTE] >= threshold, rate_hz)
    if ONSET in clip:
        found[ONSET] = find_onsets(clip[ONSET], rate_hz, threshold)
    found[FRAMES] = np.array(len(next(iter(clip.values()))))
    return found


def find_spans(roll: NDArray[np.bool_], rate_hz: float) -> NDArray[np.float64]:
    """`(frames, pitches)` -> `(spans, 3)`: start_s, end_s and index of each stretch of frames in a row, by pitch."""
    import numpy as np

    steps = np.diff(np.pad(roll.astype(np.int8), ((1, 1), (0, 0))), axis=0).T
    pitches, starts = np.nonzero(steps > 0)
    _, ends = np.nonzero(steps < 0)
    spans: NDArray[np.float64] = np.stack([starts / rate_hz, ends / rate_hz, pitches], axis=1).astype(np.float64)
    return spans


def find_onsets(activations: NDArray[np.floating[Any]], rate_hz: float, threshold: float) -> NDArray[np.float64]:
    """`(frames, pitches)` -> `(onsets, 2)`: time_s and index, by time."""
    import numpy as np
    from scipy.ndimage import maximum_filter1d

    peaks = (activations >= threshold) & (activations == maximum_filter1d(activations, 2 * AROUND + 1, axis=0))
    before = np.pad(peaks, ((AROUND, 0), (0, 0)))
    first = peaks & ~np.any([before[AROUND - back : len(before) - back] for back in range(1, AROUND + 1)], axis=0)
    frames, pitches = np.nonzero(first)
    return np.stack([(frames + 0.5) / rate_hz, pitches], axis=1)
