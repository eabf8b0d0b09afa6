"""What is in the feature cache: listed, verified, pruned."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marble_bench.errors import BenchError, DataError
from marble_bench.features.store import ABOUT, FORMAT, fault, index, shards, sweep


@dataclass(frozen=True)
class Held:
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


def held(cache: Path) -> list[Held]:
    """Every store under a cache root, by name. Folders that are no stores are left out."""
    root = cache / "features"
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [_held(folder) for folder in folders if (folder / ABOUT).is_file()]


def _held(folder: Path) -> Held:
    about = folder / ABOUT
    facts: dict[str, Any] = {}
    problem, spans, rows = "", 0, 0
    try:
        facts = json.loads(about.read_text())
        if facts.get("format") == FORMAT:
            found = index(folder)
            spans, rows = len(found), sum(each.count for each in found.values())
        else:
            problem = f"{folder} is of the format {facts.get('format')}; this version reads {FORMAT}"
    except (OSError, ValueError) as error:
        problem = f"{about} cannot be read: {error}"
    except DataError as error:
        problem = str(error)
    sizes = [shard.stat().st_size for shard in shards(folder)]
    return Held(folder, facts, sum(sizes), len(sizes), spans, rows, about.stat().st_mtime, problem)


def faults(store: Held) -> Iterator[tuple[Path, str]]:
    """Each shard of a store with what is wrong with it, or an empty string. Every byte is read."""
    for shard in shards(store.folder):
        yield shard, fault(shard)


def of_other_formats(cache: Path) -> str:
    """What is said of stores that other versions of the suite wrote, which are not read; empty if there are none."""
    root, found = cache / "features", []
    for folder in root.iterdir() if root.is_dir() else ():
        try:
            facts = json.loads((folder / ABOUT).read_text())
        except (OSError, ValueError):
            continue  # no store, or a damaged one, which `verify` names
        if isinstance(facts, dict) and facts.get("format") != FORMAT:
            found.append(folder)
    if not found:
        return ""
    size_mb = sum(shard.stat().st_size for folder in found for shard in shards(folder)) / 1e6
    return (
        f"{len(found)} stores of another version in {root} ({size_mb:,.1f} MB) are not used: "
        "bench features prune --damaged removes them"
    )


@dataclass(frozen=True)
class Removal:
    """What `prune` would take away: a path (a store's folder, or one shard), its bytes, and why."""

    path: Path
    size_bytes: int
    why: str


def removals(
    stores: Sequence[Held], encoders: Sequence[str], unused_s: float | None, damaged: bool, now_s: float
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
        elif store.facts.get("format") != FORMAT:
            chosen.append(Removal(store.folder, store.size_bytes, store.problem))
        else:
            chosen += [Removal(shard, shard.stat().st_size, why) for shard, why in faults(store) if why]
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
                gone += sweep(each.path.parent)
        except OSError as error:
            raise BenchError(f"{each.path} cannot be removed: {error.strerror}") from error
        gone += each.size_bytes
    return gone
