"""Which recordings are versions of the same work? Every version of the list ranks all others.

Source: the validation and test pairs of SHS100K. Conventions: no probe is trained; features are pooled over windows of 10 s
and averaged over a recording's windows, and recordings are ranked by cosine. The main score is the mean average precision
over the test versions. The layer is the one that is best among the validation versions. Intervals draw works.

The list has no fixed snapshot: its audio is of YouTube, and every copy lacks other files. So the versions whose files are
there are the list of the run; its ids stand beside the record, and records are ranked and compared where their lists are
equal.

Departures: windows of 10 s are this suite's own choice, since published numbers state several or none.
"""

from __future__ import annotations

from marble_bench import Ranking, Task, Window
from marble_bench.metrics import ranking_metrics

from .corpora.shs100k import SHS100K, clips

TASK = Task(
    title="the other versions of a work, among all versions of a list",
    corpus=SHS100K,
    target=Ranking(chosen_on="valid"),
    clips=clips,
    metrics=ranking_metrics,
    counts={"train": 0, "valid": 10884, "test": 10547},
    window=Window(length_s=10.0),
    protocol="retrieval",
    open_list=True,
)
