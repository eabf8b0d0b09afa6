"""Takes a deep model's layers while it runs, pooled at once, so that the frames of all layers are never in memory together.

Which tensors a transformers model hands out as `hidden_states` changed between its versions (since 5.16 the last one of a
model with a final norm is taken before that norm); what goes into and comes out of a layer did not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench import Pool

if TYPE_CHECKING:
    import torch

# What is taken of a module: what goes into it or what comes out of it.
Tap: TypeAlias = "tuple[torch.nn.Module, str]"


def collect(taps: Sequence[Tap], run: Callable[[], Any], pool: Callable[[Any], Any] | Pool) -> list[torch.Tensor]:
    """Call `run` and return what each tap saw, through `pool`, in the order of the taps.

    taps: (module, `in` or `out`); the first tensor of what a module is given or gives. Each module must be called once.
    """
    found: list[torch.Tensor | None] = [None] * len(taps)

    def keep(index: int, value: Any) -> None:
        assert found[index] is None, f"tap {index} was passed twice"
        found[index] = pool(value[0] if isinstance(value, tuple) else value)

    def of_input(index: int) -> Callable[..., None]:
        return lambda module, given, named: keep(index, given or next(iter(named.values())))

    def of_output(index: int) -> Callable[..., None]:
        return lambda module, given, value: keep(index, value)

    hooks = [
        module.register_forward_pre_hook(of_input(index), with_kwargs=True)
        if side == "in"
        else module.register_forward_hook(of_output(index))
        for index, (module, side) in enumerate(taps)
    ]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    layers = [value for value in found if value is not None]
    assert len(layers) == len(taps), "a tap was not passed"
    return layers
