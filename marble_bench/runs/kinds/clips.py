"""A run of a task that asks one answer of a clip: pooled features, a grid of probes on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from marble_bench.core import plugins
from marble_bench.core.task import SPLITS, Task
from marble_bench.data import checks
from marble_bench.data.examples import Examples, FoundExamples
from marble_bench.errors import DataError, UsageError, listing
from marble_bench.features.mapped import Tensors
from marble_bench.features.types import Features
from marble_bench.runs import build_record, identity, inputs
from marble_bench.runs.brought import read_brought_features
from marble_bench.runs.config import Callbacks, RunConfig
from marble_bench.runs.inputs import Inputs, PerturbedExamples
from marble_bench.runs.kinds.kind import RunScores, choose
from marble_bench.runs.layers import choose_places
from marble_bench.runs.predictions import Predictions, Windows, make_answers
from marble_bench.scoring import scores as scoring
from marble_bench.scoring.scores import convert_number, split_of
from marble_bench.scoring.targets import ClipTarget, MaskedTags, Scalars, Tags

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    import torch
    from numpy.typing import NDArray

    from marble_bench.probes import probe_cache, trainer


def check(config: RunConfig) -> None:
    """Raise UsageError for a head that does not learn the task's target, and for layers that the model has not.

    Layers of brought features are known when they are read.
    """
    _check_losses(config)
    encoder = config.features.encoder
    if encoder:
        names = [layer.name for layer in encoder.layers]
        choose_places(config.probes, names, encoder.summable)


def _check_losses(config: RunConfig) -> None:
    """Raise UsageError for a head that does not declare the loss of the task's target."""
    head, target = plugins.get_head(config.probes.protocol), config.task.target
    assert isinstance(target, ClipTarget)
    if target.loss not in head.losses:
        raise UsageError(
            f"head '{head.name}' learns {' and '.join(head.losses)}, and the target of task '{config.data.named.name}' is "
            f"{type(target).__name__}, whose loss is {target.loss}: choose another task (bench list tasks) or another "
            "head (bench list heads)"
        )


def plan(config: RunConfig, found: FoundExamples) -> dict[str, Any]:
    """The names of the layers and the count of the probes."""
    from marble_bench.probes.grid import build_grid

    encoder, probes = config.features.encoder, config.probes
    assert encoder is not None
    names, protocol = [layer.name for layer in encoder.layers], probes.changed_protocol
    layers, with_sum, with_concat = choose_places(probes, names, encoder.summable)
    return {
        "layers": [names[index] for index in layers] + ["sum"] * with_sum + ["concat"] * with_concat,
        "probes": len(build_grid(protocol, layers, with_sum, probes.seeds, with_concat=with_concat)),
    }


@contextmanager
def prepare(config: RunConfig, callbacks: Callbacks) -> Iterator[ClipJob]:
    """The run with the features of all clips."""
    yield ClipJob(config, callbacks, _read_inputs(config, callbacks))


def _read_inputs(config: RunConfig, callbacks: Callbacks) -> Inputs:
    """Features of every clip. Clips are checked before any is encoded, and again without those that are damaged."""
    looks = partial(_check_examples, config)
    brought = config.features.brought
    found = read_brought_features(config) if brought else inputs.extract_features(config, callbacks, looks)
    looks(found.examples)
    return found


class ClipJob:
    """One run on pooled features."""

    def __init__(self, config: RunConfig, callbacks: Callbacks, found: Inputs) -> None:
        from marble_bench.probes import trainer

        assert isinstance(found.features, Features)
        self.config, self.callbacks, self.inputs = config, callbacks, found
        self.probe_caches: list[probe_cache.ProbeCacheFolder] = []
        self.splits, self.units = _make_splits(found, config)
        self.warnings = _find_warnings(found, config.task, self.splits["train"], config)
        for warning in self.warnings:
            callbacks.say(f"warning: {warning}")
        target, probes = config.task.target, config.probes
        assert isinstance(target, ClipTarget)
        of_task = config.data.named.rules
        self.recipe = trainer.Recipe(
            protocol=config.training_protocol,
            schedule=config.task.schedule,
            outputs=target.width,
            loss=target.loss,
            score=config.task.metrics[0].score,
            summable=found.summable,
            every=tuple(range(len(found.features.names))),
            aggregation=of_task.aggregation if of_task else "outputs",
        )
        layers, with_sum, with_concat = choose_places(probes, found.features.names, found.summable)
        rules = probes.changed_protocol
        self.probes = trainer.build_grid(rules, layers, with_sum, probes.seeds, with_concat=with_concat)

    @cached_property
    def _facts(self) -> dict[str, Any]:
        """What finished probes are known by."""
        return identity.list_probe_cache_facts(self.inputs, self.config)

    def fit(self) -> list[trainer.TrainedProbe]:
        """All probes, with the weights of each seed's best; each seed's on its share of the clips where a share is asked."""
        share, seeds = self.config.probes.variants.train_share, range(self.config.probes.seeds)
        if share is None:
            return self._fit(self.probes, self.splits["train"])
        fitted = {one.probe: one for seed in seeds for one in self._fit_share(share, seed)[1]}
        return [fitted[probe] for probe in self.probes]

    def _fit_share(self, share: float, seed: int) -> tuple[int, list[trainer.TrainedProbe]]:
        """How many of the training clips a share is, and a seed's probes trained on its own draw of them."""
        from marble_bench.probes import few_shot

        part = few_shot.take_share(self.splits["train"], share, seed)
        return part.clips, self._fit([probe for probe in self.probes if probe.seed == seed], part)

    def _fit(self, probes: Sequence[trainer.Probe], train: trainer.Split) -> list[trainer.TrainedProbe]:
        from marble_bench.probes import probe_cache, trainer

        ours, valid, callbacks = self.config.probes, self.splits["valid"], self.callbacks
        key = probe_cache.digest(self._facts, train, valid)
        cache = probe_cache.ProbeCacheFolder(ours.cache / "probes", key, callbacks.say)
        self.probe_caches.append(cache)
        fitted: list[trainer.TrainedProbe] = trainer.fit(
            probes, train, valid, self.recipe, ours.device, callbacks.probes, states="best", probe_cache=cache
        )
        return fitted

    def choose(self, fitted: Sequence[trainer.TrainedProbe]) -> list[trainer.TrainedProbe]:
        """The probe of each seed with the best validation score."""
        return choose(fitted, self.config.probes.seeds)

    def predict(self, chosen: Sequence[trainer.TrainedProbe]) -> dict[str, Predictions]:
        """What the chosen probes answer to the valid and test splits."""
        found = self.inputs.examples
        return {
            split: self._predict_answers(chosen, self.splits[split], found.of(split), split)
            for split in ("valid", "test")
        }

    def predict_perturbed(
        self, chosen: Sequence[trainer.TrainedProbe], name: str, changed: PerturbedExamples
    ) -> Predictions:
        """What they answer to test clips after a perturbation."""
        import torch

        from marble_bench.probes import trainer

        features = changed.load()
        assert isinstance(features, Features)
        rows = trainer.Split(Tensors(features.layers), torch.from_numpy(features.clip), self.splits["test"].truth)
        return self._predict_answers(chosen, rows, changed.examples, split_of(name))

    def _predict_answers(
        self, chosen: Sequence[trainer.TrainedProbe], rows: trainer.Split, found: Examples, split: str
    ) -> Predictions:
        """What chosen probes answer to some examples, in the label's own units, averaged over each clip's windows."""
        import torch

        from marble_bench.probes import trainer

        device = self.config.probes.device
        outputs = self.units.restore(
            torch.stack([trainer.predict_windows(one, rows, self.recipe, device) for one in chosen])
        )
        return Predictions(
            split,
            found,
            scoring.aggregate_windows(outputs, rows.clip, len(found), self.recipe.aggregation),
            torch.from_numpy(found.truth(self.config.task.target)),
            windows=Windows(outputs, rows.clip),
        )

    def few_shot(self) -> list[dict[str, Any]]:
        """The main metric of each seed's best probe when the grid is trained on a share of the training clips."""
        from marble_bench.probes import few_shot, trainer

        recipe, test, points = self.recipe, self.splits["test"], []
        for share in few_shot.SHARES:
            point: dict[str, Any] = {"share": share, "valid": [], "test": []}
            for seed in range(self.config.probes.seeds):
                point["clips"], fitted = self._fit_share(share, seed)
                (best,) = choose(fitted, [seed])
                outputs = trainer.predict(best, test, recipe, self.config.probes.device)
                point["valid"].append(convert_number(best.valid))
                point["test"].append(convert_number(float(recipe.score(outputs[None], test.truth)[0])))
            points.append(point)
        return points

    def score(self, found: dict[str, Predictions], chosen: Sequence[trainer.TrainedProbe]) -> RunScores:
        """Scores clip by clip, by the best ensemble of windows, and by group, as the task asks."""
        import torch

        task, warnings = self.config.task, list[str]()
        assert isinstance(task.target, ClipTarget)
        main, plain = task.metrics[:1], make_answers(found)
        train = self.inputs.examples.of("train").truth(task.target)
        constant = torch.from_numpy(task.target.trivial(train))
        scored = RunScores(scoring.compute_scores(task.metrics, plain, constant, warnings=warnings), warnings=warnings)
        if task.ensemble:
            windows = {split: each.windows for split, each in found.items() if each.windows is not None}
            outputs = {split: each.outputs for split, each in windows.items()}
            clip = {split: each.clip for split, each in windows.items()}
            best, names = scoring.choose_ensemble(task.metrics[0], outputs, clip, plain)
            scored.scores |= scoring.compute_scores(main, best, constant, "_ensemble", main=False, warnings=warnings)
            scored.choices = [{"ensemble": name} for name in names]
        if task.group_name:
            grouped = scoring.average_groups(plain, {split: each.groups for split, each in found.items()})
            scored.scores |= scoring.compute_scores(
                main, grouped, constant, f"_{task.group_name}", main=False, warnings=warnings
            )
        return scored

    def save_more(self, path: Path) -> None:
        """Nothing: grid and predictions are all."""

    def grid(self, fitted: Sequence[trainer.TrainedProbe]) -> pd.DataFrame:
        """Every probe of the grid: a row each."""
        return build_record.build_grid_table(fitted, self.inputs.features.names)


def _check_examples(config: RunConfig, found: Examples) -> None:
    """Raise DataError for an empty split, a label that is none of the task's, or tags that have no ranking score.

    Those are tags that no clip, or every clip, of valid or test carries; of masked tags, none or all of those judged.
    """
    name, target = config.data.named.name, config.task.target
    checks.check_splits(found, name)
    found.truth(target)
    if not isinstance(target, Tags | MaskedTags):
        return
    for split in ("valid", "test"):
        truth = found.of(split).truth(target)
        one_kind = ((truth == 1).sum(axis=0) == 0) | ((truth == 0).sum(axis=0) == 0)
        bad = [tag for tag, alone in zip(target.names, one_kind, strict=True) if alone]
        if bad:
            judged = " that was judged" if isinstance(target, MaskedTags) else ""
            raise DataError(
                f"task '{name}': no clip, or every clip{judged}, of the {split} split carries {listing(bad)}; "
                "a ranking score needs both kinds. Use more of the corpus"
            )


def _find_warnings(found: Inputs, task: Task, train: trainer.Split, config: RunConfig) -> list[str]:
    """What is odd about features and labels."""
    assert isinstance(found.features, Features)
    examples, protocol = found.examples, config.training_protocol
    warnings = [*found.warnings, *checks.check_features(found.features, examples)]
    warnings += checks.check_labels(task.target, examples)
    warnings += checks.check_ids(examples)
    warnings += checks.check_carriers(task.metrics, task.target, examples)
    if protocol.solver == "adam":
        warnings += checks.check_batches(len(train.clip), protocol.batch_sizes or (protocol.batch_size,))
    return warnings


@dataclass(frozen=True)
class Units:
    """How labels are scaled for training. mean, spread: `(width,)` float32 of `Scalars`, else 0 and 1, `(1,)`."""

    mean: NDArray[Any]
    spread: NDArray[Any]

    @classmethod
    def of(cls, found: Examples, truth: NDArray[Any], config: RunConfig) -> Units:
        """By the train and valid splits together. Raises DataError for a label that is the same in all of them."""
        import numpy as np

        if not isinstance(config.task.target, Scalars):
            return cls(np.zeros(1, np.float32), np.ones(1, np.float32))
        development = truth[[clip.split != "test" for clip in found.clips]].astype(np.float64)
        mean, spread = development.mean(axis=0).astype(np.float32), development.std(axis=0).astype(np.float32)
        if not spread.all():
            raise DataError(f"task '{config.data.named.name}': every development clip has the same label")
        return cls(mean, spread)

    def restore(self, outputs: torch.Tensor) -> torch.Tensor:
        """Outputs in the label's own units."""
        import torch

        return outputs * torch.from_numpy(self.spread) + torch.from_numpy(self.mean)


def _make_splits(found: Inputs, config: RunConfig) -> tuple[dict[str, trainer.Split], Units]:
    """Features and truth of each split as tensors, and how labels are scaled in them."""
    import numpy as np
    import torch

    from marble_bench.probes import few_shot, trainer

    assert isinstance(found.features, Features)
    truth = found.examples.truth(config.task.target)
    units = Units.of(found.examples, truth, config)
    if isinstance(config.task.target, Scalars):
        truth = (truth - units.mean) / units.spread
    layers, window_clip = Tensors(found.features.layers), found.features.clip
    splits = {}
    for split in SPLITS:
        members = np.array(found.examples.places(split), np.int64)
        rows = np.flatnonzero(np.isin(window_clip, members))
        place = np.searchsorted(members, window_clip[rows])
        splits[split] = trainer.Split(
            layers, torch.from_numpy(place), torch.from_numpy(truth[members]), torch.from_numpy(rows)
        )
    if config.probes.control == "shuffle":
        splits["train"] = few_shot.shuffle_labels(splits["train"])
    return splits, units
