"""Which instruments play? Of twenty, about two were judged for each excerpt of 10 s.

Source: OpenMIC-2018's first partition, 14,915/5,085 excerpts; the makers have no validation split, so 2,245 training
excerpts are held out by track. Conventions: the whole excerpt is one window; what nobody judged is in no loss and in no
score. The main score is the average precision of each instrument on the excerpts judged for it, averaged over instruments,
as later papers print it. The F1 at a probability of 0.5, averaged over instruments, is what the makers' baseline has.

Departures: the makers' baseline trains a forest for each instrument; here a probe has an output for each and the mean binary
cross-entropy over all judged pairs. Published systems train on all 14,915 training excerpts, a probe on 12,670.
"""

from __future__ import annotations

from marble_bench import MaskedTags, Schedule, Task
from marble_bench.metrics import masked_ap, masked_f1

from .corpora.openmic import COUNTS, INSTRUMENTS, OPENMIC, clips

TASK = Task(
    title="instruments of a 10 s excerpt",
    corpus=OPENMIC,
    target=MaskedTags(INSTRUMENTS),
    clips=clips,
    metrics=(masked_ap, masked_f1),
    counts=COUNTS,
    schedule=Schedule(max_epochs=100, lr_patience=5, stop_patience=20),
)
