"""Who is told how a run goes on, where no terminal is at hand: lines of text, now and then, or nobody."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

EVERY_S = 10.0  # seconds between two lines of progress


class Lines:
    """A `marble_bench.runs.config.Callbacks` that hands each line to a function, or to nobody.

    tell: is given what the run has to say at once, and how far it is at most every ten seconds.
    """

    def __init__(self, tell: Callable[[str], None] | None) -> None:
        self.tell = tell
        self.last = time.monotonic()

    def features(self, done: int, todo: int, audio_s: float) -> None:
        """Clips encoded, and how many seconds of audio that were."""
        self._now_and_then(f"features: {done} of {todo} clips, {audio_s:,.0f} s of audio")

    def probes(self, done: int, todo: int, best: float, alive: int) -> None:
        """Probes finished, and the best validation score so far."""
        self._now_and_then(f"probes: {done} of {todo}" + (f", best valid {best:.3f}" if math.isfinite(best) else ""))

    def say(self, text: str) -> None:
        """A line for the user."""
        if self.tell:
            self.tell(text)

    def _now_and_then(self, text: str) -> None:
        if self.tell and time.monotonic() - self.last > EVERY_S:
            self.last = time.monotonic()
            self.tell(text)
