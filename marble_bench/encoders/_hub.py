"""Reads a model as the hub ships it and keeps it as one safetensors file, its configuration inside.

Read are `.safetensors`, in one file or in shards with their index, and `.bin`, `.pt`, `.pth`, `.ckpt` of PyTorch, of which
nothing is unpickled but tensors. No code of a repository is ever run.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench.download import INDEX
from marble_bench.errors import DataError, listing

if TYPE_CHECKING:
    import torch

Tensors: TypeAlias = "dict[str, torch.Tensor]"
# (configuration or {} where none is there, tensors as published) -> (configuration, tensors as the model names them)
Prepare: TypeAlias = Callable[[dict[str, Any], "Tensors"], "tuple[dict[str, Any], Tensors]"]

FILES = ("config.json", "model.safetensors|pytorch_model.bin")
COMPUTED = "relative_position_index"  # follows from the graph; some files hold it all the same
PREPROCESSOR = "preprocessor"
NEEDED = "config.json and model.safetensors or pytorch_model.bin"


def convert(prepare: Prepare, found: Path, path: Path, prefix: str = "") -> None:
    """Write what a hub's folder or a file of tensors holds as one safetensors file.

    prefix: read only tensors of it, and leave it away. Raises DataError for anything else.
    """
    save(*prepare(*read(found, prefix)), path)


def save(config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors with their configuration; the same tensors give the same file."""
    from safetensors.torch import save_file

    whole = {name: tensor.detach().contiguous().clone() for name, tensor in sorted(tensors.items())}
    save_file(whole, path, metadata={"config": json.dumps(config, sort_keys=True)})


def load(path: Path, prefix: str = "") -> tuple[dict[str, Any] | None, Tensors]:
    """The configuration (None in a file that somebody else wrote) and tensors of one safetensors file, those of a prefix."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            config = json.loads((file.metadata() or {}).get("config", "null"))
            return config, {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error


def read(place: Path, prefix: str = "") -> tuple[dict[str, Any], Tensors]:
    """Configuration and tensors of a hub's folder, or of one file of tensors, which has no configuration ({}).

    A preprocessor's configuration, if there is one, stands under PREPROCESSOR.
    """
    facts = read_json(place / "config.json") if place.is_dir() else {}
    if (place / "preprocessor_config.json").is_file():
        facts[PREPROCESSOR] = read_json(place / "preprocessor_config.json")
    tensors: Tensors = {}
    for file in _tensor_files(place, prefix):
        one = load(file, prefix)[1] if _is_safetensors(file) else unpickled(file)
        tensors |= {name.removeprefix(prefix): each for name, each in one.items() if name.startswith(prefix)}
    if not tensors:
        raise DataError(f"{place} has no tensors" + (f" named {prefix}*" if prefix else ""))
    return facts, tensors


def read_json(path: Path) -> dict[str, Any]:
    """A configuration. Raises DataError where it is missing or is none."""
    if not path.is_file():
        raise DataError(f"{path.parent} has no {path.name}; a hub's folder has {NEEDED}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path} holds {type(found).__name__} and not a configuration")
    return found


def _tensor_files(place: Path, prefix: str) -> list[Path]:
    if not place.is_dir():
        return [place]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (place / name).is_file():
            return [place / name]
    index = place / INDEX
    if not index.is_file():
        raise DataError(f"{place} has no tensors; a hub's folder has {NEEDED}")
    shard_of = read_json(index).get("weight_map", {})
    shards = sorted({file for name, file in shard_of.items() if name.startswith(prefix)})
    if missing := [file for file in shards if not (place / file).is_file()]:
        raise DataError(f"{place} lacks {listing(missing)}, which {INDEX} names")
    return [place / file for file in shards]


def _is_safetensors(path: Path) -> bool:
    """By its content, since a download need not have kept its name: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def unpickled(path: Path) -> Tensors:
    """The tensors that a file of PyTorch holds, itself or as its `state_dict`. Raises DataError for anything else."""
    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path} is no file of tensors ({why}); nothing else is unpickled") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise DataError(f"{path} holds {type(found).__name__} and not tensors by name")
    return found


@contextmanager
def empty() -> Iterator[None]:
    """Models that are made here have no memory yet and draw nothing, which for a large one saves most of a start."""
    import torch

    # some draw all the same, and nobody's numbers are to move for that
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


def fill(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], may_lack: frozenset[str] = frozenset()) -> None:
    """Put tensors into a model as float32, every one of them. Raises DataError naming what does not fit.

    may_lack: names that a file may leave out. Weight norm is found under both names that PyTorch has given it.
    """
    import torch

    wanted = model.state_dict()
    named = {
        _renamed(name, wanted): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
        if not name.endswith(COMPUTED)
    }
    named |= {name: tensor for name, tensor in wanted.items() if name.endswith(COMPUTED)}
    problems = []
    if missing := sorted(set(wanted) - set(named) - may_lack):
        problems.append(f"{len(missing)} tensors are missing: {listing(missing, 3)}")
    if unknown := sorted(set(named) - set(wanted)):
        problems.append(f"{len(unknown)} tensors are not the model's: {listing(unknown, 3)}")
    problems += [
        f"{name} has shape {tuple(named[name].shape)}, the model's is {tuple(wanted[name].shape)}"
        for name in sorted(set(named) & set(wanted))
        if named[name].shape != wanted[name].shape
    ]
    if problems:
        raise DataError(f"the weights are not of this {type(model).__name__}: {listing(problems, 3)}")
    named |= {name: torch.zeros_like(wanted[name], device="cpu") for name in set(wanted) - set(named)}
    model.load_state_dict(named, assign=True)
    left = [name for name, each in (*model.named_parameters(), *model.named_buffers()) if each.is_meta]
    assert not left, f"{left} are in no file of weights, and nothing made them"


def _renamed(name: str, wanted: Mapping[str, Any]) -> str:
    for old, new in (
        ("weight_g", "parametrizations.weight.original0"),
        ("weight_v", "parametrizations.weight.original1"),
    ):
        for one, other in ((old, new), (new, old)):
            if name.endswith(one) and name not in wanted and (changed := name.removesuffix(one) + other) in wanted:
                return changed
    return name


def frozen(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """The model on a device, with no dropout, no masking, and nothing to be trained."""
    return model.to(device).eval().requires_grad_(False)
