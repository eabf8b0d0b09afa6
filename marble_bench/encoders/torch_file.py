"""Reads what `torch.save` wrote, tensor by tensor in bounded memory, and copies it into a safetensors file.

Two formats: the legacy one (PyTorch before 1.6, not a zip, which `torch.load` can only read whole), a row of pickles and
then the storages, each behind its length; and the zip, with `data.pkl` and one uncompressed member for each storage. In
both, the pickle only says where a tensor lies; what is not a tensor, number, string or plain container is left out: no class
of a pickle is imported and nothing in it is run. A tensor whose place, shape or strides do not lie within its storage is
refused before any of its numbers is read, so that reading takes no more memory than the file has bytes, or REPEATED. All
numbers are little-endian. Written is the safetensors format 0.x
(github.com/huggingface/safetensors): the header's length, a JSON header, the tensors without gaps.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from marble_bench.errors import DataError

PART = 1 << 22  # bytes that are copied at once
REPEATED = 1 << 26  # bytes that a tensor may take which repeats fewer numbers, as `expand` makes it
LARGEST_PICKLE = 1 << 28  # bytes; it holds names and shapes, and no tensor's numbers
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the legacy format
# What PyTorch calls a storage -> safetensors' name and the bytes of a number.
_KINDS = {
    "DoubleStorage": ("F64", 8),
    "FloatStorage": ("F32", 4),
    "HalfStorage": ("F16", 2),
    "BFloat16Storage": ("BF16", 2),
    "LongStorage": ("I64", 8),
    "IntStorage": ("I32", 4),
    "ShortStorage": ("I16", 2),
    "CharStorage": ("I8", 1),
    "ByteStorage": ("U8", 1),
    "BoolStorage": ("BOOL", 1),
}


@dataclass(frozen=True)
class _Storage:
    key: str
    kind: str


@dataclass(frozen=True)
class Stored:
    """One tensor where it lies. kind: the storage's class, as PyTorch names it; stride and offset in numbers, not bytes."""

    storage: str
    kind: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> str:
        """Its type as safetensors names it."""
        return _KINDS[self.kind][0]

    @property
    def number_bytes(self) -> int:
        """Bytes of one of its numbers."""
        return _KINDS[self.kind][1]

    @property
    def size_bytes(self) -> int:
        """Bytes of all its numbers."""
        return math.prod(self.shape) * self.number_bytes

    @property
    def reach(self) -> int:
        """How many numbers of its storage lie before the end of its last one."""
        return self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)) + 1

    def problem(self, count: int) -> str:
        """Why it cannot lie in a storage of `count` numbers; empty if it can."""
        whole = (self.offset, *self.shape, *self.stride)
        if not all(type(each) is int and each >= 0 for each in whole) or len(self.shape) != len(self.stride):
            return f"a tensor has offset {self.offset}, shape {self.shape} and strides {self.stride}"
        if not (size := math.prod(self.shape)):
            return ""
        if self.reach > count:
            return f"it ends before a tensor {self.shape} does"
        if size > count and self.size_bytes > REPEATED:
            return f"a tensor {self.shape} of strides {self.stride} repeats the {count} numbers of its storage"
        return ""

    @property
    def contiguous(self) -> bool:
        """Whether its numbers lie one behind the other, the last axis fastest."""
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


@dataclass(frozen=True)
class TorchFile:
    """A checkpoint: `content` as it was saved, with a `Stored` for every tensor; `places`: storage -> byte, numbers."""

    path: Path
    content: Any
    places: Mapping[str, tuple[int, int]]


class _LeftOut:
    """Stands for an object of a class that is not read: takes whatever a pickle does to it and keeps nothing."""

    def __init__(self, *_: object) -> None: ...
    def __setstate__(self, _: object) -> None: ...
    def __setitem__(self, _: object, __: object) -> None: ...
    def append(self, _: object) -> None: ...
    def extend(self, _: object) -> None: ...


def _tensor(storage: _Storage, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Stored:
    return Stored(storage.key, storage.kind, offset, tuple(size), tuple(stride))


def _parameter(data: Any, *_: object) -> Any:
    return data


class _Reader(pickle.Unpickler):
    """Knows tensors and ordered dicts; every other class is `_LeftOut`. `kinds`: each storage that was named -> its kind."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self.kinds: dict[str, str] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module in ("torch", "torch.storage") and name in _KINDS:
            return name
        known = {
            ("torch._utils", "_rebuild_tensor"): _tensor,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("collections", "OrderedDict"): OrderedDict,
        }
        return known.get((module, name), _LeftOut)

    def persistent_load(self, found: Any) -> _Storage:
        if found[0] != "storage" or found[1] not in _KINDS or (len(found) > 5 and found[5] is not None):
            raise pickle.UnpicklingError(f"a storage of kind {found[1]!r}, which is not supported")
        key, kind = str(found[2]), found[1]
        if self.kinds.setdefault(key, kind) != kind:
            raise pickle.UnpicklingError(f"storage {key!r} is named as {self.kinds[key]} and as {kind}")
        return _Storage(key, kind)


def read_torch_file(path: Path) -> TorchFile:
    """What a file of `torch.save` holds and where; no tensor's numbers are read. DataError if it is none, or damaged."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            found = _read_zip(path, file) if zipfile.is_zipfile(file) else _read_legacy(path, file)
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        struct.error,
        EOFError,
        OSError,
        # what a damaged pickle makes the unpickler run into
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        NotImplementedError,
        RecursionError,
        StopIteration,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(f"{path} is no file of torch.save that can be read, or is damaged: {error!r}") from error
    for stored in _tensors(found.content):
        start, count = found.places.get(stored.storage, (size, 0))
        ends = start + count * stored.number_bytes
        if problem := stored.problem(count) or ("" if ends <= size else f"it ends before a tensor {stored.shape} does"):
            raise DataError(f"{path} is damaged or cut short: {problem}; get it again")
    return found


def _tensors(content: Any) -> list[Stored]:
    """Every tensor in nested dicts, lists and tuples; what is met again is not gone through again."""
    found, waiting, seen = [], [content], set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Stored):
            found.append(each)
        elif isinstance(each, dict | list | tuple) and id(each) not in seen:
            seen.add(id(each))
            waiting += each.values() if isinstance(each, dict) else each
    return found


def _read_legacy(path: Path, file: IO[bytes]) -> TorchFile:
    file.seek(0)
    if _Reader(file).load() != _MAGIC or _Reader(file).load() != _PROTOCOL:
        raise pickle.UnpicklingError("it does not begin as such a file does")
    if not _Reader(file).load()["little_endian"]:
        raise pickle.UnpicklingError("its numbers are big-endian")
    reader = _Reader(file)
    content, places = reader.load(), {}
    for key in map(str, _Reader(file).load()):
        (count,) = struct.unpack("<q", file.read(8))
        if count < 0:
            raise pickle.UnpicklingError(f"a storage of {count} numbers")
        places[key] = (file.tell(), count)
        file.seek(count * _KINDS[reader.kinds[key]][1], 1)
    return TorchFile(path, content, places)


def _read_zip(path: Path, file: IO[bytes]) -> TorchFile:
    with zipfile.ZipFile(file) as archive:
        members = {info.filename: info for info in archive.infolist()}
        pickled = next(name for name in members if name.endswith("data.pkl"))
        if (length := members[pickled].file_size) > LARGEST_PICKLE:
            raise pickle.UnpicklingError(f"its data.pkl has {length:,} bytes; {LARGEST_PICKLE:,} are read")
        with archive.open(pickled) as inside:
            content = _Reader(inside).load()
        root = pickled.removesuffix("data.pkl")
        places = {}
        for stored in _tensors(content):
            info = members[f"{root}data/{stored.storage}"]
            if info.compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile("its storages are compressed")
            file.seek(
                info.header_offset + 26
            )  # where a member's own header has the lengths of its name and extra field
            name, extra = struct.unpack("<HH", file.read(4))
            places[stored.storage] = (info.header_offset + 30 + name + extra, info.file_size // stored.number_bytes)
    return TorchFile(path, content, places)


def write_safetensors(path: Path, tensors: Mapping[str, tuple[TorchFile, Stored]]) -> None:
    """Copy tensors out of checkpoints into one safetensors file, their types and bits as they are.

    Holds `PART` bytes in memory, or one tensor if its numbers do not lie in their order.
    """
    # Larger numbers first, as safetensors itself does, so that each tensor begins at a multiple of its number's size.
    names = sorted(tensors, key=lambda name: (-tensors[name][1].number_bytes, name))
    header, at = {}, 0
    for name in names:
        stored = tensors[name][1]
        header[name] = {
            "dtype": stored.dtype,
            "shape": list(stored.shape),
            "data_offsets": [at, at + stored.size_bytes],
        }
        at += stored.size_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with ExitStack() as opened:
        paths = {source.path for source, _ in tensors.values()}
        sources = {each: opened.enter_context(each.open("rb")) for each in paths}
        out = opened.enter_context(path.open("wb"))
        out.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            source, stored = tensors[name]
            _copy(sources[source.path], source, stored, out)


def _copy(file: IO[bytes], source: TorchFile, stored: Stored, out: IO[bytes]) -> None:
    file.seek(source.places[stored.storage][0] + stored.offset * stored.number_bytes)
    if not stored.contiguous:
        out.write(_in_order(file, stored))
        return
    left = stored.size_bytes
    while left:
        part = file.read(min(PART, left))
        if not part:
            raise DataError(f"{source.path} ended while it was read")
        out.write(part)
        left -= len(part)


def _in_order(file: IO[bytes], stored: Stored) -> bytes:
    import numpy as np

    numbers = np.frombuffer(file.read((stored.reach - stored.offset) * stored.number_bytes), f"V{stored.number_bytes}")
    strides = [step * stored.number_bytes for step in stored.stride]
    return np.lib.stride_tricks.as_strided(numbers, stored.shape, strides).tobytes()
