"""How well singing is detected frame by frame: a yes or no for each, counted over the frames of all songs together.

- `sing_accuracy`: the share of frames that are right. `sing_accuracy_by_song`: the mean of the songs' own shares.
- `sing_precision`, `sing_recall`, `sing_f1`: of the frames with singing. Precision is 0 where nothing is found.

Frames without a label count nowhere. Frames are counted as by the code of J. Schlueter and T. Grill, Exploring data
augmentation for improved singing voice detection with neural networks, ISMIR 2015; and scikit-learn, of which each
score is one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.metrics._bounds import explain_first, is_near, is_ratio
from marble_bench.metrics._frames import f1_of, share_of
from marble_bench.metrics._rows import make_mean, make_pooled
from marble_bench.scoring.metric import Measure

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from marble_bench.scoring.frame_targets import Found

PART, TAG = "voice", "sing"
LABELS_HZ = 25.0  # frames a second, each with the label in its middle
COLUMNS = ("right", "labelled", "hits", "found", "annotated", "accuracy")


def count_frames(found: Found, target: Any) -> NDArray[np.float64]:
    """`(COLUMNS,)` of one song.

    found: `voice` `(frames, 1)` of 0 and 1. target: for each frame a tuple of tags, or None.
    """
    import numpy as np

    labelled = np.array([k for k, tags in enumerate(target[0]) if tags is not None], int)
    truth = np.array([TAG in target[0][k] for k in labelled.tolist()], bool)
    answer = np.asarray(found[PART])[labelled, 0].astype(bool)
    right, count = int((truth == answer).sum()), len(labelled)
    counts = [right, count, (truth & answer).sum(), answer.sum(), truth.sum(), right / count if count else math.nan]
    return np.array(counts, np.float64)


def answer_constantly(targets: Sequence[Any], lengths_s: Sequence[float]) -> list[Found]:
    """The trivial answer: in every frame what most frames of the training songs have."""
    import numpy as np

    labels = [TAG in tags for (frames,) in targets for tags in frames if tags is not None]
    most = float(2 * sum(labels) >= len(labels))
    return [{PART: np.full((math.ceil(length_s * LABELS_HZ), 1), most)} for length_s in lengths_s]


def precision_of(sums: torch.Tensor) -> torch.Tensor:
    """`(..., 2)` hits and found frames -> their share; 0 where none is found."""
    return sums[..., 0] / sums[..., 1].clamp(min=1)


def _check_row(row: NDArray[Any], found: Found, truth: NDArray[Any], thorough: bool) -> str:
    """Why counts cannot be those of what was found and the labels in a row. Where every frame has one, they are counted."""
    right, labelled, hits, found_frames, annotated, accuracy = row.tolist()
    answer = found[PART][:, 0]
    exact = count_frames(found, ([(TAG,) if sung else () for sung in truth],)) if len(truth) == len(answer) else row
    return explain_first(
        {
            "more frames are labelled than answered": len(truth) <= len(answer),
            "labelled frames are not those of its truth": labelled == len(truth),
            "annotated frames are not those of its truth": annotated == truth.sum(),
            "found frames are not those beside it": 0 <= answer.sum() - found_frames <= len(answer) - len(truth),
            "hits are more than are found or annotated": 0 <= hits <= min(found_frames, annotated),
            "right frames are not those that its hits leave": right == labelled - found_frames - annotated + 2 * hits,
            "its accuracy is not that of its frames": is_ratio(accuracy, right, labelled),
            "it is measured otherwise than by its frames": all(map(is_near, row.tolist(), exact.tolist())),
        }
    )


MEASURE = Measure(count_frames, answer_constantly, reads=((PART, (-1, 1)),), check=_check_row)
_SKLEARN = "frames of all songs; sklearn.metrics."
METRIC = (
    make_pooled("sing_accuracy", share_of, (0, 1), f"{_SKLEARN}accuracy_score", MEASURE),
    make_pooled("sing_precision", precision_of, (2, 3), f"{_SKLEARN}precision_score(zero_division=0)", MEASURE),
    make_pooled("sing_recall", share_of, (2, 4), f"{_SKLEARN}recall_score", MEASURE),
    make_pooled("sing_f1", f1_of, (2, 3, 4), f"{_SKLEARN}f1_score", MEASURE),
    make_mean("sing_accuracy_by_song", 5, "mean over songs; sklearn.metrics.accuracy_score", MEASURE),
)
