"""In what batches and shards windows go through an encoder: decided by the jobs and their order, never by a clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from marble_bench.features.jobs import Groups, Halves, Job, Kind

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WAITING_S = 300.0  # seconds of audio that may wait for windows of their own length
SHARD_S = 3600.0  # seconds of audio in a shard at most
SHARD_JOBS, SHARDS = 32, 100  # jobs in a shard at most: so many, or that part of the pass; what a kill can cost


@dataclass(frozen=True)
class Batch:
    """Windows of one length. places: whose each of them is: (job, group, row). valid: how many samples of each are valid,
    where windows are masked."""

    windows: list[NDArray[np.float32]]
    places: list[tuple[int, int, int]]
    names: list[str]
    valid: list[int] | None = None


@dataclass(frozen=True)
class EncodedBatch:
    """The layers of a batch, each `(windows, rows, width)`."""

    layers: Halves
    places: list[tuple[int, int, int]]
    samples: int


@dataclass(frozen=True)
class ShardEnd:
    """Marks the end of a shard. jobs: those of the shard, by number."""

    jobs: tuple[int, ...]


def compute_shard_jobs(every: int) -> int:
    """Jobs in a shard at most, by how many the whole pass has, stored ones included: so that going on does not change it."""
    return max(SHARD_JOBS, every // SHARDS)


def make_batches(
    read: Iterable[tuple[int, Job, Groups]],
    kind: Kind,
    sample_rate_hz: int,
    step: Callable[[int], int],
) -> Iterator[Batch | ShardEnd]:
    """Batches of one length each, and a `ShardEnd` behind the last batch of every shard.

    step: how many windows of so many samples make a batch.
    """
    waiting = _WindowQueue(sample_rate_hz, step)
    joining: list[int] = []
    size, seconds = 0, 0.0
    for number, job, groups in read:
        joining.append(number)
        size += kind.bytes_of(groups)
        for index, group in enumerate(groups):
            seconds += group.size / sample_rate_hz
            yield from waiting.add(group, (number, index), job.name, groups.valid[index] if groups.valid else None)
        yield from waiting.pop_overdue()
        if size >= kind.shard_bytes or seconds >= SHARD_S or len(joining) >= kind.shard_jobs:
            yield from waiting.rest()
            yield ShardEnd(tuple(joining))
            joining, size, seconds = [], 0, 0.0
    yield from waiting.rest()
    if joining:
        yield ShardEnd(tuple(joining))


@dataclass(frozen=True)
class _Waiting:
    """A window that waits. See `Batch`."""

    window: NDArray[np.float32]
    place: tuple[int, int, int]
    name: str
    valid: int | None


class _WindowQueue:
    """Windows that wait for others of their length. step: how many windows of so many samples make a batch."""

    def __init__(self, sample_rate_hz: int, step: Callable[[int], int]) -> None:
        self.sample_rate_hz, self.step = sample_rate_hz, step
        self.windows: dict[int, list[_Waiting]] = {}  # by their length
        self.seconds = 0.0

    def add(
        self, group: NDArray[np.float32], place: tuple[int, int], name: str, valid: Sequence[int] | None
    ) -> Iterator[Batch]:
        """Let the windows of a group wait, and give the batches that are full.

        place: job and group. name: the job's. valid: samples of each window, where they are masked.
        """
        length = group.shape[1]
        self.windows.setdefault(length, []).extend(
            _Waiting(window, (*place, row), name, None if valid is None else valid[row])
            for row, window in enumerate(group)
        )
        self.seconds += group.size / self.sample_rate_hz
        while length in self.windows and len(self.windows[length]) >= self.step(length):
            yield self._take(length, self.step(length))

    def pop_overdue(self) -> Iterator[Batch]:
        """Batches that are not full, while more audio waits than may."""
        while self.seconds >= WAITING_S:
            yield self._take(max(self.windows, key=lambda each: each * len(self.windows[each])), None)

    def rest(self) -> Iterator[Batch]:
        """All that waits."""
        for length in list(self.windows):
            yield self._take(length, None)

    def _take(self, length: int, most: int | None) -> Batch:
        windows = self.windows[length]
        chosen, rest = windows[:most], windows[most:] if most else []
        if rest:
            self.windows[length] = rest
        else:
            del self.windows[length]
        self.seconds -= len(chosen) * length / self.sample_rate_hz
        valid = [each.valid for each in chosen if each.valid is not None]
        return Batch(
            [each.window for each in chosen],
            [each.place for each in chosen],
            [each.name for each in chosen],
            valid or None,
        )
