"""The one way to write a file: whole or not at all; and what killed processes leave on a disk."""

from __future__ import annotations

import errno
import os
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)  # errors of a place that nothing can be written to
STALE_S = 3600.0  # a temporary file of this age belongs to a writer that was killed


def write_whole(path: Path, content: Any) -> None:
    """Write `content` (bytes or a buffer) under a temporary name, sync, rename. Raises OSError; leaves nothing half."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()  # still there only if something above failed


def left_behind(path: Path) -> bool:
    """Whether a temporary file is so old that its writer must have been killed."""
    try:
        return time.time() - path.stat().st_mtime > STALE_S
    except FileNotFoundError:
        return False  # renamed or removed this moment
