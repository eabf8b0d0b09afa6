"""DaSheng: masked autoencoders of mel spectrograms, trained on 272,000 hours of general audio, in three sizes.

Source: Dinkel et al., "Scaling up masked audio encoder learning for general audio classification", Interspeech 2024.
Package `dasheng` and weights are the makers', Apache-2.0. The code here is this suite's own; its states equal those
of the package (tests/golden/vit).

Conventions: 16 kHz mono, no normalisation of the waveform. The mel spectrogram (512 samples, hop 160, 64 HTK bands
without norm up to 8 kHz) takes its window and filter bank from the checkpoint. It is in decibels from -100 up, at
most 120 below the loudest value of the window. Each band is standardised by the training set's statistics. A patch is
all bands of 4 frames: 25 frames of features a second. Mel frames at the end that fill no patch are dropped. A window
is encoded in pieces of 1,008 mel frames (10.08 s), and each piece begins at position 0.

State 0 is what enters the first block: patches with their positions. State i leaves block i, the last one after the
final norm. The package returns only the last state.

Departs from the package: the loudest value is looked for in each window. The package looks in the whole batch, so
that there a quiet clip depends on the clips beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Pool, Source, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._checkpoint import keep_exactly, name_tensors, read_float
from marble_bench.encoders._mel import banded, decibels
from marble_bench.encoders._pieces import in_pieces
from marble_bench.encoders._vit import Blocks, Tensors
from marble_bench.encoders.torch_file import read_torch_file
from marble_bench.errors import DataError

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 16000
WINDOW, HOP, BANDS = 512, 160, 64
PATCH = 4  # mel frames
RANGE_DB = 120.0
HANN, BANK = "front_end.0.spectrogram.window", "front_end.0.mel_scale.fb"
NORM = "init_bn.1."
COUNTED = f"{NORM}num_batches_tracked"  # how long it was trained; nothing is computed with it
NOT_LEARNT = (HANN, BANK, f"{NORM}running_mean", f"{NORM}running_var")
# What no shape of a tensor tells, and a checkpoint's configuration must not contradict. Width, depth and heads are not
# compared, because the package overrides them.
CONFIG: dict[str, Any] = {
    "patch_stride": (BANDS, PATCH), "block_type": "Block", "attention_type": "Attention",
    "hop_size": HOP, "center": True, "top_db": RANGE_DB,
}  # fmt: skip
PLAIN = (bool, int, float, str, list, tuple)


@dataclass(frozen=True)
class Graph:
    """One size. piece: mel frames that are encoded at once."""

    blocks: Blocks
    piece: int = 1008

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of the checkpoint by its name, but for a counter."""
        width = self.blocks.width
        return {
            HANN: (WINDOW,),
            BANK: (WINDOW // 2 + 1, BANDS),
            **{f"{NORM}{name}": (BANDS,) for name in ("weight", "bias", "running_mean", "running_var")},
            "patch_embed.proj.weight": (width, 1, BANDS, PATCH),
            "patch_embed.proj.bias": (width,),
            "time_pos_embed": (1, width, 1, self.piece // PATCH),
            "freq_pos_embed": (1, width, 1, 1),
            **self.blocks.shapes(),
        }

    def encode(self, mel: torch.Tensor, tensors: Tensors, pool: Pool) -> list[torch.Tensor]:
        """Every state of standardised mel frames `(windows, frames, 64)`, at most `piece` of them, through `pool`."""
        from torch.nn.functional import conv2d

        weight, bias = tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"]
        patches = conv2d(mel.transpose(1, 2)[:, None], weight, bias, stride=(BANDS, PATCH))
        placed = patches + tensors["time_pos_embed"][..., : patches.shape[-1]] + tensors["freq_pos_embed"]
        return [pool(state) for state in self.blocks.states(placed.squeeze(2).transpose(1, 2), tensors)]


def compute_mel(waveforms: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """`(windows, samples)` -> standardised mel frames `(windows, samples // 160 + 1, 64)`."""
    import torch

    spectrum = torch.stft(waveforms, WINDOW, HOP, window=tensors[HANN], return_complex=True)
    mel = decibels(banded(tensors[BANK].T, spectrum.real.square() + spectrum.imag.square()))
    mel = mel.maximum(mel.amax(dim=(1, 2), keepdim=True) - RANGE_DB)
    mean, variance, weight, bias = (
        tensors[f"{NORM}{name}"] for name in ("running_mean", "running_var", "weight", "bias")
    )
    return torch.nn.functional.batch_norm(mel, mean, variance, weight, bias).transpose(1, 2)


def load(graph: Graph, weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights."""
    assert weights is not None
    tensors = read_float(weights, graph.shapes(), device, of="DaSheng")

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        import torch

        with torch.inference_mode():
            mel = compute_mel(waveforms, tensors)
            return in_pieces(mel, graph.piece, PATCH, lambda piece, pool: graph.encode(piece, tensors, pool), pool)

    return encode


def convert(graph: Graph, found: Path, path: Path) -> None:
    """Keep the tensors of a released checkpoint: a file with `model`, the tensors, and `config`."""
    file = read_torch_file(found)
    content = file.content if isinstance(file.content, dict) else {}
    config, tensors = content.get("config"), name_tensors(content.get("model"))
    if not isinstance(config, dict) or not tensors:
        raise DataError(f"{found} has no 'model' with 'config', which DaSheng's released files have")
    told = {name: value for name, value in config.items() if isinstance(value, PLAIN)}
    _hub.refuse(_hub.differences(told, CONFIG, "the checkpoint's config"))
    tensors.pop(COUNTED, None)
    keep_exactly(file, tensors, graph.shapes(), path, of="DaSheng")


def _encoder(name: str, file: str, graph: Graph, parameters: int, gflop_per_s: float) -> Encoder:
    return Encoder(
        name=name,
        description=f"Masked autoencoder of mel spectrograms of general audio ({file})",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=stack(graph.blocks.depth + 1, graph.blocks.width, SAMPLE_RATE_HZ / HOP / PATCH),
        load=partial(load, graph),
        license="Apache-2.0",
        citation=(
            "Dinkel et al., Scaling up masked audio encoder learning for general audio classification, Interspeech 2024"
        ),
        min_s=(PATCH - 1) * HOP / SAMPLE_RATE_HZ,
        parameters=parameters,
        training_data=("ACAV100M", "AudioSet", "VGGSound", "MTG-Jamendo"),
        gflop_per_s=gflop_per_s,
        weights=Source(
            url=f"https://zenodo.org/records/11511780/files/{file}.pt?download=1",
            note="no digest is known",
        ),
        convert=partial(convert, graph),
    )


ENCODERS = (
    _encoder("dasheng-base", "dasheng_base", Graph(Blocks(768, 12, 12)), 85_447_808, 4.49),
    _encoder("dasheng-0.6b", "dasheng_06b", Graph(Blocks(1280, 32, 16)), 630_333_568, 32.5),
    _encoder("dasheng-1.2b", "dasheng_12b", Graph(Blocks(1536, 40, 24)), 1_134_047_360, 58.2),
)
