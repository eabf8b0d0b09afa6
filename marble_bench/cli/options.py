"""Options that several commands share, and the configurations of runs that they make."""

from __future__ import annotations

import inspect
import sys
import time
import typing
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marble_bench.errors import UsageError
from marble_bench.records.escape import escape_lines

if TYPE_CHECKING:
    from marble_bench.runs.config import RunConfig


class Device(str, Enum):
    """Where encoders and probes run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Dtype(str, Enum):
    """The precision that encoders run in; features are stored in half precision."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Engine(str, Enum):
    """What reads and encodes: this machine, or a Ray cluster."""

    local = "local"
    ray = "ray"


def resolve_device(asked: Device) -> str:
    """The device meant. Raises UsageError if it is not at hand."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if asked is Device.auto:
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    if not there[asked.value]:
        here = ", ".join(name for name, ok in there.items() if ok)
        raise UsageError(f"--device {asked.value} is not at hand here; there is {here}")
    return str(asked.value)


def parse_path(text: str) -> Path:
    """A path that an option names. An empty one, as an unset variable leaves it, would mean the current folder."""
    if not str(text).strip():
        raise typer.BadParameter("the path is empty: name one, or leave the option out")
    return Path(text)


def _build_path_option(about: str, name: str = "") -> Any:
    return typer.Option(*([name] if name else []), help=about, parser=parse_path, metavar="PATH")


DataDir = Annotated[
    Path | None, _build_path_option("The corpus's folder; else BENCH_DATA/CORPUS, else <cache>/data/CORPUS.")
]
WeightsPath = Annotated[Path | None, _build_path_option("Weights from this file or folder instead of their source.")]
OwnFeatures = Annotated[Path | None, _build_path_option("Your own features: a folder of TRACK.npy or a Parquet file.")]
KeepAudio = Annotated[Path | None, _build_path_option("Keep what is separated of the test songs in this folder.")]
Cache = Annotated[
    Path | None, _build_path_option("Cache root; else BENCH_CACHE, else the platform's cache folder.", "--cache-dir")
]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="Encoder NAME, file.py:NAME, hf:ORG/NAME or hf:FOLDER; repeatable.")
]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Task NAME, file.py, or all; repeatable.")]
Rules = Annotated[
    str, typer.Option("--protocol", help="Rules of grid and selection: NAME (bench list protocols) or file.py.")
]
OtherHead = Annotated[
    str | None,
    typer.Option("--head", help="Another head than the protocol's: NAME (bench list heads) or file.py."),
]
Mini = Annotated[bool, typer.Option("--mini", help="Of the synthesised miniature.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most N clips of each split.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Go on without clips that cannot be used.")]
Where = Annotated[Device, typer.Option(help="Where to compute.")]
Precision = Annotated[Dtype, typer.Option(help="Precision of the encoder.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No words on stderr but errors.")]
Fresh = Annotated[
    bool, typer.Option("--fresh-features", help="Set stored features of these models aside and make them anew.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class FeatureOptions:
    """Whose features of what are asked for, and how they are made: the options of all commands that make features ahead."""

    model: Models = None
    task: Tasks = None
    data_dir: DataDir = None
    mini: Mini = False
    weights: WeightsPath = None
    limit: Limit = None
    allow_missing: AllowMissing = False
    device: Where = Device.auto
    dtype: Precision = Dtype.float32
    cache_dir: Cache = None
    offline: Offline = False

    def build_configs(self, **more: Any) -> list[RunConfig]:
        """A configuration for every model with every task. more: see `_build_configs`."""
        if not self.model and not self.task:
            raise UsageError(
                "say whose features: --model NAME (bench list models), and of what: --task NAME (bench list tasks)"
            )
        if not self.model:
            raise UsageError("say whose features: --model NAME (bench list models)")
        return self._build_configs(**more)

    def _build_configs(
        self,
        *,
        protocol: str = "marble",
        head: str | None = None,
        results_dir: Path = Path("results"),
        seeds: int | None = None,
        features: Path | None = None,
        fresh_features: bool = False,
        **more: Any,
    ) -> list[RunConfig]:
        """protocol, head: names, or paths of files; head, seeds: None for the protocol's. fresh_features: what was stored
        before this moment is set aside. more: for `RunConfig.of`. Raises UsageError for what does not go together."""
        from marble_bench.core.plugins import find_protocol
        from marble_bench.files.cache import find_cache_root
        from marble_bench.files.locks import keep_compiled
        from marble_bench.runs.config import RunConfig, find_corpus_root, is_offline_asked, list_pairs

        if self.mini and self.data_dir:
            raise UsageError("--mini and --data-dir exclude each other: the miniature is made in the cache")
        started_s = time.time()
        rules, cache, where = (
            find_protocol(protocol, head),
            find_cache_root(self.cache_dir),
            resolve_device(self.device),
        )
        keep_compiled(cache)
        offline = self.offline or is_offline_asked()
        chosen = list_pairs(self.model or [], self.task or [], features, self.weights, offline)
        if self.data_dir and len({named.task.corpus.beside or named.task.corpus.name for _, _, named in chosen}) > 1:
            raise UsageError(
                "--data-dir is of one corpus, these tasks have several: set BENCH_DATA to the folder of all"
            )
        same: dict[str, Any] = {
            "protocol": rules,
            "cache": cache,
            "results": results_dir.expanduser(),
            "mini": self.mini,
            "brought": features,
            "weights": self.weights,
            "limit": self.limit,
            "allow_missing": self.allow_missing,
            "seeds": seeds or rules.seeds,
            "device": where,
            "dtype": self.dtype.value,
            "offline": offline,
            "fresh_before": started_s if fresh_features else None,
            **more,
        }
        return [
            RunConfig.of(
                named=named,
                encoder=encoder,
                model=name,
                root=None if self.mini else find_corpus_root(named, cache, self.data_dir, features),
                **same,
            )
            for name, encoder, named in chosen
        ]


@dataclass(frozen=True)
class RunOptions(FeatureOptions):
    """The same of a run, which may bring its own features instead of a model."""

    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="Encoder NAME, file.py:NAME, hf:ORG/NAME or hf:FOLDER; repeatable. With --features, the name to record.",
        ),
    ] = None
    mini: Annotated[bool, typer.Option("--mini", help="Run on the synthesised miniature; never ranked.")] = False
    limit: Annotated[int | None, typer.Option(min=1, help="At most N clips of each split; not comparable.")] = None
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Run on an incomplete corpus; not comparable.")
    ] = False

    def build_configs(self, **more: Any) -> list[RunConfig]:
        """A configuration for every model with every task. more: see `_build_configs`."""
        return self._build_configs(**more)


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
