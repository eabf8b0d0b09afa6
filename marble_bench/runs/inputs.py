"""The examples of a run with their features, through an encoder and the store; `brought` has those that users bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from marble_bench import audio
from marble_bench.audio import perturb
from marble_bench.core.encoder import Encoder
from marble_bench.core.schemes import scheme_of
from marble_bench.core.task import Task
from marble_bench.data import examples
from marble_bench.data.examples import Example, Examples
from marble_bench.encoders.weights import Weights
from marble_bench.errors import DataError, counted, listing
from marble_bench.features import oddities
from marble_bench.features.fingerprint import Guard
from marble_bench.features.frames import Frames, Sound
from marble_bench.features.jobs import TOO_SHORT, Cost
from marble_bench.features.store import Span, Store
from marble_bench.features.types import Features
from marble_bench.runs.config import Callbacks, DataConfig, RunConfig
from marble_bench.scoring import targets

if TYPE_CHECKING:
    from marble_bench.features.pooled import Item

Check = Callable[[Examples], None]  # looks at the examples before any is encoded


@dataclass(frozen=True)
class Coverage:
    """What of the published corpus a run has.

    missing: clips that are listed and cannot be used, by their `audio`. faults: clips left out for a fault that the corpus
    is known for. unlisted: how many published clips the annotations do not list. too_short: clips that the protocol's
    padded windows leave out, and why.
    """

    mini: bool
    missing: list[str]
    faults: list[dict[str, str]] = field(default_factory=list)
    unlisted: int = 0
    too_short: list[dict[str, str]] = field(default_factory=list)

    @property
    def absent(self) -> int:
        """How many published clips the run lacks."""
        return len(self.missing) + self.unlisted


@dataclass(frozen=True)
class FeatureSource:
    """Where features are from. model, cost: as the record has them.

    stores: where they are kept; none where they were brought. this_pass: what was encoded now, which is nothing where all
    was stored. unnamed: brought features have several layers, and nobody said their names.
    """

    model: dict[str, Any]
    cost: dict[str, Any]
    stores: Sequence[Store] = ()
    this_pass: Cost = field(default_factory=Cost)
    unnamed: bool = False


@dataclass(frozen=True)
class PerturbedExamples:
    """The test examples after a perturbation, with the labels that they then have, and their features when asked for.

    One whose label has left the task's labels is not among them.
    """

    examples: Examples
    load: Callable[[], Features | Frames]


@dataclass(frozen=True)
class Inputs:
    """The examples of a run with their features, pooled or frame by frame.

    summable: the layers of `features` that a weighted sum can run over. warnings: what is odd about the sounds, or how
    features that the user brought were read. perturbed: by name of the perturbation.
    """

    examples: Examples
    features: Features | Frames
    source: FeatureSource
    coverage: Coverage
    summable: tuple[int, ...] = ()
    warnings: list[str] = field(default_factory=list)
    perturbed: dict[str, PerturbedExamples] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodingInputs:
    """The examples of a run whose files are there, and the encoder's weights.

    coverage: what is known before any file is decoded. guard: compares the encoder with its stored features.
    """

    examples: Examples
    coverage: Coverage
    weights: Weights
    guard: Guard


@dataclass(frozen=True)
class PooledInputs:
    """The usable examples of a run, each with its span in the store of an encoder's pooled features."""

    examples: Examples
    store: Store
    spans: list[Span]
    ready: EncodingInputs
    coverage: Coverage
    cost: Cost
    warnings: list[str]


def to_encode(
    config: RunConfig, callbacks: Callbacks, digests: Callable[[Sequence[Path]], list[str]] | None = None
) -> EncodingInputs:
    """Find the files of a run's clips, and fetch the encoder's weights if they are not in the cache.

    digests: makes the digests that identify clips from their paths; by default the sha256 of each file.
    """
    from marble_bench.encoders import weights
    from marble_bench.features import pooled
    from marble_bench.files.download import make_line_callbacks

    root, ours = config.data.folder(), config.features
    assert root is not None
    assert ours.encoder is not None
    found = examples.find(config.data.named, root, config.data.limit, config.data.allow_missing)
    downloads = make_line_callbacks(callbacks.say)
    loaded = weights.resolve(ours.encoder, ours.cache, override=ours.weights, offline=ours.offline, callbacks=downloads)
    load, on_cpu = (partial(ours.encoder.load, loaded.path, device) for device in (ours.device, "cpu"))
    guard = Guard(ours.encoder, load, ours.device, ours.fresh_before, callbacks.say, on_cpu)
    known_by = (digests or partial(pooled.compute_digests, allow_unread=True))(found.examples.paths)
    rows = [replace(row, digest=digest) for row, digest in zip(found.examples, known_by, strict=True)]
    return EncodingInputs(Examples(rows), Coverage(found.mini, found.missing, [], found.unlisted), loaded, guard)


def ensure_pooled(config: RunConfig, callbacks: Callbacks, check: Check | None = None) -> PooledInputs:
    """See that the pooled features of every clip on disk are stored."""
    ready = to_encode(config, callbacks)
    if check:
        check(ready.examples)
    items = _make_items(config, ready.examples)
    store, spans, cost = _extract_pooled(config, callbacks, ready, items)
    usable, coverage = leave_out(config.data, ready, cost.damaged, callbacks, cost.too_short)
    used = ready.examples.only(usable)
    spans = [spans[place] for place in usable]
    warnings = describe_oddities([(name, cost.odd.get(span, ())) for name, span in zip(used.ids, spans, strict=True)])
    return PooledInputs(used, store, spans, ready, coverage, cost, warnings)


def _make_items(config: RunConfig, found: Examples) -> list[Item]:
    """Examples as extraction takes them."""
    from marble_bench.features.pooled import Item

    rate = config.task.corpus.sample_rate_hz
    return [Item(row.clip, path, row.digest, rate) for row, path in zip(found, found.paths, strict=True)]


def _extract_pooled(
    config: RunConfig, callbacks: Callbacks, ready: EncodingInputs, items: Sequence[Item], change: str = ""
) -> tuple[Store, list[Span], Cost]:
    """See that the pooled features of some items are stored. change: see `pooled.extract`."""
    from marble_bench.features import pooled as extract

    ours = config.features
    assert ours.encoder is not None
    return extract.extract(
        items,
        ours.encoder,
        ready.weights,
        config.task.window,
        ours.cache,
        ours.device,
        callbacks.features,
        dtype=ours.dtype,
        workers=ours.workers,
        engine=ours.engine,
        batch_size=ours.batch_size,
        remote_url=ours.remote_url,
        say=callbacks.say,
        guard=ready.guard,
        change=change,
        pools=order_pools(config),
    )


def order_pools(config: RunConfig) -> tuple[str, ...]:
    """What is stored of each window's frames: what the run reads first, then what shares its pass."""
    own = config.probes.variants.pool
    return (own, *(pool for pool in config.features.pools if pool != own))


def describe_oddities(odd: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """A line for each thing that is odd about some clips' sounds. odd: clips by their ids, with the names of `ODDITIES`."""
    return [
        f"{len(ids)} {'clip' if len(ids) == 1 else 'clips'} {audio.ODDITIES.get(kind, kind)}: {listing(ids)}"
        for kind, ids in sorted(oddities.group_by_kind(odd).items())
    ]


def extract_features(config: RunConfig, callbacks: Callbacks, check: Check) -> Inputs:
    """Pooled features of every clip on disk, through the store."""
    from marble_bench.features import pooled as extract

    encoder = config.features.encoder
    assert encoder is not None
    found = ensure_pooled(config, callbacks, check)
    return Inputs(
        examples=found.examples,
        features=extract.load(found.store, found.spans),
        source=FeatureSource(
            list_model_facts(encoder, found.ready.weights), describe_cost(found.cost), [found.store], found.cost
        ),
        coverage=found.coverage,
        summable=encoder.summable,
        warnings=found.warnings,
        perturbed={name: _perturb(config, callbacks, found, name) for name in config.data.perturb},
    )


def _perturb(config: RunConfig, callbacks: Callbacks, found: PooledInputs, name: str) -> PerturbedExamples:
    """See that the features of the test clips after a perturbation are stored; no other clip is changed.

    Raises DataError naming the clips that cannot be changed.
    """
    from marble_bench.features import pooled as extract

    test = found.examples.of("test")
    moved = [(row, perturb.shift_target(config.task.shifted, row.clip.target, name)) for row in test]
    used = Examples(_relabel(row, target) for row, target in moved if target is not None)
    _say_left_out(callbacks, name, len(test) - len(used))
    store, spans, cost = _extract_pooled(config, callbacks, found.ready, _make_items(config, used), change=name)
    _check_perturbed(cost.damaged)
    return PerturbedExamples(used, partial(extract.load, store, spans))


def _relabel(row: Example, target: Any) -> Example:
    return replace(row, clip=replace(row.clip, target=target))


def _say_left_out(callbacks: Callbacks, name: str, count: int) -> None:
    if count:
        callbacks.say(f"{name}: left out {counted(count, 'test clip')} whose new label does not belong to the task")


def _check_perturbed(damaged: dict[str, str]) -> None:
    if damaged:
        raise DataError(f"{counted(len(damaged), 'test clip')} cannot be changed: {listing(damaged.values())}")


def extract_all_frames(
    config: RunConfig, callbacks: Callbacks, layers: Sequence[int], check: Check | None = None
) -> Inputs:
    """Every frame of some of the encoder's layers, for every clip on disk, through the store.

    `summable` is empty: which of the layers a sum runs over is the caller's to say.
    Raises DataError for a clip whose frames cannot be made, or whose annotation goes on behind the end of its audio, before
    any is encoded, unless the user allows it.
    """
    encoder = config.features.encoder
    assert encoder is not None
    ready = to_encode(config, callbacks)
    damaged = _check_labels(config.data, ready.examples)
    if check:
        check(ready.examples.without(damaged))
    sounds, unheard = _list_sounds(config, ready.examples.without(damaged))
    damaged |= unheard
    _check_known(config.data, ready.examples, damaged)
    window = config.task.window
    facts = {"clip_normalize": window.normalize}
    found, cost = extract_frames(config, callbacks, ready, sounds, layers, facts, window.length_s)
    usable, coverage = leave_out(config.data, ready, damaged | cost.damaged, callbacks)
    used = ready.examples.only(usable)
    of_test = [found.lengths_s[place] for place in used.places("test")]
    test = list(zip(used.of("test"), of_test, strict=True))
    odd = [(name, cost.odd.get(span, ())) for name, span in zip(used.ids, found.spans, strict=True)]
    return Inputs(
        examples=used,
        features=found,
        source=FeatureSource(list_model_facts(encoder, ready.weights), describe_cost(cost), found.stores, cost),
        coverage=coverage,
        warnings=describe_oddities(odd),
        perturbed={name: _perturb_frames(config, callbacks, ready, layers, test, name) for name in config.data.perturb},
    )


def extract_frames(
    config: RunConfig,
    callbacks: Callbacks,
    ready: EncodingInputs,
    sounds: Sequence[Sound],
    layers: Sequence[int],
    facts: dict[str, Any],
    piece_s: float | None,
) -> tuple[Frames, Cost]:
    """See that the frames of some sounds are stored. facts, piece_s: see `frames.extract`."""
    from marble_bench.features import frames
    from marble_bench.features.timing import Timing

    ours = config.features
    assert ours.encoder is not None
    return frames.extract(
        sounds,
        ours.encoder,
        ready.weights,
        layers,
        ours.cache,
        facts,
        device=ours.device,
        piece_s=piece_s,
        progress=callbacks.features,
        say=callbacks.say,
        dtype=ours.dtype,
        workers=ours.workers,
        engine=ours.engine,
        batch_size=ours.batch_size,
        remote_url=ours.remote_url,
        guard=ready.guard,
        timing=Timing.of(config.task.target),
    )


def _list_sounds(config: RunConfig, found: Examples) -> tuple[list[Sound], dict[str, str]]:
    """What is to be heard, and why clips cannot be, by their ids."""
    from marble_bench.features.pooled import make_sound

    sounds, damaged = [], {}
    for item in _make_items(config, found):
        clip = item.clip
        try:
            heard = make_sound(item, config.task.window)
            if isinstance(config.task.target, targets.Frames):
                config.task.target.within(clip.target, clip.id, heard.length_s)
        except DataError as error:
            damaged[clip.id] = str(error)
            continue
        sounds.append(heard)
    return sounds, damaged


def _check_labels(data: DataConfig, found: Examples) -> dict[str, str]:
    """What is wrong with clips' targets, by clip. Raises DataError before any is encoded, unless the user allows it."""
    wrong: dict[str, str] = {}
    for row in found:
        try:
            Examples([row]).truth(data.named.task.target)
        except DataError as error:
            wrong[row.clip.id] = str(error)
    _check_known(data, found, wrong)
    return wrong


def _check_known(data: DataConfig, found: Examples, wrong: dict[str, str]) -> None:
    """Raise DataError for clips that are wrong without a known fault, by clip what is wrong, unless the user allows it."""
    known = data.named.task.corpus.find_known_fault
    unknown = [wrong[clip.id] for clip in found.clips if clip.id in wrong and not known(clip.audio)]
    if unknown and not data.allow_missing:
        raise DataError(_explain_unusable(unknown, len(found)))


def _perturb_frames(
    config: RunConfig,
    callbacks: Callbacks,
    ready: EncodingInputs,
    layers: Sequence[int],
    test: Sequence[tuple[Example, float]],
    name: str,
) -> PerturbedExamples:
    """As `_perturb`, frame by frame. test: the test examples, and how many seconds each lasts."""
    from marble_bench.features import pooled as extract

    moved = [(row, _shift_target(config.task, row.clip.target, name, length_s)) for row, length_s in test]
    used = Examples(_relabel(row, target) for row, target in moved if target is not None)
    _say_left_out(callbacks, name, len(test) - len(used))
    window = config.task.window
    sounds = [extract.make_sound(replace(item, change=name), window) for item in _make_items(config, used)]
    facts = {"clip_normalize": window.normalize, "change": extract.name_change(name)}
    found, cost = extract_frames(config, callbacks, ready, sounds, layers, facts, window.length_s)
    _check_perturbed(cost.damaged)
    return PerturbedExamples(used, lambda: found)


def _shift_target(task: Task, target: Any, name: str, length_s: float) -> Any:
    """A clip's target after a perturbation; None where it has left the labels, or nothing is left of it."""
    assert isinstance(task.target, targets.Frames)
    moved = perturb.shift_target(task.shifted, target, name)
    return None if moved is None else task.target.changed(moved, name, length_s)


def leave_out(
    data: DataConfig,
    ready: EncodingInputs,
    damaged: Mapping[str, str],
    callbacks: Callbacks,
    too_short: Mapping[str, str] = MappingProxyType({}),
) -> tuple[list[int], Coverage]:
    """The places of the usable examples, and what the run then has of the corpus.

    damaged: why clips cannot be used, by their ids. too_short: why the protocol's windows leave clips out. Raises DataError
    for a damaged one without a known fault, unless the user allows it.
    """
    faults, unknown = [], []
    for clip in ready.examples.clips:
        if clip.id in damaged:
            fault = data.named.task.corpus.find_known_fault(clip.audio)
            if fault:
                faults.append({"clip": clip.id, "why": fault.what})
                callbacks.say(f"left out {clip.id}, a known fault: {fault.what}")
            else:
                unknown.append(clip)
    if unknown and not data.allow_missing:
        raise DataError(_explain_unusable([damaged[clip.id] for clip in unknown], len(ready.examples)))
    for clip in unknown:
        callbacks.say(f"left out: {damaged[clip.id]}")
    for name, why in too_short.items():
        callbacks.say(f"left out by the protocol: clip '{name}' {why}")
    missing = [*ready.coverage.missing, *(clip.audio for clip in unknown)]
    usable = [place for place, name in enumerate(ready.examples.ids) if name not in damaged and name not in too_short]
    left = [{"clip": name, "why": why} for name, why in too_short.items()]
    return usable, replace(ready.coverage, missing=missing, faults=faults, too_short=left)


def _explain_unusable(why: Sequence[str], clips: int) -> str:
    shown = "\n  ".join(why[:10])
    rest = f"\n  and {len(why) - 10} more" if len(why) > 10 else ""
    if len(why) == clips and all(TOO_SHORT in each for each in why):
        return (
            f"{clips} of {clips} clips are shorter than the encoder's min_s:\n  {shown}{rest}\n"
            "Choose another model, longer clips, or longer windows in the task"
        )
    return (
        f"{len(why)} of {clips} clips cannot be used:\n  {shown}{rest}\n"
        "Mend them, or run with --allow-missing: the record then lists them and is not comparable"
    )


def describe_cost(cost: Cost) -> dict[str, Any]:
    """What a record says of the cost of its features: what they took whenever they were made, in however many passes.

    `cached`: nothing was encoded in this run.
    """
    audio_s, extract_s = cost.whole_audio_s, cost.whole_extract_s
    return {
        "audio_s": round(audio_s, 3),
        "extract_s": round(extract_s, 3),
        "real_time_factor": round(audio_s / extract_s, 2) if audio_s and extract_s else None,
        "feature_mb": round(cost.feature_bytes / 1e6, 3),
        "cached": not cost.audio_s,
    }


def list_model_facts(encoder: Encoder, loaded: Any) -> dict[str, Any]:
    widths = [layer.width for layer in encoder.layers]
    rates = [layer.frame_rate_hz for layer in encoder.layers]
    return {
        "name": encoder.name,
        "version": encoder.version,
        "source": loaded.source,
        "revision": loaded.revision,
        "weights_sha256": loaded.sha256,
        "parameters": encoder.parameters,
        "states": len(widths),
        "width": widths[0] if len(set(widths)) == 1 else widths,
        "sample_rate_hz": encoder.sample_rate_hz,
        "normalize": encoder.normalize,
        "frame_rate_hz": rates[0] if len(set(rates)) == 1 else rates,
        "license": encoder.license,
        "training_data": list(encoder.training_data),
        **({"files": dict(loaded.files)} if scheme_of(encoder.name) and loaded.files else {}),
    }
