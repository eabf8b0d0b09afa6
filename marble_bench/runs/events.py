"""A run of a task that asks when something happens: frames, activations, decoded times, scores.

Labels are made at a layer's own frame rate: an event at t seconds stands in frame round(t x rate) and in both its
neighbours. What is annotated behind the end of a clip's audio is left out and recorded.

The probes train on their loss; which one of a seed is scored is chosen by the main metric on the decoded validation split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from marble_bench.core.task import SPLITS, Clip, Schedule
from marble_bench.data import checks
from marble_bench.data.times import within_clip
from marble_bench.errors import counted
from marble_bench.features.frames import Frames
from marble_bench.metrics import beats
from marble_bench.runs import identity, inputs
from marble_bench.runs.config import Request, Watch
from marble_bench.runs.frame_layers import Layers, frames_of
from marble_bench.runs.inputs import Gathered
from marble_bench.scoring import beat_decoder
from marble_bench.scoring.scores import Answers
from marble_bench.scoring.targets import Events

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from marble_bench.metrics import Metric
    from marble_bench.probes import framewise as probing
    from marble_bench.probes import probe_cache, trainer

CROP_S = 10.0  # seconds of a training crop, as MARBLE's
NEIGHBOURS = 1  # frames on either side that are labelled too


def gathered(request: Request, watch: Watch, layers: Layers) -> tuple[Gathered, list[str]]:
    """The clips with their frames, and marks: events behind the end of the audio are taken off a clip's target.

    Raises DataError as `gather.encoder_frames` does, which leaves out clips whose annotation is not of their audio.
    """
    marks: list[str] = []

    def check(clips: Sequence[Clip]) -> None:
        target = request.named.task.target
        assert isinstance(target, Events)
        for mark in checks.check_events(target, clips):
            marks.append(mark)
            watch.say(f"mark: {mark}")

    data = inputs.encoder_frames(request, watch, layers.stored, check)
    frames = frames_of(data)
    clips = []
    for mark in data.marks:
        marks.append(mark)
        watch.say(f"mark: {mark}")
    for clip, length_s in zip(data.clips, frames.lengths_s, strict=True):
        kept, beyond = within_clip(clip, length_s)
        clips.append(kept)
        if beyond:
            marks.append(f"clip '{clip.id}': {beyond} events behind the end at {length_s:.2f} s left out")
            watch.say(f"mark: {marks[-1]}")
    summable = tuple(layers.stored.index(index) for index in layers.summed)
    return replace(data, clips=clips, summable=summable), marks


def labels(target: Sequence[Sequence[float] | None], frames: int, rate_hz: float) -> NDArray[np.float32]:
    """`(frames, kinds)`: 1 in the frame of an event and its neighbours, else 0; NaN where a kind is not annotated."""
    import numpy as np

    made = np.zeros((frames, len(target)), np.float32)
    for kind, times in enumerate(target):
        if times is None:
            made[:, kind] = np.nan
            continue
        at = np.round(np.asarray(times) * rate_hz).astype(int)
        for shift in range(-NEIGHBOURS, NEIGHBOURS + 1):
            near = at + shift
            made[near[(near >= 0) & (near < frames)], kind] = 1
    return made


def framesets(data: Gathered) -> dict[str, probing.Frameset]:
    """The clips of each split as the trainer reads them."""
    from marble_bench.probes.framewise import Frameset

    frames = frames_of(data)
    made = {}
    for split in SPLITS:
        members = [index for index, clip in enumerate(data.clips) if clip.split == split]
        own = frames.only(members)
        targets = [data.clips[index].target for index in members]
        made[split] = Frameset(own, _labelled(own, targets))
    return made


def _labelled(frames: Frames, targets: Sequence[Any]) -> Any:
    return lambda layer, item: labels(targets[item], frames.length(layer, item), frames.rates[layer])


def shelf_of(data: Gathered, request: Request, watch: Watch) -> probe_cache.Folder:
    """Where the finished blocks of a run are kept until its record stands."""
    from marble_bench.probes import probe_cache

    rules = {"schedule": asdict(_schedule(data, request)), "crop_s": CROP_S, "neighbours": NEIGHBOURS}
    key = probe_cache.digest(identity.of_probes(data, request, rules))
    return probe_cache.Folder(request.cache / "probes", key, watch.say)


def _schedule(data: Gathered, request: Request) -> Schedule:
    task = request.named.task
    return task.mini_schedule if data.mini and task.mini_schedule else task.schedule


def fit(
    data: Gathered, request: Request, probes: Sequence[trainer.Probe], watch: Watch, kept: probe_cache.Folder
) -> tuple[list[trainer.Fitted], probing.Recipe]:
    """Every probe at its best, `valid` being the main metric on the decoded validation split. kept: of `shelf_of`."""
    from marble_bench.probes import framewise as probing

    task, sets = request.named.task, framesets(data)
    recipe = probing.Recipe(request.protocol, _schedule(data, request), task.target.width, CROP_S, data.summable)
    fitted = probing.fit(probes, sets["train"], sets["valid"], recipe, request.device, watch.probes, kept)
    watch.say(f"decoding the validation split for {counted(len(fitted), 'probe')}")
    clips, main = [clip for clip in data.clips if clip.split == "valid"], task.metrics[0]
    kinds = 1 if main is beats.F1 else task.target.width
    judged: dict[trainer.Probe, float] = {}
    for layer in dict.fromkeys(one.probe.layer for one in fitted):
        able = [one for one in fitted if one.probe.layer == layer and one.valid == one.valid]
        if not able:
            continue
        for one, found in zip(able, decoded(able, sets["valid"], recipe, request.device, kinds), strict=True):
            judged[one.probe] = _judged(main, found, clips)
    return [replace(one, valid=judged.get(one.probe, float("nan"))) for one in fitted], recipe


def _judged(main: Metric, found: Sequence[Any], clips: Sequence[Clip]) -> float:
    """A probe's main score. found: by clip, the times of each kind, of beats alone where the score is their pooled F.

    That one is counted at once: whatever else can be measured of a clip takes the most of a validation's time.
    """
    import torch

    if main is not beats.F1:
        return float(main.compute(beats.measured([found], [clip.target for clip in clips]), torch.zeros(len(clips)))[0])
    counts = [beats.counts(clip.target[0], times[0]) for times, clip in zip(found, clips, strict=True)]
    hits, here, there = (sum(column) for column in zip(*counts, strict=True))
    return float(2 * hits / (here + there))


def decoded(
    fitted: Sequence[trainer.Fitted], split: probing.Frameset, recipe: probing.Recipe, device: str, kinds: int
) -> list[list[list[NDArray[np.float64]]]]:
    """By probe and clip the times of each of the first `kinds` kinds of event, in seconds. All probes read one layer."""
    from marble_bench.probes import framewise as probing

    layer = fitted[0].probe.reads(recipe.summable)[0]
    rate = split.features.rates[layer]
    curves: list[list[NDArray[Any]]] = [[] for _ in range(kinds)]
    for _, outputs in probing.activations(fitted, split, recipe, device):
        for kind in range(kinds):
            curves[kind] += list(outputs[:, :, kind])  # clip by clip, and within it probe by probe
    tempi = (beat_decoder.BEATS, beat_decoder.BARS)
    times = [beat_decoder.decode(each, rate, tempo) for each, tempo in zip(curves, tempi, strict=False)]
    many = len(fitted)
    return [
        [[of_kind[clip * many + probe] for of_kind in times] for clip in range(len(split.features))]
        for probe in range(many)
    ]


@dataclass(frozen=True)
class Answered:
    """What the chosen probes found. measured: what the metrics read. times: by split, seed and clip, of each kind. trivial:
    `(clips, columns)`, what the constant answer gets on the test split."""

    measured: Answers
    times: dict[str, list[list[list[NDArray[np.float64]]]]]
    trivial: Any


def answer(data: Gathered, request: Request, chosen: Sequence[trainer.Fitted], recipe: probing.Recipe) -> Answered:
    """Decode the valid and test splits by each seed's probe, and measure what was found."""
    import torch

    sets = framesets(data)
    clips = {split: [clip for clip in data.clips if clip.split == split] for split in SPLITS}
    times = {
        split: [decoded([one], sets[split], recipe, request.device, kinds=2)[0] for one in chosen]
        for split in ("valid", "test")
    }
    outputs = {split: beats.measured(times[split], [clip.target for clip in clips[split]]) for split in times}
    nothing = {split: torch.zeros(len(clips[split])) for split in SPLITS}
    lengths_s = frames_of(data).lengths_s
    ends = [length for clip, length in zip(data.clips, lengths_s, strict=True) if clip.split == "test"]
    trivial = beats.steady([clip.target for clip in clips["train"]], ends)
    constant = beats.measured([trivial], [clip.target for clip in clips["test"]])[0]
    groups = [clip.group or clip.id for clip in clips["test"]]
    return Answered(Answers(outputs, nothing, groups), times, constant)


def answer_changed(
    clips: Sequence[Clip], frames: Frames, request: Request, chosen: Sequence[trainer.Fitted], recipe: probing.Recipe
) -> list[Any]:
    """By seed and clip the times of each kind that each seed's probe finds in some clips."""
    from marble_bench.probes.framewise import Frameset

    held = Frameset(frames, _labelled(frames, [clip.target for clip in clips]))
    return [decoded([one], held, recipe, request.device, kinds=2)[0] for one in chosen]


def prediction_table(
    data: Gathered, answered: Answered, kinds: Sequence[str], more: Sequence[pd.DataFrame] = ()
) -> pd.DataFrame:
    """A row per split, seed and clip: `truth` the annotated times of the main kind, `outputs` what the metrics read (its
    columns are `marble_bench.metrics.beats.COLUMNS`), and the found times of each kind. more: tables to put behind."""
    import pandas as pd

    tables = []
    for split, of_seed in answered.times.items():
        clips = [clip for clip in data.clips if clip.split == split]
        tables += prediction_rows(split, clips, of_seed, answered.measured.outputs[split], kinds)
    return pd.concat([*tables, *more], ignore_index=True)


def prediction_rows(
    split: str, clips: Sequence[Clip], of_seed: Sequence[Any], outputs: torch.Tensor, kinds: Sequence[str]
) -> list[pd.DataFrame]:
    """A table for each seed. of_seed: by seed and clip the found times of each kind."""
    import pandas as pd

    tables = []
    for seed, found in enumerate(of_seed):
        columns: dict[str, Any] = {
            "split": split,
            "seed": seed,
            "clip": [clip.id for clip in clips],
            "group": [clip.group or clip.id for clip in clips],
            "truth": [list(clip.target[0]) for clip in clips],
            "outputs": outputs[seed].tolist(),
        }
        for index, kind in enumerate(kinds):
            columns[f"{kind}s"] = [times[index].tolist() for times in found]
        tables.append(pd.DataFrame(columns))
    return tables
