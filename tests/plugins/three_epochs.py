"""A grid of a few probes that are trained for three epochs: for tests that need a run, and not a full grid."""

from marble_bench import Protocol

PROTOCOL = Protocol(
    name="three-epochs",
    version=1,
    description="two seeds of two learning rates, three epochs on a batch that holds every training window of the toy task",
    head="linear",
    hidden=0,
    dropout=0.0,
    layer_sum=False,
    standardize=True,
    learning_rates=(0.01, 0.1),
    validate_steps=1,
    max_evaluations=3,
    seeds=2,
)
