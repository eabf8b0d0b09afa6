"""A command for every pair of model and task, one after another: what fails ends itself alone."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from marble_bench.errors import DONE, INTERRUPTED, BenchError, combine_exit_codes
from marble_bench.records.escape import escape_lines

if TYPE_CHECKING:
    from marble_bench.cli.progress import Progress
    from marble_bench.runs.config import RunConfig

T = TypeVar("T")


def run_each(
    wanted: Sequence[RunConfig],
    work: Callable[[RunConfig, Progress], T],
    show: Callable[[T], None],
    resume_hint: str,
    *,
    fresh_features: bool,
    quiet: bool,
    debug: bool,
) -> int:
    """Do the work of each and show what comes out. Returns the exit code of them all.

    resume_hint: what is said when it is interrupted. A fault of the only one, or with `debug`, is raised.
    """
    from marble_bench.cli.progress import Progress
    from marble_bench.core.user_files import find_fault

    ended: list[int] = []
    for place, config in enumerate(wanted, 1):
        title = config.title if len(wanted) == 1 else f"{place}/{len(wanted)} {config.title}"
        try:
            with Progress(title, quiet) as progress:
                done = work(config, progress)
        except KeyboardInterrupt:
            again = "; --fresh-features would set what it made aside again: leave it out" if fresh_features else ""
            print(f"interrupted; {resume_hint}{again}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except BaseException as error:  # a user's file may raise anything, and end Python
            reported = error if isinstance(error, BenchError) else find_fault(error)
            if reported is None or len(wanted) == 1 or debug:
                raise
            print(
                escape_lines(f"error: {config.features.model} on {config.data.named.name}: {reported}"), file=sys.stderr
            )
            ended.append(reported.exit_code)
            continue
        show(done)
        ended.append(DONE)
    return combine_exit_codes(ended)
