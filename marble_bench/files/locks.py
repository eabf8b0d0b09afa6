"""Where librosa's functions are compiled, and one process at a time.

numba keeps what it compiles in a folder that all processes share: beside librosa's own files, where these can be written, so
that it is compiled once for an installation. Else it would take the user's home, and refuse to compile where that cannot be
written either. So it is then given a folder of the cache, before it is imported. Two processes that write one folder at once
can leave an index that points to the other's code: from then on every use crashes. So the first use of librosa happens under
a lock.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marble_bench.files.cache import find_cache_root

PLACE = "NUMBA_CACHE_DIR"  # numba's own setting; one that the user made is kept


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold this around what imports librosa or calls one of its compiled functions for the first time."""
    from filelock import FileLock

    keep_compiled(find_cache_root())
    place = os.environ.get(PLACE) or _find_beside_librosa()
    if not place:
        place = str(Path(tempfile.gettempdir()) / f"marble-bench-numba-{_get_user()}")
        print(f"the cache cannot be written: librosa's functions are compiled into {place}", file=sys.stderr)
        os.environ[PLACE] = place
    name = f"marble-bench-{_get_user()}-{hashlib.sha256(place.encode()).hexdigest()[:12]}.lock"
    with FileLock(Path(tempfile.gettempdir()) / name):
        yield


def keep_compiled(cache: Path) -> None:
    """Have numba keep what it compiles in `<cache>/numba`, where that can be written and librosa's own folder cannot.

    A folder that the user gave numba is kept. Nothing is written yet.
    """
    place = cache / "numba"
    there = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    if not os.environ.get(PLACE) and not _find_beside_librosa() and os.access(there, os.W_OK | os.X_OK):
        os.environ[PLACE] = str(place)


def _find_beside_librosa() -> str:
    """librosa's folder, if numba can keep there what it compiles of every file in it; else empty. librosa is not imported.

    numba takes the `__pycache__` beside each file, and looks for another place for a file where that cannot be written.
    """
    found = importlib.util.find_spec("librosa")
    root = next(iter((found and found.submodule_search_locations) or ()), "")
    places = [path.parent / "__pycache__" for path in Path(root).rglob("__init__.py")] if root else []
    able = all(os.access(place if place.is_dir() else place.parent, os.W_OK | os.X_OK) for place in places)
    return os.path.realpath(root) if places and able else ""


def _get_user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
