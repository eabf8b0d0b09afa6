"""Files on disk: the one way to write one, whole or not at all; what killed processes leave; how files are looked for."""

from __future__ import annotations

import errno
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from marble_bench.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FULL = (errno.ENOSPC, errno.EDQUOT)  # errors of a disk, or a share of one, that has no room left
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)  # errors of a place that nothing can be written to
STALE_S = 3600.0  # a temporary file of this age belongs to a writer that was killed
MOST_VISITS = 8  # of one folder that several links lead to


@contextmanager
def open_atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, to write a file or a folder to: whole or not at all, it comes to `path`.

    It is synced (a file) and renamed when the block ends, and removed if anything fails, which leaves `path` as it was.
    Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if temporary.is_file():
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:  # it is there only if something above failed
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: Any) -> None:
    """Write `content` (bytes or a buffer), whole or not at all. Raises OSError."""
    with open_atomic_path(path) as temporary:
        temporary.write_bytes(content)


def is_stale(path: Path, older_than_s: float = STALE_S) -> bool:
    """Whether a temporary file or folder is so old that its writer must have been killed."""
    try:
        return time.time() - path.stat().st_mtime > older_than_s
    except FileNotFoundError:
        return False  # renamed or removed this moment


def sweep_leftovers(folder: Path, pattern: str = ".*.tmp") -> int:
    """Remove what killed writers left: old temporary files and folders. Returns the bytes of the files."""
    gone = 0
    for left in folder.glob(pattern):
        if not is_stale(left):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
            continue
        with suppress(OSError):  # another process may sweep too, and what stays does no harm
            size = left.stat().st_size
            left.unlink()
            gone += size
    return gone


def write_array(file: BinaryIO, values: NDArray[Any]) -> None:
    """Write an array's values in C order. Raises the system's own OSError, where `tofile` does not say why."""
    import numpy as np

    file.write(np.ascontiguousarray(values).reshape(-1).data)


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
