"""Writes down a run: the record, the table of the whole grid, and the table of predictions."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from marble_bench import _version
from marble_bench.core.keys import task_hash
from marble_bench.core.task import SPLITS, Clip
from marble_bench.data import corpus
from marble_bench.records import results
from marble_bench.runs import identity
from marble_bench.runs.config import Request, departures_of
from marble_bench.runs.inputs import Gathered
from marble_bench.scoring.scores import Answers, number

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from marble_bench.probes.grid import Fitted


def build(
    request: Request,
    data: Gathered,
    fitted: Sequence[Fitted],
    chosen: Sequence[Fitted],
    scores: dict[str, Any],
    probe_s: float,
    said: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """The record's JSON, in the order of `record.schema.json`.

    said: what else is to be told of each chosen probe. A separator is a probe too.
    """
    departures = departures_of(request, data.mini, absent(data), data.unnamed)
    why_not = departures.reasons()
    commit, dirty = _version.commit()
    return {
        "schema": results.SCHEMA,
        "suite": {"version": _version.version(), "git": commit, "dirty": dirty},
        "protocol": {"name": request.protocol.name, "version": request.protocol.version, "hash": request.protocol.hash},
        "model": data.model,
        "task": {"name": request.named.name, "version": request.named.task.version, "hash": task_hash(request.named)},
        "data": {
            "corpus": request.named.task.corpus.name,
            "fingerprint": corpus.fingerprint(data.clips, data.digests),
            "clips": {split: sum(clip.split == split for clip in data.clips) for split in SPLITS},
            "missing": data.missing,
            **({"absent": absent(data)} if absent(data) else {}),
            "faults": data.faults,
            "mini": data.mini,
        },
        "selection": {
            "split": "valid",
            "metric": request.named.task.metrics[0].name,
            "probes": len(fitted),
            "diverged": sum(one.diverged for one in fitted),
            "per_seed": [
                {
                    "seed": one.probe.seed,
                    "layer": _layer_name(one, data.features.names),
                    "learning_rate": one.probe.learning_rate,
                    "weight_decay": one.probe.weight_decay,
                    **_more_axes(one),
                    "epoch": one.best_epoch,
                    "valid": number(one.valid),  # none where no validation song has the stem
                    **(said[index] if said else {}),
                }
                for index, one in enumerate(chosen)
            ],
        },
        "scores": scores,
        "cost": {
            **data.cost,
            "probe_s": round(probe_s, 3),
            "peak_memory_mb": peak_memory_mb(),
        },
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "device": request.device,
            "dtype": request.dtype,
            "platform": platform.platform(),
        },
        "identity": identity.told(data, request, departures.variant()),
        "comparable": not why_not,
        "why_not": why_not,
    }


def absent(data: Gathered) -> int:
    """How many published clips a run had not: those that the record names, and those that the annotations do not list."""
    return len(data.missing) + data.unlisted


def peak_memory_mb() -> float:
    """The process's largest resident size so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)  # bytes there, kilobytes elsewhere


def _layer_name(one: Fitted, names: Sequence[str]) -> str:
    return "sum" if one.probe.layer is None else names[one.probe.layer]


def _more_axes(one: Fitted) -> dict[str, Any]:
    """The probe's place on axes that only some protocols have."""
    values = {name: getattr(one.probe, name) for name in ("hidden", "batch_size", "dropout", "standardize")}
    return {name: value for name, value in values.items() if value is not None}


def grid_table(fitted: Sequence[Fitted], names: Sequence[str]) -> pd.DataFrame:
    """Every probe of the grid: a row each."""
    import pandas as pd

    return pd.DataFrame(
        {
            "layer": [_layer_name(one, names) for one in fitted],
            "learning_rate": [one.probe.learning_rate for one in fitted],
            "weight_decay": [one.probe.weight_decay for one in fitted],
            "seed": [one.probe.seed for one in fitted],
            **{
                name: [getattr(one.probe, name) for one in fitted] for name in (_more_axes(fitted[0]) if fitted else ())
            },
            "valid": [one.valid for one in fitted],
            "best_epoch": [one.best_epoch for one in fitted],
            "diverged": [one.diverged for one in fitted],
            "history": [list(one.history) for one in fitted],
        }
    )


def prediction_table(data: Gathered, answers: Answers, more: Sequence[pd.DataFrame] = ()) -> pd.DataFrame:
    """The chosen probes' outputs for each clip of the valid and test splits, and `more`: a row per seed and clip."""
    import pandas as pd

    tables = []
    for split in ("valid", "test"):
        clips = [clip for clip in data.clips if clip.split == split]
        tables += prediction_rows(split, clips, answers.outputs[split], answers.truth[split])
    return pd.concat([*tables, *more], ignore_index=True)


def prediction_rows(
    split: str, clips: Sequence[Clip], outputs: torch.Tensor, truth: torch.Tensor
) -> list[pd.DataFrame]:
    """A table for each seed. outputs: `(seeds, clips, width)`. truth: `(clips,)` or `(clips, width)`."""
    import pandas as pd

    return [
        pd.DataFrame(
            {
                "split": split,
                "seed": seed,
                "clip": [clip.id for clip in clips],
                "group": [clip.group or clip.id for clip in clips],
                "truth": [row.reshape(-1).tolist() for row in truth],
                "outputs": values.tolist(),
            }
        )
        for seed, values in enumerate(outputs)
    ]
