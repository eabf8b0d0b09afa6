"""Damage a feature store in every way that a disk or a hand can, and see that it is named.

python benchmarks/fuzz_store.py --count 500 --seed 0

Single bits are flipped at random, half of them in shards and half in the files of the manifest, and files, folders and
spans are exchanged. After each, `bench features verify` must name a file of the damaged store, and whoever reads all
features of it must be stopped by a DataError; only what is not there any more is made again. Prints a line for each kind of
damage and exits with 1 if one was not found.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ENCODERS = ("one", "other")
LAYERS = [("first", 6), ("second", 6)]


def list_facts(encoder: str) -> dict[str, Any]:
    """What the key of a store is made of."""
    return {"encoder": encoder, "weights_sha256": "0" * 64, "kind": "pooled", "window_s": None}


def make(cache: Path) -> list[Path]:
    """Stores of two encoders with the same clips, three shards each; the folders."""
    import numpy as np

    from marble_bench.features.store import Span, Spent, Store

    folders = []
    for number, encoder in enumerate(ENCODERS):
        store = Store(cache / "features", list_facts(encoder), LAYERS)
        drawn = np.random.default_rng(number)
        for shard in range(3):
            for clip in range(3):
                span = Span(f"{3 * shard + clip:064x}", "0:")
                values = [drawn.standard_normal((2, width)).astype(np.float32) for _, width in LAYERS]
                store.add(span, values, Spent(f"pass{shard}", 1.5, 0.25))
            store.flush()
        folders.append(store.folder)
    return folders


def verify(cache: Path) -> list[str]:
    """What `bench features verify` names."""
    from marble_bench.features.manage import find_faults, list_stores

    return [why for store in list_stores(cache) for _, why in find_faults(store) if why]


def read(cache: Path) -> str:
    """What happens to a run that reads everything: `refused`, `made again` for clips that are not there, or `read`."""
    from marble_bench.errors import DataError
    from marble_bench.features.store import Span, Store

    spans = [Span(f"{clip:064x}", "0:") for clip in range(9)]
    outcome = "read"
    for encoder in ENCODERS:
        try:
            store = Store(cache / "features", list_facts(encoder), LAYERS)
            there = [span for span in spans if span in store.rows]
            for layer in range(len(LAYERS)):
                store.read(layer, there)
            for span in there:
                store.read_rows(1, span, 0, 1)
        except DataError:
            return "refused"
        outcome = "made again" if len(there) < len(spans) else outcome
    return outcome


def _list_shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.arrow"))


def _find_entry(shard: Path) -> Path:
    (path,) = shard.parent.glob(f"{shard.stem}.*.json")
    return path


def _swap(one: Path, other: Path) -> None:
    aside = one.with_name("kept")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def _rewrite(shard: Path, change: Callable[[Any], Any], **entry: Any) -> None:
    """A shard whose table was changed, its metadata kept, and a manifest whose sha256 is that of the new file."""
    import pyarrow as pa

    from marble_bench.features.manifest import compute_sha256, read_entry

    table = pa.ipc.open_file(shard.read_bytes()).read_all()
    changed = change(table)
    with pa.ipc.new_file(str(shard), changed.schema) as writer:
        writer.write_table(changed)
    path = _find_entry(shard)
    old = read_entry(path)
    new = replace(old, sha256=compute_sha256(shard), size_bytes=shard.stat().st_size, **entry)
    path.unlink()
    (shard.parent / new.name).write_bytes(new.seal_content())


def _reverse_spans(table: Any) -> Any:
    spans = json.loads(table.schema.metadata[b"spans"])[::-1]
    return table.replace_schema_metadata({**table.schema.metadata, b"spans": json.dumps(spans).encode()})


def _reverse_audio(table: Any) -> Any:
    import pyarrow as pa

    rows = pa.array(list(reversed(range(len(table)))))
    return table.set_column(0, "audio", table.column("audio").take(rows))


def _exchange_layers(table: Any) -> Any:
    names = table.column_names
    first, second = (table.column(name) for name in names[2:])
    return table.set_column(2, names[2], second).set_column(3, names[3], first)


def _rename_layers(table: Any) -> Any:
    return table.rename_columns([*table.column_names[:2], *table.column_names[:1:-1]])


def _change_value(table: Any) -> Any:
    import numpy as np
    import pyarrow as pa

    flat = table.column(2).combine_chunks().flatten().to_numpy().copy()
    flat[7] += np.float16(1)
    return table.set_column(2, table.column_names[2], pa.FixedSizeListArray.from_arrays(pa.array(flat), LAYERS[0][1]))


def _exchange_with_entry(one: Path, other: Path) -> None:
    """Exchange two shards of one name together with their entries."""
    entries = _find_entry(one), _find_entry(other)
    _swap(one, other)
    contents = entries[0].read_bytes(), entries[1].read_bytes()
    for entry in entries:
        entry.unlink()
    (one.parent / entries[1].name).write_bytes(contents[1])
    (other.parent / entries[0].name).write_bytes(contents[0])


def _truncate(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _reverse_with_manifest(folders: list[Path]) -> None:
    """Spans turned round in shard, manifest and names of files: all but the inner digest agrees."""
    from marble_bench.features.manifest import read_entry

    shard = _list_shards(folders[0])[0]
    entry = read_entry(_find_entry(shard))
    turned = replace(entry, spans=entry.spans[::-1])
    place = shard.with_name(turned.shard)
    _find_entry(shard).rename(place.with_name(f"{place.stem}.{entry.sha256[:16]}.json"))
    shard.rename(place)
    (path,) = place.parent.glob(f"{place.stem}.*.json")
    path.write_bytes(turned.seal_content())
    _rewrite(place, _reverse_spans)


EXCHANGES: dict[str, Callable[[list[Path]], Any]] = {
    "two shards of a store exchanged": lambda f: _swap(*_list_shards(f[0])[:2]),
    "a shard renamed to a name of its own": lambda f: _list_shards(f[0])[0].rename(f[0] / f"{'0' * 16}.arrow"),
    "a shard copied over another's name": lambda f: shutil.copy(_list_shards(f[0])[0], _list_shards(f[0])[1]),
    "a shard of another encoder under the same name": lambda f: shutil.copy(
        _list_shards(f[1])[0], _list_shards(f[0])[0]
    ),
    "shards of two encoders exchanged with their entries": lambda f: _exchange_with_entry(
        _list_shards(f[0])[0], _list_shards(f[1])[0]
    ),
    "an entry copied from another encoder": lambda f: shutil.copy(_find_entry(_list_shards(f[1])[0]), f[0]),
    "two entries exchanged": lambda f: _swap(*(_find_entry(shard) for shard in _list_shards(f[0])[:2])),
    "two about.json exchanged": lambda f: _swap(f[0] / "about.json", f[1] / "about.json"),
    "two folders exchanged": lambda f: _swap(*f),
    "a folder renamed": lambda f: f[0].rename(f[0].with_name("one-000000000000")),
    "spans turned round in a shard": lambda f: _rewrite(_list_shards(f[0])[0], _reverse_spans),
    "spans turned round in shard and manifest": _reverse_with_manifest,
    "audio turned round row by row": lambda f: _rewrite(_list_shards(f[0])[0], _reverse_audio),
    "the values of two layers exchanged": lambda f: _rewrite(_list_shards(f[0])[0], _exchange_layers),
    "the names of two layers exchanged": lambda f: _rewrite(_list_shards(f[0])[0], _rename_layers),
    "a value changed, sha256 made again": lambda f: _rewrite(_list_shards(f[0])[0], _change_value),
    "a shard cut short": lambda f: _truncate(_list_shards(f[0])[0], 300),
    "a shard of no bytes": lambda f: _truncate(_list_shards(f[0])[0], 0),
    "a shard deleted": lambda f: _list_shards(f[0])[0].unlink(),
    "an entry cut short": lambda f: _truncate(_find_entry(_list_shards(f[0])[0]), 40),
    "an entry deleted": lambda f: _find_entry(_list_shards(f[0])[0]).unlink(),
    "about.json cut short": lambda f: _truncate(f[0] / "about.json", 40),
}
MADE_AGAIN = ("a shard deleted", "a folder renamed")  # nothing wrong can be read: the run makes what is not there


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file; a second call turns it back."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def flip_bits(count: int, seed: int) -> dict[str, list[str]]:
    """Flip single bits; by kind of file the flips that were not named, or that did not stop a run."""
    drawn, missed = random.Random(seed), {"a bit of a shard": list[str](), "a bit of the manifest": list[str]()}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        folders = make(cache)
        assert not verify(cache)
        assert read(cache) == "read"
        files = {
            "a bit of a shard": [path for each in folders for path in _list_shards(each)],
            "a bit of the manifest": [path for each in folders for path in sorted(each.glob("*.json"))],
        }
        for number in range(count):
            kind = list(files)[number % 2]
            path = drawn.choice(files[kind])
            bit = drawn.randrange(8 * path.stat().st_size)
            flip(path, bit)
            if not verify(cache) or read(cache) != "refused":
                missed[kind].append(f"bit {bit} of {path.name}")
            flip(path, bit)
        assert not verify(cache)
    return missed


def try_exchanges() -> dict[str, str]:
    """Every exchange, with what was wrong with what was found; nothing if all was named."""
    found = {}
    for name, damage in EXCHANGES.items():
        with tempfile.TemporaryDirectory() as folder:
            folders = make(Path(folder))
            damage(folders)
            named, outcome = verify(Path(folder)), read(Path(folder))
            expected = "made again" if name in MADE_AGAIN else "refused"
            found[name] = "" if named and outcome == expected else f"verify named {len(named)}; a run: {outcome}"
    return found


def main() -> int:
    """Parse, damage, print; 1 if anything was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="bits to flip")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    missed, wrong = flip_bits(asked.count, asked.seed), try_exchanges()
    for number, (kind, where) in enumerate(missed.items()):
        flips = asked.count // 2 + (asked.count % 2 if number == 0 else 0)
        print(f"{kind:55} {flips - len(where)} of {flips} found")
        print("".join(f"  missed: {each}\n" for each in where), end="")
    for name, what in wrong.items():
        print(f"{name:55} {what or 'found'}")
    return 1 if any(missed.values()) or any(wrong.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
