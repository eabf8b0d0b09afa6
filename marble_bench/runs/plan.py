"""Before a run: what it would take, and its features made ahead of it."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from marble_bench import audio
from marble_bench.core.encoder import Encoder
from marble_bench.core.keys import FeatureKey
from marble_bench.data import corpus, examples
from marble_bench.data.examples import Examples
from marble_bench.errors import DataError, UsageError, counted, format_duration, format_speed
from marble_bench.features.store import Span
from marble_bench.features.timing import Timing, Windows
from marble_bench.files.names import name_folder
from marble_bench.records import comparable, results
from marble_bench.records.record import Record
from marble_bench.runs import build_record, inputs, probe_time, run
from marble_bench.runs.config import Callbacks, RunConfig, find_departures
from marble_bench.runs.devices import using_its_device
from marble_bench.runs.frame_layers import choose_frame_layers
from marble_bench.runs.kinds import stems
from marble_bench.runs.probe_time import ProbeTime
from marble_bench.scoring.targets import ClipTarget, Ranking, Stems

MEASURE_S = 3.0  # seconds that a measurement of the rate takes at least
ALIKE_S = 60.0  # seconds of audio that are measured together at most
UNREAD = "0" * 64  # in place of a digest where none is needed
DECIDE_PROBES = (
    "mini",
    "limit",
    "layers",
    "seeds",
    "few_shot",
    "control",
    "perturbed",
    "variants",
)  # departures of other probes
READ_FILES = 5  # files that are read to know how fast reading is, within MEASURE_S seconds


def _say_nothing(text: str) -> None:
    """Who says nothing."""


def is_pooled(config: RunConfig) -> bool:
    """Whether a task reads one vector for each window; if not, it reads frames."""
    return isinstance(config.task.target, ClipTarget | Ranking)


def find_frame_layers(config: RunConfig) -> list[int]:
    """The layers whose frames a task's run would store."""
    return choose_frame_layers(config).stored


@using_its_device
def extract(config: RunConfig, callbacks: Callbacks) -> dict[str, Any]:
    """Make the features of a model and a task, and say what there is now and what this pass took.

    `left_out` are clips that cannot be used.
    """
    assert config.features.encoder is not None
    run.check_fresh(config.features)
    facts: dict[str, Any] = {"model": config.features.model, "task": config.data.named.name}
    if is_pooled(config):
        found = inputs.ensure_pooled(config, callbacks)
        stores, used, coverage, cost = [found.store], found.examples, found.coverage, found.cost
    elif isinstance(config.task.target, Stems):
        raise UsageError(
            f"task '{config.data.named.name}' uses features of mixtures that only a run creates: use bench run"
        )
    else:
        data = inputs.extract_all_frames(config, callbacks, find_frame_layers(config))
        stores, used, coverage, cost = list(data.source.stores), data.examples, data.coverage, data.source.this_pass
    outcome = {
        "audio_s": round(cost.audio_s, 3),
        "extract_s": round(cost.extract_s, 3),
        "real_time_factor": round(cost.audio_s / cost.extract_s, 2) if cost.audio_s else None,
        "feature_mb": round(cost.feature_bytes / 1e6, 3),
        "cached": not cost.audio_s,
    }
    where = [str(store.folder) for store in stores]
    return {**facts, "clips": len(used), "left_out": coverage.missing, **outcome, "stores": where}


@using_its_device
def export(config: RunConfig, callbacks: Callbacks, place: Path) -> int:
    """Write the pooled features of a model and a task for others: a file if `place` ends in .parquet, else a folder.

    What is not stored yet is extracted. Returns the rows written. Raises UsageError for a task that reads frames.
    """
    from marble_bench.features import export as writing

    if not is_pooled(config):
        raise UsageError(
            f"task '{config.data.named.name}' reads frames, but an export has one vector for each window, which is "
            "all that --features can bring: choose a task of whole clips. The frames' own files are Arrow files that any "
            "Arrow tool opens (bench features ls, docs/extraction.md)"
        )
    assert config.features.encoder is not None
    found = inputs.ensure_pooled(config, callbacks)
    if place.suffix == ".parquet":
        return writing.to_parquet(found.store, found.examples.clips, found.spans, place)
    window = config.task.window
    about = {
        "encoder": config.features.model,
        "task": config.data.named.name,
        "corpus": config.task.corpus.title,
        "weights sha256": found.ready.weights.sha256,
        "weights from": found.ready.weights.source,
        "encoder's licence": config.features.encoder.license,
        "corpus's licence": config.task.corpus.license,
        "window": "whole clips" if window.length_s is None else f"{window.length_s:g} s",
        "precision": f"computed in {config.features.dtype}, stored in float16",
        "miniature": "yes: synthesised music, not the corpus" if found.coverage.mini else "no",
        "clips left out": len(found.coverage.missing),
    }
    return sum(writing.to_dataset(found.store, found.examples.clips, found.spans, place, about).values())


@dataclass(frozen=True)
class Throughput:
    """How fast features come: seconds of audio a second, where that is from, and the memory the process then took.

    reading: whether reading audio is in it.
    """

    rate: float
    source: str
    memory_mb: float | None
    reading: bool


@using_its_device
def plan(
    config: RunConfig,
    measured: dict[tuple[str, float], Throughput],
    stored: bool = True,
    say: Callable[[str], None] = _say_nothing,
    probe_times: dict[tuple[Any, ...], ProbeTime | None] | None = None,
) -> dict[str, Any]:
    """What the features of a run take that are not stored yet: hours of audio, gigabytes, hours of time, memory.

    Nothing is fetched or written but a miniature. Of the audio only headers are read; where features of the same key are
    stored, every file's bytes too, as features are known by their digest. measured: paces of this machine by encoder and
    window, which is added to; probe_times: likewise, of the first blocks of probes. stored: False counts everything, and
    reads no file for its digest. say: is told before that.
    """
    encoder = config.features.encoder
    assert encoder is not None
    work = _count_work(config, encoder, stored, say)
    throughput = _estimate_throughput(config, encoder, _find_typical_length_s(config, encoder, work), measured)
    throughput = throughput if throughput.reading else _include_reading(throughput, config, work.examples)
    probes = _probe_time(config, encoder, work, {} if probe_times is None else probe_times)
    return {
        "model": config.features.model,
        "task": config.data.named.name,
        "protocol": config.probes.protocol.name,
        "clips": len(work.examples) + work.unreadable,
        "unreadable": work.unreadable,
        "audio_h": round(work.audio_s / 3600, 3),
        "stored_h": None if work.stored_s is None else round(work.stored_s / 3600, 3),
        "features_gb": round(work.needed / 1e9, 4),
        "passes": int(work.left_s > 0),
        "rate": round(throughput.rate, 1),
        "rate_from": throughput.source,
        "hours": round(_count_hearings(config, encoder, work.lengths_s) * work.left_s / 3600 / throughput.rate, 6),
        "memory_mb": throughput.memory_mb,
        "probes": run.plan(config)["probes"],
        **_probe_facts(probes),
        "device": config.features.device,
        "dtype": config.features.dtype,
    }


def _find_typical_length_s(config: RunConfig, encoder: Encoder, work: _Work) -> float:
    """How long most of what an encoder is given at once lasts, in seconds."""
    typical_s = config.task.window.length_s or (statistics.median(work.lengths_s) if work.lengths_s else 10.0)
    limits_s = [each for each in (encoder.max_s, Timing.of(config.task.target).context_s) if each is not None]
    return min([typical_s, *limits_s])


def _count_hearings(config: RunConfig, encoder: Encoder, lengths_s: Sequence[float]) -> float:
    """How often an encoder hears a second of audio: more than once where windows overlap."""
    timing = Timing.of(config.task.target)
    if not timing.is_set or not sum(lengths_s):
        return 1.0
    windows = Windows.of(encoder, config.task.window.length_s, timing)
    return sum(map(windows.count_encoded_s, lengths_s)) / sum(lengths_s)


@dataclass(frozen=True)
class _Work:
    """What a pass has to do. lengths_s: of each example. audio_s: what an encoder hears in all; left_s: of that what is not
    stored, stored_s the rest, None where that is not known. needed: bytes on disk. unreadable: clips that cannot be used."""

    examples: Examples
    mini: bool
    unreadable: int
    lengths_s: list[float]
    audio_s: float
    left_s: float
    stored_s: float | None
    needed: int


def _count_work(config: RunConfig, encoder: Encoder, stored: bool, say: Callable[[str], None]) -> _Work:
    """Look at the headers of a run's files. stored, say: see `plan`."""
    root, task = config.data.folder(), config.task
    assert root is not None
    there = examples.find(config.data.named, root, config.data.limit, config.data.allow_missing)
    lasting, wrong = corpus.measure_lengths_s(
        there.examples.clips, there.examples.path_of(), task.corpus.sample_rate_hz
    )
    for why in wrong.values():
        say(f"cannot be used: {why}")
    for clip_id, why in _find_unfit(config, encoder, there.examples, lasting).items():
        say(f"clip '{clip_id}' {why}: it cannot be used")
        del lasting[clip_id]
    found = there.examples.only(place for place, name in enumerate(there.examples.ids) if name in lasting)
    unreadable = len(there.examples) - len(found)
    lengths = [min(lasting[name], task.window.first_s or math.inf) for name in found.ids]
    if isinstance(task.target, Stems):
        if unreadable:
            raise DataError(f"{unreadable} songs of {root} cannot be read; see bench data check {task.corpus.name}")
        audio_s = stems.count_encoded_s(config, found.clips, lengths, there.mini)
        return _Work(found, there.mini, 0, lengths, audio_s, audio_s, None, _count_bytes(config, encoder, [], audio_s))
    there_is = _find_stored(config, encoder, found, say) if stored else [False] * len(found)
    left = [length for length, is_there in zip(lengths, there_is, strict=True) if not is_there]
    audio_s, left_s = sum(lengths), sum(left)
    stored_s = audio_s - left_s if stored else None
    needed = _count_bytes(config, encoder, left, left_s)
    return _Work(found, there.mini, unreadable, lengths, audio_s, left_s, stored_s, needed)


def _find_stored(
    config: RunConfig,
    encoder: Encoder,
    found: Examples,
    say: Callable[[str], None],
) -> list[bool]:
    """Of each example, whether a pass would find its features. Files are read only where a store of the key has any."""
    from marble_bench.encoders import weights
    from marble_bench.features import pooled, store

    nothing = [False] * len(found)
    digest = weights.known_digest(encoder, config.features.cache, config.features.weights)
    if digest is None:
        return nothing
    window, keys = config.task.window, _make_keys(config, encoder, digest)
    folders = [config.features.cache / "features" / store.name_folder(key.facts()) for key in keys]
    rows = [{*store.index(folder), *_remote_spans(config, folder.name)} for folder in folders]
    if not all(rows):
        return nothing
    paths = found.paths
    say(
        f"reading {counted(len(set(paths)), 'file')} of {config.data.named.name} to see which are stored "
        "(--ignore-stored leaves it out)"
    )
    items = [
        pooled.Item(clip, path, key, None)
        for clip, path, key in zip(found.clips, paths, pooled.compute_digests(paths, allow_unread=True), strict=True)
    ]
    spans = [
        pooled.make_span(item, encoder, window) if is_pooled(config) else pooled.make_sound_span(item) for item in items
    ]
    return [all(span in each for each in rows) for span in spans]


def _make_keys(config: RunConfig, encoder: Encoder, digest: str) -> list[FeatureKey]:
    """The keys of the stores that a run reads. digest: of the encoder's weights."""
    from marble_bench.features import frames, pooled

    window, dtype = config.task.window, config.features.dtype
    if is_pooled(config):
        return [pooled.make_key(encoder, digest, window, dtype, pool=pool) for pool in config.features.pools]
    facts, timing = {"clip_normalize": window.normalize}, Timing.of(config.task.target)
    layers = find_frame_layers(config)
    return [frames.make_key(encoder, digest, layer, facts, window.length_s, dtype, timing) for layer in layers]


def _remote_spans(config: RunConfig, store: str) -> set[Span]:
    """The spans of a store at `--store`, by its manifest there; nothing is fetched for good."""
    if not config.features.remote_url:
        return set()
    from marble_bench.features.remote import RemoteStore

    return RemoteStore(config.features.remote_url).spans(store)


def _probe_time(
    config: RunConfig, encoder: Encoder, work: _Work, measured: dict[tuple[Any, ...], ProbeTime | None]
) -> ProbeTime | None:
    """How long the probes will train: by records of the same, else by a first block; None where neither tells.

    measured: first blocks by all that decides their time, which is added to.
    """
    same = [made for made in _iterate_records(config) if _has_same_probes(config, made)]
    if same:
        return probe_time.of_records(same)
    shape = tuple((layer.width, layer.frame_rate_hz) for layer in encoder.layers)
    key = shape, encoder.summable, config.probes, config.data.named.name, config.data.limit
    if key not in measured:
        measured[key] = probe_time.measure(config, work.examples, work.lengths_s, work.mini)
    return measured[key]


def _has_same_probes(config: RunConfig, made: Record) -> bool:
    """Whether a record has the task, protocol and kind of device of a run, and trained as many probes on as many clips."""
    kinds = [
        (config.data.named.name, config.probes.protocol.name, _kind_of_device(config)),
        (made.task.name, made.protocol.name, made.environment.device),
    ]
    apart = [
        find_departures(config, config.data.mini, 0),
        comparable.find_departures(made, config.probes.protocol.seeds),
    ]
    trained = [tuple(getattr(each, name) for name in DECIDE_PROBES) for each in apart]
    return kinds[0] == kinds[1] and trained[0] == trained[1]


def identify_pass(config: RunConfig) -> tuple[Any, ...]:
    """What two runs must share for the second to find all features of common files stored by the first."""
    kind: Any = "pooled" if is_pooled(config) else (Timing.of(config.task.target), *find_frame_layers(config))
    window = config.task.window
    corpus_ = config.task.corpus
    features = config.features
    return features.model, corpus_.beside or corpus_.name, window, kind, features.dtype, features.pools


def _find_unfit(config: RunConfig, encoder: Encoder, found: Examples, lasting: dict[str, float]) -> dict[str, str]:
    """Why clips are too short or too long to be encoded, by their ids; without those of stems, which are cut as needed."""
    from marble_bench.features import pooled

    if isinstance(config.task.target, Stems):
        return {}
    window = config.task.window
    if not is_pooled(config):
        short = {name: lasting[name] for name in found.ids if lasting.get(name, math.inf) < encoder.min_s}
        return {each: f"lasts {s:.3f} s, and {encoder.name} needs {encoder.min_s:.3f} s" for each, s in short.items()}
    pooled.check_window(encoder, window)
    why = {name: pooled.explain_too_short(lasting[name], encoder, window) for name in found.ids if name in lasting}
    return {clip_id: why for clip_id, why in why.items() if why}


def _count_bytes(config: RunConfig, encoder: Encoder, lengths: Sequence[float], audio_s: float) -> int:
    from marble_bench.features import pooled
    from marble_bench.features.frames import estimate_bytes

    if not is_pooled(config):
        return estimate_bytes(audio_s, encoder, find_frame_layers(config), Timing.of(config.task.target))
    window = config.task.window
    rows = sum(pooled.count_rows(length, window) for length in lengths)
    return rows * pooled.count_row_bytes(encoder, config.features.pools)


def _estimate_throughput(
    config: RunConfig, encoder: Encoder, window_s: float, measured: dict[tuple[str, float], Throughput]
) -> Throughput:
    known = _find_recorded_throughput(config)
    if known:
        return known
    key = encoder.name, window_s
    if key not in measured:
        measured[key] = _measure_throughput(config, encoder, window_s)
    return measured[key]


def _probe_facts(taken: ProbeTime | None) -> dict[str, Any]:
    if taken is None:
        return dict.fromkeys(("probe_hours", "probe_bound", "probe_hours_from"))
    return {"probe_hours": taken.hours, "probe_bound": taken.bound, "probe_hours_from": taken.source}


def _kind_of_device(config: RunConfig) -> str:
    """The device as records have it: `cuda` for any GPU of CUDA."""
    return config.features.device.partition(":")[0]


def _iterate_records(config: RunConfig) -> Iterator[Record]:
    """What the results folder has of this model; what is no record is left out."""
    for path in sorted((config.output.results / name_folder(config.features.model)).glob("*/*/*.json")):
        try:
            yield results.read(path).record
        except DataError:
            continue  # not a record; `bench results check` says what is wrong with it


def _find_recorded_throughput(config: RunConfig) -> Throughput | None:
    """The pace by the latest records of this model on this kind of device in the results folder; None if there are none."""
    found = []
    for record in _iterate_records(config):
        factor, environment = record.cost.real_time_factor, record.environment
        memory = record.cost.peak_memory_mb
        if factor and (environment.device, environment.dtype) == (_kind_of_device(config), config.features.dtype):
            found.append((factor, memory))
    if not found:
        return None
    factors, memories = zip(*found, strict=True)
    return Throughput(
        statistics.median(factors),
        f"{counted(len(found), 'record')} in {config.output.results}",
        max(memories),
        reading=True,
    )


def _include_reading(throughput: Throughput, config: RunConfig, found: Examples) -> Throughput:
    """A pace of encoding, made one of a pass: with some of the files read as a pass reads them, digest included.

    On a CPU readers and encoder share the cores, so their times add up; beside a GPU the slower of both decides.
    """
    from marble_bench.features import pooled

    assert config.features.encoder is not None
    if isinstance(config.task.target, Stems):
        return replace(throughput, source=f"{throughput.source}; reading is not counted")
    rate = config.task.corpus.sample_rate_hz
    seconds, taken, files = 0.0, 0.0, 0
    for row in found[:: max(1, len(found) // READ_FILES)][:READ_FILES]:
        clip, path = row.clip, row.path
        assert path is not None
        if files and taken > MEASURE_S:
            break
        try:
            if not files:
                _read(pooled.Item(clip, path, UNREAD, rate), config)  # loads what reading needs
            began = time.perf_counter()
            audio.digest(path)
            seconds += _read(pooled.Item(clip, path, UNREAD, rate), config)
        except (DataError, OSError):
            continue  # damaged: a pass will name it
        taken += time.perf_counter() - began
        files += 1
    if not seconds:
        return replace(throughput, source=f"{throughput.source}; reading is not counted, as no file could be read")
    cores = config.features.workers or os.cpu_count() or 1
    reading = seconds / taken * cores
    together = (
        min(throughput.rate, reading) if config.features.device != "cpu" else 1 / (1 / throughput.rate + 1 / reading)
    )
    read = f"{counted(files, 'file')} read ({format_speed(reading)} in {counted(cores, 'thread')})"
    source = f"{throughput.source} ({format_speed(throughput.rate)}) and {read}"
    return replace(throughput, rate=together, source=source)


def _read(item: Any, config: RunConfig) -> float:
    """Read one clip as a pass does. Returns its seconds."""
    from marble_bench.features import pooled

    assert config.features.encoder is not None
    rate = config.features.encoder.sample_rate_hz
    return len(pooled.make_sound(item, config.task.window).read(rate)) / rate


def _measure_throughput(config: RunConfig, encoder: Encoder, window_s: float) -> Throughput:
    """Encode noise for a few seconds. Reading audio is not in it. Raises DataError if the weights are not in the cache."""
    import numpy as np
    import torch

    from marble_bench.encoders import weights
    from marble_bench.features.precision import average_over_time

    found = weights.resolve(encoder, config.features.cache, override=config.features.weights, offline=True)
    encode = encoder.load(found.path, config.features.device)
    samples = round(max(window_s, encoder.min_s) * encoder.sample_rate_hz)
    many = config.features.batch_size or max(1, int(ALIKE_S * encoder.sample_rate_hz // samples))
    noise = 0.1 * np.random.default_rng(0).standard_normal((many, samples)).astype(np.float32)
    waves = torch.from_numpy(noise).to(config.features.device)

    def once(batch: Any) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for layer in encode(batch, average_over_time):
                layer.float().cpu()
        return time.perf_counter() - began

    once(waves[:1])  # compiles and warms
    taken, seconds = 0.0, 0.0
    step = 1
    while taken < MEASURE_S:
        taken += once(waves[:step])
        seconds += min(step, many) * samples / encoder.sample_rate_hz
        step = min(2 * step, many)
    source = f"noise through the encoder for {format_duration(taken)}"
    return Throughput(seconds / taken, source, build_record.measure_peak_memory_mb(), reading=False)
