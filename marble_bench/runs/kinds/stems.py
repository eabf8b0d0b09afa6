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

from marble_bench.core.encoder import Encoder
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import SPLITS, Clip, Separation, Task
from marble_bench.data import corpus
from marble_bench.data.examples import Examples, FoundExamples
from marble_bench.errors import BenchError, DataError, UsageError, counted
from marble_bench.features.frames import Frames, Sound, estimate_bytes
from marble_bench.features.store import Span
from marble_bench.files.scratch import open_scratch_folder
from marble_bench.metrics import Metric
from marble_bench.records import bsseval
from marble_bench.runs import build_record, frame_layers, identity, inputs
from marble_bench.runs.config import Callbacks, RunConfig
from marble_bench.runs.frame_layers import Layers, choose_frame_layers
from marble_bench.runs.inputs import EncodingInputs, FeatureSource, Inputs, PerturbedExamples
from marble_bench.runs.kinds.kind import RunScores
from marble_bench.runs.predictions import Predictions, make_answers
from marble_bench.scoring import scores as scoring
from marble_bench.scoring.scores import convert_number
from marble_bench.separation import mixing, stems
from marble_bench.separation.bsseval_pool import WORKER_GB
from marble_bench.separation.mixing import Chunks
from marble_bench.separation.stems import Song, compute_digests

if TYPE_CHECKING:
    import pandas as pd

    from marble_bench.probes.grid import Probe, TrainedProbe
    from marble_bench.separation import evaluate

DECODERS = 4  # songs decoded at once to see that they are whole: one part of one takes 200 MB
SPARE_BYTES = 256 << 20  # disk that is left alone


def check(config: RunConfig) -> None:
    """Raise UsageError for what is for whole clips alone, for layers without frames, and for perturbations."""
    frame_layers.check(config)
    if config.data.perturb:
        raise UsageError(
            f"--perturb: task '{config.data.named.name}' asks for stems, and a changed mixture is no longer the sum of "
            "its own; leave --perturb out, or choose another task (bench list tasks)"
        )
    flags = config.probes.variants.flags()
    if given := [flags[fact] for fact in ("learning_rate", "window_s") if fact in flags]:
        raise UsageError(
            f"{given[0]}: task '{config.data.named.name}' separates stems, and its mixtures and learning rates are the "
            "task's: leave it out"
        )
    choose_frame_layers(config)


def plan(config: RunConfig, found: FoundExamples) -> dict[str, Any]:
    """The names of the layers, the count of the separators, and what mixtures and frames take on disk."""
    layers, probes, encoder = choose_frame_layers(config), config.probes, config.features.encoder
    assert encoder is not None
    clips = found.examples.clips
    # a file that is no whole audio ends a run, or is left out of it
    lasting, _ = corpus.measure_lengths_s(clips, found.examples.path_of(), config.task.corpus.sample_rate_hz)
    audio_s = count_encoded_s(
        config, [clip for clip in clips if clip.id in lasting], list(lasting.values()), found.mini
    )
    rules, stems_ = find_rules(config.task, probes.protocol, found.mini), config.task.target.width
    mixtures = rules.mixtures_per_track * len(found.examples.of("train"))
    return {
        "layers": frame_layers.list_names(encoder, layers),
        "probes": stems_ * probes.seeds * len(rules.learning_rates) * (len(layers.single) + bool(layers.summed)),
        "mixtures_gb": round(mixing.count_chunk_bytes(mixtures, stems_, rules) / 1e9, 3),
        "frames_gb": round(estimate_bytes(audio_s, encoder, layers.stored) / 1e9, 3),
    }


@dataclass(frozen=True)
class SeparationInputs:
    """What separators are trained and measured on. songs: by split, in the order of the run's clips. frames: of the training
    mixtures (`train`) and of the songs of the other splits. scratch: a folder that is gone when the run ends."""

    rules: Separation
    songs: dict[str, list[Song]]
    chunks: Chunks
    frames: dict[str, Frames]
    scratch: Path


def find_rules(task: Task, protocol: Protocol, mini: bool) -> Separation:
    """How separators are trained: as the task says, or says of a miniature; one way or both as the protocol says."""
    assert task.separation is not None
    rules = task.mini_separation if mini and task.mini_separation else task.separation
    return replace(rules, bidirectional=protocol.both_ways)


def count_encoded_s(config: RunConfig, clips: Sequence[Clip], lengths_s: Sequence[float], mini: bool) -> float:
    """Seconds of audio that an encoder hears in a run: training mixtures, and the songs of the other splits."""
    rules = find_rules(config.task, config.probes.protocol, mini)
    train = sum(clip.split == "train" for clip in clips)
    songs_s = sum(length for clip, length in zip(clips, lengths_s, strict=True) if clip.split != "train")
    return train * rules.mixtures_per_track * rules.chunk_s + songs_s


@contextmanager
def prepare(config: RunConfig, callbacks: Callbacks) -> Iterator[StemJob]:
    """The run with its songs opened, its training mixtures made, and the frames of all.

    Raises DataError for songs that cannot be used, unless the user allows it; BenchError where the disk has no room for
    the mixtures, before the first is made.
    """
    layers, names = choose_frame_layers(config), config.task.target.names
    ready = inputs.to_encode(config, callbacks, lambda paths: compute_digests(paths, names))
    rules = find_rules(config.task, config.probes.protocol, ready.coverage.mini)
    encoder = config.features.encoder
    assert encoder is not None
    _check_length(rules, encoder)
    songs, damaged = _open_songs(ready.examples, names)
    digests = dict(zip(ready.examples.ids, ready.examples.digests, strict=True))
    damaged |= _find_undecodable(songs, digests, config.features.cache, callbacks)
    usable, coverage = inputs.leave_out(config.data, ready, damaged, callbacks)
    found = ready.examples.only(usable)
    if empty := found.list_empty_splits():
        raise DataError(f"no song is left in the {' and '.join(empty)} split of task '{config.data.named.name}'")
    of_split = {split: [songs[name] for name in found.of(split).ids] for split in SPLITS}
    chunks, mixed = _draw_mixtures(found, of_split, rules, config.features.cache, callbacks)
    source, frames, split_frames = _extract_frames(config, callbacks, ready, found, songs, mixed, rules, layers)
    run_inputs = Inputs(found, frames, source, coverage, layers.summable)
    with open_scratch_folder(config.features.cache, callbacks.say) as folder:
        prepared = SeparationInputs(rules, of_split, chunks, split_frames, folder)
        yield StemJob(config, callbacks, run_inputs, prepared, layers)


def _check_length(rules: Separation, encoder: Encoder) -> None:
    """Raise UsageError if a training mixture is too short for the encoder."""
    if rules.chunk_s < encoder.min_s:
        raise UsageError(
            f"a training mixture lasts {rules.chunk_s:g} s, and {encoder.name} needs at least "
            f"{encoder.min_s:.3f} s: choose another model"
        )


def _draw_mixtures(
    found: Examples, songs: dict[str, list[Song]], rules: Separation, cache: Path, callbacks: Callbacks
) -> tuple[Chunks, list[Sound]]:
    """The training mixtures, and each of them as something to encode."""
    digests = found.of("train").digests
    drawn = mixing.draw_mixtures(songs["train"], rules.mixtures_per_track * len(songs["train"]), rules)
    chunks = _make_chunks(drawn, digests, songs, rules, cache, callbacks)
    return chunks, [_make_mixture_sound(chunks, at, drawn[at].digest(digests, rules)) for at in range(len(chunks))]


def _extract_frames(
    config: RunConfig,
    callbacks: Callbacks,
    ready: EncodingInputs,
    found: Examples,
    songs: dict[str, Song],
    mixed: list[Sound],
    rules: Separation,
    layers: Layers,
) -> tuple[FeatureSource, Frames, dict[str, Frames]]:
    """Where the frames are from, all of them, and by split: of the mixtures, and of the songs of the other splits."""
    rest = [row for row in found if row.clip.split != "train"]
    sounds = mixed + [_make_song_sound(row.clip, row.digest, songs[row.clip.id], rules) for row in rest]
    facts = {"clip_normalize": "none", "mixed": {"version": mixing.VERSION, "rate_hz": rules.sample_rate_hz}}
    frames, cost = inputs.extract_frames(config, callbacks, ready, sounds, layers.stored, facts, rules.piece_s)
    if cost.damaged:
        raise DataError("\n".join(["songs cannot be used:", *cost.damaged.values()]))
    places = {"train": list(range(len(mixed)))}
    for split in SPLITS[1:]:
        places[split] = [len(mixed) + at for at, row in enumerate(rest) if row.clip.split == split]
    encoder = config.features.encoder
    assert encoder is not None
    source = FeatureSource(
        inputs.list_model_facts(encoder, ready.weights), inputs.describe_cost(cost), frames.stores, cost
    )
    return source, frames, {split: frames.only(items) for split, items in places.items()}


def _open_songs(found: Examples, names: Sequence[str]) -> tuple[dict[str, Song], dict[str, str]]:
    """Every song that can be used and why the others cannot, by clip."""
    songs, damaged = {}, {}
    for row, path in zip(found, found.paths, strict=True):
        name = row.clip.id
        try:
            if not row.digest:
                stems.digest(path, names)  # says why
                raise DataError(f"{path} could not be read a moment ago: run again")
            songs[name] = stems.open_song(path, names, name)
        except DataError as error:
            damaged[name] = str(error)
    return songs, damaged


def _find_undecodable(
    opened: dict[str, Song], digests: dict[str, str], cache: Path, callbacks: Callbacks
) -> dict[str, str]:
    """Why songs cannot be decoded, by clip; all are tried at once, before a mixture is drawn of them.

    What decoded once is known by its digest, by an empty file in the cache, and is not tried again.
    """
    folder = cache / "decoded"
    with suppress(OSError):  # where it cannot be kept, all are tried again next time
        folder.mkdir(parents=True, exist_ok=True)
    untried = [clip for clip in opened if not (folder / digests[clip]).exists()]
    if untried:
        callbacks.say(f"decoding all stems of {counted(len(untried), 'song')}, to check that every file is complete")

    def try_decoding(clip: str) -> str:
        try:
            for part in opened[clip].parts:
                opened[clip].read(part)
        except DataError as error:
            return str(error)
        with suppress(OSError):
            (folder / digests[clip]).touch()
        return ""

    with ThreadPoolExecutor(min(os.cpu_count() or 1, DECODERS)) as pool:
        why = dict(zip(untried, pool.map(try_decoding, untried), strict=True))
    return {clip: words for clip, words in why.items() if words}


def _make_chunks(
    drawn: Sequence[mixing.Mixture],
    digests: Sequence[str],
    songs: dict[str, list[Song]],
    rules: Separation,
    cache: Path,
    callbacks: Callbacks,
) -> Chunks:
    """The training mixtures, made now or by an earlier run."""
    names = songs["train"][0].names
    path = cache / "mixtures" / mixing.name_chunks(drawn, digests, rules)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain_no_mixtures(path.parent, error) from error
    stored_bytes = 0 if mixing.is_complete(path) else mixing.count_chunk_bytes(len(drawn), len(names), rules)
    needed = stored_bytes + mixing.count_track_bytes(songs["valid"], rules)
    free = shutil.disk_usage(path.parent).free - SPARE_BYTES
    if needed > free:
        raise BenchError(
            f"{path.parent} has room for {max(free, 0) / 1e9:.2f} GB, and {len(drawn)} training mixtures and the validation "
            f"songs need {needed / 1e9:.2f} GB: make room, or give another --cache-dir"
        )
    if stored_bytes:
        callbacks.say(
            f"making {len(drawn)} training mixtures of {len(songs['train'])} songs, {stored_bytes / 1e9:.2f} GB"
        )
    try:
        return mixing.make_chunks(drawn, songs["train"], rules, path)
    except OSError as error:
        raise _explain_no_mixtures(path.parent, error) from error


def _explain_no_mixtures(folder: Path, error: OSError) -> BenchError:
    return BenchError(
        f"training mixtures cannot be written to {folder}: {error.strerror or error}; make room, or give another --cache-dir"
    )


def _make_mixture_sound(chunks: Chunks, index: int, digest: str) -> Sound:
    return Sound(f"mixture {index}", Span(digest, "mixture"), chunks.rules.chunk_s, partial(chunks.mono, index))


def _make_song_sound(clip: Clip, digest: str, song: Song, rules: Separation) -> Sound:
    def read(sample_rate_hz: int) -> Any:
        return mixing.read_song_mono(song, sample_rate_hz, rules)

    return Sound(clip.id, Span(digest, "song"), song.length_s, read)


def count_workers() -> int:
    """Processes for BSSEval: as many as there are cores, and as their memory allows."""
    cores = os.cpu_count() or 1
    try:
        memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return 1  # where the system does not say what memory is free
    return max(1, min(cores, int(memory_gb // (2 * WORKER_GB))))


class StemJob:
    """One run on songs. measured: by split, what was measured of the chosen separators."""

    def __init__(
        self, config: RunConfig, callbacks: Callbacks, found: Inputs, ready: SeparationInputs, layers: Layers
    ) -> None:
        from marble_bench.probes import probe_cache
        from marble_bench.probes.grid import build_grid

        self.config, self.callbacks, self.inputs, self.ready = config, callbacks, found, ready
        self.warnings: list[str] = []
        self.measured: dict[str, evaluate.SeparationMeasures] = {}
        probes, self.stems = config.probes, tuple(config.task.target.names)
        protocol = replace(probes.protocol, learning_rates=ready.rules.learning_rates)
        self.probes = build_grid(protocol, layers.places, bool(layers.summed), probes.seeds, len(self.stems))
        rules = {"separation": asdict(ready.rules), "mixtures": ready.chunks.path.name}
        key = probe_cache.digest(identity.list_probe_cache_facts(found, config, rules))
        self.probe_caches = [probe_cache.ProbeCacheFolder(probes.cache / "probes", key, callbacks.say)]

    def fit(self) -> list[TrainedProbe]:
        """Every separator."""
        from marble_bench.separation import probe as probing

        ready, ours = self.ready, self.config.probes
        tracks = [mixing.make_track(song, ready.rules, ready.scratch) for song in ready.songs["valid"]]
        frames, summable = ready.frames, self.inputs.summable
        material = probing.TrainingData(ready.chunks, frames["train"], tracks, frames["valid"], summable)
        fitted: list[TrainedProbe] = probing.fit(
            self.probes, material, ready.rules, ours.device, self.callbacks.probes, self.probe_caches[0]
        )
        return fitted

    def choose(self, fitted: Sequence[TrainedProbe]) -> list[TrainedProbe]:
        """The best separator of each seed and stem, stem by stem within a seed."""
        from marble_bench.separation import probe as probing

        of_seed = probing.choose(fitted, self.config.probes.seeds, len(self.stems))
        return [one for row in of_seed for one in row]

    def predict(self, chosen: Sequence[TrainedProbe]) -> dict[str, Predictions]:
        """Separate and measure the validation songs (without BSSEval) and the test songs."""
        import torch

        found = {}
        for split, many in (("valid", 0), ("test", count_workers())):
            self.callbacks.say(f"separating the {len(self.ready.songs[split])} songs of the {split} split")
            self.measured[split] = self._measure_songs(chosen, split, many)
            outputs, examples = torch.from_numpy(self.measured[split].rows()), self.inputs.examples.of(split)
            found[split] = Predictions(split, examples, outputs, torch.zeros(len(examples)), [[] for _ in examples])
        return found

    def _measure_songs(self, chosen: Sequence[TrainedProbe], split: str, many: int) -> evaluate.SeparationMeasures:
        """Separate and measure the songs of a split. many: processes for BSSEval; 0 to leave it out."""
        from marble_bench.separation import evaluate

        ready, width = self.ready, len(self.stems)
        of_seed = [chosen[first : first + width] for first in range(0, len(chosen), width)]
        return evaluate.measure(
            of_seed,
            ready.songs[split],
            ready.frames[split],
            self.inputs.summable,
            ready.rules,
            ready.scratch,
            self.config.probes.device,
            workers=many,
            keep_audio=self.config.output.keep_audio if split == "test" else None,
        )

    def predict_perturbed(self, chosen: Sequence[TrainedProbe], name: str, changed: PerturbedExamples) -> Predictions:
        """None: `check` refuses it."""
        raise UsageError("--perturb is not for tasks of stems: leave it out")

    def few_shot(self) -> list[dict[str, Any]]:
        """None: `check` refuses it."""
        raise UsageError("--few-shot is for tasks of whole clips: leave it out")

    def score(self, found: dict[str, Predictions], chosen: Sequence[TrainedProbe]) -> RunScores:
        """Scores beside those of the mixture as the estimate of every stem, and those of the ideal ratio mask."""
        import torch

        test, metrics, warnings = self.measured["test"], self.config.task.metrics, list[str]()
        self.warnings += find_silent_stems(test)
        trivial = torch.from_numpy(test.trivial_rows())
        scored = RunScores(
            scoring.compute_scores(metrics, make_answers(found), trivial, warnings=warnings), warnings=warnings
        )
        for name, value in compute_oracle_scores(metrics, test).items():
            scored.scores[name]["oracle"] = value
        scored.choices = [{"stem": self._find_stem(one.probe)} for one in chosen]
        return scored

    def _find_stem(self, probe: Probe) -> str:
        """The name of the stem that a separator takes out of the mixture."""
        assert probe.stem is not None
        name: str = self.stems[probe.stem]
        return name

    def save_more(self, path: Path) -> None:
        """Write the windows of BSSEval beside the record."""
        table = bsseval.make_table(self.inputs.examples.of("test").ids, self.stems, self.measured["test"].bss)
        bsseval.save_table(path, table)

    def grid(self, fitted: Sequence[TrainedProbe]) -> pd.DataFrame:
        """Every separator: a row each."""
        frame = build_record.build_grid_table(fitted, self.inputs.features.names)
        frame.insert(1, "stem", [self._find_stem(one.probe) for one in fitted])
        return frame


def compute_oracle_scores(metrics: Sequence[Metric], measured: evaluate.SeparationMeasures) -> dict[str, float]:
    """What the ideal ratio mask reaches, by metric; a metric that was not measured of it is left out."""
    import numpy as np
    import torch

    rows = np.concatenate([measured.oracle, np.full_like(measured.oracle, np.nan)], axis=1)
    outputs = torch.from_numpy(rows)[None]
    found = {
        metric.name: convert_number(float(metric.compute(outputs, torch.zeros(len(rows)))[0])) for metric in metrics
    }
    return {name: value for name, value in found.items() if value is not None}


def find_silent_stems(measured: evaluate.SeparationMeasures) -> list[str]:
    """Stems that have no score, a line each."""
    return [f"{stem} is silent in '{song}': no SDR, left out of the mean" for song, stem in measured.silent]
