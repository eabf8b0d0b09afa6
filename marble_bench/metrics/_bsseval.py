"""How near separated stems are to the true ones, in decibels: global SDR, and BSSEval version 4 window by window.

**Global SDR**: `10 log10((sum reference**2 + 1e-7) / (sum (reference - estimate)**2 + 1e-7))` over a whole track and both
channels, as MARBLE's code has it and as the 2021 Music Demixing Challenge ranks. **BSSEval version 4**: SDR, ISR, SIR and
SAR over windows of one second, one set of 512-tap filters for the whole track; a system's score is the median over tracks
of the median over windows. Signals are in [-1, 1].

A stem that is silent all through has no SDR: it is NaN here and left out of every mean and median.

BSSEval is computed here by blocks: the filters need only correlations of up to 511 samples' lag, which are summed block by
block, and each window is projected by itself. That gives `museval`'s values in the memory of one system of equations
(128 MB for four stereo stems) instead of several spectra of the whole track. `museval` is the authority it is tested
against; importing it asks for ffmpeg and ffprobe on the PATH, because it imports `musdb` and `stempeg` to read stems.

Source: F.-R. Stöter, A. Liutkus and N. Ito, The 2018 Signal Separation Evaluation Campaign, LVA/ICA 2018; `museval`;
Y. Mitsufuji et al., Music Demixing Challenge 2021, Frontiers in Signal Processing 1, 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from marble_bench.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DELTA = 1e-7  # MARBLE's, against a division by zero
TAPS = 512  # of BSSEval's distortion filters
BLOCK = 1 << 15  # length of the transforms that correlations are summed with, in samples
MEASURES = ("sdr", "isr", "sir", "sar")


class Sources(Protocol):
    """Signals read a stretch at a time: an array `(sources, samples, channels)`, or something that acts like one."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(sources, samples, channels)."""

    def __getitem__(self, where: tuple[Any, slice]) -> Any:
        """`[which, first:last]` -> `(sources, samples, channels)`."""


def global_sdr(reference: NDArray[Any], estimate: NDArray[Any]) -> float:
    """The global SDR of one stem in dB; NaN where the reference is silent.

    reference, estimate: of one shape, whatever it is; summed in float64.

    >>> import numpy as np
    >>> tone = np.sin(np.arange(1000) / 10)
    >>> round(global_sdr(tone, 0.9 * tone), 3)
    20.0
    """
    import numpy as np

    if reference.shape != estimate.shape:
        raise UsageError(f"the reference is {reference.shape} and the estimate {estimate.shape}; they must be alike")
    if not reference.any():
        return float("nan")
    exact = reference.astype(np.float64)
    energy = float(np.square(exact).sum())
    exact -= estimate
    return 10 * float(np.log10((energy + DELTA) / (float(np.square(exact).sum()) + DELTA)))


def bss_eval(references: Sources, estimates: Sources, sample_rate_hz: int) -> dict[str, NDArray[Any]]:
    """SDR, ISR, SIR and SAR in dB, each `(sources, windows)`, over windows of one second without overlap.

    references, estimates: `(sources, samples, channels)`, equal lengths. A remainder of less than a second is dropped.
    NaN in every window where a reference or an estimate is silent, as in museval, which refuses a source that is silent all
    through; here it is NaN by itself and the others are measured without it.
    """
    return bss_eval_systems(references, [estimates], sample_rate_hz)[0]


def bss_eval_systems(
    references: Sources, systems: Sequence[Sources], sample_rate_hz: int
) -> list[dict[str, NDArray[Any]]]:
    """`bss_eval` of several systems' estimates of the same references, whose equations are factored once for all."""
    import numpy as np
    from scipy.fft import next_fast_len, rfft

    for estimates in systems:
        if tuple(references.shape) != tuple(estimates.shape):
            raise UsageError(f"references are {references.shape} and estimates {estimates.shape}; they must be alike")
    sources, samples, _ = references.shape
    windows = _windows(samples, sample_rate_hz)
    values = [{name: np.full((sources, len(windows)), np.nan) for name in MEASURES} for _ in systems]
    there = _heard(references)
    alike: dict[tuple[int, ...], list[int]] = {}
    for index, estimates in enumerate(systems):
        alike.setdefault(tuple(np.flatnonzero(there & _heard(estimates))), []).append(index)
    for which, members in alike.items():
        heard = np.array(which, np.int64)
        if not which:
            continue
        size = next_fast_len(windows[0][1] - windows[0][0] + TAPS - 1, real=True)
        every, alone = (rfft(f, size) for f in _filters(references, [systems[index] for index in members], heard))
        for at, (first, last) in enumerate(windows):
            true = _stretch(references, heard, first, last)
            if _silent(true).any():
                continue
            for place, index in enumerate(members):
                guessed = _stretch(systems[index], heard, first, last)
                if not _silent(guessed).any():
                    for name, value in _window(true, guessed, every[place], alone[place], size).items():
                        values[index][name][heard, at] = value
    return values


def median_of_medians(tracks: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Per track `(sources, windows)` -> `(sources,)`: the median over tracks of the median over windows, NaN left out.

    >>> import numpy as np
    >>> median_of_medians([np.array([[1.0, 3.0, np.nan]]), np.array([[6.0]]), np.array([[np.nan]])]).tolist()
    [4.0]
    """
    import numpy as np

    if not tracks:
        raise UsageError("there is no track to take a median over")
    return _median(np.stack([_median(track) for track in tracks], axis=1))


def _median(values: NDArray[Any]) -> NDArray[Any]:
    """`(sources, values)` -> `(sources,)`, NaN where nothing is left."""
    import numpy as np

    rows = [row[~np.isnan(row)] for row in values]
    return np.array([np.median(row) if len(row) else np.nan for row in rows])


def _windows(samples: int, length: int) -> list[tuple[int, int]]:
    """First and last sample of each window; one of all samples where there is less than a window."""
    return [(at, at + length) for at in range(0, samples - length + 1, length)] or [(0, samples)]


def _stretch(signals: Sources, which: NDArray[Any], first: int, last: int) -> NDArray[Any]:
    """`(sources, channels, samples)` float64."""
    import numpy as np

    part = np.asarray(signals[:, first:last])[which]
    return np.ascontiguousarray(np.moveaxis(part, 2, 1), dtype=np.float64)


def _silent(signals: NDArray[Any]) -> NDArray[Any]:
    """`(sources, channels, samples)` -> `(sources,)`: whether the sum of the channels is zero throughout; museval's rule."""
    return (signals.sum(axis=1) == 0).all(axis=1)  # type: ignore[no-any-return]


def _heard(signals: Sources) -> NDArray[Any]:
    """`(sources,)`: which are not silent all through."""
    import numpy as np

    sources, samples, _ = signals.shape
    every = np.arange(sources)
    heard = np.zeros(sources, bool)
    for first in range(0, samples, BLOCK):
        heard |= ~_silent(_stretch(signals, every, first, min(first + BLOCK, samples)))
        if heard.all():
            break
    return heard


def _correlations(references: Sources, systems: Sequence[Sources], heard: NDArray[Any]) -> NDArray[Any]:
    """`(signals, (1 + systems) * signals, 2 * TAPS - 1)`: `sum_n x[n] y[n + lag]` of references with all channels.

    The second axis holds the references' channels, then each system's; lags run from -(TAPS - 1) to TAPS - 1.
    """
    import numpy as np
    from scipy.fft import irfft, rfft

    _, samples, channels = references.shape
    rows, reach = len(heard) * channels, TAPS - 1
    step = BLOCK - 2 * reach
    total = np.zeros((rows, (1 + len(systems)) * rows, BLOCK // 2 + 1), np.complex128)
    for first in range(0, samples, step):
        last = min(first + step, samples)
        around = np.zeros((total.shape[1], last - first + 2 * reach))
        low, high = max(first - reach, 0), min(last + reach, samples)
        into = slice(low - first + reach, high - first + reach)
        for place, signals in enumerate((references, *systems)):
            around[place * rows : (place + 1) * rows, into] = _stretch(signals, heard, low, high).reshape(rows, -1)
        inner = rfft(around[:rows, reach : reach + last - first], BLOCK)
        outer = rfft(around, BLOCK)
        for row in range(rows):
            total[row] += inner[row].conj() * outer
    return np.stack([irfft(row, BLOCK)[:, : 2 * reach + 1] for row in total])


def _gram(lags: NDArray[Any]) -> NDArray[Any]:
    """`(signals, signals, lags)` -> `(signals * TAPS, signals * TAPS)`: products of every two delayed signals."""
    import numpy as np
    from scipy.linalg import toeplitz

    signals = len(lags)
    gram = np.empty((signals * TAPS, signals * TAPS), order="F")
    for row in range(signals):
        for column in range(row + 1):
            ahead = lags[column, row]
            block = toeplitz(ahead[TAPS - 1 :: -1], ahead[TAPS - 1 :])
            gram[row * TAPS : (row + 1) * TAPS, column * TAPS : (column + 1) * TAPS] = block
            gram[column * TAPS : (column + 1) * TAPS, row * TAPS : (row + 1) * TAPS] = block.T
    gram[np.diag_indices_from(gram)] += np.finfo(float).eps
    return gram


def _solve(lags: NDArray[Any], products: NDArray[Any]) -> NDArray[Any]:
    """Least-squares filters, `(signals, columns, TAPS)` like `products`; lags are `(signals, signals, lags)`."""
    import warnings

    import numpy as np
    from scipy.linalg import LinAlgWarning, lstsq, lu_factor, lu_solve

    signals, columns, _ = products.shape
    right = np.moveaxis(products, 2, 1).reshape(signals * TAPS, columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # an exact zero is looked for below
        factor, pivots = lu_factor(_gram(lags), overwrite_a=True, check_finite=False)
    if np.diagonal(factor).all():
        found = lu_solve((factor, pivots), right, check_finite=False)
    else:
        found = lstsq(_gram(lags), right, check_finite=False)[0]
    return np.moveaxis(found.reshape(signals, TAPS, columns), 1, 2)


def _filters(references: Sources, systems: Sequence[Sources], heard: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Filters that project each system's channels on all references, and on its own source alone.

    `(systems, references' channels, estimates' channels, TAPS)` and `(systems, sources, channels, channels, TAPS)`.
    """
    import numpy as np

    lags = _correlations(references, systems, heard)
    channels, rows = references.shape[2], len(lags)
    products = lags[:, rows:, TAPS - 1 :].copy()
    lags = lags[:, :rows].copy()  # lets go of the rest
    by_system = products.reshape(rows, len(systems), rows, TAPS)
    alone = []
    for source in range(len(heard)):
        own = slice(source * channels, (source + 1) * channels)
        right = by_system[own, :, own].reshape(channels, -1, TAPS)
        alone.append(_solve(lags[own, own], right).reshape(channels, len(systems), channels, TAPS))
    every = _solve(lags, products).reshape(rows, len(systems), rows, TAPS)
    return np.moveaxis(every, 1, 0), np.moveaxis(np.stack(alone), 2, 0)


def _window(
    true: NDArray[Any], guessed: NDArray[Any], every: NDArray[Any], alone: NDArray[Any], size: int
) -> dict[str, NDArray[Any]]:
    """The measures of one window, `(sources,)` each; signals are `(sources, channels, samples)`.

    every, alone: the spectra of the filters, by transforms of `size` samples.
    """
    import numpy as np
    from scipy.fft import irfft, rfft

    sources, channels, samples = true.shape
    length = samples + TAPS - 1
    spectra = rfft(true, size)
    flat = spectra.reshape(sources * channels, -1)
    by_all = np.empty((sources * channels, length))
    for column in range(sources * channels):
        by_all[column] = irfft(np.einsum("rf,rf->f", flat, every[:, column]), size)[:length]
    by_all = by_all.reshape(sources, channels, length)
    by_own = irfft(np.einsum("scf,scdf->sdf", spectra, alone), size)[..., :length]
    rest = np.zeros((2, sources, channels, length))
    rest[0, ..., :samples], rest[1, ..., :samples] = true, guessed
    exact, heard = rest

    def energy(signals: NDArray[Any]) -> NDArray[Any]:
        return np.square(signals).sum(axis=(1, 2))  # type: ignore[no-any-return]

    return {
        "sdr": _decibels(energy(exact), energy(heard - exact)),
        "isr": _decibels(energy(exact), energy(by_own - exact)),
        "sir": _decibels(energy(by_own), energy(by_all - by_own)),
        "sar": _decibels(energy(by_all), energy(heard - by_all)),
    }


def _decibels(part: NDArray[Any], rest: NDArray[Any]) -> NDArray[Any]:
    """`(sources,)`: the ratio in dB, infinite where nothing is left."""
    import numpy as np

    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(rest == 0, np.inf, 10 * np.log10(part / rest))
