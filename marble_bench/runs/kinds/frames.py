"""A run of a task that is asked frame by frame: frames, activations, decoded answers, scores.

What is annotated behind the end of a clip's audio is left out and recorded. The probes train on their loss; which one of a
seed is scored, and with which setting of the task's `decode`, is chosen by the main metric on the decoded validation split.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from marble_bench.core.task import SPLITS, Schedule
from marble_bench.data import checks, corpus
from marble_bench.data.examples import Examples, FoundExamples
from marble_bench.data.times import clip_annotation
from marble_bench.errors import UsageError, listing
from marble_bench.features.frames import Frames, estimate_bytes
from marble_bench.features.timing import Timing
from marble_bench.runs import build_record, frame_layers, identity, inputs
from marble_bench.runs.config import Callbacks, RunConfig
from marble_bench.runs.frame_labels import Decoder, Scale, make_frameset, measure_of
from marble_bench.runs.frame_layers import Layers, choose_frame_layers, get_frames
from marble_bench.runs.inputs import Inputs, PerturbedExamples
from marble_bench.runs.kinds.kind import RunScores, choose
from marble_bench.runs.predictions import Predictions, make_answers
from marble_bench.scoring import scores as scoring
from marble_bench.scoring import targets
from marble_bench.scoring.frame_columns import to_columns
from marble_bench.scoring.frame_targets import NEIGHBOURS
from marble_bench.scoring.scores import split_of

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from marble_bench.metrics import Metric
    from marble_bench.probes import framewise as probing
    from marble_bench.probes import trainer

CROP_S = 10.0  # seconds of a training crop, as MARBLE's


def check(config: RunConfig) -> None:
    """Raise UsageError for what is for whole clips alone, and for layers without frames."""
    frame_layers.check(config)
    choose_frame_layers(config)


def plan(config: RunConfig, found: FoundExamples) -> dict[str, Any]:
    """The names of the layers, the count of the probes, and what the frames take on disk."""
    from marble_bench.probes.grid import build_grid

    layers, probes, encoder = choose_frame_layers(config), config.probes, config.features.encoder
    assert encoder is not None
    lengths_s, _ = corpus.measure_lengths_s(
        found.examples.clips, found.examples.path_of(), config.task.corpus.sample_rate_hz
    )
    audio_s = sum(lengths_s.values())
    return {
        "layers": frame_layers.list_names(encoder, layers),
        "probes": len(build_grid(probes.changed_protocol, layers.single, bool(layers.summed), probes.seeds)),
        "frames_gb": round(estimate_bytes(audio_s, encoder, layers.stored, Timing.of(config.task.target)) / 1e9, 3),
    }


@contextmanager
def prepare(config: RunConfig, callbacks: Callbacks) -> Iterator[FrameJob]:
    """The run with the frames of all clips."""
    layers = choose_frame_layers(config)
    found, warnings = read_inputs(config, callbacks, layers)
    checks.check_splits(found.examples, config.data.named.name)
    yield FrameJob(config, callbacks, found, layers, warnings)


def read_inputs(config: RunConfig, callbacks: Callbacks, layers: Layers) -> tuple[Inputs, list[str]]:
    """The clips with their frames, and warnings: what is annotated behind the end of the audio is taken off a clip's target.

    Raises DataError as `inputs.extract_all_frames` does, which leaves out clips whose annotation is not of their audio.
    """
    target, warnings = get_target(config), list[str]()

    def warn(text: str) -> None:
        warnings.append(text)
        callbacks.say(f"warning: {text}")

    def looks(found: Examples) -> None:
        for text in checks.check_frames(target, found):
            warn(text)

    found = inputs.extract_all_frames(config, callbacks, layers.stored, looks)
    for text in found.warnings:
        warn(text)
    rows, lengths_s = [], get_frames(found).lengths_s
    for text in checks.check_early_ends(target, zip(found.examples.clips, lengths_s, strict=True)):
        warn(text)
    for row, length_s in zip(found.examples, lengths_s, strict=True):
        clip, beyond = clip_annotation(target, row.clip, length_s)
        rows.append(replace(row, clip=clip))
        if beyond:
            warn(f"clip '{clip.id}': {beyond} {target.unit} behind the end at {length_s:.2f} s left out")
    return replace(found, examples=Examples(rows), summable=layers.summable), warnings


class FrameJob:
    """One run on frames."""

    def __init__(
        self, config: RunConfig, callbacks: Callbacks, found: Inputs, layers: Layers, warnings: list[str]
    ) -> None:
        from marble_bench.probes import framewise, probe_cache, trainer

        self.config, self.callbacks, self.inputs, self.warnings = config, callbacks, found, warnings
        target = get_target(config)
        scale = Scale.of(target, [row.clip.target for row in found.examples if row.clip.split != "test"])
        self.sets = make_framesets(target, found, scale)
        schedule, probes = schedule_of(config, found.coverage.mini), config.probes
        self.recipe = framewise.Recipe(
            probes.changed_protocol, schedule, target.answered, CROP_S, found.summable, target.stops_by
        )
        self.decoder = Decoder(target, self.recipe, scale, probes.device)
        self.settings: dict[trainer.Probe, float | None] = {}  # of each probe the best on the validation split
        self.probes = trainer.build_grid(probes.changed_protocol, layers.places, bool(layers.summed), probes.seeds)
        rules = {"schedule": asdict(schedule), "crop_s": CROP_S, "neighbours": NEIGHBOURS}
        key = probe_cache.digest(identity.list_probe_cache_facts(found, config, rules))
        self.probe_caches = [probe_cache.ProbeCacheFolder(probes.cache / "probes", key, callbacks.say)]

    def fit(self) -> list[trainer.TrainedProbe]:
        """Every probe at its best, `valid` being the main metric on the decoded validation split."""
        from marble_bench.probes import framewise as probing

        device, say, sets = self.config.probes.device, self.callbacks.say, self.sets
        progress, cache = self.callbacks.probes, self.probe_caches[0]
        fitted = probing.fit(self.probes, sets["train"], sets["valid"], self.recipe, device, progress, cache)
        say(f"decoding the validation split for {len(fitted)} probes")
        annotated, main = self.inputs.examples.of("valid").targets, self.config.task.metrics[0]
        judged: dict[trainer.Probe, float] = {}
        for layer in dict.fromkeys(one.probe.layer for one in fitted):
            able = [one for one in fitted if one.probe.layer == layer and one.valid == one.valid]
            if able:
                settings = self.decoder.settings_of_all
                found = self.decoder.choose_settings(able, sets["valid"], annotated, main, settings)
                for one, (valid, setting) in zip(able, found, strict=True):
                    judged[one.probe], self.settings[one.probe] = valid, setting
        return [replace(one, valid=judged.get(one.probe, float("nan"))) for one in fitted]

    def choose(self, fitted: Sequence[trainer.TrainedProbe]) -> list[trainer.TrainedProbe]:
        """The probe of each seed with the best validation score, tuned where the task has a metric for that."""
        chosen = choose(fitted, self.config.probes.seeds)
        for metric in self.config.task.metrics:
            if metric.name == self.decoder.target.tuned_by:
                self._tune(chosen, metric)
        return chosen

    def _tune(self, chosen: Sequence[trainer.TrainedProbe], metric: Metric) -> None:
        """Choose each probe's setting on the validation split."""
        valid, annotated, settings = self.sets["valid"], self.inputs.examples.of("valid").targets, self.decoder.settings
        for one in chosen:
            ((_, self.settings[one.probe]),) = self.decoder.choose_settings([one], valid, annotated, metric, settings)

    def predict(self, chosen: Sequence[trainer.TrainedProbe]) -> dict[str, Predictions]:
        """What each seed's probe finds in the valid and test splits, and what is measured of that."""
        found = self.inputs.examples
        return {
            split: self._predict_answers(chosen, self.sets[split], found.of(split), split)
            for split in ("valid", "test")
        }

    def predict_perturbed(
        self, chosen: Sequence[trainer.TrainedProbe], name: str, changed: PerturbedExamples
    ) -> Predictions:
        """What they find in test clips after a perturbation."""
        frames = changed.load()
        assert isinstance(frames, Frames)
        held = make_frameset(self.decoder.target, frames, changed.examples.targets, self.decoder.scale)
        return self._predict_answers(chosen, held, changed.examples, split_of(name))

    def _predict_answers(
        self, chosen: Sequence[trainer.TrainedProbe], held: probing.Frameset, found: Examples, split: str
    ) -> Predictions:
        import torch

        target, measure = self.decoder.target, measure_of(self.config.task.metrics[0])
        answers = [self.decoder.decode([one], held, [self.settings[one.probe]])[0][0] for one in chosen]
        outputs = torch.stack([measure.rows(of_seed, found.targets) for of_seed in answers])
        truth = [target.list_first(each) for each in found.targets]
        columns = [to_columns(target, measure, of_seed) for of_seed in answers]
        return Predictions(split, found, outputs, torch.zeros(len(found)), truth, columns)

    def few_shot(self) -> list[dict[str, Any]]:
        """None: `check` refuses it."""
        raise UsageError("--few-shot is for tasks of whole clips: leave it out")

    def score(self, found: dict[str, Predictions], chosen: Sequence[trainer.TrainedProbe]) -> RunScores:
        """Scores of what was found, beside those of the trivial answer."""
        examples, lengths_s = self.inputs.examples, get_frames(self.inputs).lengths_s
        ends = [lengths_s[place] for place in examples.places("test")]
        measure, warnings = measure_of(self.config.task.metrics[0]), list[str]()
        trivial = measure.rows(measure.trivial(examples.of("train").targets, ends), examples.of("test").targets)
        scores = scoring.compute_scores(self.config.task.metrics, make_answers(found), trivial, warnings=warnings)
        warnings += list_clips_without_value(self.config.task.metrics, found["test"])
        settings = [self.settings[one.probe] for one in chosen]
        return RunScores(scores, [{} if value is None else {"setting": value} for value in settings], warnings)

    def save_more(self, path: Path) -> None:
        """Nothing: grid and predictions are all."""

    def grid(self, fitted: Sequence[trainer.TrainedProbe]) -> pd.DataFrame:
        """Every probe of the grid: a row each."""
        return build_record.build_grid_table(fitted, self.inputs.features.names)


def list_clips_without_value(metrics: Sequence[Metric], found: Predictions) -> list[str]:
    """A warning for each score of frames that some test clips have no value of, and that is a mean over the others."""
    warnings = []
    for metric in metrics:
        if metric.kind == "frames":
            known = metric.per_clip(found.outputs, found.truth).isfinite().any(dim=0).tolist()
            without = [name for name, there in zip(found.examples.ids, known, strict=True) if not there]
            if without:
                warnings.append(
                    f"{metric.name}: {len(without)} of {len(known)} test clips have no value: {listing(without)}"
                )
    return warnings


def schedule_of(config: RunConfig, mini: bool) -> Schedule:
    """When probes stop: as the task says, or says of a miniature."""
    task = config.task
    return task.mini_schedule if mini and task.mini_schedule else task.schedule


def get_target(config: RunConfig) -> targets.Frames:
    """The target of a task that is asked frame by frame."""
    assert isinstance(config.task.target, targets.Frames)
    return config.task.target


def make_framesets(target: targets.Frames, found: Inputs, scale: Scale) -> dict[str, probing.Frameset]:
    """The clips of each split as the trainer reads them."""
    frames, examples = get_frames(found), found.examples
    return {
        split: make_frameset(target, frames.only(examples.places(split)), examples.of(split).targets, scale)
        for split in SPLITS
    }
