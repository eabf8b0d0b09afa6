"""How well the notes of a piano are transcribed: frames over all pieces, onsets piece by piece by mir_eval.transcription.

- `frame_f1`: F over the (frame, pitch) pairs of all pieces, frames of 20 ms; scikit-learn's `f1_score(average="micro")`. A
  pair holds where a note sounds in the middle of the frame. `frame_precision`, `frame_recall`: its two parts.
- `onset_f1`: the mean over pieces of the F of notes whose pitch is right and whose onset is at most 50 ms off, each note
  used once, ends left aside: `mir_eval.transcription.precision_recall_f1_overlap(offset_ratio=None)`. A piece without notes
  has none. Pitches are semitones, so notes are matched pitch by pitch, which gives the same and needs less memory.

A target is `Frames` with two `SpanPart`, `note` and `onset`, of the same spans, whose labels are MIDI numbers. Frames
behind the last that was answered, where there is no audio, count nowhere.

The trivial answer has the same pitches sounding everywhere, those that score best on the training split, and no onset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from marble_bench.metrics._bounds import is_near, is_share
from marble_bench.scoring.frame_targets import SpanPart
from marble_bench.scoring.metric import Measure, Metric, weighted_nanmean
from marble_bench.scoring.note_decoder import FRAMES, NOTE, ONSET

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Found

FRAMES_HZ = 50.0
TOLERANCE_S = 0.05
LONGEST_S = 4 * 3600.0  # that a piece of a table of predictions may have
PITCHES = tuple(str(pitch) for pitch in range(21, 109))  # MIDI numbers of a piano's 88 keys
NOTES, ONSETS = SpanPart(NOTE, labels=PITCHES), SpanPart(ONSET, labels=PITCHES, begins=True)
COLUMNS = ("frame_hits", "frame_found", "frame_annotated", "onset_f1")


def count_frames(found: Found, notes: Sequence[Any]) -> tuple[float, float, float]:
    """Hits, found and annotated (frame, pitch) pairs of one piece."""
    import numpy as np

    frames = int(found[FRAMES].item())
    annotated = NOTES.mark_frames(notes, frames, FRAMES_HZ, averaged=True) > 0
    roll = np.zeros_like(annotated)
    for start_s, end_s, pitch in found[NOTE]:
        roll[round(start_s * FRAMES_HZ) : round(end_s * FRAMES_HZ), int(pitch)] = True
    return float((roll & annotated).sum()), float(roll.sum()), float(annotated.sum())


def measure_onsets(found: NDArray[np.float64], notes: Sequence[Any]) -> float:
    """F of the onsets of one piece; NaN for a piece without notes. found: `(onsets, 2)` time_s and index of the pitch."""
    import numpy as np
    from mir_eval.util import f_measure

    if not notes:
        return float("nan")
    if not len(found):
        return 0.0
    starts = np.array([note[0] for note in notes])
    pitches = np.array([PITCHES.index(note[2]) for note in notes])
    hits = sum(_count_matches(starts[pitches == each], found[found[:, 1] == each, 0]) for each in np.unique(pitches))
    return float(f_measure(hits / len(found), hits / len(notes)))


def _count_matches(annotated: NDArray[np.float64], found: NDArray[np.float64]) -> int:
    """How many onsets of one pitch can be paired."""
    import numpy as np
    from mir_eval.transcription import match_notes

    if not len(found):
        return 0
    spans = [np.stack([times, times + 1], axis=1) for times in (annotated, found)]  # their ends are left aside
    same = [np.full(len(each), 440.0) for each in spans]
    pairs = match_notes(spans[0], same[0], spans[1], same[1], onset_tolerance=TOLERANCE_S, offset_ratio=None)
    return len(pairs)


def _measure_clip(found: Found, target: Any) -> NDArray[np.float64]:
    import numpy as np

    return np.array([*count_frames(found, target[0] or ()), measure_onsets(found[ONSET], target[1] or ())])


def _count_clip(found: Found, target: Any) -> NDArray[np.float64]:
    """What frames are scored by, all else NaN: it chooses among many probes."""
    import numpy as np

    return np.array([*count_frames(found, target[0] or ()), np.nan])


def choose_pitches(targets: Sequence[Any]) -> list[int]:
    """The pitches that, sounding everywhere, have the best F on some pieces, by index. A piece ends with its last note."""
    import numpy as np

    held_s, whole_s = np.zeros(len(PITCHES)), 0.0
    for notes, _ in targets:
        whole_s += max((end for _, end, _ in notes or ()), default=0.0)
        for start, end, pitch in notes or ():
            held_s[PITCHES.index(pitch)] += end - start
    order = np.argsort(-held_s, kind="stable")
    sums = held_s[order].cumsum()
    scores = 2 * sums / (whole_s * np.arange(1, len(order) + 1) + max(held_s.sum(), 1e-9))
    return [int(pitch) for pitch in order[: int(scores.argmax()) + 1]]


def _answer_commonest(targets: Sequence[Any], lengths_s: Sequence[float]) -> list[Found]:
    import numpy as np

    pitches = choose_pitches(targets)
    found: list[Found] = []
    for length_s in lengths_s:
        frames = int(np.ceil(length_s * FRAMES_HZ - 1e-6))
        spans = np.array([[0.0, frames / FRAMES_HZ, pitch] for pitch in pitches]).reshape(-1, 3)
        found.append({NOTE: spans, ONSET: np.zeros((0, 2)), FRAMES: np.array(frames)})
    return found


def _check_row(row: NDArray[Any], found: Found, truth: NDArray[Any], thorough: bool) -> str:
    """Why numbers cannot be those of a piece. truth: start, end and pitch of every note, so the piece is measured again.

    thorough: also pair the onsets, which takes the most time.
    """
    frames = found[FRAMES].item()
    if not 0 <= frames <= LONGEST_S * FRAMES_HZ:
        return f"{frames:g} frames are none of a piece"
    notes = [(start, end, PITCHES[int(pitch)]) for start, end, pitch in truth.reshape(-1, 3).tolist()]
    again = _measure_clip(found, (notes, notes)) if thorough else _count_clip(found, (notes,))
    same = all(
        is_near(*pair) for pair in zip(row.tolist(), again.tolist(), strict=True) if thorough or pair[1] == pair[1]
    )
    return "" if same and is_share(row[3]) else "it is measured otherwise than by its notes and onsets"


MEASURE = Measure(
    _measure_clip,
    _answer_commonest,
    reads=((NOTE, (-1, 3)), (ONSET, (-1, 2)), (FRAMES, ())),
    check=_check_row,
)
QUICK = Measure(_count_clip, _answer_commonest, parts=1)


Score = Callable[["torch.Tensor"], "torch.Tensor"]  # `(..., 3)` hits, found and annotated pairs -> a score


def _f1(counts: torch.Tensor) -> torch.Tensor:
    return 2 * counts[..., 0] / (counts[..., 1] + counts[..., 2])


def _precision(counts: torch.Tensor) -> torch.Tensor:
    return counts[..., 0] / counts[..., 1]


def _recall(counts: torch.Tensor) -> torch.Tensor:
    return counts[..., 0] / counts[..., 2]


def _pool(score: Score, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return score(outputs[..., :3].double().sum(dim=-2))


def _pool_each(score: Score, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """A piece where nothing is found, or nothing is to be found, adds nothing."""
    return score(outputs[..., :3].double()).nan_to_num(nan=0.0)


def _pool_weighted(score: Score, outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    import torch

    return score(torch.einsum("rc,pck->rpk", weights.double(), outputs[..., :3].double()))


def _average(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return outputs[..., 3].double().nanmean(dim=-1)


def _take_each(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return outputs[..., 3].double()


def _average_weighted(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weighted_nanmean(outputs[..., 3:4], weights)[..., 0]


def _make_pooled(name: str, score: Score, source: str) -> Metric:
    one, each, weighted = (partial(way, score) for way in (_pool, _pool_each, _pool_weighted))
    return Metric(name, "frames", one, each, source, weighted=weighted, measure=MEASURE, chooses=QUICK)


METRIC = (
    _make_pooled("frame_f1", _f1, "pairs of all pieces; sklearn.metrics.f1_score(average='micro')"),
    Metric(
        "onset_f1",
        "frames",
        _average,
        _take_each,
        "mean per piece at 50 ms; mir_eval.transcription.precision_recall_f1_overlap(offset_ratio=None)",
        weighted=_average_weighted,
        measure=MEASURE,
    ),
    _make_pooled(
        "frame_precision", _precision, "pairs of all pieces; sklearn.metrics.precision_score(average='micro')"
    ),
    _make_pooled("frame_recall", _recall, "pairs of all pieces; sklearn.metrics.recall_score(average='micro')"),
)
