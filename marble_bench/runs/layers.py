"""Which of a model's layers `--layers` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from marble_bench.core.encoder import pick_layers
from marble_bench.core.protocol import Protocol
from marble_bench.errors import UsageError


def choose_layers(
    asked: str, names: Sequence[str], protocol: Protocol, summable: Sequence[int]
) -> tuple[list[int], bool]:
    """What `--layers` means: indices of single layers, and whether the weighted sum is among the probes.

    `all`: each layer, and the sum where the protocol has it and the layers allow it. `sum`: the sum alone. Else names
    with commas, and ranges `first-last` of names that are numbers.
    """
    if asked == "all":
        return list(range(len(names))), protocol.layer_sum and bool(summable)
    picked, with_sum = pick_layers(asked, names)
    if with_sum and protocol.solver != "adam":
        raise UsageError(f"--layers sum: protocol '{protocol.name}' reads single layers; choose layers by name")
    if with_sum and not summable:
        raise UsageError(
            "--layers sum needs at least two layers of equal width after the first; this model does not have them"
        )
    return picked, with_sum
