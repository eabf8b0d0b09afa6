"""The manifest of a feature store: one small JSON file beside each shard, and `about.json` for the whole folder.

An entry names the store and the shard, the sha256 of the whole shard file, its spans with their counts of rows, and what it
took to make them. It is called `<shard>.<first 16 hex of that sha256>.json` and is written before the shard. So a shard that
exists has an entry, and processes that write the same shard at once never take each other's entry away. An entry whose
shard is not there tells that the shard was deleted, or that its writer was killed.

Every file of the manifest is sealed: it holds a digest of its own content and has one form only, so that any changed bit
shows.
"""

from __future__ import annotations

import glob
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marble_bench.errors import DataError

ABOUT = "about.json"
SEAL = "seal"
BLOCK = 1 << 20
MEND = "bench features prune --damaged removes it, and the same command makes it again"


@dataclass(frozen=True)
class Span:
    """What was decoded of an audio file: its content's sha256, and the segment in seconds: `"0:"` is all of it,
    `"3:1.5"` from 3 s on for 1.5 s, `"0:<30"` all of it but at most 30 s."""

    audio: str
    segment: str


@dataclass(frozen=True)
class Spent:
    """What it took to encode a span. batch: the shard of a pass in which it was encoded, the same for all layers that
    were stored together. extract_s: its share of the shard's seconds."""

    batch: str = ""
    audio_s: float = 0.0
    extract_s: float = 0.0


@dataclass(frozen=True)
class Entry:
    """What the manifest says of a shard. store: the folder's name. sha256: of the whole file. rows, spent: of each span."""

    store: str
    sha256: str
    size_bytes: int
    spans: tuple[Span, ...]
    rows: tuple[int, ...]
    spent: tuple[Spent, ...]

    @property
    def shard(self) -> str:
        """The shard's name, which its spans decide."""
        return f"{hashlib.sha256(list_spans(self.spans, self.rows).encode()).hexdigest()[:16]}.arrow"

    @property
    def name(self) -> str:
        """The name of the entry's own file."""
        return f"{self.shard.removesuffix('.arrow')}.{self.sha256[:16]}.json"

    def seal_content(self) -> bytes:
        """The content of its file."""
        spans = [[span.audio, span.segment, rows] for span, rows in zip(self.spans, self.rows, strict=True)]
        spent = [[each.batch, each.audio_s, each.extract_s] for each in self.spent]
        facts = {"store": self.store, "sha256": self.sha256, "bytes": self.size_bytes, "spans": spans, "spent": spent}
        return seal(facts)


def list_spans(spans: Sequence[Span], rows: Sequence[int]) -> str:
    """The spans of a shard with their counts of rows, as its metadata has them."""
    return json.dumps([[span.audio, span.segment, count] for span, count in zip(spans, rows, strict=True)])


def seal(facts: dict[str, Any]) -> bytes:
    """Facts as JSON in its one form, with the digest of that form without the digest."""
    return _serialize({**facts, SEAL: hashlib.sha256(_serialize(facts)).hexdigest()})


def _serialize(facts: dict[str, Any]) -> bytes:
    return (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode()


def read_sealed(path: Path) -> dict[str, Any]:
    """The facts of a sealed file. Raises DataError naming the file if they are not what was written."""
    try:
        content = path.read_bytes()
        facts = json.loads(content)
        del facts[SEAL]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({type(error).__name__}: {error}): {MEND}") from error
    if content != seal(facts):
        raise DataError(f"{path} is not what was written (its digest differs): {MEND}")
    return dict(facts)


def read_entry(path: Path) -> Entry:
    """An entry of the manifest. Raises DataError naming the file if it is damaged, or of another store or shard."""
    facts = read_sealed(path)
    try:
        entry = Entry(
            store=facts["store"],
            sha256=facts["sha256"],
            size_bytes=facts["bytes"],
            spans=tuple(Span(audio, segment) for audio, segment, _ in facts["spans"]),
            rows=tuple(rows for _, _, rows in facts["spans"]),
            spent=tuple(Spent(*each) for each in facts["spent"]),
        )
        name = entry.name
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path} is no entry of a manifest ({type(error).__name__}: {error}): {MEND}") from error
    if entry.store != path.parent.name:
        raise DataError(f"{path} belongs to the store {entry.store}, not to {path.parent.name}: {MEND}")
    if name != path.name:
        raise DataError(f"{path} is the entry of another shard, {entry.shard}: {MEND}")
    return entry


def list_entry_paths(folder: Path) -> list[Path]:
    """The files of all entries of a store."""
    return sorted(folder.glob("*.*.json"))


def find_shard(path: Path) -> Path:
    """The shard that an entry's file is about, by its name."""
    return path.with_name(f"{path.name.split('.')[0]}.arrow")


def find_entries(shard: Path) -> list[Entry]:
    """The entries of a shard: one, or several where processes wrote it at once with other bytes.

    Raises DataError naming an entry that is damaged, or the shard if it has none.
    """
    found = [read_entry(path) for path in sorted(shard.parent.glob(f"{glob.escape(shard.stem)}.*.json"))]
    if not found:
        raise DataError(f"feature shard {shard} is not in the manifest of its store: {MEND}")
    return found


def compute_sha256(path: Path) -> str:
    """sha256 of a whole file, read in blocks. Raises OSError."""
    total, block = hashlib.sha256(), bytearray(BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            total.update(view[:count])
    return total.hexdigest()


def match_entry(shard: Path, content: Path | None = None) -> Entry:
    """The entry that has the sha256 of a shard's file. content: where the file lies, if not in its place yet.

    Raises DataError naming the shard if no entry has, or if the file cannot be read.
    """
    entries = find_entries(shard)
    try:
        digest = compute_sha256(content or shard)
    except OSError as error:
        raise DataError(f"feature shard {shard} cannot be read: {error.strerror}: {MEND}") from error
    for entry in entries:
        if entry.sha256 == digest:
            return entry
    raise DataError(f"feature shard {shard} is not what was written (its sha256 differs from the manifest's): {MEND}")


def read_manifest(folder: Path) -> Iterator[tuple[Path, Entry]]:
    """The shards of a store that are there, each with an entry; no shard is read. A shard that is missing is left out.

    Raises DataError naming a shard that is not in the manifest or of another length, or an entry that is damaged.
    """
    for shard in sorted(folder.glob("*.arrow")):
        entries = find_entries(shard)
        try:
            size = shard.stat().st_size
        except FileNotFoundError:
            continue  # taken away this moment
        fitting = [entry for entry in entries if entry.size_bytes == size]
        if not fitting:
            expected = " or ".join(f"{entry.size_bytes:,}" for entry in entries)
            raise DataError(f"feature shard {shard} has {size:,} bytes and not {expected}, as was written: {MEND}")
        yield shard, fitting[0]
