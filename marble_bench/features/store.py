"""The feature store: Arrow IPC shards with one fixed-width half-float column per layer.

A folder holds the features of one key: encoder, its version and weights digest, preprocessing, sample rate, window and
precision. A row is one window, or in a store of frames one frame; rows are known by the audio file's digest, the span of it
that was decoded, and their order. All rows of a span stand in one shard, so a span is there wholly or not at all. A
shard's schema lists its spans with their counts of rows, so that a store is opened without reading a row, and a digest of
its layers. A shard is named by the spans it lists, and is
written under a temporary name, synced and renamed: what exists is whole. Two processes that write the same rows only
put the same file in its place twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core import keys
from marble_bench.disk import write_whole
from marble_bench.errors import BenchError, DataError
from marble_bench.features.elsewhere import Place

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "marble-bench.features/4"
SPARE_BYTES = 256 << 20  # disk that is left alone
STALE_S = 3600.0  # a temporary file of this age belongs to a writer that was killed
HALF_MAX = 65504.0
ABOUT = "about.json"
DIGEST = b"sha256"  # key of a shard's metadata: over the bytes of all layers, one after another
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
    return f"{facts['encoder']}-{keys.digest({'format': FORMAT, **facts})[:12]}"


def check_room(folder: Path, needed: int, what: str, hint: str, say: Callable[[str], None] | None = None) -> None:
    """Raise BenchError if the disk of `folder` has no room for so many bytes; else tell what will be taken."""
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    text = f"{needed / 1e9:.2f} GB for {what}"
    if needed > free:
        raise BenchError(f"{folder.parent} has room for {max(free, 0) / 1e9:.2f} GB and {text} are needed: {hint}")
    if say:
        say(f"writing {text} to {folder.parent}")


class Store:
    """The features of one key. `layers`: names and widths, in order. `rows`: where each span lies.

    key: digest of the facts. elsewhere: a URL where the shards are kept too; see `Place`.
    """

    def __init__(
        self, root: Path, facts: dict[str, Any], layers: Sequence[tuple[str, int]], elsewhere: str = ""
    ) -> None:
        self.folder, self.key = root / folder_name(facts), keys.digest(facts)
        self.elsewhere = Place(elsewhere) if elsewhere else None
        self.layers = tuple(layers)
        self._pending: list[tuple[Span, list[NDArray[np.float16]]]] = []
        about = self.folder / ABOUT
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not about.is_file():
                text = json.dumps({"format": FORMAT, **facts, "layers": self.layers}, indent=1, sort_keys=True) + "\n"
                write_whole(about, text.encode())
        except OSError as error:
            raise BenchError(f"the feature cache {self.folder} cannot be written: {error.strerror}") from error
        with suppress(OSError):  # when it was last used is a hint for `prune`; a read-only store can still be read
            os.utime(about)
        if self.elsewhere:
            self.elsewhere.both(self.folder)
        self.rows = index(self.folder)

    def add(self, span: Span, layers: Sequence[NDArray[np.floating[Any]]]) -> None:
        """Keep the rows of one span, per layer `(rows, width)`, until `flush` writes them.

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
        self._pending.append((span, [values.astype(np.float16, copy=False) for values in layers]))

    def flush(self) -> None:
        """Write what was added as one shard, named by its spans, the bytes decided by spans and values alone.

        Raises BenchError if the disk refuses; finished shards stay.
        """
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
        total = hashlib.sha256()
        for place, (name, width) in enumerate(self.layers):
            flat = np.concatenate([halves[place].reshape(-1) for _, halves in self._pending])
            total.update(flat.data)
            columns[f"layer:{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
        table = pa.table(columns).replace_schema_metadata({SPANS: listed, DIGEST: total.hexdigest()})
        names = hashlib.sha256(listed.encode()).hexdigest()
        shard = self.folder / f"{names[:16]}.arrow"
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        try:
            sweep(self.folder)
            write_whole(shard, sink.getvalue())
        except OSError as error:
            raise BenchError(
                f"features cannot be written to {shard}: {error.strerror}; finished shards are kept, and the same "
                "command goes on from there once there is room"
            ) from error
        if self.elsewhere:
            self.elsewhere.put(shard)
        first = 0
        for span, halves in self._pending:
            self.rows.setdefault(span, Stored(shard, first, len(halves[0])))
            first += len(halves[0])
        self._pending = []

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
        return sum(shard.stat().st_size for shard in shards(self.folder))


def shards(folder: Path) -> list[Path]:
    """The shards in a store's folder."""
    return sorted(folder.glob("*.arrow"))


def index(folder: Path) -> dict[Span, Stored]:
    """Where the spans of a store lie. Raises DataError naming a shard that is damaged."""
    rows: dict[Span, Stored] = {}
    for shard in shards(folder):
        first = 0
        for audio, stretch, count in _spans_of(shard):
            rows.setdefault(Span(audio, stretch), Stored(shard, first, count))
            first += count
    return rows


def sweep(folder: Path, older_than_s: float = STALE_S) -> int:
    """Remove what killed writers left: temporary files of that age. Returns their bytes."""
    gone = 0
    for left in folder.glob(".*.tmp"):
        with suppress(FileNotFoundError):  # another process may sweep too
            status = left.stat()
            if time.time() - status.st_mtime > older_than_s:
                left.unlink()
                gone += status.st_size
    return gone


def fault(shard: Path) -> str:
    """What is wrong with a shard: nothing, or a sentence. Every byte of its layers is read."""
    import numpy as np

    try:
        spans, table = _spans_of(shard), _open(shard)
    except DataError as error:
        return str(error)
    if sum(count for _, _, count in spans) != table.num_rows:
        return f"feature shard {shard} has {table.num_rows} rows and lists others; delete it and run again"
    total = hashlib.sha256()
    for name in table.column_names:
        if not name.startswith("layer:"):
            continue
        for chunk in table.column(name).chunks:
            values = chunk.flatten().to_numpy()
            if not np.isfinite(values).all():
                return f"feature shard {shard}: layer '{name[6:]}' has NaN or infinity; delete it and run again"
            total.update(np.ascontiguousarray(values).data)
    if total.hexdigest() != table.schema.metadata.get(DIGEST, b"").decode():
        return f"feature shard {shard} is not what was written (its digest differs); delete it and run again"
    return ""


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
