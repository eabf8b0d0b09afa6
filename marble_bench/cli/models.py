"""`bench models`: have an encoder's weights, see which are here, hold them against their digests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marble_bench.cli.completion import complete_names
from marble_bench.cli.config_file import Commands
from marble_bench.cli.options import AsJson, Cache, Debug, Offline, Quiet, parse_path
from marble_bench.errors import MISSING, BenchError
from marble_bench.records.escape import escape_line

if TYPE_CHECKING:
    from marble_bench.core.encoder import Encoder

app = Commands(help="Weights of encoders: download, list or verify them.", no_args_is_help=True)

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Encoders; default: all whose weights are in the cache.",
        autocompletion=complete_names("models"),
    ),
]


@app.command()
def get(
    name: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="An encoder (bench list models).", autocompletion=complete_names("models")
        ),
    ],
    weights: Annotated[
        Path | None,
        typer.Option(help="Convert this file or folder instead of downloading.", parser=parse_path, metavar="PATH"),
    ] = None,
    cache_dir: Cache = None,
    offline: Offline = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Download, verify and convert an encoder's weights, and print their path. Then runs need no network."""
    from marble_bench.cli.progress import Transfers
    from marble_bench.core import plugins
    from marble_bench.encoders.weights import resolve
    from marble_bench.files.cache import find_cache_root
    from marble_bench.files.download import DownloadCallbacks
    from marble_bench.runs.config import is_offline_asked

    offline = offline or is_offline_asked()
    encoder = plugins.find_encoder(name, offline)
    with Transfers(quiet) as shown:
        downloads = DownloadCallbacks(shown.say, shown.show_transfer)
        found = resolve(encoder, find_cache_root(cache_dir), override=weights, offline=offline, callbacks=downloads)
    if as_json:
        facts = {"path": str(found.path) if found.path else None, "sha256": found.sha256}
        print(json.dumps({"name": encoder.name, **facts, "source": found.source, "revision": found.revision}, indent=1))
    elif found.path is None:
        print(f"{encoder.name} needs no weights", file=sys.stderr)
    else:
        print(escape_line(str(found.path)))
        print(f"sha256 {found.sha256}, from {found.source} {found.revision}".rstrip(), file=sys.stderr)


def _choose_encoders(names: list[str] | None) -> list[Encoder]:
    from marble_bench.core import plugins

    return (
        [plugins.find_encoder(name, offline=True) for name in names]
        if names
        else list(plugins.find_encoders().values())
    )


@app.command("ls")
def ls(names: Names = None, cache_dir: Cache = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """List the encoders whose weights are in the cache: source, commit, digest."""
    from marble_bench.cli.show import print_table
    from marble_bench.encoders.weights import find_cached
    from marble_bench.files.cache import find_cache_root

    rows: list[dict[str, Any]] = []
    for encoder in _choose_encoders(names):
        if there := find_cached(encoder, find_cache_root(cache_dir)):
            path, receipt = there
            rows.append(
                {
                    "name": encoder.name,
                    "mb": round(path.stat().st_size / 1e6, 1),
                    "source": receipt.source,
                    "revision": receipt.revision,
                    "pin": encoder.weights.pin if encoder.weights else "none",
                    "sha256": receipt.sha256 if as_json else receipt.sha256[:12],
                    **({"tensors_sha256": receipt.tensors_sha256} if as_json else {}),
                    "path": str(path),
                }
            )
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)


@app.command()
def verify(names: Names = None, cache_dir: Cache = None, as_json: AsJson = False, debug: Debug = False) -> None:
    """Compare every file of weights with its first digest; exit code 3 if one differs."""
    from marble_bench.cli.show import print_table
    from marble_bench.encoders.weights import find_cached
    from marble_bench.encoders.weights import verify as problems_of
    from marble_bench.files.cache import find_cache_root

    cache = find_cache_root(cache_dir)
    rows: list[dict[str, Any]] = []
    for encoder in _choose_encoders(names):
        if encoder.weights is None:
            continue
        try:
            there = find_cached(encoder, cache) is not None
            problems = problems_of(encoder, cache)
        except BenchError as error:  # a receipt that cannot be read
            there, problems = True, [str(error)]
        if there or names:
            missing = [] if there else [f"not here (bench models get {encoder.name})"]
            rows.append({"name": encoder.name, "state": "; ".join(problems + missing) or "as at first"})
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(rows)
    if any(row["state"] != "as at first" for row in rows):
        raise typer.Exit(MISSING)
