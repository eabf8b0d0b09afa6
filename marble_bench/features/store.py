"""The feature store: Arrow IPC shards with one fixed-width half-float column per layer.

A folder holds the features of one key: encoder, its version and weights digest, preprocessing, sample rate, window and
precision. A row is one window, or in a store of frames one frame; rows are known by the audio file's digest, the span of it
that was decoded, and their order. All rows of a span stand in one shard, so a span is there wholly or not at all. A
shard's schema lists its spans with their counts of rows, so that a store is opened without reading a row. A shard is
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

FORMAT = "marble-bench.features/2"
SHARD_BYTES = 64 << 20
HALF_MAX = 65504.0
SPANS = b"spans"  # key of a shard's metadata: [[audio, stretch, rows], ...] in the order of the rows


@dataclass(frozen=True)
class Span:
    """What was decoded of an audio file: its content's sha256, and the stretch in seconds: `"0:"` is all of it,
    `"3:1.5"` from 3 s on for 1.5 s, `"0:<30"` all of it but at most 30 s."""

    audio: str
    stretch: str


@dataclass(frozen=True)
class Stored:
    """Where the rows of a span lie: a shard, and the rows `first ... first + count - 1` of it."""

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
            first = 0
            for audio, stretch, count in _spans_of(shard):
                rows.setdefault(Span(audio, stretch), Stored(shard, first, count))
                first += count
        return rows

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait for the next shard."""
        return self._pending_bytes

    def add(self, span: Span, layers: Sequence[NDArray[np.floating[Any]]]) -> None:
        """Keep the rows of one span: per layer `(rows, width)`. Written when a shard is full, or by `flush`.

        Raises BenchError if a value does not fit a half float, naming the layer.
        """
        import numpy as np

        for (name, width), values in zip(self.layers, layers, strict=True):
            if values.ndim != 2 or values.shape[1] != width:
                raise BenchError(f"layer '{name}' came out as {values.shape}; declared are (rows, {width})")
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
        import numpy as np
        import pyarrow as pa

        counts = [len(halves[0]) for _, halves in self._pending]
        listed = json.dumps([[s.audio, s.stretch, n] for (s, _), n in zip(self._pending, counts, strict=True)])
        row = pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        columns: dict[str, Any] = {
            name: pa.DictionaryArray.from_arrays(row, pa.array(values, pa.string()))
            for name, values in (
                ("audio", [span.audio for span, _ in self._pending]),
                ("stretch", [span.stretch for span, _ in self._pending]),
            )
        }
        for index, (name, width) in enumerate(self.layers):
            flat = pa.concat_arrays([pa.array(halves[index].reshape(-1)) for _, halves in self._pending])
            columns[f"layer:{name}"] = pa.FixedSizeListArray.from_arrays(flat, width)
        table = pa.table(columns).replace_schema_metadata({SPANS: listed})
        names = hashlib.sha256(listed.encode()).hexdigest()
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

    def read_rows(self, layer: int, span: Span, first: int, count: int) -> NDArray[np.float16]:
        """`(count, width)` float16: some rows of a span, copied; no other page of the shard stays in memory.

        Raises BenchError if the span has no such rows.
        """
        name, width = self.layers[layer]
        at = self.rows[span]
        if first < 0 or count < 0 or first + count > at.count:
            raise BenchError(f"a span of {at.count} rows was asked for the rows {first} to {first + count}")
        column = _open(at.shard).column(f"layer:{name}").slice(at.first + first, count)
        rows: NDArray[np.float16] = column.combine_chunks().flatten().to_numpy().reshape(count, width).copy()
        return rows

    def size_bytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(shard.stat().st_size for shard in self._shards())


def _spans_of(shard: Path) -> list[tuple[str, str, int]]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(shard)) as file:
            metadata = pa.ipc.open_file(file).schema.metadata
        return [(str(audio), str(stretch), int(count)) for audio, stretch, count in json.loads(metadata[SPANS])]
    except (pa.ArrowInvalid, OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"feature shard {shard} is damaged ({error}); delete it and run again") from error


def _open(shard: Path) -> Any:
    import pyarrow as pa

    try:
        return pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"feature shard {shard} is damaged ({error}); delete it and run again") from error
