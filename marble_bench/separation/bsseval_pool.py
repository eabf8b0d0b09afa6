"""BSSEval version 4 of separated songs, in worker processes, from files and not from memory.

References are read at the corpus's own rate, as the field does; estimates are resampled to it, so that what a system cannot
say (MARBLE's 24,000 Hz leave out everything above 12,000 Hz) counts as error. References are rounded to 16 bits, which is
what MUSDB18-HQ has and what the field's tools (stempeg, musdb) make of AAC: without that, a coded stem has nothing at all
above 16,000 Hz, and ISR, SIR and SAR hang on the rounding errors of a singular system of equations, by several dB.

A worker holds one decoded stem and the equations of BSSEval, not a song; songs follow each other, and no more of them wait
than there are workers.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from marble_bench import audio
from marble_bench.errors import BenchError
from marble_bench.files.atomic import write_array
from marble_bench.metrics._bsseval import bss_eval_systems
from marble_bench.separation.stems import CHANNELS, Song

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import Self

WORKER_GB = 0.35  # of one process, on four stereo stems of four minutes and four systems


@dataclass(frozen=True)
class SignalFile:
    """Signals in a file, float32, one channel after another: what `marble_bench.metrics._bsseval.Sources` asks for."""

    path: Path
    shape: tuple[int, int, int]  # sources, samples, channels

    def __getitem__(self, where: tuple[Any, slice]) -> NDArray[Any]:
        import numpy as np

        sources, samples, channels = self.shape
        first, last, _ = where[1].indices(samples)
        out = np.empty((sources, last - first, channels), np.float32)
        with self.path.open("rb") as file:
            for source in range(sources):
                for channel in range(channels):
                    file.seek(4 * ((source * channels + channel) * samples + first))
                    out[source, :, channel] = np.fromfile(file, np.float32, last - first)
        return out[where[0]]  # type: ignore[no-any-return]


def measure(song: Song, systems: Sequence[Path], rate_hz: int, scratch: Path) -> list[dict[str, NDArray[Any]]]:
    """BSSEval of several systems on one song: for each, by measure, `(stems, windows)`.

    systems: files of `(stems, channels, samples)` float32 at `rate_hz`.
    """
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        shape = (len(song.names), song.samples, CHANNELS)
        true = SignalFile(Path(folder) / "true", shape)
        with true.path.open("wb") as file:
            for name in song.names:
                write_array(file, round_to_16_bits(song.read(name)))
        guesses = [SignalFile(Path(folder) / f"system{index}", shape) for index in range(len(systems))]
        for guess, path in zip(guesses, systems, strict=True):
            _resample(path, guess, rate_hz, song.rate_hz)
        return bss_eval_systems(true, guesses, song.rate_hz)


def round_to_16_bits(sound: NDArray[Any]) -> NDArray[Any]:
    """A sound with 16 bits, still float32."""
    import numpy as np

    return (np.clip(np.rint(sound * np.float32(32768)), -32768, 32767) / np.float32(32768)).astype(np.float32)


def _resample(path: Path, into: SignalFile, rate_hz: int, to_hz: int) -> None:
    """Write every channel at another rate, cut or filled with silence to the samples that are asked for."""
    import numpy as np

    sources, samples, channels = into.shape
    each = path.stat().st_size // (4 * sources * channels)
    with into.path.open("wb") as file:
        for index in range(sources * channels):
            sound = audio.resample(np.fromfile(path, np.float32, each, offset=4 * each * index), rate_hz, to_hz)
            fitted = np.zeros(samples, np.float32)
            fitted[: len(sound)] = sound[:samples]
            write_array(file, fitted)


def _measure_song(song: Song, systems: Sequence[Path], rate_hz: int, scratch: Path) -> list[dict[str, NDArray[Any]]]:
    """`measure` in a worker, which has one core."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        return measure(song, systems, rate_hz, scratch)


def end_with_parent() -> None:
    """Make this process end as soon as the one that began it does, however that ends.

    A worker waits on a queue whose other end its siblings hold too, so that it would never hear of the end.
    """
    import multiprocessing

    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)  # nothing is left to be handed over, and nobody to hand it to

    threading.Thread(target=watch, daemon=True).start()


class BssevalPool:
    """Measures songs in `workers` processes, in the order handed in; the files of a song are deleted when it is done."""

    def __init__(self, workers: int, rate_hz: int, scratch: Path) -> None:
        from multiprocessing import get_context

        self.workers, self.rate_hz, self.scratch = workers, rate_hz, scratch
        self.pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=end_with_parent)
        self.waiting: deque[tuple[Future[list[dict[str, NDArray[Any]]]], Sequence[Path]]] = deque()
        self.done: list[list[dict[str, NDArray[Any]]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.pool.shutdown(cancel_futures=True)

    def submit(self, song: Song, systems: Sequence[Path]) -> None:
        """Have a song measured; waits for the oldest if as many wait as there are workers."""
        while len(self.waiting) > self.workers:
            self._take()
        self.waiting.append((self.pool.submit(_measure_song, song, systems, self.rate_hz, self.scratch), systems))

    def results(self) -> list[list[dict[str, NDArray[Any]]]]:
        """For each song, for each system, by measure `(stems, windows)`."""
        while self.waiting:
            self._take()
        return self.done

    def _take(self) -> None:
        future, files = self.waiting.popleft()
        try:
            self.done.append(future.result())
        except BrokenProcessPool as error:
            raise BenchError(
                f"a process that measures BSSEval was killed, usually because memory ran out: {self.workers} of them need "
                f"about {self.workers * WORKER_GB:.1f} GB; run on a machine with more, or with fewer processors"
            ) from error
        for path in files:
            path.unlink()
