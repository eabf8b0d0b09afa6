"""MULE: a convolutional network on mel spectrograms, trained without labels on a large unnamed collection of music.

Source: McCallum et al., "Supervised and unsupervised learning of audio representations for music understanding" (ISMIR
2022). Network and front end are those of the package `mule-torch`, a port under GPL-3.0 as the original, and so never more
than an extra that the user installs; the weights are the `model.safetensors` of its hub repository, converted from
Pandora's (CC BY-NC 4.0).

16 kHz mono, log-mel spectrogram with 100 frames a second; slices of 300 frames around every 200th frame, the first and the
last moved to lie within the window; each slice standardised by itself. A slice gives 1728 numbers, half a frame a second.
A window below 2.99 s is refused: the package would fill its slice up.

Scale: Pandora's own reader divides 16-bit samples by 2^16, so that its network was trained on audio within +-0.5, and its
log10(10000 x + 1) is not indifferent to that. Here waveforms are halved to the same scale. MARBLE gives it +-1.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, Source
from marble_bench.errors import DataError, UsageError, listing

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 16000
HOP, SLICE, SLICE_HOP = 160, 300, 200  # samples, frames, frames
WIDTH = 1728
SCALE = 0.5
AT_ONCE = 32  # slices that go through the network together, which bounds its memory


def _package() -> Any:
    try:
        import mule_torch
    except ImportError as error:
        raise UsageError(
            "encoder 'mule' needs the package mule-torch (GPL-3.0): pip install 'marble-bench[mule]'"
        ) from error
    return mule_torch


def _load(weights: Path | None, device: str) -> Encode:
    import torch

    assert weights is not None
    model = _model(weights).to(device)

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        from mule_torch.frontend import slice_mel

        with torch.inference_mode():
            slices = torch.stack([slice_mel(mel, model.config) for mel in model.frontend(SCALE * waveforms)])
            parts = [model.backbone(chunk) for chunk in torch.split(slices.flatten(0, 1), AT_ONCE)]
            return [pool(torch.cat(parts).reshape(*slices.shape[:2], WIDTH))]

    return encode


def _model(weights: Path) -> Any:
    """The package's network with the weights of a file. Raises DataError unless exactly its tensors are there."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    package = _package()
    try:
        tensors = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{weights} cannot be read as safetensors: {error}") from error
    if "frontend.mel_fb" not in tensors:
        raise DataError(f"{weights} does not hold the tensors of MULE; missing: frontend.mel_fb")
    model = package.MuleModel(package.MuleConfig(), mel_fb=tensors["frontend.mel_fb"])
    try:
        missing, unexpected = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:  # what PyTorch says of shapes
        raise DataError(f"{weights} does not hold the tensors of MULE: {error}") from error
    missing = [name for name in missing if not name.startswith("frontend.stft.")]  # computed, not trained
    if missing or unexpected:
        found = (("missing", missing), ("unexpected", unexpected))
        problems = "; ".join(f"{what}: {listing(names)}" for what, names in found if names)
        raise DataError(f"{weights} does not hold the tensors of MULE; {problems}")
    return model.eval().requires_grad_(False)


def _convert(downloaded: Path, path: Path) -> None:
    """Copy the weights out of a folder as on the hub, whose configuration must be the published one."""
    names = ("model.safetensors", "config.json")
    missing = [name for name in names if not (downloaded / name).is_file()]
    if missing:
        raise DataError(f"{downloaded} must be a folder with {' and '.join(names)}; {listing(missing)} is not there")
    config = _package().MuleConfig()
    try:
        found = type(config).from_dict(json.loads((downloaded / names[1]).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(f"{downloaded / names[1]} is no configuration of MULE: {error}") from error
    own, other = config.to_dict(), found.to_dict()
    differ = [key for key in own if key != "provenance" and own[key] != other[key]]
    if differ:
        raise DataError(f"{downloaded / names[1]} is not the published MULE's; it differs in {listing(differ)}")
    shutil.copyfile(downloaded / names[0], path)


ENCODERS = (
    Encoder(
        name="mule",
        description="Convolutions on mel spectrograms, slow and fast, trained to tell songs apart",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=(Layer("timeline", WIDTH, SAMPLE_RATE_HZ / HOP / SLICE_HOP),),
        load=_load,
        license="CC-BY-NC-4.0",
        citation="McCallum et al., Supervised and unsupervised learning of audio representations, ISMIR 2022",
        min_s=(SLICE - 1) * HOP / SAMPLE_RATE_HZ,
        parameters=62345742,
        gflop_per_s=4.3,
        training_data=("Musicset, not published",),
        weights=Source(
            url="hf:matteospanio/mule",
            files=("config.json", "model.safetensors"),
            note="needs the extra marble-bench[mule] (GPL-3.0)",
        ),
        convert=_convert,
    ),
)
