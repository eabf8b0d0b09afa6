"""Runs a record again, the same model, task, protocol, layers, seeds and limit, and says how far the scores are apart."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from marble_bench import plugins
from marble_bench.errors import DataError, UsageError
from marble_bench.protocol import find_protocol
from marble_bench.request import Request, corpus_root
from marble_bench.results import VOLATILE, differences, number
from marble_bench.robustness import split_of
from marble_bench.statistics import bootstrap_interval
from marble_bench.stored import Stored, predicted

CLOSE = 1e-6  # scores are made again in double precision from stored single precision

Found = TypeVar("Found")


@dataclass(frozen=True)
class Again:
    """One score of a record and of its rerun. verdict: `same`, `inside` the interval, or `outside`.

    interval: 95 %, what the rerun is judged by. basis: where that is from, `the record`, `its predictions`, or why neither.
    """

    metric: str
    record: float | None
    again: float | None
    difference: float | None
    interval: tuple[float | None, float | None]
    basis: str
    verdict: str


def request_of(
    record: dict[str, Any],
    cache: Path,
    results: Path,
    device: str,
    model: str | None = None,
    task: str | None = None,
    data_dir: Path | None = None,
    weights: Path | None = None,
    offline: bool = False,
) -> Request:
    """The request that would make a record. model, task: files of plug-ins that no name reaches.

    Raises UsageError for a record of features that somebody brought, which are not in it.
    """
    facts = record["model"]
    if str(facts["source"]).startswith("features:"):
        raise UsageError(f"{facts['name']} was scored from features ({facts['source']}), which a record does not hold")
    encoder = (
        plugins.find_encoder(model) if model else _named(plugins.find_encoder, facts["name"], "--model FILE.py:NAME")
    )
    named = plugins.find_task(task) if task else _named(plugins.find_task, record["task"]["name"], "--task FILE.py")
    rules = find_protocol(record["protocol"]["name"])
    mini = record["data"]["mini"]
    # what a run may have been asked beyond that; a version of the suite that does not know it has no such record
    more: dict[str, Any] = {"few_shot": True} if record.get("few_shot") else {}
    more |= {"perturb": tuple(record["perturbations"])} if record.get("perturbations") else {}
    control = _reason(record, r"a control: training labels by (\w+)")
    more |= {"control": control} if control else {}
    return Request(
        named=named,
        protocol=rules,
        encoder=encoder,
        model=encoder.name,
        cache=cache,
        results=results,
        root=None if mini else corpus_root(named, cache, data_dir, None),
        mini=mini,
        weights=weights,
        layers=_reason(record, r"only layers (.+)") or "all",
        seeds=len({one["seed"] for one in record["selection"]["per_seed"]}),  # a seed has a probe for each stem
        limit=int(_reason(record, r"limited to (\d+) clips a split") or 0) or None,
        allow_missing=bool(record["data"]["missing"] or record["data"].get("absent")),
        device=device,
        dtype=record["environment"]["dtype"],
        offline=offline,
        **more,
    )


def _named(find: Callable[[str], Found], name: str, option: str) -> Found:
    """What a record names. Raises UsageError that says how a file of one's own is given, where no name reaches it."""
    try:
        return find(name)
    except UsageError as error:
        raise UsageError(f"{error}; if it is one of your own, give its file: {option}") from error


def _reason(record: dict[str, Any], pattern: str) -> str | None:
    """What a reason for not being comparable says; a run writes it from the flags that it was given."""
    found = (re.fullmatch(pattern, reason) for reason in record["why_not"])
    return next((match.group(1) for match in found if match), None)


def scores_again(old: Stored, again: dict[str, Any]) -> list[Again]:
    """Every score of a record beside that of its rerun; `accuracy, mp3` is one under a perturbation.

    A record has intervals of plain scores and of drops. That of a score under a perturbation is made here, of the
    predictions beside the record; where they do not give that score, the plain score's is moved to where it stands.
    """
    record = old.record
    rows = [
        _again(name, score["test"], again["scores"].get(name, {}).get("test"), tuple(score["ci95"]), "the record")
        for name, score in record["scores"].items()
    ]
    for change, found in record.get("perturbations", {}).items():
        after = again.get("perturbations", {}).get(change, {}).get("scores", {})
        for name, score in found["scores"].items():
            interval, basis = _interval(old, name, change)
            rows.append(_again(f"{name}, {change}", score["test"], after.get(name, {}).get("test"), interval, basis))
    return rows


def _interval(old: Stored, name: str, change: str) -> tuple[tuple[float | None, float | None], str]:
    """The 95 % interval of a score under a perturbation, and what it is from."""
    plain, score = old.record["scores"][name], old.record["perturbations"][change]["scores"][name]["test"]
    try:
        found = predicted(old, name, split_of(change))
    except DataError as error:
        found, why = None, str(error)
    else:
        why = "they are not beside the record"
    if found is not None:
        made = found.metric.compute(found.outputs, found.truth).tolist()
        if score is not None and abs(sum(made) / len(made) - score) <= CLOSE * max(1, abs(score)):
            low, high = bootstrap_interval(found.metric, found.outputs, found.truth, found.groups)
            return (number(low), number(high)), "its predictions"
        why = "they give another score"
    below, above = (_moved(bound, plain["test"], score) for bound in plain["ci95"])
    return (below, above), f"the unchanged score, moved, since its predictions cannot be taken: {why}"


def _moved(bound: float | None, base: float | None, to: float | None) -> float | None:
    return None if bound is None or base is None or to is None else bound - base + to


def _again(
    name: str, old: float | None, new: float | None, interval: tuple[float | None, float | None], basis: str
) -> Again:
    if old is None or new is None:
        return Again(name, old, new, None, interval, basis, "same" if old == new else "outside")
    low, high = interval
    same = abs(new - old) <= 1e-9 * max(1, abs(old))
    inside = low is not None and high is not None and low <= new <= high
    return Again(name, old, new, new - old, interval, basis, "same" if same else "inside" if inside else "outside")


def changed_facts(record: dict[str, Any], again: dict[str, Any]) -> list[str]:
    """What else is not the same, scores and choices left out: versions, data, weights."""
    kept = {
        key: {k: v for k, v in each.items() if k not in (*VOLATILE, "scores", "selection", "perturbations")}
        for key, each in (("old", record), ("new", again))
    }
    return list(differences(kept["old"], kept["new"]))
