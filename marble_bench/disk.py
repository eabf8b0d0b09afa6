"""The one way to write a file: whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any


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
