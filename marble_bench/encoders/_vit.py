"""The blocks of a vision transformer: attention and a perceptron, each behind a norm and beside a residual.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021. Tensors have the names that timm gives them,
which DaSheng, M2D and MATPAC++ share. Every layer norm has the epsilon 1e-6, and the GELU is the exact one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import torch

Tensors: TypeAlias = "Mapping[str, torch.Tensor]"
EPSILON = 1e-6
HIDDEN = 4  # how much wider the perceptron is inside


@dataclass(frozen=True)
class Blocks:
    """The size of a stack of blocks. prefix: what stands before the names of its tensors."""

    width: int
    depth: int
    heads: int
    prefix: str = ""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor by its name: of each block, and of the norm behind the last one."""
        width, hidden = self.width, HIDDEN * self.width
        linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)}
        linear |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
        found: dict[str, tuple[int, ...]] = {}
        for index in range(self.depth):
            block = f"{self.prefix}blocks.{index}."
            for norm in ("norm1", "norm2"):
                found |= {f"{block}{norm}.weight": (width,), f"{block}{norm}.bias": (width,)}
            for name, shape in linear.items():
                found |= {f"{block}{name}.weight": shape, f"{block}{name}.bias": shape[:1]}
        return {**found, f"{self.prefix}norm.weight": (width,), f"{self.prefix}norm.bias": (width,)}

    def states(self, tokens: torch.Tensor, tensors: Tensors) -> Iterator[torch.Tensor]:
        """Yield what enters the first block, then what leaves each block, the last one behind the norm.

        tokens: `(windows, tokens, width)`, as is every state.
        """
        yield tokens
        for index in range(self.depth):
            tokens = self._block(tokens, tensors, f"{self.prefix}blocks.{index}.")
            if index == self.depth - 1:
                tokens = _norm(tokens, tensors, f"{self.prefix}norm")
            yield tokens

    def _block(self, tokens: torch.Tensor, tensors: Tensors, name: str) -> torch.Tensor:
        from torch.nn import functional as F

        joint = _linear(_norm(tokens, tensors, f"{name}norm1"), tensors, f"{name}attn.qkv")
        windows, count, _ = joint.shape
        query, key, value = joint.reshape(windows, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tokens = tokens + _linear(attended, tensors, f"{name}attn.proj")
        hidden = F.gelu(_linear(_norm(tokens, tensors, f"{name}norm2"), tensors, f"{name}mlp.fc1"))
        return tokens + _linear(hidden, tensors, f"{name}mlp.fc2")


def _linear(tokens: torch.Tensor, tensors: Tensors, name: str) -> torch.Tensor:
    from torch.nn.functional import linear

    return linear(tokens, tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def _norm(tokens: torch.Tensor, tensors: Tensors, name: str) -> torch.Tensor:
    from torch.nn.functional import layer_norm

    return layer_norm(tokens, tokens.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], EPSILON)
