"""Reads TensorFlow 1 checkpoints, the pair of an `.index` and a `.data-00000-of-00001` file, without TensorFlow.

The index is a sorted string table of LevelDB's format (github.com/google/leveldb, doc/table_format.md) with one
protocol buffer for each tensor: its type, shape, offset and size in the data file, and checksum (`BundleEntryProto` of
TensorFlow's tensor_bundle.proto). All numbers are little-endian. Read are float32 tensors in one uncompressed, unsliced
shard; the slots of the Adam optimizer are left out. Nothing in the files is run.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from functools import cache
from typing import TYPE_CHECKING

from marble_bench.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_FLOAT32 = 1  # DT_FLOAT of TensorFlow's types.proto
# What a checkpoint's index may take at most; those that are read have a few kilobytes and names of 40 characters.
LARGEST_INDEX, LONGEST_NAME, MOST_AXES = 1 << 22, 512, 8


def read_bundle(index: bytes, data: bytes) -> dict[str, NDArray[np.float32]]:
    """The tensors of a checkpoint by name, in the shapes they were saved with, from the bytes of its two files.

    The checksums of the index and of every tensor read are compared. Raises DataError for bytes that are damaged, cut
    short, or hold something other than float32 in one shard.
    """
    if len(index) > LARGEST_INDEX:
        raise DataError(f"the checkpoint's index has {len(index):,} bytes; {LARGEST_INDEX:,} are read at most")
    try:
        entries = list(_table(index))
    except (IndexError, struct.error) as error:
        raise DataError("the checkpoint's index is damaged: it ends too early") from error
    tensors = {}
    for key, value in entries:
        name = key.decode("utf-8", "replace")
        if name and "/Adam" not in name:  # the empty name is the header
            try:
                tensors[name] = _tensor(name, value, data)
            except (IndexError, struct.error) as error:
                raise DataError(f"the checkpoint's index is damaged at tensor '{name}'") from error
    return tensors


def _table(index: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every (key, value) of a sorted string table."""
    if len(index) < _FOOTER_BYTES or struct.unpack("<Q", index[-8:])[0] != _MAGIC:
        raise DataError("this is no TensorFlow checkpoint index, or it is cut short")
    footer = index[-_FOOTER_BYTES:]
    _, at = _varint(footer, 0)  # offset and size of a block of statistics, which is not needed
    _, at = _varint(footer, at)
    for _, handle in _block(index, footer[at:]):
        yield from _block(index, handle)


def _block(index: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The (key, value) pairs of the block at a handle (offset, size). A key leaves out what it shares with the last."""
    start, at = _varint(handle, 0)
    size, _ = _varint(handle, at)
    block = index[start : start + size + 1]
    if len(block) != size + 1 or _masked_crc32c(block) != struct.unpack_from("<I", index, start + size + 1)[0]:
        raise DataError("the checkpoint's index is damaged: a checksum differs")
    if block[size]:
        raise DataError("the checkpoint's index is compressed, which is not supported")
    (restarts,) = struct.unpack_from("<I", block, size - 4)
    at, key = 0, b""
    while at < size - 4 - 4 * restarts:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        length, at = _varint(block, at)
        if shared > len(key) or shared + unshared > LONGEST_NAME or at + unshared + length > size:
            raise DataError(f"the checkpoint's index is damaged behind the entry '{key.decode('utf-8', 'replace')}'")
        key = key[:shared] + block[at : at + unshared]
        at += unshared
        yield key, block[at : at + length]
        at += length


def _tensor(name: str, entry: bytes, data: bytes) -> NDArray[np.float32]:
    import numpy as np

    numbers: dict[int, int] = {}
    shape: list[int] = []
    for field, value in _fields(entry):
        if field == 2 and isinstance(value, bytes):
            sizes = [dict(_fields(dim)) for number, dim in _fields(value) if number == 2 and isinstance(dim, bytes)]
            shape = [_axis(name, dim.get(1, 0)) for dim in sizes]
        elif isinstance(value, int):
            numbers[field] = value
        else:
            raise DataError(f"the checkpoint's tensor '{name}' is cut into slices, which is not supported")
    kind, shard, offset, size, checksum = (numbers.get(field, 0) for field in (1, 3, 4, 5, 6))
    if kind != _FLOAT32 or shard:
        raise DataError(
            f"the checkpoint's tensor '{name}' has type {kind} in shard {shard}; float32 in one is supported"
        )
    content = data[offset : offset + size]
    if (
        len(shape) > MOST_AXES
        or len(content) != size
        or size != 4 * math.prod(shape)
        or _masked_crc32c(content) != checksum
    ):
        raise DataError(f"the checkpoint's tensor '{name}' {tuple(shape)} is damaged or cut short in the data file")
    return np.frombuffer(content, "<f4").reshape(shape)


def _axis(name: str, size: int | bytes) -> int:
    if not isinstance(size, int):
        raise DataError(f"the checkpoint's index is damaged at tensor '{name}': an axis is no number")
    return size


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of a protocol buffer."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        if key & 7 == 0:
            number, at = _varint(message, at)
            yield key >> 3, number
        elif key & 7 == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise IndexError("a field ends behind its message")
            yield key >> 3, message[at : at + length]
            at += length
        elif key & 7 == 5:
            yield key >> 3, struct.unpack_from("<I", message, at)[0]
            at += 4
        else:
            raise DataError(f"the checkpoint's index is damaged: a field of wire type {key & 7}")


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, seven bits a byte, and where the next thing begins."""
    number = shift = 0
    while True:
        byte = content[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
        if shift > 63:
            raise DataError("the checkpoint's index is damaged: a number of more than 64 bits")


@cache
def _crc_table() -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


def _masked_crc32c(content: bytes) -> int:
    """CRC-32C (Castagnoli), rotated and shifted by a constant as LevelDB and TensorFlow store it."""
    table, crc = _crc_table(), 0xFFFFFFFF
    for byte in content:
        crc = table[(crc ^ byte) & 255] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
