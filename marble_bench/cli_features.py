"""`bench features` and `bench plan`: features made ahead of a run, looked at, checked, cleared away, handed on."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marble_bench.cli_options import Device, Dtype, Engine, device_of
from marble_bench.errors import DONE, INTERRUPTED, MISSING, PARTLY, BenchError, UsageError

if TYPE_CHECKING:
    from marble_bench.request import Request

app = typer.Typer(help="Features: make them, list, verify, prune, export and push them.", no_args_is_help=True)

Models = Annotated[list[str] | None, typer.Option("--model", help="Encoder NAME or file.py:NAME; repeatable.")]
Tasks = Annotated[list[str] | None, typer.Option("--task", help="Task NAME, file.py, or all; repeatable.")]
DataDir = Annotated[Path | None, typer.Option(help="The corpus's folder; else BENCH_DATA/CORPUS.")]
Mini = Annotated[bool, typer.Option("--mini", help="Of the synthesised miniature.")]
WeightsFile = Annotated[Path | None, typer.Option(help="Weights from this file instead of their source.")]
LayersOf = Annotated[str, typer.Option(help="Of tasks that read frames: all, sum, names with commas, or ranges.")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most N clips of each split.")]
AllowMissing = Annotated[bool, typer.Option("--allow-missing", help="Go on without clips that cannot be used.")]
Where = Annotated[Device, typer.Option(help="Where to compute.")]
Precision = Annotated[Dtype, typer.Option(help="Precision of the encoder.")]
Cache = Annotated[Path | None, typer.Option("--cache-dir", help="Cache root; else BENCH_CACHE, else the platform's.")]
Offline = Annotated[bool, typer.Option("--offline", help="Fetch nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No words on stderr but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Of = Annotated[list[str] | None, typer.Option("--model", help="Only of these encoders; repeatable.")]


def _requests(
    models: list[str] | None,
    tasks: list[str] | None,
    data_dir: Path | None,
    mini: bool,
    cache_dir: Path | None,
    device: Device,
    offline: bool,
    results: Path = Path("results"),
    **options: Any,
) -> list[Request]:
    """A request for every model with every task, as `bench run` makes them."""
    from marble_bench.cache import cache_root
    from marble_bench.protocol import find_protocol
    from marble_bench.request import Request, corpus_root, offline_asked, pairs

    if mini and data_dir:
        raise UsageError("--mini and --data-dir exclude each other: the miniature is made in the cache")
    if not models:
        raise UsageError("say whose features: --model NAME (bench list models)")
    cache, where = cache_root(cache_dir), device_of(device)
    chosen = pairs(models, tasks or [], None, options.get("weights"))
    if data_dir and len({named.task.corpus.beside or named.task.corpus.name for _, _, named in chosen}) > 1:
        raise UsageError("--data-dir is of one corpus, these tasks have several: set BENCH_DATA to the folder of all")
    return [
        Request(
            named=named,
            protocol=find_protocol("marble"),
            encoder=encoder,
            model=name,
            cache=cache,
            results=results.expanduser(),
            root=None if mini else corpus_root(named, cache, data_dir, None),
            mini=mini,
            device=where,
            offline=offline or offline_asked(),
            **options,
        )
        for name, encoder, named in chosen
    ]


@app.command()
def extract(
    model: Models = None,
    task: Tasks = None,
    data_dir: DataDir = None,
    mini: Mini = False,
    weights: WeightsFile = None,
    layers: LayersOf = "all",
    limit: Limit = None,
    allow_missing: AllowMissing = False,
    device: Where = Device.auto,
    dtype: Precision = Dtype.float32,
    engine: Annotated[Engine, typer.Option(help="This machine, or a Ray cluster (docs/extraction.md).")] = Engine.local,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read audio; with Ray, encoders side by side.")
    ] = None,
    store: Annotated[
        str,
        typer.Option(
            metavar="URL", help="Keep the shards there too, such as s3://bucket/features; fetch what is there."
        ),
    ] = "",
    cache_dir: Cache = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Make the features that runs will read, without probing; what is stored is not made again."""
    from marble_bench import prepare
    from marble_bench.progress import Progress
    from marble_bench.show import print_table

    requests = _requests(
        model,
        task,
        data_dir,
        mini,
        cache_dir,
        device,
        offline,
        weights=weights,
        layers=layers,
        limit=limit,
        allow_missing=allow_missing,
        dtype=dtype.value,
        engine=engine.value,
        workers=workers,
        elsewhere=store,
    )
    ended: list[int] = []
    for request in requests:
        try:
            with Progress(f"{request.model} {request.named.name}", quiet or as_json) as progress:
                made = prepare.extract(request, progress)
        except KeyboardInterrupt:
            print("interrupted; finished shards are kept, the same command goes on from there", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except BenchError as error:
            if len(requests) == 1 or debug:
                raise
            print(f"error: {request.model} on {request.named.name}: {error}", file=sys.stderr)
            ended.append(error.exit_code)
            continue
        ended.append(PARTLY if made["left_out"] else DONE)
        if as_json:
            print(json.dumps(made))
        else:
            shown = {name: value for name, value in made.items() if name not in ("left_out", "stores")}
            print_table([{**shown, "left out": len(made["left_out"])}])
            print("\n".join(made["stores"]), file=sys.stderr)
    raise typer.Exit(ended[0] if len(set(ended)) == 1 else PARTLY)


@app.command("ls")
def ls(model: Of = None, cache_dir: Cache = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """What is stored: key, encoder, size, rows, last use."""
    from marble_bench.show import print_table

    rows = [
        {
            "key": store.key,
            "encoder": store.encoder,
            "kind": store.facts.get("kind", "?"),
            "layer": store.facts.get("layer", "all"),
            "window_s": store.facts.get("window_s", store.facts.get("piece")),
            "dtype": store.facts.get("dtype", "?"),
            "mb": round(store.size_bytes / 1e6, 3),
            "shards": store.shards,
            "clips": store.spans,
            "rows": store.rows,
            "last_use": time.strftime("%Y-%m-%d %H:%M", time.localtime(store.used_s)),
            "problem": store.problem,
        }
        for store in _held(cache_dir, model)
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table([{**row, "mb": f"{row['mb']:,.1f}"} for row in rows])


def _held(cache_dir: Path | None, models: list[str] | None) -> list[Any]:
    from marble_bench.cache import cache_root
    from marble_bench.features.manage import held

    return [store for store in held(cache_root(cache_dir)) if not models or store.encoder in models]


@app.command()
def verify(
    model: Of = None, cache_dir: Cache = None, as_json: AsJson = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Read every shard: whole, finite, and of the digest it was written with; exit code 3 if one is not."""
    from marble_bench.features.manage import faults

    good, bad = 0, []
    for store in _held(cache_dir, model):
        if store.problem and not store.shards:
            bad.append({"path": str(store.folder), "problem": store.problem})
        for shard, problem in faults(store):
            good += not problem
            if problem:
                bad.append({"path": str(shard), "problem": problem})
        if not quiet and not as_json:
            print(f"{store.key}: {store.shards} shards read", file=sys.stderr)
    if as_json:
        print(json.dumps({"sound": good, "damaged": bad}, indent=1))
    else:
        for each in bad:
            print(each["problem"])
        print(f"{good} shards are sound, {len(bad)} are not" + (": bench features prune --damaged" if bad else ""))
    raise typer.Exit(MISSING if bad else DONE)


@app.command()
def prune(
    model: Of = None,
    unused_days: Annotated[float | None, typer.Option(min=0, help="Stores not used for so many days.")] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Damaged shards, and stores of other formats.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    cache_dir: Cache = None,
    debug: Debug = False,
) -> None:
    """Remove features by encoder, by last use, or damaged ones; asks first."""
    from marble_bench.cache import cache_root
    from marble_bench.features.manage import held, removals, remove
    from marble_bench.show import print_table

    if not model and unused_days is None and not damaged:
        raise UsageError("say what to remove: --model NAME, --unused-days N or --damaged")
    seconds = None if unused_days is None else unused_days * 86400
    what = removals(held(cache_root(cache_dir)), model or [], seconds, damaged, time.time())
    if not what:
        print("nothing to remove", file=sys.stderr)
        return
    print_table([{"path": str(each.path), "mb": round(each.size_bytes / 1e6, 3), "why": each.why} for each in what])
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nobody can be asked here: give --yes to remove these")
        typer.confirm(f"remove {sum(each.size_bytes for each in what) / 1e6:,.1f} MB?", abort=True, err=True)
    print(f"{remove(what) / 1e6:,.1f} MB are free again", file=sys.stderr)


@app.command()
def export(
    place: Annotated[Path, typer.Argument(help="A file.parquet, or the folder of a Hugging Face dataset.")],
    model: Models = None,
    task: Tasks = None,
    data_dir: DataDir = None,
    mini: Mini = False,
    weights: WeightsFile = None,
    limit: Limit = None,
    allow_missing: AllowMissing = False,
    device: Where = Device.auto,
    dtype: Precision = Dtype.float32,
    cache_dir: Cache = None,
    offline: Offline = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one model's features of one task for others, as `bench run --features` reads them."""
    options: dict[str, Any] = {"weights": weights, "limit": limit, "allow_missing": allow_missing, "dtype": dtype.value}
    (request,) = _one(_requests(model, task, data_dir, mini, cache_dir, device, offline, **options))
    rows = _exported(request, place.expanduser(), quiet)
    print(f"{rows} rows of {request.model} on {request.named.name}", file=sys.stderr)
    print(place)


@app.command()
def push(
    destination: Annotated[str, typer.Argument(help="hf:OWNER/NAME, or a URL such as s3://bucket/path.")],
    model: Models = None,
    task: Tasks = None,
    data_dir: DataDir = None,
    mini: Mini = False,
    weights: WeightsFile = None,
    limit: Limit = None,
    allow_missing: AllowMissing = False,
    device: Where = Device.auto,
    dtype: Precision = Dtype.float32,
    cache_dir: Cache = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export one model's features of one task as a Hugging Face dataset and upload it."""
    from marble_bench.features.export import push

    options: dict[str, Any] = {"weights": weights, "limit": limit, "allow_missing": allow_missing, "dtype": dtype.value}
    (request,) = _one(_requests(model, task, data_dir, mini, cache_dir, device, False, **options))
    with tempfile.TemporaryDirectory(prefix="bench-push-") as folder:
        _exported(request, Path(folder) / "dataset", quiet)
        say = (lambda _: None) if quiet else (lambda text: print(text, file=sys.stderr))
        print(push(Path(folder) / "dataset", destination, say))


def _one(requests: list[Request]) -> list[Request]:
    if len(requests) != 1:
        raise UsageError(f"these are {len(requests)} pairs of model and task: give one --model and one --task")
    return requests


def _exported(request: Request, place: Path, quiet: bool) -> int:
    from marble_bench import prepare
    from marble_bench.progress import Progress

    with Progress(f"{request.model} {request.named.name}", quiet) as progress:
        return prepare.export(request, progress, place)


def plan(
    model: Models = None,
    task: Tasks = None,
    data_dir: DataDir = None,
    mini: Mini = False,
    weights: WeightsFile = None,
    layers: LayersOf = "all",
    limit: Limit = None,
    allow_missing: AllowMissing = False,
    device: Where = Device.auto,
    dtype: Precision = Dtype.float32,
    results_dir: Annotated[Path, typer.Option("--results-dir", help="Records whose pace is taken.")] = Path("results"),
    cache_dir: Cache = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what features would take before anything is made: hours of audio, passes, gigabytes, time, memory."""
    from marble_bench import prepare
    from marble_bench.progress import span
    from marble_bench.show import print_table

    options: dict[str, Any] = {"weights": weights, "layers": layers, "limit": limit, "allow_missing": allow_missing}
    requests = _requests(
        model, task, data_dir, mini, cache_dir, device, True, results_dir, **options, dtype=dtype.value
    )
    passes: set[Any] = set()
    measured: dict[tuple[str, float], prepare.Pace] = {}
    rows = []
    for request in requests:
        row, key = prepare.plan(request, measured), prepare.same_pass(request)
        if key in passes:  # the tasks of a corpus share one pass where their windows agree
            row |= {"passes": 0, "hours": 0.0, "features_gb": 0.0}
        passes.add(key)
        rows.append(row)
    total = {
        "passes": len(passes),
        "audio_h": round(sum(row["audio_h"] for row in rows if row["passes"]), 3),
        "features_gb": round(sum(row["features_gb"] for row in rows), 4),
        "hours": round(sum(row["hours"] or 0.0 for row in rows), 3),
    }
    if as_json:
        print(json.dumps({"total": total, "each": rows}, indent=1))
        return
    print_table([{name: value for name, value in row.items() if name not in ("device", "dtype")} for row in rows])
    print(
        f"{total['passes']} passes over {total['audio_h']:,} h of audio on {rows[0]['device']}: "
        f"{total['features_gb']:,} GB, about {span(3600 * total['hours'])}; what is stored already is not taken off"
    )
