"""The tensors of a maker's checkpoint, taken out of the file of `torch.save` or the released zip that holds it.

Nothing is unpickled but where tensors lie (`torch_file`). Exactly the wanted tensors must be there: what a maker's
own code loads with `strict=False`, and so would leave at random values in silence, is an error here.
"""

from __future__ import annotations

import shutil
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench.encoders.tensors import read_exactly
from marble_bench.encoders.torch_file import Stored, TorchFile, write_safetensors
from marble_bench.errors import DataError, listing

if TYPE_CHECKING:
    import torch

Shapes: TypeAlias = "Mapping[str, tuple[int, ...]]"
LARGEST = 1 << 31  # bytes of a checkpoint that are unpacked at most


def name_tensors(found: Any) -> dict[str, Stored]:
    """The tensors among the values of a dict, by name; nothing of anything else."""
    if not isinstance(found, dict):
        return {}
    return {name: value for name, value in found.items() if isinstance(name, str) and isinstance(value, Stored)}


def keep_exactly(file: TorchFile, found: Mapping[str, Stored], shapes: Shapes, path: Path, *, of: str) -> None:
    """Write the tensors of `shapes` into a safetensors file. `of` names whose they are.

    Raises DataError unless exactly those are found, each of its shape.
    """
    missing = [name for name in shapes if name not in found]
    unknown = [name for name in found if name not in shapes]
    other = [
        f"{name} {found[name].shape}, not {shape}"
        for name, shape in shapes.items()
        if name in found and found[name].shape != shape
    ]
    named = (("missing", missing), ("unknown", unknown), ("of another shape", other))
    if problems := [f"{what}: {listing(names, 3)}" for what, names in named if names]:
        raise DataError(f"{file.path} does not hold the tensors of {of}; {'; '.join(problems)}")
    write_safetensors(path, {name: (file, found[name]) for name in shapes})


def read_float(path: Path, shapes: Shapes, device: str, *, of: str) -> dict[str, torch.Tensor]:
    """The tensors of `shapes` as float32, on `device`. Raises DataError unless exactly those are in the file."""
    return {name: tensor.float() for name, tensor in read_exactly(path, shapes, device, of=of).items()}


def find_checkpoint(place: Path, name: str, scratch: Path) -> tuple[Path, str]:
    """The checkpoint called `name` of a folder or a released zip, and the path at which it lay.

    A zip is unpacked into `scratch`. Any other file is taken for the checkpoint itself. Raises DataError where a folder
    does not hold it.
    """
    if place.is_dir():
        if not (found := sorted(place.rglob(name))):
            raise DataError(f"{place} has no {name}; give the folder that the released zip unpacks to")
        return found[0], str(found[0].absolute())
    lay = str(place.absolute())
    if not zipfile.is_zipfile(place):
        return place, lay
    try:
        with zipfile.ZipFile(place) as archive:
            members = [info for info in archive.infolist() if info.filename.rpartition("/")[2] == name]
            if not members:
                return place, lay  # torch.save writes a zip too
            if (size := members[0].file_size) > LARGEST:
                raise DataError(f"{place} holds {name} of {size:,} bytes; at most {LARGEST:,} are unpacked")
            with archive.open(members[0]) as inside, (scratch / name).open("wb") as out:
                shutil.copyfileobj(inside, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise DataError(f"{place} is damaged: {error}; get it again") from error
    return scratch / name, f"{lay}/{members[0].filename}"
