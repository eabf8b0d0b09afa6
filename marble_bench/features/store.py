"""The feature store: Arrow IPC shards with one fixed-width half-float column per layer.

A folder holds the features of one key: encoder, its version and weights digest, preprocessing, sample rate, window and
precision. A row is one window, or in a store of frames one frame; rows are known by the audio file's digest, the span of it
that was decoded, and their order. All rows of a span are in one shard, so a span is there wholly or not at all. A shard is
named by the spans it lists, and is written under a temporary name, synced and renamed: what exists is whole. Two processes
that write the same rows only put the same file in its place twice.

What is stored is checked when a shard is first read, by two digests. The manifest beside the shards (`manifest`) has the
sha256 of each whole shard file. Inside each shard is a digest over everything that a row means: the folder's name, which
is the key's, the spans and their counts of rows, the names, widths and types of the layers, and every value.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core import keys
from marble_bench.core.contract import HALF_MAX
from marble_bench.errors import BenchError, DataError
from marble_bench.features import manifest
from marble_bench.features.manifest import (
    ABOUT,
    MEND,
    Entry,
    Span,
    Spent,
    match_entry,
    read_manifest,
    read_sealed,
    seal,
)
from marble_bench.features.remote import RemoteStore
from marble_bench.files import names
from marble_bench.files.atomic import sweep_leftovers, write_whole

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "Span",
    "SpanRows",
    "Spent",
    "Store",
    "check_room",
    "find_fault",
    "index",
    "list_shards",
    "name_folder",
    "sum_spent",
    "sweep_leftovers",
]

FORMAT = "marble-bench.features/4"
SPARE_BYTES = 256 << 20  # disk that is left alone
NOT_KNOWN = Spent()
DIGEST = b"sha256"  # key of a shard's metadata: over all that its rows mean, see `_digest`
SPANS = b"spans"  # key of a shard's metadata: [[audio, stretch, rows], ...] in the order of the rows
STORE = b"store"  # key of a shard's metadata: the name of the folder it was written into


@dataclass(frozen=True)
class SpanRows:
    """Where the rows of a span lie: a shard, and the rows `first ... first + count - 1` of it.

    spent: what making them took.
    """

    shard: Path
    first: int
    count: int
    spent: Spent = NOT_KNOWN


def name_folder(facts: dict[str, Any]) -> str:
    """`<encoder>-<12 hex of the key>`: the key is the digest of all facts."""
    return f"{names.name_folder(facts['encoder'])}-{keys.digest({'format': FORMAT, **facts})[:12]}"


def _check_writable(folder: Path) -> None:
    """Raise BenchError before any work if a store that is not there cannot be made."""
    above = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not above.is_dir():
        raise BenchError(f"the feature cache {folder} cannot be written: {above} is no folder")
    if above != folder and not os.access(above, os.W_OK | os.X_OK):
        raise BenchError(f"the feature cache {folder} cannot be written: {above} is read-only")


def check_room(folder: Path, needed: int, what: str, hint: str, say: Callable[[str], None] | None = None) -> None:
    """Raise BenchError if the disk of `folder` has no room for so many bytes; else tell what will be taken."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    free = shutil.disk_usage(there).free - SPARE_BYTES
    text = f"{needed / 1e9:.2f} GB for {what}"
    if needed > free:
        raise BenchError(f"{folder.parent} has room for {max(free, 0) / 1e9:.2f} GB and {text} are needed: {hint}")
    if say:
        say(f"writing {text} to {folder.parent}")


class Store:
    """The features of one key. `layers`: names and widths, in order. `rows`: where each span lies.

    key: digest of the facts. remote_url: a URL where the shards are stored too; see `RemoteStore`. Nothing is on the disk
    before the first shard, so a pass that is refused before it leaves nothing.
    """

    def __init__(
        self, root: Path, facts: dict[str, Any], layers: Sequence[tuple[str, int]], remote_url: str = ""
    ) -> None:
        self.folder, self.key = root / name_folder(facts), keys.digest(facts)
        self._encoder = {name: facts.get(name) for name in keys.OF_ENCODER}
        self.remote = RemoteStore(remote_url) if remote_url else None
        self.layers = tuple(layers)
        self._beside: dict[str, bytes] = {}
        self._about = seal({"format": FORMAT, **facts, "layers": self.layers})
        self._pending: list[tuple[Span, list[NDArray[np.float16]], Spent]] = []
        self._checked: set[Path] = set()
        _check_writable(self.folder)
        if self.remote:
            self.remote.sync(self.folder)
        if self.folder.is_dir():
            if not (self.folder / ABOUT).is_file():
                self._write(ABOUT, self._about)
            read_about(self.folder)
            with suppress(OSError):  # when it was last used is a hint for `prune`; a read-only store can still be read
                os.utime(self.folder / ABOUT)
        self.rows = index(self.folder)

    def find_siblings(self) -> Iterator[Path]:
        """The folders, beside this one, of the same encoder's features in other windows, of other layers or other sounds.

        One that is damaged is no sibling: it is named when its own features are asked for.
        """
        encoder, _, _ = self.folder.name.rpartition("-")
        for folder in sorted(self.folder.parent.glob(f"{encoder}-*")):
            if folder == self.folder or not list_shards(folder):
                continue
            with suppress(DataError):
                about = read_about(folder)
                if {name: about.get(name) for name in keys.OF_ENCODER} == self._encoder:
                    yield folder

    def put_beside(self, name: str, content: bytes) -> None:
        """Keep a file beside the shards: written at once where there are some, else just before the first one."""
        if self.rows:
            self._write(name, content)
        else:
            self._beside[name] = content

    def _write(self, name: str, content: bytes) -> None:
        """Write a file of the folder, and of the remote store. Raises BenchError if the disk refuses."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / name, content)
        except OSError as error:
            raise BenchError(f"the feature cache {self.folder} cannot be written: {error.strerror}") from error
        if self.remote:
            self.remote.put(self.folder / name)

    def add(self, span: Span, layers: Sequence[NDArray[np.floating[Any]]], spent: Spent = NOT_KNOWN) -> None:
        """Keep the rows of one span, per layer `(rows, width)`, until `flush` writes them. spent: what making them took.

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
        self._pending.append((span, [values.astype(np.float16, copy=False) for values in layers], spent))

    def flush(self) -> None:
        """Write what was added as one shard, named by its spans, the bytes decided by key, spans and values alone.

        The files beside it and its entry in the manifest are written first. Raises BenchError if the disk refuses;
        finished shards stay.
        """
        if not self._pending:
            return
        spans = tuple(span for span, _, _ in self._pending)
        counts = tuple(len(halves[0]) for _, halves, _ in self._pending)
        content = self._build_arrow(spans, counts)
        spent = tuple(each for _, _, each in self._pending)
        digest = hashlib.sha256(content).hexdigest()
        entry = Entry(self.folder.name, digest, len(content), spans, counts, spent)
        shard = self.folder / entry.shard
        if not (self.folder / ABOUT).is_file():
            self._write(ABOUT, self._about)
        while self._beside:
            self._write(*self._beside.popitem())
        try:
            sweep_leftovers(self.folder)
            write_whole(self.folder / entry.name, entry.seal_content())
            write_whole(shard, content)
        except OSError as error:
            raise BenchError(
                f"features cannot be written to {shard}: {error.strerror}; finished shards are kept, and the same "
                "command continues once there is room"
            ) from error
        if self.remote:
            self.remote.put(self.folder / entry.name)
            self.remote.put(shard)
        self._checked.discard(shard)
        for span, stored in _place_spans(shard, entry):
            self.rows.setdefault(span, stored)
        self._pending = []

    def _build_arrow(self, spans: Sequence[Span], counts: Sequence[int]) -> Any:
        """The shard's file of what was added, as a buffer."""
        import numpy as np
        import pyarrow as pa

        row = pa.array(np.repeat(np.arange(len(counts), dtype=np.int32), counts))
        columns: dict[str, Any] = {
            name: pa.DictionaryArray.from_arrays(row, pa.array(values, pa.string()))
            for name, values in (
                ("audio", [span.audio for span in spans]),
                ("stretch", [span.segment for span in spans]),
            )
        }
        for place, (name, width) in enumerate(self.layers):
            flat = np.concatenate([halves[place].reshape(-1) for _, halves, _ in self._pending])
            columns[f"layer:{name}"] = pa.FixedSizeListArray.from_arrays(pa.array(flat), width)
        table = pa.table(columns)
        listed = manifest.list_spans(spans, counts)
        facts = {SPANS: listed, STORE: self.folder.name, DIGEST: _digest(table, self.folder.name, listed)}
        sink = pa.BufferOutputStream()
        table = table.replace_schema_metadata(facts)
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue()

    def _map_column(self, shard: Path, layer: int) -> Any:
        """A layer's column of a shard, mapped. Raises DataError naming the shard if it is not what was written."""
        name, width = self.layers[layer]
        self._check(shard)
        with _open(shard) as table:
            if (found := _describe_layers(table)) != [[*each, "float16"] for each in self.layers]:
                raise DataError(f"feature shard {shard} has the layers {found}, not '{name}' of width {width}: {MEND}")
            return table.column(f"layer:{name}")

    def _check(self, shard: Path) -> None:
        """Raise DataError for a shard that is not what was written. It is read once."""
        if shard not in self._checked:
            if why := find_fault(shard):
                raise DataError(why)
            self._checked.add(shard)

    def map_shard(self, shard: Path) -> list[NDArray[np.float16]]:
        """Each layer of a shard, `(rows, width)` float16, over one map of the file, which is closed again.

        Raises DataError naming the shard if it is not what was written.
        """
        import pyarrow as pa

        self._check(shard)
        with pa.memory_map(str(shard)) as file:
            whole = file.read_buffer()
        table = pa.ipc.open_file(whole).read_all()
        if (found := _describe_layers(table)) != [[*each, "float16"] for each in self.layers]:
            raise DataError(f"feature shard {shard} has the layers {found}, not {list(self.layers)}: {MEND}")
        columns = [table.column(f"layer:{name}") for name, _ in self.layers]
        assert all(
            column.num_chunks == 1 for column in columns
        )  # as `flush` writes them: chunks joined would be a copy
        values = [column.chunk(0).flatten().to_numpy() for column in columns]
        return [each.reshape(-1, width) for each, (_, width) in zip(values, self.layers, strict=True)]

    def read(self, layer: int, spans: Sequence[Span]) -> NDArray[np.float16]:
        """`(windows, width)` float16: the windows of all spans one after another, from one mapped column.

        Raises DataError naming a shard that is not what was written.
        """
        import numpy as np

        width = self.layers[layer][1]
        out = np.empty((sum(self.rows[span].count for span in spans), width), np.float16)
        columns: dict[Path, NDArray[np.float16]] = {}
        row = 0
        for span in spans:
            at = self.rows[span]
            if at.shard not in columns:
                chunks = self._map_column(at.shard, layer).chunks
                columns[at.shard] = np.concatenate([c.flatten().to_numpy() for c in chunks]).reshape(-1, width)
            out[row : row + at.count] = columns[at.shard][at.first : at.first + at.count]
            row += at.count
        return out

    def read_rows(self, layer: int, span: Span, first: int, count: int) -> NDArray[np.float16]:
        """`(count, width)` float16: some rows of a span, copied; no other page of the shard stays in memory.

        Raises BenchError if the span has no such rows, DataError naming a shard that is not what was written.
        """
        width = self.layers[layer][1]
        at = self.rows[span]
        if first < 0 or count < 0 or first + count > at.count:
            raise BenchError(f"a span of {at.count} rows was asked for the rows {first} to {first + count}")
        column = self._map_column(at.shard, layer).slice(at.first + first, count)
        rows: NDArray[np.float16] = column.combine_chunks().flatten().to_numpy().reshape(count, width).copy()
        return rows

    def size_bytes(self) -> int:
        """Bytes of all shards on disk."""
        return sum(shard.stat().st_size for shard in list_shards(self.folder))


def sum_spent(stores: Sequence[Store], spans: Sequence[Span]) -> tuple[float, float]:
    """Seconds of audio and of time that making the features of some spans took, in this pass and in earlier ones.

    Layers that were stored together were encoded once and count once; those that were added later count again.
    """
    found = {(span, s.rows[span].spent.batch): s.rows[span].spent for s in stores for span in spans if span in s.rows}
    return sum(each.audio_s for each in found.values()), sum(each.extract_s for each in found.values())


def list_shards(folder: Path) -> list[Path]:
    """The shards in a store's folder."""
    return sorted(folder.glob("*.arrow"))


def read_about(folder: Path) -> dict[str, Any]:
    """What `about.json` says of a store: its format, its layers, and what its key is made of.

    Raises DataError if the file is damaged, of another format, or of another folder: then it, or the folder, was moved.
    """
    about = read_sealed(folder / ABOUT)
    if about.get("format") != FORMAT:
        raise DataError(f"{folder} is of the format {about.get('format')}; this version reads {FORMAT}")
    own = name_folder({name: value for name, value in about.items() if name not in ("format", "layers")})
    if own != folder.name:
        raise DataError(f"{folder / ABOUT} belongs to the store {own}, not to {folder.name}: {MEND}")
    return about


def index(folder: Path) -> dict[Span, SpanRows]:
    """Where the spans of a store lie, by its manifest; no shard is read.

    Raises DataError naming a shard or an entry that is damaged.
    """
    rows: dict[Span, SpanRows] = {}
    for shard, entry in read_manifest(folder):
        for span, stored in _place_spans(shard, entry):
            rows.setdefault(span, stored)
    return rows


def _place_spans(shard: Path, entry: Entry) -> Iterator[tuple[Span, SpanRows]]:
    first = 0
    for span, count, spent in zip(entry.spans, entry.rows, entry.spent, strict=True):
        yield span, SpanRows(shard, first, count, spent)
        first += count


def find_fault(shard: Path) -> str:
    """What is wrong with a shard: nothing, or a sentence that names it and the next step. Every byte is read, twice.

    The file is compared with the manifest before anything of it is parsed.
    """
    try:
        entry = match_entry(shard)
        with _open(shard) as table:
            facts = table.schema.metadata or {}
            if (store := facts.get(STORE, b"").decode()) != shard.parent.name:
                return f"feature shard {shard} belongs to the store '{store}', not to {shard.parent.name}: {MEND}"
            listed = facts.get(SPANS, b"").decode()
            same = listed == manifest.list_spans(entry.spans, entry.rows)
            if not same or facts.get(DIGEST, b"").decode() != _digest(table, store, listed):
                return f"feature shard {shard} does not hold what it says (its inner digest differs): {MEND}"
    except DataError as error:
        return str(error)
    return ""


def _digest(table: Any, store: str, listed: str) -> str:
    """sha256 over all that the rows of a shard mean: whose store, whose audio row by row, which layers, and their values."""
    import numpy as np

    facts = {"format": FORMAT, "store": store, "spans": listed, "layers": _describe_layers(table)}
    total = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in ("audio", "stretch"):
        for chunk in table.column(name).chunks:
            total.update("\n".join(chunk.dictionary.to_pylist()).encode())
            total.update(np.ascontiguousarray(chunk.indices.to_numpy()).data)
    for name in table.column_names:
        if name.startswith("layer:"):
            for chunk in table.column(name).chunks:
                total.update(np.ascontiguousarray(chunk.flatten().to_numpy()).data)
    return total.hexdigest()


def _describe_layers(table: Any) -> list[list[Any]]:
    """Name, width and type of each layer of a shard, in their order."""
    import pyarrow as pa

    fields = [field for field in table.schema if field.name.startswith("layer:")]
    kinds = ["float16" if field.type.value_type == pa.float16() else str(field.type.value_type) for field in fields]
    return [[field.name[6:], field.type.list_size, kind] for field, kind in zip(fields, kinds, strict=True)]


@contextmanager
def _open(shard: Path) -> Iterator[Any]:
    """A shard's table, mapped. Raises DataError naming a shard that is no Arrow file of such a table."""
    import pyarrow as pa

    try:
        yield pa.ipc.open_file(pa.memory_map(str(shard))).read_all()
    except (pa.ArrowException, OSError, KeyError, AttributeError, TypeError, UnicodeError) as error:
        raise DataError(f"feature shard {shard} is damaged ({error}): {MEND}") from error
