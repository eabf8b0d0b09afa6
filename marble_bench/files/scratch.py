"""Folders for what one process needs while it works: gone when it ends, and at the latest when the next one begins.

Each is in `<cache>/scratch` and has a lock that its process holds. However the process ends, the system lets go of the
lock. So a folder whose lock is free belongs to nobody, and whoever makes a new folder removes it. A cache may be shared by
machines whose locks do not reach each other, so only folders of this machine are looked at.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench.errors import BenchError
from marble_bench.files.atomic import FULL, is_stale

if TYPE_CHECKING:
    from filelock import BaseFileLock

OLD_S = 7 * 86400.0  # a folder without a lock is of an earlier version; it is left alone for so long


@contextmanager
def open_scratch_folder(cache: Path, say: Callable[[str], None]) -> Iterator[Path]:
    """A new folder that is gone at the end. What killed processes left is removed first.

    Where the cache cannot be written, the folder is in the system's place for temporary files, and `say` is told. Raises
    BenchError if a disk fills up while it is in use.
    """
    from filelock import FileLock

    root = _find_root(cache, say)
    name = f"{_name_machine()}-{uuid.uuid4().hex[:8]}"
    folder, owner = root / name, FileLock(root / f"{name}.lock")
    try:
        guard = FileLock(root / "lock")  # held while folders are made and removed: none is seen between its two files
        with guard:
            _sweep_leftovers(root)
            owner.acquire()
            folder.mkdir()
        try:
            yield folder
        finally:
            with guard:
                _remove(folder, owner)
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise BenchError(
            f"{root} has no room left ({error.strerror}): make room, or give another --cache-dir"
        ) from error


def _find_root(cache: Path, say: Callable[[str], None]) -> Path:
    root = cache / "scratch"
    try:
        root.mkdir(parents=True, exist_ok=True)
        if os.access(root, os.W_OK):
            return root
    except OSError as error:
        if error.errno in FULL:
            raise
    user = os.getuid() if hasattr(os, "getuid") else 0
    other = Path(tempfile.gettempdir()) / f"marble-bench-scratch-{user}"
    other.mkdir(mode=0o700, exist_ok=True)
    say(f"{root} cannot be written: temporary files are kept in {other}")
    return other


def _name_machine() -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", platform.node())[:40] or "machine"


def _sweep_leftovers(root: Path) -> None:
    """Remove the folders of processes of this machine that are no more."""
    from filelock import FileLock, Timeout

    for path in root.glob(f"{_name_machine()}-*.lock"):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue  # its process is at work
        _remove(path.with_suffix(""), lock)
    for path in root.iterdir():
        if path.is_dir() and not path.with_name(f"{path.name}.lock").exists() and is_stale(path, OLD_S):
            shutil.rmtree(path, ignore_errors=True)


def _remove(folder: Path, owner: BaseFileLock) -> None:
    """Remove a folder, then its lock; what cannot be removed now is removed by the next one."""
    shutil.rmtree(folder, ignore_errors=True)
    owner.release()
    if not folder.exists():
        Path(owner.lock_file).unlink(missing_ok=True)
