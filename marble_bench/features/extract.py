"""One pass of an encoder over a corpus: decode, normalise, cut, encode, pool, store. What is stored is not done again.

Windows of equal length are encoded together, so that no encoder ever sees padding; decoding runs ahead in threads.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import audio
from marble_bench.encoder import Encode, Encoder
from marble_bench.errors import BenchError, DataError
from marble_bench.features.frames import Sound
from marble_bench.features.store import Span, Store
from marble_bench.features.table import Features
from marble_bench.task import Clip, Window
from marble_bench.weights import Weights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH_S = 60.0  # seconds of audio that are encoded together
WAITING_S = 300.0  # seconds of audio that may wait for windows of their own length


@dataclass(frozen=True)
class Item:
    """A clip whose file was found: `digest` is the sha256 of its bytes, `rate_hz` what the corpus says its rate is."""

    clip: Clip
    path: Path
    digest: str
    rate_hz: int | None


@dataclass
class Cost:
    """What an extraction took. audio_s: seconds of audio that were encoded now (0 with everything cached)."""

    audio_s: float = 0.0
    extract_s: float = 0.0
    feature_bytes: int = 0
    damaged: dict[str, str] = field(default_factory=dict)


def digests(paths: Sequence[Path]) -> list[str]:
    """The sha256 of each file's bytes, each file read once, in threads."""
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        of_path = dict(zip(unique, pool.map(audio.digest, unique), strict=True))
    return [of_path[path] for path in paths]


def open_store(encoder: Encoder, weights: Weights, window: Window, cache: Path) -> Store:
    """The store of an encoder's pooled features for a kind of window."""
    facts = {
        "encoder": encoder.name,
        "version": encoder.version,
        "code": encoder.code,
        "weights_sha256": weights.sha256,
        "sample_rate_hz": encoder.sample_rate_hz,
        "normalize": encoder.normalize,
        "window_s": window.length_s,
        "first_s": window.first_s,
        "clip_normalize": window.normalize,
        "kind": "pooled",
        "dtype": "float32",
    }
    return Store(cache / "features", facts, [(layer.name, layer.width) for layer in encoder.layers])


def span_of(item: Item, encoder: Encoder, window: Window) -> Span:
    """What is decoded for a clip: all of it if the encoder normalises over the clip, else what its windows cover."""
    clip = item.clip
    length = "" if clip.duration_s is None else f"{clip.duration_s:.9g}"
    crop = _crop_s(encoder, window)
    return Span(item.digest, f"{clip.start_s:.9g}:{length}" + ("" if crop is None else f"<{crop:.9g}"))


def sound_of(item: Item, window: Window) -> Sound:
    """A clip as something whose frames are wanted: read, and normalised as the task's window says.

    Raises DataError if the file's header cannot be read.
    """
    clip = item.clip
    length = "" if clip.duration_s is None else f"{clip.duration_s:.9g}"

    def read(sample_rate_hz: int) -> NDArray[np.float32]:
        waveform = audio.read(
            item.path,
            sample_rate_hz=sample_rate_hz,
            start_s=clip.start_s,
            duration_s=clip.duration_s,
            native_rate_hz=item.rate_hz,
        )
        return audio.normalize(waveform, window.normalize)

    lasts = clip.duration_s if clip.duration_s is not None else audio.duration_s(item.path) - clip.start_s
    return Sound(clip.id, Span(item.digest, f"{clip.start_s:.9g}:{length}"), lasts, read)


def _crop_s(encoder: Encoder, window: Window) -> float | None:
    """How much of a clip is decoded at most; all of it if task or encoder normalises over the clip."""
    return window.first_s if encoder.normalize == window.normalize == "none" else None


def extract(
    items: Sequence[Item],
    encoder: Encoder,
    weights: Weights,
    window: Window,
    cache: Path,
    device: str = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
) -> tuple[Store, list[Span], Cost]:
    """Make sure that every item's features are stored.

    progress: called with (clips done, clips to do, seconds of audio encoded so far).
    Returns the store, each item's span in it, and the cost; `cost.damaged` has clip id -> reason for each clip whose
    file cannot be used, whose span is then not in the store. Raises DataError for a window that the encoder cannot
    take.
    """
    store, cost = open_store(encoder, weights, window, cache), Cost()
    spans = [span_of(item, encoder, window) for item in items]
    todo: dict[Span, Item] = {}
    for span, item in zip(spans, items, strict=True):
        if span not in store.rows:
            todo.setdefault(span, item)
    if todo:
        started = time.perf_counter()
        try:
            _encode_all(todo, encoder, encoder.load(weights.path, device), window, store, device, cost, progress)
        finally:
            store.flush()
        cost.extract_s = time.perf_counter() - started
    broken = {span: cost.damaged[item.clip.id] for span, item in todo.items() if item.clip.id in cost.damaged}
    cost.damaged.update({i.clip.id: broken[s] for s, i in zip(spans, items, strict=True) if s in broken})
    cost.feature_bytes = store.size_bytes()
    return store, spans, cost


def load(store: Store, spans: Sequence[Span]) -> Features:
    """The features of some spans, in their order."""
    import numpy as np

    clip = np.repeat(np.arange(len(spans)), [store.rows[span].count for span in spans])
    layers = [store.read(index, spans) for index in range(len(store.layers))]
    return Features(tuple(name for name, _ in store.layers), layers, clip)


def _encode_all(
    todo: dict[Span, Item],
    encoder: Encoder,
    encode: Encode,
    window: Window,
    store: Store,
    device: str,
    cost: Cost,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    done = 0
    for batch in _batches(_decoded(todo, encoder, window, cost), encoder):
        for span, layers in _encode_batch(batch, encoder, encode, device):
            try:
                store.add(span, layers)
            except BenchError as error:
                raise BenchError(f"{encoder.name} on {todo[span].path}: {error}") from error
        done += len(batch)
        cost.audio_s += sum(windows.size for _, windows in batch) / encoder.sample_rate_hz
        if progress:
            progress(done + len(cost.damaged), len(todo), cost.audio_s)


def _windows(item: Item, encoder: Encoder, window: Window) -> NDArray[np.float32]:
    """`(windows, samples)` of one clip at the encoder's rate."""
    rate = encoder.sample_rate_hz
    waveform = audio.read(
        item.path,
        sample_rate_hz=rate,
        start_s=item.clip.start_s,
        duration_s=item.clip.duration_s,
        at_most_s=_crop_s(encoder, window),
        native_rate_hz=item.rate_hz,
    )
    waveform = audio.normalize(audio.normalize(waveform, window.normalize), encoder.normalize)
    try:
        return audio.cut(
            waveform,
            None if window.length_s is None else round(window.length_s * rate),
            None if window.first_s is None else round(window.first_s * rate),
        )
    except DataError as error:
        raise DataError(f"{item.path}: {error}") from error


def _decoded(
    todo: dict[Span, Item], encoder: Encoder, window: Window, cost: Cost
) -> Iterator[tuple[Span, NDArray[np.float32]]]:
    """Each span's windows in order, decoded a few files ahead; a damaged file is noted in `cost.damaged`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ahead: deque[tuple[Span, Item, Future[Any]]] = deque()
        waiting = iter(todo.items())
        while True:
            while len(ahead) < 4 * (os.cpu_count() or 1) and (following := next(waiting, None)):
                span, item = following
                ahead.append((span, item, pool.submit(_windows, item, encoder, window)))
            if not ahead:
                return
            span, item, future = ahead.popleft()
            try:
                windows = future.result()
            except DataError as error:
                cost.damaged[item.clip.id] = str(error)
                continue
            _check_length(item, windows.shape[1] / encoder.sample_rate_hz, encoder)
            yield span, windows


def _check_length(item: Item, length_s: float, encoder: Encoder) -> None:
    if length_s < encoder.min_s:
        raise DataError(
            f"clip '{item.clip.id}' gives a window of {length_s:.3f} s, and {encoder.name} needs at least "
            f"{encoder.min_s:.3f} s ({item.path}); choose another model or longer clips"
        )
    if encoder.max_s is not None and length_s > encoder.max_s:
        raise DataError(
            f"clip '{item.clip.id}' gives a window of {length_s:.3f} s, and {encoder.name} takes at most "
            f"{encoder.max_s:.3f} s ({item.path})"
        )


def _batches(
    decoded: Iterable[tuple[Span, NDArray[np.float32]]], encoder: Encoder
) -> Iterator[list[tuple[Span, NDArray[np.float32]]]]:
    """Spans whose windows have one length, together up to BATCH_S; the fullest goes first when too many wait."""
    waiting: dict[int, list[tuple[Span, NDArray[np.float32]]]] = {}
    seconds: dict[int, float] = {}
    for span, windows in decoded:
        length = windows.shape[1]
        waiting.setdefault(length, []).append((span, windows))
        seconds[length] = seconds.get(length, 0.0) + windows.size / encoder.sample_rate_hz
        while seconds and (max(seconds.values()) >= BATCH_S or sum(seconds.values()) >= WAITING_S):
            fullest = max(seconds, key=lambda each: seconds[each])
            del seconds[fullest]
            yield waiting.pop(fullest)
    yield from waiting.values()


def _encode_batch(
    batch: Sequence[tuple[Span, NDArray[np.float32]]], encoder: Encoder, encode: Encode, device: str
) -> Iterator[tuple[Span, list[NDArray[np.float32]]]]:
    """Each span's layers, `(windows, width)` float32."""
    import numpy as np
    import torch

    windows = np.concatenate([each for _, each in batch])
    step = max(1, int(BATCH_S * encoder.sample_rate_hz // windows.shape[1]))
    parts = []
    with torch.inference_mode():
        for start in range(0, len(windows), step):
            chunk = torch.from_numpy(windows[start : start + step]).to(device)
            parts.append([layer.float().cpu().numpy() for layer in encode(chunk, _mean_over_time)])
    if len(parts[0]) != len(encoder.layers):
        raise BenchError(f"{encoder.name} gave {len(parts[0])} layers; it declares {len(encoder.layers)}")
    layers = [np.concatenate(layer) for layer in zip(*parts, strict=True)]
    row = 0
    for span, each in batch:
        yield span, [layer[row : row + len(each)] for layer in layers]
        row += len(each)


def _mean_over_time(frames: Any) -> Any:
    """`(windows, frames, width)` -> `(windows, width)`, summed in float32 whatever the encoder ran in."""
    return frames.float().mean(dim=1)
