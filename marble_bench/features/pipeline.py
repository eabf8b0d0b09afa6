"""From sounds to stored features: read ahead, batch, encode, write behind. One way for every kind of features.

A pass is a list of jobs in an order that the request alone decides. Workers read a few jobs ahead; windows of one length are
encoded together, so that no encoder sees padding that its task did not ask for; a finished shard is written while the
next one is encoded. Everything between two stages is bounded, so memory does not grow with the corpus.

What is stored does not depend on time. A shard is a run of jobs in their order that is closed by its own size, no batch
reaches from one shard into the next, and shards are written in order. So a pass that was killed begins again exactly where a
shard ended, and makes the same files as one that was not.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from marble_bench.core.encoder import Encode, Encoder
from marble_bench.features.batches import EncodedBatch, ShardEnd, make_batches
from marble_bench.features.fingerprint import Fingerprint
from marble_bench.features.jobs import Cost, Halves, Job, Kind, Settings, Shard
from marble_bench.features.local import open_local
from marble_bench.features.store import Spent


def run(
    jobs: Sequence[Job],
    encoder: Encoder,
    load: Callable[[], Encode],
    kind: Kind,
    write: Callable[[Shard], None],
    settings: Settings,
    cost: Cost,
    progress: Callable[[int, int, float], None] | None = None,
    say: Callable[[str], None] | None = None,
    loaded: Callable[[Fingerprint], None] | None = None,
) -> None:
    """Encode all jobs and hand each shard to `write`, in order, in a thread of its own.

    load: makes the encoder ready where it will run. loaded: is given the fingerprint of each that was loaded, before it
    encodes anything. progress: called with (jobs done, jobs to do, seconds of audio encoded).
    say: is told what changes on the way. `cost` is added to as the work goes on. Raises BenchError naming the encoder and
    the job where something fails; shards that were handed out before are written.
    """
    engine = open_local
    if settings.engine == "ray":
        from marble_bench.features.ray import open_ray as engine
    open_shards = _OpenShards(jobs, encoder.sample_rate_hz)
    with (
        ThreadPoolExecutor(1, "write") as writer,
        engine(jobs, encoder, load, kind, settings, cost, say or (lambda _: None), loaded) as (read, runner),
    ):
        shards = _BackgroundWriter(writer, write)
        for step in runner.encode_batches(make_batches(read, kind, encoder.sample_rate_hz, runner.step)):
            if isinstance(step, ShardEnd):
                shards.wait()  # at most one shard waits, whatever the disk does
                shards.submit(open_shards.close(step.jobs))
                continue
            open_shards.add(step)
            cost.audio_s += step.samples / encoder.sample_rate_hz
            if progress:
                progress(open_shards.begun + len(cost.broken) + len(cost.short), len(jobs), cost.audio_s)
            shards.check()  # a full disk is told now, not a shard later
        shards.wait()


class _BackgroundWriter:
    """Writes shards in another thread, one at a time."""

    def __init__(self, thread: ThreadPoolExecutor, write: Callable[[Shard], None]) -> None:
        self.thread, self.write = thread, write
        self.writing: Future[None] | None = None

    def submit(self, shard: Shard) -> None:
        """Begin to write a shard."""
        self.writing = self.thread.submit(self.write, shard)

    def check(self) -> None:
        """Raise what writing the last shard raised, if it has."""
        if self.writing and self.writing.done():
            self.writing.result()

    def wait(self) -> None:
        """Wait until the last shard is written; raise what that raised."""
        if self.writing:
            self.writing.result()


class _OpenShards:
    """Encoded windows of shards that are not closed yet. begun: jobs of which something was encoded, in all."""

    def __init__(self, jobs: Sequence[Job], sample_rate_hz: int) -> None:
        self.jobs, self.sample_rate_hz = jobs, sample_rate_hz
        self.rows: dict[int, dict[tuple[int, int], tuple[Halves, int]]] = {}  # by job and (group, window)
        self.seconds: dict[int, float] = {}  # of audio, by job
        self.begun = 0
        self.closed = time.perf_counter()

    def add(self, encoded: EncodedBatch) -> None:
        """Take what a batch gave."""
        each_s = encoded.samples / len(encoded.places) / self.sample_rate_hz
        for row, (number, group, window) in enumerate(encoded.places):
            self.begun += number not in self.rows
            self.rows.setdefault(number, {})[group, window] = encoded.layers, row
            self.seconds[number] = self.seconds.get(number, 0.0) + each_s

    def close(self, numbers: Sequence[int]) -> Shard:
        """The shard of these jobs, which are let go."""
        rows = [self.rows.pop(number) for number in numbers]
        spent = self._spent([self.seconds.pop(number) for number in numbers])

        def layers(position: int) -> Halves:
            found = [encoded for _, encoded in sorted(rows[position].items(), key=lambda item: item[0])]
            join = self.jobs[numbers[position]].join
            return [join([halves[layer][row] for halves, row in found], layer) for layer in range(len(found[0][0]))]

        return Shard([self.jobs[number].span for number in numbers], layers, spent)

    def _spent(self, audio_s: Sequence[float]) -> list[Spent]:
        """What each span of a shard took: the time since the shard before, shared by seconds of audio."""
        now = time.perf_counter()
        extract_s, self.closed = now - self.closed, now
        batch, total = uuid.uuid4().hex[:16], sum(audio_s) or 1.0
        return [Spent(batch, round(each, 6), round(extract_s * each / total, 6)) for each in audio_s]
