"""Log-mel spectrograms in PyTorch, as the models that were trained on them compute theirs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch


def mel_power(
    *,
    sample_rate_hz: int,
    window: int,
    hop: int,
    bands: int,
    low_hz: float,
    high_hz: float,
    slaney: bool,
    device: str,
) -> Callable[[torch.Tensor], torch.Tensor]:
    """`(windows, samples)` -> mel power `(windows, bands, frames)`, with samples // hop + 1 frames.

    Power of a centred short-time Fourier transform, ends reflected, periodic Hann. slaney: his scale with bands of equal
    area, else the HTK scale with bands of height 1.
    """
    import torch
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(
        window // 2 + 1,
        bands,
        low_hz,
        high_hz,
        sample_rate_hz,
        norm="slaney" if slaney else None,
        mel_scale="slaney" if slaney else "htk",
    )
    return partial(_mel_power, torch.from_numpy(bank.T).float().to(device), torch.hann_window(window).to(device), hop)


def _mel_power(bank: torch.Tensor, hann: torch.Tensor, hop: int, waveforms: torch.Tensor) -> torch.Tensor:
    import torch

    spectrum = torch.stft(waveforms, len(hann), hop, window=hann, return_complex=True)
    return banded(bank, spectrum.real.square() + spectrum.imag.square())


def banded(bank: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """`(bands, bins)` of `(windows, bins, frames)`, in float32 under autocast too: a loud bin's power overflows half floats,
    and a soft one's is 0 in them."""
    import torch

    with torch.autocast(power.device.type, enabled=False):
        return bank @ power


def decibels(power: torch.Tensor) -> torch.Tensor:
    """10 log10 of a power, from -100 dB up."""
    return 10 * power.clamp(min=1e-10).log10()
