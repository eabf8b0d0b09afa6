"""Frame-wise features: every frame of the layers asked for, on disk, read a stretch at a time.

Each layer has a store of its own, so that asking for another layer later adds it and encodes nothing else again, and
reading one never touches the others. A row is a frame. A sound longer than `piece_s`, or than the encoder takes, goes
through it in pieces one after another, and their frames follow one another; a rest that is shorter than the
encoder can take gives no frames. Frame j of a layer is at time j / rate, in later pieces too: an encoder hears `min_s`
beyond a piece, so that none lacks its last frame, and what comes out beyond it is left out. An encoder that cuts what it is
given into stretches and drops what remains gets pieces of whole stretches, and what remains of a sound as a piece.

Layers with fewer than MIN_RATE_HZ frames a second (a vector for each window or patch) cannot say when something happens and
are refused; those with more than MAX_RATE_HZ are averaged down, by whole frames, to at most that. Both are the project's own
rules: the published encoders have 50 to 86. A task may ask for one rate of all layers, and for windows that overlap: then
`timing` says how a sound is cut and averaged.

Nothing keeps more of a layer in memory than what was asked for, whatever the corpus.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core.encoder import Encoder, Layer
from marble_bench.core.keys import FeatureKey
from marble_bench.encoders.weights import Weights
from marble_bench.errors import DataError, UsageError
from marble_bench.features import batches
from marble_bench.features.extraction import Extraction
from marble_bench.features.fingerprint import Guard
from marble_bench.features.jobs import TOO_SHORT, Cost, Groups, Job, Kind, Settings
from marble_bench.features.store import Span, Store, check_room, name_folder
from marble_bench.features.timing import Timing, Windows, average_to_rate

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MIN_RATE_HZ, MAX_RATE_HZ = 10.0, 100.0
SHARD_BYTES = 128 << 20  # of all layers together
OWN_TIMING = Timing()  # each layer's own rate, and pieces one after another


@dataclass(frozen=True)
class Sound:
    """Something to encode: a name for messages, what its content is known by, how long it lasts in seconds, and
    `read(sample_rate_hz) -> (samples,) float32` mono, normalised as the task wants it. oddities: where `read` may put
    what is odd about the sound, by the names of `audio.ODDITIES`."""

    name: str
    span: Span
    length_s: float
    read: Callable[[int], NDArray[np.float32]]
    oddities: list[str] = field(default_factory=list)


def compute_reduction(layer: Layer) -> int:
    """How many frames of a layer are averaged to one."""
    return max(1, math.ceil((layer.frame_rate_hz or 0) / MAX_RATE_HZ - 1e-9))


def compute_rate(layer: Layer, timing: Timing = OWN_TIMING) -> float:
    """Frames a second of a layer as they are stored."""
    return timing.feature_rate_hz or (layer.frame_rate_hz or 0) / compute_reduction(layer)


def find_framewise_layers(layers: Sequence[Layer]) -> list[int]:
    """The layers that have frames at all, by index."""
    return [index for index, layer in enumerate(layers) if (layer.frame_rate_hz or 0) >= MIN_RATE_HZ]


def find_summable_layers(encoder: Encoder) -> tuple[int, ...]:
    """Of the layers that a weighted sum runs over, those with frames, by index; none if fewer than two, or of several
    rates."""
    able = find_framewise_layers(encoder.layers)
    found = tuple(index for index in encoder.summable if index in able)
    alike = len(found) > 1 and len({encoder.layers[index].frame_rate_hz for index in found}) == 1
    return found if alike else ()


def check_framewise(encoder: Encoder, layers: Sequence[int]) -> None:
    """Raise UsageError naming the layers among these that have no frames, and those of the encoder that have."""
    able = find_framewise_layers(encoder.layers)
    bad = [encoder.layers[index].name for index in layers if index not in able]
    if bad or not layers:
        there = ", ".join(encoder.layers[index].name for index in able)
        raise UsageError(
            f"{encoder.name}: {'layer ' + ', '.join(bad) + ' has no' if bad else 'no layer has'} "
            f"frames ({MIN_RATE_HZ:g} a second at least), and this task is asked frame by frame; "
            + (f"choose from --layers {there}" if there else "choose another model")
        )


def estimate_bytes(audio_s: float, encoder: Encoder, layers: Sequence[int], timing: Timing = OWN_TIMING) -> int:
    """What the frames of so many seconds take on disk, in half precision."""
    chosen = [encoder.layers[index] for index in layers]
    return round(audio_s * sum(2 * layer.width * compute_rate(layer, timing) for layer in chosen))


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
    *,
    dtype: str = "float32",
    batch_s: float | None = None,
    workers: int | None = None,
    engine: str = "local",
    batch_size: int | None = None,
    remote_url: str = "",
    guard: Guard | None = None,
    timing: Timing = OWN_TIMING,
) -> tuple[Frames, Cost]:
    """Make sure that the frames of every sound are stored, and hand them out.

    layers: indices of the encoder's layers. facts: what else decides the features (how the task reads a sound): fields of
    `FeatureKey`. piece_s: sounds are encoded in pieces of at most so many seconds, and of at most the encoder's `max_s`.
    progress: called with (sounds done, sounds to do, seconds of audio encoded). say: is told the disk that will be taken,
    and what changes on the way. dtype, batch_s, workers, engine, batch_size: see `jobs.Settings`. remote_url: see `Store`.
    guard: as for `extract.extract`. timing: what the task asks of the times of frames.
    `cost.damaged` names the sounds that cannot be used; their frames are not there. Raises BenchError if the disk has no
    room for what is still to be stored, before the first write; UsageError for layers without frames.
    """
    check_framewise(encoder, layers)
    cut = _choose_cut(encoder, piece_s, timing)
    load, root = partial(encoder.load, weights.path, device), cache / "features"
    guard = guard or Guard(encoder, load, device)
    stores = []
    for index in layers:
        key = make_key(encoder, weights.sha256, index, facts, piece_s, dtype, timing).facts()
        guard.set_aside(root, name_folder(key))
        stores.append(Store(root, key, [(encoder.layers[index].name, encoder.layers[index].width)], remote_url))
    settings = Settings(device, dtype, batch_s, workers, engine, batch_size)
    work = Extraction(stores, encoder, load, guard, cache, settings, progress, say)
    spans, rates = [sound.span for sound in sounds], [compute_rate(encoder.layers[index], timing) for index in layers]
    todo = {sound.span: sound for sound in sounds if any(sound.span not in store.rows for store in stores)}
    if todo:
        _check_room(list(todo.values()), encoder, layers, stores, timing, say)
        rows, nbytes = _choose_rows(cut, timing), partial(_count_bytes, encoder, layers, timing)
        kind = Kind(layers, _as_they_are, rows, nbytes, SHARD_BYTES, batches.compute_shard_jobs(len(set(spans))))
        work.encode([_make_job(sound, encoder, cut, rates) for sound in todo.values()], kind)
        broken = work.cost.broken
        work.cost.damaged = {sound.name: broken[sound.span] for sound in sounds if sound.span in broken}
    else:
        guard.check_stored(stores)
    cost = work.compute_cost(spans)
    return Frames(stores, [sound for sound in sounds if sound.name not in cost.damaged], rates), cost


def _choose_cut(encoder: Encoder, piece_s: float | None, timing: Timing) -> Cut | Windows:
    return Windows.of(encoder, piece_s, timing) if timing.is_set else Cut.of(encoder, piece_s)


def _choose_rows(cut: Cut | Windows, timing: Timing) -> Callable[[Any, Layer], Any]:
    """What is kept of a window's frames."""
    if timing.feature_rate_hz is not None:
        return partial(_average_layer, timing.feature_rate_hz)
    return average_frames if isinstance(cut, Windows) else partial(_select_rows, cut.piece_s)


def _make_job(sound: Sound, encoder: Encoder, cut: Cut | Windows, rates: Sequence[float]) -> Job:
    """rates: of the kept layers, as they are stored."""
    samples = round(sound.length_s * encoder.sample_rate_hz)
    if isinstance(cut, Cut):
        return Job(sound.span, sound.name, partial(_cut_pieces, sound, encoder, cut), 4 * samples)
    join = partial(_join_windows, cut, rates, samples)
    return Job(sound.span, sound.name, partial(_cut_windows, sound, encoder, cut, samples), 4 * samples, join)


def make_key(
    encoder: Encoder,
    weights_sha256: str,
    layer: int,
    facts: dict[str, Any],
    piece_s: float | None,
    dtype: str = "float32",
    timing: Timing = OWN_TIMING,
) -> FeatureKey:
    """The key of a layer's store of frames. facts, piece_s, timing: as for `extract`."""
    one, common = encoder.layers[layer], timing.feature_rate_hz
    return FeatureKey.of(
        encoder,
        weights_sha256,
        kind="frames",
        layer=one.name,
        averaged=compute_reduction(one) if common is None else None,
        feature_rate_hz=common,
        cut=asdict(_choose_cut(encoder, piece_s, timing)),
        dtype=dtype,
        **facts,
    )


def _check_room(
    sounds: Sequence[Sound],
    encoder: Encoder,
    layers: Sequence[int],
    stores: Sequence[Store],
    timing: Timing,
    say: Callable[[str], None] | None,
) -> None:
    """Tell the disk that will be taken; raise BenchError if it is not there."""
    missing = [
        estimate_bytes(
            sum(sound.length_s for sound in sounds if sound.span not in store.rows), encoder, [layer], timing
        )
        for store, layer in zip(stores, layers, strict=True)
    ]
    text = f"every frame of {len(layers)} layers of {len(sounds)} sounds"
    hint = "choose fewer --layers, make room, or give another --cache-dir"
    check_room(stores[0].folder, sum(missing), text, hint, say)


@dataclass(frozen=True)
class Cut:
    """How a sound is cut, in samples. piece: None for not at all. beyond: what is heard behind a piece. stretch: what pieces
    are multiples of; 1 for any length. least: what can be encoded at all. piece_s: the piece in seconds, where frames behind
    it are left out."""

    piece: int | None
    beyond: int
    stretch: int
    least: int
    piece_s: float | None

    @classmethod
    def of(cls, encoder: Encoder, piece_s: float | None) -> Cut:
        """The cut of an encoder into pieces of at most `piece_s`, and of at most what it takes."""
        rate = encoder.sample_rate_hz
        least = round(encoder.min_s * rate)
        stretch = round(encoder.stretch_s * rate) if encoder.stretch_s else 1
        beyond = least if stretch == 1 else 0
        limits = [round(piece_s * rate)] if piece_s is not None else []
        if encoder.max_s is not None:
            longest = round(encoder.max_s * rate)
            limits.append(longest - beyond if longest > 2 * beyond else longest)
        if not limits:
            return cls(None, 0, stretch, least, None)
        piece = min(limits)
        piece = piece // stretch * stretch or piece
        return cls(piece, beyond, stretch, least, piece / rate if stretch == 1 else None)


def _read_normalized(sound: Sound, encoder: Encoder) -> NDArray[np.float32]:
    from marble_bench import audio

    return audio.normalize(sound.read(encoder.sample_rate_hz), encoder.normalize)


def _cut_pieces(sound: Sound, encoder: Encoder, cut: Cut) -> Groups:
    waveform = _read_normalized(sound, encoder)
    groups = Groups(_cut(waveform, cut))
    if not groups:
        raise DataError(f"{sound.name} has {len(waveform):,} samples, and the encoder {TOO_SHORT} {cut.least:,}")
    groups.oddities = tuple(sound.oddities)
    return groups


def _cut_windows(sound: Sound, encoder: Encoder, windows: Windows, samples: int) -> Groups:
    """samples: of the sound, by its length; a few more or less are read where a file was resampled."""
    waveform = _read_normalized(sound, encoder)
    groups = Groups(waveform[part.begin : part.end][None] for part in windows.cut(samples))
    shortest = min((group.size for group in groups), default=len(waveform))
    if not groups or shortest < windows.least:
        raise DataError(f"{sound.name} has {len(waveform):,} samples, and the encoder {TOO_SHORT} {windows.least:,}")
    groups.oddities = tuple(sound.oddities)
    return groups


def _join_windows(
    windows: Windows, rates: Sequence[float], samples: int, rows: Sequence[NDArray[np.float16]], layer: int
) -> NDArray[np.float16]:
    return windows.join(rows, rates[layer], samples)


def _cut(waveform: NDArray[np.float32], cut: Cut) -> list[NDArray[np.float32]]:
    """Pieces with what is heard behind them; the last of them if less follows it; whole stretches that are left; the rest.

    A rest shorter than can be encoded is left out.
    """
    import numpy as np

    length = cut.piece or len(waveform) // cut.stretch * cut.stretch or len(waveform)
    whole = len(waveform) // length if length >= cut.least else 0
    full = min(whole, max(len(waveform) - cut.beyond, 0) // length) if cut.piece else whole
    pieces = [waveform[at * length : (at + 1) * length + cut.beyond] for at in range(whole)]
    groups = [np.stack(pieces[:full])] if full else []
    groups += [each[None] for each in pieces[full:]]
    left = waveform[whole * length :]
    middle = len(left) // cut.stretch * cut.stretch if cut.stretch > 1 else 0
    return groups + [each[None] for each in (left[:middle], left[middle:]) if len(each) >= cut.least]


def _as_they_are(frames: Any) -> Any:
    return frames


def _select_rows(piece_s: float | None, frames: Any, layer: Layer) -> Any:
    """`(windows, frames, width)` of a piece without what came out behind it, averaged by the layer's `compute_reduction`."""
    if piece_s is not None:
        frames = frames[:, : round(piece_s * (layer.frame_rate_hz or 0))]
    return average_frames(frames, layer)


def average_frames(frames: Any, layer: Layer) -> Any:
    """`(windows, frames, width)` averaged by the layer's `compute_reduction`; a rest is left out."""
    many = compute_reduction(layer)
    if many == 1:
        return frames
    whole = frames.shape[1] // many * many
    return frames[:, :whole].float().unflatten(1, (-1, many)).mean(dim=2)


def _average_layer(rate_hz: float, frames: Any, layer: Layer) -> Any:
    return average_to_rate(frames, layer.frame_rate_hz or 0, rate_hz)


def _count_bytes(encoder: Encoder, layers: Sequence[int], timing: Timing, groups: Groups) -> int:
    return estimate_bytes(sum(group.size for group in groups) / encoder.sample_rate_hz, encoder, layers, timing)
