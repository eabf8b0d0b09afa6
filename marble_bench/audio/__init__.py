"""The one door to audio: decode, mono, resample, normalise, cut.

`files` decodes in blocks, `sizes` and `mpeg` say how long a file is by what is there, `waveform` holds what is done to
samples.
Mono is the mean of the channels; resampling is by soxr (HQ). Samples are float32 in [-1, 1], times are seconds.
"""

from marble_bench.audio.files import (
    AGAIN,
    CONTAINERS,
    Shape,
    check_header,
    digest,
    read,
    read_channels,
    read_duration_s,
    read_native,
    read_shape,
)
from marble_bench.audio.sizes import Size, measure
from marble_bench.audio.waveform import ODDITIES, Channel, Normalize, cut, cut_padded, normalize, resample

__all__ = [
    "AGAIN",
    "CONTAINERS",
    "ODDITIES",
    "Channel",
    "Normalize",
    "Shape",
    "Size",
    "check_header",
    "cut",
    "cut_padded",
    "digest",
    "measure",
    "normalize",
    "read",
    "read_channels",
    "read_duration_s",
    "read_native",
    "read_shape",
    "resample",
]
