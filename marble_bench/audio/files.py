"""Files of sound: what they hold, and the samples of a span of them, decoded in blocks.

wav, RF64, W64, AIFF, CAF, au, flac, ogg and mp3 through libsndfile, mp4 through PyAV (the extra `stems`). How long a file
is says `sizes`, and of an mp3 `mpeg`; libsndfile's own count is never used. Spans are rounded to samples of the file's own
rate.

Seeking is used where it is exact to the sample (uncompressed samples, flac); everything else is decoded from its start and
thrown away up to the span, so a span is always that slice of the whole. libsndfile misses a sample of Vorbis that lies in
the last page of a file.

What goes wrong with one file is a DataError that names it, whatever it is: a header, a coding, the system's refusal to open
it, a lack of memory.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from marble_bench.audio import mpeg
from marble_bench.audio.sizes import Size, measure
from marble_bench.audio.waveform import Channel, Levels, Resampler, SampleBuffer, Unusable, average_channels
from marble_bench.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

AGAIN = "get the file again"
CONTAINERS = (".mp4", ".m4a")  # what holds streams of its own, and libsndfile does not read
RATES_HZ = 1000, 768_000  # the lowest and the highest sampling rate that is believed
CHANNELS_MOST = 64
BLOCK_BYTES = 1 << 20  # of decoded samples at a time
SPAN_BYTES_MOST = 1 << 30  # of the samples of one span: 3.1 h of mono at 24 kHz
# codings that libsndfile finds any sample of exactly
SEEKABLE = ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW")
FORMATS = ("WAV", "WAVEX", "RF64", "W64", "AU", "AIFF", "CAF", "FLAC", "OGG", "MP3")
FAULTS = (OSError, MemoryError, RuntimeError, ValueError, ArithmeticError, IndexError, EOFError, struct.error)


@dataclass(frozen=True)
class OpenFile:
    """A file, or one stream of an mp4, that is open.

    streams: how many the file has. blocks: `(start, stop) -> (samples, channels)` float32, one after another, from sample
    `start` on; stop None for "to the end". part: for messages, which of several streams it is.
    """

    rate_hz: int
    channels: int
    size: Size
    streams: int
    blocks: Callable[[int, int | None], Iterator[NDArray[np.float32]]]
    part: str = ""


def read(
    path: Path,
    *,
    sample_rate_hz: int,
    start_s: float = 0.0,
    duration_s: float | None = None,
    at_most_s: float | None = None,
    native_rate_hz: int | None = None,
    change: Callable[[NDArray[np.float32], int], NDArray[np.float32]] | None = None,
    oddities: list[str] | None = None,
) -> NDArray[np.float32]:
    """Decode a span of a file: `(samples,)` float32 mono at `sample_rate_hz`.

    start_s, duration_s: the span; None for "to the end". at_most_s: decode no more than so much of it.
    native_rate_hz: the rate that the file must have. change: `(mono samples, rate) -> samples` at the file's own rate.
    oddities: is given the names of `ODDITIES` that hold of the span.
    Raises DataError naming the file if it is missing, empty, no audio, truncated, silent, not finite, of another rate,
    shorter than the span, or of a span that is too long to be held.
    """
    with _name_file_in_errors(path), _open(path, 0, native_rate_hz) as source:
        rate, levels, buffer = source.rate_hz, Levels(), SampleBuffer()
        resampler = Resampler(rate, sample_rate_hz, 1)
        for block in _read_span(source, *_convert_to_samples(rate, start_s, duration_s, at_most_s)):
            mono = average_channels(block)
            levels.add(block, mono)
            buffer.add(mono if change else resampler.add(mono))
            _check_span(buffer)
        _check_silence(levels, "" if not start_s and duration_s is None else f" from {start_s} s on")
        if change:
            changed = _apply_change(change, buffer.all(), rate)
            buffer = SampleBuffer()
            buffer.add(resampler.add(changed, last=True))
        else:
            buffer.add(resampler.add(mono[:0], last=True))
        if oddities is not None:
            oddities += [*source.size.notes, *levels.oddities]
        samples = buffer.all()
        if not len(samples):
            raise Unusable(f"is too short: nothing is left of it at {sample_rate_hz:,} Hz")
        return samples


def read_native(
    path: Path,
    *,
    start_s: float = 0.0,
    duration_s: float | None = None,
    native_rate_hz: int | None = None,
    channel: Channel = "mean",
    change: Callable[[NDArray[np.float32], int], NDArray[np.float32]] | None = None,
    oddities: list[str] | None = None,
) -> tuple[NDArray[np.float32], int]:
    """Decode a span of a file at its own rate: `(samples,)` float32 mono, and that rate.

    channel: how several become one. All else, and the errors, as `read` has them.
    """
    with _name_file_in_errors(path), _open(path, 0, native_rate_hz) as source:
        rate, levels, buffer = source.rate_hz, Levels(), SampleBuffer()
        for block in _read_span(source, *_convert_to_samples(rate, start_s, duration_s, None)):
            mono = average_channels(block) if channel == "mean" else block[:, 0]
            levels.add(block, mono)
            buffer.add(mono)
            _check_span(buffer)
        _check_silence(levels, "" if not start_s and duration_s is None else f" from {start_s} s on")
        if oddities is not None:
            oddities += [*source.size.notes, *levels.oddities]
        samples = buffer.all()
        return (_apply_change(change, samples, rate) if change else samples), rate


def _check_silence(levels: Levels, where: str) -> None:
    """Raise DataError for silence. where: of what stretch, for the message."""
    if not levels.mono_peak:
        if levels.peak:
            raise Unusable(f"has channels that cancel each other: their mean is silent{where}; use one of them")
        raise DataError(f"is silent{where}")


def _apply_change(
    change: Callable[[NDArray[np.float32], int], NDArray[np.float32]], samples: NDArray[np.float32], rate_hz: int
) -> NDArray[np.float32]:
    try:
        return change(samples, rate_hz)
    except DataError as error:
        raise Unusable(f"cannot be changed: {error}") from error


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

    with _name_file_in_errors(path), _open(path, stream, native_rate_hz) as source:
        rate, levels, buffer = source.rate_hz, Levels(), SampleBuffer()
        resampler = Resampler(rate, sample_rate_hz or rate, source.channels)
        for block in _read_span(source, *_convert_to_samples(rate, start_s, duration_s, None)):
            levels.add(block, block[:, 0])
            buffer.add(resampler.add(block))
            _check_span(buffer)
        buffer.add(resampler.add(block[:0], last=True))
        return np.ascontiguousarray(buffer.all().reshape(-1, source.channels).T)


@dataclass(frozen=True)
class Shape:
    """What a file holds: samples per channel, channels, rate, and how many streams of audio.

    truncated: whether its header promises more samples.
    """

    samples: int
    channels: int
    rate_hz: int
    streams: int = 1
    truncated: bool = False

    @property
    def length_s(self) -> float:
        """Seconds that it lasts."""
        return self.samples / self.rate_hz


def read_shape(path: Path, stream: int = 0, *, whole: bool = False, native_rate_hz: int | None = None) -> Shape:
    """What a file, or one stream of an mp4, holds; it is decoded only where nothing else tells its length.

    Raises DataError if it is no audio, or has none; with `whole` and `native_rate_hz` also as `check_header` does.
    """
    if whole and path.suffix.lower() in CONTAINERS:
        check_header(path, native_rate_hz)
    with _name_file_in_errors(path), _open(path, stream, native_rate_hz) as source:
        if whole:
            _check_whole(source.size)
        samples = source.size.samples
        if samples is None:
            samples = sum(len(block) for block in source.blocks(0, None))
        if not samples:
            raise DataError("has no samples")
        return Shape(samples, source.channels, source.rate_hz, source.streams, source.size.truncated)


def read_duration_s(path: Path, *, whole: bool = False, native_rate_hz: int | None = None) -> float:
    """Seconds that a file lasts, by what is there. Raises DataError as `read_shape` does."""
    return read_shape(path, whole=whole, native_rate_hz=native_rate_hz).length_s


def check_header(path: Path, native_rate_hz: int | None = None) -> None:
    """Open a file without decoding it. Raises DataError if it is missing, empty, no audio, of another rate, or truncated.

    What is wrong inside the frames of a flac, ogg or mp3 only decoding tells.
    """
    if path.suffix.lower() in CONTAINERS:
        with _name_file_in_errors(path), _open_container(path) as container:
            _check_packets(container, native_rate_hz)
        return
    with _name_file_in_errors(path), _open(path, 0, native_rate_hz) as source:
        _check_whole(source.size)
        if source.size.samples == 0:
            raise DataError("has no samples")


def _check_whole(size: Size) -> None:
    if size.truncated:
        raise DataError(f"is truncated: {size.promised:,} samples promised, {size.there:,} found")


def digest(path: Path) -> str:
    """sha256 of a file's bytes, as hex. Raises DataError naming the file if it cannot be read."""
    try:
        with path.open("rb") as file:
            total = hashlib.sha256()
            while part := file.read(1 << 20):
                total.update(part)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return total.hexdigest()


@contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    """Name this file in whatever goes wrong."""
    try:
        yield
    except UsageError:
        raise
    except Unusable as error:
        raise DataError(f"{path} {error}") from error
    except DataError as error:
        raise DataError(f"{path} {error}: {AGAIN}") from error
    except FAULTS as error:
        message = getattr(error, "error_string", "") or getattr(error, "strerror", "") or str(error)
        what = "needs more memory than there is" if isinstance(error, MemoryError) else "cannot be decoded"
        raise DataError(f"{path} {what} ({message.strip() or type(error).__name__}): {AGAIN}") from error


@contextmanager
def _open(path: Path, stream: int, native_rate_hz: int | None) -> Iterator[OpenFile]:
    """Open a file. Raises DataError, without its name, for one that cannot be used."""
    with ExitStack() as stack:
        if path.suffix.lower() in CONTAINERS:
            source = _open_with_av(stack.enter_context(_open_container(path)), stream)
        else:
            source = _open_with_libsndfile(path, stack)
        if not RATES_HZ[0] <= source.rate_hz <= RATES_HZ[1]:
            raise DataError(f"has {source.rate_hz:,} Hz; accepted are {RATES_HZ[0]:,} to {RATES_HZ[1]:,} Hz")
        if not 1 <= source.channels <= CHANNELS_MOST:
            raise DataError(f"has {source.channels:,} channels; at most {CHANNELS_MOST} are accepted")
        _check_rate(source.rate_hz, native_rate_hz)
        yield source


def _open_with_libsndfile(path: Path, stack: ExitStack) -> OpenFile:
    """Open a file that libsndfile decodes."""
    _check_there(path)
    size = measure(path)
    seen: Any = path
    if size.stream is not None:
        seen = mpeg.FrameView(stack.enter_context(path.open("rb")), size.stream)
    elif size.patched is not None:
        seen = PatchedFile(stack.enter_context(path.open("rb")), *size.patched)
    try:
        file = stack.enter_context(_open_forward_only(seen))
    except RuntimeError:
        _check_whole(size)
        raise
    header = size.stream.header if size.stream else None
    if header and (file.samplerate, file.channels) != (header.rate_hz, header.channels):
        raise DataError("is not a valid mp3: its frames disagree")
    if file.format not in FORMATS:
        raise Unusable(f"is {file.format}, whose length cannot be checked: convert it to wav or flac with ffmpeg")

    def blocks(start: int, stop: int | None) -> Iterator[NDArray[np.float32]]:
        at = -size.stream.skipped if size.stream else 0
        end = size.samples if stop is None else stop if size.samples is None else min(stop, size.samples)
        if end is not None and start >= end:
            return
        exact = file.subtype in SEEKABLE and (file.format != "FLAC" or file.frames == size.samples)
        if start and exact and size.samples is not None:
            file.seek(start)
            at = start
        most = max(1, BLOCK_BYTES // (4 * file.channels))
        while end is None or at < end:
            block = file.read(most if end is None else min(most, end - at), dtype="float32", always_2d=True)
            if not len(block):
                return
            first, at = max(0, start - at), at + len(block)
            if first < len(block):
                yield block[first:]

    return OpenFile(file.samplerate, file.channels, size, 1, blocks)


class PatchedFile(io.RawIOBase):
    """A file of which some bytes are seen as others."""

    def __init__(self, file: BinaryIO, place: int, content: bytes) -> None:
        self.file, self.place, self.content = file, place, content

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        at = self.file.tell()
        part = bytearray(self.file.read(len(buffer)))
        for index, byte in enumerate(self.content, self.place - at):
            if 0 <= index < len(part):
                part[index] = byte
        buffer[: len(part)] = part
        return len(part)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()


def _open_forward_only(file: Any) -> Any:
    """A file opened by libsndfile, which soundfile is kept from seeking in: it does so after every block, to where it is."""
    import soundfile

    class Forward(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Forward(file)


def _check_there(path: Path) -> None:
    if path.is_dir():
        raise DataError("is a folder, not an audio file")
    if not path.is_file():
        raise DataError("does not exist")
    if not path.stat().st_size:
        raise DataError("is empty (0 bytes)")


def _check_rate(rate: int, native_rate_hz: int | None) -> None:
    if native_rate_hz is not None and rate != native_rate_hz:
        raise DataError(f"has {rate:,} Hz; the corpus has {native_rate_hz:,} Hz, so this is not its own file")


def _convert_to_samples(
    rate: int, start_s: float, duration_s: float | None, at_most_s: float | None
) -> tuple[int, int | None, int | None]:
    """Start, exact count, and largest count of a span."""
    most = None if at_most_s is None else round(at_most_s * rate)
    count = None if duration_s is None else round(duration_s * rate)
    if count is not None and most is not None:
        count, most = min(count, most), None
    return round(start_s * rate), count, most


def _check_span(buffer: SampleBuffer) -> None:
    if 4 * buffer.count > SPAN_BYTES_MOST:
        raise Unusable(
            f"is too long to be read at once: its samples take more than {SPAN_BYTES_MOST >> 20:,} MB; give clips a "
            "duration, or the task's window a first_s"
        )


def _read_span(source: OpenFile, start: int, count: int | None, most: int | None) -> Iterator[NDArray[np.float32]]:
    """Blocks of `count` samples, or of all to the end but no more than `most`.

    The file's promise is checked as far as that reaches, at the end. Raises DataError if a sample is missing.
    """
    size, limit = source.size, count if count is not None else most
    end = start
    for block in source.blocks(start, None if limit is None else start + limit):
        yield block
        end += len(block)
    promised = size.promised if size.promised is not None else size.there
    if count is None and promised is not None and end < (promised if most is None else min(promised, start + most)):
        raise DataError(f"is truncated: {promised:,} samples{source.part} promised, {end:,} found")
    if count is not None and end - start < count:
        cut = promised is not None and promised >= start + count
        message = f"asked for {count:,} samples{source.part} from {start:,} on, {end - start:,} found"
        message += "" if promised is None else f" of {promised:,} promised"
        raise DataError(f"is truncated: {message}") if cut else Unusable(f"is too short: {message}")
    if end == start:
        raise DataError(f"has no samples{source.part}" + (f" from {start:,} on" if start else ""))


@contextmanager
def _open_container(path: Path) -> Iterator[Any]:
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
    except av.error.FFmpegError as error:  # some of them are no OSError
        raise DataError(f"cannot be decoded ({error.strerror})") from error


def _open_with_av(container: Any, stream: int) -> OpenFile:
    """One audio stream of an mp4."""
    if stream >= len(container.streams.audio):
        raise DataError(f"has {len(container.streams.audio)} audio streams, and number {stream} is asked for")
    one = container.streams.audio[stream]
    if one.codec_context is None or not one.rate:
        raise DataError(f"has a stream {stream} with an unknown coding")
    channels = one.codec_context.channels
    # what the table promises; what a coder adds at the end may come on top
    promised = int(one.duration * one.time_base * one.rate) if one.duration else None

    def blocks(start: int, stop: int | None) -> Iterator[NDArray[np.float32]]:
        import numpy as np

        at = 0
        for frame in container.decode(audio=stream):
            values = frame.to_ndarray()
            if not frame.format.is_planar:
                values = values.reshape(-1, frame.layout.nb_channels).T
            if values.dtype.kind == "i":
                values = values / np.float32(1 << (8 * values.dtype.itemsize - 1))
            if values.shape[0] != channels:
                raise DataError(f"changes from {channels} to {values.shape[0]} channels on the way")
            low = max(start - at, 0)
            high = values.shape[1] if stop is None else min(stop - at, values.shape[1])
            at += values.shape[1]
            if high > low:
                yield values[:, low:high].T.astype(np.float32)
            if stop is not None and at >= stop:
                return

    return OpenFile(one.rate, channels, Size(promised), len(container.streams.audio), blocks, f" of stream {stream}")


def _check_packets(container: Any, native_rate_hz: int | None) -> None:
    """Every stream of an mp4 holds as many whole packets as its table says."""
    streams = container.streams.audio
    if not streams:
        raise DataError("has no audio stream")
    found = dict.fromkeys((one.index for one in streams), 0)
    for packet in container.demux(*streams):
        found[packet.stream.index] += bool(packet.size) and not packet.is_corrupt
    for one in streams:
        _check_rate(one.rate, native_rate_hz)
        if found[one.index] < one.frames:
            raise DataError(f"is truncated: {one.frames:,} packets promised, {found[one.index]:,} found")
