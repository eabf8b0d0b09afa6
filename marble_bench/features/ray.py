"""The pipeline on Ray: audio is read by tasks on any machine, encoders are actors, one a GPU or core; the plan stays here.

The driver decides batches and shards as it does for one machine, so the store is the same; it sees the lengths of windows
and gets their features, while the audio goes from reader to encoder through Ray's object store. A lost worker is replaced by
Ray, and what it had is done again. Corpus and weights must lie where every machine finds them under the same path.

`ray.init()` joins the cluster that RAY_ADDRESS names or that `ray start` began on this machine, else begins one here.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from marble_bench.core.encoder import Encode, Encoder
from marble_bench.errors import BenchError, DataError, UsageError
from marble_bench.features import fingerprint
from marble_bench.features.batches import Batch, EncodedBatch, ShardEnd
from marble_bench.features.fingerprint import Fingerprint
from marble_bench.features.jobs import Cost, Groups, Job, Kind, Settings, ShortClip, UnfitWindow
from marble_bench.features.runner import Runner

ATTEMPTS = 4  # a task or actor that is lost so often is given up
PER_ENCODER = 2  # batches that are under way or wait at each encoder


@dataclass(frozen=True)
class _Window:
    """A window that lies in Ray's object store: its job's groups, its group, its row, its samples."""

    groups: Any
    group: int
    row: int
    samples: int

    def __len__(self) -> int:
        return self.samples


@dataclass(frozen=True)
class _Group:
    """Windows of one length that lie in Ray's object store; to the plan it looks like the array."""

    groups: Any
    group: int
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """Samples in all."""
        return self.shape[0] * self.shape[1]

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> Iterator[_Window]:
        return (_Window(self.groups, self.group, row, self.shape[1]) for row in range(self.shape[0]))


def _read(read: Callable[[], Groups]) -> tuple[Any, Groups]:
    """On a worker: the shapes, what is odd, and the groups; or what was wrong with the file, as a kind and words."""
    try:
        groups = read()
    except (BenchError, MemoryError, OSError, RuntimeError, ValueError) as error:
        kind = next((kind for kind in (UnfitWindow, ShortClip, DataError, BenchError) if isinstance(error, kind)), None)
        return (kind.__name__ if kind else "", str(error) if kind else f"{type(error).__name__}: {error}"), Groups()
    return ([group.shape for group in groups], groups.oddities, groups.valid), groups


class _Encoding:
    """On a worker: an encoder that is ready."""

    def __init__(self, encoder: Encoder, load: Callable[[], Encode], kind: Kind, settings: Settings) -> None:
        self.cost, self.said = Cost(), list[str]()
        self.loaded, self.encoder, self.device = load(), encoder, settings.device
        self.runner = Runner(encoder, self.loaded, kind, settings, self.cost, self.said.append)

    def fingerprint(self) -> Fingerprint:
        """What the encoder here gives for fixed signals."""
        return fingerprint.compute(self.encoder, self.loaded, self.device)

    def encode(
        self, places: list[tuple[int, int, int]], names: list[str], valid: list[int] | None, *groups: Groups
    ) -> tuple[Any, int, list[str]]:
        """The layers (or what went wrong, as text), windows encoded again so far, and what is to be said."""
        windows = [groups[place][group][row] for place, group, row in places]
        batch = Batch(windows, [], names, valid)
        try:
            layers: Any = self.runner.fetch_results(batch, self.runner.launch(batch)).layers
        except BenchError as error:
            layers = str(error)
        messages = list(self.said)
        self.said.clear()
        again, self.cost.again = self.cost.again, 0
        return layers, again, messages


class _Remote:
    """Hands batches to the encoders and takes what they give, in order."""

    def __init__(
        self, actors: Sequence[Any], encoder: Encoder, settings: Settings, cost: Cost, say: Callable[[str], None]
    ):
        self.actors, self.cost, self.say = actors, cost, say
        self.plan = Runner(encoder, lambda *_: [], _refuse_kind(), settings, cost, say)

    def step(self, length: int) -> int:
        """How many windows of so many samples go together."""
        return self.plan.step(length)

    def encode_batches(self, batches: Iterable[Batch | ShardEnd]) -> Iterator[EncodedBatch | ShardEnd]:
        """What each batch gives; several are under way."""
        under_way: deque[tuple[Batch, Any] | ShardEnd] = deque()
        sent = 0
        for batch in batches:
            if isinstance(batch, ShardEnd):
                under_way.append(batch)
            else:
                under_way.append((batch, self._send_batch(batch, self.actors[sent % len(self.actors)])))
                sent += 1
            while under_way and (
                isinstance(under_way[0], ShardEnd)
                or sum(not isinstance(each, ShardEnd) for each in under_way) > PER_ENCODER * len(self.actors)
            ):
                yield self._taken(under_way.popleft())
        while under_way:
            yield self._taken(under_way.popleft())

    def _send_batch(self, batch: Batch, actor: Any) -> Any:
        windows: list[Any] = batch.windows
        refs = {id(window.groups): window.groups for window in windows}
        place = {key: index for index, key in enumerate(refs)}
        where = [(place[id(window.groups)], window.group, window.row) for window in windows]
        return actor.encode.remote(where, batch.names, batch.valid, *refs.values())

    def _taken(self, step: tuple[Batch, Any] | ShardEnd) -> EncodedBatch | ShardEnd:
        import ray

        if isinstance(step, ShardEnd):
            return step
        batch, ref = step
        try:
            layers, again, messages = ray.get(ref)
        except ray.exceptions.RayError as error:
            raise BenchError(
                f"an encoder on the cluster was lost {ATTEMPTS} times ({type(error).__name__}) at {batch.names[0]}: look at "
                "its memory (ray logs); finished shards are stored, and the same command continues"
            ) from error
        for text in messages:
            self.say(text)
        self.cost.again += again
        if isinstance(layers, str):
            raise BenchError(layers)
        return EncodedBatch(layers, batch.places, len(batch.windows) * len(batch.windows[0]))


def _refuse_kind() -> Kind:
    return Kind((), lambda frames: frames, lambda frames, _: frames, lambda _: 0, 1, 1)


@contextmanager
def open_ray(
    jobs: Sequence[Job],
    encoder: Encoder,
    load: Callable[[], Encode],
    kind: Kind,
    settings: Settings,
    cost: Cost,
    say: Callable[[str], None],
    loaded: Callable[[Fingerprint], None] | None,
) -> Iterator[tuple[Iterable[tuple[int, Job, Groups]], Any]]:
    """A Ray cluster: what reads, and what encodes. Raises UsageError where Ray is not installed or has no GPU to give."""
    with _open_cluster() as ray:
        _pickle_by_value(encoder)
        there = ray.cluster_resources()
        cuda = settings.device.startswith("cuda")
        able = int(there.get("GPU" if cuda else "CPU", 0))
        if not able:
            raise UsageError(f"--device {settings.device}: the Ray cluster has no GPU; give --device cpu")
        count = min(settings.workers or able, able)
        machines = sum(node["Alive"] for node in ray.nodes())
        say(f"{_count_noun(count, 'encoder')} on a Ray cluster of {_count_noun(machines, 'machine')}")
        asked = {"num_gpus": 1, "num_cpus": 0} if cuda else {"num_cpus": 1}
        actor_class = ray.remote(**asked, max_restarts=ATTEMPTS - 1, max_task_retries=ATTEMPTS - 1)(_Encoding)
        # what an object needs is sent once, not with every batch
        actors = [actor_class.remote(encoder, load, kind, settings) for _ in range(count)]
        if loaded:
            for found in ray.get([actor.fingerprint.remote() for actor in actors]):
                loaded(found)
        yield (
            _read_ahead(jobs, cost, 2 * int(there.get("CPU", 1)) + PER_ENCODER * count),
            _Remote(actors, encoder, settings, cost, say),
        )
        for actor in actors:
            ray.kill(actor)


@contextmanager
def _open_cluster() -> Iterator[Any]:
    """Ray, joined to its cluster. One that was begun here ends with this, one that was there before goes on."""
    try:
        import ray
    except ImportError as error:
        raise UsageError("--engine ray needs Ray: pip install 'marble-bench[ray]'") from error
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            where = os.environ.get("RAY_ADDRESS")
            raise BenchError(
                f"the Ray cluster {f'at {where} ' if where else ''}cannot be joined: {error}. See that `ray status` answers "
                "here; if the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
            ) from error
    try:
        yield ray
    finally:
        if mine:
            ray.shutdown()


def _count_noun(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _pickle_by_value(encoder: Encoder) -> None:
    """A user's encoder file is not on the workers' path: its code is sent along."""
    import ray

    load = encoder.load.func if isinstance(encoder.load, partial) else encoder.load
    module = sys.modules.get(load.__module__)
    if encoder.code and module is not None:
        ray.cloudpickle.register_pickle_by_value(module)


def _read_ahead(jobs: Sequence[Job], cost: Cost, ahead_most: int) -> Iterator[tuple[int, Job, Any]]:
    """As `local.read_ahead`, by tasks anywhere in the cluster."""
    import ray

    # no CPU is asked for, as encoders may hold them all; what is under way is bounded here
    task = ray.remote(num_cpus=0, num_returns=2, max_retries=ATTEMPTS - 1, scheduling_strategy="SPREAD")(_read)
    ahead: deque[tuple[int, Job, Any, Any]] = deque()
    waiting = iter(enumerate(jobs))
    while True:
        while len(ahead) < ahead_most and (following := next(waiting, None)):
            number, job = following
            ahead.append((number, job, *task.remote(job.read)))
        if not ahead:
            return
        number, job, shapes_ref, groups = ahead.popleft()
        try:
            shapes = ray.get(shapes_ref)
        except ray.exceptions.RayError as error:
            raise BenchError(f"reading {job.name} failed {ATTEMPTS} times on the cluster: {error}") from error
        if isinstance(shapes[0], str):
            kind, text = shapes
            if kind == "ShortClip":
                cost.short[job.span] = text
                continue
            if kind in ("DataError", ""):
                cost.broken[job.span] = text if kind else f"reading {job.name} failed: {text}"
                continue
            raise UnfitWindow(text) if kind == "UnfitWindow" else BenchError(text)
        if shapes[1]:
            cost.odd[job.span] = shapes[1]
        found: Any = Groups()
        found += [_Group(groups, index, shape) for index, shape in enumerate(shapes[0])]
        found.valid = shapes[2]
        yield number, job, found
