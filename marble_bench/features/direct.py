"""What an encoder gives for a waveform in memory: every layer's mean over time, in float32, past all stores.

The waveform goes the way of a clip: it is resampled by soxr, normalised as the encoder declares, and cut into equal
windows. Nothing is rounded to half precision, and nothing is stored.
"""

from __future__ import annotations

import math
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import audio
from marble_bench.core.declared import is_number
from marble_bench.core.encoder import Encode, Encoder, check_layers, recheck
from marble_bench.errors import BenchError, DataError, UsageError
from marble_bench.features.pooled import explain_unfit
from marble_bench.features.precision import average_over_time, force_exact
from marble_bench.features.runner import BATCH_S

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOUDEST = 100.0  # of samples in [-1, 1], whatever was added up in them; 16-bit integers go to 32768


def encode_waveform(
    encoder: Encoder, encode: Encode, waveform: Any, sample_rate_hz: float, window_s: float | None, device: str
) -> list[NDArray[np.float32]]:
    """Every layer's mean over time of each window, `(windows, width)` float32.

    waveform: `(samples,)` at `sample_rate_hz`, an array or a tensor. window_s: seconds of a window; None for one window of
    all, or windows of what the encoder takes at most. Raises UsageError for a waveform that is none, DataError for one that
    is too short or holds no numbers.
    """
    import numpy as np
    import torch

    windows = cut_windows(encoder, waveform, sample_rate_hz, window_s)
    step = max(1, int(BATCH_S * encoder.sample_rate_hz) // windows.shape[1])
    found: list[list[NDArray[np.float32]]] = []
    with force_exact(device), torch.inference_mode():
        for start in range(0, len(windows), step):
            batch = torch.from_numpy(np.ascontiguousarray(windows[start : start + step])).to(device)
            try:
                layers = check_layers(encoder.name, encoder.layers, encode(batch, average_over_time))
            except torch.OutOfMemoryError as error:
                length_s = windows.shape[1] / encoder.sample_rate_hz
                raise BenchError(
                    f"{encoder.name}: windows of {length_s:.1f} s do not fit the memory of {device}: give shorter ones "
                    "(window_s), or device='cpu'"
                ) from error
            found.append([_values(encoder, index, layer, len(batch)) for index, layer in enumerate(layers)])
    recheck(encoder)
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _values(encoder: Encoder, index: int, layer: Any, windows: int) -> NDArray[np.float32]:
    """A layer of one batch. Raises BenchError if it is not as declared, or holds no numbers."""
    import numpy as np

    declared, values = encoder.layers[index], layer.float().cpu().numpy()
    if values.shape != (windows, declared.width):
        raise BenchError(
            f"{encoder.name}: layer '{declared.name}' came out as {values.shape}; declared are ({windows}, {declared.width})"
        )
    if not np.isfinite(values).all():
        raise BenchError(f"{encoder.name}: layer '{declared.name}' has NaN or infinity for this waveform")
    found: NDArray[np.float32] = values
    return found


def cut_windows(encoder: Encoder, waveform: Any, sample_rate_hz: float, window_s: float | None) -> NDArray[np.float32]:
    """`(windows, samples)` of a waveform at the encoder's rate, normalised as it declares; see `encode_waveform`."""
    rate = encoder.sample_rate_hz
    samples = audio.resample(check_waveform(waveform), _check_rate(sample_rate_hz), rate)
    length_s = len(samples) / rate
    if window_s is None and encoder.max_s is not None and length_s > encoder.max_s:
        window_s = encoder.max_s
    if window_s is not None and not (is_number(window_s) and window_s > 0):
        raise UsageError(f"window_s is {window_s!r}: give seconds above 0, or None for one window of all")
    if why := explain_unfit(length_s if window_s is None else window_s, encoder):
        raise DataError(f"the waveform of {length_s:.3f} s {why}")
    try:
        length = None if window_s is None else round(window_s * rate)
        return audio.cut(audio.normalize(samples, encoder.normalize), length)
    except DataError as error:
        raise DataError(f"a waveform of {length_s:.3f} s is shorter than window_s={window_s:g}: {error}") from error


def _check_rate(sample_rate_hz: float) -> int:
    is_rate = (
        isinstance(sample_rate_hz, Real) and not isinstance(sample_rate_hz, bool) and math.isfinite(sample_rate_hz)
    )
    if not is_rate or sample_rate_hz != int(sample_rate_hz) or sample_rate_hz < 1:
        raise UsageError(f"sample_rate_hz is {sample_rate_hz!r}: give the waveform's samples per second, such as 44100")
    return int(sample_rate_hz)


def check_waveform(waveform: Any) -> NDArray[np.float32]:
    """A waveform as `(samples,)` float32: an array, a tensor or a list of numbers in [-1, 1].

    Raises UsageError for one of several channels, of integers or of another shape, DataError for silence, NaN and infinity.
    """
    import numpy as np

    detached = waveform.detach().cpu() if hasattr(waveform, "detach") else waveform  # of torch, on whatever device
    try:
        values = np.asarray(detached)
    except (ValueError, TypeError) as error:
        raise UsageError(_explain_no_array(waveform)) from error
    if not values.ndim:
        raise UsageError(_explain_no_array(waveform))
    if values.ndim == 2 and 1 in values.shape:
        values = values.reshape(-1)  # one channel, as some readers give it
    if values.ndim != 1:
        raise UsageError(
            f"the waveform has the shape {values.shape}: give one channel, (samples,), such as waveform.mean(axis=0) of "
            "(channels, samples)"
        )
    if not np.issubdtype(values.dtype, np.floating):
        raise UsageError(
            f"the waveform holds {values.dtype}: give floating-point samples in [-1, 1]; divide 16-bit integers by 32768"
        )
    if not len(values):
        raise DataError("the waveform is empty")
    if not np.isfinite(values).all():
        raise DataError("the waveform has samples that are NaN or infinite")
    if not values.any():
        raise DataError("the waveform is silent: all samples are 0")
    if (largest := float(np.abs(values).max())) > LOUDEST:
        raise UsageError(
            f"the waveform reaches {largest:,.0f}: give samples in [-1, 1]; divide by 32768 what was read as 16-bit integers"
        )
    return values.astype(np.float32)


def _explain_no_array(waveform: object) -> str:
    """What is said of a waveform that is no array, with the way from what is often given instead."""
    ways: tuple[tuple[type | tuple[type, ...], str], ...] = (
        ((str, Path), "read the file first, such as samples, rate = soundfile.read(path)"),
        (dict, "take the samples out of it, such as ['array'] of a data set of the hub"),
        (tuple, "take the samples out of it, such as [0] of what a reader returns with the rate"),
    )
    way = next((each for kinds, each in ways if isinstance(waveform, kinds)), "one number for each sample")
    return f"the waveform is of type {type(waveform).__name__}: give an array of samples; {way}"
