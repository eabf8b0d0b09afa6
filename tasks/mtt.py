"""Which tags did listeners give a clip? Any of fifty: instruments, voices, styles, moods.

Source: the split by folders that JukeMIR and MARBLE use, 18,709/1,825/5,329, of which three training files are empty in
every copy (18,706 readable). Conventions: the whole clip is one window; the scores are ROC-AUC (main) and average
precision, both macro-averaged over tags. Chance is 0.5 and the mean prevalence, 0.053 on the test split.

Departures: MARBLE gives encoders without long context windows of 30 s, and its v2 30 s of a clip of 29; here a clip is one
window for every encoder.
"""

from __future__ import annotations

from marble_bench import Schedule, Tags, Task
from marble_bench.metrics import ap, roc_auc

from .corpora.magnatagatune import COUNTS, MAGNATAGATUNE, TAGS, clips

TASK = Task(
    title="tags of a clip",
    corpus=MAGNATAGATUNE,
    target=Tags(TAGS),
    clips=clips,
    metrics=(roc_auc, ap),
    counts=COUNTS,
    schedule=Schedule(max_epochs=100, lr_patience=3, stop_patience=10),
)
