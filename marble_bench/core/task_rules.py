"""What a protocol says of one task, in place of what the task says: how clips are cut, trained on, and put together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from marble_bench.core.task import Schedule, Task, Window
from marble_bench.errors import UsageError
from marble_bench.scoring.scores import Aggregation


@dataclass(frozen=True, kw_only=True)
class TaskRules:
    """One row of a protocol's table.

    task: its name. window: takes the place of the task's. mini_s: length of a window on the miniature, whose clips are
    shorter; None for the same. aggregation: what is averaged over the windows of a clip, outputs or softmax probabilities.
    monitor: the metric that schedules and chooses, which must be the task's main one. schedule: takes the place of the
    task's. batch_size: windows; plateau_factor: what the learning rate is multiplied with on a plateau. validated: takes
    the place of the protocol's; None for that.
    """

    task: str
    window: Window
    monitor: str
    schedule: Schedule
    mini_s: float | None = None
    aggregation: Aggregation = "outputs"
    batch_size: int = 64
    plateau_factor: float = 0.5
    validated: Literal["clips", "windows"] | None = None

    def find_problems(self) -> Iterator[str]:
        """What is wrong with a row, a line each."""
        if self.window.min_ratio is not None and self.window.length_s is None:
            yield f"task '{self.task}': window.min_ratio needs a window.length_s"
        if self.batch_size < 1:
            yield f"task '{self.task}': batch_size is {self.batch_size}: give a whole number from 1 on"
        if not 0 < self.plateau_factor < 1:
            yield f"task '{self.task}': plateau_factor is {self.plateau_factor}: give a share above 0 and below 1"

    def facts(self) -> dict[str, Any]:
        """What a score depends on that neither window nor schedule of the task has."""
        found = asdict(self)
        return {name: found[name] for name in ("aggregation", "monitor", "batch_size", "plateau_factor", "validated")}

    def adapt(self, task: Task, mini: bool) -> Task:
        """The task under these rules. Raises UsageError where the protocol's monitor is not the task's main metric.

        A protocol says how windows are put together, so the best of several ways (`Task.ensemble`) is not looked for.
        """
        if task.metrics[0].name != self.monitor:
            raise UsageError(
                f"task '{self.task}' has the main metric '{task.metrics[0].name}', and the protocol chooses by "
                f"'{self.monitor}': put that metric first in the task"
            )
        window = self.window if self.mini_s is None or not mini else replace(self.window, length_s=self.mini_s)
        return replace(task, window=window, schedule=self.schedule, ensemble=False)
