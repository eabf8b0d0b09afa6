"""Features as a block of probes reads them: on the device where they fit, scaled where asked for, as float32 batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from . import memory

if TYPE_CHECKING:
    import torch

    from .grid import Split

MOMENT_ROWS = 8192  # windows at once when mean and spread are counted


@dataclass(frozen=True)
class Moments:
    """Mean and population standard deviation of each feature over the training windows, `(width,)`.

    A constant feature has a spread of 1, so that it is only centred.
    """

    mean: torch.Tensor
    spread: torch.Tensor

    @classmethod
    def of(cls, layer: torch.Tensor, rows: torch.Tensor | None = None) -> Moments:
        """Of the windows `rows`, or of all; float64, counted in two passes, without a copy of the layer."""
        import torch

        windows = len(layer) if rows is None else len(rows)
        starts = range(0, windows, MOMENT_ROWS)
        mean = torch.zeros(layer.shape[1], dtype=torch.float64, device=layer.device)
        square = mean.clone()
        for start in starts:
            mean += read_chunk(layer, rows, start, MOMENT_ROWS).double().sum(dim=0) / windows
        for start in starts:
            square += (read_chunk(layer, rows, start, MOMENT_ROWS).double() - mean).square_().sum(dim=0)
        spread = (square / windows).sqrt()
        # what rounding alone leaves of a constant's spread, as scikit-learn's StandardScaler counts it
        spread[spread <= windows * torch.finfo(torch.float64).eps * mean.abs()] = 1
        return cls(mean, spread)

    def standardize(self, x: torch.Tensor) -> torch.Tensor:
        """`(..., width)` z-scored."""
        return (x - self.mean) / self.spread


def read_chunk(layer: torch.Tensor, rows: torch.Tensor | None, start: int, count: int) -> torch.Tensor:
    """`(count, width)`: neighbouring windows of a split, whose windows are at `rows` of the layer."""
    if rows is None:
        return layer[start : start + count]
    return layer.index_select(0, rows[start : start + count].to(layer.device))


class Features:
    """Some layers of the train and valid splits, and their truth.

    train, valid: all layers. layers: indices of those that are read; all of one width, but those of a concatenation.
    """

    def __init__(self, train: Split, valid: Split, layers: Sequence[int], device: str) -> None:
        self.layers, self.device = tuple(layers), device
        self.windows = len(train.clip)
        self._train = {layer: train.layers[layer] for layer in layers}
        shared = train.layers is valid.layers
        self._valid = self._train if shared else {layer: valid.layers[layer] for layer in layers}
        self._train_rows, self._valid_rows = train.rows, valid.rows
        self.widths = [int(self._train[layer].shape[1]) for layer in self.layers]
        self.width = self.widths[0]
        self._moments: dict[tuple[int, torch.dtype], Moments] = {}
        self._truth = train.truth[train.clip] if len(train.clip) != len(train.truth) else train.truth
        self._truth = self._truth.to(device)
        self.valid_truth, self.valid_clip = valid.truth.to(device), valid.clip.to(device)
        if device != "cpu":
            self._settle()

    def _settle(self) -> None:
        """Move layers to the device as long as they leave room for the probes; the rest goes there batch by batch."""
        room = int(memory.SHARE * memory.free_bytes(self.device)) // 2
        for held in [self._train] if self._train is self._valid else [self._train, self._valid]:
            for layer, values in held.items():
                nbytes = values.numel() * values.element_size()
                if nbytes <= room:
                    held[layer] = values.to(self.device)
                    room -= nbytes

    @cached_property
    def valid_counts(self) -> torch.Tensor:
        """`(clips,)`: windows of each valid clip."""
        import torch

        return torch.bincount(self.valid_clip, minlength=len(self.valid_truth)).clamp(min=1)

    def truth(self, rows: torch.Tensor) -> torch.Tensor:
        """`(windows,)` or `(windows, outputs)`: the truth of training windows."""
        return self._truth[rows.to(self.device)]

    def take(self, layer: int, rows: torch.Tensor, scaled: bool, dtype: torch.dtype | None = None) -> torch.Tensor:
        """`(rows, width)` on the device, float32 or another dtype: some training windows of a layer."""
        held = self._train[layer]
        where = rows if self._train_rows is None else self._train_rows[rows]
        return self._read(held.index_select(0, where.to(held.device)), layer, scaled, dtype)

    def chunk(self, layer: int, start: int, count: int, scaled: bool, dtype: torch.dtype | None = None) -> torch.Tensor:
        """`(count, width)` on the device, float32 or another dtype: neighbouring valid windows of a layer."""
        return self._read(read_chunk(self._valid[layer], self._valid_rows, start, count), layer, scaled, dtype)

    def _read(self, held: torch.Tensor, layer: int, scaled: bool, dtype: torch.dtype | None) -> torch.Tensor:
        import torch

        x = held.to(self.device).to(dtype or torch.float32)
        return self.moments(layer, x.dtype).standardize(x) if scaled else x

    def moments(self, layer: int, dtype: torch.dtype) -> Moments:
        """Of a layer's training windows, on the device."""
        if (layer, dtype) not in self._moments:
            found = Moments.of(self._train[layer], self._train_rows)
            mean, spread = (each.to(dtype).to(self.device) for each in (found.mean, found.spread))
            self._moments[layer, dtype] = Moments(mean, spread)
        return self._moments[layer, dtype]

    def with_moments(self, state: dict[str, torch.Tensor], layers: Sequence[int]) -> dict[str, torch.Tensor]:
        """A probe's weights with what its layers are scaled by, `mean` and `spread (layers, width)`; none for no layers."""
        import torch

        if not layers or not state:
            return state
        moments = [self.moments(layer, next(iter(state.values())).dtype) for layer in layers]
        mean, spread = torch.stack([m.mean for m in moments]), torch.stack([m.spread for m in moments])
        return {**state, "mean": mean.cpu(), "spread": spread.cpu()}
