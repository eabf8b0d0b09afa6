"""What the table of a grid says of each probe's training: its rounds, the best of them, and where it stopped.

A probe's row holds the score after each round, and follows from them: the best round is the first with the highest score, a
probe without any round has no score, and training stops by the rules of protocol and task. Which probe of a grid was chosen
is asked in `marble_bench.records.validation`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Task
from marble_bench.records import claims
from marble_bench.records.record import Record
from marble_bench.records.results import Stored
from marble_bench.scoring.targets import Frames

if TYPE_CHECKING:
    import pandas as pd

Rules = tuple[int | None, int | None]  # rounds at most; rounds without gain after which a probe stops


def find_disagreements(stored: Stored, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Kind and words of what no training gives."""
    record = stored.record
    yield from _check_scores(record, grid)
    if "history" in grid:
        yield from _check_histories(record, grid)
    elif record.identity:
        yield "tables", "the grid has no column history, and every version that writes identity writes it"


def _check_scores(record: Record, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether scores on valid are possible, and absent exactly where no round was finite."""
    import numpy as np

    metric = record.selection.metric
    if (score := record.scores.get(metric)) is not None:
        known = grid["valid"][np.isfinite(grid["valid"])]
        bounds = [float(known.min()), float(known.max())] if len(known) else []
        yield from claims.find_out_of_range(f"the grid, {metric} on valid", metric, score.unit, bounds)
    unknown = grid["valid"].isna()
    if (apart := unknown != (grid["best_epoch"] < 0)).any():
        row = int(apart.to_numpy().argmax())
        problem = "no score on valid" if unknown.iloc[row] else "a score on valid"
        yield (
            "choice",
            f"probe {row} of the grid has {problem} and {int(grid['best_epoch'].iloc[row])} as its best epoch",
        )
    if (silent := unknown & ~grid["diverged"]).any():
        row = int(silent.to_numpy().argmax())
        yield "choice", f"probe {row} of the grid has no score on valid and is not marked as diverged"


def _check_histories(record: Record, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether each probe's best epoch is that of its history, and its training ended where the rules end it."""
    import numpy as np

    task, protocol = claims.find_task(record), claims.find_protocol(record)
    rules = _find_rules(task, protocol, record.data.mini) if task and protocol else None
    kept = record.selection.kept or "best"
    for row, (history, best, diverged) in enumerate(
        zip(grid["history"], grid["best_epoch"], grid["diverged"], strict=True)
    ):
        first = int(np.argmax(history)) if len(history) else -1
        right = first if kept == "best" else len(history) - 1
        if best != right:
            yield "choice", f"probe {row} of the grid has {best} as its {kept} epoch, by its history it is {right}"
            return
        if rules and (words := _check_ending(len(history), first, bool(diverged), rules)):
            yield "choice", f"probe {row} of the grid {words}"
            return


def _find_rules(task: Task, protocol: Protocol, mini: bool) -> Rules:
    """When the probes of a run stop."""
    if protocol.solver == "exact":
        return 1, None
    if separation := (task.mini_separation if mini else None) or task.separation:
        return separation.max_epochs, separation.stop_patience
    if protocol.stop_evaluations:
        return protocol.max_evaluations or None, protocol.stop_evaluations
    own = mini and isinstance(task.target, Frames)  # miniatures of clips are trained as the corpora are
    schedule = (task.mini_schedule if own else None) or task.schedule
    return schedule.max_epochs, schedule.stop_patience


def _check_ending(rounds: int, best: int, diverged: bool, rules: Rules) -> str:
    """What is wrong with where training ended; empty if nothing is. A probe that diverges ends before the rules end it."""
    most, patience = rules
    waited = rounds - 1 - best
    if most is not None and rounds > most:
        return f"was trained for {rounds} rounds, and {most} are the most"
    if patience is not None and rounds and waited > patience:
        return f"was trained for {waited} rounds after its best, and at most {patience} are allowed"
    ended = rounds == most or (rounds > 0 and waited == patience)
    if ended == diverged:
        problem = "is marked as diverged and was trained to its end" if diverged else "ended early and did not diverge"
        return f"{problem}: {rounds} rounds, {waited} after its best"
    return ""
