"""Reads a model as the hub ships it and keeps it as one safetensors file, its configuration inside.

Read are `.safetensors`, in one file or in shards with their index, and `.bin`, `.pt`, `.pth`, `.ckpt` of PyTorch, of which
nothing is unpickled but tensors. No code of a repository is ever run.
"""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench.errors import DataError, listing
from marble_bench.files.download import INDEX

if TYPE_CHECKING:
    import torch

Tensors: TypeAlias = "dict[str, torch.Tensor]"
# (configuration or {} where none is there, tensors as published) -> (configuration, tensors as the model names them)
Prepare: TypeAlias = Callable[[dict[str, Any], "Tensors"], "tuple[dict[str, Any], Tensors]"]

FILES = ("config.json", "model.safetensors|pytorch_model.bin")
REPEATED = 1 << 26  # bytes that a tensor may take which repeats fewer numbers, as `expand` makes it
COMPUTED = "relative_position_index"  # follows from the graph; some files hold it all the same
PREPROCESSOR = "preprocessor"
LARGEST_JSON = 1 << 24  # bytes; the index of Qwen2-Audio's shards has a few hundred thousand
PREPROCESSOR_FILE = "preprocessor_config.json"
NEEDED = "config.json and model.safetensors or pytorch_model.bin"


@dataclass(frozen=True)
class Maker:
    """What the makers' own files say of a model, as far as it is known: a folder that says otherwise holds another model.

    model_type: of config.json. do_normalize: of preprocessor_config.json; None where nobody has seen that file.
    """

    sample_rate_hz: int
    model_type: str = ""
    do_normalize: bool | None = None

    def check(self, config: dict[str, Any]) -> None:
        """Raise DataError naming everything that a folder's two files (as `read` gives them) say otherwise."""
        rate = self.sample_rate_hz
        told = {"model_type": self.model_type, "sample_rate": rate, "sampling_rate": rate}
        problems = differences(config, {name: value for name, value in told.items() if value}, "config.json")
        front = {"sampling_rate": rate} | ({} if self.do_normalize is None else {"do_normalize": self.do_normalize})
        problems += differences(config.get(PREPROCESSOR, {}), front, "preprocessor_config.json")
        refuse(problems)


def differences(told: Mapping[str, Any], declared: Mapping[str, Any], file: str) -> list[str]:
    """What a configuration says otherwise than is declared, a phrase each; what it does not say is no difference."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return [
        f"{file} has {name} {str(told[name])[:80]}, declared is {value}"
        for name, value in declared.items()
        if name in told and plain(told[name]) != plain(value)
    ]


def refuse(problems: Sequence[str]) -> None:
    """Raise DataError if there are any."""
    if problems:
        raise DataError(f"this is another model: {'; '.join(problems)}")


def check_small(facts: Mapping[str, Any], most: int = 1024) -> None:
    """Raise DataError for a number in a configuration that no published model has: building it would fill the memory."""
    for name, value in facts.items():
        for each in value if isinstance(value, list | tuple) else (value,):
            if isinstance(each, int | float) and not 0 <= each <= most:
                raise DataError(f"config.json has {name} {value}; at most {most} is built")


def convert(prepare: Prepare, found: Path, path: Path, prefix: str = "") -> None:
    """Write what a hub's folder or a file of tensors holds as one safetensors file.

    prefix: read only tensors of it, and leave it away. Raises DataError for anything else.
    """
    config, tensors = read(found, prefix)
    try:
        prepared = prepare(config, tensors)
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise DataError(f"{found} has a configuration or tensors of which no model can be made: {error!r}") from error
    save(*prepared, path)


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
            tensors = {name: file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error
    if config is not None and not isinstance(config, dict):
        raise DataError(f"{path} holds {type(config).__name__} in place of a configuration; convert it again")
    return config, tensors


def read(place: Path, prefix: str = "") -> tuple[dict[str, Any], Tensors]:
    """Configuration and tensors of a hub's folder, or of one file of tensors, which has no configuration ({}).

    A preprocessor's configuration, if there is one, is under PREPROCESSOR.
    """
    facts = read_json(place / "config.json") if place.is_dir() else {}
    if (place / PREPROCESSOR_FILE).is_file():
        facts[PREPROCESSOR] = read_json(place / PREPROCESSOR_FILE)
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
    if (size := path.stat().st_size) > LARGEST_JSON:
        raise DataError(f"{path} has {size:,} bytes; a configuration has fewer than {LARGEST_JSON:,}")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
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


def unpickled(path: Path, inside: str = "state_dict") -> Tensors:
    """The tensors that a file of PyTorch holds, itself or under the name `inside`. Raises DataError for anything else."""
    import torch

    if zipfile.is_zipfile(path):
        _check_stored(path)
    try:
        with warnings.catch_warnings():  # of PyTorch, which asks to report a pickle that it does not know
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(
            f"{path} holds more than tensors{_named_in(str(error))}, or is damaged; reading such a file could run code, "
            "so it was not read: get the model as safetensors, or have whoever trusts the file save its tensors alone "
            "(safetensors.torch.save_file of the state_dict)"
        ) from error
    except (
        ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, OSError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        why = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"{path} is no file of tensors, or is damaged ({why}); get it again") from error
    found = found.get(inside, found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not found or not all(isinstance(each, torch.Tensor) for each in found.values()):
        raise DataError(f"{path} holds {type(found).__name__} and not tensors by name")
    for name, each in found.items():
        if not isinstance(name, str) or each.layout != torch.strided or each.is_quantized or each.is_complex():
            raise DataError(f"{path} holds {name!r} as {each.dtype}, {each.layout}; plain tensors by name are read")
        if each.numel() * each.element_size() > max(each.untyped_storage().nbytes(), REPEATED):
            raise DataError(f"{path} holds {name} {tuple(each.shape)}, which repeats fewer numbers; save it contiguous")
    return found


def _named_in(said: str) -> str:
    """What PyTorch's unpickler names as not allowed, as a phrase; its advice to allow it is left away."""
    named = re.search(r"(?:GLOBAL|Unsupported global:) (?:GLOBAL )?([\w.]+)", said)
    return f" ({named[1]})" if named else ""


def _check_stored(path: Path) -> None:
    """Refuse a zip whose members are compressed: PyTorch compresses none, and a small file could fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [info.filename for info in archive.infolist() if info.compress_type != zipfile.ZIP_STORED]
            size = sum(info.file_size for info in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise DataError(f"{path} is no file of tensors, or is damaged ({error}); get it again") from error
    if packed or size > path.stat().st_size:
        raise DataError(f"{path} has compressed members ({listing(packed, 3)}), which torch.save does not write")


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
    named = {_renamed(name, wanted): tensor for name, tensor in tensors.items() if not name.endswith(COMPUTED)}
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
    named = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in named.items()}
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
