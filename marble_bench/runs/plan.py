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
from marble_bench.core.task import Clip
from marble_bench.data import corpus
from marble_bench.errors import DataError, UsageError, counted
from marble_bench.files.names import folder_name
from marble_bench.records import results
from marble_bench.runs import build_record, inputs, run, stems
from marble_bench.runs import frame_layers as framed
from marble_bench.runs.config import Request, Watch
from marble_bench.scoring.targets import Classes, Scalars, Stems, Tags

MEASURE_S = 3.0  # seconds that a measurement of the rate takes at least
ALIKE_S = 60.0  # seconds of audio that are measured together at most
UNREAD = "0" * 64  # stands for a digest where none is needed
READ_FILES = 5  # files that are read to know how fast reading is, within MEASURE_S seconds


def _silent(text: str) -> None:
    """Who says nothing."""


def is_pooled(request: Request) -> bool:
    """Whether a task reads one vector for each window; if not, it reads frames."""
    return isinstance(request.named.task.target, Classes | Tags | Scalars)


def frame_layers(request: Request) -> list[int]:
    """The layers whose frames a task's run would store."""
    return run.frame_layers(request).stored


def extract(request: Request, watch: Watch) -> dict[str, Any]:
    """Make the features of a model and a task, and say what there is now and what this pass took.

    `left_out` are clips that cannot be used.
    """
    assert request.encoder is not None
    run.check_fresh(request)
    facts: dict[str, Any] = {"model": request.model, "task": request.named.name}
    if is_pooled(request):
        found = inputs.pooled(request, watch)
        where, clips, missing, cost = [found.store.folder], found.clips, found.missing, found.this_pass
    elif isinstance(request.named.task.target, Stems):
        raise UsageError(
            f"the features of task '{request.named.name}' are those of mixtures that its own run makes: bench run"
        )
    else:
        data = inputs.encoder_frames(request, watch, frame_layers(request))
        where = [store.folder for store in framed.frames_of(data).stores]
        clips, missing, cost = data.clips, data.missing, data.this_pass
    made = {
        "audio_s": round(cost.audio_s, 3),
        "extract_s": round(cost.extract_s, 3),
        "real_time_factor": round(cost.audio_s / cost.extract_s, 2) if cost.audio_s else None,
        "feature_mb": round(cost.feature_bytes / 1e6, 3),
        "cached": not cost.audio_s,
    }
    return {**facts, "clips": len(clips), "left_out": missing, **made, "stores": [str(folder) for folder in where]}


def export(request: Request, watch: Watch, place: Path) -> int:
    """Write the pooled features of a model and a task for others: a file if `place` ends in .parquet, else a folder.

    What is not stored yet is extracted. Returns the rows written. Raises UsageError for a task that reads frames.
    """
    from marble_bench.features import export as writing

    if not is_pooled(request):
        raise UsageError(
            f"task '{request.named.name}' reads frames, and what is exported is a vector for each window, which is all that "
            "--features can bring: choose a task of whole clips. The frames' own files are Arrow files that any Arrow tool "
            "opens (bench features ls, docs/extraction.md)"
        )
    assert request.encoder is not None
    found = inputs.pooled(request, watch)
    if place.suffix == ".parquet":
        return writing.to_parquet(found.store, found.clips, found.spans, place)
    window = request.named.task.window
    about = {
        "encoder": request.model,
        "task": request.named.name,
        "corpus": request.named.task.corpus.title,
        "weights sha256": found.weights.sha256,
        "weights from": found.weights.source,
        "encoder's licence": request.encoder.license,
        "corpus's licence": request.named.task.corpus.license,
        "window": "whole clips" if window.length_s is None else f"{window.length_s:g} s",
        "precision": f"computed in {request.dtype}, stored in float16",
        "miniature": "yes: synthesised music, not the corpus" if found.mini else "no",
        "clips left out": len(found.missing),
    }
    return sum(writing.to_dataset(found.store, found.clips, found.spans, place, about).values())


@dataclass(frozen=True)
class Pace:
    """How fast features come: seconds of audio a second, where that is from, and the memory the process then took.

    reading: whether reading audio is in it.
    """

    rate: float
    source: str
    memory_mb: float | None
    reading: bool


def plan(
    request: Request, measured: dict[tuple[str, float], Pace], stored: bool = True, say: Callable[[str], None] = _silent
) -> dict[str, Any]:
    """What the features of a run take that are not stored yet: hours of audio, gigabytes, hours of time, memory.

    Nothing is fetched or written but a miniature. Of the audio only headers are read; where features of the same key are
    stored, every file's bytes too, as features are known by their digest. measured: paces of this machine by encoder and
    window, which is added to. stored: False counts everything, and reads no file for its digest. say: is told before that.
    """
    encoder, task = request.encoder, request.named.task
    assert encoder is not None
    root = corpus.folder(request.named.task.corpus, request.cache, request.mini, request.root)
    assert root is not None
    there = corpus.on_disk(request.named, root, request.allow_missing)
    clips = corpus.limited(there.clips, request.limit) if request.limit else list(there.clips)
    path_of = {clip.id: path for clip, path in zip(there.clips, there.paths, strict=True)}
    lasting, wrong = corpus.lengths_s(clips, path_of, task.corpus.sample_rate_hz)
    for why in wrong.values():
        say(f"cannot be used: {why}")
    for clip_id, why in _unfit(request, encoder, clips, lasting).items():
        say(f"clip '{clip_id}' {why}: it cannot be used")
        del lasting[clip_id]
    unreadable = len(clips) - len(lasting)
    clips = [clip for clip in clips if clip.id in lasting]
    lengths = [min(lasting[clip.id], task.window.first_s or math.inf) for clip in clips]
    audio_s, left_s, stored_s = sum(lengths), lengths, None
    if isinstance(task.target, Stems):
        if unreadable:
            raise DataError(f"{unreadable} songs of {root} cannot be read; see bench data check {task.corpus.name}")
        audio_s = stems.encoded_s(request, clips, lengths, corpus.is_mini(root))
        needed = _bytes(request, encoder, [], audio_s)
        left = audio_s
    else:
        there_is = _stored(request, encoder, clips, path_of, say) if stored else [False] * len(clips)
        left_s = [length for length, is_there in zip(lengths, there_is, strict=True) if not is_there]
        left = sum(left_s)
        stored_s = audio_s - left if stored else None
        needed = _bytes(request, encoder, left_s, left)
    typical_s = task.window.length_s or (statistics.median(lengths) if lengths else 10.0)
    pace = _pace(request, encoder, min(typical_s, encoder.max_s or typical_s), measured)
    pace = pace if pace.reading else _with_reading(pace, request, clips, path_of)
    return {
        "model": request.model,
        "task": request.named.name,
        "protocol": request.protocol.name,
        "clips": len(clips) + unreadable,
        "unreadable": unreadable,
        "audio_h": round(audio_s / 3600, 3),
        "stored_h": None if stored_s is None else round(stored_s / 3600, 3),
        "features_gb": round(needed / 1e9, 4),
        "passes": int(left > 0),
        "rate": round(pace.rate, 1),
        "rate_from": pace.source,
        "hours": round(left / 3600 / pace.rate, 3),
        "memory_mb": pace.memory_mb,
        "probes": run.plan(request)["probes"],
        "probe_hours": _probe_hours(request),
        "device": request.device,
        "dtype": request.dtype,
    }


def _stored(
    request: Request,
    encoder: Encoder,
    clips: Sequence[Clip],
    path_of: dict[str, Path],
    say: Callable[[str], None],
) -> list[bool]:
    """Of each clip, whether a pass would find its features. Files are read only where a store of the key has any."""
    from marble_bench.encoders import weights
    from marble_bench.features import frames, pooled, store

    nothing = [False] * len(clips)
    digest = weights.known_digest(encoder, request.cache, request.weights)
    if digest is None:
        return nothing
    window = request.named.task.window
    if is_pooled(request):
        keys = [pooled.key_of(encoder, digest, window, request.dtype)]
    else:
        facts = {"clip_normalize": window.normalize}
        layers = frame_layers(request)
        keys = [frames.key_of(encoder, digest, each, facts, window.length_s, request.dtype) for each in layers]
    rows = [store.index(request.cache / "features" / store.folder_name(key.facts())) for key in keys]
    if not all(rows):
        return nothing
    paths = [path_of[clip.id] for clip in clips]
    say(
        f"reading {counted(len(set(paths)), 'file')} of {request.named.name} to see which are stored "
        "(--ignore-stored leaves it out)"
    )
    items = [
        pooled.Item(clip, path, key, None)
        for clip, path, key in zip(clips, paths, pooled.digests(paths, allow_unread=True), strict=True)
    ]
    spans = [pooled.span_of(item, encoder, window) if is_pooled(request) else pooled.sound_span(item) for item in items]
    return [all(span in each for each in rows) for span in spans]


def _probe_hours(request: Request) -> float | None:
    """What the probes took in records of this model, task, protocol and kind of device; None if there are none."""
    took = []
    for made in _records(request):
        try:
            same = (made["task"]["name"], made["protocol"]["name"]) == (request.named.name, request.protocol.name)
            if same and made["environment"]["device"] == request.device and bool(made["data"]["mini"]) == request.mini:
                took.append(made["cost"]["probe_s"])
        except (KeyError, TypeError):
            continue  # not a record; `bench list results` says what is wrong with it
    return round(statistics.median(took) / 3600, 4) if took else None


def same_pass(request: Request) -> tuple[Any, ...]:
    """What two requests must share for the second to find all features of common files stored by the first."""
    kind: Any = "pooled" if is_pooled(request) else tuple(frame_layers(request))
    window = request.named.task.window
    corpus_ = request.named.task.corpus
    return request.model, corpus_.beside or corpus_.name, window, kind, request.dtype


def _unfit(request: Request, encoder: Encoder, clips: Sequence[Clip], lasting: dict[str, float]) -> dict[str, str]:
    """Why clips are too short or too long to be encoded, by their ids; without those of stems, which are cut as needed."""
    from marble_bench.features import pooled

    if isinstance(request.named.task.target, Stems):
        return {}
    window = request.named.task.window
    if not is_pooled(request):
        short = {clip.id: lasting[clip.id] for clip in clips if lasting.get(clip.id, math.inf) < encoder.min_s}
        return {each: f"lasts {s:.3f} s, and {encoder.name} needs {encoder.min_s:.3f} s" for each, s in short.items()}
    pooled.check_window(encoder, window)
    told = {clip.id: pooled.too_short(lasting[clip.id], encoder, window) for clip in clips if clip.id in lasting}
    return {clip_id: why for clip_id, why in told.items() if why}


def _bytes(request: Request, encoder: Encoder, lengths: Sequence[float], audio_s: float) -> int:
    from marble_bench.features import pooled
    from marble_bench.features.frames import estimate_bytes

    if not is_pooled(request):
        return estimate_bytes(audio_s, encoder, frame_layers(request))
    window = request.named.task.window
    return sum(pooled.rows_of(length, window) for length in lengths) * pooled.row_bytes(encoder)


def _pace(request: Request, encoder: Encoder, window_s: float, measured: dict[tuple[str, float], Pace]) -> Pace:
    known = _recorded(request)
    if known:
        return known
    key = encoder.name, window_s
    if key not in measured:
        measured[key] = _measured(request, encoder, window_s)
    return measured[key]


def _records(request: Request) -> Iterator[dict[str, Any]]:
    """What the results folder has of this model; what is no record is left out."""
    for path in sorted((request.results / folder_name(request.model)).glob("*/*/*.json")):
        try:
            made = results.read(path)
        except DataError:
            continue  # not a record; `bench results check` says what is wrong with it
        if not results.faults(made):
            yield made


def _recorded(request: Request) -> Pace | None:
    """The pace by the latest records of this model on this kind of device in the results folder; None if there are none."""
    found = []
    for made in _records(request):
        factor, environment = made["cost"]["real_time_factor"], made["environment"]
        memory = made["cost"]["peak_memory_mb"]
        if factor and environment["device"] == request.device and environment["dtype"] == request.dtype:
            found.append((factor, memory))
    if not found:
        return None
    factors, memories = zip(*found, strict=True)
    return Pace(
        statistics.median(factors), f"{counted(len(found), 'record')} in {request.results}", max(memories), reading=True
    )


def _with_reading(pace: Pace, request: Request, clips: Sequence[Clip], path_of: dict[str, Path]) -> Pace:
    """A pace of encoding, made one of a pass: with some of the files read as a pass reads them, digest included.

    On a CPU readers and encoder share the cores, so their times add up; beside a GPU the slower of both decides.
    """
    from marble_bench.features import pooled

    assert request.encoder is not None
    if isinstance(request.named.task.target, Stems):
        return replace(pace, source=f"{pace.source}; reading is not counted")
    rate = request.named.task.corpus.sample_rate_hz
    seconds, taken, files = 0.0, 0.0, 0
    for clip in clips[:: max(1, len(clips) // READ_FILES)][:READ_FILES]:
        path = path_of[clip.id]
        if files and taken > MEASURE_S:
            break
        try:
            if not files:
                _read(pooled.Item(clip, path, UNREAD, rate), request)  # loads what reading needs
            began = time.perf_counter()
            audio.digest(path)
            seconds += _read(pooled.Item(clip, path, UNREAD, rate), request)
        except (DataError, OSError):
            continue  # damaged: a pass will name it
        taken += time.perf_counter() - began
        files += 1
    if not seconds:
        return replace(pace, source=f"{pace.source}; reading is not counted, as no file could be read")
    cores = os.cpu_count() or 1
    reading = seconds / taken * cores
    together = min(pace.rate, reading) if request.device != "cpu" else 1 / (1 / pace.rate + 1 / reading)
    read = f"{counted(files, 'file')} read ({reading:,.0f} s/s in {counted(cores, 'thread')})"
    source = f"{pace.source} ({pace.rate:,.0f} s/s) and {read}"
    return replace(pace, rate=together, source=source)


def _read(item: Any, request: Request) -> float:
    """Read one clip as a pass does. Returns its seconds."""
    from marble_bench.features import pooled

    assert request.encoder is not None
    rate = request.encoder.sample_rate_hz
    return len(pooled.sound_of(item, request.named.task.window).read(rate)) / rate


def _measured(request: Request, encoder: Encoder, window_s: float) -> Pace:
    """Encode noise for a few seconds. Reading audio is not in it. Raises DataError if the weights are not in the cache."""
    import numpy as np
    import torch

    from marble_bench.encoders import weights
    from marble_bench.features.precision import mean_over_time

    found = weights.resolve(encoder, request.cache, override=request.weights, offline=True)
    encode = encoder.load(found.path, request.device)
    samples = round(max(window_s, encoder.min_s) * encoder.sample_rate_hz)
    many = max(1, int(ALIKE_S * encoder.sample_rate_hz // samples))
    noise = 0.1 * np.random.default_rng(0).standard_normal((many, samples)).astype(np.float32)
    waves = torch.from_numpy(noise).to(request.device)

    def once(batch: Any) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for layer in encode(batch, mean_over_time):
                layer.float().cpu()
        return time.perf_counter() - began

    once(waves[:1])  # compiles and warms
    taken, seconds = 0.0, 0.0
    step = 1
    while taken < MEASURE_S:
        taken += once(waves[:step])
        seconds += min(step, many) * samples / encoder.sample_rate_hz
        step = min(2 * step, many)
    return Pace(
        seconds / taken, f"noise through the encoder for {taken:.1f} s", build_record.peak_memory_mb(), reading=False
    )
