"""An encoder without weights: log energies in frequency bands, frame by frame, and two coarser views of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marble_bench import Encode, Encoder, Pool, stack

BANDS = 16


def load(weights: Path | None, device: str) -> Encode:
    import torch

    def encode(waveforms: Any, pool: Pool) -> Sequence[Any]:
        frames = waveforms.unfold(1, 400, 200)
        power = torch.fft.rfft(frames * torch.hann_window(400, device=waveforms.device)).abs().square()
        bands = (power[..., 1:81].unflatten(-1, (BANDS, 5)).mean(dim=-1) + 1e-6).log()
        return [pool(bands), pool(bands.tanh()), pool(bands.abs().sqrt())]

    return encode


TOY = Encoder(
    name="toy",
    description="log band energies",
    sample_rate_hz=8000,
    layers=stack(3, BANDS, 40.0),
    load=load,
    license="CC0-1.0",
    citation="none",
    min_s=0.1,
)
