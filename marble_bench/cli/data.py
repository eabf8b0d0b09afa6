"""`bench data`: which corpora there are, whether one is whole, its miniature, and its tasks described for others."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marble_bench.cli.config_file import Commands
from marble_bench.cli.options import AsJson, Cache, DataDir, Debug, Offline, Quiet, parse_path
from marble_bench.errors import MISSING, UsageError
from marble_bench.records.escape import escape_line

if TYPE_CHECKING:
    from marble_bench.core.task import Corpus

app = Commands(help="Corpora: list, download or check them, or make a miniature.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="CORPUS", help="A corpus (bench data list).")]


@app.command("list")
def list_(as_json: AsJson = False, debug: Debug = False) -> None:
    """List the corpora with their tasks, licences and download addresses."""
    from marble_bench.cli.show import print_table
    from marble_bench.data.inspection import list_corpora

    known = list_corpora()
    if as_json:
        rows = [
            {"tasks": [each.name for each in tasks], **_list_facts(tasks[0].task.corpus)} for tasks in known.values()
        ]
        print(json.dumps(rows, indent=1))
        return
    print_table(
        [
            {
                "name": name,
                "tasks": " ".join(each.name for each in tasks),
                "license": tasks[0].task.corpus.license,
                "download from": [f"{s.status}: {s.url}" for s in tasks[0].task.corpus.sources],
            }
            for name, tasks in known.items()
        ]
    )


def _list_facts(corpus: Corpus) -> dict[str, Any]:
    facts = {name: getattr(corpus, name) for name in ("name", "title", "home", "license", "citation", "layout")}
    return {**facts, "sources": [asdict(source) for source in corpus.sources]}


@app.command()
def check(
    name: Name,
    data_dir: DataDir = None,
    deep: Annotated[bool, typer.Option("--deep", help="Decode every file instead of reading headers.")] = False,
    cache_dir: Cache = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Name the missing, damaged and unexpected files of a corpus; exit code 3 if any is missing or damaged."""
    from marble_bench.cli.show import print_table, print_words
    from marble_bench.data.inspection import as_rows, find_corpus, inspect
    from marble_bench.files.cache import find_cache_root
    from marble_bench.files.cache import find_data_dir as folder_of

    corpus, tasks = find_corpus(name)
    report = inspect(corpus, tasks, folder_of(corpus.name, find_cache_root(cache_dir), data_dir, corpus.beside), deep)
    if as_json:
        print(json.dumps({**asdict(report), "valid": report.valid}, indent=1))
    else:
        if counts := [
            {"task": task, "split": split, **count}
            for task, splits in report.counts.items()
            for split, count in splits.items()
        ]:
            print_table(counts)
        if findings := as_rows(report):
            print_table(findings)
        depth = "every file was decoded" if deep else "headers were read, --deep decodes every file"
        for why in report.annotations:
            print_words(f"annotations: {why}")  # whole, where a table would break its lines
        found = "whole" if report.valid else f"{len(report.missing)} missing, {len(report.damaged)} damaged"
        found += f", {len(report.annotations)} faults of annotations" if report.annotations else ""
        print_words(f"{corpus.title} in {report.folder}: {found} ({depth})")
    if not report.valid:
        raise typer.Exit(MISSING)


@app.command()
def mini(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="The folder to write; it must not exist yet.")],
    debug: Debug = False,
) -> None:
    """Write a corpus's miniature: synthesised music in its official layout."""
    from marble_bench.data.corpus import write_mini
    from marble_bench.data.inspection import find_corpus

    write_mini(find_corpus(name)[0], folder.expanduser())
    print(escape_line(str(folder)))


@app.command()
def croissant(
    task: Annotated[str, typer.Argument(metavar="TASK", help="A task (bench list tasks), or its file.py.")],
    folder: Annotated[Path, typer.Argument(help="Where croissant.json and clips.parquet are written.")],
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="The corpus's folder, for tasks whose labels are only in the corpus.",
            parser=parse_path,
            metavar="PATH",
        ),
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="With --data-dir: leave out clips whose file is missing.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Describe a task's clips, splits and labels as a Croissant data set (JSON-LD), without the audio."""
    from marble_bench.core.plugins import find_task
    from marble_bench.data.croissant import write_croissant

    if allow_missing and not data_dir:
        raise UsageError("--allow-missing is of --data-dir: without the corpus's folder no file is looked for")
    root = data_dir.expanduser() if data_dir else None
    print(escape_line(str(write_croissant(find_task(task), folder.expanduser(), root, allow_missing))))


@app.command()
def get(
    name: Name,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Where to put it; default: BENCH_DATA/CORPUS.", parser=parse_path, metavar="PATH"),
    ] = None,
    mirror: Annotated[str, typer.Option("--from", help="A named mirror instead of the makers' own.")] = "",
    cache_dir: Cache = None,
    offline: Offline = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Download a corpus from its makers or a mirror; continues if interrupted, and compares published digests."""
    from marble_bench.cli.progress import Transfers
    from marble_bench.cli.show import print_words
    from marble_bench.data.fetch import DownloadCallbacks, get
    from marble_bench.data.inspection import find_corpus
    from marble_bench.files.cache import find_cache_root
    from marble_bench.files.cache import find_data_dir as folder_of
    from marble_bench.runs.config import is_offline_asked

    corpus, _ = find_corpus(name)
    folder = folder_of(corpus.name, find_cache_root(cache_dir), data_dir)
    with Transfers(quiet) as shown:
        get(corpus, folder, DownloadCallbacks(shown.say, shown.show_transfer), mirror, offline or is_offline_asked())
    print(escape_line(str(folder)))
    print_words(f"next: bench data check {corpus.name} --data-dir {folder}")
