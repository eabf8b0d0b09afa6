"""Features of clips as the probes read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from marble_bench.features.mapped import MappedLayer


@dataclass(frozen=True)
class Features:
    """Every layer of every window of some clips.

    names: of the layers. layers: per layer `(windows, width)`, in memory or mapped (`marble_bench.features.map_shard`).
    clip: `(windows,)` int64, each window's clip by its position among the clips asked for; ascending.
    """

    names: tuple[str, ...]
    layers: Sequence[NDArray[Any] | MappedLayer]
    clip: NDArray[Any]
