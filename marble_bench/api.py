"""The Python API: a record in three lines, results as tables, and what an encoder gives for a waveform.

`import marble_bench as mb`, then `mb.run`, `mb.load_results`, `mb.leaderboard`, `mb.compare`, `mb.extract` and
`mb.extract_layers`. The command line calls the same code: options have the same names and defaults, and errors have the same
words (`--data-dir` of a message is `data_dir=` here). Every function raises `UsageError` for a request that is wrong,
`DataError` for data or weights that are missing or damaged, and their base class `BenchError` for what else failed. Nothing
is printed unless it is asked for.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import takewhile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from marble_bench.core import contract, plugins, schemes, sources
from marble_bench.core.declared import shorten_repr
from marble_bench.core.encoder import Encode, Encoder, check_callable
from marble_bench.core.keys import digest
from marble_bench.core.selection import find_recorded_model, find_recorded_task, select_names
from marble_bench.core.torch_state import default_torch
from marble_bench.encoders._held import digest_held, find_held
from marble_bench.encoders.live import find_live_device
from marble_bench.errors import UsageError, counted, listing, suggest_name
from marble_bench.files.atomic import walk
from marble_bench.files.cache import find_cache_root
from marble_bench.files.locks import keep_compiled
from marble_bench.runs.callbacks import Lines
from marble_bench.runs.config import Callbacks, RunConfig, is_offline_asked
from marble_bench.runs.devices import AUTO, resolve_device, use_device
from marble_bench.runs.request import build_configs

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray
    from typing_extensions import Unpack

    from marble_bench.board.board import Board
    from marble_bench.board.compare import Comparison
    from marble_bench.records.loaded import Results
    from marble_bench.records.record import Record
    from marble_bench.records.record_file import Stored


class Options(TypedDict, total=False):
    """More options of `run`, as `bench run` has them, with its defaults.

    head: another head than the protocol's, a name or the path of a file. features: features that you computed yourself, a
    folder or a Parquet file, instead of a model. weights: those of this file or folder instead of their source.
    layers: `all`, `last`, `sum`, `concat`, names with commas, or ranges such as `0-12`. seeds: how many; else the
    protocol's number.
    pool: `mean`, `mean+std` or `max` of a window's frames. window: its length in seconds, instead of the task's. lr: `grid`,
    or the only learning rate. select: `validation`, or `fixed:LAYER,LR`. standardize: z-score features by the training
    windows. train_share: of the training clips. Records with any of these are never ranked.
    limit: at most so many clips of each split. allow_missing: go on without clips that cannot be used.
    dtype: the encoder's precision, `float32`, `bfloat16` or `float16`. engine: `local`, or `ray` for a Ray cluster.
    batch_size: windows that are encoded together. workers: threads that read audio; with Ray, encoders side by side.
    store: a URL where features are kept, too.
    few_shot: train on shares of the training clips, too. control: `shuffle` trains on shuffled labels. perturb: names of
    changes of the test clips that are scored, too, or `all`.
    fresh_features: set stored features of this model aside. overwrite: replace a record that would change. keep_audio: a
    folder for separated songs. cache_dir: the cache root; else `BENCH_CACHE`, else the platform's. offline: fetch nothing.
    """

    head: str | None
    features: str | Path | None
    weights: str | Path | None
    layers: str
    pool: str
    window: float | None
    lr: str | float
    select: str
    standardize: bool
    train_share: float | None
    seeds: int | None
    limit: int | None
    allow_missing: bool
    dtype: str
    engine: str
    batch_size: int | None
    workers: int | None
    store: str
    few_shot: bool
    control: str
    perturb: str | Sequence[str]
    fresh_features: bool
    overwrite: bool
    keep_audio: str | Path | None
    cache_dir: str | Path | None
    offline: bool


Model: TypeAlias = "str | Path | Encoder"
Tell: TypeAlias = "Callable[[str], None]"
OnLeftOff: TypeAlias = "Callable[[Sequence[str]], None]"
RESULTS = Path("results")


def run(
    model: Model | None,
    *,
    task: str | Path,
    data_dir: str | Path | None = None,
    mini: bool = False,
    protocol: str | Path | None = None,
    results_dir: str | Path = RESULTS,
    device: str | None = None,
    progress: bool | Tell | Callbacks = False,
    **options: Unpack[Options],
) -> Record:
    """Score one model on one task, write the record, and return it. For several pairs, call it for each.

    model: a name (`bench list models`), `hf:ORG/NAME`, `hear:PACKAGE`, the path of a file as `FILE.py:NAME`, an `Encoder`,
        or what `from_torch`, `from_function` or `from_hear` return. With `features=`, the name to record, or None.
    task: a name (`bench list tasks`), or the path of a file.
    data_dir: the corpus's folder; else `BENCH_DATA`/CORPUS, else `<cache>/data/CORPUS`. mini: its synthesised miniature
        instead, whose scores are never ranked.
    protocol: the rules of grid and selection, a name or the path of a file; None for the task's own. results_dir: where
        the record is written.
    device: `auto` (also None), `cpu`, `cuda`, `cuda:N` or `mps`; of a live module None means where it lies.
    progress: True for a line on stderr now and then, a function that is given each line, or a `Callbacks`.
    options: see `Options`.

    Scores are fractions, or decibels for SDR: `record.scores["accuracy"].test`. Where the same record is there already, it
    stays. Raises UsageError, DataError, and BenchError where another record would be replaced.
    """
    from marble_bench.runs import run as running

    where = {"data_dir": data_dir, "results_dir": Path(results_dir)}
    rules = None if protocol is None else str(protocol)
    config = configure(model, task, mini=mini, protocol=rules, device=device, **where, **options)
    return running.run(config, _callbacks(progress)).record


def configure(model: Model | None, task: str | Path, *, device: str | None = None, **options: Any) -> RunConfig:
    """What `run` is asked to do, everything looked up and nothing done yet. options: as of `run`."""
    from marble_bench.audio.perturb import parse_names

    if unknown := set(options) - set(Options.__annotations__) - {"data_dir", "mini", "protocol", "results_dir"}:
        taken = {*Options.__annotations__, *inspect.signature(run).parameters} - {"options"}
        hint = suggest_name(min(unknown), sorted(taken))
        raise TypeError(f"run takes no {', '.join(sorted(unknown))}{hint}")
    if not isinstance(task, str | Path):
        raise UsageError(
            f"task is {shorten_repr(task)}: give the name of one task, or the path of its file; one that is made in "
            "Python is saved in a file of its own, as TASK"
        )
    for name in ("data_dir", "features", "weights", "cache_dir", "keep_audio"):
        if name in options:
            options[name] = _path(options[name])
    if "store" in options:
        options["remote_url"] = options.pop("store")
    perturb = options.get("perturb", ())
    options["perturb"] = parse_names(perturb if isinstance(perturb, str) else ",".join(perturb)) if perturb else ()
    found = None if model is None else _model(model)
    own = find_live_device(found) if isinstance(found, Encoder) else ""
    configs = build_configs([found] if found else [], [str(task)], device=device or own or AUTO, **options)
    if len(configs) > 1:
        pairs = listing(f"{each.features.model} on {each.data.named.name}{_name_pool(each)}" for each in configs)
        raise UsageError(f"model={model!r}, task={task!r} name {pairs}: call run for each")
    return configs[0]


def _name_pool(config: RunConfig) -> str:
    """The pooling of one of several runs, for people; empty for the mean."""
    return f" with {flag}" if (flag := config.probes.variants.flags().get("pool")) else ""


def _path(place: str | Path | None) -> Path | None:
    if place is not None and not isinstance(place, str | Path):
        raise UsageError(f"{shorten_repr(place)} is of type {type(place).__name__}: give the path of a file or folder")
    return None if place is None else Path(place).expanduser()


def _callbacks(progress: bool | Tell | Callbacks) -> Callbacks:
    import sys

    if isinstance(progress, bool):
        return Lines((lambda text: print(text, file=sys.stderr)) if progress else None)
    return Lines(progress) if callable(progress) else progress


def _model(model: Model) -> str | Encoder:
    """A name, or an encoder with its digest. Raises UsageError for what is neither, with the line of its adapter."""
    if isinstance(model, str | Path):
        return str(model)
    if isinstance(model, Encoder):
        known = sources.add_code(model)
        held = find_held(model.load) if known.code and not model.code else {}
        return replace(known, code=digest([known.code, digest_held(held)])) if held else known
    if isinstance(model, type):
        raise UsageError(f"model is the class {model.__name__}: make an object of it, such as {model.__name__}(...)")
    if hasattr(model, "state_dict"):
        raise UsageError(
            f"a live {type(model).__name__} has no name and no sampling rate: make an encoder of it with "
            "mb.from_torch(model, name='my-encoder', sample_rate_hz=24000)"
        )
    if callable(model):
        raise UsageError(
            f"a {type(model).__name__} has no name and no sampling rate: make an encoder of it with "
            "mb.from_torch(function, name='my-encoder', sample_rate_hz=24000) if it takes (windows, samples), or with "
            "mb.from_function(...) if it takes one waveform"
        )
    raise UsageError(
        f"a model is a name, the path of a file or an Encoder, not {type(model).__name__}: run takes one model"
    )


def load_results(results_dir: str | Path = RESULTS, *, on_left_off: OnLeftOff | None = None) -> Results:
    """The valid records of a results folder: iterate over them, or take `to_pandas()` for one row a score.

    on_left_off: is given a line for each file that is no valid record; by default they are a Python warning. They are in
    `left_off` besides. The columns of the table are those of `marble_bench.records.loaded.SCORE_COLUMNS`.
    Raises UsageError if the folder is not there.
    """
    from marble_bench.records import loaded

    return loaded.load(Path(results_dir).expanduser(), on_left_off or _warn)


def _warn(lines: Sequence[str]) -> None:
    _warn_caller(f"{counted(len(lines), 'invalid record')} left off (bench results check): " + "; ".join(lines))


def _warn_caller(text: str) -> None:
    callers = (each.frame.f_globals.get("__name__", "") for each in inspect.stack(0))
    inside = sum(1 for _ in takewhile(lambda name: name.partition(".")[0] == "marble_bench", callers))
    warnings.warn(text, stacklevel=inside + 1)  # of the line that called this suite


def leaderboard(
    results_dir: str | Path = RESULTS,
    *,
    task: str | Sequence[str] = (),
    model: str | Sequence[str] = (),
    protocol: str = "marble",
    set: str = "",
    mini: bool = False,
    cache_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Records and published scores in one table, a row for each score, as `bench leaderboard --format csv` prints them.

    task, model: only these, one name or several. protocol: whose ranking. set: only the tasks of this task set, with the
    metrics that count in it. mini: records of miniatures instead.
    Columns: `model`, `mark` (`measured`, `floor` or the letter of a paper), `protocol`, `task`, `metric`, `value` (a
    fraction, or decibels), `low` and `high` (95 %), `rank`, `ties`, and more. Floors are rows, too, and so are means: their
    `task` is `average`, their `metric` the task set. Rows whose `apart` says something follow a protocol of papers that this
    suite does not run: never rank them with others.
    The table is empty if there is nothing to show. Where records are there and none of them is shown, such as miniatures
    without `mini=True`, a Python warning says so. Raises UsageError for a name that neither a record, a paper nor the suite
    has.
    """
    from marble_bench.board.table import as_frame

    board, hint = build_board(
        results_dir, task=task, model=model, protocol=protocol, set=set, mini=mini, cache_dir=cache_dir
    )
    if hint:
        _warn_caller(f"no record of {results_dir} is shown: {hint}")
    return as_frame(board)


def build_board(
    results_dir: str | Path = RESULTS,
    *,
    task: str | Sequence[str] = (),
    model: str | Sequence[str] = (),
    protocol: str = "marble",
    set: str = "",
    mini: bool = False,
    cache_dir: str | Path | None = None,
    on_left_off: OnLeftOff | None = None,
    others: bool = False,
) -> tuple[Board, str]:
    """The board behind `leaderboard`, and the option that shows the folder's records if it shows none of them.

    others: with the boards of the other protocols, as a page shows them.
    """
    from marble_bench.board.board import BoardFilter
    from marble_bench.board.request import build_asked_board

    folder = Path(results_dir).expanduser()
    if folder != RESULTS and not folder.is_dir():  # without records of one's own there are still published rows
        raise UsageError(f"--results-dir: {folder} does not exist")
    task_set = plugins.find_task_set(set) if set else None
    asked = BoardFilter(protocol, mini, _several(task), _several(model), task_set)
    return build_asked_board(_stored(folder, on_left_off), asked, find_cache_root(_path(cache_dir)), others)


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _stored(folder: Path, on_left_off: OnLeftOff | None) -> Sequence[Stored]:
    """The valid records of a folder; none where it is not there."""
    return load_results(folder, on_left_off=on_left_off or _warn).stored if folder.is_dir() else ()


def compare(
    a: str | Path,
    b: str | Path,
    *,
    task: str | Sequence[str] = (),
    protocol: str = "marble",
    mini: bool = False,
    clips: int = 5,
    results_dir: str | Path = RESULTS,
    cache_dir: str | Path | None = None,
    on_left_off: OnLeftOff | None = None,
) -> Comparison:
    """Two models, task by task: differences A minus B, on the same test clips with a paired 95 % interval and p.

    a, b: names (`NAME/DIGEST` if one has several weights), or paths of records; a model that has printed scores alone is
    compared with those, unpaired. task: only these. clips: how many clips that gained most, and that lost most, are kept.
    cache_dir: the cache root, where intervals are kept. `to_pandas()` of what is returned has a row for each pair of scores.
    Raises UsageError for a name without scores, and where nothing can be compared.
    """
    from marble_bench.board.compare import Choice, compare_models, is_path

    for each in (a, b):
        if not isinstance(each, str | Path):
            name = getattr(each, "name", None)
            way = f"give its name, '{name}'" if isinstance(name, str) else "give the name of a model"
            raise UsageError(f"compare takes names or paths of records, not {type(each).__name__}: {way}")
    folder = Path(results_dir).expanduser()
    here = () if is_path(str(a)) and is_path(str(b)) else _stored(folder, on_left_off)
    known = {*plugins.list_task_names(), *(each.record.task.name for each in here)}
    tasks = tuple(map(find_recorded_task, select_names(_several(task), sorted(known), "task")))
    choice = Choice(folder, here, protocol, mini, tasks)
    first, second = find_recorded_model(str(a)), find_recorded_model(str(b))
    return compare_models(first, second, choice, clips, find_cache_root(_path(cache_dir)) / "statistics")


class Loading(TypedDict, total=False):
    """How `extract` loads an encoder, as `run` does.

    device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; None for `auto`, and for where a live module lies. weights: those of
    this file or folder instead of their source. cache_dir: the cache root. offline: fetch nothing.
    """

    device: str | None
    weights: str | Path | None
    cache_dir: str | Path | None
    offline: bool


def extract(
    model: Model, waveform: Any, *, sample_rate_hz: int, window_s: float | None = None, **loading: Unpack[Loading]
) -> NDArray[np.float32]:
    """What an encoder gives for a waveform: `(windows, layers, width)`, means over time in float32.

    model: as of `run`. waveform: `(samples,)` floats in [-1, 1], an array or a tensor; `sample_rate_hz`: its own rate, it is
    resampled. window_s: seconds of each window; None for one window of all, or of what the encoder takes at most if that is
    shorter. What remains after the last whole window is dropped. Nothing is rounded to half precision or stored. The encoder
    that was used last stays loaded, unless it is a live module, or code of yours that neither declares nor is given weights,
    whose `load` may read any file. It is loaded again when your file of it, a module of yours that this imports, or its
    weights on this machine were changed. loading: see `Loading`.

    Raises UsageError naming the widths if the layers have several: `extract_layers` takes those; DataError for a waveform
    that is too short, or holds no numbers.

    >>> import numpy as np
    >>> from marble_bench import from_torch
    >>> encoder = from_torch(lambda x: [x.unfold(1, 80, 80), x.unfold(1, 80, 40).abs()], name="two", sample_rate_hz=8000)
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(132300) / 44100)
    >>> extract(encoder, tone, sample_rate_hz=44100).shape
    (1, 2, 80)
    >>> extract(encoder, tone, sample_rate_hz=44100, window_s=1.0).shape
    (3, 2, 80)
    """
    import numpy as np

    by_layer = extract_layers(model, waveform, sample_rate_hz=sample_rate_hz, window_s=window_s, **loading)
    widths = {name: values.shape[1] for name, values in by_layer.items()}
    if len(set(widths.values())) > 1:
        told = ", ".join(f"{name} {width}" for name, width in widths.items())
        raise UsageError(f"the layers differ in width ({told}): extract_layers gives each by its name")
    return np.stack(list(by_layer.values()), axis=1)


@default_torch()
def extract_layers(
    model: Model, waveform: Any, *, sample_rate_hz: int, window_s: float | None = None, **loading: Unpack[Loading]
) -> dict[str, NDArray[np.float32]]:
    """The same as `extract`, layer by layer: `{layer: (windows, width)}` float32.

    >>> import numpy as np
    >>> tone = np.sin(2 * np.pi * 440 * np.arange(88200) / 44100)
    >>> {name: values.shape for name, values in extract_layers("mfcc", tone, sample_rate_hz=44100).items()}
    {'frames': (1, 20), 'statistics': (1, 120)}
    """
    from marble_bench.features.direct import encode_waveform

    if unknown := set(loading) - set(Loading.__annotations__):
        raise TypeError(f"extract takes no {', '.join(sorted(unknown))}")
    cache = find_cache_root(_path(loading.get("cache_dir")))
    keep_compiled(cache)
    named, offline = _model(model), loading.get("offline", False) or is_offline_asked()
    encoder = _find(named, offline)
    device = resolve_device(loading.get("device") or find_live_device(encoder) or AUTO)
    with use_device(device):
        encode = _load(named, encoder, device, _path(loading.get("weights")), cache, offline)
        found = encode_waveform(encoder, encode, waveform, sample_rate_hz, window_s, device)
    return {layer.name: values for layer, values in zip(encoder.layers, found, strict=True)}


@dataclass(frozen=True)
class _Loaded:
    """The encoder that was loaded last. named: what was asked for. key: all that a load depends on."""

    named: str | Encoder
    encoder: Encoder
    key: tuple[Any, ...]
    encode: Encode


_LAST: list[_Loaded] = []  # at most one
_LOADING = Lock()


def _find(named: str | Encoder, offline: bool) -> Encoder:
    """The encoder of what was asked for. The hub is asked about an id once, as long as its encoder stays loaded."""
    if isinstance(named, Encoder):
        return named
    asked = schemes.with_prefix(named)
    folder = Path(asked.removeprefix("hf:")).expanduser()
    with _LOADING:
        if _LAST and _LAST[0].named == named and asked.startswith("hf:") and not folder.is_dir():
            return _LAST[0].encoder
    return plugins.find_encoder(named, offline)


def _load(
    named: str | Encoder, encoder: Encoder, device: str, weights: Path | None, cache: Path, offline: bool
) -> Encode:
    """An encoder ready to encode, its contract tried if it is a user's; the last one is kept, for the next waveform.

    A live module is not kept, so that one that was trained meanwhile is told every time; its adapter has tried it. Nor is a
    user's code of unknown weights: its `load` may read what was changed meanwhile.
    """
    from marble_bench.encoders.weights import resolve
    from marble_bench.features.precision import force_exact

    if find_live_device(encoder):
        return encoder.load(resolve(encoder, cache, override=weights, offline=offline).path, device)
    key = _identify_load(named, encoder, device, weights)
    with _LOADING:
        if _LAST and _LAST[0].key == key:
            return _LAST[0].encode
        _LAST.clear()
        path = resolve(encoder, cache, override=weights, offline=offline).path
        encode = check_callable(encoder.name, encoder.load(path, device), encoder.masks)
        if encoder.code:
            with force_exact(device):
                contract.require(encoder, encode, device)
        if weights or encoder.weights or encoder.made_from or not encoder.code:
            _LAST.append(_Loaded(named, encoder, key, encode))
        return encode


def _identify_load(named: str | Encoder, encoder: Encoder, device: str, weights: Path | None) -> tuple[Any, ...]:
    """All that a load depends on: what is declared, the functions, the device, and files of weights on this machine.

    The functions of a user's file, and of a folder of a hub's model, are new ones whenever it is read. The digest of the
    file, and what is declared and stamped of the folder, stand for them, unless they hold weights themselves.
    """
    asked = schemes.with_prefix(named) if isinstance(named, str) else ""
    is_read_anew = asked.startswith("hf:") or (
        asked.partition(":")[0] not in schemes.SCHEMES and encoder.code and asked
    )
    functions = () if is_read_anew and not find_held(encoder.load) else (encoder.load, encoder.convert)
    declared = tuple(getattr(encoder, each.name) for each in fields(encoder) if each.name not in ("load", "convert"))
    source = encoder.weights.url if encoder.weights else ""
    local = weights or (Path(source.removeprefix("folder:")) if source.startswith("folder:") else None)
    files = [local, *walk(local)] if local and local.is_dir() else [local] if local and local.is_file() else []
    stamps = tuple((each, each.stat().st_size, each.stat().st_mtime_ns) for each in files)
    return declared, functions, device, weights, stamps
