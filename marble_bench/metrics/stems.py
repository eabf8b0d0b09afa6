"""What a separation task reports, in decibels, of a row of numbers for each song: see `marble_bench.metrics._bsseval`.

A row holds each stem's global SDR, then each stem's median of BSSEval's SDR over the song's windows; NaN where a stem is
silent. `sdr` (main) is the mean over stems of the mean over the songs that have the stem; `museval_sdr` the mean over stems
of the median over songs, so the median of medians. Both are also given by stem, as the published tables do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from marble_bench.metrics._bsseval import bss_eval_systems, global_sdr
from marble_bench.scoring.metric import Metric, weighted_nanmean

if TYPE_CHECKING:
    import torch

STEMS = ("vocals", "drums", "bass", "other")  # of MUSDB18; a task with others makes its own metrics
GLOBAL = "global SDR at 24 kHz, mean over tracks: MARBLE's code, Music Demixing Challenge 2021"
MEDIAN = "BSSEval version 4 at the corpus's rate, median over tracks of the median over windows: museval"


def _over_songs(columns: Sequence[int], median: bool, outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """`(probes,)`: over the songs that have a value, and then over the columns."""
    values = outputs[..., list(columns)].double()
    if not median:
        return values.nanmean(dim=1).nanmean(dim=-1)
    # between the two in the middle; torch's own median takes the lower one
    return values.nanquantile(0.5, dim=1, interpolation="linear").nanmean(dim=-1)


def _per_song(columns: Sequence[int], outputs: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return outputs[..., list(columns)].double().nanmean(dim=-1)


def _weighted(
    columns: Sequence[int], outputs: torch.Tensor, truth: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """Over the columns that have a value at all; NaN where a replicate leaves one of them without any."""
    chosen = outputs[..., list(columns)]
    there = (~chosen.isnan()).any(dim=1)
    return weighted_nanmean(chosen, weights).masked_fill(~there, 0.0).sum(dim=-1) / there.sum(dim=-1)


def _metric(name: str, columns: Sequence[int], median: bool, source: str) -> Metric:
    return Metric(
        name,
        "stems",
        partial(_over_songs, columns, median),
        partial(_per_song, columns),
        source,
        unit="dB",
        weighted=None if median else partial(_weighted, columns),
        smooth=not median,
        measured_by=(bss_eval_systems,) if median else (global_sdr,),
    )


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


METRIC = stem_metrics(STEMS)
