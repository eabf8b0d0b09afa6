"""Opens a stranger's tar in bounded memory, whatever its headers ask for."""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from marble_bench.errors import DataError

LARGEST_READ = (
    1 << 24
)  # bytes that are read at once; a tar's header asks for the length of a name, which has a few hundred
PACKED_BY = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}  # by a file's first bytes


@contextmanager
def tar_of(archive: Path, most: int) -> Iterator[tarfile.TarFile]:
    """A tar as it is or packed by gzip, bzip2 or xz, of which no more than `most` bytes are read. DataError if it is none.

    A sparse file takes fewer bytes in the tar than it has: compare the sizes of members besides.
    """
    with archive.open("rb") as plain:
        begin = plain.read(6)
    opening: Any = next((how for start, how in PACKED_BY.items() if begin.startswith(start)), open)
    with ExitStack() as opened:
        bounded: Any = _Bounded(opened.enter_context(opening(archive, "rb")), archive, most)
        try:
            packed = opened.enter_context(tarfile.open(fileobj=bounded, mode="r:"))
        except (tarfile.ReadError, gzip.BadGzipFile, EOFError) as error:
            raise DataError(
                f"{archive} cannot be read as a tar archive: it is none, or damaged ({error}); delete it and fetch again"
            ) from error
        yield packed


class _Bounded:
    """A file to read that gives no more than `most` bytes, and no more than LARGEST_READ at once."""

    def __init__(self, file: IO[bytes], archive: Path, most: int) -> None:
        self.file, self.archive, self.most = file, archive, most

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= LARGEST_READ or self.file.tell() > self.most + LARGEST_READ:
            raise self._explain_too_much()
        return self.file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        if offset > self.most + LARGEST_READ:
            raise self._explain_too_much()
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def _explain_too_much(self) -> DataError:
        return DataError(
            f"{self.archive} holds too much: a header of gigabytes, or more than {self.most:,} bytes in all"
        )
