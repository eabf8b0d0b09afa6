"""The usual causes of what a user's own code raises, so that its error says what to do next."""

from __future__ import annotations

import re
from pathlib import Path

from marble_bench.errors import format_error

# kinds of exception, words in their text, what to do
USUAL: tuple[tuple[type[BaseException], str, str], ...] = (
    (ModuleNotFoundError, "", "install that package into the environment that runs bench, or correct its name"),
    (
        RuntimeError,
        "loading state_dict",
        "the weights are of another model than this code builds: give the model the sizes that they were trained with",
    ),
    (
        Exception,
        r"not compiled with CUDA|NVIDIA driver|same device|weight type|CUDA GPUs",
        "put the model and all tensors on the `device` that load is given",
    ),
    (
        RuntimeError,
        r"same dtype|scalar type|expected m1 and m2|type \(\w+\) and bias",
        "waveforms are float32: call float() on the model in load",
    ),
    (
        RuntimeError,
        r"shapes cannot be multiplied|batched|[Ee]xpected \d.*D |size of tensor|must match|maximum size|Kernel size",
        "encode is given waveforms (windows, samples), of min_s seconds or more; waveforms[:, None] adds a channel axis",
    ),
    (
        AttributeError,
        "'NoneType' object has no attribute 'seek'",
        "load's `weights` is None where no weights are declared",
    ),
)


def find_advice(error: BaseException) -> str:
    """What to do about an error of a user's code, by its usual cause; empty where none is known.

    >>> find_advice(RuntimeError("Error(s) in loading state_dict for Net: size mismatch"))[:44]
    'the weights are of another model than this c'
    >>> find_advice(KeyError("conv9"))
    ''
    """
    if (
        isinstance(error, FileNotFoundError)
        and isinstance(error.filename, str)
        and not Path(error.filename).is_absolute()
    ):
        return f"a relative path begins in the folder where bench runs, {Path.cwd()}: use Path(__file__).parent instead"
    words = format_error(error)
    return next((what for kind, found, what in USUAL if isinstance(error, kind) and re.search(found, words)), "")
