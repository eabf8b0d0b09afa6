"""What a number keeps on its way through an encoder: float32 that is float32, and means summed in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def force_exact(device: str) -> Iterator[None]:
    """float32 means float32 as long as this is held: no TensorFloat-32, which keeps 10 bits."""
    if not device.startswith("cuda"):
        yield
        return
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def average_over_time(frames: Any) -> Any:
    """`(windows, frames, width)` -> `(windows, width)`, summed in float32 whatever the encoder ran in."""
    return frames.float().mean(dim=1)


def take_statistics(frames: Any) -> Any:
    """`(windows, frames, width)` -> `(windows, 3, width)`: mean, standard deviation and maximum over time, in float32.

    The deviation is that of the frames themselves: divided by their number, and 0 for a single one.
    """
    import torch

    frames = frames.float()
    return torch.stack([average_over_time(frames), frames.std(dim=1, correction=0), frames.amax(dim=1)], dim=1)
