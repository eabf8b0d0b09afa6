"""Where encoders and probes can run on this machine."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from marble_bench.errors import UsageError, suggest_name

if TYPE_CHECKING:
    from marble_bench.runs.config import RunConfig

Given = ParamSpec("Given")
Returned = TypeVar("Returned")
AUTO = "auto"
DEVICES = (AUTO, "cpu", "cuda", "mps")
OTHER_NAMES = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps"}


def resolve_device(asked: str) -> str:
    """The device that a user asks for: `cpu`, `cuda`, `cuda:1`, or `mps`; `auto` is CUDA's first GPU, else the CPU.

    MPS is used only where it is asked for. Raises UsageError for what is no device, and for one that this machine lacks.
    """
    if not isinstance(asked, str):
        raise UsageError(f"--device {asked!r}: give it as a text, such as 'cpu' or 'cuda:0'")
    kind, colon, number = asked.partition(":")
    if kind not in DEVICES or (colon and (kind != "cuda" or not re.fullmatch("0|[1-9][0-9]{0,3}", number))):
        meant = f"cuda:{asked}" if asked.isdecimal() else OTHER_NAMES.get(asked.lower(), "")
        hint = f"; did you mean '{meant}'?" if meant else suggest_name(kind, DEVICES)
        raise UsageError(f"--device {asked}: no such device{hint or '; give auto, cpu, cuda, cuda:N or mps'}")
    import torch

    if kind == AUTO:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UsageError("--device mps: PyTorch finds no MPS device on this machine; give --device cpu")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise UsageError(f"--device {asked}: PyTorch finds no CUDA device on this machine; give --device cpu")
        if colon and int(number) >= count:
            here = ", ".join(f"cuda:{each}" for each in range(count))
            raise UsageError(f"--device {asked}: no such GPU; this machine has {here}")
    return asked


def use_device(device: str) -> AbstractContextManager[object]:
    """A context in which a GPU that was asked for by number is CUDA's current one, so that nothing is allocated on another.

    After it, the one that was current before is so again.
    """
    _, colon, number = device.partition(":")
    if not colon:
        return nullcontext()
    import torch

    return torch.cuda.device(int(number))


def using_its_device(
    work: Callable[Concatenate[RunConfig, Given], Returned],
) -> Callable[Concatenate[RunConfig, Given], Returned]:
    """The same work on a configuration, done while the device of its encoder is the current one."""

    @wraps(work)
    def call(config: RunConfig, /, *args: Given.args, **more: Given.kwargs) -> Returned:
        with use_device(config.features.device):
            return work(config, *args, **more)

    return call
