"""PyTorch's settings of a whole thread or process, as a script may have made them, and as encoders and probes need them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from marble_bench.errors import UsageError


@contextmanager
def default_torch() -> Iterator[None]:
    """Switch autocast off as long as this is held: precision is what is asked of a run, not what surrounds it.

    Raises UsageError for another default precision or device than PyTorch's own, in which tensors would be made.
    """
    if "torch" not in sys.modules:  # so none of them was made
        yield
        return
    import torch

    if (kind := torch.get_default_dtype()) != torch.float32:
        raise UsageError(
            f"torch.set_default_dtype({kind}) is in force, and encoders and probes are made in float32: call "
            "torch.set_default_dtype(torch.float32) first"
        )
    if (place := torch.get_default_device()).type != "cpu":
        raise UsageError(
            f"torch.set_default_device('{place}') is in force: call torch.set_default_device('cpu') first; device= says "
            "where an encoder runs"
        )
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
