"""Pooled features of clips: every layer's mean over time, for each window, through `pipeline` into a store."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import audio
from marble_bench.audio import perturb
from marble_bench.core.encoder import Encoder
from marble_bench.core.keys import FeatureKey
from marble_bench.core.task import Clip, Window
from marble_bench.core.variants import STATISTICS
from marble_bench.encoders.weights import Weights
from marble_bench.errors import DataError
from marble_bench.features import batches, mapped
from marble_bench.features.extraction import Extraction
from marble_bench.features.fingerprint import Guard
from marble_bench.features.frames import Sound
from marble_bench.features.jobs import TOO_SHORT, Cost, Groups, Halves, Job, Kind, Settings, ShortClip, UnfitWindow
from marble_bench.features.precision import average_over_time, take_statistics
from marble_bench.features.store import Span, Store, check_room, name_folder
from marble_bench.features.types import Features

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARD_BYTES = 64 << 20
HELD_BYTES = 128 << 20  # features that take no more are read into memory, where a batch of them is gathered at once
COMPRESSED, COMPRESSION = (".mp3", ".ogg", ".opus", ".mp4", ".m4a"), 12  # bytes of mono float32 for a byte of these


@dataclass(frozen=True)
class Item:
    """A clip whose file was found: `digest` is the sha256 of its bytes, `rate_hz` what the corpus says its rate is.

    change: the name of what is done to it before it is encoded (`perturb.CHANGES`); empty for nothing.
    """

    clip: Clip
    path: Path
    digest: str
    rate_hz: int | None
    change: str = ""


def compute_digests(paths: Sequence[Path], allow_unread: bool = False) -> list[str]:
    """The sha256 of each file's bytes, each file read once, in threads.

    allow_unread: the digest of a file that cannot be read is then empty, and `check_read` says why. Raises DataError for
    such a file otherwise.
    """
    unique = list(dict.fromkeys(paths))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(_digest_or_empty if allow_unread else audio.digest, unique)
        of_path = dict(zip(unique, found, strict=True))
    return [of_path[path] for path in paths]


def _digest_or_empty(path: Path) -> str:
    try:
        return audio.digest(path)
    except DataError:
        return ""


def check_read(item: Item) -> None:
    """Raise DataError, which says why, for an item whose file could not be read."""
    if not item.digest:
        audio.digest(item.path)
        raise DataError(f"{item.path} could not be read a moment ago: run again")


def open_store(
    encoder: Encoder,
    weights: Weights,
    window: Window,
    cache: Path,
    dtype: str = "float32",
    remote_url: str = "",
    change: str = "",
    guard: Guard | None = None,
    pool: str = "mean",
) -> Store:
    """The store of an encoder's pooled features for a kind of window; changed clips have one of their own."""
    facts, root = make_key(encoder, weights.sha256, window, dtype, change, pool).facts(), cache / "features"
    if guard:
        guard.set_aside(root, name_folder(facts))
    times = len(list_statistics(pool))
    return Store(root, facts, [(layer.name, times * layer.width) for layer in encoder.layers], remote_url)


def make_key(
    encoder: Encoder,
    weights_sha256: str,
    window: Window,
    dtype: str = "float32",
    change: str = "",
    pool: str = "mean",
) -> FeatureKey:
    """The key of a store of pooled features. pool: one of `core.variants.POOLS`."""
    return FeatureKey.of(
        encoder,
        weights_sha256,
        clip_normalize=window.normalize,
        kind="pooled",
        pooling=pool,
        window_s=window.length_s,
        first_s=window.first_s,
        dtype=dtype,
        change=name_change(change),
        **_list_padding_facts(encoder, window),
    )


def _list_padding_facts(encoder: Encoder, window: Window) -> dict[str, Any]:
    """What a key holds of windows that are padded, nothing of others."""
    if window.min_ratio is None:
        return {}
    padding = "masked" if encoder.masks else "heard"
    return {"min_ratio": window.min_ratio, "padding": padding, "channels": window.channel}


def name_change(name: str) -> str:
    """A change as keys hold it; empty for none."""
    return f"{name}: {perturb.CHANGES[name].what}" if name else ""


def make_span(item: Item, encoder: Encoder, window: Window) -> Span:
    """What is decoded for a clip: all of it if something looks at the whole clip, else what its windows cover."""
    clip = item.clip
    length = "" if clip.duration_s is None else f"{clip.duration_s:.9g}"
    crop = _crop_s(item, encoder, window)
    return Span(item.digest, f"{clip.start_s:.9g}:{length}" + ("" if crop is None else f"<{crop:.9g}"))


def make_sound(item: Item, window: Window) -> Sound:
    """A clip as something whose frames are wanted: read, and normalised as the task's window says.

    Raises DataError if the file's header cannot be read.
    """
    clip = item.clip

    found: list[str] = []

    def read(sample_rate_hz: int) -> NDArray[np.float32]:
        found.clear()
        waveform = audio.read(
            item.path,
            sample_rate_hz=sample_rate_hz,
            start_s=clip.start_s,
            duration_s=clip.duration_s,
            native_rate_hz=item.rate_hz,
            change=partial(_perturb, item) if item.change else None,
            oddities=found,
        )
        return audio.normalize(waveform, window.normalize)

    check_read(item)
    return Sound(clip.id, make_sound_span(item), clip.length_s(item.path), read, found)


def make_sound_span(item: Item) -> Span:
    """What is decoded of a clip whose frames are wanted: all of it."""
    length = "" if item.clip.duration_s is None else f"{item.clip.duration_s:.9g}"
    return Span(item.digest, f"{item.clip.start_s:.9g}:{length}")


def _crop_s(item: Item, encoder: Encoder, window: Window) -> float | None:
    """How much of a clip is decoded at most; all of it if task or encoder normalises over the clip, or it is changed."""
    return window.first_s if encoder.normalize == window.normalize == "none" and not item.change else None


def count_rows(length_s: float, window: Window) -> int:
    """How many windows a clip of so many seconds gives."""
    used = length_s if window.first_s is None else min(length_s, window.first_s)
    if window.min_ratio is not None and window.length_s is not None:
        whole, rest = divmod(used + 1e-6, window.length_s)
        return int(whole) + (rest / window.length_s >= window.min_ratio)
    return 1 if window.length_s is None else int(used / window.length_s + 1e-6)


def count_row_bytes(encoder: Encoder, pools: Sequence[str] = ("mean",)) -> int:
    """What the layers of one window take on disk, in half precision, all stores together."""
    times = sum(len(list_statistics(pool)) for pool in pools)
    return 2 * times * sum(layer.width for layer in encoder.layers)


def list_statistics(pool: str) -> list[int]:
    """What a pooling is made of: places in `STATISTICS`.

    >>> list_statistics("mean+std")
    [0, 1]
    """
    return [STATISTICS.index(name) for name in pool.split("+")]


def extract(
    items: Sequence[Item],
    encoder: Encoder,
    weights: Weights,
    window: Window,
    cache: Path,
    device: str = "cpu",
    progress: Callable[[int, int, float], None] | None = None,
    *,
    dtype: str = "float32",
    batch_s: float | None = None,
    workers: int | None = None,
    engine: str = "local",
    batch_size: int | None = None,
    remote_url: str = "",
    say: Callable[[str], None] | None = None,
    change: str = "",
    guard: Guard | None = None,
    pools: Sequence[str] = ("mean",),
) -> tuple[Store, list[Span], Cost]:
    """Make sure that every item's features are stored.

    progress: called with (clips done, clips to do, seconds of audio encoded so far). say: is told what changes on the way.
    dtype, batch_s, workers, engine, batch_size: see `jobs.Settings`. remote_url: see `Store`. change: what is done to every
    item, see `Item`. guard: compares the encoder with what it gave when the store was made, one for all stores of a run.
    pools: what is stored of a window's frames, a store each, see `core.variants.POOLS`.
    Returns the store of the first, each item's span in it, and the cost; `cost.damaged` has clip id -> reason for each clip
    whose file cannot be used, `cost.too_short` the same of each that padded windows leave out; their spans are in no store.
    Raises DataError for a window that the encoder cannot take, BenchError if the disk has no room for what is still to be
    stored.
    """
    check_window(encoder, window)
    load = partial(encoder.load, weights.path, device)
    guard = guard or Guard(encoder, load, device)
    stores = [open_store(encoder, weights, window, cache, dtype, remote_url, change, guard, pool) for pool in pools]
    settings = Settings(device, dtype, batch_s, workers, engine, batch_size)
    divide = None if tuple(pools) == ("mean",) else partial(_divide, pools)
    work = Extraction(stores, encoder, load, guard, cache, settings, progress, say, divide=divide)
    items = [replace(item, change=change) for item in items]
    spans = [make_span(item, encoder, window) for item in items]
    unread = {item.clip.id: _explain_unread(item) for item in items if not item.digest}
    todo: dict[Span, Item] = {}
    for span, item in zip(spans, items, strict=True):
        if item.digest and any(span not in store.rows for store in stores):
            todo.setdefault(span, item)
    if todo:
        _check_room(stores[0], list(todo.values()), encoder, window, pools)
        work.encode(_make_jobs(todo, encoder, window), _make_kind(encoder, len(set(spans)), pools))
        broken = work.cost.broken
        named = [(item.clip.id, span) for item, span in zip(items, spans, strict=True)]
        work.cost.damaged = {name: broken[span] for name, span in named if span in broken}
        work.cost.too_short = {name: work.cost.short[span] for name, span in named if span in work.cost.short}
    else:
        guard.check_stored(stores)
    work.cost.damaged |= unread
    return stores[0], spans, work.compute_cost(spans)


def _check_room(store: Store, items: Sequence[Item], encoder: Encoder, window: Window, pools: Sequence[str]) -> None:
    """Raise BenchError if the disk has no room for the features of some clips."""
    needed = sum(_estimate(item, encoder, window) for item in items) * count_row_bytes(encoder, pools)
    check_room(store.folder, needed, f"the features of {len(items)} clips", "make room, or give another --cache-dir")


def _make_jobs(items: Mapping[Span, Item], encoder: Encoder, window: Window) -> list[Job]:
    return [
        Job(
            span, str(item.path), partial(_cut_windows, item, encoder, window), _count_held_bytes(item, encoder, window)
        )
        for span, item in items.items()
    ]


def _make_kind(encoder: Encoder, spans: int, pools: Sequence[str]) -> Kind:
    """Every layer's mean over time, or a row for each of `STATISTICS` where others are asked for.

    spans: how many the whole pass has.
    """
    mean_alone = tuple(pools) == ("mean",)
    return Kind(
        layers=range(len(encoder.layers)),
        pool=average_over_time if mean_alone else take_statistics,
        rows=(lambda pooled, _: pooled.unsqueeze(1)) if mean_alone else (lambda pooled, _: pooled),
        bytes_of=lambda groups: sum(len(group) for group in groups) * count_row_bytes(encoder, pools),
        shard_bytes=SHARD_BYTES,
        shard_jobs=batches.compute_shard_jobs(spans),
    )


def _divide(pools: Sequence[str], layers: Halves) -> list[Halves]:
    """A span's layers, `(windows * statistics, width)`, as each pooling's store has them: `(windows, its width)`."""
    whole = [layer.reshape(-1, len(STATISTICS), layer.shape[1]) for layer in layers]
    return [[layer[:, list_statistics(pool)].reshape(len(layer), -1) for layer in whole] for pool in pools]


def _explain_unread(item: Item) -> str:
    try:
        check_read(item)
    except DataError as error:
        return str(error)
    return ""


def _count_held_bytes(item: Item, encoder: Encoder, window: Window) -> int:
    """What a clip's samples take in memory, by what is declared of it, else roughly by the size of its file."""
    limits = [each for each in (item.clip.duration_s, _crop_s(item, encoder, window)) if each is not None]
    if limits:
        return round(4 * min(limits) * encoder.sample_rate_hz)
    return item.path.stat().st_size * (COMPRESSION if item.path.suffix.lower() in COMPRESSED else 1)


def _estimate(item: Item, encoder: Encoder, window: Window) -> int:
    """Windows of a clip by what is declared of it, else by its file's header; one where neither can be had."""
    if window.length_s is None:
        return 1
    try:
        return count_rows(item.clip.length_s(item.path), window)
    except DataError:
        return 1  # decoding it will say what is wrong


def load(store: Store, spans: Sequence[Span]) -> Features:
    """The features of some spans, in their order: read into memory up to `HELD_BYTES`; more than that is mapped."""
    import numpy as np

    counts = [store.rows[span].count for span in spans]
    clip = np.repeat(np.arange(len(spans)), counts)
    layers: Sequence[NDArray[np.float16] | mapped.MappedLayer]
    if 2 * sum(counts) * sum(width for _, width in store.layers) <= HELD_BYTES:
        layers = [store.read(index, spans) for index in range(len(store.layers))]
    else:
        layers = mapped.map_layers(store, spans)
    return Features(tuple(name for name, _ in store.layers), layers, clip)


def _cut_windows(item: Item, encoder: Encoder, window: Window) -> Groups:
    """One group, `(windows, samples)`, of a clip at the encoder's rate.

    Raises DataError for a file that cannot be used, UnfitWindow for a window that the encoder cannot take.
    """
    if window.min_ratio is not None:
        return _cut_padded(item, encoder, window)
    rate = encoder.sample_rate_hz
    odd: list[str] = []
    waveform = audio.read(
        item.path,
        sample_rate_hz=rate,
        start_s=item.clip.start_s,
        duration_s=item.clip.duration_s,
        at_most_s=_crop_s(item, encoder, window),
        native_rate_hz=item.rate_hz,
        change=partial(_perturb, item) if item.change else None,
        oddities=odd,
    )
    waveform = audio.normalize(audio.normalize(waveform, window.normalize), encoder.normalize)
    try:
        windows = audio.cut(
            waveform,
            None if window.length_s is None else round(window.length_s * rate),
            None if window.first_s is None else round(window.first_s * rate),
        )
    except DataError as error:
        raise DataError(f"{item.path}: {error}") from error
    if why := explain_unfit(windows.shape[1] / rate, encoder):
        raise DataError(f"clip '{item.clip.id}' {why} ({item.path})")
    groups = Groups([windows])
    groups.oddities = tuple(odd)
    return groups


def _cut_padded(item: Item, encoder: Encoder, window: Window) -> Groups:
    """As `_cut_windows`, of windows that are padded, each normalised by itself. Raises ShortClip for a clip without any."""
    assert window.length_s is not None
    assert window.min_ratio is not None
    odd: list[str] = []
    samples, native_hz = audio.read_native(
        item.path,
        start_s=item.clip.start_s,
        duration_s=item.clip.duration_s,
        native_rate_hz=item.rate_hz,
        channel=window.channel,
        change=partial(_perturb, item) if item.change else None,
        oddities=odd,
    )
    rate = encoder.sample_rate_hz
    windows, valid = audio.cut_padded(samples, native_hz, window.length_s, window.min_ratio, rate)
    if not len(windows):
        raise ShortClip(explain_left_out(len(samples) / native_hz, window))
    if why := explain_unfit((int(valid.min()) if encoder.masks else windows.shape[1]) / rate, encoder):
        raise DataError(f"clip '{item.clip.id}' {why} ({item.path})")
    for row, count in zip(windows, valid, strict=True):
        heard = row[:count] if encoder.masks else row
        for how in (window.normalize, encoder.normalize):
            if heard.any():  # a silent stretch stays as it is
                heard[:] = audio.normalize(heard, how)
    groups = Groups([windows])
    groups.oddities = tuple(odd)
    groups.valid = [valid.tolist()] if encoder.masks else None
    return groups


def explain_left_out(length_s: float, window: Window) -> str:
    """Why padded windows leave out a clip of so many seconds."""
    return f"lasts {length_s:.3f} s, less than {window.min_ratio:g} of a window of {window.length_s:g} s"


def _perturb(item: Item, samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    return perturb.apply_change(item.change, samples, rate_hz, perturb.seed_of(item.digest, item.clip.start_s))


def explain_unfit(length_s: float, encoder: Encoder) -> str:
    """Why an encoder cannot take a window of so many seconds; empty if it can."""
    if length_s < encoder.min_s:
        return (
            f"gives a window of {length_s:.3f} s, and {encoder.name} {TOO_SHORT} {encoder.min_s:.3f} s; choose another "
            "model or longer clips"
        )
    if encoder.max_s is not None and length_s > encoder.max_s:
        return f"gives a window of {length_s:.3f} s, and {encoder.name} takes at most {encoder.max_s:.3f} s"
    return ""


def check_window(encoder: Encoder, window: Window) -> None:
    """Raise UnfitWindow if a task's windows are of a length that the encoder cannot take: no file could be used."""
    if window.length_s is not None and (why := explain_unfit(window.length_s, encoder)):
        raise UnfitWindow(f"the task {why}")


def explain_too_short(length_s: float, encoder: Encoder, window: Window) -> str:
    """Why a clip of so many seconds gives no window that the encoder can take; empty if it gives one."""
    if window.length_s is not None:
        return explain_no_window(length_s, window)
    return explain_unfit(length_s if window.first_s is None else min(length_s, window.first_s), encoder)


def explain_no_window(length_s: float, window: Window) -> str:
    """Why a clip of so many seconds has no window of the task's length; empty if it has one."""
    if window.min_ratio is not None:
        return "" if count_rows(length_s, window) else explain_left_out(length_s, window)
    short = window.length_s is not None and length_s < window.length_s - 1e-6
    return f"lasts {length_s:.3f} s, less than one window of {window.length_s:g} s" if short else ""
