"""Penalised linear probes, solved to the end: a floor without capacity, and the fastest look at an encoder."""

from marble_bench import Protocol

PROTOCOL = Protocol(
    name="linear",
    version=3,
    description="logistic or ridge regression on each standardised layer: a floor without capacity, the fastest look",
    head="linear",
    hidden=0,
    dropout=0.0,
    layer_sum=False,
    standardize=True,
    learning_rates=(1.0,),
    seeds=1,
    solver="exact",
    penalties=tuple(10.0**power for power in (2, 1, 0, -1, -2, -3, -4)),
)
