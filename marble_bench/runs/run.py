"""One run, top to bottom: features of every clip, a grid of probes, the choice by validation, the score, the record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from marble_bench.core.torch_state import default_torch
from marble_bench.data import corpus, examples
from marble_bench.encoders import weights
from marble_bench.errors import BenchError, UsageError
from marble_bench.records import claims, results
from marble_bench.records.record import MOST_CHOICES, Record
from marble_bench.runs import build_record, predictions, robustness
from marble_bench.runs.config import Callbacks, FeatureConfig, Outcome, RunConfig, find_departures
from marble_bench.runs.devices import using_its_device
from marble_bench.runs.inputs import Inputs
from marble_bench.runs.kinds import Job, find_kind
from marble_bench.runs.kinds.kind import RunScores
from marble_bench.scoring.scores import convert_number
from marble_bench.scoring.targets import Ranking, Stems

if TYPE_CHECKING:
    import pandas as pd

    from marble_bench.probes import probe_cache
    from marble_bench.probes.grid import TrainedProbe


@default_torch()
@using_its_device
def run(config: RunConfig, callbacks: Callbacks) -> Outcome:
    """Compute, train, choose, score, write. Raises BenchError before anything is written if something is wrong."""
    check(config)
    check_folders(config)
    warn_of_existing_record(config, callbacks)
    with find_kind(config.task.target).prepare(config, callbacks) as job:
        started = time.perf_counter()
        fitted = job.fit()
        chosen = job.choose(fitted)  # by validation alone
        found = job.predict(chosen)
        curve = job.few_shot() if config.probes.few_shot else []
        probe_s = time.perf_counter() - started + sum(cache.earlier_s for cache in job.probe_caches)

        scored = score(job, found, chosen)
        if curve:
            curve.append(_build_full_share(scored, chosen, len(job.inputs.examples.of("train"))))
        lost, changed = robustness.score(job, chosen, found["test"])
        record = build_record.build(
            config, job.inputs, fitted, chosen, scored.scores, probe_s, scored.choices, job.warnings, curve, lost,
            scored.ranked,
        )  # fmt: skip
        check_cached_probes(record, job.probe_caches)
        table = predictions.build_table([*found.values(), *changed])
        outcome = _save(config, job.inputs, callbacks, record, job.grid(fitted), table)
        job.save_more(outcome.path)
        for cache in job.probe_caches:
            cache.clear()
    return outcome


def score(job: Job, found: dict[str, predictions.Predictions], chosen: Sequence[TrainedProbe]) -> RunScores:
    """The scores of a run; what is said of them is added to its warnings, and reported."""
    scored = job.score(found, chosen)
    for warning in scored.warnings:
        job.callbacks.say(f"warning: {warning}")
    job.warnings += scored.warnings
    return scored


def check(config: RunConfig) -> None:
    """Raise UsageError for what can be refused before any work: a record must not tell of what was not done."""
    check_protocol(config)
    _check_variants(config)
    find_kind(config.task.target).check(config)
    check_seeds(config)
    if problem := config.probes.changed_protocol.find_size_problem(config.probes.seeds):
        raise UsageError(f"protocol '{config.probes.protocol.name}': {problem}, or fewer --seeds")
    check_fresh(config.features)
    if config.features.encoder is None:
        _check_brought(config.features)
        if config.data.perturb:
            raise UsageError("--perturb changes audio, but --features brings no audio: give --model")
    if config.output.keep_audio is not None and not isinstance(config.task.target, Stems):
        raise UsageError(
            f"--keep-audio stores separated stems, but task '{config.data.named.name}' separates nothing: leave it out"
        )


def check_protocol(config: RunConfig) -> None:
    """Raise UsageError for a task under a protocol that it cannot be run by, and name one that it can."""
    protocol, named = config.probes.protocol, config.data.named
    if protocol.trains == isinstance(named.task.target, Ranking):
        asks = "ranks items without probes" if protocol.trains else "is answered by probes"
        does = "trains some" if protocol.trains else "trains none"
        raise UsageError(
            f"task '{named.name}' {asks}, and protocol '{protocol.name}' {does}: give --protocol {named.task.protocol}, or "
            "leave --protocol out"
        )


def _check_variants(config: RunConfig) -> None:
    """Raise UsageError for variants that protocol, task, encoder or brought features cannot have, or not together."""
    variants, encoder = config.probes.variants, config.features.encoder
    flags = variants.flags()
    if "train_share" in flags and config.probes.few_shot:
        raise UsageError(f"{flags['train_share']} and --few-shot exclude each other: a curve has its own shares")
    if encoder is None and (given := [flags[fact] for fact in ("pool", "window_s") if fact in flags]):
        raise UsageError(f"{given[0]} says how features are made, and --features brings them: leave it out")
    if "pool" in flags and encoder and all(layer.frame_rate_hz is None for layer in encoder.layers):
        raise UsageError(
            f"{flags['pool']}: {encoder.name} gives one vector for each window, so there are no frames to pool: leave it out"
        )


def _check_brought(features: FeatureConfig) -> None:
    """Raise UsageError for an option that says how features are made, where they are brought."""
    making = {
        "--dtype": features.dtype != "float32",
        "--engine": features.engine != "local",
        "--workers": features.workers is not None,
        "--batch-size": features.batch_size is not None,
        "--store": bool(features.remote_url),
    }
    if given := [option for option, is_given in making.items() if is_given]:
        raise UsageError(f"{given[0]} says how features are made, and --features brings them: leave it out")


def check_seeds(config: RunConfig) -> None:
    """Raise UsageError for more seeds than a record holds choices of, one for each stem."""
    stems = config.task.target.width if isinstance(config.task.target, Stems) else 1
    if config.probes.seeds * stems > MOST_CHOICES:
        raise UsageError(
            f"{config.probes.seeds} seeds are too many: a record holds at most {MOST_CHOICES // stems}; lower --seeds"
        )


def check_folders(config: RunConfig) -> None:
    """Raise BenchError for a folder that cannot be written, before hours of work."""
    results.check_writable(config.output.results)
    if config.output.keep_audio is not None:
        results.check_writable(config.output.keep_audio, "the folder for separated songs", "another --keep-audio")


def check_fresh(features: FeatureConfig) -> None:
    """Raise UsageError if features are to be made anew that are not in the cache."""
    if features.fresh_before is not None and features.encoder is None:
        raise UsageError("--fresh-features computes features again, but --features brings ready ones: leave one out")
    if features.fresh_before is not None and features.remote_url:
        raise UsageError(
            f"--fresh-features moves features in the cache away, but not those at {features.remote_url}: give another "
            "--store URL"
        )


def warn_of_existing_record(config: RunConfig, callbacks: Callbacks) -> None:
    """Say before any work that there is a record where this run's would be written, unless it is to be replaced.

    It cannot be known of features that were brought, of weights that are not here yet, and of clips that turn out to be
    damaged: the end of the run tells of those. Raises UsageError where features are to be made anew, which may give another
    record.
    """
    data, features, output = config.data, config.features, config.output
    if (
        output.overwrite
        or features.encoder is None
        or not results.find_model_folder(output.results, features.model).is_dir()
    ):
        return
    digest = weights.known_digest(features.encoder, features.cache, features.weights)
    if digest is None:
        return
    root, missing = data.folder(), 0
    if data.allow_missing and root is not None:
        there = corpus.find_on_disk(data.named, root, allow_missing=True)
        missing = len(there.missing) + there.unlisted
    variant = find_departures(config, corpus.is_mini(root), missing).variant()
    protocol, task = config.probes.protocol.name, data.named.name
    path = results.place_of(output.results, features.model, digest, protocol, task, variant)
    if not path.is_file():
        return
    if features.fresh_before is not None:
        raise UsageError(
            f"{path} exists already, and --fresh-features may change it: give --overwrite too, or another --results-dir"
        )
    callbacks.say(
        f"{path} exists already; if this run finds another result, it will not be replaced without --overwrite"
    )


def check_cached_probes(record: Record, caches: Sequence[probe_cache.ProbeCacheFolder]) -> None:
    """Raise BenchError, and delete cached probes, if they score otherwise on valid than when they were cached.

    A file that an own metric reads, for one, is in no key.
    """
    if any(each.earlier_s for each in caches) and (wrong := [words for _, words in claims.check_valid_scores(record)]):
        for each in caches:
            each.clear()
        raise BenchError(
            f"stored probes of an interrupted run now have another score ({wrong[0]}). Something has changed that "
            "the code does not show, such as a file that a metric reads. These probes were deleted: run again"
        )


def _save(
    config: RunConfig,
    inputs: Inputs,
    callbacks: Callbacks,
    new_record: Record,
    grid: pd.DataFrame,
    table: pd.DataFrame,
) -> Outcome:
    variant = find_departures(config, inputs.coverage.mini, inputs.coverage.absent, inputs.source.unnamed).variant()
    path = results.record_path(config.output.results, new_record, variant)
    record, written = results.save(path, new_record, grid, table, overwrite=config.output.overwrite, say=callbacks.say)
    return Outcome(record, path, written)


def _build_full_share(scored: RunScores, chosen: Sequence[TrainedProbe], clips: int) -> dict[str, Any]:
    """The last point of a few-shot curve, which is the run itself."""
    main = next(score for score in scored.scores.values() if score["main"])
    return {
        "share": 1.0,
        "clips": clips,
        "valid": [convert_number(one.valid) for one in chosen],
        "test": main["per_seed"],
    }


def plan(config: RunConfig) -> dict[str, Any]:
    """What a run would do, without doing any of it: nothing is fetched, decoded or written but a miniature."""
    check(config)
    variants = config.probes.variants.facts()
    facts: dict[str, Any] = {
        "model": config.features.model,
        "task": config.data.named.name,
        "protocol": config.probes.protocol.name,
        **({"variants": variants} if variants else {}),
    }
    if config.features.encoder is None:
        clips = corpus.list_clips(config.data.named, config.data.root)
        return {**facts, "features": str(config.features.brought), "clips": len(clips)}
    root = config.data.folder()
    assert root is not None
    found = examples.find(config.data.named, root, config.data.limit, config.data.allow_missing)
    return {
        **facts,
        "data": str(root),
        "clips": found.examples.counts(),
        "missing": len(found.missing) + found.unlisted,
        **find_kind(config.task.target).plan(config, found),
        **({"perturb": list(config.data.perturb)} if config.data.perturb else {}),
        "device": config.features.device,
    }
