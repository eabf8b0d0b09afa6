"""Options that several commands share, and the configurations of runs that they make."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marble_bench.cli.completion import complete_choices, complete_names
from marble_bench.core.choices import Dtype, Engine
from marble_bench.core.variants import GRID, POOLS, VALIDATION
from marble_bench.errors import UsageError, listing
from marble_bench.records.escape import escape_lines
from marble_bench.runs.devices import DEVICES

if TYPE_CHECKING:
    from marble_bench.runs.config import RunConfig


RESULTS = Path("results")  # where records are kept


def parse_path(text: str) -> Path:
    """A path that an option names. An empty one, as an unset variable leaves it, would mean the current folder."""
    if not str(text).strip():
        raise typer.BadParameter("the path is empty: name one, or leave the option out")
    return Path(text)


def whole_number(text: str) -> int:
    """A number of things that an option asks for: 1 or more."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"{text!r} is no whole number from 1 on")


def _build_path_option(about: str, name: str = "") -> Any:
    return typer.Option(*([name] if name else []), help=about, parser=parse_path, metavar="PATH")


DataDir = Annotated[
    Path | None, _build_path_option("The corpus's folder; default: BENCH_DATA/CORPUS, else <cache>/data/CORPUS.")
]
WeightsPath = Annotated[Path | None, _build_path_option("Use weights from this file or folder.")]
OwnFeatures = Annotated[Path | None, _build_path_option("Your own features: a folder of TRACK.npy or a Parquet file.")]
KeepAudio = Annotated[Path | None, _build_path_option("Store the separated test songs in this folder.")]
Cache = Annotated[
    Path | None, _build_path_option("Cache folder; default: BENCH_CACHE, else the platform's.", "--cache-dir")
]
Results = Annotated[Path, _build_path_option("The folder of the records.", "--results-dir")]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Encoders: names, file.py:NAME, hf:ORG/NAME, hear:PACKAGE, several with commas, globs; repeatable.",
        autocompletion=complete_names("models"),
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        metavar="NAME",
        help="Tasks: names, file.py, several with commas, globs, or all; repeatable.",
        autocompletion=complete_names("tasks"),
    ),
]
Rules = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        metavar="NAME",
        help="Protocol: NAME (bench list protocols) or file.py; default: the task's, marble for most.",
        show_default=False,
        autocompletion=complete_names("protocols"),
    ),
]
OtherHead = Annotated[
    str | None,
    typer.Option(
        "--head",
        metavar="NAME",
        help="Replace the protocol's head: NAME (bench list heads) or file.py.",
        autocompletion=complete_names("heads"),
    ),
]
Mini = Annotated[bool, typer.Option("--mini", help="Use the synthesised miniature.")]
Seeds = Annotated[
    int | None, typer.Option(parser=whole_number, metavar="N", help="Number of seeds; default: the protocol's.")
]
Limit = Annotated[int | None, typer.Option(parser=whole_number, metavar="N", help="At most N clips of each split.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Continue without clips that cannot be used.")]
Where = Annotated[
    str,
    typer.Option(
        metavar="DEVICE",
        help="Where to compute: auto, cpu, cuda, cuda:N or mps. auto: cuda if there is a GPU, else cpu.",
        autocompletion=complete_choices(DEVICES),
    ),
]
Precision = Annotated[
    Dtype, typer.Option(metavar="DTYPE", help="Precision of the encoder: float32, bfloat16 or float16.")
]
EngineOption = Annotated[
    Engine, typer.Option(metavar="ENGINE", help="What makes features: local (this machine) or ray (a Ray cluster).")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        parser=whole_number, metavar="N", help="Windows in a batch; default: 60 s of audio, or what fits a GPU."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        parser=whole_number,
        metavar="N",
        help="Threads that read audio; default: one for each core. With Ray: encoders.",
    ),
]
StoreUrl = Annotated[
    str,
    typer.Option("--store", metavar="URL", help="Also keep features at this URL, such as s3://bucket/path."),
]
Offline = Annotated[bool, typer.Option("--offline", help="Do not use the network.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print only errors on stderr.")]
Fresh = Annotated[
    bool, typer.Option("--fresh-features", help="Move the stored features of these models away and compute them again.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


SetOfTasks = Annotated[
    str,
    typer.Option(
        "--set",
        metavar="NAME",
        help="The tasks of this set (bench list sets), beside those of --task.",
        autocompletion=complete_names("sets"),
    ),
]


@dataclass(frozen=True)
class WhatOptions:
    """Whose features are asked for, of what, and where everything is kept."""

    model: Models = None
    task: Tasks = None
    task_set: SetOfTasks = ""
    data_dir: DataDir = None
    mini: Mini = False
    weights: WeightsPath = None
    limit: Limit = None
    allow_missing: AllowMissing = False
    cache_dir: Cache = None
    offline: Offline = False


@dataclass(frozen=True)
class MakingOptions:
    """How features are made, wherever they are."""

    device: Where = "auto"
    batch_size: BatchSize = None
    workers: Workers = None
    store: StoreUrl = ""

    def settings(self) -> dict[str, Any]:
        """The same as fields of `FeatureConfig`, without the device."""
        return {"batch_size": self.batch_size, "workers": self.workers, "remote_url": self.store}


@dataclass(frozen=True)
class ReproduceOptions(MakingOptions):
    """The same of a record that is made again, for which the CPU is the rule."""

    device: Where = "cpu"


@dataclass(frozen=True)
class FeatureOptions(MakingOptions, WhatOptions):
    """Whose features of what are asked for, and how they are made: the options of all commands that make features ahead."""

    dtype: Precision = Dtype.float32

    def build_configs(self, **more: Any) -> list[RunConfig]:
        """A configuration for every model with every task. more: see `_build_configs`."""
        if not self.model and not self.task and not self.task_set:
            raise UsageError(
                "name an encoder with --model NAME (bench list models) and a task with --task NAME (bench list tasks)"
            )
        if not self.model:
            raise UsageError("name an encoder with --model NAME (bench list models)")
        return self._build_configs(**more)

    def _build_configs(self, **more: Any) -> list[RunConfig]:
        """more: see `marble_bench.runs.request.build_configs`. Raises UsageError for what does not go together."""
        from marble_bench.runs.request import build_configs

        names = {each.name for each in fields(WhatOptions)} - {"model", "task", "task_set"}
        what = {name: getattr(self, name) for name in names}
        how = {"device": self.device, "dtype": self.dtype.value, **self.settings()}
        tasks = [*(self.task or []), *(_list_tasks(self.task_set) if self.task_set else [])]
        return build_configs(self.model or [], tasks, **what, **how, **more)


def _list_tasks(name: str) -> list[str]:
    """The tasks of a set that are here; those that are not are told on stderr."""
    from marble_bench.core import plugins

    members, here = plugins.find_task_set(name).members, plugins.list_task_names()
    if missing := [task for task in members if task not in here]:
        print(f"set '{name}': there is no task {listing(missing)} here, so its records are left out", file=sys.stderr)
    return [task for task in members if task in here]


@dataclass(frozen=True)
class VariantOptions:
    """What a run changes of the rules of its protocol and its task; its record is then not comparable."""

    pool: Annotated[
        str,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Take mean, mean+std or max of each window's frames; several: a run each. Only mean is comparable.",
            autocompletion=complete_choices(POOLS),
        ),
    ] = "mean"
    window: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Length of the windows, instead of the task's; not comparable."),
    ] = None
    lr: Annotated[
        str, typer.Option(metavar="grid|VALUE", help="Train with this learning rate alone; not comparable.")
    ] = GRID
    select: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="validation chooses layer and learning rate; fixed:LAYER,LR takes these and is not comparable.",
        ),
    ] = VALIDATION
    standardize: Annotated[
        bool, typer.Option("--standardize", help="Standardise features by the training windows; not comparable.")
    ] = False
    train_share: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Train on this share of the training clips, such as 0.1; not comparable."),
    ] = None

    def list_variants(self) -> dict[str, Any]:
        """The options by name, as `marble_bench.core.variants.parse_variants` takes them."""
        return {each.name: getattr(self, each.name) for each in fields(VariantOptions)}


@dataclass(frozen=True)
class RunOptions(VariantOptions, FeatureOptions):
    """The same of a run, which may bring its own features instead of a model."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            metavar="NAME",
            help="Encoders: names, file.py:NAME, hf:ORG/NAME, hear:PACKAGE, several with commas, globs; repeatable. With "
            "--features, the name to record.",
            autocompletion=complete_names("models"),
        ),
    ] = None
    mini: Annotated[bool, typer.Option("--mini", help="Run on the synthesised miniature; never ranked.")] = False
    limit: Annotated[
        int | None,
        typer.Option(parser=whole_number, metavar="N", help="At most N clips of each split; not comparable."),
    ] = None
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Run on an incomplete corpus; not comparable.")
    ] = False

    def build_configs(self, **more: Any) -> list[RunConfig]:
        """A configuration for every model with every task. more: see `_build_configs`."""
        return self._build_configs(**self.list_variants(), **more)


@dataclass(frozen=True)
class PlanOptions(VariantOptions, FeatureOptions):
    """The same of what `bench plan` is asked about."""

    def build_configs(self, **more: Any) -> list[RunConfig]:
        """As of `FeatureOptions`."""
        return super().build_configs(**self.list_variants(), **more)


def add_options(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose parameter `asked` is replaced by the options that a dataclass declares, so that they are written once.

    They take the place of `asked` among its own.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        kinds = typing.get_type_hints(options, include_extras=True)
        defaults = {field.name: field.default for field in fields(options) if field.default is not MISSING}
        own = typing.get_type_hints(command, localns={options.__name__: options}, include_extras=True)
        shown: list[inspect.Parameter] = []
        for parameter in inspect.signature(command).parameters.values():
            if parameter.name == "asked":
                shown += [
                    inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=kind)
                    for name, kind in kinds.items()
                ]
            else:
                option = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=own[parameter.name])
                shown.append(option)

        def wrapped(**given: Any) -> None:
            asked = options(**{name: given.pop(name) for name in kinds})
            command(asked=asked, **given)

        wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
        wrapped.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {each.name: each.annotation for each in shown}
        return wrapped

    return decorate


def warn_of_other_stores(asked: Sequence[RunConfig]) -> None:
    """Say on stderr, once for a command, that its cache has stores that other versions of the suite wrote."""
    from marble_bench.features.manage import describe_other_formats

    for cache in dict.fromkeys(config.features.cache for config in asked if config.features.encoder):
        if description := describe_other_formats(cache):
            print(escape_lines(description), file=sys.stderr)
