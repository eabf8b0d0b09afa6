"""How well the parts of a song are found: where each begins, and what its function is. Measured by mir_eval, song by song.

A song is annotated from its first boundary to its last. What is found is cut to this span, so that both end together.
Times are seconds. A song without a segment within its audio counts nowhere.

- `structure_accuracy`: the share of the annotated time in which the found function is the right one, pooled over songs.
  `structure_accuracy_by_song`: the mean of the songs' own shares.
- `function_accuracy`: the share of frames with the right function, each frame judged alone, without the found
  boundaries.
- `hr05_f_untrimmed`, `hr3_f_untrimmed`: F of boundaries within 0.5 s and 3 s (HR.5F and HR3F), the mean over songs, by
  `mir_eval.segment.detection`. The first and the last boundary of the span count: they are always found, so a song in
  which nothing is found scores above 0. This is mir_eval's default.
- `hr05_f_trimmed`, `hr3_f_trimmed`: the same without the first and the last boundary (`trim=True`). A song without any
  other annotated boundary has no value and is left out of the mean.
- `pairwise_f`: F of the pairs of frames (0.1 s) that have the same function, the mean over songs, by
  `mir_eval.segment.pairwise`.

Sources: M. Levy and M. Sandler, Structural segmentation of musical audio by constrained clustering, IEEE TASLP 2008;
mir_eval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.metrics._bounds import count_most_right, explain_first, is_ratio, is_share
from marble_bench.metrics._frames import share_of
from marble_bench.metrics._rows import make_mean, make_pooled
from marble_bench.scoring.metric import Measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Found

FUNCTIONS = ("intro", "verse", "chorus", "bridge", "inst", "outro", "silence")
LABELS_HZ = 2.0  # frames a second, each with the function in its middle
TRIVIAL_S = 15.0  # between the boundaries of the trivial answer
NARROW_S, WIDE_S = 0.5, 3.0
COLUMNS = (
    *("right_s", "all_s", "accuracy", "frames_right", "frames_labelled"),
    *("hr05_untrimmed", "hr05_trimmed", "hr3_untrimmed", "hr3_trimmed", "pairwise"),
)
Segments = tuple["NDArray[np.float64]", "NDArray[np.int64]"]  # `(n + 1,)` boundaries in seconds, `(n,)` functions


def list_annotated_segments(target: Any) -> Segments:
    """The boundaries of a song and the function of each segment between them.

    target: (functions of frames, boundaries, segments as (start_s, end_s, function)).
    """
    import numpy as np

    segments = target[2]
    edges = [segments[0][0], *(end for _, end, _ in segments)]
    return np.array(edges, np.float64), np.array([FUNCTIONS.index(name) for *_, name in segments], np.int64)


def cut_segments(found: Found, start_s: float, end_s: float) -> Segments:
    """What was found between two times.

    found: `boundary` in seconds, ascending; `segment_function`, one more than there are boundaries.
    """
    import numpy as np

    boundaries = np.asarray(found["boundary"], np.float64)
    inside = boundaries[(boundaries > start_s) & (boundaries < end_s)]
    first = int(np.searchsorted(boundaries, start_s, side="right"))
    functions = np.asarray(found["segment_function"], np.int64)[first : first + len(inside) + 1]
    return np.concatenate([[start_s], inside, [end_s]]), functions


def measure_boundaries(annotated: NDArray[Any], found: NDArray[Any]) -> list[float]:
    """HR.5F and HR3F, each untrimmed and trimmed, of boundaries `(n + 1,)` that begin and end together.

    A trimmed score is NaN where nothing is annotated between the first and the last boundary.
    """
    from mir_eval.segment import detection
    from mir_eval.util import boundaries_to_intervals

    intervals = [boundaries_to_intervals(edges) for edges in (annotated, found)]
    scores = []
    for window_s in (NARROW_S, WIDE_S):
        scores.append(detection(*intervals, window=window_s, trim=False)[2])
        if len(annotated) <= 2:
            scores.append(math.nan)
        else:  # mir_eval warns where nothing is found, and gives 0
            scores.append(detection(*intervals, window=window_s, trim=True)[2] if len(found) > 2 else 0.0)
    return scores


def measure_durations(annotated: Segments, found: Segments) -> tuple[float, float]:
    """Seconds in which the function is right, and seconds in all, of segments that begin and end together."""
    import numpy as np

    edges = np.union1d(annotated[0], found[0])
    middles, lengths = (edges[:-1] + edges[1:]) / 2, np.diff(edges)
    truth, answer = (each[1][np.searchsorted(each[0], middles) - 1] for each in (annotated, found))
    return float(lengths[truth == answer].sum()), float(lengths.sum())


def measure_pairs(annotated: Segments, found: Segments) -> float:
    """F of mir_eval's pairs of frames, of segments that begin and end together."""
    from mir_eval.segment import pairwise
    from mir_eval.util import boundaries_to_intervals

    both: list[Any] = []
    for edges, functions in (annotated, found):
        both += [boundaries_to_intervals(edges - edges[0]), functions.tolist()]  # which mir_eval wants to begin at 0
    return float(pairwise(*both)[2])


def _measure_song(found: Found, target: Any) -> NDArray[np.float64]:
    """`(COLUMNS,)` of one song."""
    import numpy as np

    if not target[2]:
        return _make_empty_row()
    annotated = list_annotated_segments(target)
    cut = cut_segments(found, annotated[0][0], annotated[0][-1])
    right_s, all_s = measure_durations(annotated, cut)
    labels = [(k, FUNCTIONS.index(name)) for k, name in enumerate(target[0]) if name is not None]
    right = sum(int(found["frame_function"][k]) == function for k, function in labels)
    counted = [right_s, all_s, right_s / all_s, right, len(labels)]
    return np.array([*counted, *measure_boundaries(annotated[0], cut[0]), measure_pairs(annotated, cut)], np.float64)


def _make_empty_row() -> NDArray[np.float64]:
    """Of a song whose segments are all behind the end of its audio: nothing to sum, and no score of its own."""
    import numpy as np

    return np.array([0.0, 0.0, np.nan, 0.0, 0.0, *[np.nan] * 5])


def _measure_accuracy(found: Found, target: Any) -> NDArray[np.float64]:
    """What `structure_accuracy` reads, all else NaN: pairs and boundaries take the most of a validation's time."""
    import numpy as np

    if not target[2]:
        return _make_empty_row()
    annotated = list_annotated_segments(target)
    row = np.full(len(COLUMNS), np.nan)
    row[:2] = measure_durations(annotated, cut_segments(found, annotated[0][0], annotated[0][-1]))
    return row


def answer_constantly(targets: Sequence[Any], lengths_s: Sequence[float]) -> list[Found]:
    """The trivial answer: the function that fills most of the training songs' time, with a boundary every TRIVIAL_S."""
    import numpy as np

    seconds = np.zeros(len(FUNCTIONS))
    for edges, functions in map(list_annotated_segments, (target for target in targets if target[2])):
        seconds += np.bincount(functions, np.diff(edges), len(FUNCTIONS))
    most = int(seconds.argmax())
    answers: list[Found] = []
    for length_s in lengths_s:
        boundaries = np.arange(TRIVIAL_S, length_s, TRIVIAL_S)
        frames = np.full(math.ceil(length_s * LABELS_HZ), most)
        answers.append(
            {"boundary": boundaries, "segment_function": np.full(len(boundaries) + 1, most), "frame_function": frames}
        )
    return answers


def _check_row(row: NDArray[Any], found: Found, truth: NDArray[Any], thorough: bool) -> str:
    """Why numbers cannot be those of a song. truth: the functions of its frames that have one."""
    right_s, all_s, accuracy, right, labelled, *shares = row.tolist()
    counted = labelled == len(truth) or not all_s  # nothing is counted without a segment
    return explain_first(
        {
            "found segments are not those between its boundaries": len(found["segment_function"])
            == len(found["boundary"]) + 1,
            "seconds are right that are not annotated": 0 <= right_s <= all_s + 1e-6,
            "its accuracy is not that of its seconds": is_ratio(accuracy, right_s, all_s),
            "labelled frames are not those of its truth": counted,
            "more frames are right than can be": 0 <= right <= count_most_right(found["frame_function"], truth),
            "a score is no share": all(map(is_share, shares)),
        }
    )


_ANSWERS = tuple((name, (-1,)) for name in ("boundary", "segment_function", "frame_function"))
MEASURE = Measure(_measure_song, answer_constantly, reads=_ANSWERS, check=_check_row)
QUICK = Measure(_measure_accuracy, answer_constantly)
_SPAN = "mean over songs, within the annotated span"
METRIC = (
    make_pooled("structure_accuracy", share_of, (0, 1), "by duration, pooled over songs", MEASURE, QUICK),
    make_mean("structure_accuracy_by_song", 2, f"by duration, {_SPAN}", MEASURE),
    make_pooled("function_accuracy", share_of, (3, 4), "sklearn.metrics.accuracy_score", MEASURE),
    make_mean("hr05_f_untrimmed", 5, f"{_SPAN}; mir_eval.segment.detection(window=0.5, trim=False)", MEASURE),
    make_mean("hr05_f_trimmed", 6, f"{_SPAN}; mir_eval.segment.detection(window=0.5, trim=True)", MEASURE),
    make_mean("hr3_f_untrimmed", 7, f"{_SPAN}; mir_eval.segment.detection(window=3, trim=False)", MEASURE),
    make_mean("hr3_f_trimmed", 8, f"{_SPAN}; mir_eval.segment.detection(window=3, trim=True)", MEASURE),
    make_mean("pairwise_f", 9, f"{_SPAN}; mir_eval.segment.pairwise", MEASURE),
)
