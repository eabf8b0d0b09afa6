"""Runs an encoder over batches on one device.

Precision: `float32` is exact: TensorFloat-32 is off. `bfloat16` and `float16` are autocast; a window whose features are then
not finite, or do not fit a half float, is encoded once more in float32. What is stored is always half precision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marble_bench.core.contract import HALF_MAX
from marble_bench.core.encoder import Encode, Encoder, check_callable, check_layers, encode_valid
from marble_bench.errors import BenchError, counted
from marble_bench.features.batches import Batch, EncodedBatch, ShardEnd
from marble_bench.features.jobs import Cost, Halves, Kind, Settings
from marble_bench.features.precision import force_exact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_S = 60.0  # seconds of audio that are encoded together; on CUDA only the first time, then what fits
LARGEST_BATCH_S = 600.0
MEMORY_SHARE = 0.6  # of the device's free memory that a batch may take


@dataclass(frozen=True)
class _Part:
    """Windows of one batch that are being encoded.

    windows, valid: what went in, see `Batch`. largest: magnitudes `(layers, windows)`. layers: each
    `(windows, rows, width)`, half precision. Both are on the host, and of a GPU not there before `ready`.
    """

    windows: NDArray[np.float32]
    valid: list[int] | None
    largest: Any
    layers: list[Any]
    ready: Any  # a CUDA event, else None

    def wait_arrived(self) -> tuple[NDArray[np.float32], Halves]:
        """`largest` and `layers`, once they are there."""
        if self.ready is None:
            return self.largest.numpy(), [layer.numpy() for layer in self.layers]
        self.ready.synchronize()
        # copied, so that pinned memory, which the driver is slow to hand out, serves the next batch
        return self.largest.numpy().copy(), [layer.numpy().copy() for layer in self.layers]


class Runner:
    """Runs an encoder over batches on a device: within its memory, checked, in half precision on the host."""

    def __init__(
        self,
        encoder: Encoder,
        encode: Encode,
        kind: Kind,
        settings: Settings,
        cost: Cost,
        say: Callable[[str], None],
    ) -> None:
        self.encoder, self.encode, self.kind = encoder, check_callable(encoder.name, encode, encoder.masks), kind
        self.settings, self.cost, self.say = settings, cost, say
        self.cuda = settings.device.startswith("cuda")
        self.batch_s, self.batch_size = settings.batch_s or BATCH_S, settings.batch_size
        self.fitted = settings.batch_s is not None or self.batch_size is not None or not self.cuda

    def step(self, length: int) -> int:
        """How many windows of so many samples go together."""
        if self.batch_size is not None:
            return self.batch_size
        return max(1, int((self.batch_s * self.encoder.sample_rate_hz + 0.5) // length))

    def encode_batches(self, batches: Iterable[Batch | ShardEnd]) -> Iterator[EncodedBatch | ShardEnd]:
        """What each batch gives. On CUDA the next one is already under way when one is fetched."""
        under_way: deque[tuple[Batch, list[_Part]]] = deque()
        for batch in batches:
            if isinstance(batch, Batch):
                under_way.append((batch, self.launch(batch)))
            while len(under_way) > (1 if self.cuda and isinstance(batch, Batch) else 0):
                yield self.fetch_results(*under_way.popleft())
            if isinstance(batch, ShardEnd):
                yield batch
        while under_way:
            yield self.fetch_results(*under_way.popleft())

    def launch(self, batch: Batch) -> list[_Part]:
        """The batch in parts that fit the memory; on CUDA they are under way, not done."""
        import numpy as np
        import torch

        parts: list[_Part] = []
        start, length = 0, len(batch.windows[0])
        before = 0 if self.fitted else self._measure_used_before()
        while start < len(batch.windows):
            windows = np.stack(batch.windows[start : start + self.step(length)])
            short: Exception | None = None
            try:
                valid = batch.valid[start : start + len(windows)] if batch.valid else None
                parts.append(self._encode_once(windows, self.settings.dtype, valid))
            except torch.OutOfMemoryError as error:
                short = error.with_traceback(None)  # whose frames hold the batch's tensors
            if short is None:
                start += len(windows)
            else:
                self._shrink(len(windows), length, short)
        if not self.fitted:
            self._fit(len(batch.windows) * length / self.encoder.sample_rate_hz, before)
        return parts

    def _encode_once(self, windows: NDArray[np.float32], dtype: str, valid: list[int] | None) -> _Part:
        import torch

        batch = torch.from_numpy(windows)
        if self.cuda:
            batch = batch.pin_memory()
        batch = batch.to(self.settings.device, non_blocking=self.cuda)
        kind = self.settings.device.split(":")[0]
        precision = nullcontext() if dtype == "float32" else torch.autocast(kind, getattr(torch, dtype))
        with force_exact(self.settings.device), torch.inference_mode(), precision:
            if valid is None:
                found = self.encode(batch, self.kind.pool)
            else:
                found = encode_valid(self.encoder, self.encode, batch, self.kind.pool, torch.tensor(valid))
        layers = self.encoder.layers
        check_layers(self.encoder.name, layers, found)
        with torch.inference_mode():
            chosen = [self.kind.rows(found[index], layers[index]) for index in self.kind.layers]
            for index, each in zip(self.kind.layers, chosen, strict=True):
                if each.ndim != 3 or each.shape[0] != len(windows) or each.shape[2] != layers[index].width:
                    raise BenchError(
                        f"{self.encoder.name}: layer '{layers[index].name}' came out as {tuple(each.shape)}; "
                        f"declared are ({len(windows)}, rows, {layers[index].width})"
                    )
            largest = torch.stack([each.float().abs().amax(dim=(1, 2)) for each in chosen])
            values = [largest, *(each.half() for each in chosen)]
            if not self.cuda:
                return _Part(windows, valid, values[0].cpu(), [each.cpu() for each in values[1:]], None)
            # queued right behind this batch's work: asked for later, a copy would wait for the batch after it too
            largest, *halves = (each.to("cpu", non_blocking=True) for each in values)
            event: Any = torch.cuda.Event
            ready = event(blocking=True)  # a thread that waits leaves its core to those that read audio
            ready.record(torch.cuda.current_stream(self.settings.device))
            return _Part(windows, valid, largest, halves, ready)

    def fetch_results(self, batch: Batch, parts: list[_Part]) -> EncodedBatch:
        import numpy as np

        by_layer: list[Halves] = []
        first = 0
        for part in parts:
            windows = part.windows
            largest, halves = part.wait_arrived()
            bad = np.flatnonzero(~(largest <= HALF_MAX).all(axis=0))  # NaN is not smaller than anything
            if len(bad) and self.settings.dtype != "float32":
                if not self.cost.again:
                    self.say(
                        f"{self.settings.dtype} overflows on {batch.names[first + bad[0]]}: computing it again in float32"
                    )
                self.cost.again += len(bad)
                for row in bad:  # one by one: they are few, and a float32 batch might not fit
                    own = None if part.valid is None else [part.valid[row]]
                    exact, once_more = self._encode_alone(windows[row : row + 1], own)
                    largest[:, row] = exact[:, 0]
                    for layer, values in zip(halves, once_more, strict=True):
                        layer[row] = values[0]
                bad = np.flatnonzero(~(largest <= HALF_MAX).all(axis=0))
            if len(bad):
                self._refuse(largest[:, bad[0]], batch.names[first + bad[0]])
            by_layer.append(halves)
            first += len(windows)
        whole = by_layer[0] if len(by_layer) == 1 else [np.concatenate(each) for each in zip(*by_layer, strict=True)]
        return EncodedBatch(whole, batch.places, len(batch.windows) * len(batch.windows[0]))

    def _encode_alone(self, window: NDArray[np.float32], valid: list[int] | None) -> tuple[NDArray[np.float32], Halves]:
        """One window in float32. Raises BenchError if it does not fit the memory."""
        import torch

        try:
            return self._encode_once(window, "float32", valid).wait_arrived()
        except torch.OutOfMemoryError as error:
            short = error.with_traceback(None)
        self._shrink(1, window.shape[1], short)
        raise AssertionError("one window is never halved")

    def _refuse(self, largest: NDArray[np.float32], name: str) -> None:
        import numpy as np

        at = int(np.flatnonzero(~(largest <= HALF_MAX))[0])
        layer = self.encoder.layers[self.kind.layers[at]].name
        what = "has NaN or infinity" if not np.isfinite(largest[at]) else f"reaches {largest[at]:.3g}"
        raise BenchError(
            f"{self.encoder.name} on {name}: layer '{layer}' {what}; what is stored must be finite and fit half precision "
            f"({HALF_MAX:g}). Look at the audio and the encoder's scale"
        )

    def _shrink(self, windows: int, length: int, error: Exception) -> None:
        """Halve the batches from here on, and say so. Raises BenchError if one window is already too much."""
        import torch

        seconds = length / self.encoder.sample_rate_hz
        if windows == 1:
            raise BenchError(
                f"{self.encoder.name}: one window of {seconds:.1f} s does not fit the memory of {self.settings.device}: "
                "use a larger device, --device cpu, or a task with shorter windows"
            ) from error
        half = windows // 2
        self.batch_s, self.fitted = half * seconds, True
        if self.cuda:
            torch.cuda.empty_cache()
        if self.batch_size is not None:
            self.batch_size = half
        size = f"{self.batch_s:.0f} s of audio" if self.batch_size is None else counted(half, "window")
        self.say(f"{self.settings.device} ran out of memory: batches of {size} from here on")

    def _measure_used_before(self) -> int:
        """Bytes that are taken on the GPU before the first batch; from here on the peak is the batch's own."""
        import torch

        torch.cuda.reset_peak_memory_stats(self.settings.device)
        return int(torch.cuda.memory_allocated(self.settings.device))

    def _fit(self, seconds: float, before: int) -> None:
        """After the first batch on CUDA: as many seconds as the memory allows by what this one took."""
        import torch

        torch.cuda.synchronize(self.settings.device)
        free, _ = torch.cuda.mem_get_info(self.settings.device)
        spare = (
            free + torch.cuda.memory_reserved(self.settings.device) - torch.cuda.memory_allocated(self.settings.device)
        )
        took = torch.cuda.max_memory_allocated(self.settings.device) - before
        if took > 0:
            self.batch_s = min(LARGEST_BATCH_S, max(self.batch_s, MEMORY_SHARE * spare / took * seconds))
        self.fitted = True
        self.say(f"batches of {self.batch_s:.0f} s of audio on {self.settings.device}")
