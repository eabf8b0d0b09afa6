"""How loud a sound is, and nothing else: a floor beside random networks. What it can tell, nobody needs to hear.

The level is 10 log10 of the mean square of the samples, in decibels, at least -100. `frames` is the level of every 20 ms,
one behind the other without overlap; what remains at a window's end is dropped. `curve` is the level of each of 32 equal
parts of the window, in their order, and `mean_std` are the mean and the standard deviation of `frames`. It is the project's
own: no weighting of frequencies and no gating, which a meter of perceived loudness (ITU-R BS.1770) has.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench import Encode, Encoder, Layer, Pool

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 22050
FRAME = 441  # samples: 50 levels a second
PARTS = 32  # of a window's curve
FLOOR = 1e-10  # of a mean square: -100 dB


def measure_level_db(mean_squares: torch.Tensor) -> torch.Tensor:
    """Mean squares of any shape -> decibels."""
    return 10 * mean_squares.clamp(min=FLOOR).log10()


def _load(weights: Path | None, device: str) -> Encode:
    import torch
    from torch.nn.functional import adaptive_avg_pool1d

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        squares = waveforms.square()
        whole = squares[:, : squares.shape[1] // FRAME * FRAME]
        frames = measure_level_db(whole.reshape(len(squares), -1, FRAME).mean(dim=2))
        curve = measure_level_db(adaptive_avg_pool1d(squares[:, None], PARTS))
        moments = frames.mean(dim=1), frames.std(dim=1, correction=0)
        layers = [frames[..., None], curve, torch.stack(moments, dim=-1)[:, None]]
        return [pool(layer) for layer in layers]

    return encode


ENCODERS = (
    Encoder(
        name="loudness",
        description="The level of every 20 ms in decibels",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=(
            Layer("frames", 1, SAMPLE_RATE_HZ / FRAME),
            Layer("curve", PARTS),
            Layer("mean_std", 2),
        ),
        load=_load,
        license="MIT",  # this suite's
        citation="marble-bench",
        min_s=0.1,
    ),
)
