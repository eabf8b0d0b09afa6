"""One Adam step for many probes at once, each with its own learning rate and weight decay.

The update of a probe is read and written once: it is torch's fused kernel, the one behind `torch.optim.Adam(fused=True)`,
called on each probe's own stretch of memory. A plain chain of tensor operations reads and writes the same numbers
several times, and the update is bound by memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import kernels

if TYPE_CHECKING:
    import torch


class Adam:
    """Moments of a dict of parameters, each `(probes, ...)` and contiguous. Weight decay is Adam's L2, as in torch.

    `parameters`: updated in place by `step`; `select` replaces its tensors by shorter ones.
    own_gradients: have `gradients`, tensors like the parameters, for the trainer to write to. Views of each probe's part are
    made once then; for small probes, making them in each step costs more than the update.
    """

    def __init__(
        self, parameters: dict[str, torch.Tensor], decays: Sequence[float], *, own_gradients: bool = False
    ) -> None:
        import torch

        self.parameters = parameters
        self.gradients = {name: torch.zeros_like(value) for name, value in parameters.items()} if own_gradients else {}
        self.decays = [float(decay) for decay in decays]
        self.first = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.second = {name: torch.zeros_like(value) for name, value in parameters.items()}
        self.count = torch.zeros((), device=next(iter(parameters.values())).device)
        self._group_again([])

    def step(self, gradients: dict[str, torch.Tensor], rates: Sequence[float]) -> None:
        """Move every parameter by its gradient, `(probes, ...)` like it; without autograd. rates: one for each probe."""
        self.count += 1
        if self._rates != list(rates):
            self._group_again(rates)
        in_place = all(gradients[name] is self.gradients.get(name) for name in self.parameters)
        by_probe = {} if in_place else {name: gradients[name].unbind() for name in self.parameters}
        for (rate, decay), (members, values, own_gradients, first, second) in self._groups.items():
            own = own_gradients if in_place else [by_probe[name][index] for index in members for name in by_probe]
            kernels.step_adam(values, own, first, second, self.count, rate, decay)

    def _group_again(self, rates: Sequence[float]) -> None:
        """Probes of one rate and one decay take one call; `_groups` holds their positions and views of their tensors."""
        self._rates = list(rates)
        members: dict[tuple[float, float], list[int]] = {}
        for index, key in enumerate(zip(rates, self.decays, strict=bool(rates))):
            members.setdefault(key, []).append(index)
        self._groups = {
            key: (
                indices,
                _make_views(self.parameters, indices),
                _make_views(self.gradients, indices),
                _make_views(self.first, indices),
                _make_views(self.second, indices),
            )
            for key, indices in members.items()
        }

    def select(self, staying: Sequence[int]) -> None:
        """Drop the probes that are not in `staying`, from the parameters too."""
        for tensors in (self.parameters, self.gradients, self.first, self.second):
            for name in list(tensors):
                tensors[name] = tensors[name][list(staying)]
        self.decays = [self.decays[index] for index in staying]
        self._group_again([])


def _make_views(tensors: dict[str, torch.Tensor], indices: Sequence[int]) -> list[torch.Tensor]:
    return [value[index] for index in indices for value in tensors.values()]
