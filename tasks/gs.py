"""Which key is a piece in? One of 24, for two-minute previews of electronic dance music.

Source: JukeMIR's split of the two GiantSteps key collections, 923/236/604 songs, which MARBLE took over. Conventions: a song
is cut into windows of 30 s (four in two minutes, the rest dropped), probes train on windows; the score is MIREX's weighted
key score with fifths counted upwards only (see `marble_bench.metrics.key`). The main score averages a song's logits;
`weighted_ensemble` is the best of JukeMIR's four ways to combine windows, chosen on the valid split, which is what JukeMIR
and MARBLE print.

The test split is mostly minor (511 of 604): a constant "C minor", the most frequent training key, scores 0.158, more
than two published models. MARBLE's paper says 1,077 songs for train and valid; its code has 1,159.
"""

from __future__ import annotations

from marble_bench import Classes, Schedule, Task, Window
from marble_bench.metrics import accuracy, weighted
from marble_bench.metrics.key import KEYS, TONICS

from .corpora.giantsteps import COUNTS, GIANTSTEPS, clips


def transposed(key: str, semitones: int) -> str:
    """The key of a piece that was moved.

    >>> transposed("C major", 1), transposed("B minor", 1)
    ('Db major', 'C minor')
    """
    tonic, mode = key.split()
    return f"{TONICS[(TONICS.index(tonic) + semitones) % len(TONICS)]} {mode}"


TASK = Task(
    title="key of a dance track",
    corpus=GIANTSTEPS,
    target=Classes(KEYS),
    clips=clips,
    metrics=(weighted, accuracy),
    counts=COUNTS,
    window=Window(length_s=30.0),
    schedule=Schedule(max_epochs=100, lr_patience=5, stop_patience=20),
    ensemble=True,
    shifted=transposed,
)
