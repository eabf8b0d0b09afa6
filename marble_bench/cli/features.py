"""`bench features` and `bench plan`: features made ahead of a run, looked at, checked, cleared away, handed on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marble_bench.cli.completion import complete_names
from marble_bench.cli.config_file import Commands
from marble_bench.cli.each import run_each
from marble_bench.cli.options import (
    RESULTS,
    AsJson,
    Cache,
    Debug,
    EngineOption,
    FeatureOptions,
    Fresh,
    OtherHead,
    PlanOptions,
    Quiet,
    Results,
    Rules,
    add_options,
    warn_of_other_stores,
)
from marble_bench.core.choices import Engine
from marble_bench.errors import DONE, MISSING, UsageError, counted, format_duration, format_speed, listing
from marble_bench.records.escape import escape_line

if TYPE_CHECKING:
    from marble_bench.runs.config import RunConfig

app = Commands(help="Features: compute, list, verify, delete, export or upload them.", no_args_is_help=True)

LayersOf = Annotated[str, typer.Option(help="For frame-by-frame tasks: all, sum, names with commas, or ranges.")]
Of = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Only of these encoders: names, several with commas, globs; repeatable.",
        autocompletion=complete_names("models"),
    ),
]


@app.command()
@add_options(FeatureOptions)
def extract(
    asked: FeatureOptions,
    layers: LayersOf = "all",
    engine: EngineOption = Engine.local,
    fresh_features: Fresh = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compute the features that runs will read, without training probes; stored ones are not computed again."""
    from marble_bench.runs import plan as prepare

    configs = asked.build_configs(layers=layers, fresh_features=fresh_features, engine=engine.value)
    if not (quiet or as_json):
        warn_of_other_stores(configs)
    resume_hint, show = (
        "finished shards are stored, and the same command continues from there",
        partial(_print_extraction, as_json=as_json),
    )
    quiet = quiet or as_json
    raise typer.Exit(
        run_each(configs, prepare.extract, show, resume_hint, fresh_features=fresh_features, quiet=quiet, debug=debug)
    )


def _print_extraction(extraction: dict[str, Any], as_json: bool) -> None:
    from marble_bench.cli.show import print_line, print_table

    if as_json:
        print_line(extraction)
    else:
        print_table([_format_extraction(extraction)])
        print("\n".join(extraction["stores"]), file=sys.stderr)


def _format_extraction(extraction: dict[str, Any]) -> dict[str, Any]:
    """What `extract` made, as people read it."""
    return {
        "model": extraction["model"],
        "task": extraction["task"],
        "clips": extraction["clips"],
        "left out": len(extraction["left_out"]),
        "encoded": format_duration(extraction["audio_s"]) if extraction["audio_s"] else "nothing, all was stored",
        "in": format_duration(extraction["extract_s"]),
        "speed": format_speed(extraction["real_time_factor"]) if extraction["real_time_factor"] else "-",
        "store": _format_size(1e6 * extraction["feature_mb"]),
    }


def _describe_kind(facts: Mapping[str, Any]) -> str:
    """The kind of a store; of pooled features with the pooling, where that is not the mean."""
    kind, pooling = str(facts.get("kind", "?")), facts.get("pooling", "mean")
    return kind if pooling in ("", "mean") else f"{kind} {pooling}"


@app.command("ls")
def ls(model: Of = None, cache_dir: Cache = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List the stored features: key, encoder, size, rows, last use."""
    from marble_bench.cli.show import print_table

    rows = [
        {
            "key": store.key,
            "encoder": store.encoder,
            "kind": _describe_kind(store.facts),
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
        for store in _list_stores(cache_dir, model)
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        blank = dict.fromkeys(("window_s", "problem"), "-")
        print_table(
            [{**row, **{k: v for k, v in blank.items() if not row[k]}, "mb": f"{row['mb']:,.1f}"} for row in rows]
        )


def _list_stores(cache_dir: Path | None, models: list[str] | None) -> list[Any]:
    from marble_bench.core.selection import select_names
    from marble_bench.features.manage import list_stores
    from marble_bench.files.cache import find_cache_root

    stores = list_stores(find_cache_root(cache_dir))
    chosen = select_names(models or [], dict.fromkeys(store.encoder for store in stores), "model")
    return [store for store in stores if not models or store.encoder in chosen]


@app.command()
def verify(
    model: Of = None, cache_dir: Cache = None, as_json: AsJson = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Compare every byte of the stored features with their digests; exit code 3 if anything differs.

    Compares the file of each shard with its digest in the manifest, and its content with the digest inside the file.
    Names each shard that is missing or in the wrong place.
    """
    from marble_bench.features.manage import find_faults

    good, bad = 0, []
    for store in _list_stores(cache_dir, model):
        for path, problem in find_faults(store):
            good += not problem and path.suffix == ".arrow"
            if problem:
                bad.append({"path": str(path), "problem": problem})
        if not quiet and not as_json:
            print(f"{store.key}: {counted(store.shards, 'shard', 'shards')} read", file=sys.stderr)
    if as_json:
        print(json.dumps({"valid": good, "damaged": bad}, indent=1))
    else:
        for each in bad:
            print(escape_line(each["problem"]))
        print(
            f"{counted(good, 'shard is', 'shards are')} valid, {len(bad)} not"
            + (": bench features prune --damaged" if bad else "")
        )
    raise typer.Exit(MISSING if bad else DONE)


@app.command()
def prune(
    model: Of = None,
    unused_days: Annotated[float | None, typer.Option(min=0, help="Stores unused for this many days.")] = None,
    damaged: Annotated[bool, typer.Option("--damaged", help="Damaged shards and stores of other formats.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    cache_dir: Cache = None,
    debug: Debug = False,
) -> None:
    """Delete features: by encoder, by last use, or damaged ones. Asks first."""
    from marble_bench.cli.show import print_table
    from marble_bench.core.selection import select_names
    from marble_bench.features.manage import list_stores, plan_removals, remove
    from marble_bench.files.cache import find_cache_root

    if not model and unused_days is None and not damaged:
        raise UsageError("say what to delete: --model NAME, --unused-days N or --damaged")
    seconds = None if unused_days is None else unused_days * 86400
    stores = list_stores(find_cache_root(cache_dir))
    chosen = select_names(model or [], dict.fromkeys(store.encoder for store in stores), "model")
    what = plan_removals(stores, chosen, seconds, damaged, time.time())
    if not what:
        print("nothing to remove", file=sys.stderr)
        return
    print_table([{"path": str(each.path), "size": _format_size(each.size_bytes), "why": each.why} for each in what])
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("this is no terminal, so nobody can confirm: give --yes to delete these")
        typer.confirm(f"remove {sum(each.size_bytes for each in what) / 1e6:,.1f} MB?", abort=True, err=True)
    print(f"{remove(what) / 1e6:,.1f} MB are free again", file=sys.stderr)


@app.command()
@add_options(FeatureOptions)
def export(
    place: Annotated[Path, typer.Argument(help="A file.parquet, or the folder of a Hugging Face dataset.")],
    asked: FeatureOptions,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Write one model's features of one task for others, as `bench run --features` reads them."""
    config = _build_config(asked)
    rows = _export_whole(config, place.expanduser(), quiet)
    print(f"{rows} rows of {config.features.model} on {config.data.named.name}", file=sys.stderr)
    print(escape_line(str(place)))


@app.command()
@add_options(FeatureOptions)
def push(
    destination: Annotated[str, typer.Argument(help="hf:OWNER/NAME, or a URL such as s3://bucket/path.")],
    asked: FeatureOptions,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Export one model's features of one task as a Hugging Face dataset and upload it."""
    from marble_bench.features.export import push
    from marble_bench.files.scratch import open_scratch_folder

    config = _build_config(asked)
    say = (lambda _: None) if quiet else (lambda text: print(text, file=sys.stderr))
    with open_scratch_folder(config.features.cache, say) as folder:
        _export_whole(config, folder / "dataset", quiet)
        print(push(folder / "dataset", destination, say, quiet))


def _build_config(asked: FeatureOptions) -> RunConfig:
    configs = asked.build_configs()
    if len(configs) != 1:
        raise UsageError(f"{len(configs)} pairs of model and task were given: give one --model and one --task")
    return configs[0]


def _export_whole(config: RunConfig, place: Path, quiet: bool) -> int:
    from marble_bench.cli.progress import Progress
    from marble_bench.runs import plan as prepare

    if not quiet:
        warn_of_other_stores([config])
    with Progress(config.title, quiet) as progress:
        return prepare.export(config, progress, place)


@add_options(PlanOptions)
def plan(
    asked: PlanOptions,
    layers: LayersOf = "all",
    protocol: Rules = None,
    head: OtherHead = None,
    ignore_stored: Annotated[
        bool, typer.Option("--ignore-stored", help="Count stored features as missing; read no files to look for them.")
    ] = False,
    results_dir: Results = RESULTS,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Estimate what a run needs: hours of audio, passes, gigabytes, time, memory, probes."""
    from marble_bench.cli.show import print_table
    from marble_bench.runs import plan as prepare
    from marble_bench.runs.probe_time import ProbeTime

    configs = replace(asked, offline=True).build_configs(
        layers=layers, protocol=protocol, head=head, results_dir=results_dir
    )
    say = (lambda _: None) if quiet or as_json else (lambda text: print(text, file=sys.stderr))
    passes: set[Any] = set()
    measured, probe_times = dict[tuple[str, float], prepare.Throughput](), dict[tuple[Any, ...], ProbeTime | None]()
    rows = []
    for config in configs:
        row = prepare.plan(config, measured, not ignore_stored, say, probe_times)
        key = prepare.identify_pass(config)
        if key in passes:  # the tasks of a corpus share one pass where their windows agree
            row |= {"passes": 0, "hours": 0.0, "features_gb": 0.0, "shared": True}
        passes.add(key)
        rows.append(row)
    total = _add_up(rows)
    if as_json:
        print(json.dumps({"total": total, "each": rows}, indent=1))
        return
    print_table([_format_plan(row) for row in rows])
    for source in dict.fromkeys(f"{row['model']}: {format_speed(row['rate'])}, by {row['rate_from']}" for row in rows):
        print(source)
    print(_summarize(total, rows[0]["device"], configs, ignore_stored))


def _add_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What all rows of a plan take together; a pass that several share counts once, and is marked no longer."""
    first = [row for row in rows if not row.pop("shared", False)]
    took, bounds = [row["probe_hours"] for row in rows], {row["probe_bound"] for row in rows} - {"about"}
    return {
        "passes": sum(row["passes"] for row in first),
        "audio_h": round(sum(row["audio_h"] for row in first), 3),
        "stored_h": round(sum(row["stored_h"] or 0.0 for row in first), 3),
        "features_gb": round(sum(row["features_gb"] for row in first), 4),
        "hours": round(sum(row["hours"] for row in first), 6),
        "probes": sum(row["probes"] for row in rows),
        "probe_hours": None if None in took or len(bounds) > 1 else round(sum(took), 4),
        "probe_hours_from": sorted({row["probe_hours_from"] for row in rows} - {None}),
        "probe_bound": None if None in took or len(bounds) > 1 else next(iter(bounds), "about"),
    }


def _summarize(total: dict[str, Any], device: str, configs: Sequence[RunConfig], ignore_stored: bool) -> str:
    """The total of a plan as a sentence."""
    protocols = listing(dict.fromkeys(config.probes.protocol.name for config in configs))
    known = f"{total['stored_h']:,} of {total['audio_h']:,} hours are stored"
    known = "what is stored was not looked at" if ignore_stored else known
    hours = total["probe_hours"]
    probes = "their time is not known" if hours is None else f"{total['probe_bound']} {format_duration(3600 * hours)}"
    if hours is not None:
        probes += f", by {' and '.join(total['probe_hours_from'])}"
    return (
        f"{known}; "
        f"{counted(total['passes'], 'pass', 'passes')} over {total['audio_h'] - total['stored_h']:,.3f} h "
        f"of audio on {device}: "
        f"{_format_size(1e9 * total['features_gb'])}, about {format_duration(3600 * total['hours'])}; "
        f"{total['probes']} probes of protocol {protocols}: {probes}"
    )


def _format_plan(row: dict[str, Any]) -> dict[str, Any]:
    """A row of a plan as people read it."""
    return {
        "model": row["model"],
        "task": row["task"],
        "clips": row["clips"],
        "unreadable": row["unreadable"],
        "audio": f"{row['audio_h']:,} h",
        "stored": "?" if row["stored_h"] is None else f"{row['stored_h']:,} h",
        "passes": row["passes"],
        "disk": _format_size(1e9 * row["features_gb"]),
        "time": format_duration(3600 * row["hours"]),
        "memory": "?" if row["memory_mb"] is None else _format_size(1e6 * row["memory_mb"]),
        "probes": row["probes"],
        "probe time": _format_bound(row),
    }


def _format_bound(row: dict[str, Any]) -> str:
    if row["probe_hours"] is None:
        return "?"
    return f"{row['probe_bound']} {format_duration(3600 * row['probe_hours'])}".removeprefix("about ")


def _format_size(size_bytes: float) -> str:
    return f"{size_bytes / 1e9:,.1f} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:,.1f} MB"
