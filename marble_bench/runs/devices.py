"""Where encoders and probes can run on this machine."""

from __future__ import annotations

from marble_bench.errors import UsageError, suggest_name

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
    if kind not in DEVICES or (colon and (kind != "cuda" or not number.isdecimal())):
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
        if colon:
            torch.cuda.set_device(int(number))  # so that nothing is allocated on another GPU
    return asked
