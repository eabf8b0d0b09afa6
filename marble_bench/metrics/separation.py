"""BSSEval version 4 through museval: how near separated sources are to the true ones, in decibels, frame by frame.

Importing `museval` as a package asks for ffmpeg and ffprobe on the PATH, because it imports `musdb` and `stempeg` to
read stems. Its measures need neither, so the module that holds them is loaded by itself.

Source: F.-R. Stöter, A. Liutkus and N. Ito, The 2018 Signal Separation Evaluation Campaign, LVA/ICA 2018; `museval`.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from marble_bench.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray


@lru_cache(maxsize=1)
def museval_measures() -> ModuleType:
    """`museval.metrics` without `museval`'s own import, so without ffmpeg."""
    package = importlib.util.find_spec("museval")
    if package is None or not package.submodule_search_locations:
        raise UsageError("separation is scored with museval, which is not installed: pip install museval")
    path = Path(package.submodule_search_locations[0]) / "metrics.py"
    spec = importlib.util.spec_from_file_location("_museval_metrics", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def bss_eval(references: NDArray[Any], estimates: NDArray[Any], sample_rate_hz: int) -> dict[str, NDArray[Any]]:
    """SDR, ISR, SIR and SAR in dB, each `(sources, frames)`, over windows of one second without overlap.

    references, estimates: `(sources, samples, channels)`, equal lengths. NaN where a source is silent in a frame.
    """
    if references.shape != estimates.shape:
        raise UsageError(f"references are {references.shape} and estimates {estimates.shape}; they must be alike")
    measures = museval_measures().bss_eval(
        references, estimates, window=sample_rate_hz, hop=sample_rate_hz, compute_permutation=False
    )
    return dict(zip(("sdr", "isr", "sir", "sar"), measures[:4], strict=True))
