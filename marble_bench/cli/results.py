"""`bench results`: are records valid, and in other tools' formats; `bench reproduce`: does a record come out again."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from marble_bench.cli.config_file import Commands
from marble_bench.cli.options import (
    RESULTS,
    AsJson,
    Cache,
    DataDir,
    Debug,
    Offline,
    Quiet,
    ReproduceOptions,
    Results,
    WeightsPath,
    add_options,
    parse_path,
)
from marble_bench.errors import FAILED, MISSING, UsageError, counted
from marble_bench.records.escape import escape_line

app = Commands(help="Records: check them or export them.", no_args_is_help=True)
top = Commands()
CorpusAtHand = Annotated[
    Path | None,
    typer.Option(
        help="A corpus's folder: the records are compared with its clips, labels and files.",
        parser=parse_path,
        metavar="PATH",
    ),
]
MusevalFolder = Annotated[
    Path | None,
    typer.Option(
        "--museval",
        help="For one run on stems: write museval's JSON of every test song into this folder.",
        parser=parse_path,
        metavar="PATH",
    ),
]
EvalFolder = Annotated[
    Path | None,
    typer.Option(
        "--eval-yaml",
        help="Write .eval_results into this folder, a clone of the model's repository on the hub.",
        parser=parse_path,
        metavar="PATH",
    ),
]


@app.callback()
def _results() -> None:
    """Records: check them or export them."""


@app.command()
def check(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH...]", help="Records or their folders; default: --results-dir.")
    ] = None,
    results_dir: Results = RESULTS,
    data_dir: CorpusAtHand = None,
    task: Annotated[str | None, typer.Option(help="The task's file.py, if it is your own.")] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Also compare each score with the published scores of the same model.")
    ] = False,
    published: Annotated[
        bool,
        typer.Option("--published", help="Check the published scores instead: can each accuracy be k of n test clips?"),
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check each record: schema, digests, counts, labels, scores, duplicates. Exit code 3 if one is invalid."""
    if published:
        if paths or data_dir or task or reference:
            raise UsageError("--published checks what papers print: give no records, --data-dir, --task or --reference")
        return _check_published(as_json)
    return _check_records([path.expanduser() for path in paths or [results_dir]], data_dir, task, reference, as_json)


def _check_records(
    places: Sequence[Path], data_dir: Path | None, task: str | None, reference: bool, as_json: bool
) -> None:
    from marble_bench.board.board import compare_with_reference
    from marble_bench.cli.show import print_table, print_verdicts
    from marble_bench.core.plugins import find_task
    from marble_bench.records.corpus_facts import Corpora
    from marble_bench.records.validation import check as judge
    from marble_bench.records.validation import read_all, record_files

    files = record_files(places)
    root = data_dir.expanduser() if data_dir else None
    verdicts = judge(files, Corpora(root, find_task(task) if task else None))
    beside = compare_with_reference(read_all(files)) if reference else []
    if as_json:
        print(
            json.dumps(
                {"validation": [asdict(each) | {"valid": each.is_valid} for each in verdicts], "reference": beside}
            )
        )
    else:
        print_verdicts(verdicts)
        if reference:
            print_table(beside)
    invalid = {each.path for each in verdicts if not each.is_valid}
    print(f"{counted(len(files), 'record')}, {len(invalid)} invalid", file=sys.stderr)
    raise typer.Exit(MISSING if invalid else 0)


def _check_published(as_json: bool) -> None:
    from marble_bench.board.published import check_published
    from marble_bench.cli.show import print_table

    found = check_published()
    impossible = [each for each in found if not each.possible]
    if as_json:
        print(json.dumps({"published": [asdict(each) for each in found]}))
    else:
        print_table(
            [
                {"source": each.source, "model": each.model, "printed as": each.label, "task": each.task,
                 "metric": each.metric, "score %": each.value, "test clips": each.clips, "verdict": "impossible"}
                for each in impossible
            ],
            right=("score %", "test clips"),
        )  # fmt: skip
    print(
        f"{counted(len(found), 'printed share')} of test clips, {len(impossible)} that no number of clips gives "
        "(marked ‡ on the board)",
        file=sys.stderr,
    )


@app.command()
def export(
    records: Annotated[list[Path], typer.Argument(metavar="RECORD", help="Records of one model.")],
    museval: MusevalFolder = None,
    eval_yaml: EvalFolder = None,
    dataset: Annotated[
        str,
        typer.Option(
            metavar="OWNER/NAME", help="With --eval-yaml: the benchmark on the hub that the scores belong to."
        ),
    ] = "",
    metric: Annotated[
        list[str] | None, typer.Option(help="With --eval-yaml: export this score too; repeatable.")
    ] = None,
    source_url: Annotated[str, typer.Option(help="With --eval-yaml: where the records can be read.")] = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write records for another tool: museval's JSON of a separation, or the scores for a model's page on the hub."""
    if (museval is None) == (eval_yaml is None):
        raise UsageError("give one of --museval DIR and --eval-yaml DIR, where the files are written")
    if museval is not None:
        if dataset or metric or source_url:
            raise UsageError(
                "--dataset, --metric and --source-url are of --eval-yaml; museval's files have none of them"
            )
        _export_museval(records, museval.expanduser(), as_json)
        return
    if eval_yaml is not None:
        if not dataset:
            raise UsageError(
                "--eval-yaml needs --dataset OWNER/NAME, the benchmark on the hub that the scores belong to"
            )
        _export_eval_yaml(records, eval_yaml.expanduser(), (dataset, metric or (), source_url), as_json)


def _export_museval(records: list[Path], folder: Path, as_json: bool) -> None:
    from marble_bench.records.bsseval import export_museval
    from marble_bench.records.results import read

    if len(records) != 1:
        raise UsageError("--museval: give one record, of a separation run")
    folders = export_museval(read(records[0].expanduser()), folder)
    if as_json:
        print(json.dumps({"museval": [str(each) for each in folders]}))
    else:
        print("\n".join(escape_line(str(each)) for each in folders))
    print(f"{len(folders)} seeds; read one with museval.EvalStore().add_eval_dir(FOLDER)", file=sys.stderr)


def _export_eval_yaml(records: list[Path], folder: Path, how: tuple[str, Sequence[str], str], as_json: bool) -> None:
    from marble_bench.board.eval_results import write_eval_results

    files = write_eval_results(records, folder, *how)
    if as_json:
        print(json.dumps({"eval_results": [str(each) for each in files]}))
    else:
        print("\n".join(escape_line(str(each)) for each in files))
    print("commit these files to the model's repository, or upload them as a pull request", file=sys.stderr)


@top.command()
@add_options(ReproduceOptions)
def reproduce(
    record: Annotated[Path, typer.Argument(help="The record to reproduce.")],
    asked: ReproduceOptions,
    data_dir: DataDir = None,
    model: Annotated[str | None, typer.Option(help="The encoder's file.py:NAME, if it is your own.")] = None,
    task: Annotated[str | None, typer.Option(help="The task's file.py, if it is your own.")] = None,
    protocol: Annotated[
        str | None, typer.Option(help="The protocol's file.py, if it is your own; with --head, its name or file.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="The head's file.py or name, if it is not the protocol's.")] = None,
    weights: WeightsPath = None,
    cache_dir: Cache = None,
    offline: Offline = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a record again and report differences. Exit code 0 if only scores differ, each within its interval."""
    from marble_bench.cli.progress import Progress
    from marble_bench.cli.show import print_reproduction
    from marble_bench.files.cache import find_cache_root
    from marble_bench.files.scratch import open_scratch_folder
    from marble_bench.records.record import to_json
    from marble_bench.records.results import read
    from marble_bench.runs import reproduce as reproducing
    from marble_bench.runs import run as running
    from marble_bench.runs.config import is_offline_asked
    from marble_bench.runs.devices import resolve_device

    if head and not protocol:
        raise UsageError("--head: give --protocol too, the rules that the head was put into")
    stored = read(record.expanduser())
    old = stored.record
    say = (lambda _: None) if quiet or as_json else (lambda text: print(text, file=sys.stderr))
    with open_scratch_folder(find_cache_root(cache_dir), say) as folder:
        config = reproducing.make_config(
            old,
            find_cache_root(cache_dir),
            folder,
            resolve_device(asked.device),
            reproducing.PlugIns(model, task, protocol, head),
            data_dir,
            weights,
            offline=offline or is_offline_asked(),
            **asked.settings(),
        )
        with Progress(config.title, quiet or as_json) as progress:
            outcome = running.run(config, progress)
        differing = reproducing.find_differences(stored, read(outcome.path))
    new = outcome.record
    rows, changed = reproducing.compare_scores(stored, new), reproducing.list_changed_facts(old, new)
    if as_json:
        print(json.dumps({"scores": [asdict(row) for row in rows], "differing": [asdict(each) for each in differing],
                          "changed": changed, "record": to_json(new)}))  # fmt: skip
    else:
        print_reproduction(rows, old.units, differing, changed)
    raise typer.Exit(FAILED if differing or any(row.verdict == "outside" for row in rows) else 0)
