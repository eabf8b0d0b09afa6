"""The one door to audio: decode, mono, resample, normalise, cut.

wav, au, flac, ogg and mp3 through libsndfile, mp4 through PyAV (the extra `stems`); mono is the mean of the channels;
resampling by soxr (HQ). Samples are float32 in [-1, 1], times are seconds, spans are rounded to samples of the file's own
rate.

A file is checked against what its header promises: libsndfile reads a truncated wav or au as if it were whole, so the
promise is read here. Ogg, and mp3 without a Xing or Info header, promise nothing. An mp3 or mp4 is always decoded from its
start, because seeking in one is not exact to the sample.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from marble_bench.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Normalize = Literal["none", "peak", "zscore"]
AGAIN = "get the file again"
UNKNOWN = 0xFFFFFFFF  # what a writer puts where it cannot know the size
CONTAINERS = (".mp4", ".m4a")  # what holds streams of its own, and libsndfile does not read
WAV_PLAIN = {1: "PCM", 3: "float", 6: "A-law", 7: "mu-law"}  # formats whose block is one sample of each channel
AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # bytes per sample by the header's encoding


def read(
    path: Path,
    *,
    sample_rate_hz: int,
    start_s: float = 0.0,
    duration_s: float | None = None,
    at_most_s: float | None = None,
    native_rate_hz: int | None = None,
    change: Callable[[NDArray[np.float32], int], NDArray[np.float32]] | None = None,
) -> NDArray[np.float32]:
    """Decode a span of a file: `(samples,)` float32 mono at `sample_rate_hz`.

    start_s, duration_s: the span; None for "to the end". at_most_s: decode no more than so much of it.
    native_rate_hz: the rate that the file must have. change: `(mono samples, rate) -> samples` at the file's own rate.
    Raises DataError naming the file if it is missing, empty, no audio, truncated, silent, not finite, of another rate,
    or shorter than the span.
    """
    import numpy as np

    samples, rate = _decoded(path, start_s, duration_s, at_most_s, native_rate_hz, 0)
    mono = _mono(samples)
    if not np.isfinite(mono).all():
        raise DataError(f"{path} has samples that are NaN or infinite: {AGAIN}")
    if not mono.any():
        raise DataError(f"{path} is silent" + ("" if not start_s and duration_s is None else f" from {start_s} s on"))
    if change:
        try:
            mono = change(mono, rate)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
    return resampled(mono, rate, sample_rate_hz)


def read_channels(
    path: Path,
    *,
    sample_rate_hz: int | None = None,
    start_s: float = 0.0,
    duration_s: float | None = None,
    native_rate_hz: int | None = None,
    stream: int = 0,
) -> NDArray[np.float32]:
    """Decode a span of a file with its channels: `(channels, samples)` float32 at `sample_rate_hz` (None: its own rate).

    stream: which of an mp4's audio streams. Errors as `read`'s, but silence is none: a stem may be silent.
    """
    import numpy as np

    samples, rate = _decoded(path, start_s, duration_s, None, native_rate_hz, stream)
    if not np.isfinite(samples).all():
        raise DataError(f"{path} has samples that are NaN or infinite: {AGAIN}")
    return np.ascontiguousarray(resampled(samples, rate, sample_rate_hz or rate).T)


def resampled(samples: NDArray[np.float32], rate_hz: int, to_hz: int) -> NDArray[np.float32]:
    """`(samples,)` or `(samples, channels)` float32 at another rate, by soxr (HQ)."""
    import soxr

    if rate_hz == to_hz:
        return samples
    done: NDArray[np.float32] = soxr.resample(samples, rate_hz, to_hz, quality="HQ")
    return done


def _decoded(
    path: Path,
    start_s: float,
    duration_s: float | None,
    at_most_s: float | None,
    native_rate_hz: int | None,
    stream: int,
) -> tuple[NDArray[np.float32], int]:
    """`(samples, channels)` float32 of a span, and the rate in Hz."""
    if path.suffix.lower() in CONTAINERS:
        with _container(path) as container:
            rate = _stream(path, container, stream).rate
            _check_rate(path, rate, native_rate_hz)
            start, count, most = _in_samples(rate, start_s, duration_s, at_most_s)
            return _span_of_stream(container, path, stream, start, count, most), rate
    with _opened(path) as file:
        rate = file.samplerate
        _check_rate(path, rate, native_rate_hz)
        return _span(file, path, *_in_samples(rate, start_s, duration_s, at_most_s)), rate


def _in_samples(
    rate: int, start_s: float, duration_s: float | None, at_most_s: float | None
) -> tuple[int, int | None, int | None]:
    """Start, exact count, and largest count of a span."""
    most = None if at_most_s is None else round(at_most_s * rate)
    count = None if duration_s is None else round(duration_s * rate)
    if count is not None and most is not None:
        count, most = min(count, most), None
    return round(start_s * rate), count, most


@contextmanager
def _container(path: Path) -> Iterator[Any]:
    """An mp4 opened by PyAV, which brings its own decoders."""
    try:
        import av
    except ImportError as error:
        raise UsageError(
            f"{path} holds AAC streams, which need a decoder: pip install 'marble-bench[stems]' (PyAV; nothing else is "
            "needed), or take a copy of the corpus in wav files"
        ) from error

    _check_there(path)
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.FFmpegError as error:
        raise DataError(f"{path} cannot be decoded ({error.strerror}): {AGAIN}") from error


def _stream(path: Path, container: Any, stream: int) -> Any:
    if stream >= len(container.streams.audio):
        raise DataError(f"{path} has {len(container.streams.audio)} audio streams, and number {stream} is asked for")
    return container.streams.audio[stream]


def _span_of_stream(
    container: Any, path: Path, stream: int, start: int, count: int | None, most: int | None
) -> NDArray[np.float32]:
    """`(samples, channels)`, as `_span`; decoded from the start and thrown away up to `start`."""
    import numpy as np

    promised = _promised_by_stream(_stream(path, container, stream))
    wanted = next((start + limit for limit in (count, most) if limit is not None), None)
    parts, at = [], 0
    for frame in container.decode(audio=stream):
        values = frame.to_ndarray()
        if not frame.format.is_planar:
            values = values.reshape(-1, frame.layout.nb_channels).T
        if values.dtype.kind == "i":
            values = values / np.float32(1 << (8 * values.dtype.itemsize - 1))
        low, high = max(start - at, 0), values.shape[1] if wanted is None else min(wanted - at, values.shape[1])
        if high > low:
            parts.append(values[:, low:high].astype(np.float32))
        at += values.shape[1]
        if wanted is not None and at >= wanted:
            break
    short = promised if wanted is None else wanted if count is not None else min(wanted, promised)
    if at < short:
        cut = at < promised
        raise DataError(
            f"{path} {'is truncated' if cut else 'is too short'}: {short:,} samples of stream {stream} "
            f"{'promised' if cut else 'asked for'}, {at:,} found" + (f"; {AGAIN}" if cut else "")
        )
    if not parts:
        raise DataError(f"{path} has no samples in stream {stream}" + (f" from {start:,} on" if start else ""))
    return np.ascontiguousarray(np.concatenate(parts, axis=1).T)


def _promised_by_stream(stream: Any) -> int:
    """Samples per channel that an mp4's header promises; what a coder adds at the end may come on top."""
    return int(stream.duration * stream.time_base * stream.rate) if stream.duration else 0


@dataclass(frozen=True)
class Shape:
    """What a file's header says: samples per channel, channels, rate, and how many streams of audio."""

    samples: int
    channels: int
    rate_hz: int
    streams: int = 1


def shape(path: Path, stream: int = 0) -> Shape:
    """What the header of a file, or of one stream of an mp4, says. Raises DataError if it is no audio."""
    if path.suffix.lower() in CONTAINERS:
        with _container(path) as container:
            one = _stream(path, container, stream)
            return Shape(_promised_by_stream(one), one.codec_context.channels, one.rate, len(container.streams.audio))
    with _opened(path) as file:
        return Shape(file.frames, file.channels, file.samplerate)


def _mono(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean of the channels `(samples, channels)`; of two by adding them, which gives the same numbers in a tenth of the
    time."""
    import numpy as np

    if samples.shape[1] == 2:
        return (samples[:, 0] + samples[:, 1]) * np.float32(0.5)
    mean: NDArray[np.float32] = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return mean


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import soundfile

    _check_there(path)
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise DataError(f"{path} cannot be decoded ({error.error_string.strip()}): {AGAIN}") from error


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"no audio file {path}")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty (0 bytes): {AGAIN}")


def _span(file: Any, path: Path, start: int, count: int | None, most: int | None) -> NDArray[Any]:
    """`(samples, channels)`: `count` samples, or all to the end but no more than `most`.

    The file's promise is checked as far as that reaches.
    """
    promised = promised_samples(path)
    there = file.frames if promised is None else promised
    if start and file.format != "MP3":
        file.seek(min(start, file.frames))
        skipped = 0
    else:
        skipped = start
    wanted = next((skipped + limit for limit in (count, most) if limit is not None), -1)
    samples: NDArray[Any] = file.read(wanted, dtype="float32", always_2d=True)[skipped:]
    end = start + len(samples)
    if count is None and promised is not None and end < (promised if most is None else min(promised, start + most)):
        raise DataError(f"{path} is truncated: {promised:,} samples promised, {end:,} found; {AGAIN}")
    if count is not None and len(samples) < count:
        cut = there >= start + count
        raise DataError(
            f"{path} {'is truncated' if cut else 'is too short'}: asked for {count:,} samples from {start:,} on, "
            f"{len(samples):,} found of {there:,} promised" + (f"; {AGAIN}" if cut else "")
        )
    if not len(samples):
        raise DataError(f"{path} has no samples" + (f" from {start:,} on" if start else "") + f": {AGAIN}")
    return samples


def promised_samples(path: Path) -> int | None:
    """Samples per channel that the header of a wav, au, flac or mp3 promises; None where it promises nothing."""
    with path.open("rb") as file:
        magic = file.read(4)
        if magic in (b"RIFF", b"RF64"):
            return _promised_by_wav(file)
        if magic == b".snd":
            return _promised_by_au(file)
        if magic == b"fLaC":
            return _promised_by_flac(file)
        if magic[:3] == b"ID3" or (len(magic) > 1 and magic[0] == 0xFF and magic[1] & 0xE0 == 0xE0):
            return _promised_by_mp3(path, file)
    return None


def _promised_by_wav(file: BinaryIO) -> int | None:
    file.seek(12)
    block, large = 0, None
    while len(head := file.read(8)) == 8:
        name, size = head[:4], struct.unpack("<I", head[4:])[0]
        if name == b"data":
            size = large if large is not None and size == UNKNOWN else size
            return size // block if block and size != UNKNOWN else None
        body = file.read(min(size, 64))
        if name == b"ds64" and len(body) >= 16:
            large = struct.unpack("<Q", body[8:16])[0]
        if name == b"fmt " and len(body) >= 16:
            kind, _, _, _, align = struct.unpack("<HHIIH", body[:14])
            if kind == 0xFFFE and len(body) >= 26:  # extensible: the true kind stands in the sub-format
                kind = struct.unpack("<H", body[24:26])[0]
            block = align if kind in WAV_PLAIN else 0
        file.seek(size - len(body) + size % 2, 1)
    return None


def _promised_by_au(file: BinaryIO) -> int | None:
    head = file.read(20)
    if len(head) < 20:
        return None
    _, size, encoding, _, channels = struct.unpack(">IIIII", head)
    block = AU_BYTES.get(encoding, 0) * channels
    return size // block if block and size != UNKNOWN else None


def _promised_by_flac(file: BinaryIO) -> int | None:
    head = file.read(4 + 18)  # a metadata block's header, then STREAMINFO up to the 36-bit count of samples
    if len(head) < 22 or head[0] & 0x7F:
        return None
    return int.from_bytes(head[17:22], "big") & ((1 << 36) - 1) or None


def _promised_by_mp3(path: Path, file: BinaryIO) -> int | None:
    """With a Xing or Info header libsndfile knows the exact count, encoder delay and padding taken off."""
    import soundfile

    file.seek(0)
    head = file.read(10)
    skip = 0
    if head[:3] == b"ID3" and len(head) == 10:
        skip = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(skip)
    first = file.read(256)
    if b"Xing" not in first and b"Info" not in first:
        return None
    try:
        return int(soundfile.info(path).frames)
    except soundfile.LibsndfileError:
        return None  # decoding it will say what is wrong


def check_header(path: Path, native_rate_hz: int | None = None) -> None:
    """Open a file without decoding it. Raises DataError if it is missing, empty, no audio, of another rate, or truncated.

    A truncated wav or au is known by its header alone, an mp4 by its table of packets; what is wrong inside a flac, ogg or
    mp3 only decoding tells.
    """
    if path.suffix.lower() in CONTAINERS:
        with _container(path) as container:
            _check_packets(path, container, native_rate_hz)
        return
    with _opened(path) as file:
        _check_rate(path, file.samplerate, native_rate_hz)
        promised = promised_samples(path)
        if promised is not None and file.frames < promised:
            raise DataError(f"{path} is truncated: {promised:,} samples promised, {file.frames:,} found; {AGAIN}")


def _check_packets(path: Path, container: Any, native_rate_hz: int | None) -> None:
    """Every stream of an mp4 holds as many whole packets as its table says."""
    streams = container.streams.audio
    if not streams:
        raise DataError(f"{path} has no audio stream: {AGAIN}")
    found = dict.fromkeys((one.index for one in streams), 0)
    for packet in container.demux(*streams):
        found[packet.stream.index] += bool(packet.size) and not packet.is_corrupt
    for one in streams:
        _check_rate(path, one.rate, native_rate_hz)
        if found[one.index] < one.frames:
            raise DataError(
                f"{path} is truncated: {one.frames:,} packets promised, {found[one.index]:,} found; {AGAIN}"
            )


def _check_rate(path: Path, rate: int, native_rate_hz: int | None) -> None:
    if native_rate_hz is not None and rate != native_rate_hz:
        raise DataError(
            f"{path} has {rate:,} Hz; the corpus has {native_rate_hz:,} Hz, so this is not its own file: {AGAIN}"
        )


def duration_s(path: Path) -> float:
    """Seconds that a file lasts by its header. Raises DataError if it is no audio."""
    told = shape(path)
    return told.samples / told.rate_hz


def normalize(waveform: NDArray[np.float32], how: Normalize) -> NDArray[np.float32]:
    """`(samples,)` as it is (`none`), over its largest magnitude (`peak`), or with mean 0 and variance 1 (`zscore`).

    zscore divides by sqrt(variance + 1e-7), the population variance, as transformers' Wav2Vec2FeatureExtractor does.
    """
    import numpy as np

    if how == "peak":
        scaled: NDArray[np.float32] = (waveform / np.abs(waveform).max()).astype(np.float32)
        return scaled
    if how == "zscore":
        exact = waveform.astype(np.float64)
        standard: NDArray[np.float32] = ((exact - exact.mean()) / np.sqrt(exact.var() + 1e-7)).astype(np.float32)
        return standard
    return waveform


def cut(waveform: NDArray[np.float32], length: int | None, first: int | None = None) -> NDArray[np.float32]:
    """`(samples,)` -> `(windows, length)`: equal windows one after another; a remainder is dropped.

    length: samples of a window, None for one window of all. first: use only so many samples.
    Raises DataError (without the file's name, which the caller knows) if there is less than one window.
    """
    used = waveform[:first]
    if length is None:
        return used[None]
    windows = len(used) // length
    if not windows:
        raise DataError(f"{len(used):,} samples are less than one window of {length:,}")
    return used[: windows * length].reshape(windows, length)


def digest(path: Path) -> str:
    """sha256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        total = hashlib.sha256()
        while part := file.read(1 << 20):
            total.update(part)
    return total.hexdigest()
