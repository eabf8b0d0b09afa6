"""The metric contract; see the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Kind = Literal["classes", "tags", "scalars", "events", "stems"]


@dataclass(frozen=True)
class Metric:
    """A score and how to read it.

    For `events` and `stems` the outputs are what was measured of each clip, `(probes, clips, columns)`; truth is not read.

    compute: `(outputs (probes, clips, width), truth) -> (probes,)` float64.
    per_clip: `(outputs (probes, clips, width), truth) -> (probes, clips)` float64, for paired statistics; the
        metric's own contribution of each clip.
    on_resample: the same for clips drawn again, where a tag may be left with one kind of clip: the mean over the tags that
        still have an order. None where `compute` will do.
    source: the definition and the library that it is tested against.
    """

    name: str
    kind: Kind
    compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    per_clip: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    source: str
    higher_is_better: bool = True
    unit: str = "fraction"
    on_resample: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def targets(self) -> type:
        """The kind of target that this metric reads."""
        from marble_bench import targets

        kinds = {
            "classes": targets.Classes,
            "tags": targets.Tags,
            "scalars": targets.Scalars,
            "events": targets.Events,
            "stems": targets.Stems,
        }
        return kinds[self.kind]
