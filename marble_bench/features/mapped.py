"""Layers of stored features as they lie on disk: shards are mapped, and rows are copied out of them when they are read.

Every shard is checked when it is mapped, and mapped once for all its layers, read-only, with no file left open. What is in
memory of it are pages of the system's cache, which it takes back when it needs them; what a process holds for itself is
where each window lies, and the rows of the batch at hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.features.store import Span, Store

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


class MappedLayer:
    """`(windows, width)` float16: a layer's windows in the order asked for, each read where it lies.

    parts: of each shard its rows of this layer. shard, row: `(windows,)`, where each window lies.
    """

    def __init__(
        self, parts: Sequence[NDArray[np.float16]], shard: NDArray[Any], row: NDArray[Any], width: int
    ) -> None:
        import numpy as np

        self.parts, self.shard, self.row = parts, shard, row
        self.shape, self.dtype = (len(row), width), np.dtype(np.float16)
        self._bytes = [part.reshape(-1).view(np.uint8).data for part in parts]

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __getitem__(self, which: slice | NDArray[Any]) -> NDArray[np.float16]:
        """`(rows, width)`: some windows, copied."""
        import numpy as np

        size = self.shape[1] * self.dtype.itemsize
        shards, begins = self.shard[which].tolist(), (self.row[which] * size).tolist()
        # joining views takes a third of the time of as many assignments to rows of an array
        rows = [self._bytes[shard][begin : begin + size] for shard, begin in zip(shards, begins, strict=True)]
        return np.frombuffer(bytearray().join(rows), self.dtype).reshape(-1, self.shape[1])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of it, in memory."""
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype, copy=False)


def map_layers(store: Store, spans: Sequence[Span]) -> list[MappedLayer]:
    """Every layer of some spans, in their order. Raises DataError naming a shard that is not what was written."""
    import numpy as np

    counts = np.array([store.rows[span].count for span in spans], np.int64)
    shards = list(dict.fromkeys(store.rows[span].shard for span in spans))
    number = {shard: at for at, shard in enumerate(shards)}
    shard = np.repeat(np.array([number[store.rows[span].shard] for span in spans], np.int32), counts)
    begins = np.repeat(np.array([store.rows[span].first for span in spans], np.int64), counts)
    row = begins + np.arange(len(begins)) - np.repeat(np.cumsum(counts) - counts, counts)
    mapped = [store.map_shard(each) for each in shards]
    return [
        MappedLayer([parts[layer] for parts in mapped], shard, row, width)
        for layer, (_, width) in enumerate(store.layers)
    ]


class Tensors(Sequence["torch.Tensor"]):
    """Layers as probes read them: tensors over the same memory, or rows that become tensors when they are read.

    widths: of each layer, without reading any.
    """

    def __init__(self, layers: Sequence[NDArray[Any] | MappedLayer]) -> None:
        self.layers = layers
        known: Sequence[int] | None = getattr(layers, "widths", None)
        self.widths = list(known) if known is not None else [layer.shape[1] for layer in layers]

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, index: Any) -> Any:
        import torch

        layer = self.layers[index]
        return RowTensor(layer) if isinstance(layer, MappedLayer) else torch.from_numpy(layer)


class RowTensor:
    """What a trainer asks of a layer's tensor, of a layer that is mapped."""

    def __init__(self, layer: MappedLayer) -> None:
        import torch

        self.layer, self.shape = layer, layer.shape
        self.device, self.dtype = torch.device("cpu"), torch.float16

    def __len__(self) -> int:
        return len(self.layer)

    def __getitem__(self, which: slice) -> torch.Tensor:
        import torch

        return torch.from_numpy(self.layer[which])

    def index_select(self, dim: int, rows: torch.Tensor) -> torch.Tensor:
        """Some windows; `dim` is 0."""
        import torch

        assert dim == 0
        return torch.from_numpy(self.layer[rows.numpy()])

    def numel(self) -> int:
        """Values of the layer."""
        return self.shape[0] * self.shape[1]

    def element_size(self) -> int:
        """Bytes of a value."""
        return self.layer.dtype.itemsize

    def to(self, device: str) -> torch.Tensor:
        """The whole layer on a device."""
        return self[:].to(device)
