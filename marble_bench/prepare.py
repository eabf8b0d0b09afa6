"""Before a run: what it would take, and its features made ahead of it."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marble_bench import audio, corpus, framed, gather, record, run, separation
from marble_bench.encoder import Encoder
from marble_bench.errors import DataError, UsageError
from marble_bench.request import Request, Watch
from marble_bench.targets import Classes, Scalars, Stems, Tags
from marble_bench.task import Clip

MEASURE_S = 3.0  # seconds that a measurement of the rate takes at least
ALIKE_S = 60.0  # seconds of audio that are measured together at most


def is_pooled(request: Request) -> bool:
    """Whether a task reads one vector for each window; if not, it reads frames."""
    return isinstance(request.named.task.target, Classes | Tags | Scalars)


def frame_layers(request: Request) -> list[int]:
    """The layers whose frames a task's run would store."""
    return run.frame_layers(request).stored


def extract(request: Request, watch: Watch) -> dict[str, Any]:
    """Make the features of a model and a task, and say what there is now. `left_out` are clips that cannot be used."""
    assert request.encoder is not None
    facts: dict[str, Any] = {"model": request.model, "task": request.named.name}
    if is_pooled(request):
        found = gather.pooled(request, watch)
        where, clips, missing, cost = [found.store.folder], found.clips, found.missing, found.cost
    elif isinstance(request.named.task.target, Stems):
        raise UsageError(
            f"the features of task '{request.named.name}' are those of mixtures that its own run makes: bench run"
        )
    else:
        data = gather.encoder_frames(request, watch, frame_layers(request))
        where = [store.folder for store in framed.frames_of(data).stores]
        clips, missing, cost = data.clips, data.missing, data.cost
    return {**facts, "clips": len(clips), "left_out": missing, **cost, "stores": [str(folder) for folder in where]}


def export(request: Request, watch: Watch, place: Path) -> int:
    """Write the pooled features of a model and a task for others: a file if `place` ends in .parquet, else a folder.

    What is not stored yet is extracted. Returns the rows written. Raises UsageError for a task that reads frames.
    """
    from marble_bench.features import export as writing

    if not is_pooled(request):
        raise UsageError(
            f"task '{request.named.name}' reads frames, which are not exported; choose a task of whole clips"
        )
    assert request.encoder is not None
    found = gather.pooled(request, watch)
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
    """How fast features come: seconds of audio a second, where that is from, and the memory the process then took."""

    rate: float
    source: str
    memory_mb: float | None


def plan(request: Request, measured: dict[tuple[str, float], Pace]) -> dict[str, Any]:
    """What the features of a run take: hours of audio, gigabytes, hours of time, memory. Nothing is fetched or written but a
    miniature, and of the audio only headers are read. What is stored already is not taken off: to know it, every file would
    have to be read.

    measured: paces of this machine by encoder and window, which is added to.
    """
    encoder, task = request.encoder, request.named.task
    assert encoder is not None
    root = corpus.folder(request)
    assert root is not None
    there = corpus.on_disk(request.named, root, request.allow_missing)
    clips = corpus.limited(there.clips, request.limit) if request.limit else there.clips
    path_of = {clip.id: path for clip, path in zip(there.clips, there.paths, strict=True)}
    lengths, unreadable = _lengths(clips, path_of)
    if task.window.first_s is not None:
        lengths = [min(length, task.window.first_s) for length in lengths]
    audio_s = sum(lengths)
    if isinstance(task.target, Stems):
        if unreadable:
            raise DataError(f"{unreadable} songs of {root} cannot be read; see bench data check {task.corpus.name}")
        audio_s = separation.encoded_s(request, clips, lengths, corpus.is_mini(root))
    typical_s = task.window.length_s or (statistics.median(lengths) if lengths else 10.0)
    pace = _pace(request, encoder, min(typical_s, encoder.max_s or typical_s), measured)
    return {
        "model": request.model,
        "task": request.named.name,
        "clips": len(clips),
        "unreadable": unreadable,
        "audio_h": round(audio_s / 3600, 3),
        "features_gb": round(_bytes(request, encoder, lengths, audio_s) / 1e9, 4),
        "passes": 1,
        "rate": round(pace.rate, 1),
        "rate_from": pace.source,
        "hours": round(audio_s / 3600 / pace.rate, 3) if pace.rate else None,
        "memory_mb": pace.memory_mb,
        "device": request.device,
        "dtype": request.dtype,
    }


def same_pass(request: Request) -> tuple[Any, ...]:
    """What two requests must share for the second to find all features of common files stored by the first."""
    kind: Any = "pooled" if is_pooled(request) else tuple(frame_layers(request))
    window = request.named.task.window
    corpus_ = request.named.task.corpus
    return request.model, corpus_.beside or corpus_.name, window, kind, request.dtype


def _lengths(clips: Sequence[Clip], path_of: dict[str, Path]) -> tuple[list[float], int]:
    """Seconds of each clip by what is declared of it, else by its file's header; how many headers cannot be read."""
    lengths, unreadable = [], 0
    of_path: dict[Path, float | None] = {}
    for clip in clips:
        if clip.duration_s is not None:
            lengths.append(clip.duration_s)
            continue
        path = path_of[clip.id]
        if path not in of_path:
            try:
                of_path[path] = audio.duration_s(path)
            except DataError:
                of_path[path] = None
        length = of_path[path]
        if length is None:
            unreadable += 1
        else:
            lengths.append(max(0.0, length - clip.start_s))
    return lengths, unreadable


def _bytes(request: Request, encoder: Encoder, lengths: Sequence[float], audio_s: float) -> int:
    from marble_bench.features import extract as pooled
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


def _recorded(request: Request) -> Pace | None:
    """The pace by the latest records of this model on this kind of device in the results folder; None if there are none."""
    found = []
    for path in sorted((request.results / request.model).glob("*/*/*.json")):
        try:
            made = json.loads(path.read_text())
            factor, environment = made["cost"]["real_time_factor"], made["environment"]
            memory = made["cost"]["peak_memory_mb"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not a record; `bench list results` says what is wrong with it
        if factor and environment["device"] == request.device and environment["dtype"] == request.dtype:
            found.append((factor, memory, path))
    if not found:
        return None
    return Pace(
        statistics.median(factor for factor, _, _ in found),
        f"{len(found)} records in {request.results}",
        max(memory for _, memory, _ in found),
    )


def _measured(request: Request, encoder: Encoder, window_s: float) -> Pace:
    """Encode noise for a few seconds. Reading audio is not in it. Raises DataError if the weights are not in the cache."""
    import numpy as np
    import torch

    from marble_bench import weights
    from marble_bench.features.pipeline import mean_over_time

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
    return Pace(seconds / taken, f"noise through the encoder for {taken:.1f} s", record.peak_memory_mb())
