"""What is in the feature cache: listed, verified, pruned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marble_bench.errors import BenchError, DataError, counted
from marble_bench.features import fingerprint
from marble_bench.features.manifest import ABOUT, MEND, SEAL, find_shard, list_entry_paths, read_entry, read_sealed
from marble_bench.features.store import FORMAT, find_fault, index, list_shards, read_about
from marble_bench.files.atomic import sweep_leftovers


@dataclass(frozen=True)
class StoredFeatures:
    """One store. facts: what its key is made of. used_s: when it was last opened, in seconds since 1970. problem: why it
    cannot be read; rows and spans are then 0."""

    folder: Path
    facts: dict[str, Any]
    size_bytes: int
    shards: int
    spans: int
    rows: int
    used_s: float
    problem: str

    @property
    def key(self) -> str:
        """The folder's name: `<encoder>-<12 hex>`."""
        return self.folder.name

    @property
    def encoder(self) -> str:
        """Whose features these are."""
        return str(self.facts.get("encoder", self.key.rpartition("-")[0]))


def list_stores(cache: Path) -> list[StoredFeatures]:
    """Every store under a cache root, by name. Folders without features are left out."""
    root = cache / "features"
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [_describe_store(folder) for folder in folders if (folder / ABOUT).is_file() or list_shards(folder)]


def _describe_store(folder: Path) -> StoredFeatures:
    about = folder / ABOUT
    facts: dict[str, Any] = {}
    problem, spans, rows = "", 0, 0
    try:
        facts = _read_claimed(folder)
        problem = _find_other_format(folder, facts)
        if not problem:
            facts = read_about(folder)
            found = index(folder)
            spans, rows = len(found), sum(each.count for each in found.values())
    except DataError as error:
        problem = str(error)
    sizes = [shard.stat().st_size for shard in list_shards(folder)]
    used_s = (about if about.is_file() else folder).stat().st_mtime
    return StoredFeatures(folder, facts, sum(sizes), len(sizes), spans, rows, used_s, problem)


def _read_claimed(folder: Path) -> dict[str, Any]:
    """What `about.json` says, not checked; nothing if it cannot be read at all."""
    try:
        facts = json.loads((folder / ABOUT).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _find_other_format(folder: Path, claimed: dict[str, Any]) -> str:
    """That a store is of another format; nothing if it is not, or if only its `about.json` is damaged.

    claimed: what `about.json` says.
    """
    found = claimed.get("format", FORMAT)
    if found == FORMAT or (SEAL in claimed and _explain_failure(read_sealed, folder / ABOUT)):
        return ""
    return f"{folder} is of the format {found}; this version reads {FORMAT}"


def find_faults(store: StoredFeatures) -> Iterator[tuple[Path, str]]:
    """Each file of a store with what is wrong with it, or an empty string; every byte of a shard is read, twice.

    The path is what to remove: `about.json` or the fingerprint, which the next run writes again; an entry; a shard; or the
    whole folder where it is of another format.
    """
    folder = store.folder
    if other := _find_other_format(folder, _read_claimed(folder)):
        yield folder, other
        return
    yield folder / ABOUT, _explain_failure(read_about, folder)
    if (folder / fingerprint.FILE).exists():
        yield folder / fingerprint.FILE, _explain_failure(fingerprint.read, folder)
    there, named = set(list_shards(folder)), set()
    for path in list_entry_paths(folder):
        shard = find_shard(path)
        why = _explain_failure(read_entry, path)
        if why or shard not in there:
            gone = f"feature shard {shard} is missing, although {path.name} names it: {MEND}"
            yield path, why or gone
        if not why:
            named.add(shard)
    for shard in sorted(there):
        yield shard, find_fault(shard) if shard in named else _explain_failure(_require_entry, shard)


def _require_entry(shard: Path) -> None:
    raise DataError(f"feature shard {shard} is not in the manifest of its store: {MEND}")


def _explain_failure(check: Callable[[Path], Any], path: Path) -> str:
    try:
        check(path)
    except DataError as error:
        return str(error)
    return ""


def describe_other_formats(cache: Path) -> str:
    """What is said of stores that other versions of the suite wrote, which are not read; empty if there are none."""
    root = cache / "features"
    folders = root.iterdir() if root.is_dir() else ()
    found = [
        folder for folder in folders if _find_other_format(folder, _read_claimed(folder))
    ]  # `verify` names damaged ones
    if not found:
        return ""
    size_mb = sum(shard.stat().st_size for folder in found for shard in list_shards(folder)) / 1e6
    are, them = ("is", "it") if len(found) == 1 else ("are", "them")
    return (
        f"{counted(len(found), 'store')} of another version in {root} ({size_mb:,.1f} MB) {are} not used: "
        f"bench features prune --damaged removes {them}"
    )


@dataclass(frozen=True)
class Removal:
    """What `prune` would take away: a path (a store's folder, or one shard), its bytes, and why."""

    path: Path
    size_bytes: int
    why: str


def plan_removals(
    stores: Sequence[StoredFeatures], encoders: Sequence[str], unused_s: float | None, damaged: bool, now_s: float
) -> list[Removal]:
    """Stores of these encoders and those not used for so long; with `damaged`, single shards and stores of other formats.

    Several conditions narrow each other, but for `damaged`, which asks for its own things among them.
    """
    chosen = []
    for store in stores:
        if encoders and store.encoder not in encoders:
            continue
        days = (now_s - store.used_s) / 86400
        if unused_s is not None and now_s - store.used_s < unused_s:
            continue
        if not damaged:
            chosen.append(Removal(store.folder, store.size_bytes, f"last used {days:.0f} days ago"))
        else:
            for path, why in find_faults(store):
                if why and path.exists():
                    size = store.size_bytes if path == store.folder else path.stat().st_size
                    chosen.append(Removal(path, size, why))
    return chosen


def remove(what: Sequence[Removal]) -> int:
    """Remove it, and what killed writers left in the stores touched. Returns the bytes that are free now."""
    gone = 0
    for each in what:
        try:
            if each.path.is_dir():
                shutil.rmtree(each.path)
            else:
                each.path.unlink()
                gone += sweep_leftovers(each.path.parent)
        except OSError as error:
            raise BenchError(f"{each.path} cannot be removed: {error.strerror}") from error
        gone += each.size_bytes
    return gone
