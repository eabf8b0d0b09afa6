"""Writes down a run: the record, the table of the whole grid, and the table of predictions."""

from __future__ import annotations

import platform
import resource
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import UNSET

from marble_bench import _version
from marble_bench.core.keys import hash_task
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Task
from marble_bench.errors import BenchError
from marble_bench.records.comparable import list_departures
from marble_bench.records.record import (
    SCHEMA,
    Choice,
    Cost,
    Data,
    Environment,
    FewShotPoint,
    Identity,
    KnownFault,
    Model,
    Perturbation,
    Record,
    Retrieval,
    RunVariants,
    Score,
    Selection,
    SplitCounts,
    Suite,
    Versioned,
)
from marble_bench.runs import identity
from marble_bench.runs.config import RunConfig, find_departures
from marble_bench.runs.inputs import Inputs
from marble_bench.scoring.scores import convert_number

if TYPE_CHECKING:
    import pandas as pd

    from marble_bench.probes.grid import TrainedProbe

Made = TypeVar("Made")


def build(
    config: RunConfig,
    inputs: Inputs,
    fitted: Sequence[TrainedProbe],
    chosen: Sequence[TrainedProbe],
    scores: dict[str, Any],
    probe_s: float,
    of_choices: Sequence[dict[str, Any]] = (),
    warnings: Sequence[str] = (),
    few_shot: Sequence[dict[str, Any]] = (),
    perturbations: dict[str, Any] | None = None,
    ranked: tuple[Selection, Retrieval] | None = None,
) -> Record:
    """The record of a run, all but its digests, which follow from its tables when it is saved.

    of_choices: what else is known of each chosen probe, such as its stem. A separator is a probe too. warnings: what is odd
    about features or labels. few_shot, perturbations: as the record has them, where asked for. ranked: without probes.
    """
    departures = find_departures(config, inputs.coverage.mini, inputs.coverage.absent, inputs.source.unnamed)
    why_not, named, protocol = departures.list_reasons(), config.data.named, config.probes.protocol
    facts = departures.variants.facts()
    return Record(
        schema=SCHEMA,
        suite=_build_suite(),
        protocol=Versioned(name=protocol.name, version=protocol.version, hash=protocol.hash),
        model=_build_part(inputs.source.model, Model),
        task=Versioned(name=named.name, version=named.task.version, hash=hash_task(named)),
        data=_build_data(named.task, inputs, warnings),
        selection=ranked[0]
        if ranked
        else _build_selection(
            named.task, config.training_protocol, fitted, _build_choices(chosen, inputs.features.names, of_choices)
        ),
        scores=_build_part(scores, dict[str, Score]),
        retrieval=ranked[1] if ranked else UNSET,
        cost=_build_part(
            {**inputs.source.cost, "probe_s": round(probe_s, 3), "peak_memory_mb": measure_peak_memory_mb()}, Cost
        ),
        environment=_build_environment(config),
        departures=list_departures(protocol, named.task.window, config.features.encoder),
        identity=_build_part(identity.record_facts(inputs, config, departures.variant()), Identity),
        comparable=not why_not,
        why_not=tuple(why_not),
        variants=_build_part(facts, RunVariants) if facts else UNSET,
        few_shot=_build_part(few_shot, tuple[FewShotPoint, ...]),
        perturbations=_build_part(perturbations or {}, dict[str, Perturbation]),
    )


def _build_part(facts: Any, kind: type[Made]) -> Made:
    """A part of the record. Raises BenchError with the field if a run found what no record can hold."""
    try:
        return msgspec.convert(facts, kind)
    except msgspec.ValidationError as error:
        raise BenchError(f"this run cannot be written as a record: {error}") from error


def _build_data(task: Task, inputs: Inputs, warnings: Sequence[str]) -> Data:
    """Which clips were used and which were not."""
    found, coverage = inputs.examples, inputs.coverage
    return Data(
        corpus=task.corpus.name,
        fingerprint=found.fingerprint(),
        clips=_build_part(found.counts(), SplitCounts),
        missing=tuple(coverage.missing),
        absent=coverage.absent,
        faults=_build_part(coverage.faults, tuple[KnownFault, ...]),
        too_short=_build_part(coverage.too_short, tuple[KnownFault, ...]),
        mini=coverage.mini,
        marks=tuple(warnings),
    )


def _build_selection(
    task: Task, protocol: Protocol, fitted: Sequence[TrainedProbe], choices: tuple[Choice, ...]
) -> Selection:
    """How validation chose among all probes."""
    return Selection(
        split="valid",
        metric=task.metrics[0].name,
        probes=len(fitted),
        diverged=sum(one.diverged for one in fitted),
        per_seed=choices,
        validated=UNSET if protocol.validated == "clips" else protocol.validated,
        kept=UNSET if protocol.kept == "best" else protocol.kept,
    )


def _build_choices(
    chosen: Sequence[TrainedProbe], names: Sequence[str], of_choices: Sequence[dict[str, Any]]
) -> tuple[Choice, ...]:
    """What validation chose, a probe for each seed, or for each seed and stem. names: of the layers."""
    return tuple(
        Choice(
            seed=one.probe.seed,
            layer=_name_layer(one, names),
            learning_rate=one.probe.learning_rate,
            weight_decay=one.probe.weight_decay,
            epoch=one.best_epoch,
            valid=convert_number(one.valid),  # none where no validation song has the stem
            **_list_more_axes(one),
            **(of_choices[index] if of_choices else {}),
        )
        for index, one in enumerate(chosen)
    )


def _build_environment(config: RunConfig) -> Environment:
    return Environment(
        python=platform.python_version(),
        torch=version("torch"),
        transformers=version("transformers"),
        device=config.features.device.partition(":")[0],
        dtype=config.features.dtype,
        platform=platform.platform(),
    )


def _build_suite() -> Suite:
    commit, dirty = _version.commit()
    return Suite(version=_version.version(), git=commit, dirty=dirty)


def measure_peak_memory_mb() -> float:
    """The process's largest resident size so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1e6 if sys.platform == "darwin" else 1e3), 1)  # bytes there, kilobytes elsewhere


def _name_layer(one: TrainedProbe, names: Sequence[str]) -> str:
    """The name of a probe's layer, or what several layers are put together by."""
    layer = one.probe.layer
    return "sum" if layer is None else layer if isinstance(layer, str) else names[layer]


def _list_more_axes(one: TrainedProbe) -> dict[str, Any]:
    """The probe's place on axes that only some protocols have."""
    values = {name: getattr(one.probe, name) for name in ("hidden", "batch_size", "dropout", "standardize")}
    return {name: value for name, value in values.items() if value is not None}


def build_grid_table(fitted: Sequence[TrainedProbe], names: Sequence[str]) -> pd.DataFrame:
    """Every probe of the grid: a row each."""
    import pandas as pd

    return pd.DataFrame(
        {
            "layer": [_name_layer(one, names) for one in fitted],
            "learning_rate": [one.probe.learning_rate for one in fitted],
            "weight_decay": [one.probe.weight_decay for one in fitted],
            "seed": [one.probe.seed for one in fitted],
            **{
                name: [getattr(one.probe, name) for one in fitted]
                for name in (_list_more_axes(fitted[0]) if fitted else ())
            },
            "valid": [one.valid for one in fitted],
            "best_epoch": [one.best_epoch for one in fitted],
            "diverged": [one.diverged for one in fitted],
            "history": [list(one.history) for one in fitted],
        }
    )
