"""Retrieval without probes: items rank each other by the cosine of their features, layer by layer.

Features are pooled over time and averaged over an item's windows. The layer is chosen on items that it is not scored on: see
`marble_bench.scoring.targets.Ranking`. Each layer's own score is kept beside the record and never ranked.
"""

from marble_bench import Protocol

PROTOCOL = Protocol(
    name="retrieval",
    version=1,
    description="no probes: items rank each other by the cosine of pooled features, the layer chosen on other items",
    head="",
    hidden=0,
    dropout=0.0,
    layer_sum=False,
    standardize=False,
    learning_rates=(),
    weight_decays=(),
    seeds=1,
    solver="none",
)
