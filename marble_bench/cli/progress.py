"""Says how a run goes on: one bar on a terminal, now and then a plain line elsewhere. All of it to stderr.

Speed and remaining time are those of the last minutes, as rich measures them. The time before the first step is not counted:
weights are loaded in it, and code is compiled.
"""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from marble_bench.errors import format_duration, format_speed
from marble_bench.records.escape import escape_line, escape_lines

if TYPE_CHECKING:
    from rich.progress import ProgressColumn, Task
    from typing_extensions import Self

EVERY_S = 10.0  # seconds between plain lines
RECENT_S = 300.0  # seconds whose steps give the pace; a step may take a minute
BAR_WIDTH = 12


class _Display:
    """One bar on a terminal, and lines; a context that begins and ends them."""

    def __init__(self, quiet: bool, *columns: ProgressColumn) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = Console(stderr=True, quiet=quiet)
        off = quiet or not self.console.is_terminal
        self.bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(BAR_WIDTH),
            *columns,
            TextColumn("{task.fields[left]}", markup=False),
            console=self.console,
            transient=True,
            disable=off,
            get_time=lambda: time.monotonic(),
            speed_estimate_period=RECENT_S,
        )
        self._tasks: dict[str, Task] = {}  # the one that is shown, and what else is measured

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """A line for the user."""
        self.console.print(escape_lines(text), highlight=False, markup=False, emoji=False, soft_wrap=True)

    def _move(self, name: str, done: float, total: int | None, text: str = "") -> str:
        """Put the bar where it belongs. Another name is another bar in the place of the last. Returns the time left."""
        task = self._measure("shown", name, done, total, visible=True)
        todo, pace = task.remaining, task.speed  # rich's own remaining time is rounded up to whole seconds
        told = f"{format_duration(todo / pace)} left" if todo and pace else ""
        self.bars.update(task.id, text=text, left=told)
        return told

    def _measure(self, key: str, name: str, done: float, total: float | None, *, visible: bool) -> Task:
        """The task of a key, moved on; a new one in its place for another name, or where it begins anew."""
        task = self._tasks.get(key)
        if task is None or task.description != name or done < task.completed:
            if task is not None:
                self.bars.remove_task(task.id)
            made = self.bars.add_task(name, total=total, visible=visible, text="", left="")
            task = self._tasks[key] = next(each for each in self.bars.tasks if each.id == made)
        self.bars.update(task.id, completed=done, total=total)
        return task


class Progress(_Display):
    """A `marble_bench.runs.config.Callbacks` for people."""

    def __init__(self, label: str, quiet: bool) -> None:
        from rich.progress import TextColumn

        super().__init__(quiet, TextColumn("{task.fields[text]}", markup=False))
        self.label, self.quiet = label, quiet
        self.last = time.monotonic()

    def features(self, done: int, todo: int, audio_s: float) -> None:
        """Clips encoded, and seconds of audio per second."""
        speed = self._measure("audio", "audio", audio_s, None, visible=False).speed
        self._show("features", done, todo, f"{done}/{todo} clips" + (f", {format_speed(speed)}" if speed else ""))

    def probes(self, done: int, todo: int, best: float, alive: int) -> None:
        """Probes finished, probes in training, and the best validation score so far."""
        best_text = f"{best:.3f}" if math.isfinite(best) else "none"
        self._show("probes", done, todo, f"{done}/{todo} probes, {alive} alive, best valid {best_text}")

    def _show(self, stage: str, done: int, todo: int, text: str) -> None:
        left = self._move(f"{self.label} {stage}", done, todo, text)
        if self.bars.disable and not self.quiet and time.monotonic() - self.last > EVERY_S:
            self.last = time.monotonic()
            told = ", ".join(filter(None, (text, left)))
            print(escape_line(f"{self.label} {stage}: {told}"), file=sys.stderr, flush=True)


class Transfers(_Display):
    """Says how downloads go on."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import DownloadColumn, TransferSpeedColumn

        super().__init__(quiet, DownloadColumn(), TransferSpeedColumn())

    def show_transfer(self, name: str, done: int, total: int | None) -> None:
        """Bytes of a file so far, and in all where that is known."""
        self._move(name, done, total)
