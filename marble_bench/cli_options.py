"""Options that several commands share."""

from __future__ import annotations

from enum import Enum

from marble_bench.errors import UsageError


class Device(str, Enum):
    """Where encoders and probes run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(str, Enum):
    """The precision that encoders run in; features are stored in half precision."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Engine(str, Enum):
    """What reads and encodes: this machine, or a Ray cluster."""

    local = "local"
    ray = "ray"


def device_of(asked: Device) -> str:
    """The device meant. Raises UsageError if it is not at hand."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked is Device.auto:
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[asked.value]:
        here = ", ".join(name for name, ok in there.items() if ok)
        raise UsageError(f"--device {asked.value} is not at hand here; there is {here}")
    return str(asked.value)
