"""What pitch does a solo voice sing, and when does it sing?

Sources: vocadito; R. M. Bittner et al., 2021. Conventions: pitch is a MIDI number on 360 bins of 20 cents, learnt in voiced
frames alone; voicing is an output of its own, and validation chooses its threshold. An answer is scored at the annotated
times, 172 a second, each by the frame of 20 ms in which it is. Scores are mir_eval's, a mean over excerpts; overall accuracy
chooses. Intervals draw singers.

The split is this project's own (see the corpus): no singer is in two of its parts. It has 8 test excerpts, so intervals are
wide. See `tasks/corpora/f0.py` for the rates of labels and features.
"""

from __future__ import annotations

from marble_bench import Schedule, Task
from marble_bench.metrics import melody_metrics

from .corpora import f0
from .corpora.vocadito import VOCADITO, clips

TASK = Task(
    title="pitch of a solo voice",
    corpus=VOCADITO,
    target=f0.TARGET,
    clips=clips,
    metrics=melody_metrics,
    counts={"train": 24, "valid": 8, "test": 8},
    schedule=Schedule(max_epochs=100, lr_patience=6, stop_patience=20),
    mini_schedule=Schedule(max_epochs=20, lr_patience=6, stop_patience=6),
    shifted=f0.shift,
)
