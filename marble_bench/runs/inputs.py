"""The clips of a run with their features: through an encoder and the store, or as the user brings them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from marble_bench import audio
from marble_bench.audio import perturb
from marble_bench.core.encoder import Encoder
from marble_bench.core.task import Clip, Window
from marble_bench.data import corpus, times
from marble_bench.encoders.weights import Weights
from marble_bench.errors import DataError, counted, listing
from marble_bench.features import oddities
from marble_bench.features.fingerprint import Guard
from marble_bench.features.frames import Frames
from marble_bench.features.jobs import Cost
from marble_bench.features.store import Span, Store
from marble_bench.features.types import Features
from marble_bench.records.comparable import BROUGHT
from marble_bench.runs.config import Request, Watch
from marble_bench.scoring.targets import Events


@dataclass(frozen=True)
class Changed:
    """The test clips after a perturbation, with the labels that they then have, and their features when they are asked for.

    A clip whose label has left the task's labels is not among them.
    """

    clips: list[Clip]
    load: Callable[[], Features | Frames]


@dataclass(frozen=True)
class Gathered:
    """The clips of a run with their features, pooled or frame by frame, and where the features are from.

    summable: the layers of `features` that a weighted sum can run over. cost: of all features, as the record has it.
    marks: what is odd about the sounds, or how features that the user brought were read. changed: by name of the
    perturbation. this_pass: what was encoded now, which is nothing where all was stored. stores: where the features are
    kept; none where they were brought. unlisted: how many published clips the annotations do not list. unnamed: brought
    features have several layers, and nobody said their names.
    """

    clips: list[Clip]
    features: Features | Frames
    digests: list[str]
    model: dict[str, Any]
    summable: tuple[int, ...]
    missing: list[str]
    faults: list[dict[str, str]]
    mini: bool
    cost: dict[str, Any]
    marks: list[str] = field(default_factory=list)
    changed: dict[str, Changed] = field(default_factory=dict)
    stores: Sequence[Store] = ()
    this_pass: Cost = field(default_factory=Cost)
    unlisted: int = 0
    unnamed: bool = False


@dataclass(frozen=True)
class Pooled:
    """The usable clips of a run, each with its span in the store of an encoder's pooled features."""

    clips: list[Clip]
    paths: list[Path]
    digests: list[str]
    store: Store
    spans: list[Span]
    weights: Weights
    guard: Guard
    missing: list[str]
    faults: list[dict[str, str]]
    mini: bool
    cost: dict[str, Any]
    this_pass: Cost
    marks: list[str]
    unlisted: int = 0


def pooled(request: Request, watch: Watch, check: Callable[[Sequence[Clip]], None] | None = None) -> Pooled:
    """See that the pooled features of every clip on disk are stored. check: looks at the clips before any is encoded."""
    from marble_bench.features import pooled as extract

    encoder, task = request.encoder, request.named.task
    assert encoder is not None
    here = on_disk(request, watch)
    if check:
        check(here.clips)
    rate = task.corpus.sample_rate_hz
    items = [extract.Item(*each, rate) for each in zip(here.clips, here.paths, here.digests, strict=True)]
    store, spans, cost = extract.extract(
        items,
        encoder,
        here.weights,
        task.window,
        request.cache,
        request.device,
        watch.features,
        dtype=request.dtype,
        workers=request.workers,
        engine=request.engine,
        elsewhere=request.elsewhere,
        say=watch.say,
        guard=here.guard,
    )
    usable, missing, faults = sound(request, here, cost.damaged, watch)
    return Pooled(
        clips=[here.clips[index] for index in usable],
        paths=[here.paths[index] for index in usable],
        digests=[here.digests[index] for index in usable],
        store=store,
        spans=[spans[index] for index in usable],
        weights=here.weights,
        guard=here.guard,
        missing=missing,
        faults=faults,
        mini=here.mini,
        cost=cost_of(cost),
        this_pass=cost,
        marks=marks_of([(here.clips[index].id, cost.odd.get(spans[index], ())) for index in usable]),
        unlisted=here.unlisted,
    )


def marks_of(odd: Sequence[tuple[str, tuple[str, ...]]]) -> list[str]:
    """A line for each thing that is odd about some clips' sounds. odd: clips by their ids, with the names of `ODDITIES`."""
    return [
        f"{len(ids)} {'clip' if len(ids) == 1 else 'clips'} {audio.ODDITIES.get(kind, kind)}: {listing(ids)}"
        for kind, ids in sorted(oddities.by_kind(odd).items())
    ]


def encoder_features(request: Request, watch: Watch, check: Callable[[Sequence[Clip]], None]) -> Gathered:
    """Features of every clip on disk, through the store. check: see `pooled`."""
    from marble_bench.features import pooled as extract

    assert request.encoder is not None
    found = pooled(request, watch, check)
    return Gathered(
        clips=found.clips,
        features=extract.load(found.store, found.spans),
        digests=found.digests,
        model=model_facts(request.encoder, found.weights),
        summable=request.encoder.summable,
        missing=found.missing,
        faults=found.faults,
        mini=found.mini,
        cost=found.cost,
        unlisted=found.unlisted,
        marks=found.marks,
        changed={name: _changed(request, watch, found, name) for name in request.perturb},
        stores=[found.store],
    )


def _changed(request: Request, watch: Watch, found: Pooled, name: str) -> Changed:
    """See that the features of the test clips after a perturbation are stored; no other clip is changed.

    Raises DataError naming the clips that cannot be changed.
    """
    from marble_bench.features import pooled as extract

    encoder, task = request.encoder, request.named.task
    assert encoder is not None
    rate, items = task.corpus.sample_rate_hz, []
    test = [each for each in zip(found.clips, found.paths, found.digests, strict=True) if each[0].split == "test"]
    for clip, path, digest in test:
        target = perturb.moved(task.shifted, clip.target, name)
        if target is not None:
            items.append(extract.Item(replace(clip, target=target), path, digest, rate))
    _say_left_out(watch, name, len(test) - len(items))
    store, spans, cost = extract.extract(
        items,
        encoder,
        found.weights,
        task.window,
        request.cache,
        request.device,
        watch.features,
        dtype=request.dtype,
        workers=request.workers,
        engine=request.engine,
        say=watch.say,
        change=name,
        guard=found.guard,
    )
    _check_changed(cost.damaged)
    return Changed([item.clip for item in items], partial(extract.load, store, spans))


def _say_left_out(watch: Watch, name: str, count: int) -> None:
    if count:
        watch.say(f"{name}: left out {counted(count, 'test clip')} whose label moves out of the task's labels")


def _check_changed(damaged: dict[str, str]) -> None:
    if damaged:
        raise DataError(f"{counted(len(damaged), 'test clip')} cannot be changed: {listing(damaged.values())}")


def encoder_frames(
    request: Request, watch: Watch, layers: Sequence[int], check: Callable[[Sequence[Clip]], None] | None = None
) -> Gathered:
    """Every frame of some of the encoder's layers, for every clip on disk, through the store.

    `summable` is empty: which of the layers a sum runs over is the caller's to say. check: looks at the clips before
    any is encoded.
    Raises DataError for a clip whose frames cannot be had, or whose events lie behind the end of its audio, before any
    is encoded, unless the user allows it.
    """
    from marble_bench.features import frames
    from marble_bench.features import pooled as extract

    encoder, task = request.encoder, request.named.task
    assert encoder is not None
    here = on_disk(request, watch)
    rate = task.corpus.sample_rate_hz
    sounds, damaged = [], _badly_labelled(request, here)
    if check:
        check([clip for clip in here.clips if clip.id not in damaged])
    for clip, path, digest in zip(here.clips, here.paths, here.digests, strict=True):
        if clip.id in damaged:
            continue
        item = extract.Item(clip, path, digest, rate)
        try:
            heard = extract.sound_of(item, task.window)
            if isinstance(task.target, Events):
                times.within(clip.target, clip.id, heard.length_s)
        except DataError as error:
            damaged[clip.id] = str(error)
            continue
        sounds.append(heard)
    _check_known(request, here, damaged)
    found, cost = frames.extract(
        sounds,
        encoder,
        here.weights,
        layers,
        request.cache,
        {"clip_normalize": task.window.normalize},
        device=request.device,
        piece_s=task.window.length_s,
        progress=watch.features,
        say=watch.say,
        dtype=request.dtype,
        workers=request.workers,
        engine=request.engine,
        elsewhere=request.elsewhere,
        guard=here.guard,
    )
    usable, missing, faults = sound(request, here, damaged | cost.damaged, watch)
    test = [
        (extract.Item(here.clips[index], here.paths[index], here.digests[index], rate), length_s)
        for index, length_s in zip(usable, found.lengths_s, strict=True)
        if here.clips[index].split == "test"
    ]
    return Gathered(
        clips=[here.clips[index] for index in usable],
        features=found,
        digests=[here.digests[index] for index in usable],
        model=model_facts(encoder, here.weights),
        summable=(),
        missing=missing,
        faults=faults,
        mini=here.mini,
        cost=cost_of(cost),
        this_pass=cost,
        marks=marks_of([(here.clips[i].id, cost.odd.get(found.spans[at], ())) for at, i in enumerate(usable)]),
        unlisted=here.unlisted,
        changed={name: _changed_frames(request, watch, here, layers, test, name) for name in request.perturb},
        stores=found.stores,
    )


def _badly_labelled(request: Request, here: Here) -> dict[str, str]:
    """What is wrong with clips' targets, by clip. Raises DataError before any is encoded, unless the user allows it."""
    wrong: dict[str, str] = {}
    for clip in here.clips:
        try:
            request.named.task.target.encode([clip.target], [clip.id])
        except DataError as error:
            wrong[clip.id] = str(error)
    _check_known(request, here, wrong)
    return wrong


def _check_known(request: Request, here: Here, wrong: dict[str, str]) -> None:
    """Raise DataError for clips that are wrong without a known fault, by clip what is wrong, unless the user allows it."""
    known = request.named.task.corpus.known_fault
    unknown = [wrong[clip.id] for clip in here.clips if clip.id in wrong and not known(clip.audio)]
    if unknown and not request.allow_missing:
        raise DataError(_cannot_be_used(unknown, len(here.clips)))


def _changed_frames(
    request: Request,
    watch: Watch,
    here: Here,
    layers: Sequence[int],
    test: Sequence[tuple[Any, float]],
    name: str,
) -> Changed:
    """As `_changed`, frame by frame. test: `extract.Item` and seconds of each test clip."""
    from marble_bench.features import frames
    from marble_bench.features import pooled as extract

    encoder, task = request.encoder, request.named.task
    assert encoder is not None
    clips, sounds = [], []
    for item, length_s in test:
        target = perturb.moved_times(item.clip.target, name, length_s)
        if target is not None:
            clips.append(replace(item.clip, target=target))
            sounds.append(extract.sound_of(replace(item, change=name), task.window))
    _say_left_out(watch, name, len(test) - len(clips))
    found, cost = frames.extract(
        sounds,
        encoder,
        here.weights,
        layers,
        request.cache,
        {"clip_normalize": task.window.normalize, "change": extract.change_of(name)},
        device=request.device,
        piece_s=task.window.length_s,
        progress=watch.features,
        say=watch.say,
        dtype=request.dtype,
        workers=request.workers,
        engine=request.engine,
        guard=here.guard,
    )
    _check_changed(cost.damaged)
    return Changed(clips, lambda: found)


@dataclass(frozen=True)
class Here:
    """The clips of a run whose files are there, with these files and their digests, and the encoder's weights.

    guard: compares the encoder with its stored features.
    """

    clips: list[Clip]
    paths: list[Path]
    digests: list[str]
    missing: list[str]
    mini: bool
    weights: Weights
    guard: Guard
    unlisted: int = 0


def on_disk(request: Request, watch: Watch, digests: Callable[[Sequence[Path]], list[str]] | None = None) -> Here:
    """Find the files of a run's clips, and fetch the encoder's weights if they are not in the cache.

    digests: makes the digests that identify clips from their paths; by default the sha256 of each file.
    """
    from marble_bench.encoders import weights
    from marble_bench.features import pooled as extract
    from marble_bench.files.download import in_lines

    assert request.encoder is not None
    root = corpus.folder(request.named.task.corpus, request.cache, request.mini, request.root)
    assert root is not None
    there = corpus.on_disk(request.named, root, request.allow_missing)
    clips = corpus.limited(there.clips, request.limit) if request.limit else list(there.clips)
    path_of = {clip.id: path for clip, path in zip(there.clips, there.paths, strict=True)}
    talk = in_lines(watch.say)
    loaded = weights.resolve(
        request.encoder, request.cache, override=request.weights, offline=request.offline, talk=talk
    )
    paths = [path_of[clip.id] for clip in clips]
    load = partial(request.encoder.load, loaded.path, request.device)
    guard = Guard(request.encoder, load, request.device, request.fresh_before, watch.say)
    known_by = (digests or partial(extract.digests, allow_unread=True))(paths)
    mini = corpus.is_mini(root)
    return Here(clips, paths, known_by, list(there.missing), mini, loaded, guard, there.unlisted)


def sound(
    request: Request, here: Here, damaged: dict[str, str], watch: Watch
) -> tuple[list[int], list[str], list[dict[str, str]]]:
    """Positions of the usable clips, and the lists `missing` and `faults` of the record.

    damaged: why clips cannot be used, by their ids. Raises DataError for one without a known fault, unless the user
    allows it.
    """
    missing, faults = _left_out(request, here.clips, here.missing, damaged, watch)
    return [index for index, clip in enumerate(here.clips) if clip.id not in damaged], missing, faults


def _left_out(
    request: Request, clips: Sequence[Clip], missing: list[str], damaged: dict[str, str], watch: Watch
) -> tuple[list[str], list[dict[str, str]]]:
    """Which clips the record calls missing, and which have a fault that the corpus is known for."""
    faults, unknown = [], []
    for clip in clips:
        if clip.id in damaged:
            fault = request.named.task.corpus.known_fault(clip.audio)
            if fault:
                faults.append({"clip": clip.id, "why": fault.what})
                watch.say(f"left out {clip.id}, a known fault: {fault.what}")
            else:
                unknown.append(clip)
    if unknown and not request.allow_missing:
        raise DataError(_cannot_be_used([damaged[clip.id] for clip in unknown], len(clips)))
    for clip in unknown:
        watch.say(f"left out: {damaged[clip.id]}")
    return missing + [clip.audio for clip in unknown], faults


def _cannot_be_used(why: Sequence[str], clips: int) -> str:
    shown = "\n  ".join(why[:10])
    rest = f"\n  and {len(why) - 10} more" if len(why) > 10 else ""
    return (
        f"{len(why)} of {clips} clips cannot be used:\n  {shown}{rest}\n"
        "Mend them, or run with --allow-missing: the record then lists them and is not comparable"
    )


def own_features(request: Request) -> Gathered:
    """Features that the user brought, for the clips of the task's list."""
    from marble_bench.features import external

    place = request.features
    assert place is not None
    root = corpus.folder(request.named.task.corpus, request.cache, request.mini, request.root)
    unlisted = 0
    if root is not None and corpus.is_mini(root):
        clips = list(corpus.on_disk(request.named, root).clips)
    else:
        clips = corpus.listed(request.named, root)
        unlisted = corpus.count_unlisted(request.named, clips, request.allow_missing)
    if request.limit:
        clips = corpus.limited(clips, request.limit)
    brought = external.read_own(place, [clip.id for clip in clips])
    found, names = brought.tracks, brought.names
    missing = [clip.id for clip in clips if clip.id not in found]
    if missing and not request.allow_missing:
        raise DataError(
            f"{place} has no features of {len(missing)} of the task's {len(clips)} tracks: {listing(missing)}. "
            "Complete them, or run with --allow-missing: the record then lists them and is not comparable"
        )
    clips = [clip for clip in clips if clip.id in found]
    features = external.as_features(found, names, [clip.id for clip in clips])
    widths = [layer.shape[1] for layer in features.layers]
    same = len(set(widths[1:])) == 1
    model = {
        "name": request.model,
        "version": 1,
        "source": f"{BROUGHT}{place.name}",
        "revision": "",
        "weights_sha256": external.digest_of(found),
        "parameters": None,
        "states": len(names),
        "width": widths[0] if len(set(widths)) == 1 else widths,
        "sample_rate_hz": None,
        "frame_rate_hz": None,
        "license": "not stated",
        "training_data": [],
    }
    inner = tuple(range(1, len(names)))
    nbytes = sum(layer.nbytes for layer in features.layers)
    return Gathered(
        clips=clips,
        features=features,
        digests=[""] * len(clips),
        model=model,
        summable=inner if len(inner) > 1 and same else (),
        missing=missing,
        faults=[],
        mini=corpus.is_mini(root),
        cost=cost_of(Cost(feature_bytes=nbytes)),
        marks=[brought.reading(), *_other_windows(clips, found, request.named.task.window)],
        unlisted=unlisted,
        unnamed=not brought.named,
    )


def _other_windows(clips: Sequence[Clip], found: dict[str, list[Any]], window: Window) -> list[str]:
    """A mark where clips have more or fewer windows than the task cuts, as far as that is known without their audio."""
    from marble_bench.features.pooled import rows_of

    apart = []
    for clip in clips:
        length_s = window.first_s if clip.duration_s is None else clip.duration_s
        wanted = 1 if window.length_s is None else None if length_s is None else rows_of(length_s, window)
        has = len(found[clip.id][0])
        if wanted is not None and has != wanted:
            apart.append((clip.id, has, wanted))
    if not apart:
        return []
    name, has, wanted = apart[0]
    return [f"{len(apart)} of {len(clips)} tracks have other windows than the task cuts: '{name}' {has}, not {wanted}"]


def cost_of(cost: Cost) -> dict[str, Any]:
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


def model_facts(encoder: Encoder, loaded: Any) -> dict[str, Any]:
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
    }
