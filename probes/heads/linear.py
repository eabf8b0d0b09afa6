"""No hidden layer: `Linear(width, outputs)`. What it computes, `probes/network.py` has written out."""

from __future__ import annotations

from marble_bench import Head

from .mlp import init

HEAD = Head(name="linear", description="one linear layer", init=init, hidden_layer=False)
