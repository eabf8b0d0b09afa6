"""Spectrograms of whole tracks a piece at a time, the way back, the Wiener step, and ideal masks.

A spectrogram is complex, `(frames, bins, channels)`, centred with reflected ends, Hann's periodic window, as
`torch.stft(center=True)` and `torch.istft` have it; a magnitude is the mean over channels of the absolute values,
`(frames, bins)`, as open-unmix's `ComplexNorm(mono=True)`. Pieces give the same numbers as the whole.

The Wiener step is one iteration of expectation maximisation from one stem's magnitude with the mixture's phase and the
residual beside it, as MARBLE calls open-unmix's filter (niter 1, no soft mask, residual). Written here on complex tensors,
because `openunmix` needs torchaudio; tested against its numbers. In double precision, as open-unmix advises: where both
channels are alike, single precision leaves a fifth of a bin to chance.

Source: S. Uhlich et al., Improving music source separation based on deep neural networks through data augmentation and
network blending, ICASSP 2017; A. Nugraha, A. Liutkus and E. Vincent, Multichannel audio source separation with deep neural
networks, TASLP 24(9), 2016; F.-R. Stöter et al., Open-Unmix, JOSS 4(41), 2019.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from marble_bench.core.task import Separation

EPSILON, LOUDEST = 1e-10, 10.0  # open-unmix's regularisation, and the magnitude that a block is scaled down to


def cut_pieces(frames: int, length: int) -> Iterator[tuple[int, int]]:
    """First and last frame of each piece.

    >>> list(cut_pieces(5, 2))
    [(0, 2), (2, 4), (4, 5)]
    """
    for first in range(0, frames, length):
        yield first, min(first + length, frames)


def compute_spectra(sound: torch.Tensor, rules: Separation, length: int) -> Iterator[torch.Tensor]:
    """`(channels, samples)` -> pieces of up to `length` frames, `(frames, bins, channels)` complex64."""
    import torch
    from torch.nn import functional

    window = torch.hann_window(rules.n_fft, device=sound.device)
    padded = functional.pad(sound[None], (rules.n_fft // 2, rules.n_fft // 2), mode="reflect")[0]
    for first, last in cut_pieces(rules.frames(sound.shape[-1]), length):
        stretch = padded[:, first * rules.hop : (last - 1) * rules.hop + rules.n_fft]
        yield torch.fft.rfft(stretch.unfold(-1, rules.n_fft, rules.hop) * window).permute(1, 2, 0)


def compute_magnitudes(sounds: torch.Tensor, rules: Separation) -> torch.Tensor:
    """`(..., channels, samples)` -> `(..., frames, bins)`: the mean of the channels' magnitudes."""
    import torch
    from torch.nn import functional

    window = torch.hann_window(rules.n_fft, device=sounds.device)
    flat = sounds.flatten(0, -2)
    padded = functional.pad(flat, (rules.n_fft // 2, rules.n_fft // 2), mode="reflect")
    values = torch.fft.rfft(padded.unfold(-1, rules.n_fft, rules.hop) * window).abs()
    mono: torch.Tensor = values.view(*sounds.shape[:-1], *values.shape[1:]).mean(dim=-3)
    return mono


class Resynthesis:
    """The way back: pieces of a spectrogram are added one after another, `finish` gives the sound."""

    def __init__(self, samples: int, channels: int, rules: Separation, device: str) -> None:
        import torch

        self.rules, self.samples = rules, samples
        self.window = torch.hann_window(rules.n_fft, device=device)
        total = (rules.frames(samples) - 1) * rules.hop + rules.n_fft
        self.sound = torch.zeros(channels, total, device=device)
        self.weight = torch.zeros(total, device=device)

    def add(self, first: int, piece: torch.Tensor) -> None:
        """Add `(frames, bins, channels)` complex, which begins at frame `first`."""
        import torch

        frames = torch.fft.irfft(piece.permute(2, 1, 0), n=self.rules.n_fft, dim=1) * self.window[:, None]
        start = first * self.rules.hop
        samples = self._overlap_add(frames)
        self.sound[:, start : start + samples.shape[-1]] += samples
        square = self.window.square()[None, :, None].expand(1, -1, piece.shape[0])
        self.weight[start : start + samples.shape[-1]] += self._overlap_add(square)[0]

    def _overlap_add(self, frames: torch.Tensor) -> torch.Tensor:
        """`(channels, n_fft, frames)` -> `(channels, samples)`, frames laid over each other a hop apart."""
        from torch.nn import functional

        length = (frames.shape[-1] - 1) * self.rules.hop + self.rules.n_fft
        kernel, stride = (1, self.rules.n_fft), (1, self.rules.hop)
        return functional.fold(frames, (1, length), kernel, stride=stride)[:, 0, 0]

    def finish(self) -> torch.Tensor:
        """`(channels, samples)`."""
        import torch

        start = self.rules.n_fft // 2
        weight = self.weight[start : start + self.samples].clamp(min=1e-11)
        sound = torch.zeros(len(self.sound), self.samples, device=self.sound.device)
        there = self.sound[:, start : start + self.samples] / weight
        sound[:, : there.shape[1]] = there
        return sound


def apply_phase(magnitude: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """`(frames, bins)` and `(frames, bins, channels)` -> a stem of that magnitude with the mixture's phase."""
    import torch

    return torch.polar(magnitude[..., None].expand_as(mixture).contiguous(), mixture.angle())


def filter_wiener(magnitude: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """One Wiener step for one stem over a block: magnitude `(frames, bins)`, mixture and result `(frames, bins, 2)` complex.

    The two sources are the stem and the residual. Their covariances are constant over the block, so that what a block is
    matters: MARBLE's has 600 frames.
    """
    import torch

    where = "cpu" if mixture.device.type == "mps" else mixture.device  # MPS has no double precision
    asked, mixture = mixture, mixture.to(where, torch.complex128)
    first = apply_phase(magnitude.to(where, torch.float64), mixture)
    sources = torch.stack([first, mixture - first], dim=-1)
    scale = max(1.0, float(mixture.abs().max()) / LOUDEST)
    sources, scaled = sources / scale, mixture / scale
    power = sources.abs().square().mean(dim=2)  # (frames, bins, sources)
    products = torch.einsum("tfcj,tfdj->fjcd", sources, sources.conj())
    covariance = products / (EPSILON + power.sum(dim=0))[..., None, None]
    total = torch.einsum("tfj,fjcd->tfcd", power.to(covariance.dtype), covariance)
    total = total + EPSILON**0.5 * torch.eye(2, device=where)
    (a, b), (c, d) = (total[..., row, :].unbind(dim=-1) for row in range(2))
    left, right = scaled.unbind(dim=-1)
    whitened = torch.stack([d * left - b * right, a * right - c * left], dim=-1) / (a * d - b * c)[..., None]
    turned = torch.einsum("fcd,tfd->tfc", covariance[:, 0], whitened)
    return (power[..., :1] * turned * scale).to(asked.device, asked.dtype)


def apply_ideal_ratio(stems: torch.Tensor, mixture: torch.Tensor) -> torch.Tensor:
    """The oracle: the mixture times each true stem's share of the power, bin by bin and channel by channel.

    stems: `(stems, frames, bins, channels)` complex. Returns the same shape. Where all stems are silent the share is equal.
    """
    power = stems.abs().square() + EPSILON
    return mixture * (power / power.sum(dim=0))
