"""Jukebox: a language model of audio codes, the first 36 of whose 72 layers are read.

Sources: Dhariwal et al., "Jukebox: a generative model for music" (2020) and its code, github.com/openai/jukebox;
Castellon, Donahue and Liang, "Codified audio language modeling learns useful representations for music information
retrieval" (JukeMIR, ISMIR 2021), which takes layer 36, asks for unknown artist and genre, and a piece of 62 s.

A window, 44.1 kHz and divided by the clip's largest magnitude, is coded by level 2 of the VQ-VAE: one of 2048 codes for 128
samples, 344.5 a second. The prior reads 8192 codes at once (23.777 s). Frame i of a layer knows the codes before i and
the conditioning: an embedding of the unknown artist and genre in place of the code before the first, and at every place
one of the piece's length, of the seconds since its beginning, and of the part of it that is over. Layer 0 is the sum that
the first block reads, layer n what the n-th block gives. Blocks take turns in what a frame attends to: frames of its own
64, every 64th frame before it, and the 64 before its own.

A longer window is cut into stretches of 8192 codes, each as if it began the piece, and what remains is dropped; of a
30 s clip these are JukeMIR's 23.777 s. Codes are made from the whole window, so that the last codes of a stretch have
heard what follows, as in JukeMIR. A shorter window gives the first frames of what a longer one would have given, since no
frame depends on a later code; JukeMIR refuses it, MARBLE fills it up with zeros to an eighth, a quarter or half of 8192.

The weights are kept as published: the large matrices as half floats, the rest as float32. `jukebox-5b` computes in float32,
as JukeMIR; `jukebox-5b-half` computes the blocks in half precision, for a GPU, from the same converted file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from marble_bench import Encode, Encoder, Pool, Source, stack
from marble_bench.encoders.tensors import read_exactly
from marble_bench.encoders.torch_file import Stored, TorchFile, read_torch_file, write_safetensors
from marble_bench.errors import DataError, listing

if TYPE_CHECKING:
    import torch

Tensors: TypeAlias = "Mapping[str, torch.Tensor]"
Activations = Literal["float32", "float16"]

SAMPLE_RATE_HZ = 44100
CODE = 128  # samples
DOWNS = (3, 2, 2)  # halvings in each of the VQ-VAE's three parts: 2^7 samples a code
CHANNELS, CODE_WIDTH, CODES = 32, 64, 2048
DILATIONS = (1, 3, 9, 27)
MARGIN = 16384  # samples on either side that a code's computation hears at most, rounded up (10,600)
# Labels that the prior knows, and the conditioning that JukeMIR chose.
GENRES, ARTISTS, TIMES = 120, 4111, 128
TOTAL = 62 * SAMPLE_RATE_HZ // CODE * CODE  # samples
TOTAL_RANGE, ABSOLUTE_RANGE, RELATIVE_RANGE = (2646000.0, 26460000.0), (0.0, 26460000.0), (0.0, 1.0)
UNKNOWN, NONE = 0, -1  # a label, and a genre's empty place
FILES = ("vqvae.pth.tar", "prior_level_2.pth.tar")


@dataclass(frozen=True)
class Size:
    """What a prior is made of; `context` codes are read at once, in `parts` blocks of equal length, by `depth` layers."""

    width: int
    heads: int
    context: int
    parts: int
    depth: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that is needed, by its name in the checkpoints; a block's matrices are (in, out)."""
        width, state = self.width, self.width // 4
        found: dict[str, tuple[int, ...]] = {
            **_coder_shapes(),
            "bottleneck.level_blocks.2.k": (CODES, CODE_WIDTH),
            "prior.x_emb.weight": (CODES, width),
            "prior.pos_emb.pos_emb": (self.context, width),
            "y_emb.bow_genre_emb.emb.weight": (GENRES, width),
            "y_emb.artist_emb.emb.weight": (ARTISTS, width),
            **{
                f"y_emb.{part}_emb.emb.weight": (TIMES, width)
                for part in ("total_length", "absolute_pos", "relative_pos")
            },
        }
        for block in range(self.depth):
            for part, (wide, out) in {
                "attn.c_attn": (width, 3 * state),
                "attn.c_proj": (state, width),
                "mlp.c_fc": (width, width),
                "mlp.c_proj": (width, width),
            }.items():
                found[f"{_name(block)}.{part}.w"], found[f"{_name(block)}.{part}.b"] = (wide, out), (out,)
            for norm in ("ln_0", "ln_1"):
                found[f"{_name(block)}.{norm}.weight"] = found[f"{_name(block)}.{norm}.bias"] = (width,)
        return found

    @property
    def conditioning(self) -> tuple[int, ...]:
        """The label that JukeMIR gives: length of the piece, where the context begins, its length, artist, five genres."""
        return (TOTAL, 0, self.context * CODE, UNKNOWN, UNKNOWN, NONE, NONE, NONE, NONE)


def _name(index: int) -> str:
    return f"prior.transformer._attn_mods.{index}"


def _coder_shapes() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for part, downs in enumerate(DOWNS):
        name = f"encoders.2.level_blocks.{part}.model"
        for step in range(downs):
            inside = CHANNELS if step else (1 if part == 0 else CODE_WIDTH)
            found[f"{name}.{step}.0.weight"], found[f"{name}.{step}.0.bias"] = (CHANNELS, inside, 4), (CHANNELS,)
            for index in range(len(DILATIONS)):
                for conv, kernel in ((1, 3), (3, 1)):
                    at = f"{name}.{step}.1.model.{index}.model.{conv}"
                    found[f"{at}.weight"], found[f"{at}.bias"] = (CHANNELS, CHANNELS, kernel), (CHANNELS,)
        found[f"{name}.{downs}.weight"] = (CODE_WIDTH, CHANNELS, 3)
        found[f"{name}.{downs}.bias"] = (CODE_WIDTH,)
    return found


def vectors(waveform: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """Samples `(samples,)` at 44.1 kHz to what level 2 makes codes of, `(samples // 128, 64)`."""
    from torch.nn import functional as F

    def conv(x: torch.Tensor, name: str, **how: int) -> torch.Tensor:
        return F.conv1d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], **how)

    x = waveform[None, None]
    for part, downs in enumerate(DOWNS):
        name = f"encoders.2.level_blocks.{part}.model"
        for step in range(downs):
            x = conv(x, f"{name}.{step}.0", stride=2, padding=1)
            for index, dilation in enumerate(DILATIONS):
                at = f"{name}.{step}.1.model.{index}.model"
                inner = conv(F.relu(x), f"{at}.1", padding=dilation, dilation=dilation)
                x = x + conv(F.relu(inner), f"{at}.3")
        x = conv(x, f"{name}.{downs}", padding=1)
    return x[0].T


def nearest(found: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """The code `(codes,)` of each vector `(codes, 64)`. Of two as near as rounding can tell, either may be it."""
    book = tensors["bottleneck.level_blocks.2.k"].T
    distance = found.square().sum(1, keepdim=True) - 2 * found @ book + book.square().sum(0, keepdim=True)
    return distance.argmin(1)


def codes(waveform: torch.Tensor, tensors: Tensors, context: int) -> list[torch.Tensor]:
    """The codes of each stretch of a window `(samples,)`, made piece by piece as if from the whole window at once."""
    length, samples = context * CODE, waveform.shape[0]
    found = []
    for start in range(0, max(samples // length * length, 1), length):
        end = min(start + length, samples)
        first = max(start - MARGIN, 0)
        heard = vectors(waveform[first : end + MARGIN], tensors)
        found.append(nearest(heard[(start - first) // CODE :][: (end - start) // CODE], tensors))
    return found


def conditioning(size: Size, tensors: Tensors) -> tuple[torch.Tensor, torch.Tensor]:
    """What is added at each place `(context, width)` and what is used in place of the code before the first `(width,)`."""
    import torch

    total, offset, length, artist, *genres = size.conditioning
    device = tensors["prior.x_emb.weight"].device
    along = torch.arange(size.context, dtype=torch.float32, device=device) / size.context

    def embedded(part: str, position: torch.Tensor, bounds: tuple[float, float]) -> torch.Tensor:
        bins = (TIMES * ((position - bounds[0]) / (bounds[1] - bounds[0]))).floor().long()
        return tensors[f"y_emb.{part}_emb.emb.weight"].float()[bins]

    whole = torch.tensor([float(total)], device=device)
    start, end = torch.tensor(float(offset), device=device), torch.tensor(float(offset + length), device=device)
    placed = (
        embedded("total_length", whole, TOTAL_RANGE)
        + embedded("absolute_pos", start + (end - start) * along, ABSOLUTE_RANGE)
        + embedded("relative_pos", start / whole + (end / whole - start / whole) * along, RELATIVE_RANGE)
    )
    told = [tensors["y_emb.bow_genre_emb.emb.weight"][genre] for genre in genres if genre != NONE]
    return placed, torch.stack(told).float().sum(0) + tensors["y_emb.artist_emb.emb.weight"][artist].float()


def embed(found: torch.Tensor, size: Size, tensors: Tensors) -> torch.Tensor:
    """Codes `(frames,)`, at most `size.context` of them, to what the first block reads `(frames, width)` float32."""
    import torch

    placed, first = conditioning(size, tensors)
    before = torch.cat([first[None], tensors["prior.x_emb.weight"].float()[found[:-1]]])
    frames = len(found)
    return before + tensors["prior.pos_emb.pos_emb"].float()[:frames] + placed[:frames]


def layer(x: torch.Tensor, index: int, size: Size, tensors: Tensors) -> torch.Tensor:
    """One layer of the prior, `(frames, width)` to the same; `tensors` by the names within the layer."""
    import torch
    from torch.nn import functional as F

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return torch.addmm(tensors[f"{name}.b"], x, tensors[f"{name}.w"])

    def normed(x: torch.Tensor, name: str) -> torch.Tensor:
        return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    projected = linear(normed(x, "ln_0"), "attn.c_attn")
    attended = linear(attend(projected, index % 3, size.heads, size.context // size.parts), "attn.c_proj")
    wide = linear(normed(x + attended, "ln_1"), "mlp.c_fc")
    return x + attended + linear(wide * torch.sigmoid(1.702 * wide), "mlp.c_proj")


def attend(projected: torch.Tensor, kind: int, heads: int, length: int) -> torch.Tensor:
    """Attention of one of three kinds on queries, keys and values side by side, `(frames, 3 * state)` to `(frames, state)`.

    length: of a block, in frames.
    kind: 0 to the frames of the own block up to the own one; 1 to the same place in all blocks up to the own; 2 to the
        whole block before, which for the first is zeros.
    """
    import torch
    from torch.nn import functional as F

    frames = len(projected)
    # The last block's missing frames are behind the end, where no frame attends to.
    whole = F.pad(projected, (0, 0, 0, -frames % length))
    parts = whole.reshape(-1, length, 3, heads, projected.shape[1] // 3 // heads).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)  # each (blocks, heads, length, state / heads)
    if kind == 1:
        query, key, value = (part.permute(2, 1, 0, 3) for part in (query, key, value))
    elif kind == 2:
        key, value = (torch.cat([torch.zeros_like(part[:1]), part[:-1]]) for part in (key, value))
    found = F.scaled_dot_product_attention(query, key, value, is_causal=kind != 2)
    order = (2, 0, 1, 3) if kind == 1 else (0, 2, 1, 3)
    return found.permute(order).reshape(len(whole), -1)[:frames]


def states(
    found: Sequence[torch.Tensor], size: Size, activations: Activations, tensors: Tensors, pool: Pool
) -> list[torch.Tensor]:
    """Every layer of one window, pooled: `found` has the codes of its stretches."""
    import torch

    dtype = torch.float16 if activations == "float16" else torch.float32
    xs = [embed(each, size, tensors) for each in found]
    layers = [pool(torch.cat(xs)[None])]
    xs = [x.to(dtype) for x in xs]
    for index in range(size.depth):
        prefix = f"{_name(index)}."
        # A layer's matrices are widened once for all stretches, and let go of before the next.
        inside = {name.removeprefix(prefix): t.to(dtype) for name, t in tensors.items() if name.startswith(prefix)}
        for at, x in enumerate(xs):
            xs[at] = layer(x, index, size, inside)
        layers.append(pool(torch.cat(xs).float()[None]))
    return layers


def _load(size: Size, activations: Activations, weights: Path | None, device: str) -> Encode:
    import torch

    assert weights is not None
    tensors = read_exactly(weights, size.shapes(), device, of="Jukebox")

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        with torch.inference_mode():
            windows = [
                states(codes(waveform, tensors, size.context), size, activations, tensors, pool)
                for waveform in waveforms
            ]
            return [torch.cat(layer) for layer in zip(*windows, strict=True)]

    return encode


def _convert(size: Size, downloaded: Path, path: Path) -> None:
    """Copy what is needed out of the two published files, which lie in the folder `downloaded`, in bounded memory."""
    missing = [name for name in FILES if not (downloaded / name).is_file()]
    if missing:
        raise DataError(f"{downloaded} must be a folder with {' and '.join(FILES)}; {listing(missing)} is not there")
    found: dict[str, tuple[TorchFile, Stored]] = {}
    for name in FILES:
        file = read_torch_file(downloaded / name)
        model = file.content.get("model") if isinstance(file.content, dict) else None
        if not isinstance(model, dict):
            raise DataError(f"{file.path} has no 'model', which Jukebox's checkpoints have")
        found.update(
            {key.removeprefix("module."): (file, each) for key, each in model.items() if isinstance(each, Stored)}
        )
    shapes = size.shapes()
    lacking = [name for name in shapes if name not in found]
    if lacking:
        raise DataError(f"the checkpoints in {downloaded} lack {listing(lacking)}")
    other = [
        f"{name} {found[name][1].shape}, not {shape}" for name, shape in shapes.items() if found[name][1].shape != shape
    ]
    other += [f"{name} of type {found[name][1].dtype}" for name in shapes if found[name][1].dtype not in ("F32", "F16")]
    if other:
        raise DataError(f"the checkpoints in {downloaded} have {listing(other)}; give those of Jukebox's 5b")
    write_safetensors(path, {name: found[name] for name in shapes})


def _encoder(name: str, activations: Activations, how: str) -> Encoder:
    size = JUKEBOX_5B
    return Encoder(
        name=name,
        description=f"Language model of audio codes, its first {size.depth} layers, {how}",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=stack(size.depth + 1, size.width, SAMPLE_RATE_HZ / CODE),
        load=partial(_load, size, activations),
        license="OpenAI noncommercial use licence",
        citation="Dhariwal et al., Jukebox: a generative model for music, 2020",
        min_s=1.0,
        stretch_s=size.context * CODE / SAMPLE_RATE_HZ,
        normalize="peak",
        parameters=sum(math.prod(shape) for shape in size.shapes().values()),
        training_data=("1.2 million songs, not named",),
        gflop_per_s=1720.0,
        weights=Source(url=_PLACE, files=FILES, note="10.3 GB are fetched, 5.1 GB written once and kept"),
        convert=partial(_convert, size),
    )


_PLACE = "https://openaipublic.azureedge.net/jukebox/models/5b"
JUKEBOX_5B = Size(width=4800, heads=8, context=8192, parts=128, depth=36)

ENCODERS = (
    _encoder("jukebox-5b", "float32", "computed in float32"),
    _encoder("jukebox-5b-half", "float16", "computed in half precision"),
)
