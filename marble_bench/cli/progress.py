"""Says how a run goes on: bars on a terminal, now and then a plain line elsewhere. All of it to stderr."""

from __future__ import annotations

import math
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from marble_bench.records.escape import escape_line, escape_lines

if TYPE_CHECKING:
    from rich.progress import ProgressColumn
    from typing_extensions import Self

EVERY_S = 10.0  # seconds between plain lines


def format_span(seconds: float) -> str:
    """A time as people say it.

    >>> [format_span(each) for each in (7.4, 90, 3600 * 30.5)]
    ['7 s', '1:30 min', '30:30 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02} h"


class _Display:
    """Bars on a terminal, and lines; a context that begins and ends them."""

    def __init__(self, quiet: bool, *columns: ProgressColumn) -> None:
        from rich.console import Console
        from rich.progress import Progress as Bars

        self.console = Console(stderr=True, quiet=quiet)
        off = quiet or not self.console.is_terminal
        self.bars = Bars(*columns, console=self.console, transient=True, disable=off)

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

    def _move(self, name: str, done: int, total: int | None, rate: str = "") -> None:
        """Put a bar where it belongs; a new name is a new bar."""
        known = {task.description: task.id for task in self.bars.tasks}
        if name not in known:
            known[name] = self.bars.add_task(name, total=total, rate="")
        self.bars.update(known[name], completed=done, total=total, rate=rate)


class Progress(_Display):
    """A `marble_bench.runs.config.Callbacks` for people."""

    def __init__(self, label: str, quiet: bool) -> None:
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

        rate = TextColumn("{task.fields[rate]}", markup=False)
        super().__init__(
            quiet, TextColumn("{task.description}", markup=False), BarColumn(), rate, TimeRemainingColumn()
        )
        self.label, self.quiet = label, quiet
        self.started = self.last = time.monotonic()
        self.first_probe: tuple[float, int] | None = None  # when, and how many were done

    def features(self, done: int, todo: int, audio_s: float) -> None:
        """Clips encoded, and the rate in hours of audio per hour."""
        rate = audio_s / self._taken() if done else 0.0
        left = (
            ""
            if not done or self.bars.disable is False
            else f", {format_span((todo - done) * self._taken() / done)} left"
        )
        self._show("features", done, todo, f"{done}/{todo} clips, {rate:,.{0 if rate >= 10 else 1}f} audio h/h{left}")

    def _taken(self) -> float:
        return max(time.monotonic() - self.started, 1e-9)

    def probes(self, done: int, todo: int, best: float, alive: int) -> None:
        """Probes finished, probes in training, the best validation score so far, and the time that is left."""
        now = time.monotonic()
        if self.first_probe is None:
            self.first_probe = (now, done)  # blocks of an earlier run are there at once and tell nothing of the rate
        began, had = self.first_probe
        left = (now - began) / (done - had) * (todo - done) if done > had else None
        best_text = f"{best:.3f}" if math.isfinite(best) else "none"
        remaining = "" if left is None else f", {left / 60:.0f} min left" if left > 90 else f", {left:.0f} s left"
        self._show("probes", done, todo, f"{done}/{todo} probes, {alive} alive, best valid {best_text}{remaining}")

    def _show(self, stage: str, done: int, todo: int, text: str) -> None:
        if not self.bars.disable:
            self._move(f"{self.label} {stage}", done, todo, text)
        elif not self.quiet and time.monotonic() - self.last > EVERY_S:
            self.last = time.monotonic()
            print(escape_line(f"{self.label} {stage}: {text}"), file=sys.stderr, flush=True)


class Transfers(_Display):
    """Says how downloads go on."""

    def __init__(self, quiet: bool) -> None:
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

        amounts = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        super().__init__(quiet, TextColumn("{task.description}", markup=False), BarColumn(), *amounts)

    def show_transfer(self, name: str, done: int, total: int | None) -> None:
        """Bytes of a file so far, and in all where that is known."""
        self._move(name, done, total)
