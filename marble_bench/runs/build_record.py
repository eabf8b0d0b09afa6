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
from marble_bench.records import results
from marble_bench.runs import identity
from marble_bench.runs.config import RunConfig, departures_of
from marble_bench.runs.inputs import Inputs
from marble_bench.scoring.scores import number

if TYPE_CHECKING:
    import pandas as pd

    from marble_bench.probes.grid import Fitted


def build(
    config: RunConfig,
    inputs: Inputs,
    fitted: Sequence[Fitted],
    chosen: Sequence[Fitted],
    scores: dict[str, Any],
    probe_s: float,
    of_choices: Sequence[dict[str, Any]] = (),
    marks: Sequence[str] = (),
    few_shot: Sequence[dict[str, Any]] = (),
    perturbations: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The record's JSON, in the order of `record.schema.json`.

    of_choices: what else is known of each chosen probe, such as its stem. A separator is a probe too. marks: what is odd
    about features or labels. few_shot, perturbations: as the record has them, where they were asked for.
    """
    found, coverage = inputs.examples, inputs.coverage
    departures = departures_of(config, coverage.mini, coverage.absent, inputs.source.unnamed)
    why_not = departures.reasons()
    commit, dirty = _version.commit()
    return {
        "schema": results.SCHEMA,
        "suite": {"version": _version.version(), "git": commit, "dirty": dirty},
        "protocol": {
            "name": config.probes.protocol.name,
            "version": config.probes.protocol.version,
            "hash": config.probes.protocol.hash,
        },
        "model": inputs.source.model,
        "task": {"name": config.data.named.name, "version": config.task.version, "hash": task_hash(config.data.named)},
        "data": {
            "corpus": config.task.corpus.name,
            "fingerprint": found.fingerprint(),
            "clips": found.counts(),
            "missing": coverage.missing,
            **({"absent": coverage.absent} if coverage.absent else {}),
            "faults": coverage.faults,
            "mini": coverage.mini,
            **({"marks": list(marks)} if marks else {}),
        },
        "selection": {
            "split": "valid",
            "metric": config.task.metrics[0].name,
            "probes": len(fitted),
            "diverged": sum(one.diverged for one in fitted),
            "per_seed": [
                {
                    "seed": one.probe.seed,
                    "layer": _layer_name(one, inputs.features.names),
                    "learning_rate": one.probe.learning_rate,
                    "weight_decay": one.probe.weight_decay,
                    **_more_axes(one),
                    "epoch": one.best_epoch,
                    "valid": number(one.valid),  # none where no validation song has the stem
                    **(of_choices[index] if of_choices else {}),
                }
                for index, one in enumerate(chosen)
            ],
        },
        "scores": scores,
        "cost": {
            **inputs.source.cost,
            "probe_s": round(probe_s, 3),
            "peak_memory_mb": peak_memory_mb(),
        },
        "environment": {
            "python": platform.python_version(),
            "torch": version("torch"),
            "transformers": version("transformers"),
            "device": config.probes.device,
            "dtype": config.features.dtype,
            "platform": platform.platform(),
        },
        "identity": identity.told(inputs, config, departures.variant()),
        "comparable": not why_not,
        "why_not": why_not,
        **({"few_shot": list(few_shot)} if few_shot else {}),
        **({"perturbations": perturbations} if perturbations else {}),
    }


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
