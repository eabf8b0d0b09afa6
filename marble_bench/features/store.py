"""The feature store: Arrow IPC shards with one fixed-width half-float column per layer.

A folder holds the features of one key: encoder, its version and weights digest, preprocessing, sample rate, window and
precision. A row is one window; rows are known by the audio file's digest, the span of it that was decoded, and the
window's number. All windows of a span stand in one shard, so a span is there wholly or not at all. A shard is
written under a temporary name, synced and renamed: what exists is whole. Two processes that write the same rows only
write them twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.disk import write_whole
from marble_bench.errors import BenchError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "marble-bench.features/1"
SHARD_BYTES = 64 << 20
HALF_MAX = 65504.0


@dataclass(frozen=True)
class Span:
    """What was decoded of an audio file: its content's sha256, and the stretch in seconds: `"0:"` is all of it,
    `"3:1.5"` from 3 s on for 1.5 s, `"0:<30"` all of it but at most 30 s."""

    audio: str
    stretch: str


@dataclass(frozen=True)
class Stored:
    """Where the windows of a span lie: a shard, and the rows `first ... first + count - 1` of it."""

    shard: Path
    first: int
    count: int


def folder_name(facts: dict[str, Any]) -> str:
    """`<encoder>-<12 hex of the key>`: the key is the digest of all facts."""
    key = hashlib.sha256(json.dumps({"format": FORMAT, **facts}, sort_keys=True).encode()).hexdigest()
    return f"{facts['encoder']}-{key[:12]}"


class Store:
    """The features of one key. `layers`: names and widths, in order."""

    def __init__(self, root: Path, facts: dict[str, Any], layers: Sequence[tuple[str, int]]) -> None:
        self.folder = root / folder_name(facts)
        self.layers = tuple(layers)
        self._pending: list[tuple[Span, list[NDArray[np.float16]]]] = []
        self._pending_bytes = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            about = json.dumps({"format": FORMAT, **facts, "layers": self.layers}, indent=1, sort_keys=True) + "\n"
            if not (self.folder / "about.json").is_file():
                write_whole(self.folder / "about.json", about.encode())
        except OSError as error:
            raise BenchError(f"the feature cache {self.folder} cannot be written: {error.strerror}") from error
        self.rows = self._index()

    def _shards(self) -> list[Path]:
        return sorted(self.folder.glob("*.arrow"))

    def _index(self) -> dict[Span, Stored]:
        rows: dict[Span, Stored] = {}
        for shard in self._shards():
            table = _open(shard).select(["audio", "stretch"]).to_pydict()
            spans = [Span(*both) for both in zip(table["audio"], table["stretch"], strict=True)]
            first = 0
            while first < len(spans):
                count = 1
                while first + count < len(spans) and spans[first + count] == spans[first]:
                    count += 1
                rows.setdefault(spans[first], Stored(shard, first, count))
                first += count
        return rows

    def add(self, span: Span, layers: Sequence[NDArray[np.floating[Any]]]) -> None:
        """Keep the windows of one span: per layer `(windows, width)`. Written when a shard is full, or by `flush`.

        Raises BenchError if a value does not fit a half float, naming the layer.
        """
        import numpy as np

        for (name, width), values in zip(self.layers, layers, strict=True):
            if values.ndim != 2 or values.shape[1] != width:
                raise BenchError(f"layer '{name}' came out as {values.shape}; declared are (windows, {width})")
            if not np.isfinite(values).all():
                raise BenchError(f"layer '{name}' has NaN or infinity")
            if values.size and np.abs(values).max() > HALF_MAX:
                raise BenchError(
                    f"layer '{name}' reaches {np.abs(values).max():.3g}, beyond half precision ({HALF_MAX})"
                )
        halves = [values.astype(np.float16) for values in layers]
        self._pending.append((span, halves))
        self._pending_bytes += sum(values.nbytes for values in halves)
        if self._pending_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard. Raises BenchError if the disk refuses; finished shards stay."""
        if not self._pending:
            return
        import pyarrow as pa

        spans = [span for span, halves in self._pending for _ in range(len(halves[0]))]
        columns: dict[str, Any] = {
            "audio": pa.array([span.audio for span in spans], pa.string()),
            "stretch": pa.array([span.stretch for span in spans], pa.string()),
        }
        for index, (name, width) in enumerate(self.layers):
            flat = pa.concat_arrays([pa.array(halves[index].reshape(-1)) for _, halves in self._pending])
            columns[f"layer:{name}"] = pa.FixedSizeListArray.from_arrays(flat, width)
        table = pa.table(columns)
        names = hashlib.sha256("\n".join(f"{span.audio} {span.stretch}" for span in spans).encode()).hexdigest()
        shard = self.folder / f"{names[:16]}.arrow"
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        try:
            write_whole(shard, sink.getvalue())
        except OSError as error:
            raise BenchError(
                f"features cannot be written to {shard}: {error.strerror}; finished shards are kept, and the same "
                "command goes on from there once there is room"
            ) from error
        first = 0
        for span, halves in self._pending:
            self.rows.setdefault(span, Stored(shard, first, len(halves[0])))
            first += len(halves[0])
        self._pending, self._pending_bytes = [], 0

    def read(self, layer: int, spans: Sequence[Span]) -> NDArray[np.float16]:
        """`(windows, width)` float16: the windows of all spans one after another, from one mapped column."""
        import numpy as np

        name, width = self.layers[layer]
        out = np.empty((sum(self.rows[span].count for span in spans), width), np.float16)
        columns: dict[Path, NDArray[np.float16]] = {}
        row = 0
        for span in spans:
            at = self.rows[span]
            if at.shard not in columns:
                chunks = _open(at.shard).column(f"layer:{name}").chunks
                columns[at.shard] = np.concatenate([c.flatten().to_numpy() for c in chunks]).reshape(-1, width)
            out[row : row + at.count] = columns[at.shard][at.first : at.first + at.count]
            row += at.count
        return out

    def size_bytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(shard.stat().st_size for shard in self._shards())


def _open(shard: Path) -> Any:
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"feature shard {shard} is damaged ({error}); delete it and run again") from error
