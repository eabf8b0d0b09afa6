"""Files on disk: the one way to write one, whole or not at all, and the one way to look for them below a folder."""

from __future__ import annotations

import os
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from marble_bench.errors import DataError


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


MOST_VISITS = 8  # of one folder that several links lead to


def walk(root: Path, suffix: str = "") -> list[Path]:
    """Every file of a folder and of those in it whose name ends with `suffix`, sorted; links to folders are followed.

    A link back to a folder that it lies in is not followed again, and a folder that many links lead to is read a few
    times at most, so that links in a circle come to an end. Raises DataError for a folder that cannot be read.
    """
    return sorted(_walk(root, suffix, (), Counter()))


def _walk(
    folder: Path, suffix: str, above: tuple[tuple[int, int], ...], visits: Counter[tuple[int, int]]
) -> Iterator[Path]:
    try:
        found = folder.stat()
        here = (found.st_dev, found.st_ino)
        visits[here] += 1
        if here in above or visits[here] > MOST_VISITS:
            return
        with os.scandir(folder) as entries:
            names = [(folder / entry.name, entry) for entry in entries]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read ({error.strerror})") from error
    for path, entry in names:
        # a link is asked through Path, which takes one that leads nowhere, or to itself, for no file
        kind = path if entry.is_symlink() else entry
        if kind.is_dir():
            yield from _walk(path, suffix, (*above, here), visits)
        elif path.name.endswith(suffix) and kind.is_file():
            yield path
