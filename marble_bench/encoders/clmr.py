"""CLMR: a SampleCNN on raw audio, trained without labels to tell excerpts of one song from those of others.

Source: Spijkervet and Burgoyne, "Contrastive learning of musical representations" (ISMIR 2021); weights of
github.com/Spijkervet/CLMR, release 2.1, trained for 10,000 epochs on MagnaTagATune, which JukeMIR and MARBLE take too.

22,050 Hz mono, as it is. A window is cut into frames of 59,049 samples (3^10, 2.678 s) one after another; what remains is
dropped. A frame passes a convolution of 3 samples at every third and ten more, of which nine are followed by a maximum
over three: 512 numbers are left, those before the projection.

Departs from JukeMIR and MARBLE, whose frames have 59,409 samples, two digits of 59,049 exchanged: its pools leave the
last 360 of them out, and each frame begins 360 samples later than here. MARBLE takes the mean over the frames of each
30 s, then the mean of these.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from marble_bench import Encode, Encoder, Layer, Pool, Source
from marble_bench.encoders.tensors import read_exactly
from marble_bench.encoders.torch_file import Stored, read_torch_file, write_safetensors
from marble_bench.errors import DataError, listing

if TYPE_CHECKING:
    import torch

Tensors: TypeAlias = "Mapping[str, torch.Tensor]"

SAMPLE_RATE_HZ = 22050
FRAME = 59049  # samples
WIDTHS = (128, 128, 128, 256, 256, 256, 256, 256, 256, 512, 512)  # channels after each convolution
AT_ONCE = 32  # frames that go through the network together, which bounds its memory
PREFIX, CHECKPOINT = "model.encoder.", "clmr_epoch=10000.ckpt"
LARGEST = 1 << 28  # bytes of a checkpoint that are unpacked at most
NORM = ("weight", "bias", "running_mean", "running_var")


def _shapes() -> dict[str, tuple[int, ...]]:
    """Every tensor by its name in the checkpoint, below `PREFIX`."""
    found: dict[str, tuple[int, ...]] = {}
    for index, (inside, width) in enumerate(zip((1, *WIDTHS), WIDTHS, strict=False)):
        found[f"sequential.{index}.0.weight"], found[f"sequential.{index}.0.bias"] = (width, inside, 3), (width,)
        found.update({f"sequential.{index}.1.{part}": (width,) for part in NORM})
    return found


SHAPES = _shapes()


def represent(frames: torch.Tensor, tensors: Tensors) -> torch.Tensor:
    """Frames `(frames, 59049)` at 22,050 Hz to `(frames, 512)`."""
    from torch.nn import functional as F

    x, last = frames.unsqueeze(1), len(WIDTHS) - 1
    for index in range(len(WIDTHS)):
        name = f"sequential.{index}"
        how = {"stride": 3} if index == 0 else {"padding": 1}
        x = F.conv1d(x, tensors[f"{name}.0.weight"], tensors[f"{name}.0.bias"], **how)
        weight, bias, mean, variance = (tensors[f"{name}.1.{part}"] for part in NORM)
        x = F.relu(F.batch_norm(x, mean, variance, weight, bias))
        if index not in (0, last):
            x = F.max_pool1d(x, 3)
    return x.squeeze(2)


def _load(weights: Path | None, device: str) -> Encode:
    import torch

    assert weights is not None
    tensors = read_exactly(weights, SHAPES, device, of="CLMR")

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        with torch.inference_mode():
            windows, samples = waveforms.shape
            count = samples // FRAME
            frames = waveforms[:, : count * FRAME].reshape(windows * count, FRAME)
            parts = [represent(chunk, tensors) for chunk in torch.split(frames, AT_ONCE)]
            return [pool(torch.cat(parts).reshape(windows, count, WIDTHS[-1]))]

    return encode


def _convert(downloaded: Path, path: Path) -> None:
    """Copy the encoder's tensors. `downloaded`: the released zip, the folder it unpacks to, or the checkpoint in it."""
    with tempfile.TemporaryDirectory(prefix=".clmr-", dir=path.parent) as scratch:
        file = read_torch_file(_checkpoint(downloaded, Path(scratch)))
        state = file.content.get("state_dict") if isinstance(file.content, dict) else None
        if not isinstance(state, dict):
            raise DataError(f"{downloaded} has no 'state_dict', which CLMR's checkpoints have")
        named = {name.removeprefix(PREFIX): value for name, value in state.items() if name.startswith(PREFIX)}
        found = {name: (file, value) for name, value in named.items() if isinstance(value, Stored) and name in SHAPES}
        missing = [PREFIX + name for name in SHAPES if name not in found]
        if missing:
            raise DataError(f"the checkpoint in {downloaded} lacks {listing(missing)}")
        other = [f"{name} {found[name][1].shape}, not {SHAPES[name]}" for name in SHAPES]
        other = [each for name, each in zip(SHAPES, other, strict=True) if found[name][1].shape != SHAPES[name]]
        if other:
            raise DataError(f"the checkpoint in {downloaded} has {listing(other)}; give CLMR's release 2.1")
        write_safetensors(path, found)


def _checkpoint(place: Path, scratch: Path) -> Path:
    """The checkpoint's file, taken out of the released zip into `scratch` if it is in there."""
    if place.is_dir():
        found = sorted(place.rglob(CHECKPOINT))
        if not found:
            raise DataError(f"{place} has no {CHECKPOINT}; give CLMR's release 2.1, clmr_magnatagatune_mlp.zip")
        return found[0]
    if not zipfile.is_zipfile(place):
        return place
    try:
        with zipfile.ZipFile(place) as archive:
            names = [name for name in archive.namelist() if name.rpartition("/")[2] == CHECKPOINT]
            if not names:
                return place  # a checkpoint, which is a zip too
            if (size := archive.getinfo(names[0]).file_size) > LARGEST:
                raise DataError(f"{place} holds {names[0]} of {size:,} bytes; CLMR's has fewer than {LARGEST:,}")
            with archive.open(names[0]) as inside, (scratch / CHECKPOINT).open("wb") as out:
                shutil.copyfileobj(inside, out)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, RuntimeError) as error:
        raise DataError(f"{place} is damaged: {error}; get it again") from error
    return scratch / CHECKPOINT


ENCODERS = (
    Encoder(
        name="clmr",
        description="Convolutions on raw audio, trained to tell songs apart",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=(Layer("encoder", WIDTHS[-1], SAMPLE_RATE_HZ / FRAME),),
        load=_load,
        license="Apache-2.0",
        citation="Spijkervet and Burgoyne, Contrastive learning of musical representations, ISMIR 2021",
        min_s=FRAME / SAMPLE_RATE_HZ,
        stretch_s=FRAME / SAMPLE_RATE_HZ,
        parameters=sum(math.prod(shape) for name, shape in SHAPES.items() if "running" not in name),
        gflop_per_s=1.3,
        training_data=("MagnaTagATune",),
        weights=Source(
            url="https://github.com/Spijkervet/CLMR/releases/download/2.1/clmr_magnatagatune_mlp.zip",
            revision="2.1",
            note=f"holds {CHECKPOINT}",
        ),
        convert=_convert,
    ),
)
