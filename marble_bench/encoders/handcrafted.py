"""Features that nothing was trained for: MFCC, chroma and a log-mel spectrogram, the floor under every encoder.

`mfcc` and `chroma` are JukeMIR's (Castellon, Donahue and Liang, "Codified audio language modeling learns useful
representations for music information retrieval", ISMIR 2021): librosa at 22,050 Hz with hop 512, on a clip divided by
its largest magnitude. `frames` is what librosa gives for every frame, 22050 / 512 = 43.07 a second; `statistics`, JukeMIR's
feature, are the mean and the standard deviation of the frames and of their first and second differences in time, six
vectors one behind the other: 6 x 20 and 6 x 12 numbers. `--layers statistics` asks for JukeMIR's alone. All statistics
are over one window.

`logmel` is the project's own: 128 mel bands in decibels (10 log10 of the power, floor -100 dB), 50 frames a second; as
`frames`, and as `mean_std`, the bands' means and then their standard deviations.

The decibels of `mfcc` are cut 80 dB below the window's loudest bin, and `chroma` is tuned to the window: both librosa's
defaults, both dependent on where windows are cut, never on other windows. For `frames` the rule is the same, so that
`statistics` are their moments: the window is what is encoded at once, the whole of a sound, or each piece of a sound that
a task has cut into pieces (`musdb`: test songs, 90 s). Across pieces, then, frames of `mfcc` are on one scale but for bins
that lie 80 dB below a piece's loudest, and frames of `chroma` but for a tuning that differs by less than a third of a
semitone. A piece of 90 s has 3,876 frames, 0.5 ms more than 90 s; a song of ten minutes ends 3 ms off.

Chroma's longest filter is 1.604 s long, and no shorter window is taken. Below 65,473 samples (2.97 s) librosa warns that a
transform is longer than the decimated signal, which it then fills up with zeros; the frames at a window's ends, and so at
a piece's beginning, see such zeros at any length.

Windows go through librosa one by one: a stack of them gives other bits, because another product is formed. numpy's and
scipy's BLAS gets one thread while they do. The products are small, and OpenBLAS's threads wait for each other by spinning,
which took most of the time of the cores where reading wants them too; and how it shares out a product changes the last bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from marble_bench import Encode, Encoder, Layer, Pool
from marble_bench.files.locks import one_at_a_time

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# A window `(samples,)` to one array `(frames, width)` per layer.
Compute: TypeAlias = "Callable[[NDArray[np.float32]], list[NDArray[np.float32]]]"

SAMPLE_RATE_HZ = 22050
HOP = 512  # samples; JukeMIR's
COEFFICIENTS, PITCH_CLASSES = 20, 12
MOMENTS = 6  # mean and standard deviation of the values and of their first and second differences
BANDS, FFT = 128, 2048  # librosa's defaults
FRAME_HOP = 441  # samples: 50 log-mel frames a second


def moments(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """`(width, frames)` to `(6 * width,)`: mean and standard deviation of the 0th, 1st and 2nd difference in time."""
    import numpy as np

    differences = [np.diff(values, n=order, axis=1) for order in range(MOMENTS // 2)]
    return np.concatenate([part for each in differences for part in (each.mean(axis=1), each.std(axis=1))])


@cache
def _filters() -> NDArray[np.float32]:
    import librosa

    filters: NDArray[np.float32] = librosa.filters.mel(sr=SAMPLE_RATE_HZ, n_fft=FFT, n_mels=BANDS)
    return filters


def _mel(window: NDArray[np.float32], hop: int) -> NDArray[np.float32]:
    """`(samples,)` to the power `(BANDS, frames)`: librosa's mel spectrogram, with filters that are made once."""
    import librosa
    import numpy as np

    power: NDArray[np.float32] = np.abs(librosa.stft(window, n_fft=FFT, hop_length=hop)) ** 2
    return _filters() @ power


def _both(values: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    """`(width, frames)` to the layers `frames` and `statistics`."""
    return [values.T, moments(values)[None]]


def _mfcc(window: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    import librosa

    return _both(librosa.feature.mfcc(S=librosa.power_to_db(_mel(window, HOP)), n_mfcc=COEFFICIENTS))


def _chroma(window: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    import librosa

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "n_fft=.* is too large")
        warnings.filterwarnings(
            "ignore", "Trying to estimate tuning from empty frequency set"
        )  # silence: concert pitch
        chroma = librosa.feature.chroma_cqt(y=window, sr=SAMPLE_RATE_HZ, hop_length=HOP)
    return _both(chroma)


def _logmel(window: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    import librosa
    import numpy as np

    frames = librosa.power_to_db(_mel(window, FRAME_HOP), top_db=None).T
    return [frames, np.concatenate([frames.mean(axis=0), frames.std(axis=0)])[None]]


def _load(compute: Compute, weights: Path | None, device: str) -> Encode:
    import numpy as np
    import torch
    from threadpoolctl import ThreadpoolController

    noise = np.random.default_rng(0).normal(size=2 * SAMPLE_RATE_HZ).astype(np.float32)
    with one_at_a_time():
        compute(noise / np.abs(noise).max())  # compiles all that is needed later
    libraries = ThreadpoolController()  # knows those that are loaded by now

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        with libraries.limit(limits=1, user_api="blas"):
            windows = [compute(window) for window in waveforms.cpu().numpy()]
        layers = [np.stack(layer).astype(np.float32, copy=False) for layer in zip(*windows, strict=True)]
        return [pool(torch.from_numpy(layer).to(waveforms.device)) for layer in layers]

    return encode


def _encoder(
    name: str, compute: Compute, layers: tuple[Layer, ...], description: str, citation: str, min_s: float
) -> Encoder:
    return Encoder(
        name=name,
        description=description,
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=layers,
        load=partial(_load, compute),
        license="ISC",  # librosa's, which computes them
        citation=citation,
        min_s=min_s,
        normalize="peak",
    )


def _layers(width: int) -> tuple[Layer, ...]:
    return Layer("frames", width, SAMPLE_RATE_HZ / HOP), Layer("statistics", MOMENTS * width)


_JUKEMIR = "Castellon, Donahue and Liang, Codified audio language modeling (JukeMIR), ISMIR 2021"
_LIBROSA = "McFee et al., librosa: audio and music signal analysis in Python, SciPy 2015"

ENCODERS = (
    _encoder(
        "mfcc",
        _mfcc,
        _layers(COEFFICIENTS),
        "20 mel-frequency cepstral coefficients and their moments",
        _JUKEMIR,
        min_s=0.1,
    ),
    _encoder(
        "chroma",
        _chroma,
        _layers(PITCH_CLASSES),
        "Constant-Q energy in 12 pitch classes and its moments",
        _JUKEMIR,
        min_s=1.61,
    ),
    _encoder(
        "logmel",
        _logmel,
        (Layer("frames", BANDS, SAMPLE_RATE_HZ / FRAME_HOP), Layer("mean_std", 2 * BANDS)),
        "Log-mel spectrogram of 128 bands",
        _LIBROSA,
        min_s=0.1,
    ),
)
