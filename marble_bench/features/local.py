"""The engine of this machine: threads read audio ahead, one encoder runs."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

from marble_bench.core.encoder import Encode, Encoder
from marble_bench.errors import BenchError, DataError
from marble_bench.features import fingerprint
from marble_bench.features.fingerprint import Fingerprint
from marble_bench.features.jobs import Cost, Groups, Job, Kind, Settings, ShortClip, UnfitWindow
from marble_bench.features.runner import Runner

AHEAD_BYTES = 1 << 30  # of samples that are read ahead, by what their files tell


@contextmanager
def open_local(
    jobs: Sequence[Job],
    encoder: Encoder,
    load: Callable[[], Encode],
    kind: Kind,
    settings: Settings,
    cost: Cost,
    say: Callable[[str], None],
    loaded: Callable[[Fingerprint], None] | None,
) -> Iterator[tuple[Iterable[tuple[int, Job, Groups]], Runner]]:
    """This machine: what reads, and what encodes."""
    with fingerprint.name_mps_faults(encoder, settings.device):
        encode = load()
    if loaded:
        loaded(fingerprint.compute(encoder, encode, settings.device))
    runner = Runner(encoder, encode, kind, settings, cost, say)
    with closing(read_ahead(jobs, settings.workers or os.cpu_count() or 1, cost)) as read:
        yield read, runner


def read_ahead(jobs: Sequence[Job], workers: int, cost: Cost) -> Generator[tuple[int, Job, Groups], None, None]:
    """Each job's windows in order, read a few jobs and no more than `AHEAD_BYTES` ahead.

    Whatever goes wrong with one job is noted in `cost.broken` (`cost.short` of a clip that is too short), and the others go
    on. Threads, not processes: decoding and resampling let go of Python's lock, and no sample is copied.
    """
    pool = ThreadPoolExecutor(workers, "read")
    try:
        ahead: deque[tuple[int, Job, Future[Groups]]] = deque()
        waiting, held = deque(enumerate(jobs)), 0
        while True:
            while waiting and len(ahead) < 2 * workers and (not ahead or held + waiting[0][1].nbytes <= AHEAD_BYTES):
                number, job = waiting.popleft()
                ahead.append((number, job, pool.submit(job.read)))
                held += job.nbytes
            if not ahead:
                return
            number, job, future = ahead.popleft()
            held -= job.nbytes
            try:
                groups = future.result()
            except UnfitWindow:
                raise
            except ShortClip as error:
                cost.short[job.span] = str(error)
                continue
            except DataError as error:
                cost.broken[job.span] = str(error)
                continue
            except BenchError:
                raise
            except (MemoryError, OSError, RuntimeError, ValueError) as error:
                cost.broken[job.span] = f"reading {job.name} failed: {type(error).__name__}: {error}"
                continue
            if groups.oddities:
                cost.odd[job.span] = groups.oddities
            yield number, job, groups
    finally:
        pool.shutdown(cancel_futures=True)
