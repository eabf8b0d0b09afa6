"""Which recording is another version of the same song? 80 pairs; every recording ranks the 159 others.

Source: D. P. W. Ellis's two lists. Conventions: no probe is trained; features are pooled over windows of 10 s and averaged
over a recording's windows, and recordings are ranked by cosine. The main score is the mean average precision over all 160
queries, beside the mean rank of the other version, the share of relevant items in the first ten (at most 0.1) and the share
of queries whose nearest recording is right. A random order gets 0.0355, 80.0 and 0.0063.

The corpus has no validation split. So the songs are dealt into two halves by the sha256 of their names; the layer that is
best on the queries of one half is scored on those of the other, each among all 160 recordings. Intervals draw songs.

Departures: windows of 10 s are this suite's own choice, since published numbers state several or none.
"""

from __future__ import annotations

from marble_bench import Ranking, Task, Window
from marble_bench.metrics import ranking_metrics

from .corpora.covers80 import COVERS80, PAIRS, clips

TASK = Task(
    title="the other version of a song, among 160 recordings",
    corpus=COVERS80,
    target=Ranking(chosen_on="halves"),
    clips=clips,
    metrics=ranking_metrics,
    counts={"train": 0, "valid": 0, "test": 2 * PAIRS},
    window=Window(length_s=10.0),
    protocol="retrieval",
)
