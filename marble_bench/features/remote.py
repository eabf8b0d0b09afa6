"""A remote store of features, anywhere fsspec reaches: `s3://bucket/features`, `file:///mnt/features`.

Before a pass, what only one side has is copied to the other; behind every shard that is written, it is put there too. So a
pass on a machine whose disk does not last goes on where the last one stopped, and other machines have the features by asking
for them. Shards and the entries of the manifest never change, so a name that is there is never written again. An entry is
copied before its shard, and a shard is compared with the manifest on either way, so that damage does not travel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marble_bench.errors import BenchError, DataError, UsageError
from marble_bench.features.manifest import Span, find_shard, list_entry_paths, match_entry, read_entry, read_sealed
from marble_bench.files.atomic import open_atomic_path

KINDS = (".arrow", ".json", "fingerprint.safetensors")  # the files of a store, by how their names end


def _order_manifest_first(name: str) -> tuple[bool, str]:
    return name.endswith(".arrow"), name


@dataclass(frozen=True)
class RemoteStore:
    """A folder of features at a URL."""

    url: str

    def __post_init__(self) -> None:
        if "://" not in self.url:
            raise UsageError(f"'{self.url}' is no place for features: give a URL such as s3://bucket/features")

    def sync(self, folder: Path) -> tuple[int, int]:
        """Copy what one side lacks of a store's folder. Returns the files fetched and sent.

        The folder is made if only the URL has it. Raises BenchError naming the URL, DataError naming a file that is not
        what was written.
        """
        with self._name_url_in_errors():
            files, root = self._open_files(folder.name)
            files.invalidate_cache()
            known = files.ls(root, detail=False) if files.exists(root) else []
            there = {name.rpartition("/")[2] for name in known if name.endswith(KINDS)}
            here = {path.name for path in folder.glob("*") if path.name.endswith(KINDS)}
            if there:
                folder.mkdir(parents=True, exist_ok=True)
            for name in sorted(there - here, key=_order_manifest_first):
                with open_atomic_path(folder / name) as temporary:
                    files.get_file(f"{root}/{name}", str(temporary))
                    self._compare(folder / name, temporary, f"delete {self.url}/{folder.name}/{name} and run again")
        for name in sorted(here - there, key=_order_manifest_first):
            self._compare(folder / name, folder / name, "nothing was sent")
            self.put(folder / name)
        return len(there - here), len(here - there)

    def spans(self, store: str) -> set[Span]:
        """What a store has here, by the entries of its manifest whose shards are here too; no shard is read."""
        with tempfile.TemporaryDirectory() as scratch, self._name_url_in_errors():
            folder = Path(scratch) / store
            folder.mkdir()
            files, root = self._open_files(store)
            files.invalidate_cache()
            known = files.ls(root, detail=False) if files.exists(root) else []
            there = {name.rpartition("/")[2] for name in known}
            for name in there:
                if name.endswith(".json"):
                    files.get_file(f"{root}/{name}", str(folder / name))
            entries = [(find_shard(path), read_entry(path)) for path in list_entry_paths(folder)]
            return {span for shard, entry in entries if shard.name in there for span in entry.spans}

    def _compare(self, place: Path, content: Path, step: str) -> None:
        """Raise DataError if a shard is not what the manifest says, or a file of the manifest not what was written.

        place: where the file belongs. content: where it lies. step: what is to be done, or was not done.
        """
        try:
            if place.suffix == ".arrow":
                match_entry(place, content)
            elif place.suffix == ".json":
                read_sealed(content)
        except DataError as error:
            raise DataError(f"{self.url}: {step}: {error}") from error

    def put(self, path: Path) -> None:
        """Send one file of a store, whole or not at all. Raises BenchError naming the URL."""
        with self._name_url_in_errors():
            files, root = self._open_files(path.parent.name)
            files.makedirs(root, exist_ok=True)
            if "file" in ((files.protocol,) if isinstance(files.protocol, str) else files.protocol):
                with open_atomic_path(Path(root) / path.name) as temporary:
                    files.put_file(str(path), str(temporary))
            else:  # object stores show an object when it is whole
                files.put_file(str(path), f"{root}/{path.name}")

    def _open_files(self, key: str) -> tuple[Any, str]:
        import fsspec

        files, root = fsspec.url_to_fs(self.url)
        return files, f"{root.rstrip('/')}/{key}"

    @contextmanager
    def _name_url_in_errors(self) -> Iterator[None]:
        try:
            yield
        except BenchError:
            raise
        except Exception as error:  # each file system has its own: botocore's have nothing in common with OSError
            raise BenchError(
                f"features cannot be stored at {self.url}: {type(error).__name__}: {error}. What is written here stays, and "
                "the same command continues from there"
            ) from error
