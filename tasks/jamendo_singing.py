"""When does somebody sing? Yes or no in every frame of a song.

Sources: the Jamendo corpus of Ramona, Richard and David (ICASSP 2008); scores and threshold as J. Schlueter and T.
Grill, Exploring data augmentation for improved singing voice detection with neural networks, ISMIR 2015, have them:
frames of all songs are counted together, and the threshold of the probability is the one with the best accuracy on the
validation songs.

Conventions: an encoder hears 30 s at once, and its frames are averaged to 25 a second. Departures: Schlueter and Grill
answer 70 times a second and smooth probabilities with a median filter of 0.8 s; here each frame is judged as it is.

The songs are from Jamendo. An encoder that was trained on MTG-Jamendo may have heard them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from marble_bench import Frames, Schedule, TagPart, Task
from marble_bench.metrics import activity_metrics
from marble_bench.metrics.activity import LABELS_HZ, PART, TAG

from .corpora.jamendo_vd import JAMENDO_VD, clips

if TYPE_CHECKING:
    from marble_bench.scoring.frame_targets import Activations, Found


def detect(clips: Sequence[Activations], rate_hz: float, threshold: float | None) -> list[Found]:
    """1 where the probability of singing reaches the threshold, else 0: of each song `(frames, 1)`."""
    assert threshold is not None
    return [{PART: (clip[PART] >= threshold).astype(float)} for clip in clips]


TASK = Task(
    title="singing in every frame of a song",
    corpus=JAMENDO_VD,
    target=Frames(
        (TagPart(PART, (TAG,)),),
        rate_hz=LABELS_HZ,
        decode=detect,
        settings=(0.5, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9),  # of equally good ones the first
        feature_rate_hz=LABELS_HZ,
        context_s=30.0,
    ),
    clips=clips,
    metrics=activity_metrics,
    counts={"train": 61, "valid": 16, "test": 16},
    schedule=Schedule(max_epochs=100, lr_patience=6, stop_patience=20),
    mini_schedule=Schedule(max_epochs=30, lr_patience=4, stop_patience=6),
)
