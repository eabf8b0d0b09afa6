"""The layers of an encoder that nobody declared: names, widths and frame rates by what it gives for noise.

Two lengths tell which axis is time. A frame rate is the sampling rate over the samples between two frames. These are found
where the count of frames goes up by one, which a bisection of the length finds to the sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from marble_bench import Layer
from marble_bench.core import contract
from marble_bench.core.declared import is_number, shorten_repr
from marble_bench.errors import UsageError

Shapes = dict[str, tuple[int, ...]]  # of each layer, `(windows, frames, width)`
FRAMES = (
    16  # between the two edges of a bisection: a distance of samples that is no whole number is found to a sixteenth
)


def find_layers(
    name: str,
    shapes_on: Callable[[Any], Shapes],
    sample_rate_hz: int,
    min_s: float,
    max_s: float | None,
    frame_rate_hz: float | None,
) -> tuple[tuple[Layer, ...], float]:
    """The layers by what comes out for noise of `min_s` seconds, and of twice that where `max_s` allows it. Also how long a
    window has to be, in seconds, for the frames that are lost at its edges to be few: `min_s`, or more.

    shapes_on: of `(windows, samples)` the shapes of all layers. frame_rate_hz: of those with frames, if it is known.
    Raises UsageError for axes in another order, for layers of a fixed count of frames, and for frames of an unknown
    rate where there is one length alone.
    """
    _check_numbers(name, sample_rate_hz, min_s, max_s)
    lengths = sorted({round(each * sample_rate_hz) for each in (min_s, min(2 * min_s, max_s or 2 * min_s))})
    longest = None if max_s is None else round(max_s * sample_rate_hz)
    tried = [shapes_on(contract.make_noise(contract.WINDOWS, length)) for length in lengths]
    if any(each.keys() != tried[0].keys() for each in tried):
        raise UsageError(f"{name}: {' and '.join(str(len(each)) for each in tried)} layers for noise of two lengths")
    found, rates, shortest_s = [], dict[tuple[int, ...], float | None](), min_s
    for layer in tried[0]:
        shapes = [each[layer] for each in tried]
        frames = tuple(shape[1] for shape in shapes)
        _check_axes(f"{name}: layer '{layer}'", shapes, [length / sample_rate_hz for length in lengths], frame_rate_hz)
        if frames[0] == frames[-1] == 1:  # one vector a window
            rates[frames] = None
        elif frames not in rates:
            rates[frames] = frame_rate_hz or sample_rate_hz / _find_hop(
                partial(_count_frames, shapes_on, layer), lengths, frames, longest
            )
        rate = rates[frames]
        found.append(Layer(layer, shapes[0][2], rate))
        if rate is not None:
            lost = rate * lengths[0] / sample_rate_hz - frames[0]
            shortest_s = max(
                shortest_s, math.ceil(10 * (lost - contract.FRAMES_LOST) / contract.SHARE_LOST / rate) / 10
            )
    return tuple(found), shortest_s


def _check_numbers(name: str, sample_rate_hz: int, min_s: float, max_s: float | None) -> None:
    """Raise UsageError for what is no number, and for a window without a sample."""
    for field, value in (("sample_rate_hz", sample_rate_hz), ("min_s", min_s), ("max_s", max_s or 1)):
        if not is_number(value):
            raise UsageError(f"{name}: {field} is {shorten_repr(value)}: give a number")
    if not sample_rate_hz > 0 or round(min_s * sample_rate_hz) < 1:
        raise UsageError(f"{name}: sample_rate_hz is {sample_rate_hz}, min_s {min_s}: a window has a sample at least")


def _count_frames(shapes_on: Callable[[Any], Shapes], layer: str, length: int) -> int:
    return shapes_on(contract.make_noise(1, length))[layer][1]


def _check_axes(
    layer: str, shapes: Sequence[tuple[int, ...]], seconds: Sequence[float], frame_rate_hz: float | None
) -> None:
    """Raise UsageError for axes in another order, or of unknown order, and for frames that do not grow with the length."""
    (windows, frames, width), last = shapes[0], shapes[-1]
    lengths = " and ".join(f"{each:g} s" for each in seconds)
    what = f"{layer} is {' and '.join(map(str, shapes))} for noise of {lengths}"
    if windows != contract.WINDOWS:
        raise UsageError(f"{what}, {contract.WINDOWS} windows each: the first axis must be that of windows")
    if last[2] != width:
        way = "transpose(1, 2) it" if last[1] == frames > 1 else "return (windows, frames, width)"
        raise UsageError(f"{what}: its last axis grows with the length, and must be the width: {way}")
    if len(shapes) == 1 and frames > 1 and frame_rate_hz is None:
        raise UsageError(
            f"{what}, the only length that it takes, which does not tell time from channels: give frame_rate_hz=, "
            f"{frames / seconds[0]:g} if axis 1 is time; else transpose(1, 2) it first"
        )
    if len(shapes) == 2 and last[1] == frames > 1:
        raise UsageError(
            f"{what}: it has as many frames for both, so the module fills windows up to a fixed length, and a mean over "
            "time would count the filling: give that length as min_s= and max_s="
        )


def _find_hop(
    frames_of: Callable[[int], int], lengths: Sequence[int], frames: Sequence[int], longest: int | None
) -> float:
    """Samples from one frame to the next.

    frames_of: how many there are of so many samples. frames: how many there are of `lengths`. longest: samples of the
    longest window, None for no limit. Two lengths tell it roughly where that leaves no room for a bisection, and
    where the encoder takes only some lengths.
    """
    rough = (lengths[1] - lengths[0]) / (frames[1] - frames[0])
    further = lengths[0] + round(FRAMES * rough)
    if rough < 1 or (longest is not None and further + 2 * rough + 2 > longest):
        return rough
    try:
        first, second = (_find_edge(frames_of, length, rough) for length in (lengths[0], further))
    except UsageError:  # which `shapes_on` raises for what the encoder does not take
        return rough
    if first is None or second is None or second[1] <= first[1]:
        return rough
    return (second[0] - first[0]) / (second[1] - first[1])


def _find_edge(frames_of: Callable[[int], int], length: int, rough: float) -> tuple[int, int] | None:
    """The first length above `length` that has a frame more, and how many it has; None where that is not within two hops."""
    low, high = length, length + 2 * round(rough) + 2
    before = frames_of(low)
    if frames_of(high) <= before:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if frames_of(middle) <= before else (low, middle)
    return high, frames_of(high)
