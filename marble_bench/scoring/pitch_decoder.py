"""From activations of pitch and voicing to a melody: in each frame a pitch, and whether it sounds.

The axis and the decoding are those of MARBLE's first code, which took them from drwangxian's dilated convolution model for
melody extraction: 360 bins of 20 cents, bin k at the MIDI number 23.6 + k / 5 (32 to 2,018 Hz); a Gaussian of 0.18 semitones
around a label, cut off below 0.004; the pitch of a frame is the mean of the likeliest bin and its two neighbours, weighted
by their activations.

Departures: MARBLE's bins had a sigmoid each and learnt silence as the lowest pitch, and a frame was voiced where its
highest bin reached 0.15. Here bins are a distribution that voiced frames alone teach, and voicing is an output of its own,
with a threshold that validation chooses.

Shapes: activations `(frames, 360)` of `pitch` and `(frames, 1)` of `voicing`; found `(frames,)` MIDI numbers, in unvoiced
frames too, and `(frames,)` of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.scoring.frame_targets import Activations, BinPart, Found, TagPart

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CENTRES = tuple(round(23.6 + k / 5, 1) for k in range(360))
VOICED = "voiced"
PITCH = BinPart("pitch", CENTRES, blur=0.18, cutoff=0.004)
VOICING = TagPart("voicing", (VOICED,))
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def find(clips: Sequence[Activations], rate_hz: float, threshold: float | None) -> list[Found]:
    """The `decode` of `Frames((PITCH, VOICING))`. threshold: the probability from which on a frame is voiced."""
    return [_find_one(clip, 0.5 if threshold is None else threshold) for clip in clips]


def _find_one(clip: Activations, threshold: float) -> Found:
    import numpy as np

    found: dict[str, NDArray[Any]] = {}
    if PITCH.name in clip:
        found[PITCH.name] = average_peak(clip[PITCH.name])
    if VOICING.name in clip:
        found[VOICING.name] = (clip[VOICING.name][:, 0] >= threshold).astype(np.float64)
    return found


def average_peak(activations: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """`(frames, 360)` -> `(frames,)` MIDI numbers: the mean of the highest bin and its neighbours, weighted by them."""
    import numpy as np

    last = len(CENTRES) - 1
    near = activations.argmax(axis=1)[:, None] + np.arange(-1, 2)
    inside = (near >= 0) & (near <= last)
    near = near.clip(0, last)
    weights = np.where(inside, np.take_along_axis(activations, near, axis=1), 0).astype(np.float64)
    total = weights.sum(axis=1)
    pitches: NDArray[np.float64] = (weights * np.asarray(CENTRES)[near]).sum(axis=1) / np.where(total > 0, total, 1)
    return np.where(total > 0, pitches, CENTRES[0])
