"""Frame-wise features: every frame of the layers asked for, on disk, read a stretch at a time.

Each layer has a store of its own, so that asking for another layer later adds it and encodes nothing else again, and
reading one never touches the others. A row is a frame. A sound longer than `piece_s`, or than the encoder takes, goes
through it in pieces one after another, and their frames stand one behind the other; a rest that is shorter than the
encoder can take gives no frames. Frame j of a layer stands for time j / rate.

Layers with fewer than MIN_RATE_HZ frames a second (a vector for each window or patch) cannot say when something happens and
are refused; those with more than MAX_RATE_HZ are averaged down, by whole frames, to at most that. Both are the project's own
rules: the published encoders have 50 to 86.

Nothing keeps more of a layer in memory than what was asked for, whatever the corpus.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.encoder import Encode, Encoder, Layer
from marble_bench.errors import BenchError, DataError, UsageError
from marble_bench.features.store import HALF_MAX, Span, Store
from marble_bench.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_RATE_HZ, MAX_RATE_HZ = 10.0, 100.0
BATCH_S = 60.0  # seconds of audio that are encoded together at most
ROUND_S = 120.0  # seconds of audio that are sorted into batches of one length
PENDING_BYTES = 128 << 20  # of all layers, that wait to be written
SPARE_BYTES = 256 << 20  # disk that is left alone


@dataclass(frozen=True)
class Sound:
    """Something to encode: a name for messages, what its content is known by, how long it lasts in seconds, and
    `read(sample_rate_hz) -> (samples,) float32` mono, normalised as the task wants it."""

    name: str
    span: Span
    length_s: float
    read: Callable[[int], NDArray[np.float32]]


@dataclass
class Cost:
    """What an extraction took. damaged: by the sound's name, why it cannot be used."""

    audio_s: float = 0.0
    extract_s: float = 0.0
    feature_bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def reduction(layer: Layer) -> int:
    """How many frames of a layer are averaged to one."""
    return max(1, math.ceil((layer.frame_rate_hz or 0) / MAX_RATE_HZ - 1e-9))


def framewise(layers: Sequence[Layer]) -> list[int]:
    """The layers that have frames at all, by index."""
    return [index for index, layer in enumerate(layers) if (layer.frame_rate_hz or 0) >= MIN_RATE_HZ]


def check_framewise(encoder: Encoder, layers: Sequence[int]) -> None:
    """Raise UsageError naming the layers among these that have no frames, and those of the encoder that have."""
    able = framewise(encoder.layers)
    bad = [encoder.layers[index].name for index in layers if index not in able]
    if bad or not layers:
        there = ", ".join(encoder.layers[index].name for index in able)
        raise UsageError(
            f"{encoder.name}: {'layer ' + ', '.join(bad) if bad else 'no layer'} "
            f"has frames ({MIN_RATE_HZ:g} a second at least), and this task asks when something happens; "
            + (f"choose from --layers {there}" if there else "choose another model")
        )


def estimate_bytes(audio_s: float, encoder: Encoder, layers: Sequence[int]) -> int:
    """What the frames of so many seconds take on disk, in half precision."""
    each_s = sum(
        2 * encoder.layers[index].width * (encoder.layers[index].frame_rate_hz or 0) / reduction(encoder.layers[index])
        for index in layers
    )
    return round(audio_s * each_s)


class Frames:
    """The frames of some sounds.

    `names`, `widths`, `rates` (frames a second): of the layers, in the order asked for. `lengths_s`: seconds of each sound.
    """

    def __init__(self, stores: Sequence[Store], sounds: Sequence[Sound], rates: Sequence[float]) -> None:
        self.stores, self.spans = list(stores), [sound.span for sound in sounds]
        self.names = tuple(store.layers[0][0] for store in stores)
        self.widths = [store.layers[0][1] for store in stores]
        self.rates = list(rates)
        self.lengths_s = [sound.length_s for sound in sounds]

    def __len__(self) -> int:
        return len(self.spans)

    def length(self, layer: int, item: int) -> int:
        """Frames of a sound in a layer."""
        return self.stores[layer].rows[self.spans[item]].count

    def read(self, layer: int, item: int, first: int, count: int) -> NDArray[np.float16]:
        """`(count, width)` float16: a stretch of a sound's frames."""
        return self.stores[layer].read_rows(0, self.spans[item], first, count)

    def only(self, items: Sequence[int]) -> Frames:
        """The frames of some of the sounds, in that order."""
        chosen = copy.copy(self)
        chosen.spans = [self.spans[item] for item in items]
        chosen.lengths_s = [self.lengths_s[item] for item in items]
        return chosen


def extract(
    sounds: Sequence[Sound],
    encoder: Encoder,
    weights: Weights,
    layers: Sequence[int],
    cache: Path,
    facts: dict[str, Any],
    device: str = "cpu",
    piece_s: float | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> tuple[Frames, Cost]:
    """Make sure that the frames of every sound are stored, and hand them out.

    layers: indices of the encoder's layers. facts: what else decides the features (how the task reads a sound); part of
    the key. piece_s: sounds are encoded in pieces of at most so many seconds, and of at most the encoder's `max_s`.
    progress: called with (sounds done, sounds to do, seconds of audio encoded). say: is told the disk that will be taken.
    `cost.damaged` names the sounds that cannot be used; their frames are not there. Raises BenchError if the disk has no
    room for what is still to be stored, before the first write; UsageError for layers without frames.
    """
    check_framewise(encoder, layers)
    limits = [each for each in (piece_s, encoder.max_s) if each is not None]
    piece = round(min(limits) * encoder.sample_rate_hz) if limits else None
    stores = [_store(encoder, weights, index, cache, {**facts, "piece": piece}) for index in layers]
    cost = Cost()
    todo = {sound.span: sound for sound in sounds if any(sound.span not in store.rows for store in stores)}
    if todo:
        _check_room(list(todo.values()), encoder, layers, stores, say)
        started = time.perf_counter()
        encode = encoder.load(weights.path, device)
        done = 0
        try:
            for round_ in _rounds(_decoded(list(todo.values()), encoder, piece, cost), encoder.sample_rate_hz):
                for sound, frames in _encode_round(round_, encoder, encode, layers, device):
                    _keep(sound, frames, encoder, stores)
                done += len(round_)
                cost.audio_s += sum(len(part) for _, parts in round_ for part in parts) / encoder.sample_rate_hz
                if progress:
                    progress(done + len(cost.damaged), len(todo), cost.audio_s)
        finally:
            for store in stores:
                store.flush()
        cost.extract_s = time.perf_counter() - started
    broken = {sound.span: cost.damaged[sound.name] for sound in todo.values() if sound.name in cost.damaged}
    cost.damaged.update({sound.name: broken[sound.span] for sound in sounds if sound.span in broken})
    cost.feature_bytes = sum(store.size_bytes() for store in stores)
    rates = [(encoder.layers[index].frame_rate_hz or 0) / reduction(encoder.layers[index]) for index in layers]
    return Frames(stores, [sound for sound in sounds if sound.name not in cost.damaged], rates), cost


def _store(encoder: Encoder, weights: Weights, layer: int, cache: Path, facts: dict[str, Any]) -> Store:
    one = encoder.layers[layer]
    key = {
        "encoder": encoder.name,
        "version": encoder.version,
        "code": encoder.code,
        "weights_sha256": weights.sha256,
        "sample_rate_hz": encoder.sample_rate_hz,
        "normalize": encoder.normalize,
        "kind": "frames",
        "layer": one.name,
        "averaged": reduction(one),
        "dtype": "float32",
        **facts,
    }
    return Store(cache / "features", key, [(one.name, one.width)])


def _check_room(
    sounds: Sequence[Sound],
    encoder: Encoder,
    layers: Sequence[int],
    stores: Sequence[Store],
    say: Callable[[str], None] | None,
) -> None:
    """Tell the disk that will be taken; raise BenchError if it is not there."""
    missing = [
        estimate_bytes(sum(sound.length_s for sound in sounds if sound.span not in store.rows), encoder, [layer])
        for store, layer in zip(stores, layers, strict=True)
    ]
    needed, folder = sum(missing), stores[0].folder.parent
    free = shutil.disk_usage(folder).free - SPARE_BYTES
    text = f"{needed / 1e9:.2f} GB for every frame of {len(layers)} layers of {len(sounds)} sounds"
    if needed > free:
        raise BenchError(
            f"{folder} has room for {max(free, 0) / 1e9:.2f} GB and {text} are needed: choose fewer --layers, "
            "make room, or give another --cache-dir"
        )
    if say:
        say(f"writing {text} to {folder}")


def _decoded(
    sounds: Sequence[Sound], encoder: Encoder, piece: int | None, cost: Cost
) -> Iterator[tuple[Sound, list[NDArray[np.float32]]]]:
    """Each sound cut into pieces, read a few sounds ahead; one that is damaged is noted in `cost.damaged`."""
    from marble_bench import audio

    def read(sound: Sound) -> list[NDArray[np.float32]]:
        waveform = audio.normalize(sound.read(encoder.sample_rate_hz), encoder.normalize)
        return _cut(waveform, piece, round(encoder.min_s * encoder.sample_rate_hz), sound.name)

    workers = os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[tuple[Sound, Future[list[NDArray[np.float32]]]]] = deque()
        waiting = iter(sounds)
        while True:
            while len(ahead) < 2 * workers and (sound := next(waiting, None)):
                ahead.append((sound, pool.submit(read, sound)))
            if not ahead:
                return
            sound, future = ahead.popleft()
            try:
                parts = future.result()
            except DataError as error:
                cost.damaged[sound.name] = str(error)
                continue
            yield sound, parts


def _cut(waveform: NDArray[np.float32], piece: int | None, least: int, name: str) -> list[NDArray[np.float32]]:
    """Pieces one after another; a rest shorter than `least` samples is left out. Raises DataError if nothing is left."""
    if piece is None:
        piece = len(waveform)
    parts = [waveform[start : start + piece] for start in range(0, len(waveform), piece)]
    parts = [part for part in parts if len(part) >= least]
    if not parts:
        raise DataError(f"{name} has {len(waveform):,} samples, and the encoder needs at least {least:,}")
    return parts


def _rounds(
    decoded: Iterator[tuple[Sound, list[NDArray[np.float32]]]], sample_rate_hz: int
) -> Iterator[list[tuple[Sound, list[NDArray[np.float32]]]]]:
    """Whole sounds, together about ROUND_S; a longer sound is a round by itself."""
    round_: list[tuple[Sound, list[NDArray[np.float32]]]] = []
    samples = 0
    for sound, parts in decoded:
        round_.append((sound, parts))
        samples += sum(len(part) for part in parts)
        if samples >= ROUND_S * sample_rate_hz:
            yield round_
            round_, samples = [], 0
    if round_:
        yield round_


def _encode_round(
    round_: Sequence[tuple[Sound, list[NDArray[np.float32]]]],
    encoder: Encoder,
    encode: Encode,
    layers: Sequence[int],
    device: str,
) -> Iterator[tuple[Sound, list[NDArray[np.float16]]]]:
    """Each sound's frames, per layer `(frames, width)`. Pieces of one length are encoded together."""
    import numpy as np
    import torch

    places: dict[int, list[tuple[int, int]]] = {}
    for index, (_, parts) in enumerate(round_):
        for number, part in enumerate(parts):
            places.setdefault(len(part), []).append((index, number))
    made: dict[tuple[int, int], list[NDArray[np.float16]]] = {}
    for length, members in places.items():
        step = max(1, int(BATCH_S * encoder.sample_rate_hz // length))
        for start in range(0, len(members), step):
            batch = members[start : start + step]
            stacked = np.stack([round_[index][1][number] for index, number in batch])
            with torch.inference_mode():
                found = encode(torch.from_numpy(stacked).to(device), lambda frames: frames)
                if len(found) != len(encoder.layers):
                    raise BenchError(f"{encoder.name} gave {len(found)} layers; it declares {len(encoder.layers)}")
                chosen = [_halves(found[layer], encoder.layers[layer], encoder.name) for layer in layers]
            for row, place in enumerate(batch):
                made[place] = [frames[row] for frames in chosen]
    for index, (sound, parts) in enumerate(round_):
        pieces = [made.pop((index, number)) for number in range(len(parts))]
        yield sound, [np.concatenate(layer) for layer in zip(*pieces, strict=True)]


def _halves(frames: Any, layer: Layer, encoder: str) -> NDArray[np.float16]:
    """`(windows, frames, width)`, averaged by the layer's `reduction`, as float16; BenchError if it does not fit."""
    many = reduction(layer)
    if many > 1:
        whole = frames.shape[1] // many * many
        frames = frames[:, :whole].float().unflatten(1, (-1, many)).mean(dim=2)
    largest = float(frames.float().abs().max())
    if not largest <= HALF_MAX:  # NaN too
        raise BenchError(f"{encoder}: layer '{layer.name}' reaches {largest:.3g}, beyond half precision ({HALF_MAX})")
    halves: NDArray[np.float16] = frames.half().cpu().numpy()
    return halves


def _keep(sound: Sound, frames: Sequence[NDArray[np.float16]], encoder: Encoder, stores: Sequence[Store]) -> None:
    for store, layer in zip(stores, frames, strict=True):
        if sound.span in store.rows:
            continue
        try:
            store.add(sound.span, [layer])
        except BenchError as error:
            raise BenchError(f"{encoder.name} on {sound.name}: {error}") from error
    if sum(store.pending_bytes for store in stores) >= PENDING_BYTES:
        for store in stores:
            store.flush()
