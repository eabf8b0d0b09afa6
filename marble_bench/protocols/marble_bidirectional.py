"""`marble`, but the LSTM of a separator reads a song both ways, as the paper says and the code does not."""

from dataclasses import replace

from .marble import PROTOCOL as MARBLE

PROTOCOL = replace(
    MARBLE,
    name="marble-bidirectional",
    description="marble with the separation LSTM that MARBLE's paper describes, and its code has not",
    both_ways=True,
)
