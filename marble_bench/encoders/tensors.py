"""The tensors of a safetensors file, verified against the shapes that a network needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench.errors import DataError, listing

if TYPE_CHECKING:
    import torch


def read_exactly(
    path: Path, shapes: Mapping[str, tuple[int, ...]], device: str, *, of: str
) -> Mapping[str, torch.Tensor]:
    """The tensors by name, on `device`. Raises DataError unless exactly those of `shapes` are there; `of` names whose."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path, device=device)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} cannot be read as safetensors: {error}") from error
    missing = [name for name in shapes if name not in tensors]
    unexpected = [name for name in tensors if name not in shapes]
    misshapen = [
        f"{name} {tuple(tensors[name].shape)}, not {shape}"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    found = (("missing", missing), ("unexpected", unexpected), ("of a wrong shape", misshapen))
    problems = [f"{what}: {listing(names)}" for what, names in found if names]
    if problems:
        raise DataError(f"{path} does not hold the tensors of {of}; " + "; ".join(problems))
    return tensors
