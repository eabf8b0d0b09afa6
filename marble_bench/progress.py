"""Says how a run goes on: bars on a terminal, now and then a plain line elsewhere. All of it to stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType

EVERY_S = 10.0  # seconds between plain lines


class Progress:
    """A `marble_bench.request.Watch` for people; use it as a context."""

    def __init__(self, label: str, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bars

        self.label, self.quiet = label, quiet
        self.console = Console(stderr=True, quiet=quiet)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        self.bars = Bars(*columns, console=self.console, transient=True, disable=quiet or not self.console.is_terminal)
        self.started = self.last = time.monotonic()
        self.stages: dict[str, float] = {}

    def __enter__(self) -> Progress:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """A line for the user."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def features(self, done: int, todo: int, audio_s: float) -> None:
        """Clips encoded, and the rate in hours of audio per hour."""
        began = self.stages.setdefault("features", self.started)
        rate = audio_s / max(time.monotonic() - began, 1e-9) if done else 0.0
        self._show("features", done, todo, f"{done}/{todo} clips, {rate:,.0f} audio h/h")

    def probes(self, done: int, todo: int, best: float) -> None:
        """Probes finished, and the best validation score so far."""
        self._show("probes", done, todo, f"{done}/{todo} probes, best valid {best:.3f}")

    def _show(self, stage: str, done: int, todo: int, text: str) -> None:
        described = f"{self.label} {stage}"
        if self.bars.disable:
            if not self.quiet and (time.monotonic() - self.last > EVERY_S):
                self.last = time.monotonic()
                print(f"{described}: {text}", file=sys.stderr, flush=True)
            return
        known = {task.description: task.id for task in self.bars.tasks}
        if described not in known:
            known[described] = self.bars.add_task(described, total=todo, rate="")
        self.bars.update(known[described], completed=done, rate=text)


class Transfers:
    """Says how downloads go on: bytes of each file; use it as a context."""

    def __init__(self, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
        from rich.progress import Progress as Bars

        self.console = Console(stderr=True, quiet=quiet)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        self.bars = Bars(
            *columns, TimeRemainingColumn(), console=self.console, disable=quiet or not self.console.is_terminal
        )

    def __enter__(self) -> Transfers:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """A line for the user."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def transfer(self, name: str, done: int, total: int | None) -> None:
        """Bytes of a file so far, and in all where that is known."""
        known = {task.description: task.id for task in self.bars.tasks}
        if name not in known:
            known[name] = self.bars.add_task(name, total=total)
        self.bars.update(known[name], completed=done, total=total)
