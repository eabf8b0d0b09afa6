"""Which of a model's layers `--layers` asks for."""

from __future__ import annotations

from collections.abc import Sequence

from marble_bench.core.encoder import pick_layers
from marble_bench.core.protocol import Protocol
from marble_bench.errors import UsageError, counted
from marble_bench.runs.config import ProbeConfig


def choose_places(probes: ProbeConfig, names: Sequence[str], summable: Sequence[int]) -> tuple[list[int], bool, bool]:
    """What probes of pooled features read: indices of single layers, whether the sum, whether the concatenation.

    Raises UsageError for what the model or the protocol has not, and for several where `--select` fixes one.
    """
    protocol = probes.changed_protocol
    single, with_sum = choose_layers(probes.layers, names, protocol, summable)
    with_concat = asks_concat(probes.layers, protocol, len(names))
    check_fixed(probes, len(single) + with_sum + with_concat)
    return single, with_sum, with_concat


def check_fixed(probes: ProbeConfig, places: int) -> None:
    """Raise UsageError where `--select fixed` names more than one thing that probes read. places: how many."""
    if probes.variants.fixed and places != 1:
        raise UsageError(
            f"--select fixed:{probes.layers}: that is {counted(places, 'layer')}, of which validation would choose: name "
            "one layer, sum, concat or last"
        )


def choose_layers(
    asked: str, names: Sequence[str], protocol: Protocol, summable: Sequence[int]
) -> tuple[list[int], bool]:
    """What `--layers` means: indices of single layers, and whether the weighted sum is among the probes.

    `all`: each layer, and the sum where the protocol has it and the layers allow it. `sum`: the sum alone. `last`: the
    last declared layer. Else names
    with commas, and ranges `first-last` of names that are numbers. `concat` is asked of `asks_concat`.
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


def asks_concat(asked: str, protocol: Protocol, layers: int) -> bool:
    """Whether the concatenation of all layers is among the probes: by the protocol for `all`, else where it is named."""
    if asked == "all":
        return protocol.layer_concat and layers > 1
    if "concat" not in asked.split(","):
        return False
    if not protocol.trains:
        raise UsageError(f"--layers concat: protocol '{protocol.name}' reads single layers; choose layers by name")
    if protocol.solver == "exact" or protocol.standardize or any(protocol.standardizing) or protocol.input_dropout:
        raise UsageError(
            "--layers concat: the concatenation of layers is trained by gradient on features as they are, and protocol "
            f"'{protocol.name}' {_explain_no_concat(protocol)}; choose layers by name, or a protocol such as marble"
        )
    if layers < 2:
        raise UsageError("--layers concat needs two layers or more; this model has one")
    return True


def _explain_no_concat(protocol: Protocol) -> str:
    """Why a protocol cannot train on the concatenation of layers."""
    if protocol.solver == "exact":
        return "solves its probes exactly"
    return "drops features out" if protocol.input_dropout else "standardises them"
