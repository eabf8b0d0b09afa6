"""`bench`: argument parsing and printing, nothing else. Data goes to stdout, words to stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 data or weights missing or damaged, 4 some of several failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from marble_bench._version import version as version_of_suite
from marble_bench.cli import board, data
from marble_bench.cli import features as cli_features
from marble_bench.cli import models as cli_models
from marble_bench.cli import results as cli_results
from marble_bench.cli.completion import complete_choices
from marble_bench.cli.config_file import Commands
from marble_bench.cli.each import run_each
from marble_bench.cli.options import (
    RESULTS,
    AsJson,
    Cache,
    Debug,
    EngineOption,
    Fresh,
    KeepAudio,
    OtherHead,
    OwnFeatures,
    Quiet,
    Results,
    Rules,
    RunOptions,
    Seeds,
    WeightsPath,
    add_options,
    parse_path,
    warn_of_other_stores,
)
from marble_bench.core.choices import Control, Engine
from marble_bench.errors import DONE, FAILED, BenchError, UsageError, format_error, listing, suggest_name
from marble_bench.records.escape import escape_line, escape_lines

app = Commands(
    name="bench",
    help="Score frozen music encoders: compute features once, train probes on them, write a record.",
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage, 3 data or weights missing or damaged, 4 some of several failed.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)

app.add_typer(data.app, name="data")
app.add_typer(cli_models.app, name="models")
app.add_typer(cli_features.app, name="features")
app.add_typer(cli_results.app, name="results")
app.command()(cli_features.plan)
app.add_typer(board.app)
app.add_typer(cli_results.top)


LISTED = ("tasks", "models", "protocols", "heads", "metrics", "sets", "results", "data", "features")


@app.command()
@add_options(RunOptions)
def run(
    asked: RunOptions,
    protocol: Rules = None,
    head: OtherHead = None,
    features: OwnFeatures = None,
    layers: Annotated[str, typer.Option(help="Layers: all, last, sum, concat, names with commas, or 0-12.")] = "all",
    seeds: Seeds = None,
    engine: EngineOption = Engine.local,
    results_dir: Results = RESULTS,
    few_shot: Annotated[
        bool, typer.Option("--few-shot", help="Also train on 1, 2, 5, 10, 25 and 50 % of the clips; not comparable.")
    ] = False,
    control: Annotated[
        Control | None, typer.Option(help="Train on shuffled labels; not comparable.", show_default=False)
    ] = None,
    perturb: Annotated[
        str | None,
        typer.Option(metavar="NAME[,NAME...]|all", help="Also score changed test clips; makes a separate record."),
    ] = None,
    fresh_features: Fresh = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a record that differs.")] = False,
    keep_audio: KeepAudio = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, without doing it.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Score models on tasks and write a record for each pair."""
    from marble_bench.audio.perturb import parse_names as parse_changes
    from marble_bench.cli.show import print_outcome, print_plan
    from marble_bench.runs import run as running

    wanted = asked.build_configs(
        protocol=protocol,
        head=head,
        features=features,
        layers=layers,
        seeds=seeds,
        engine=engine.value,
        results_dir=results_dir,
        few_shot=few_shot,
        control=control.value if control else "",
        perturb=parse_changes(perturb) if perturb is not None else (),
        fresh_features=fresh_features,
        overwrite=overwrite,
        keep_audio=keep_audio.expanduser() if keep_audio else None,
    )
    if dry_run:
        for config in wanted:
            print_plan(running.plan(config), as_json)
        return
    if not (quiet or as_json):
        warn_of_other_stores(wanted)
    resume_hint = "finished features and probes are stored: the same command continues from there"
    show, quiet = partial(print_outcome, as_json=as_json, quiet=quiet), quiet or as_json
    ended = run_each(wanted, running.run, show, resume_hint, fresh_features=fresh_features, quiet=quiet, debug=debug)
    raise typer.Exit(ended)


@app.command("list", rich_help_panel="Lists")
def list_(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help=" ".join(LISTED), autocompletion=complete_choices(LISTED))
    ] = "tasks",
    results_dir: Results = RESULTS,
    cache_dir: Cache = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List tasks, models, protocols, heads, metrics, task sets, results, corpora (data) or stored features."""
    _print_list(what, results_dir, cache_dir, as_json)


def _print_list(what: str, results_dir: Path, cache_dir: Path | None, as_json: bool) -> None:
    from marble_bench.cli.show import print_table

    if what == "data":
        return data.list_(as_json)
    if what == "features":
        return cli_features.ls(cache_dir=cache_dir, as_json=as_json)
    lists: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "tasks": _list_tasks,
        "models": _list_models,
        "protocols": _list_protocols,
        "heads": _list_heads,
        "metrics": _list_metrics,
        "sets": _list_sets,
        "results": lambda: _list_results(results_dir),
    }
    if what not in lists:
        raise UsageError(f"no list '{what}'{suggest_name(what, LISTED) or f'; there are {listing(LISTED)}'}")
    rows = lists[what]()
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows, group_by="family")
    return None


def _add_list(group: typer.Typer, what: str) -> None:
    """`bench WHAT list`, the same as `bench list WHAT`."""

    def show(as_json: AsJson = False, debug: Debug = False) -> None:
        _print_list(what, Path("results"), None, as_json)

    def show_results(results_dir: Results = RESULTS, as_json: AsJson = False, debug: Debug = False) -> None:
        _print_list(what, results_dir, None, as_json)

    def show_features(cache_dir: Cache = None, as_json: AsJson = False, debug: Debug = False) -> None:
        _print_list(what, Path("results"), cache_dir, as_json)

    command = {"results": show_results, "features": show_features}.get(what, show)
    command.__doc__ = f"The same as `bench list {what}`."
    group.command("list")(command)


for _what in ("tasks", "protocols", "heads", "metrics", "sets"):
    _group = Commands(help=f"The same list as `bench list {_what}`.", no_args_is_help=True)
    app.add_typer(_group, name=_what, rich_help_panel="Lists")
    _add_list(_group, _what)
_add_list(cli_models.app, "models")
_add_list(cli_features.app, "features")
_add_list(cli_results.app, "results")


def _list_tasks() -> list[dict[str, Any]]:
    from marble_bench.core import plugins

    found = [plugins.find_task(name) for name in plugins.list_task_names()]
    return [
        {
            "name": each.name,
            "corpus": each.task.corpus.name,
            "asks": each.task.title,
            "target": "works"
            if each.task.ranks
            else f"{type(each.task.target).__name__.lower()} {each.task.target.width}",
            "metrics": ", ".join(metric.name for metric in each.task.metrics),
            "clips": "/".join(str(each.task.counts[split]) for split in ("train", "valid", "test")),
        }
        for each in found
    ]


def _list_models() -> list[dict[str, Any]]:
    from marble_bench.core import plugins

    families = plugins.families()
    return [
        {
            "family": families[encoder.name],
            "name": encoder.name,
            "description": encoder.description,
            "layers": len(encoder.layers),
            "rate_hz": encoder.sample_rate_hz,
            "parameters": encoder.parameters,
            "license": encoder.license,
            "weights": encoder.weights.url if encoder.weights else "none",
            "pin": encoder.weights.pin if encoder.weights else "none",
        }
        for encoder in sorted(plugins.find_encoders().values(), key=lambda each: families[each.name])
    ]


def _list_protocols() -> list[dict[str, Any]]:
    from marble_bench.core import plugins

    return [
        {"name": p.name, "version": p.version, "description": p.description, "seeds": p.seeds}
        for p in plugins.find_protocols().values()
    ]


def _list_heads() -> list[dict[str, Any]]:
    from marble_bench.core import plugins

    return [
        {
            "name": head.name,
            "version": head.version,
            "description": head.description,
            "fitted": "by itself" if head.fits_itself else "by its protocol",
        }
        for head in plugins.find_heads().values()
    ]


def _list_metrics() -> list[dict[str, Any]]:
    from marble_bench.core import plugins

    return [
        {
            "name": metric.name,
            "version": metric.version,
            "target": metric.kind,
            "unit": metric.unit,
            "better": "higher" if metric.higher_is_better else "lower",
            "source": metric.source,
        }
        for metric in plugins.find_metrics().values()
    ]


def _list_sets() -> list[dict[str, Any]]:
    from marble_bench.core import plugins

    return [
        {
            "name": each.name,
            "version": each.version,
            "title": each.title,
            "tasks": ", ".join(f"{task} ({', '.join(metrics)})" for task, metrics in each.members.items()),
            "better": listing(directions),
            "mean": "of tasks, each the mean of its metrics; only if complete" if each.averaging == "tasks" else "none",
            "source": each.source,
        }
        for each in plugins.find_task_sets().values()
        if (directions := plugins.list_directions(each))
    ]


def _list_results(folder: Path) -> list[dict[str, Any]]:
    from marble_bench.api import load_results
    from marble_bench.cli.show import print_left_off

    rows: list[dict[str, Any]] = []
    for record in load_results(folder, on_left_off=print_left_off) if folder.is_dir() else ():
        metric, score = next(iter(record.main_scores.items()))
        rows.append(
            {
                "model": record.model.name,
                "task": record.task.name,
                "protocol": record.protocol.name,
                "metric": metric,
                "test": score.test,
                "comparable": "yes" if record.comparable else "no: " + "; ".join(record.why_not),
            }
        )
    return rows


@app.command()
def check(
    plugin: Annotated[str, typer.Argument(help="A task (NAME or file.py) or an encoder (NAME or file.py:NAME).")],
    data_dir: Annotated[
        Path | None,
        typer.Option(help="The corpus of the task; default: its miniature.", parser=parse_path, metavar="PATH"),
    ] = None,
    weights: WeightsPath = None,
    cache_dir: Cache = None,
    debug: Debug = False,
) -> None:
    """Test your task or encoder as a run would use it."""
    from marble_bench.cli.check import check_encoder, check_task
    from marble_bench.core import plugins
    from marble_bench.files.cache import find_cache_root
    from marble_bench.files.locks import keep_compiled

    keep_compiled(find_cache_root(cache_dir))
    if plugins.is_model(plugin):
        from marble_bench.encoders.weights import resolve
        from marble_bench.files.download import make_line_callbacks

        encoder = plugins.find_encoder(plugin)
        downloads = make_line_callbacks(lambda text: print(text, file=sys.stderr))
        lines = check_encoder(
            encoder, resolve(encoder, find_cache_root(cache_dir), override=weights, callbacks=downloads).path, "cpu"
        )
    else:
        lines = check_task(plugins.find_task(plugin), find_cache_root(cache_dir), data_dir)
    for line in lines:
        print(escape_line(line))
    print("all is as declared")


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    if version:
        print(f"marble-bench {version_of_suite()}")
        raise typer.Exit(DONE)


def may_be_theirs(error: BaseException) -> bool:
    """Whether code of a user's own may have raised it: anything but an interruption, and an end where no such code ran."""
    if isinstance(error, SystemExit):
        return "marble_bench.core.user_files" in sys.modules
    return not isinstance(error, KeyboardInterrupt)


def main() -> None:
    """The `bench` command: one clear line for an error, the traceback only with `--debug`."""
    switches = {"debug": "--debug" in sys.argv}  # a file of --config may switch it on
    try:
        app(prog_name="bench", obj=switches)
    except BenchError as error:
        if switches["debug"]:
            raise
        print(escape_lines(f"error: {error}"), file=sys.stderr)
        sys.exit(error.exit_code)
    except BaseException as error:  # a user's file may raise anything, and end Python
        if switches["debug"] or not may_be_theirs(error):
            raise
        from marble_bench.core.user_files import find_fault

        if theirs := find_fault(error):
            print(escape_lines(f"error: {theirs}"), file=sys.stderr)
            sys.exit(theirs.exit_code)
        if not isinstance(error, Exception):
            raise
        print(
            escape_lines(f"internal error: {type(error).__name__}: {format_error(error)}\n")
            + "This is a fault of marble-bench: run again with --debug and report it",
            file=sys.stderr,
        )
        sys.exit(FAILED)


if __name__ == "__main__":
    main()
