"""What is good: pure functions, batched over probes. A file here declares `METRIC`: one metric, or a tuple of a family's.

A metric maps `outputs (probes, clips, width)` and `truth` to one score per probe, `(probes,)` float64. Scores are
fractions, not percent. Each is tested against the library that the field takes as its authority. Its name is the same
everywhere: `from marble_bench.metrics import ap` is the `ap` of records and tables. A file whose name begins with `_`
holds what several metrics share.
"""

import warnings
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from marble_bench.metrics._frames import frame_metrics
from marble_bench.metrics.activity import METRIC as activity_metrics
from marble_bench.metrics.beats import METRIC as beat_metrics
from marble_bench.metrics.chords import METRIC as chord_metrics
from marble_bench.metrics.melody import METRIC as melody_metrics
from marble_bench.metrics.regression import r2_of
from marble_bench.metrics.retrieval import METRIC as ranking_metrics
from marble_bench.metrics.stems import stem_metrics
from marble_bench.metrics.structure import METRIC as structure_metrics
from marble_bench.metrics.transcription import METRIC as transcription_metrics
from marble_bench.scoring.metric import Metric

if TYPE_CHECKING:  # what the files declare, for type checkers alone
    accuracy: Metric
    amlc: Metric
    amlt: Metric
    ap: Metric
    chord_accuracy: Metric
    cmlc: Metric
    cmlt: Metric
    downbeat_f1: Metric
    f1: Metric
    f1_20ms: Metric
    f1_mean: Metric
    frame_f1: Metric
    frame_precision: Metric
    frame_recall: Metric
    function_accuracy: Metric
    hit_at_1: Metric
    hr05_f_trimmed: Metric
    hr05_f_untrimmed: Metric
    hr3_f_trimmed: Metric
    hr3_f_untrimmed: Metric
    majmin: Metric
    majmin_by_song: Metric
    majmin_viterbi: Metric
    map: Metric
    map_centred: Metric
    map_whitened: Metric
    masked_ap: Metric
    masked_f1: Metric
    mirex: Metric
    mr1: Metric
    oa: Metric
    onset_f1: Metric
    p_at_10: Metric
    pairwise_f: Metric
    r2: Metric
    r_precision: Metric
    rca: Metric
    roc_auc: Metric
    root: Metric
    rpa: Metric
    sevenths: Metric
    sing_accuracy: Metric
    sing_accuracy_by_song: Metric
    sing_f1: Metric
    sing_precision: Metric
    sing_recall: Metric
    structure_accuracy: Metric
    structure_accuracy_by_song: Metric
    vfa: Metric
    vr: Metric
    weighted: Metric

OLD_NAMES = {"average_precision": "ap", "weighted_key": "weighted"}  # for one version


def _declared() -> dict[str, Metric]:
    """Every metric that a file of this folder declares, by its name."""
    files = sorted(each.name for each in iter_modules(__path__) if not each.name.startswith("_"))
    found = [getattr(import_module(f"{__name__}.{file}"), "METRIC", ()) for file in files]
    several = [each if isinstance(each, tuple) else (each,) for each in found]
    return {metric.name: metric for each in several for metric in each}


globals().update(_declared())
__all__ = [
    "Metric",
    "activity_metrics",
    "beat_metrics",
    "chord_metrics",
    "frame_metrics",
    "melody_metrics",
    "r2_of",
    "ranking_metrics",
    "stem_metrics",
    "structure_metrics",
    "transcription_metrics",
    *_declared(),
]


def __getattr__(name: str) -> Metric:
    """A metric by the name it had before. Raises AttributeError for any other."""
    if name not in OLD_NAMES:
        raise AttributeError(f"module 'marble_bench.metrics' has no metric {name!r} (bench list metrics)")
    new = OLD_NAMES[name]
    warnings.warn(f"marble_bench.metrics.{name} is now called {new}, as in records", DeprecationWarning, stacklevel=2)
    found: Metric = globals()[new]
    return found
