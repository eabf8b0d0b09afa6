"""How well chords are found, measured by mir_eval's comparisons of labels, weighted by duration.

A song is annotated from its first segment to its last. What is found is cut to this span and filled up with `N`, as
`mir_eval.chord.evaluate` does. The comparison of each stretch is 1, 0, or -1 where the annotated label is outside of the
rule's vocabulary: such a stretch is not counted.

- `majmin`: weighted chord symbol recall, the time in which the rule `majmin` holds over the time that it counts, pooled
  over songs. It asks for the root and triad of major and minor chords, whatever their seventh, and for no chord.
- `majmin_by_song`: the mean of the songs' own shares, each of them what mir_eval gives. A song without any counted time,
  such as one of suspended chords alone, has none and is left out, where mir_eval gives 0.
- `majmin_viterbi`: `majmin` of the likeliest path through the frames' probabilities, in which a chord stays from one frame
  to the next with a fixed probability. The validation split chooses this of five values, for each chosen probe. All other
  scores are of each frame's likeliest class, without smoothing.
- `root`, `mirex` (three pitch classes in common): pooled like `majmin`, of the same answers.
- `sevenths`: pooled, of the answers in 61 classes.
- `chord_accuracy`: the share of frames with the right one of 25 classes, over frames that have one, as MARBLE's code counts
  them but for `N`.

Sources: C. Harte, Towards automatic extraction of harmony information from music signals, PhD thesis, 2010; J. Pauwels and
G. Peeters, Evaluating automatically estimated chord sequences, ICASSP 2013; mir_eval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from marble_bench.metrics._bounds import count_most_right, explain_first, is_ratio
from marble_bench.metrics._chord_labels import CHORD, NO_CHORD, SEVENTH, SMOOTHED, TARGET, Segment, list_runs
from marble_bench.metrics._frames import share_of
from marble_bench.metrics._rows import make_mean, make_pooled
from marble_bench.scoring import frame_answers
from marble_bench.scoring.metric import Measure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Found

RULES = ("majmin", "root", "mirex")  # of the answers in 25 classes
COLUMNS = (
    *("majmin_right_s", "majmin_counted_s", "root_right_s", "root_counted_s", "mirex_right_s", "mirex_counted_s"),
    *("sevenths_right_s", "sevenths_counted_s", "viterbi_right_s", "viterbi_counted_s"),
    *("frames_right", "frames_labelled", "majmin_of_song"),
)


@lru_cache(maxsize=1 << 16)
def compare_labels(rule: str, annotated: str, found: str) -> float:
    """A comparison of `mir_eval.chord` by its name: 0 to 1, or -1 where the annotated label is outside of its vocabulary."""
    from mir_eval import chord

    return float(getattr(chord, rule)([annotated], [found])[0])


def measure_rules(rules: Sequence[str], annotated: Sequence[Segment], found: Sequence[Segment]) -> list[float]:
    """For each rule the seconds in which it holds and the seconds that it counts.

    annotated, found: ascending segments, which need not end together.
    """
    if not annotated:
        return [0.0, 0.0] * len(rules)
    seconds = _sum_seconds(annotated, _fit_span(found, annotated[0][0], annotated[-1][1]))
    sums = []
    for rule in rules:
        compared = [(compare_labels(rule, *labels), length_s) for labels, length_s in seconds.items()]
        counted = [(score, length_s) for score, length_s in compared if score >= 0]
        sums += [sum(score * length_s for score, length_s in counted), sum(length_s for _, length_s in counted)]
    return sums


def _sum_seconds(annotated: Sequence[Segment], found: Sequence[Segment]) -> dict[tuple[str, str], float]:
    """How long each annotated label sounds together with each found one. The segments begin and end together."""
    import numpy as np

    times = [np.array([segment[:2] for segment in segments]) for segments in (annotated, found)]
    edges = np.unique(np.concatenate(times))
    place, names = np.zeros(len(edges) - 1, np.int64), []
    for bounds, segments in zip(times, (annotated, found), strict=True):
        numbers: dict[str, int] = {}
        each = np.array([numbers.setdefault(segment[2], len(numbers)) for segment in segments])
        names.append(list(numbers))
        place = place * len(numbers) + each[np.searchsorted(bounds[:, 0], edges[:-1], side="right") - 1]
    sums = np.bincount(place, np.diff(edges))
    return {(names[0][at // len(names[1])], names[1][at % len(names[1])]): float(sums[at]) for at in np.unique(place)}


def _fit_span(found: Sequence[Segment], start_s: float, end_s: float) -> list[Segment]:
    """What was found between two times, with no chord before the first and after the last segment."""
    inside = [(max(a, start_s), min(b, end_s), label) for a, b, label in found if b > start_s and a < end_s]
    if not inside:
        return [(start_s, end_s, NO_CHORD)]
    first = [(start_s, inside[0][0], NO_CHORD)] if inside[0][0] > start_s else []
    last = [(inside[-1][1], end_s, NO_CHORD)] if inside[-1][1] < end_s else []
    return [*first, *inside, *last]


def _list_found(found: Found, part: Any) -> list[Segment]:
    return list_runs(frame_answers.decide(part, found[part.name])[:, 0].astype(int), part.labels)


def _measure_song(found: Found, target: Any) -> NDArray[np.float64]:
    """`(COLUMNS,)` of one song."""
    import numpy as np

    chords = measure_rules(RULES, target[-1], _list_found(found, CHORD))
    sevenths = measure_rules(("sevenths",), target[-1], _list_found(found, SEVENTH))
    frames = frame_answers.measure_of(TARGET).of_clip(found, target)[:2]
    of_song = chords[0] / chords[1] if chords[1] else math.nan
    return np.array([*chords, *sevenths, *_measure_path(found, target), *frames, of_song], np.float64)


def _measure_path(found: Found, target: Any) -> list[float]:
    """What `majmin_viterbi` reads; of the likeliest classes where nothing was smoothed."""
    path = list_runs(found[SMOOTHED].astype(int), CHORD.labels) if SMOOTHED in found else _list_found(found, CHORD)
    return measure_rules(("majmin",), target[-1], path)


def _measure_majmin(found: Found, target: Any) -> NDArray[np.float64]:
    """What `majmin` reads, all else NaN: it is chosen by, of many probes."""
    import numpy as np

    row = np.full(len(COLUMNS), np.nan)
    row[:2] = measure_rules(("majmin",), target[-1], _list_found(found, CHORD))
    return row


def _measure_viterbi(found: Found, target: Any) -> NDArray[np.float64]:
    """What `majmin_viterbi` reads, all else NaN."""
    import numpy as np

    row = np.full(len(COLUMNS), np.nan)
    row[8:10] = _measure_path(found, target)
    return row


def _answer_commonest(targets: Sequence[Any], lengths_s: Sequence[float]) -> list[Found]:
    """The trivial answer: in every frame the share that each class has of the labelled frames, so the commonest is found."""
    return frame_answers.measure_of(TARGET).trivial(targets, lengths_s)


def _check_row(row: NDArray[Any], found: Found, truth: NDArray[Any], thorough: bool) -> str:
    """Why sums cannot be those of a song. truth: the classes of its frames that have one."""
    right_s, counted_s, right, labelled = row[0:10:2], row[1:10:2], row[10], row[11]
    return explain_first(
        {
            "seconds are right that do not count": bool((right_s >= 0).all() and (right_s <= counted_s + 1e-6).all()),
            "labelled frames are not those of its truth": labelled == len(truth),
            "more frames are right than can be": 0 <= right <= count_most_right(found[CHORD.name], truth),
            "the same rule counts other seconds of the smoothed path": abs(counted_s[0] - counted_s[4]) < 1e-6,
            "its share is not that of its seconds": is_ratio(row[12], right_s[0], counted_s[0]),
        }
    )


_ANSWERS = tuple((name, (-1,)) for name in (CHORD.name, SEVENTH.name, SMOOTHED))
MEASURE = Measure(_measure_song, _answer_commonest, reads=_ANSWERS, check=_check_row)
QUICK = Measure(_measure_majmin, _answer_commonest, parts=1)
QUICK_PATH = Measure(_measure_viterbi, _answer_commonest, parts=1)
_POOLED = "pooled over songs by duration"
METRIC = (
    make_pooled("majmin", share_of, (0, 1), f"{_POOLED}; mir_eval.chord.majmin", MEASURE, QUICK),
    make_mean("majmin_by_song", 12, "mean over songs; mir_eval.chord.majmin", MEASURE),
    make_pooled("root", share_of, (2, 3), f"{_POOLED}; mir_eval.chord.root", MEASURE),
    make_pooled("mirex", share_of, (4, 5), f"{_POOLED}; mir_eval.chord.mirex", MEASURE),
    make_pooled("sevenths", share_of, (6, 7), f"{_POOLED}; mir_eval.chord.sevenths", MEASURE),
    make_pooled("majmin_viterbi", share_of, (8, 9), f"{_POOLED}; mir_eval.chord.majmin", MEASURE, QUICK_PATH),
    make_pooled("chord_accuracy", share_of, (10, 11), "sklearn.metrics.accuracy_score", MEASURE),
)
