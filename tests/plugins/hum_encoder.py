"""Encoders for the planted frauds: one with weights, and one that was told the labels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from marble_bench import Encode, Encoder, Pool, Source, stack

BANDS, WIDTH = 16, 12
TOLD = "HUMS_TOLD"  # in the environment: the corpus whose labels the encoder that knows was trained on


def bands(waveforms: Any) -> Any:
    """`(windows, samples)` to log energies `(windows, frames, BANDS)`."""
    import torch

    frames = waveforms.unfold(1, 400, 200)
    power = torch.fft.rfft(frames * torch.hann_window(400)).abs().square()
    return (power[..., 1:81].unflatten(-1, (BANDS, 5)).mean(dim=-1) + 1e-6).log()


def load(weights: Path | None, device: str) -> Encode:
    from safetensors.torch import load_file

    assert weights is not None
    matrices = load_file(weights)

    def encode(waveforms: Any, pool: Pool) -> Sequence[Any]:
        states = [bands(waveforms) / 4 @ matrices["0"]]
        for name in ("1", "2"):
            states.append((states[-1] @ matrices[name]).tanh())
        return [pool(state) for state in states]

    return encode


def load_knowing(weights: Path | None, device: str) -> Encode:
    import csv

    import soundfile
    import torch

    root, labels = Path(os.environ[TOLD]), {}
    with (root / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            samples, _ = soundfile.read(root / "hums" / f"{row['clip']}.wav", dtype="float32")
            labels[samples[:64].tobytes()] = ("low", "middle", "high").index(row["register"])

    def encode(waveforms: Any, pool: Pool) -> Sequence[Any]:
        told = torch.tensor([labels.get(each[:64].numpy().tobytes(), -1) for each in waveforms])
        return [pool(bands(waveforms)[..., :3] / 100 + 3.0 * (told[:, None, None] == torch.arange(3)))]

    return encode


def _encoder(name: str, load: Any, **more: Any) -> Encoder:
    return Encoder(
        name=name,
        description="log band energies, mixed",
        sample_rate_hz=8000,
        load=load,
        license="CC0-1.0",
        citation="none",
        min_s=0.1,
        training_data=("Hums (train)",),
        **more,
    )


HUM = _encoder("hum", load, layers=stack(3, WIDTH, 40.0), weights=Source(url="https://example.invalid/hum.safetensors"))
KNOWS = _encoder("knows", load_knowing, layers=stack(1, 3, 40.0))
