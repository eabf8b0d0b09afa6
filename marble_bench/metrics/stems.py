"""What a separation task reports, in decibels, of a row of numbers for each song: see `marble_bench.metrics.separation`.

A row holds each stem's global SDR, then each stem's median of BSSEval's SDR over the song's windows; NaN where a stem is
silent. `sdr` (main) is the mean over stems of the mean over the songs that have the stem; `museval_sdr` the mean over stems
of the median over songs, so the median of medians. Both are also given by stem, as the published tables do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from marble_bench.metrics.metric import Metric, weighted_nanmean

if TYPE_CHECKING:
    import torch

GLOBAL = "global SDR at 24 kHz, mean over tracks: MARBLE's code, Music Demixing Challenge 2021"
MEDIAN = "BSSEval version 4 at the corpus's rate, median over tracks of the median over windows: museval"


def _metric(name: str, columns: Sequence[int], median: bool, source: str) -> Metric:
    def by_column(values: torch.Tensor) -> torch.Tensor:
        """`(probes, clips, columns)` -> `(probes, columns)`, over the clips that have a value."""
        if not median:
            return values.nanmean(dim=1)
        # between the two in the middle; torch's own takes the lower one
        return values.nanquantile(0.5, dim=1, interpolation="linear")

    def over_songs(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return by_column(outputs[..., list(columns)].double()).nanmean(dim=-1)

    def per_song(outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        return outputs[..., list(columns)].double().nanmean(dim=-1)

    def weighted(outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return weighted_nanmean(outputs[..., list(columns)], weights).nanmean(dim=-1)

    fast = None if median else weighted
    return Metric(name, "stems", over_songs, per_song, source, unit="dB", weighted=fast, smooth=not median)


def stem_metrics(names: Sequence[str]) -> tuple[Metric, ...]:
    """The metrics of a task with these stems; `sdr`, the main one, first.

    >>> [metric.name for metric in stem_metrics(("vocals", "drums"))][:3]
    ['sdr', 'sdr_vocals', 'sdr_drums']
    """
    stems = range(len(names))
    found = []
    for name, first, median, source in (("sdr", 0, False, GLOBAL), ("museval_sdr", len(names), True, MEDIAN)):
        found.append(_metric(name, [first + stem for stem in stems], median, source))
        found += [_metric(f"{name}_{names[stem]}", [first + stem], median, source) for stem in stems]
    return tuple(found)
