"""From sounds to stored features: read ahead, batch, encode, write behind. One way for every kind of features.

A pass is a list of jobs in an order that the request alone decides. Workers read a few jobs ahead; windows of one length are
encoded together, so that no encoder ever sees padding; a finished shard is written while the next one is encoded. Everything
between two stages is bounded, so memory does not grow with the corpus.

What is stored does not depend on time. A shard is a run of jobs in their order that is closed by its own size, no batch
reaches from one shard into the next, and shards are written in order. So a pass that was killed begins again exactly where a
shard ended, and makes the same files as one that was not.

Precision: `float32` is exact: TensorFloat-32 is off. `bfloat16` and `float16` are autocast; a window whose features are then
not finite, or do not fit a half float, is encoded once more in float32. What is stored is always half precision.
"""

from __future__ import annotations

import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from marble_bench.core.contract import HALF_MAX
from marble_bench.core.encoder import Encode, Encoder, Layer, Pool, checked, ready
from marble_bench.errors import BenchError, DataError
from marble_bench.features.store import Span, Spent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from marble_bench.features.fingerprint import Fingerprint

BATCH_S = 60.0  # seconds of audio that are encoded together; on CUDA only the first time, then what fits
LARGEST_BATCH_S = 600.0
MEMORY_SHARE = 0.6  # of the device's free memory that a batch may take
AHEAD_BYTES = 1 << 30  # of samples that are read ahead, by what their files tell
WAITING_S = 300.0  # seconds of audio that may wait for windows of their own length
SHARD_S = 3600.0  # seconds of audio in a shard at most
SHARD_JOBS, SHARDS = 32, 100  # jobs in a shard at most: so many, or that part of the pass; what a kill can cost
DTYPES = ("float32", "bfloat16", "float16")

Halves: TypeAlias = "list[NDArray[np.float16]]"  # per layer


class Unfit(DataError):
    """A window that the encoder cannot take. No fault of a file: it ends the pass."""


class Groups(list["NDArray[np.float32]"]):
    """What is read of a job: arrays `(windows, samples)`, one after another in time.

    oddities: what is odd about the sound, by the names of `audio.ODDITIES`.
    """

    oddities: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """One span to encode.

    name: for messages. read: decodes it, normalised and cut; raises DataError for a damaged file. nbytes: what that takes in
    memory, roughly; it bounds how many are read ahead.
    """

    span: Span
    name: str
    read: Callable[[], Groups]
    nbytes: int = 0


@dataclass(frozen=True)
class Kind:
    """What becomes of an encoder's layers.

    layers: indices of those that are kept. pool: handed to the encoder. rows: makes what is kept of a layer's pooled tensor:
    `(windows, rows, width)`. bytes_of: what the features of a job's windows take on disk. shard_bytes, shard_jobs: with so
    much a shard is closed.
    """

    layers: Sequence[int]
    pool: Pool
    rows: Callable[[Any, Layer], Any]
    bytes_of: Callable[[Groups], int]
    shard_bytes: int
    shard_jobs: int


@dataclass(frozen=True)
class Settings:
    """How machines are used.

    workers: threads that read audio, or with Ray the encoders that run side by side; None for one a core or GPU. batch_s:
    seconds of audio in a batch. engine: `local` or `ray`.
    """

    device: str = "cpu"
    dtype: str = "float32"
    batch_s: float | None = None
    workers: int | None = None
    engine: str = "local"


@dataclass
class Cost:
    """What an extraction took.

    audio_s, extract_s: seconds of audio that were encoded now (0 with everything cached), and the time of this pass.
    whole_audio_s, whole_extract_s: the same of every span asked for, whenever it was encoded, as the store has it.
    again: windows that were encoded once more in float32. broken: by span, why it cannot be used; damaged: the same by the
    clip's or sound's name. odd: by span, what is odd about the sounds that were read.
    """

    audio_s: float = 0.0
    extract_s: float = 0.0
    whole_audio_s: float = 0.0
    whole_extract_s: float = 0.0
    feature_bytes: int = 0
    again: int = 0
    broken: dict[Span, str] = field(default_factory=dict)
    damaged: dict[str, str] = field(default_factory=dict)
    odd: dict[Span, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shard:
    """A finished run of jobs: each span with its layers `(rows, width)` and what it took, in the order of the jobs."""

    spans: Sequence[Span]
    layers: Callable[[int], Halves]  # by the span's position
    spent: Sequence[Spent]


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
    engine = _local
    if settings.engine == "ray":
        from marble_bench.features.ray import on_ray as engine
    done: set[int] = set()
    seconds: dict[int, float] = {}  # of audio, by job
    closed = time.perf_counter()
    rows: dict[int, dict[tuple[int, int], tuple[Halves, int]]] = {}  # by job and (group, window)
    with (
        ThreadPoolExecutor(1, "write") as writer,
        engine(jobs, encoder, load, kind, settings, cost, say or (lambda _: None), loaded) as (read, runner),
    ):
        writing: Future[None] | None = None
        for step in runner.over(_batches(read, kind, encoder.sample_rate_hz, runner.step)):
            if isinstance(step, Made):
                for row, (number, group, window) in enumerate(step.places):
                    rows.setdefault(number, {})[group, window] = step.layers, row
                    done.add(number)
                    each_s = step.samples / len(step.places) / encoder.sample_rate_hz
                    seconds[number] = seconds.get(number, 0.0) + each_s
                cost.audio_s += step.samples / encoder.sample_rate_hz
                if progress:
                    progress(len(done) + len(cost.broken), len(jobs), cost.audio_s)
                if writing and writing.done():
                    writing.result()  # a full disk is told now, not a shard later
                continue
            if writing:
                writing.result()  # at most one shard waits, whatever the disk does
            own = [rows.pop(number) for number in step.jobs]
            spent = _spent([seconds.pop(number) for number in step.jobs], time.perf_counter() - closed)
            closed = time.perf_counter()
            writing = writer.submit(write, _shard([jobs[number].span for number in step.jobs], own, spent))
        if writing:
            writing.result()


def shard_jobs(every: int) -> int:
    """Jobs in a shard at most, by how many the whole pass has, stored ones included: so that going on does not change it."""
    return max(SHARD_JOBS, every // SHARDS)


def _spent(audio_s: Sequence[float], extract_s: float) -> list[Spent]:
    """What each span of a shard took: the time since the shard before, shared by seconds of audio."""
    batch, total = uuid.uuid4().hex[:16], sum(audio_s) or 1.0
    return [Spent(batch, round(each, 6), round(extract_s * each / total, 6)) for each in audio_s]


def _shard(
    spans: Sequence[Span], rows: Sequence[dict[tuple[int, int], tuple[Halves, int]]], spent: Sequence[Spent]
) -> Shard:
    def layers(position: int) -> Halves:
        import numpy as np

        found = [made for _, made in sorted(rows[position].items(), key=lambda item: item[0])]
        return [np.concatenate([halves[layer][row] for halves, row in found]) for layer in range(len(found[0][0]))]

    return Shard(spans, layers, spent)


@contextmanager
def _local(
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
    encode = load()
    if loaded:
        from marble_bench.features import fingerprint

        loaded(fingerprint.make(encoder, encode, settings.device))
    runner = Runner(encoder, encode, kind, settings, cost, say)
    with closing(_read_ahead(jobs, settings.workers or os.cpu_count() or 1, cost)) as read:
        yield read, runner


@contextmanager
def exact(device: str) -> Iterator[None]:
    """float32 means float32 as long as this is held: no TensorFloat-32, which keeps 10 bits."""
    if not device.startswith("cuda"):
        yield
        return
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def _read_ahead(jobs: Sequence[Job], workers: int, cost: Cost) -> Generator[tuple[int, Job, Groups], None, None]:
    """Each job's windows in order, read a few jobs and no more than `AHEAD_BYTES` ahead.

    Whatever goes wrong with one job is noted in `cost.broken`, and the others go on. Threads, not processes: decoding and
    resampling let go of Python's lock, and no sample is copied.
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
            except Unfit:
                raise
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


@dataclass(frozen=True)
class Batch:
    """Windows of one length. places: whose each of them is: (job, group, row)."""

    windows: list[NDArray[np.float32]]
    places: list[tuple[int, int, int]]
    names: list[str]


@dataclass(frozen=True)
class Made:
    """The layers of a batch, each `(windows, rows, width)`."""

    layers: Halves
    places: list[tuple[int, int, int]]
    samples: int


@dataclass(frozen=True)
class _Part:
    """Windows of one batch that are being encoded.

    windows: what went in. largest: magnitudes `(layers, windows)`. layers: each `(windows, rows, width)`, half precision.
    Both are on the host, and of a GPU not there before `ready`.
    """

    windows: NDArray[np.float32]
    largest: Any
    layers: list[Any]
    ready: Any  # a CUDA event, else None

    def arrived(self) -> tuple[NDArray[np.float32], Halves]:
        """`largest` and `layers`, once they are there."""
        if self.ready is None:
            return self.largest.numpy(), [layer.numpy() for layer in self.layers]
        self.ready.synchronize()
        # copied, so that pinned memory, which the driver is slow to hand out, serves the next batch
        return self.largest.numpy().copy(), [layer.numpy().copy() for layer in self.layers]


@dataclass(frozen=True)
class Close:
    """Stands where a shard ends. jobs: those of the shard, by number."""

    jobs: tuple[int, ...]


def _batches(
    read: Iterable[tuple[int, Job, Groups]],
    kind: Kind,
    sample_rate_hz: int,
    step: Callable[[int], int],
) -> Iterator[Batch | Close]:
    """Batches of one length each, and a `Close` behind the last batch of every shard.

    step: how many windows of so many samples make a batch.
    """
    waiting: dict[int, list[tuple[NDArray[np.float32], tuple[int, int, int], str]]] = {}
    size, seconds, waiting_s = 0, 0.0, 0.0

    def taken(length: int, most: int | None) -> Batch:
        nonlocal waiting_s
        chosen, rest = waiting[length][:most], waiting[length][most:] if most else []
        if rest:
            waiting[length] = rest
        else:
            del waiting[length]
        waiting_s -= len(chosen) * length / sample_rate_hz
        return Batch([w for w, _, _ in chosen], [p for _, p, _ in chosen], [n for _, _, n in chosen])

    joining: list[int] = []
    for number, job, groups in read:
        joining.append(number)
        size += kind.bytes_of(groups)
        for index, group in enumerate(groups):
            length = group.shape[1]
            waiting.setdefault(length, []).extend(
                (window, (number, index, row), job.name) for row, window in enumerate(group)
            )
            seconds += group.size / sample_rate_hz
            waiting_s += group.size / sample_rate_hz
            while length in waiting and len(waiting[length]) >= step(length):
                yield taken(length, step(length))
        while waiting_s >= WAITING_S:
            yield taken(max(waiting, key=lambda each: each * len(waiting[each])), None)
        if size >= kind.shard_bytes or seconds >= SHARD_S or len(joining) >= kind.shard_jobs:
            for length in list(waiting):
                yield taken(length, None)
            yield Close(tuple(joining))
            joining, size, seconds = [], 0, 0.0
    for length in list(waiting):
        yield taken(length, None)
    if joining:
        yield Close(tuple(joining))


class Runner:
    """Runs an encoder over batches on a device: within its memory, checked, in half precision on the host."""

    def __init__(
        self,
        encoder: Encoder,
        encode: Encode,
        kind: Kind,
        settings: Settings,
        cost: Cost,
        say: Callable[[str], None],
    ) -> None:
        self.encoder, self.encode, self.kind = encoder, ready(encoder.name, encode), kind
        self.settings, self.cost, self.say = settings, cost, say
        self.cuda = settings.device.startswith("cuda")
        self.batch_s = settings.batch_s or BATCH_S
        self.fitted = settings.batch_s is not None or not self.cuda

    def step(self, length: int) -> int:
        """How many windows of so many samples go together."""
        return max(1, int((self.batch_s * self.encoder.sample_rate_hz + 0.5) // length))

    def over(self, batches: Iterable[Batch | Close]) -> Iterator[Made | Close]:
        """What each batch gives. On CUDA the next one is already under way when one is fetched."""
        under_way: deque[tuple[Batch, list[_Part]]] = deque()
        for batch in batches:
            if isinstance(batch, Batch):
                under_way.append((batch, self.launched(batch)))
            while len(under_way) > (1 if self.cuda and isinstance(batch, Batch) else 0):
                yield self.fetched(*under_way.popleft())
            if isinstance(batch, Close):
                yield batch
        while under_way:
            yield self.fetched(*under_way.popleft())

    def launched(self, batch: Batch) -> list[_Part]:
        """The batch in parts that fit the memory; on CUDA they are under way, not done."""
        import numpy as np
        import torch

        parts: list[_Part] = []
        start, length = 0, len(batch.windows[0])
        before = 0 if self.fitted else self._used_before()
        while start < len(batch.windows):
            windows = np.stack(batch.windows[start : start + self.step(length)])
            short: Exception | None = None
            try:
                parts.append(self._once(windows, self.settings.dtype))
            except torch.OutOfMemoryError as error:
                short = error.with_traceback(None)  # whose frames hold the batch's tensors
            if short is None:
                start += len(windows)
            else:
                self._shrink(len(windows), length, short)
        if not self.fitted:
            self._fit(len(batch.windows) * length / self.encoder.sample_rate_hz, before)
        return parts

    def _once(self, windows: NDArray[np.float32], dtype: str) -> _Part:
        import torch

        batch = torch.from_numpy(windows)
        if self.cuda:
            batch = batch.pin_memory()
        batch = batch.to(self.settings.device, non_blocking=self.cuda)
        kind = self.settings.device.split(":")[0]
        precision = nullcontext() if dtype == "float32" else torch.autocast(kind, getattr(torch, dtype))
        with exact(self.settings.device), torch.inference_mode(), precision:
            found = self.encode(batch, self.kind.pool)
        layers = self.encoder.layers
        checked(self.encoder.name, layers, found)
        with torch.inference_mode():
            chosen = [self.kind.rows(found[index], layers[index]) for index in self.kind.layers]
            for index, each in zip(self.kind.layers, chosen, strict=True):
                if each.ndim != 3 or each.shape[0] != len(windows) or each.shape[2] != layers[index].width:
                    raise BenchError(
                        f"{self.encoder.name}: layer '{layers[index].name}' came out as {tuple(each.shape)}; "
                        f"declared are ({len(windows)}, rows, {layers[index].width})"
                    )
            largest = torch.stack([each.float().abs().amax(dim=(1, 2)) for each in chosen])
            made = [largest, *(each.half() for each in chosen)]
            if not self.cuda:
                return _Part(windows, made[0].cpu(), [each.cpu() for each in made[1:]], None)
            # queued right behind this batch's work: asked for later, a copy would wait for the batch after it too
            largest, *halves = (each.to("cpu", non_blocking=True) for each in made)
            event: Any = torch.cuda.Event
            ready = event(blocking=True)  # a thread that waits leaves its core to those that read audio
            ready.record(torch.cuda.current_stream(self.settings.device))
            return _Part(windows, largest, halves, ready)

    def fetched(self, batch: Batch, parts: list[_Part]) -> Made:
        import numpy as np

        made: list[Halves] = []
        first = 0
        for part in parts:
            windows = part.windows
            largest, halves = part.arrived()
            bad = np.flatnonzero(~(largest <= HALF_MAX).all(axis=0))  # NaN is not smaller than anything
            if len(bad) and self.settings.dtype != "float32":
                if not self.cost.again:
                    self.say(f"{self.settings.dtype} overflows on {batch.names[first + bad[0]]}: again in float32")
                self.cost.again += len(bad)
                for row in bad:  # one by one: they are few, and a float32 batch might not fit
                    exact, once_more = self._alone(windows[row : row + 1])
                    largest[:, row] = exact[:, 0]
                    for layer, values in zip(halves, once_more, strict=True):
                        layer[row] = values[0]
                bad = np.flatnonzero(~(largest <= HALF_MAX).all(axis=0))
            if len(bad):
                self._refuse(largest[:, bad[0]], batch.names[first + bad[0]])
            made.append(halves)
            first += len(windows)
        whole = made[0] if len(made) == 1 else [np.concatenate(each) for each in zip(*made, strict=True)]
        return Made(whole, batch.places, len(batch.windows) * len(batch.windows[0]))

    def _alone(self, window: NDArray[np.float32]) -> tuple[NDArray[np.float32], Halves]:
        """One window in float32. Raises BenchError if it does not fit the memory."""
        import torch

        try:
            return self._once(window, "float32").arrived()
        except torch.OutOfMemoryError as error:
            short = error.with_traceback(None)
        self._shrink(1, window.shape[1], short)
        raise AssertionError("one window is never halved")

    def _refuse(self, largest: NDArray[np.float32], name: str) -> None:
        import numpy as np

        at = int(np.flatnonzero(~(largest <= HALF_MAX))[0])
        layer = self.encoder.layers[self.kind.layers[at]].name
        what = "has NaN or infinity" if not np.isfinite(largest[at]) else f"reaches {largest[at]:.3g}"
        raise BenchError(
            f"{self.encoder.name} on {name}: layer '{layer}' {what}; what is stored must be finite and fit half precision "
            f"({HALF_MAX:g}). Look at the audio and the encoder's scale"
        )

    def _shrink(self, windows: int, length: int, error: Exception) -> None:
        """Halve the batches from here on, and say so. Raises BenchError if one window is already too much."""
        import torch

        seconds = length / self.encoder.sample_rate_hz
        if windows == 1:
            raise BenchError(
                f"{self.encoder.name}: one window of {seconds:.1f} s does not fit the memory of {self.settings.device}: "
                "use a larger device, --device cpu, or a task with shorter windows"
            ) from error
        self.batch_s, self.fitted = windows // 2 * seconds, True
        if self.cuda:
            torch.cuda.empty_cache()
        self.say(f"{self.settings.device} ran out of memory: batches of {self.batch_s:.0f} s of audio from here on")

    def _used_before(self) -> int:
        """Bytes that are taken on the GPU before the first batch; from here on the peak is the batch's own."""
        import torch

        torch.cuda.reset_peak_memory_stats(self.settings.device)
        return int(torch.cuda.memory_allocated(self.settings.device))

    def _fit(self, seconds: float, before: int) -> None:
        """After the first batch on CUDA: as many seconds as the memory allows by what this one took."""
        import torch

        torch.cuda.synchronize(self.settings.device)
        free, _ = torch.cuda.mem_get_info(self.settings.device)
        spare = (
            free + torch.cuda.memory_reserved(self.settings.device) - torch.cuda.memory_allocated(self.settings.device)
        )
        took = torch.cuda.max_memory_allocated(self.settings.device) - before
        if took > 0:
            self.batch_s = min(LARGEST_BATCH_S, max(self.batch_s, MEMORY_SHARE * spare / took * seconds))
        self.fitted = True
        self.say(f"batches of {self.batch_s:.0f} s of audio on {self.settings.device}")


def mean_over_time(frames: Any) -> Any:
    """`(windows, frames, width)` -> `(windows, width)`, summed in float32 whatever the encoder ran in."""
    return frames.float().mean(dim=1)
