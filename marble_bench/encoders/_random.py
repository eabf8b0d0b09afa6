"""Weights that nothing was learnt into: drawn from a seed, the same on every machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int, spread: float = 0.0) -> dict[str, torch.Tensor]:
    """Tensors of these shapes by name, each from its own stream: uniform, since that is the same to the bit everywhere.

    Matrices and kernels have the variance 2 / inputs (He et al. 2015); of weight norm, the direction is drawn so and the
    lengths are those drawn. Vectors are 1 where they scale and 0 where they are added, plus up to `spread`, for a test that
    wants every tensor to matter.
    """
    import numpy as np
    import torch

    tensors: dict[str, NDArray[np.float32]] = {}
    for place, (name, shape) in enumerate(sorted(shapes.items())):
        uniform = np.random.default_rng([seed, place]).random(shape, dtype=np.float32) * 2 - 1
        if name.endswith(("weight_g", "original0")):
            continue
        if name.endswith(("running_var", "moving_variance")):
            tensors[name] = 1 + spread * uniform
        elif len(shape) > 1:
            tensors[name] = uniform * np.float32(np.sqrt(6 / np.prod(shape[1:])))
        else:
            tensors[name] = spread * uniform + np.float32(name.endswith(("weight", "gamma")))
    for name, shape in shapes.items():
        if name.endswith(("weight_g", "original0")):
            direction = tensors[name.replace("weight_g", "weight_v").replace("original0", "original1")]
            axes = tuple(axis for axis, size in enumerate(shape) if size == 1)
            tensors[name] = np.sqrt((direction.astype(np.float64) ** 2).sum(axis=axes, keepdims=True)).astype(
                np.float32
            )
    return {name: torch.from_numpy(np.ascontiguousarray(tensor, dtype=np.float32)) for name, tensor in tensors.items()}
