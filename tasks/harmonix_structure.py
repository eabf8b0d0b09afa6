"""The parts of a song: where each begins, and whether it is a verse, a chorus or another of seven functions.

Sources: the Harmonix set; the seven functions of Wang, Hung and Smith (ICASSP 2022); fold 0 of Kim and Nam (WASPAA
2023). Conventions: an encoder hears 30 s at once, and its frames are averaged to two a second. A probe has two answers
for each, the probabilities of the functions and of a boundary. A boundary is found where its probability is the highest
of 6 s to both sides and reaches a threshold, which validation chooses by the main score. The segments between found
boundaries have the function with the highest mean probability, as in Kim and Nam's code. `function_accuracy` judges
each frame alone, without boundaries.

Published numbers are of other conditions, so none is comparable: Wang et al. and Kim and Nam train whole networks, and
the splits of the probes of MusicFM, MuQ and OMAR-RQ are not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marble_bench import ClassPart, Frames, MomentPart, Schedule, SegmentPart, Task
from marble_bench.metrics import structure_metrics
from marble_bench.metrics.structure import FUNCTIONS, LABELS_HZ

from .corpora.harmonix import HARMONIX, clips

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Activations, Found

REACH_S = 6.0  # to both sides of a boundary


def pick_peaks(boundary: NDArray[Any], rate_hz: float, threshold: float) -> list[int]:
    """Frames whose probability is the highest within REACH_S to both sides and reaches a threshold; of equals, the first.

    boundary: `(frames,)` probabilities.
    """
    import numpy as np
    from scipy.ndimage import maximum_filter1d

    reach = round(REACH_S * rate_hz)
    highest = maximum_filter1d(boundary, 2 * reach + 1, mode="nearest")
    peaks: list[int] = []
    for frame in np.flatnonzero((boundary >= highest) & (boundary >= threshold)).tolist():
        if not peaks or frame - peaks[-1] > reach:
            peaks.append(frame)
    return peaks


def find_segments(clips: Sequence[Activations], rate_hz: float, threshold: float | None) -> list[Found]:
    """Of each song the found boundaries in seconds, the function of each segment, and of each frame.

    `function` is each frame's mean over its segment, `(frames, 7)`; `frame_function` is the likeliest of each frame alone.
    """
    import numpy as np

    assert threshold is not None
    answers: list[Found] = []
    for clip in clips:
        functions = clip["function"]
        peaks = [frame for frame in pick_peaks(clip["boundary"][:, 0], rate_hz, threshold) if frame]
        means = np.stack([part.mean(axis=0) for part in np.split(functions, peaks)])
        answers.append(
            {
                "function": means.repeat(np.diff([0, *peaks, len(functions)]), axis=0),
                "boundary": (np.array(peaks, np.float64) + 0.5) / rate_hz,  # the middle of the frame
                "segment_function": means.argmax(axis=1),
                "frame_function": functions.argmax(axis=1),
            }
        )
    return answers


TASK = Task(
    title="functions and boundaries of a song's parts",
    corpus=HARMONIX,
    target=Frames(
        (ClassPart("function", FUNCTIONS), MomentPart("boundary"), SegmentPart("segments")),
        rate_hz=LABELS_HZ,
        decode=find_segments,
        settings=(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
        feature_rate_hz=LABELS_HZ,
        context_s=30.0,
    ),
    clips=clips,
    metrics=structure_metrics,
    counts={"train": 684, "valid": 114, "test": 114},
    schedule=Schedule(max_epochs=100, lr_patience=6, stop_patience=20),
    mini_schedule=Schedule(max_epochs=30, lr_patience=4, stop_patience=6),
)
