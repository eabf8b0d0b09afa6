"""What a run is asked to do, what it gives, and who is told how it goes on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder
from marble_bench.core.plugins import Named
from marble_bench.core.protocol import Protocol
from marble_bench.core.selection import select_names
from marble_bench.core.task import Task
from marble_bench.core.variants import Variants
from marble_bench.data import corpus
from marble_bench.errors import UsageError
from marble_bench.files.cache import find_data_dir
from marble_bench.files.names import RULE, is_name
from marble_bench.records.comparable import Departures
from marble_bench.records.record import Record


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which clips a run scores. root: the corpus's folder; None for the miniature, or where a shipped list has the labels.

    cache: where the miniature is made. limit: clips of each split at most. perturb: changes of the test clips that are
    scored too, by the names of `audio.perturb.CHANGES`.
    """

    named: Named
    cache: Path
    root: Path | None = None
    mini: bool = False
    limit: int | None = None
    allow_missing: bool = False
    perturb: tuple[str, ...] = ()

    def folder(self) -> Path | None:
        """The corpus's folder, the miniature's made now if need be. None where none is needed."""
        return corpus.find_folder(self.named.task.corpus, self.cache, self.mini, self.root)


@dataclass(frozen=True, kw_only=True)
class MakingConfig:
    """How the features of a run are made: see `features.jobs.Settings`."""

    device: str = "cpu"
    dtype: str = "float32"
    engine: str = "local"
    workers: int | None = None
    batch_size: int | None = None


@dataclass(frozen=True, kw_only=True)
class FeatureConfig(MakingConfig):
    """Where the features of a run are from. encoder: None where features are `brought`, from that file or folder.

    cache: where they are stored; remote_url: a URL where they are stored too. offline: fetch no weights. fresh_before:
    features stored before that, in seconds since 1970, are set aside; None for none. pools: what is stored of each window's
    frames in one pass, by the words of `core.variants.POOLS`; which of them a run reads, its variants say.
    """

    model: str
    encoder: Encoder | None
    cache: Path
    brought: Path | None = None
    weights: Path | None = None
    remote_url: str = ""
    offline: bool = False
    fresh_before: float | None = None
    pools: tuple[str, ...] = ("mean",)


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Which probes are trained.

    protocol: as it is declared, and as a record names it. layers: as `--layers` is written. cache: where finished probes
    stay until the record is saved. few_shot: also on shares of the training clips. control: how the training labels are
    spoilt; empty for not at all. variants: what the user changes of the rules of protocol and task.
    """

    protocol: Protocol
    cache: Path
    layers: str = "all"
    seeds: int = 3
    few_shot: bool = False
    control: str = ""
    device: str = "cpu"
    variants: Variants = Variants()

    @property
    def changed_protocol(self) -> Protocol:
        """The protocol as the variants change it, which is what probes are trained by."""
        return self.variants.adapt_protocol(self.protocol)


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """Where a run writes. keep_audio: the folder for separated songs; None where they are not kept."""

    results: Path
    overwrite: bool = False
    keep_audio: Path | None = None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What a run is asked to do, in four parts; see `bench run --help`."""

    data: DataConfig
    features: FeatureConfig
    probes: ProbeConfig
    output: OutputConfig

    @classmethod
    def of(cls, **options: Any) -> RunConfig:
        """A configuration of flat options, each for every part that has a field of its name, as `cache` and `device`.

        The task is the one that the protocol asks: see `plugins.adapt_task`.
        """
        parts = {"data": DataConfig, "features": FeatureConfig, "probes": ProbeConfig, "output": OutputConfig}
        names = {part: {field.name for field in fields(kind)} for part, kind in parts.items()}
        if unknown := set(options) - set().union(*names.values()):
            raise TypeError(f"no part of a run's configuration has {', '.join(sorted(unknown))}")
        own = {part: {key: value for key, value in options.items() if key in names[part]} for part in parts}
        if "device" in own["probes"]:
            own["probes"]["device"] = probe_device(own["probes"]["device"])
        made = cls(**{part: kind(**own[part]) for part, kind in parts.items()})
        mini = made.data.mini or corpus.is_mini(made.data.root)
        named = plugins.adapt_task(made.data.named, made.probes.protocol, mini)
        return replace(made, data=replace(made.data, named=named))

    @property
    def training_protocol(self) -> Protocol:
        """The protocol with what it says of this task's training."""
        return self.probes.changed_protocol.train_by(self.data.named.rules)

    @property
    def task(self) -> Task:
        """The task of the run's clips, with the windows of the run's variants."""
        declared, variants = self.data.named.task, self.probes.variants
        window = variants.adapt_window(declared.window)
        return declared if window is declared.window else replace(declared, window=window)

    @property
    def title(self) -> str:
        """What is run, for people: model and task."""
        return f"{self.features.model} {self.data.named.name}"


def probe_device(device: str) -> str:
    """Where probes are trained when encoders run on a device: on the CPU beside MPS, which has no double precision."""
    return "cpu" if device == "mps" else device


@dataclass(frozen=True)
class Outcome:
    """What a run gave. written: False if the same record was there already."""

    record: Record
    path: Path
    written: bool


class Callbacks(Interface):
    """Who is told how a run goes on."""

    def features(self, done: int, todo: int, audio_s: float) -> None:
        """After each batch: clips done, clips to do, seconds of audio encoded."""

    def probes(self, done: int, todo: int, best: float, alive: int) -> None:
        """After each round: probes finished, probes in all, best validation score so far, probes in training."""

    def say(self, text: str) -> None:
        """A line for the user."""


def list_pairs(
    models: Sequence[str | Encoder],
    tasks: Sequence[str],
    features: Path | None,
    weights: Path | None,
    offline: bool = False,
) -> list[tuple[str, Encoder | None, Named]]:
    """Every model with every task, all names looked up before any work begins; `all` means every task.

    models, tasks: words as `select_names` takes them: several names with commas between them, and globs; an encoder stands
    for itself. offline: fetch nothing to find a model. Brought features have no encoder: their model's name is the one
    given, or the folder's or file's.
    """
    if not tasks and not models and not features:
        raise UsageError("say what to run: --model NAME (bench list models) and --task NAME (bench list tasks)")
    if not tasks:
        raise UsageError("say what to run: --task NAME (bench list tasks)")
    if not models and not features:
        raise UsageError("say what to score: --model NAME (bench list models) or --features DIR")
    tasks = select_names(tasks, plugins.list_task_names(), "task")
    models = _select_models(models)
    if len(models) > 1 and (features or weights):
        raise UsageError(f"--{'features' if features else 'weights'} are of one model: give --model once")
    if features and weights:
        raise UsageError("--features and --weights exclude each other: features need no weights")
    names = [name for each in tasks for name in (plugins.list_task_names() if each == "all" else [each])]
    found = [plugins.find_task(name) for name in dict.fromkeys(names)]
    encoders: list[tuple[str, Encoder | None]] = []
    if features:
        encoders.append((_make_safe(models[0] if models else features.stem), None))
    else:
        known = [each if isinstance(each, Encoder) else plugins.find_encoder(each, offline) for each in models]
        encoders += [(encoder.name, encoder) for encoder in known]
    return [(name, encoder, each) for name, encoder in encoders for each in found]


def _select_models(models: Sequence[str | Encoder]) -> list[str | Encoder]:
    """The names that words stand for, see `select_names`, and the encoders among them, each once."""
    known, found = list(plugins.find_encoders()), list[str | Encoder]()
    for model in models:
        found += [model] if isinstance(model, Encoder) else select_names([model], known, "model")
    return [each for place, each in enumerate(found) if each not in found[:place]]


def _make_safe(name: str | Encoder) -> str:
    """A model's name as a record can carry it."""
    if isinstance(name, Encoder):
        raise UsageError(f"--features brings the features of a model: give its name, not the encoder '{name.name}'")
    if not is_name(name):
        raise UsageError(f"--model {name!r} cannot name a model in a record: give {RULE}")
    if name in plugins.find_encoders():
        raise UsageError(f"--model {name} is an encoder of the suite: give your features a name of their own")
    return name


def find_corpus_root(named: Named, cache: Path, option: Path | None, features: Path | None) -> Path | None:
    """The corpus's folder. None where features are brought and no folder is there: a shipped list then has the labels."""
    asked = named.task.corpus
    root = find_data_dir(asked.name, cache, option, asked.beside)
    return None if features and option is None and not root.is_dir() else root


def find_departures(config: RunConfig, mini: bool, missing: int, unnamed: bool = False) -> Departures:
    """What sets a run apart. mini, missing: whether its corpus is a miniature, and how many published clips it lacks."""
    return Departures(
        mini=mini,
        limit=config.data.limit,
        missing=missing,
        unnamed=unnamed,
        layers=config.probes.layers,
        seeds=config.probes.seeds,
        asked=config.probes.protocol.seeds,
        dtype=config.features.dtype,
        control=config.probes.control,
        few_shot=config.probes.few_shot,
        perturbed=config.data.perturb,
        variants=config.probes.variants,
    )


def is_offline_asked() -> bool:
    """Whether `HF_HUB_OFFLINE` says to fetch nothing."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
