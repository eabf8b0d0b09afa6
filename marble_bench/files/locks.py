"""Where librosa's functions are compiled, and one process at a time.

numba keeps what it compiles in a folder that all processes share: beside librosa's own files or in the user's home, and
where neither can be written it refuses to compile at all. So it is given a folder of the cache, before it is imported. Two
processes that write there at once can leave an index that points to the other's code: from then on every use crashes. So
the first use of librosa happens under a lock.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marble_bench.files.cache import cache_root

PLACE = "NUMBA_CACHE_DIR"  # numba's own setting; one that the user made is kept


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold this around what imports librosa or calls one of its compiled functions for the first time."""
    from filelock import FileLock

    keep_compiled(cache_root())
    if not os.environ.get(PLACE):
        place = Path(tempfile.gettempdir()) / f"marble-bench-numba-{_user()}"
        print(f"the cache cannot be written: librosa's functions are compiled into {place}", file=sys.stderr)
        os.environ[PLACE] = str(place)
    name = f"marble-bench-{_user()}-{hashlib.sha256(os.environ[PLACE].encode()).hexdigest()[:12]}.lock"
    with FileLock(Path(tempfile.gettempdir()) / name):
        yield


def keep_compiled(cache: Path) -> None:
    """Have numba keep what it compiles in `<cache>/numba`, if that can be written and numba was given no folder before.

    Nothing is written yet.
    """
    place = cache / "numba"
    there = next(folder for folder in (place, *place.absolute().parents) if folder.is_dir())
    if not os.environ.get(PLACE) and os.access(there, os.W_OK | os.X_OK):
        os.environ[PLACE] = str(place)


def _user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0
