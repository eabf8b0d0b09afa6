"""How well a melody is found, all measured by mir_eval.melody, a row of numbers for each track.

Every score is of one track, and the task's is the mean over the tracks that have a value.

- `oa`, overall accuracy: the share of frames that are right: found unvoiced where nothing is sung or played, and elsewhere
  found voiced with a pitch less than 50 cents off.
- `rpa`, raw pitch accuracy: of the voiced frames, the share whose pitch is less than 50 cents off, voiced or not as found.
- `rca`, raw chroma accuracy: the same with octaves folded.
- `vr`, voicing recall: of the voiced frames, the share that is found voiced.
- `vfa`, voicing false alarms: of the unvoiced frames, the share that is found voiced; lower is better.

A track without a voiced frame has no `rpa`, `rca` and `vr`, and one without an unvoiced frame no `vfa`: it is left out of
those means. mir_eval gives 0, 0 and 1, and 0. An estimate at other times is resampled to the annotated times as mir_eval
does: linearly in cents, voicing as that of the time before. A negative frequency is a guess for an unvoiced frame.

A target is `Frames` with two parts of the same frames: the pitch as a MIDI number (None where unvoiced), and the voicing as
a tuple (empty where unvoiced, None where nothing is annotated). The trivial answer is the median pitch of the training
labels, everywhere unvoiced: its `oa` is the unvoiced share, its `rpa` that of the constant pitch.

Sources: J. Salamon, E. Gomez, D. P. W. Ellis and G. Richard, Melody extraction from polyphonic music signals, IEEE Signal
Processing Magazine 31(2), 2014; mir_eval.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from marble_bench.errors import UsageError
from marble_bench.metrics._bounds import explain_first, is_near, is_share
from marble_bench.scoring.metric import Measure, Metric, weighted_nanmean

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Found

COLUMNS = ("oa", "rpa", "rca", "vr", "vfa")
PITCH, VOICING = "pitch", "voicing"
TOLERANCE = 0.5  # semitones


def to_hz(pitches: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """MIDI numbers -> frequencies in Hz; 69 is 440 Hz."""
    import numpy as np

    frequencies: NDArray[np.float64] = 440.0 * 2.0 ** ((np.asarray(pitches, np.float64) - 69) / 12)
    return frequencies


def measure_track(
    times_s: NDArray[np.float64],
    hz: NDArray[np.float64],
    found_times_s: NDArray[np.float64],
    found_hz: NDArray[np.float64],
) -> NDArray[np.float64]:
    """`(COLUMNS,)` of one track; NaN for what it has no frame for.

    Ascending times and frequencies of the annotation and of the answer; 0 Hz is unvoiced, and below 0 unvoiced with a guess.
    """
    import numpy as np
    from mir_eval import melody

    row = np.full(len(COLUMNS), np.nan)
    if not len(times_s) or not len(found_times_s):
        return row
    both = melody.to_cent_voicing(times_s, hz, found_times_s, found_hz)
    voiced, _, found_voiced, _ = both
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "has no voiced frames", of which the row tells
        row[0] = melody.overall_accuracy(*both)
        if voiced.any():
            row[1], row[2] = melody.raw_pitch_accuracy(*both), melody.raw_chroma_accuracy(*both)
            row[3] = melody.voicing_recall(voiced, found_voiced)
        if not voiced.all():
            row[4] = melody.voicing_false_alarm(voiced, found_voiced)
    return row


def _align(found: Found, target: Any) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Annotated frames, their MIDI numbers (NaN where unvoiced), and the found ones of all frames. One answers for all."""
    import numpy as np

    pitches, voicing = target
    known = np.flatnonzero(np.array([voices is not None for voices in voicing or ()], bool))
    every = np.array([pitch if voices else np.nan for pitch, voices in zip(pitches or (), voicing or (), strict=True)])
    numbers = np.asarray(found[PITCH], np.float64)
    if len(numbers) == 1 and len(known):
        numbers = np.repeat(numbers, known[-1] + 1)
    if len(known) and known[-1] >= len(numbers):
        raise UsageError(
            f"{len(numbers)} frames of a melody are answered, and frame {known[-1]} has a label: let decode give an "
            "answer for every frame that it gets"
        )
    return known, every[known].astype(np.float64), numbers


def _measure_clip(found: Found, target: Any) -> NDArray[np.float64]:
    """A track's row. Frames stand for times: answer and annotation have the same ones."""
    import numpy as np

    known, labels, numbers = _align(found, target)
    hz = np.nan_to_num(to_hz(labels))
    found_hz = np.where(found[VOICING] > 0, 1.0, -1.0) * to_hz(numbers)
    return measure_track(known.astype(np.float64), hz, np.arange(len(found_hz), dtype=np.float64), found_hz)


def _count_clip(found: Found, target: Any) -> NDArray[np.float64]:
    """`oa` of a track, all else NaN: it chooses among many probes, and a whole row takes 20 times as long."""
    import numpy as np

    known, labels, numbers = _align(found, target)
    row = np.full(len(COLUMNS), np.nan)
    if len(known):
        if known[0]:  # mir_eval says the first label of the time 0 too
            known, labels = np.concatenate([[0], known]), np.concatenate([labels[:1], labels])
        voiced = np.broadcast_to(found[VOICING] > 0, len(numbers))[known]
        right = np.abs(numbers[known] - labels) < TOLERANCE
        row[0] = np.where(np.isnan(labels), ~voiced, voiced & right).mean()
    return row


def _answer_median(targets: Sequence[Any], lengths_s: Sequence[float]) -> list[Found]:
    """The trivial answer; without a voiced training frame, 440 Hz."""
    import numpy as np

    every = [number for pitches, _ in targets for number in pitches or () if number is not None]
    middle = float(np.median(every)) if every else 69.0
    return [{PITCH: np.array([middle]), VOICING: np.zeros(1)} for _ in lengths_s]


def _check_row(row: NDArray[Any], found: Found, truth: NDArray[Any], thorough: bool) -> str:
    """Why scores cannot be those of a track. truth: the pitches of its voiced frames; which these are is not known."""
    import numpy as np

    oa, rpa, rca, vr, _ = row.tolist()
    voiced, frames = len(truth), len(found[VOICING])

    def is_counted(whole: int) -> bool:
        """Whether scores are shares of so many voiced frames. The first may count twice: it is said of the time 0 too."""
        counts = [whole * share for share in (rpa, rca, vr)]
        return all(abs(count - round(count)) < 1e-4 for count in counts) and counts[2] <= found[VOICING].sum() + 1.0

    without = [bool(np.isnan(share)) for share in (rpa, rca, vr)]
    return explain_first(
        {
            "more frames are voiced than answered": voiced <= frames,
            "a score is no share": all(map(is_share, row.tolist())),
            "it has no overall accuracy": is_near(oa, oa) and not (voiced and np.isnan(oa)),
            "it has scores of voiced frames exactly where it has such frames": without == [not voiced] * 3,
            "fewer pitches are right without octaves": not voiced or rpa <= rca + 1e-6,
            "scores of voiced frames are no shares of them": not voiced or any(map(is_counted, (voiced, voiced + 1))),
        }
    )


MEASURE = Measure(_measure_clip, _answer_median, reads=((PITCH, (-1,)), (VOICING, (-1,))), check=_check_row)
QUICK = Measure(_count_clip, _answer_median)


def _average_tracks(column: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The mean over the tracks that have a value."""
    return outputs[..., column].double().nanmean(dim=-1)


def _take_tracks(column: int, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return outputs[..., column].double()


def _average_weighted(column: int, outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return weighted_nanmean(outputs[..., [column]], weights)[..., 0]


def _make(name: str, source: str, higher_is_better: bool = True, chooses: Measure | None = None) -> Metric:
    column = COLUMNS.index(name)
    one, each, weighted = (partial(way, column) for way in (_average_tracks, _take_tracks, _average_weighted))
    return Metric(
        name,
        "frames",
        one,
        each,
        f"mean per track; mir_eval.melody.{source}",
        higher_is_better,
        weighted=weighted,
        measure=MEASURE,
        chooses=chooses,
    )


METRIC = (
    _make("oa", "overall_accuracy", chooses=QUICK),
    _make("rpa", "raw_pitch_accuracy"),
    _make("rca", "raw_chroma_accuracy"),
    _make("vr", "voicing_recall"),
    _make("vfa", "voicing_false_alarm", higher_is_better=False),
)
