"""A run of a task that asks for stems: training mixtures, frames, separators, separated songs, scores in decibels.

The mixtures that separators are trained on are drawn once and kept in the cache (`marble_bench.separation.mixing`), so
that an encoder hears each of them once. Songs are separated and measured one at a time, whatever their number.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core.protocol import Protocol
from marble_bench.core.task import SPLITS, Clip, Separation, Task
from marble_bench.errors import BenchError, DataError, UsageError, counted
from marble_bench.features import frames
from marble_bench.features.frames import Frames, Sound
from marble_bench.features.store import Span
from marble_bench.files.scratch import scratch_folder
from marble_bench.metrics import Metric
from marble_bench.runs import identity, inputs
from marble_bench.runs.config import Request, Watch
from marble_bench.runs.frame_layers import Layers
from marble_bench.runs.inputs import Gathered, Here
from marble_bench.scoring.scores import Answers, number
from marble_bench.separation import mixing, stems
from marble_bench.separation.bsseval_pool import WORKER_GB
from marble_bench.separation.mixing import Chunks
from marble_bench.separation.stems import Song, digests_of

if TYPE_CHECKING:
    import pandas as pd

    from marble_bench.probes import probe_cache
    from marble_bench.probes.grid import Fitted
    from marble_bench.separation import evaluate

DECODERS = 4  # songs decoded at once to see that they are whole: one part of one takes 200 MB
SPARE_BYTES = 256 << 20  # disk that is left alone


@dataclass(frozen=True)
class Prepared:
    """What separators are trained and measured on. songs: by split, in the order of the run's clips. frames: of the training
    mixtures (`train`) and of the songs of the other splits. scratch: a folder that is gone when the run ends."""

    rules: Separation
    songs: dict[str, list[Song]]
    chunks: Chunks
    frames: dict[str, Frames]
    scratch: Path


def rules_of(task: Task, protocol: Protocol, mini: bool) -> Separation:
    """How separators are trained: as the task says, or says of a miniature; one way or both as the protocol says."""
    assert task.separation is not None
    rules = task.mini_separation if mini and task.mini_separation else task.separation
    return replace(rules, bidirectional=protocol.both_ways)


def encoded_s(request: Request, clips: Sequence[Clip], lengths_s: Sequence[float], mini: bool) -> float:
    """Seconds of audio that an encoder hears in a run: training mixtures, and the songs of the other splits."""
    rules = rules_of(request.named.task, request.protocol, mini)
    train = sum(clip.split == "train" for clip in clips)
    songs_s = sum(length for clip, length in zip(clips, lengths_s, strict=True) if clip.split != "train")
    return train * rules.mixtures_per_track * rules.chunk_s + songs_s


@contextmanager
def prepared(request: Request, watch: Watch, layers: Layers) -> Iterator[tuple[Gathered, Prepared]]:
    """The songs of a run opened, its training mixtures made, and the frames of all had.

    Raises DataError for songs that cannot be used, unless the user allows it; BenchError where the disk has no room for
    the mixtures, before the first is made.
    """
    names = request.named.task.target.names
    here = inputs.on_disk(request, watch, lambda paths: digests_of(paths, names))
    rules = rules_of(request.named.task, request.protocol, here.mini)
    assert request.encoder is not None
    if rules.chunk_s < request.encoder.min_s:
        raise UsageError(
            f"a training mixture lasts {rules.chunk_s:g} s, and {request.encoder.name} needs at least "
            f"{request.encoder.min_s:.3f} s: choose another model"
        )
    opened, damaged = _opened(here, names)
    damaged |= _undecodable(
        opened, {clip.id: d for clip, d in zip(here.clips, here.digests, strict=True)}, request, watch
    )
    usable, missing, faults = inputs.sound(request, here, damaged, watch)
    clips = [here.clips[index] for index in usable]
    songs = {split: [opened[clip.id] for clip in clips if clip.split == split] for split in SPLITS}
    if empty := [split for split in SPLITS if not songs[split]]:
        raise DataError(f"no song is left in the {' and '.join(empty)} split of task '{request.named.name}'")
    digests = [here.digests[index] for index in usable]
    of_train = [digest for clip, digest in zip(clips, digests, strict=True) if clip.split == "train"]
    drawn = mixing.draw_mixtures(songs["train"], rules.mixtures_per_track * len(songs["train"]), rules)
    chunks = _chunks(drawn, of_train, songs, rules, request.cache, watch)

    sounds = [_of_mixture(chunks, index, drawn[index].digest(of_train, rules)) for index in range(len(chunks))]
    rest = [(clip, digest) for clip, digest in zip(clips, digests, strict=True) if clip.split != "train"]
    sounds += [_of_song(clip, digest, opened[clip.id], rules) for clip, digest in rest]
    found, cost = frames.extract(
        sounds,
        request.encoder,
        here.weights,
        layers.stored,
        request.cache,
        {"clip_normalize": "none", "mixed": {"version": mixing.VERSION, "rate_hz": rules.sample_rate_hz}},
        device=request.device,
        piece_s=rules.piece_s,
        progress=watch.features,
        say=watch.say,
        dtype=request.dtype,
        workers=request.workers,
        engine=request.engine,
        guard=here.guard,
    )
    if cost.damaged:
        raise DataError("\n".join(["songs cannot be used:", *cost.damaged.values()]))
    of_split = {"train": list(range(len(chunks)))}
    for split in SPLITS[1:]:
        of_split[split] = [len(chunks) + at for at, (clip, _) in enumerate(rest) if clip.split == split]
    data = Gathered(
        clips=clips,
        features=found,
        digests=digests,
        model=inputs.model_facts(request.encoder, here.weights),
        summable=tuple(layers.stored.index(index) for index in layers.summed),
        missing=missing,
        faults=faults,
        mini=here.mini,
        cost=inputs.cost_of(cost),
        stores=found.stores,
        unlisted=here.unlisted,
    )
    with scratch_folder(request.cache, watch.say) as folder:
        split_frames = {split: found.only(items) for split, items in of_split.items()}
        yield data, Prepared(rules, songs, chunks, split_frames, folder)


def _opened(here: Here, names: Sequence[str]) -> tuple[dict[str, Song], dict[str, str]]:
    """Every song that can be used and why the others cannot, by clip."""
    songs, damaged = {}, {}
    for clip, path, digest in zip(here.clips, here.paths, here.digests, strict=True):
        try:
            if not digest:
                stems.digest(path, names)  # says why
                raise DataError(f"{path} could not be read a moment ago: run again")
            songs[clip.id] = stems.open_song(path, names, clip.id)
        except DataError as error:
            damaged[clip.id] = str(error)
    return songs, damaged


def _undecodable(opened: dict[str, Song], digests: dict[str, str], request: Request, watch: Watch) -> dict[str, str]:
    """Why songs cannot be decoded, by clip; all are tried at once, before a mixture is drawn of them.

    What decoded once is known by its digest, by an empty file in the cache, and is not tried again.
    """
    kept = request.cache / "decoded"
    with suppress(OSError):  # where it cannot be kept, all are tried again next time
        kept.mkdir(parents=True, exist_ok=True)
    untried = [clip for clip in opened if not (kept / digests[clip]).exists()]
    if untried:
        watch.say(f"decoding {counted(len(untried), 'song')} with all stems, to see that every file is whole")

    def tried(clip: str) -> str:
        try:
            for part in opened[clip].parts:
                opened[clip].read(part)
        except DataError as error:
            return str(error)
        with suppress(OSError):
            (kept / digests[clip]).touch()
        return ""

    with ThreadPoolExecutor(min(os.cpu_count() or 1, DECODERS)) as pool:
        why = dict(zip(untried, pool.map(tried, untried), strict=True))
    return {clip: words for clip, words in why.items() if words}


def _chunks(
    drawn: Sequence[mixing.Mixture],
    digests: Sequence[str],
    songs: dict[str, list[Song]],
    rules: Separation,
    cache: Path,
    watch: Watch,
) -> Chunks:
    """The training mixtures, made now or by an earlier run."""
    names = songs["train"][0].names
    path = cache / "mixtures" / mixing.chunks_name(drawn, digests, rules)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _no_mixtures(path.parent, error) from error
    kept = 0 if mixing.are_made(path) else mixing.chunk_bytes(len(drawn), len(names), rules)
    needed = kept + mixing.track_bytes(songs["valid"], rules)
    free = shutil.disk_usage(path.parent).free - SPARE_BYTES
    if needed > free:
        raise BenchError(
            f"{path.parent} has room for {max(free, 0) / 1e9:.2f} GB, and {len(drawn)} training mixtures and the validation "
            f"songs need {needed / 1e9:.2f} GB: make room, or give another --cache-dir"
        )
    if kept:
        watch.say(f"making {len(drawn)} training mixtures of {len(songs['train'])} songs, {kept / 1e9:.2f} GB")
    try:
        return mixing.make_chunks(drawn, songs["train"], rules, path)
    except OSError as error:
        raise _no_mixtures(path.parent, error) from error


def _no_mixtures(folder: Path, error: OSError) -> BenchError:
    return BenchError(
        f"training mixtures cannot be written to {folder}: {error.strerror or error}; make room, or give another --cache-dir"
    )


def _of_mixture(chunks: Chunks, index: int, digest: str) -> Sound:
    return Sound(f"mixture {index}", Span(digest, "mixture"), chunks.rules.chunk_s, partial(chunks.mono, index))


def _of_song(clip: Clip, digest: str, song: Song, rules: Separation) -> Sound:
    def read(sample_rate_hz: int) -> Any:
        return mixing.song_mono(song, sample_rate_hz, rules)

    return Sound(clip.id, Span(digest, "song"), song.length_s, read)


def workers() -> int:
    """Processes for BSSEval: as many as there are cores, and as their memory allows."""
    cores = os.cpu_count() or 1
    try:
        memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return 1  # where the system does not say what memory is free
    return max(1, min(cores, int(memory_gb // (2 * WORKER_GB))))


def shelf_of(data: Gathered, ready: Prepared, request: Request, watch: Watch) -> probe_cache.Folder:
    """Where the finished blocks of a run are kept until its record stands."""
    from marble_bench.probes import probe_cache

    rules = {"separation": asdict(ready.rules), "mixtures": ready.chunks.path.name}
    key = probe_cache.digest(identity.of_probes(data, request, rules))
    return probe_cache.Folder(request.cache / "probes", key, watch.say)


def fit(
    data: Gathered, ready: Prepared, request: Request, layers: Layers, watch: Watch, kept: probe_cache.Folder
) -> tuple[list[Fitted], list[list[Fitted]], dict[str, evaluate.Measured]]:
    """Train every separator, choose by validation, then separate and measure the validation and the test songs.

    Returns all separators, the chosen ones `[seed][stem]`, and what was measured of valid (without BSSEval) and test.
    kept: of `shelf_of`.
    """
    from marble_bench.probes.grid import grid
    from marble_bench.separation import evaluate
    from marble_bench.separation import probe as probing

    rules, names = ready.rules, request.named.task.target.names
    places = [layers.stored.index(index) for index in layers.single]
    protocol = replace(request.protocol, learning_rates=rules.learning_rates)
    probes = grid(protocol, places, bool(layers.summed), request.seeds, len(names))
    tracks = [mixing.make_track(song, rules, ready.scratch) for song in ready.songs["valid"]]
    material = probing.Material(ready.chunks, ready.frames["train"], tracks, ready.frames["valid"], data.summable)
    fitted = probing.fit(probes, material, rules, request.device, watch.probes, kept)
    chosen = probing.choose(fitted, request.seeds, len(names))
    measured = {}
    for split, many in (("valid", 0), ("test", workers())):
        watch.say(f"separating the {len(ready.songs[split])} songs of the {split} split")
        measured[split] = evaluate.measure(
            chosen,
            ready.songs[split],
            ready.frames[split],
            data.summable,
            rules,
            ready.scratch,
            request.device,
            workers=many,
            keep_audio=request.keep_audio if split == "test" else None,
        )
    return fitted, chosen, measured


def answers(data: Gathered, measured: dict[str, evaluate.Measured]) -> tuple[Answers, Any]:
    """What metrics read of the chosen separators, and of the mixture as the estimate of every stem."""
    import torch

    clips = {split: [clip for clip in data.clips if clip.split == split] for split in SPLITS}
    outputs = {split: torch.from_numpy(found.rows()) for split, found in measured.items()}
    nothing = {split: torch.zeros(len(members)) for split, members in clips.items()}
    groups = [clip.group or clip.id for clip in clips["test"]]
    return Answers(outputs, nothing, groups), torch.from_numpy(measured["test"].trivial_rows())


def oracle_scores(metrics: Sequence[Metric], measured: evaluate.Measured) -> dict[str, float]:
    """What the ideal ratio mask reaches, by metric; a metric that was not measured of it is left out."""
    import numpy as np
    import torch

    rows = np.concatenate([measured.oracle, np.full_like(measured.oracle, np.nan)], axis=1)
    outputs = torch.from_numpy(rows)[None]
    found = {metric.name: number(float(metric.compute(outputs, torch.zeros(len(rows)))[0])) for metric in metrics}
    return {name: value for name, value in found.items() if value is not None}


def marks(measured: evaluate.Measured) -> list[str]:
    """Stems that have no score, a line each."""
    return [f"{stem} is silent in '{song}': no SDR, left out of the mean" for song, stem in measured.silent]


def prediction_table(data: Gathered, found: Answers) -> pd.DataFrame:
    """A row per split, seed and song: `outputs` is what the metrics read, `truth` nothing."""
    import pandas as pd

    tables = []
    for split in ("valid", "test"):
        clips = [clip for clip in data.clips if clip.split == split]
        for seed, rows in enumerate(found.outputs[split]):
            columns = {
                "split": split,
                "seed": seed,
                "clip": [clip.id for clip in clips],
                "group": [clip.group or clip.id for clip in clips],
                "truth": [[] for _ in clips],
                "outputs": rows.tolist(),
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)
