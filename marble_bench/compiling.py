"""One process at a time while librosa's functions are compiled.

numba keeps what it compiles in a folder that all processes share, and two that write there at once can leave an index
that points to the other's code: from then on every use crashes. So the first use of librosa happens under a lock.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold this around what imports librosa or calls one of its compiled functions for the first time."""
    from filelock import FileLock

    found = importlib.util.find_spec("librosa")
    where = os.environ.get("NUMBA_CACHE_DIR", "") or str(found and found.origin)
    user = os.getuid() if hasattr(os, "getuid") else 0
    name = f"marble-bench-{user}-{hashlib.sha256(where.encode()).hexdigest()[:12]}.lock"
    with FileLock(Path(tempfile.gettempdir()) / name):
        yield
