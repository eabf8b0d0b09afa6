"""The network of MERT-v2, without weights: mel spectrogram, ConvNeXt stages that divide time by four, conformer layers.

This suite's own code; modules and their parts are called as the published tensors are, which are loaded by these names. A
`graph` is the configuration by the names of `mert_v2.GRAPH`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from marble_bench.encoders import _hub
from marble_bench.encoders._mel import banded, decibels

if TYPE_CHECKING:
    import torch

HOP = 240  # samples from one mel frame to the next
LEAST_DEVIATION = 1e-5  # the smallest deviation that a mel band is divided by


def _front_end(graph: dict[str, Any]) -> torch.nn.Module:
    """`(windows, samples)` -> standardised mel decibels `(windows, samples // 240, bands)`."""
    import torch
    from torch import nn

    bands, length = graph["num_mel_bins"], graph["n_fft"]

    class FrontEnd(nn.Module):
        mel_mean: torch.Tensor
        mel_std: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.spectrogram, self.mel_scale = nn.Module(), nn.Module()
            self.spectrogram.register_buffer("window", torch.empty(length))
            self.mel_scale.register_buffer("fb", torch.empty(length // 2 + 1, bands))
            self.register_buffer("mel_mean", torch.empty(bands))
            self.register_buffer("mel_std", torch.empty(bands))

        def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
            window, bank = self.spectrogram.get_buffer("window"), self.mel_scale.get_buffer("fb")
            spectrum = torch.stft(waveforms, length, HOP, window=window, return_complex=True)
            power = spectrum.real.square() + spectrum.imag.square()
            mel = decibels(banded(bank.T, power))[..., :-1].transpose(1, 2)
            return (mel - self.mel_mean) / self.mel_std.clamp(min=LEAST_DEVIATION)

    return FrontEnd()


def _response_norm(width: int) -> torch.nn.Module:
    """Each channel scaled by its norm over time, relative to the mean of all channels' norms."""
    import torch
    from torch import nn

    class ResponseNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = (nn.Parameter(torch.empty(1, 1, width)) for _ in range(2))

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            norm = frames.norm(dim=1, keepdim=True)
            relative = norm / (norm.mean(dim=2, keepdim=True) + 1e-6)
            scaled: torch.Tensor = frames + self.weight * (frames * relative) + self.bias
            return scaled

    return ResponseNorm()


def _convnext_layer(width: int, eps: float) -> torch.nn.Module:
    """A depthwise convolution of 7 frames, then each frame by itself; `(windows, frames, width)` in and out."""
    from torch import nn

    class ConvNextLayer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # the names are those of the published tensors
            self.depthwise_block = nn.ModuleDict({"1": nn.Conv1d(width, width, 7, padding=3, groups=width)})
            self.pointwise_block = nn.Sequential(
                nn.LayerNorm(width, eps=eps),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                _response_norm(4 * width),
                nn.Linear(4 * width, width),
            )

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            nearby = self.depthwise_block["1"](frames.transpose(1, 2)).transpose(1, 2)
            summed: torch.Tensor = frames + self.pointwise_block(nearby)
            return summed

    return ConvNextLayer()


def _stage(inputs: int, outputs: int, halves: bool, depth: int, eps: float) -> torch.nn.Module:
    """Some ConvNeXt layers behind a convolution that halves time and changes the width, or behind none."""
    from torch import nn

    class Stage(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            halving = {"0": nn.LayerNorm(inputs, eps=eps), "2": nn.Conv1d(inputs, outputs, 2, stride=2)}
            self.resampling_layer = nn.ModuleDict(halving if halves else {})
            self.convnext_layers = nn.Sequential(*(_convnext_layer(outputs, eps) for _ in range(depth)))

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            if halves:
                normed = self.resampling_layer["0"](frames)
                frames = self.resampling_layer["2"](normed.transpose(1, 2)).transpose(1, 2)
            changed: torch.Tensor = self.convnext_layers(frames)
            return changed

    return Stage()


def rotations(frames: int, size: int, base: float, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of each frame's angles, `(frames, size)` each, on the device and in the type of `like`.

    Frame t turns pair i, made of the numbers i and i + size / 2, by t * base ** (-2 i / size).
    """
    import torch

    inverse = base ** -(torch.arange(0, size, 2, dtype=torch.float32, device=like.device) / size)
    angles = torch.outer(torch.arange(frames, dtype=torch.float32, device=like.device), inverse).repeat(1, 2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def _attention(graph: dict[str, Any]) -> torch.nn.Module:
    """Attention of every frame to every frame, queries and keys rotated by their places."""
    import torch
    from torch import nn
    from torch.nn.functional import scaled_dot_product_attention

    width, heads = graph["hidden_size"], graph["num_attention_heads"]
    size = width // heads

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query_proj, self.key_proj = nn.Linear(width, width), nn.Linear(width, width)
            self.value_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            def per_head(projected: torch.Tensor) -> torch.Tensor:
                return projected.view(*projected.shape[:2], heads, size).transpose(1, 2)

            def rotated(vectors: torch.Tensor) -> torch.Tensor:
                first, second = vectors.chunk(2, dim=3)
                return vectors * cosine + torch.cat((-second, first), dim=3) * sine

            query, key = per_head(self.query_proj(frames)), per_head(self.key_proj(frames))
            cosine, sine = rotations(frames.shape[1], size, graph["rotary_embedding_base"], query)
            heard = scaled_dot_product_attention(rotated(query), rotated(key), per_head(self.value_proj(frames)))
            merged: torch.Tensor = self.out_proj(heard.transpose(1, 2).flatten(2))
            return merged

    return Attention()


def _convolution(graph: dict[str, Any]) -> torch.nn.Module:
    """A gated depthwise convolution, 31 frames wide, of normed frames."""
    from torch import nn
    from torch.nn.functional import gelu, glu

    width, kernel, eps = graph["hidden_size"], graph["conv_depthwise_kernel_size"], graph["layer_norm_eps"]

    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer_norm = nn.LayerNorm(width, eps=eps)
            self.conv_block = nn.ModuleDict({
                "1": nn.Conv1d(width, 2 * width, 1, bias=False),
                "3": nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width, bias=False),
                "4": nn.Sequential(nn.Identity(), nn.LayerNorm(width, eps=eps)),
                "6": nn.Conv1d(width, width, 1, bias=False),
            })  # fmt: skip

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            gated = glu(self.conv_block["1"](self.layer_norm(frames).transpose(1, 2)), dim=1)
            nearby = self.conv_block["4"](self.conv_block["3"](gated).transpose(1, 2))
            mixed: torch.Tensor = self.conv_block["6"](gelu(nearby).transpose(1, 2))
            return mixed.transpose(1, 2)

    return Convolution()


def _block(graph: dict[str, Any]) -> torch.nn.Module:
    """A conformer layer: half a feed-forward layer, attention, convolution, the other half, a norm."""
    from torch import nn
    from torch.nn.functional import gelu

    width, wide, eps = graph["hidden_size"], graph["intermediate_size"], graph["layer_norm_eps"]

    def feed_forward() -> nn.ModuleDict:
        return nn.ModuleDict({"w_1": nn.Linear(width, wide), "w_2": nn.Linear(wide, width)})

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ffn1_layer_norm, self.ffn1 = nn.LayerNorm(width, eps=eps), feed_forward()
            self.attn_layer_norm, self.attn = nn.LayerNorm(width, eps=eps), _attention(graph)
            self.conv_module = _convolution(graph)
            self.ffn2_layer_norm, self.ffn2 = nn.LayerNorm(width, eps=eps), feed_forward()
            self.final_layer_norm = nn.LayerNorm(width, eps=eps)

        def forward(self, frames: torch.Tensor) -> torch.Tensor:
            frames = frames + 0.5 * self.ffn1["w_2"](gelu(self.ffn1["w_1"](self.ffn1_layer_norm(frames))))
            frames = frames + self.attn(self.attn_layer_norm(frames))
            frames = frames + self.conv_module(frames)
            frames = frames + 0.5 * self.ffn2["w_2"](gelu(self.ffn2["w_1"](self.ffn2_layer_norm(frames))))
            normed: torch.Tensor = self.final_layer_norm(frames)
            return normed

    return Block()


def build(graph: dict[str, Any]) -> torch.nn.Module:
    """The model without weights: `(windows, samples)` -> `(windows, samples // 960, width)`."""
    from torch import nn

    channels = (graph["num_mel_bins"], *graph["subsampling_channels"])
    depths, eps = graph["subsampling_depths"], graph["subsampling_layer_norm_eps"]

    class Mert2(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.feature_extractor = _front_end(graph)
            self.subsampling_module = nn.Sequential(
                *(_stage(channels[i], channels[i + 1], i > 0, depths[i], eps) for i in range(len(depths)))
            )
            self.layers = nn.Sequential(*(_block(graph) for _ in range(graph["num_hidden_layers"])))

        def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
            encoded: torch.Tensor = self.layers(self.subsampling_module(self.feature_extractor(waveforms)))
            return encoded

    with _hub.empty():
        return Mert2()
