"""A safetensors file by what it holds: one digest for the same tensors, whatever file holds them.

The format (github.com/huggingface/safetensors) is the header's length in eight bytes, a JSON header with each tensor's type,
shape and place, then the tensors' bytes. The header's order, its blanks and its metadata differ between writers, and so does
the digest of the whole file; the digest of the tensors does not.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

from marble_bench.errors import DataError

LARGEST_HEADER = 100_000_000  # bytes; the format's own limit
PART = 1 << 22  # bytes that are read at once
LFS = b"version https://git-lfs.github.com/spec/"  # how a pointer begins that Git LFS leaves in place of a file
WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip


def compute_tensors_sha256(path: Path) -> str:
    """sha256 of the tensors of a safetensors file: names in sorted order, each with its type, shape and bytes.

    Empty for a file of another format. Raises DataError for a safetensors file whose header does not fit its size.
    """
    with path.open("rb") as file:
        begin = file.read(9)
        if len(begin) < 9 or begin[8:] != b"{":
            return ""
        size, (length,) = path.stat().st_size, struct.unpack("<Q", begin[:8])
        file.seek(8)
        entries = _read_entries(path, file.read(min(length, LARGEST_HEADER)), length, size)
        total = hashlib.sha256()
        for name, (kind, shape, start, end) in sorted(entries.items()):
            total.update(json.dumps([name, kind, shape], separators=(",", ":")).encode() + b"\n")
            file.seek(8 + length + start)
            left = end - start
            while left:
                part = file.read(min(PART, left))
                if not part:
                    raise DataError(f"{path} ended while it was read; get it again")
                total.update(part)
                left -= len(part)
    return total.hexdigest()


def is_pointer(path: Path) -> bool:
    """Whether a file is what Git LFS leaves in place of one that was not pulled."""
    with path.open("rb") as file:
        return file.read(len(LFS)) == LFS


def why_unreadable(place: Path) -> str:
    """What is wrong with the files of tensors of a folder, or with one file, as far as their first bytes tell; else empty.

    Found are pointers of Git LFS, of any name of weights, and `.safetensors` that are damaged, cut short or another format.
    """
    files = [place] if place.is_file() else sorted(each for each in place.glob("*") if each.suffix in WEIGHTS)
    for path in files:
        if is_pointer(path):
            return f"{path} is a Git LFS pointer and not the weights: run git lfs pull in {path.parent}"
        if path.suffix != ".safetensors":
            continue
        try:
            known = compute_tensors_sha256(path)
        except DataError:
            return f"{path} is damaged or cut short: download it again"
        if not known:
            return f"{path} is no safetensors file, or is damaged: download it again"
    return ""


def _read_entries(path: Path, header: bytes, length: int, size: int) -> dict[str, tuple[str, list[int], int, int]]:
    """Each tensor's type, shape and place behind the header; every place lies in the file and fits its shape."""
    if length > LARGEST_HEADER or 8 + length > size:
        raise DataError(f"{path} is damaged: its header is said to have {length:,} bytes; get it again")
    try:
        found = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: its header cannot be read ({error}); get it again") from error
    entries = {}
    for name, entry in found.items():
        if name == "__metadata__":
            continue
        place = _place(entry, size - 8 - length)
        if place is None:
            raise DataError(f"{path} is damaged: its header has {name!r} as {str(entry)[:100]}; get it again")
        entries[name] = place
    return entries


def _place(entry: Any, room: int) -> tuple[str, list[int], int, int] | None:
    """(type, shape, first byte, end) of one entry of a header; None if it is none, or leads outside of `room` bytes."""
    if not isinstance(entry, dict):
        return None
    kind, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not (isinstance(shape, list) and isinstance(offsets, list) and len(offsets) == 2 and isinstance(kind, str)):
        return None
    if not all(type(each) is int and each >= 0 for each in (*shape, *offsets)):
        return None
    start, end = offsets
    fits = kind not in BITS or (end - start) * 8 == math.prod(shape) * BITS[kind]
    return (kind, shape, start, end) if start <= end <= room and fits else None
