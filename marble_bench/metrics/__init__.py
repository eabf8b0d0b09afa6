"""What is good: one pure function per metric, batched over probes.

A metric maps `outputs (probes, clips, width)` and `truth` to one score per probe, `(probes,)` float64. Scores are
fractions, not percent. Each is tested against the library that the field takes as its authority.
"""

from marble_bench.metrics.accuracy import ACCURACY as accuracy
from marble_bench.metrics.beats import BEAT_METRICS as beat_metrics
from marble_bench.metrics.key import WEIGHTED_KEY as weighted_key
from marble_bench.metrics.regression import R2 as r2
from marble_bench.metrics.regression import r2_of
from marble_bench.metrics.stems import stem_metrics
from marble_bench.metrics.tagging import AVERAGE_PRECISION as average_precision
from marble_bench.metrics.tagging import ROC_AUC as roc_auc
from marble_bench.scoring.metric import Metric

__all__ = [
    "Metric",
    "accuracy",
    "average_precision",
    "beat_metrics",
    "r2",
    "r2_of",
    "roc_auc",
    "stem_metrics",
    "weighted_key",
]
