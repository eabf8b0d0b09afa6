"""Twelve ways to plant a record that a run did not make, each as careful as its forger can be.

Every forger knows the suite: the schema holds, scores, intervals and spreads follow from the predictions, the choice from
the grid, the counts from the tables, and every digest is made anew. What a forger cannot make true is what the frauds are
found by. The world is a corpus of hums that is whole on disk, with an encoder that has weights.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder
from marble_bench.core.plugins import Named
from marble_bench.core.task import SPLITS, Clip
from marble_bench.data import corpus
from marble_bench.features.pooled import compute_digests
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.records import results
from marble_bench.records.record import to_json
from marble_bench.records.schema import from_json
from marble_bench.runs import run
from marble_bench.runs.config import Outcome, RunConfig
from marble_bench.scoring import scores

PLUGINS = Path(__file__).parent / "plugins"
ENCODERS = PLUGINS / "hum_encoder.py"


class Silent:
    """A watch that tells nobody."""

    def features(self, done: int, todo: int, audio_s: float) -> None: ...
    def probes(self, done: int, todo: int, best: float, alive: int) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass
class World:
    """A corpus of hums, weights and a cache below a folder."""

    folder: Path
    named: Named
    runs: itertools.count[int] = field(default_factory=itertools.count)

    @property
    def root(self) -> Path:
        """The corpus."""
        return self.folder / "hums"

    def weights(self, name: str) -> Path:
        """A file of weights."""
        return self.folder / f"{name}.safetensors"

    def clips(self) -> list[Clip]:
        """What the corpus lists."""
        return list(self.named.task.clips(self.root))

    def fingerprint(self, without: set[str] = frozenset()) -> str:
        """Of the corpus, which a forger may have too."""
        clips = [clip for clip in self.clips() if clip.id not in without]
        return corpus.compute_fingerprint(clips, compute_digests([self.root / clip.audio for clip in clips]))

    def config(self, **options: Any) -> RunConfig:
        """An honest run of the corpus; options: what is otherwise."""
        encoder = options.pop("encoder", None) or plugins.find_encoder(f"{ENCODERS}:HUM")
        given = {"named": self.named, "encoder": encoder, "weights": None, "root": self.root, **options}
        if given["weights"] is None and encoder.weights is not None:
            given["weights"] = self.weights("honest")
        cache, where = self.folder / "cache", self.folder / f"run{next(self.runs)}"
        return RunConfig.of(protocol=MARBLE, model=encoder.name, cache=cache, results=where, **given)

    def run(self, **options: Any) -> Outcome:
        """What a run gives."""
        return run.run(self.config(**options), Silent())


def build(folder: Path, named: Named) -> World:
    """Write the corpus and two files of weights, of which one serves better."""
    from safetensors.torch import save_file

    world = World(folder, named)
    for at, name in enumerate(("honest", "better")):
        drawn = torch.Generator().manual_seed(7 + at)
        shapes = {"0": (16, 12), "1": (12, 12), "2": (12, 12)}
        found = {key: torch.randn(*shape, generator=drawn) / shape[0] ** 0.5 for key, shape in shapes.items()}
        save_file(found, world.weights(name))
    world.root.mkdir()
    named.task.clips.__globals__["write"](world.root)
    return world


@dataclass
class Draft:
    """A record with its tables in a forger's hands."""

    record: dict[str, Any]
    grid: pd.DataFrame
    predictions: pd.DataFrame

    @classmethod
    def of(cls, outcome: Outcome) -> Draft:
        """A copy of what a run wrote."""
        tables = [pd.read_parquet(results.find_table_path(outcome.path, kind)) for kind in results.TABLES]
        return cls(to_json(outcome.record), *tables)

    def answers(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Outputs `(seeds, clips, width)` and truth `(clips,)` of a split."""
        rows = self.predictions[self.predictions["split"] == split]
        seeds = [part for _, part in rows.groupby("seed", sort=True)]
        outputs = torch.from_numpy(np.stack([np.stack(list(part["outputs"])) for part in seeds])).float()
        return outputs, torch.tensor([int(each[0]) for each in seeds[0]["truth"]])

    def lower(self, rows: Any, most: float) -> None:
        """Validation scores of some probes, and all that came before them, are less by what makes the best this at most."""
        for row in self.grid.index[rows & (self.grid["valid"] > most)]:
            held = np.asarray(self.grid.at[row, "history"])
            best = self.grid.at[row, "valid"]
            self.grid.at[row, "history"] = np.where(held == best, most, held - (best - most)).tolist()
            self.grid.at[row, "valid"] = most

    def seal(self, folder: Path, world: World, trivial: bool = False) -> Path:
        """Make scores, counts and digests follow from the tables and write all three; the path of the record.

        trivial: the score of the constant answer too, which needs the training labels; else it stays.
        """
        answers = {split: self.answers(split) for split in ("valid", "test")}
        test = self.predictions[(self.predictions["split"] == "test") & (self.predictions["seed"] == 0)]
        found = scores.Answers(
            {split: each[0] for split, each in answers.items()},
            {split: each[1] for split, each in answers.items()},
            list(test["group"]),
        )
        target = world.named.task.target
        train = [clip for clip in world.clips() if clip.split == "train"]
        labels = target.encode([clip.target for clip in train], [clip.id for clip in train])
        made = scores.compute_scores(world.named.task.metrics, found, torch.from_numpy(target.trivial(labels)))
        for name, score in made.items():
            if not trivial:
                score["trivial"] = self.record["scores"][name]["trivial"]
        self.record["scores"] = made
        for split in ("valid", "test"):
            self.record["data"]["clips"][split] = len(answers[split][1])
        selection = self.record["selection"]
        selection["probes"], selection["diverged"] = len(self.grid), int(self.grid["diverged"].sum())
        record = from_json(self.record)
        path = results.record_path(folder, record)
        results.save(path, record, self.grid, self.predictions, overwrite=True)
        return path


def _find_hard(draft: Draft, most: int) -> list[str]:
    """The test clips that most seeds answer wrongly."""
    outputs, truth = draft.answers("test")
    wrong = (outputs.argmax(dim=-1) != truth).sum(dim=0)
    rows = draft.predictions[(draft.predictions["split"] == "test") & (draft.predictions["seed"] == 0)]
    order = sorted(range(len(truth)), key=lambda at: -int(wrong[at]))
    return [rows["clip"].iloc[at] for at in order[:most] if wrong[at]]


def edit_predictions(world: World, honest: Outcome, folder: Path) -> Path:
    """Two hard clips are answered rightly, by the outputs that they had in another order."""
    draft = Draft.of(honest)
    hard = set(_find_hard(draft, 2))

    def mended(row: Any) -> Any:
        outputs = np.array(row["outputs"], copy=True)
        if row["split"] == "test" and row["clip"] in hard:
            right, top = int(row["truth"][0]), int(outputs.argmax())
            outputs[[right, top]] = outputs[[top, right]]
        return outputs.tolist()

    draft.predictions["outputs"] = draft.predictions.apply(mended, axis=1)
    return draft.seal(folder, world)


def exchange_weights(world: World, honest: Outcome, folder: Path) -> Path:
    """A run with other weights, under the digest of those that everybody has."""
    draft = Draft.of(world.run(weights=world.weights("better")))
    draft.record["model"] = to_json(honest.record)["model"]
    return draft.seal(folder, world)


def choose_layer_on_test(world: World, honest: Outcome, folder: Path) -> Path:
    """The layer that does best on test, its rivals' validation scores lowered so that validation would choose it."""
    chosen = {choice["layer"] for choice in to_json(honest.record)["selection"]["per_seed"]}
    others = [layer for layer in ("0", "1", "2", "sum") if {layer} != chosen]
    tried = {layer: world.run(layers=layer) for layer in others}
    best = max(tried, key=lambda layer: tried[layer].record.scores["accuracy"].test)
    draft, alone = Draft.of(honest), Draft.of(tried[best])
    draft.predictions = alone.predictions
    draft.record["selection"]["per_seed"] = alone.record["selection"]["per_seed"]
    for choice in draft.record["selection"]["per_seed"]:
        rivals = (draft.grid["seed"] == choice["seed"]) & (draft.grid["layer"] != best)
        draft.lower(rivals, choice["valid"] - 1 / 24)
    return draft.seal(folder, world)


def exchange_splits(world: World, honest: Outcome, folder: Path) -> Path:
    """Chosen on the clips of test, scored on those of valid, which are as many."""
    turned = {"valid": "test", "test": "valid"}

    def clips(root: Path | None) -> list[Clip]:
        return [replace(clip, split=turned.get(clip.split, clip.split)) for clip in world.clips()]

    draft = Draft.of(world.run(named=replace(world.named, task=replace(world.named.task, clips=clips))))
    draft.record["data"]["fingerprint"] = to_json(honest.record)["data"]["fingerprint"]
    draft.record["task"] = to_json(honest.record)["task"]
    return draft.seal(folder, world)


def copy_model(world: World, honest: Outcome, folder: Path) -> Path:
    """Another's predictions under a new name, scaled, with noise on them and the seeds in another order."""
    draft, random = Draft.of(honest), np.random.default_rng(0)
    draft.record["model"] |= {"name": "better-hum", "weights_sha256": "b" * 64, "source": "file:better.safetensors"}
    spread = float(np.std(np.stack(list(draft.predictions["outputs"]))))
    draft.predictions["outputs"] = [
        (1.3 * (row + 0.003 * spread * random.normal(size=len(row)))).tolist() for row in draft.predictions["outputs"]
    ]
    for frame in (draft.grid, draft.predictions):
        frame["seed"] = (frame["seed"] + 1) % 3
    for choice in draft.record["selection"]["per_seed"]:
        choice["seed"] = (choice["seed"] + 1) % 3
    return draft.seal(folder, world)


def leak_training(world: World, honest: Outcome, folder: Path) -> Path:
    """Trained on the test clips too; the record says nothing of them."""

    def clips(root: Path | None) -> list[Clip]:
        leaked = [
            clip for clip in world.clips() if clip.split == "test"
        ]  # by a stretch, which hides that they are the same
        return [*world.clips(), *(replace(c, id=f"more-{c.id}", split="train", duration_s=0.5) for c in leaked)]

    counts = world.named.task.counts | {"train": 54}
    named = replace(world.named, task=replace(world.named.task, clips=clips, counts=counts))
    draft = Draft.of(world.run(named=named))
    for key in ("task", "data"):
        draft.record[key] = to_json(honest.record)[key]
    for name, score in draft.record["scores"].items():
        score["trivial"] = to_json(honest.record)["scores"][name]["trivial"]
    return draft.seal(folder, world)


def make_knowing_encoder(world: World) -> Encoder:
    """An encoder that was trained on the labels of every split."""
    os.environ["HUMS_TOLD"] = str(world.root)
    return plugins.find_encoder(f"{ENCODERS}:KNOWS")


def leak_features(world: World, honest: Outcome, folder: Path) -> Path:
    """An encoder whose features carry the labels of the test clips, run honestly."""
    return Draft.of(world.run(encoder=make_knowing_encoder(world))).seal(folder, world)


def claim_miniature_as_full(world: World, honest: Outcome, folder: Path) -> Path:
    """A run on the miniature, its clips given the names, labels and fingerprint of the corpus."""
    made = world.run(mini=True, root=None)
    draft = Draft.of(made)
    listed = {split: [clip for clip in world.clips() if clip.split == split] for split in SPLITS}
    names = world.named.task.target.names
    frames = []
    for (split, seed), rows in draft.predictions.groupby(["split", "seed"], sort=True):
        by_label = {int(truth[0]): outputs for truth, outputs in zip(rows["truth"], rows["outputs"], strict=True)}
        for clip in listed[split]:
            label = names.index(clip.target)
            frames.append([split, seed, clip.id, clip.id, [float(label)], by_label[label]])
    draft.predictions = pd.DataFrame(frames, columns=["split", "seed", "clip", "group", "truth", "outputs"])
    draft.record["data"] = to_json(honest.record)["data"]
    draft.record |= {"comparable": True, "why_not": []}
    for name, score in draft.record["scores"].items():
        score["trivial"] = to_json(honest.record)["scores"][name]["trivial"]
    outputs, truth = draft.answers("valid")
    valid = (outputs.argmax(dim=-1) == truth).double().mean(dim=1).tolist()
    for choice, value in zip(draft.record["selection"]["per_seed"], valid, strict=True):
        own = draft.grid["seed"] == choice["seed"]
        for axis in ("layer", "learning_rate", "weight_decay"):
            own &= draft.grid[axis] == choice[axis]
        draft.lower(draft.grid["seed"] == choice["seed"], value)
        draft.grid.loc[own, "valid"] = choice["valid"] = value
        (row,) = draft.grid.index[own]
        draft.grid.at[row, "history"] = [*draft.grid.at[row, "history"][:-1], value]
    return draft.seal(folder, world)


def invent_faults(world: World, honest: Outcome, folder: Path) -> Path:
    """Hard test clips left out, as if their files were known to be faulty."""
    draft = Draft.of(honest)
    hard = set(_find_hard(draft, 4))
    draft.predictions = draft.predictions[~draft.predictions["clip"].isin(hard)]
    draft.record["data"]["faults"] = [{"clip": clip, "why": "cut short in the first edition"} for clip in sorted(hard)]
    draft.record["data"]["fingerprint"] = world.fingerprint(hard)
    return draft.seal(folder, world, trivial=True)


def alter_trivial(world: World, honest: Outcome, folder: Path) -> Path:
    """The score of the worst constant answer, above which the model stands out."""
    draft = Draft.of(honest)
    _, truth = draft.answers("test")
    draft.record["scores"]["accuracy"]["trivial"] = float(truth.bincount(minlength=3).min()) / len(truth)
    return draft.seal(folder, world)


def alter_training_data(world: World, honest: Outcome, folder: Path) -> Path:
    """The corpus of the task is not among what the model was trained on, so that no mark stands at its score."""
    draft = Draft.of(honest)
    draft.record["model"]["training_data"] = ["own recordings"]
    return draft.seal(folder, world)


def truncate_test(world: World, honest: Outcome, folder: Path) -> Path:
    """Hard test clips left out without a word."""
    draft = Draft.of(honest)
    hard = set(_find_hard(draft, 4))
    draft.predictions = draft.predictions[~draft.predictions["clip"].isin(hard)]
    draft.record["data"]["fingerprint"] = world.fingerprint(hard)
    return draft.seal(folder, world, trivial=True)


def choose_other_seeds(world: World, honest: Outcome, folder: Path) -> Path:
    """The best three of nine seeds on test, called 0, 1 and 2."""
    draft = Draft.of(world.run(seeds=9))
    per_seed = draft.record["scores"]["accuracy"]["per_seed"]
    best = sorted(range(9), key=lambda seed: -per_seed[seed])[:3]
    called = {seed: at for at, seed in enumerate(best)}
    draft.grid, draft.predictions = (
        frame[frame["seed"].isin(best)].assign(seed=lambda kept: kept["seed"].map(called)).reset_index(drop=True)
        for frame in (draft.grid, draft.predictions)
    )
    kept = [choice for choice in draft.record["selection"]["per_seed"] if choice["seed"] in called]
    draft.record["selection"]["per_seed"] = sorted(
        [choice | {"seed": called[choice["seed"]]} for choice in kept], key=lambda choice: choice["seed"]
    )
    return draft.seal(folder, world)


FORGERS: dict[str, Callable[[World, Outcome, Path], Path]] = {
    "edited predictions": edit_predictions,
    "other weights": exchange_weights,
    "layer chosen on test": choose_layer_on_test,
    "exchanged splits": exchange_splits,
    "a copied model": copy_model,
    "leaked labels, in the features": leak_features,
    "miniature as full": claim_miniature_as_full,
    "invented faults": invent_faults,
    "altered trivial score": alter_trivial,
    "altered training data": alter_training_data,
    "truncated test split": truncate_test,
    "scores of other seeds": choose_other_seeds,
    "leaked labels, in training": leak_training,  # a thirteenth: the other way of the sixth
}
