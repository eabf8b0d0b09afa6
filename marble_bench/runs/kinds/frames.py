"""A run of a task that asks when something happens: frames, activations, decoded times, scores.

Labels are made at a layer's own frame rate: an event at t seconds stands in frame round(t x rate) and in both its
neighbours. What is annotated behind the end of a clip's audio is left out and recorded.

The probes train on their loss; which one of a seed is scored is chosen by the main metric on the decoded validation split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from marble_bench.core.task import SPLITS, Clip, Schedule
from marble_bench.data import checks, corpus
from marble_bench.data.examples import Examples, Found
from marble_bench.data.times import within_clip
from marble_bench.errors import UsageError
from marble_bench.features.frames import Frames, estimate_bytes
from marble_bench.metrics import beats
from marble_bench.runs import build_record, frame_layers, identity, inputs
from marble_bench.runs.config import Callbacks, RunConfig
from marble_bench.runs.frame_layers import Layers, frames_of, layers_asked
from marble_bench.runs.inputs import Changed, Inputs
from marble_bench.runs.kinds.kind import Scored, choose
from marble_bench.runs.predictions import Predictions, answers
from marble_bench.scoring import beat_decoder
from marble_bench.scoring import scores as scoring
from marble_bench.scoring.scores import split_of
from marble_bench.scoring.targets import Events

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from marble_bench.metrics import Metric
    from marble_bench.probes import framewise as probing
    from marble_bench.probes import probe_cache, trainer

CROP_S = 10.0  # seconds of a training crop, as MARBLE's
NEIGHBOURS = 1  # frames on either side that are labelled too


def check(config: RunConfig) -> None:
    """Raise UsageError for what is for whole clips alone, and for layers without frames."""
    frame_layers.check(config)
    layers_asked(config)


def plan(config: RunConfig, found: Found) -> dict[str, Any]:
    """The names of the layers, the count of the probes, and what the frames take on disk."""
    from marble_bench.probes.grid import grid

    layers, probes, encoder = layers_asked(config), config.probes, config.features.encoder
    assert encoder is not None
    lengths_s, _ = corpus.lengths_s(found.examples.clips, found.examples.path_of(), config.task.corpus.sample_rate_hz)
    audio_s = sum(lengths_s.values())
    return {
        "layers": frame_layers.names_of(encoder, layers),
        "probes": len(grid(probes.protocol, layers.single, bool(layers.summed), probes.seeds)),
        "frames_gb": round(estimate_bytes(audio_s, encoder, layers.stored) / 1e9, 3),
    }


@contextmanager
def prepare(config: RunConfig, callbacks: Callbacks) -> Iterator[FrameJob]:
    """The run with the frames of all clips."""
    layers = layers_asked(config)
    found, marks = read_inputs(config, callbacks, layers)
    checks.check_splits(found.examples, config.data.named.name)
    yield FrameJob(config, callbacks, found, layers, marks)


def read_inputs(config: RunConfig, callbacks: Callbacks, layers: Layers) -> tuple[Inputs, list[str]]:
    """The clips with their frames, and marks: events behind the end of the audio are taken off a clip's target.

    Raises DataError as `inputs.encoder_frames` does, which leaves out clips whose annotation is not of their audio.
    """
    marks: list[str] = []

    def mark(text: str) -> None:
        marks.append(text)
        callbacks.say(f"mark: {text}")

    def looks(found: Examples) -> None:
        assert isinstance(config.task.target, Events)
        for text in checks.check_events(config.task.target, found.clips):
            mark(text)

    found = inputs.encoder_frames(config, callbacks, layers.stored, looks)
    for text in found.marks:
        mark(text)
    rows = []
    for row, length_s in zip(found.examples, frames_of(found).lengths_s, strict=True):
        clip, beyond = within_clip(row.clip, length_s)
        rows.append(replace(row, clip=clip))
        if beyond:
            mark(f"clip '{clip.id}': {beyond} events behind the end at {length_s:.2f} s left out")
    return replace(found, examples=Examples(rows), summable=layers.summable), marks


class FrameJob:
    """One run on frames."""

    def __init__(
        self, config: RunConfig, callbacks: Callbacks, found: Inputs, layers: Layers, marks: list[str]
    ) -> None:
        from marble_bench.probes import framewise, probe_cache, trainer

        self.config, self.callbacks, self.inputs, self.marks = config, callbacks, found, marks
        self.sets = framesets(found)
        schedule, probes = schedule_of(config, found.coverage.mini), config.probes
        outputs = config.task.target.width
        self.recipe = framewise.Recipe(probes.protocol, schedule, outputs, CROP_S, found.summable)
        self.probes = trainer.grid(probes.protocol, layers.places, bool(layers.summed), probes.seeds)
        rules = {"schedule": asdict(schedule), "crop_s": CROP_S, "neighbours": NEIGHBOURS}
        key = probe_cache.digest(identity.of_probes(found, config, rules))
        self.kept: list[probe_cache.Folder] = [
            probe_cache.Folder(probes.cache / "probes", key, callbacks.say),
        ]

    def fit(self) -> list[trainer.Fitted]:
        """Every probe at its best, `valid` being the main metric on the decoded validation split."""
        from marble_bench.probes import framewise as probing

        device, say, sets = self.config.probes.device, self.callbacks.say, self.sets
        progress, kept = self.callbacks.probes, self.kept[0]
        fitted = probing.fit(self.probes, sets["train"], sets["valid"], self.recipe, device, progress, kept)
        say(f"decoding the validation split for {len(fitted)} probes")
        clips, main = self.inputs.examples.of("valid").clips, self.config.task.metrics[0]
        kinds = 1 if main is beats.F1 else self.config.task.target.width
        judged: dict[trainer.Probe, float] = {}
        for layer in dict.fromkeys(one.probe.layer for one in fitted):
            able = [one for one in fitted if one.probe.layer == layer and one.valid == one.valid]
            if not able:
                continue
            for one, times in zip(able, decoded(able, sets["valid"], self.recipe, device, kinds), strict=True):
                judged[one.probe] = _judged(main, times, clips)
        return [replace(one, valid=judged.get(one.probe, float("nan"))) for one in fitted]

    def choose(self, fitted: Sequence[trainer.Fitted]) -> list[trainer.Fitted]:
        """The probe of each seed with the best validation score."""
        return choose(fitted, self.config.probes.seeds)

    def predict(self, chosen: Sequence[trainer.Fitted]) -> dict[str, Predictions]:
        """The times that each seed's probe finds in the valid and test splits, and what is measured of them."""
        found = self.inputs.examples
        return {split: self._answers(chosen, self.sets[split], found.of(split), split) for split in ("valid", "test")}

    def predict_changed(self, chosen: Sequence[trainer.Fitted], name: str, changed: Changed) -> Predictions:
        """What they find in test clips after a perturbation."""
        frames = changed.load()
        assert isinstance(frames, Frames)
        held = frameset(frames, changed.examples)
        return self._answers(chosen, held, changed.examples, split_of(name))

    def _answers(
        self, chosen: Sequence[trainer.Fitted], held: probing.Frameset, found: Examples, split: str
    ) -> Predictions:
        import torch

        names, device = self.config.task.target.names, self.config.probes.device
        times = [decoded([one], held, self.recipe, device, len(names))[0] for one in chosen]
        columns = [
            {f"{name}s": [of_clip[kind].tolist() for of_clip in of_seed] for kind, name in enumerate(names)}
            for of_seed in times
        ]
        outputs = beats.measured(times, found.targets)
        shown = [list(target[0]) for target in found.targets]
        return Predictions(split, found, outputs, torch.zeros(len(found)), shown, columns)

    def few_shot(self) -> list[dict[str, Any]]:
        """None: `check` refuses it."""
        raise UsageError("--few-shot is for tasks of whole clips: leave it out")

    def score(self, found: dict[str, Predictions], chosen: Sequence[trainer.Fitted]) -> Scored:
        """Scores of the decoded times, beside those of a steady pulse in the training tempo."""
        examples, lengths_s = self.inputs.examples, frames_of(self.inputs).lengths_s
        ends = [lengths_s[place] for place in examples.places("test")]
        steady = beats.steady(examples.of("train").targets, ends)
        constant = beats.measured([steady], examples.of("test").targets)[0]
        marks: list[str] = []
        return Scored(scoring.scores(self.config.task.metrics, answers(found), constant, marks=marks), marks=marks)

    def save_more(self, path: Path) -> None:
        """Nothing: grid and predictions are all."""

    def grid(self, fitted: Sequence[trainer.Fitted]) -> pd.DataFrame:
        """Every probe of the grid: a row each."""
        return build_record.grid_table(fitted, self.inputs.features.names)


def schedule_of(config: RunConfig, mini: bool) -> Schedule:
    """When probes stop: as the task says, or says of a miniature."""
    task = config.task
    return task.mini_schedule if mini and task.mini_schedule else task.schedule


def framesets(found: Inputs) -> dict[str, probing.Frameset]:
    """The clips of each split as the trainer reads them."""
    frames, examples = frames_of(found), found.examples
    return {split: frameset(frames.only(examples.places(split)), examples.of(split)) for split in SPLITS}


def frameset(frames: Frames, found: Examples) -> probing.Frameset:
    """Some clips as the trainer reads them."""
    from marble_bench.probes.framewise import Frameset

    def labelled(layer: int, item: int) -> NDArray[np.float32]:
        return labels(found.targets[item], frames.length(layer, item), frames.rates[layer])

    return Frameset(frames, labelled)


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
