"""The frames of an mp3 file, counted one by one, and what its header says of them.

An mp3 has no length of its own. It is a row of frames, each with a header that tells its size; encoders put a first frame
in front (Xing, Info or VBRI) that is no sound and may tell how many follow. libsndfile believes that count, and where there
is none it divides the file's size by the size of the first frame, which is wrong for a variable bit rate. So the frames are
counted here, and the decoder is given a `FrameView` that holds these frames only and that it reads to the end.

What is taken off is what ffmpeg takes off. If the header frame was written by LAME or libavformat it tells the encoder's
delay and padding: delay + 529 samples at the start (529 is the decoder's own delay), padding - 529 at the end. The padding
is left on where the count of frames is missing or is not that of the frames that are there, since the end is then another
one. Without such a header nothing is taken off: the sound begins about 1,105 samples late (25 ms at 44.1 kHz), in every
decoder. A last frame that is cut is decoded as if zeros followed, as ffmpeg does. Tags (ID3, APE) and bytes that belong to
no frame are left out wherever they are.

Departs from ffmpeg in three damaged cases. Bytes that are no frame in the middle of a file cost ffmpeg the next frame, here
none. Where a header frame tells too few frames, ffmpeg takes the padding out of the middle. Bytes before a header frame make
ffmpeg overlook it.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import BinaryIO

from marble_bench.audio.waveform import Unusable
from marble_bench.errors import DataError

CHUNK = 1 << 20
DECODER_DELAY = 529  # samples that an mp3 decoder itself is late
GAPLESS = (b"LAME", b"Lavf", b"Lavc")  # who writes delay and padding, as ffmpeg knows them
FAR = 1 << 50  # where a `FrameView` says that its bytes end
STARTS = re.compile(rb"\xff[\xe2-\xff][\x00-\xef]|ID3|APETAGEX")  # what may begin a frame or a tag
LONGEST_START = 8
TAG_BYTES = 128  # an ID3v1 tag, which a decoder looks for at the end
# kb/s by (MPEG-1 or not, layer), ISO 11172-3 and 13818-3
BITRATES = {
    (True, 1): (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by the bits of the version


@dataclass(frozen=True)
class Header:
    """What the four bytes before a frame say. free: its size is not told ("free format")."""

    mpeg1: bool
    layer: int
    rate_hz: int
    channels: int
    free: bool
    size: int

    @property
    def samples(self) -> int:
        """Samples per channel in a frame."""
        return 384 if self.layer == 1 else 576 if self.layer == 3 and not self.mpeg1 else 1152

    def matches(self, other: Header) -> bool:
        """Whether both can be in one stream."""
        return (self.mpeg1, self.layer, self.rate_hz, self.channels) == (
            other.mpeg1,
            other.layer,
            other.rate_hz,
            other.channels,
        )


@dataclass(frozen=True)
class Stream:
    """The frames of a file.

    segments: where they lie, `(first byte, count of bytes)`. frames: how many, a cut one included. claimed: how many the
    header frame tells, None if it tells nothing. delay, padding: of the encoder, in samples, None where they are not told.
    lacking: bytes that the last frame lacks, 0 for a file that ends with a frame. foreign: bytes that are neither
    frame, tag nor zero.
    """

    header: Header
    segments: tuple[tuple[int, int], ...]
    frames: int
    claimed: int | None
    delay: int | None
    padding: int | None
    lacking: int
    foreign: int

    @property
    def skipped(self) -> int:
        """Samples that are taken off at the start."""
        return 0 if self.delay is None else self.delay + DECODER_DELAY

    def _count_left(self, frames: int) -> int:
        trimmed = 0 if self.padding is None else max(0, self.padding - DECODER_DELAY)
        return max(0, frames * self.header.samples - self.skipped - (trimmed if frames == self.claimed else 0))

    @property
    def samples(self) -> int:
        """Samples per channel that are decoded, without what is taken off."""
        return self._count_left(self.frames)

    @property
    def whole(self) -> int:
        """As `samples`, without a last frame that is cut."""
        return self._count_left(self.frames - bool(self.lacking))

    @property
    def promised(self) -> int | None:
        """Samples per channel by the header frame's count; None if it tells none."""
        return None if self.claimed is None else self._count_left(self.claimed)


class FrameView(io.RawIOBase):
    """The frames of a file and nothing else, as a file that seems to have no end.

    A decoder that guesses the count of frames by the file's size then guesses too many, and reads on until none is left.
    """

    def __init__(self, file: BinaryIO, stream: Stream) -> None:
        self.file, self.at, self.current = file, 0, 0
        self.parts: list[
            tuple[int, int, int]
        ] = []  # where a part begins in this view, where in the file, how long it is
        self.end = 0
        for first, size in stream.segments:
            self.parts.append((self.end, first, size))
            self.end += size
        self.lacking = stream.lacking  # zeros behind the end

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        wanted = len(buffer)
        if self.at >= FAR - TAG_BYTES:  # where an ID3v1 tag would be: none
            buffer[:] = bytes(wanted)
            self.at += wanted
            return wanted
        done = 0
        while done < wanted:
            begins, first, size = self.parts[self.current]
            if not begins <= self.at < begins + size:
                found = next((at for at, (b, _, s) in enumerate(self.parts) if b <= self.at < b + s), None)
                if found is None:
                    zeros = max(0, min(wanted - done, self.end + self.lacking - self.at))
                    buffer[done : done + zeros] = bytes(zeros)
                    self.at += zeros
                    return done + zeros
                self.current = found
                continue
            self.file.seek(first + self.at - begins)
            part = self.file.read(min(wanted - done, begins + size - self.at))
            if not part:
                break
            buffer[done : done + len(part)] = part
            done += len(part)
            self.at += len(part)
        return done

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: FAR}[whence] + offset
        return self.at

    def tell(self) -> int:
        return self.at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def parse(word: int) -> Header | None:
    """What four bytes say, read as one big-endian number; None if they are no frame's header."""
    version, layer, bitrate, rate = word >> 19 & 3, 4 - (word >> 17 & 3), word >> 12 & 15, word >> 10 & 3
    if word >> 21 != 0x7FF or version == 1 or layer == 4 or bitrate == 15 or rate == 3:
        return None
    mpeg1, rate_hz, padded = version == 3, RATES_HZ[version][rate], word >> 9 & 1
    channels = 1 if word >> 6 & 3 == 3 else 2
    if not bitrate:
        return Header(mpeg1, layer, rate_hz, channels, True, 0)
    bits_s = 1000 * BITRATES[mpeg1, layer][bitrate - 1]
    if layer == 1:
        size = (12 * bits_s // rate_hz + padded) * 4
    else:
        size = (72 if layer == 3 and not mpeg1 else 144) * bits_s // rate_hz + padded
    return Header(mpeg1, layer, rate_hz, channels, False, size)


def scan_frames(file: BinaryIO, size: int) -> Stream:
    """Walk over all frames of a file of so many bytes; a megabyte of it is in memory.

    Raises DataError, without the file's name, if there are none, or if rate or channels change on the way.
    """
    walk = _Scanner(file, size)
    first_at = walk.find_next_frame(0)
    if first_at is None:
        raise DataError("has no mp3 frame")
    header = walk.header
    assert header is not None
    claimed, delay, padding, is_information = _read_information(walk.read_bytes_at(first_at, header.size), header)
    walk.to_end(first_at + header.size if is_information else first_at)
    if not walk.frames:
        raise DataError("has no mp3 frame except its header")
    if walk.foreign > max(size // 2, CHUNK):
        raise DataError(f"holds {walk.foreign:,} bytes of {size:,} that belong to no mp3 frame")
    return Stream(header, tuple(walk.segments), walk.frames, claimed, delay, padding, walk.lacking, walk.foreign)


class _Scanner:
    """Goes over a file from frame to frame."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.size = file, size
        self.buffer, self.base = b"", 0
        self.header: Header | None = None
        self.sizes: dict[int, int] = {}  # by a frame's header: its size, if it belongs to this stream
        self.at, self.frames, self.foreign, self.lacking = 0, 0, 0, 0
        self.segments: list[tuple[int, int]] = []

    def read_bytes_at(self, at: int, count: int) -> bytes:
        """Some bytes of the file; fewer at its end."""
        if at < self.base or at + count > self.base + len(self.buffer):
            self.file.seek(at)
            self.buffer, self.base = self.file.read(max(count, CHUNK)), at
        return self.buffer[at - self.base : at - self.base + count]

    def to_end(self, first_at: int) -> None:
        """Count every frame from one on."""
        self.at = began = first_at
        sizes = self.sizes
        while True:
            here = self.at - self.base
            word = self.buffer[here : here + 4] if here >= 0 else b""
            if len(word) < 4:
                word = self.read_bytes_at(self.at, 4)
                if len(word) < 4:
                    break
            number = int.from_bytes(word, "big")
            size = sizes.get(number) or self._read_frame_size(number)
            if size and self.at + size <= self.size:
                self.at += size
                self.frames += 1
                continue
            if self.at > began:
                self.segments.append((began, self.at - began))
            if size:  # the last one, of which something is missing
                self.segments.append((self.at, self.size - self.at))
                self.lacking = self.at + size - self.size
                self.frames += 1
                return
            following = self.find_next_frame(self.at)
            if following is None:
                return
            self.at = began = self._skip_information(following)
        if self.at > began:
            self.segments.append((began, self.at - began))
        self.foreign += self.size - self.at

    def _skip_information(self, at: int) -> int:
        """Where the sound goes on: behind a header frame, which files have that were joined end to end."""
        found = parse(int.from_bytes(self.read_bytes_at(at, 4), "big"))
        assert found is not None
        return at + found.size if _read_information(self.read_bytes_at(at, found.size), found)[3] else at

    def _read_frame_size(self, number: int) -> int:
        """A frame's size by its header, 0 if it is none of this stream."""
        found = parse(number)
        if found is None or found.free or (self.header is not None and not found.matches(self.header)):
            return 0
        self.sizes[number] = found.size
        return found.size

    def find_next_frame(self, at: int) -> int | None:
        """Where the next frame begins: past tags, and past bytes that are none; None if there is no other.

        A frame is one if another of its kind, or the end of the file, or a tag, follows it.
        """
        while at + 4 <= self.size:
            if tag := self._tag(at):
                at += tag
                continue
            found = parse(int.from_bytes(self.read_bytes_at(at, 4), "big"))
            if found and self._is_frame(found, at):
                if self.header is None:
                    self.header = found
                    return at
                if found.matches(self.header):
                    return at
                raise DataError(
                    f"changes from {_describe(self.header)} to {_describe(found)} at byte {at:,}: several files in one"
                )
            self.read_bytes_at(at, LONGEST_START)  # the buffer now holds what is here
            start, end = STARTS.search(self.buffer, at + 1 - self.base), self.base + len(self.buffer)
            to = self.base + start.start() if start else end if end >= self.size else max(at + 1, end - LONGEST_START)
            passed = self.buffer[at - self.base : to - self.base]
            self.foreign += len(passed) - passed.count(0)
            at = to
        self.foreign += max(0, self.size - at)
        return None

    def _is_frame(self, found: Header, at: int) -> bool:
        if found.free:
            following = self.read_bytes_at(at + 4, 8192).find(self.read_bytes_at(at, 2))
            if self.header is None and at == self._find_begin() and following > 0:
                raise Unusable("is in free format, whose frames do not state their size: convert it with ffmpeg")
            return False
        behind = at + found.size
        if behind >= self.size:
            return behind == self.size or (self.header is not None and found.matches(self.header))
        word = self.read_bytes_at(behind, 4)
        next_one = parse(int.from_bytes(word, "big")) if len(word) == 4 else None
        if next_one is not None and not next_one.free and next_one.matches(found):
            return True
        return bool(self._tag(behind)) and self.header is not None

    def _find_begin(self) -> int:
        """Where the file begins behind its ID3v2 tags."""
        at = 0
        while tag := self._tag(at):
            at += tag
        return at

    def _tag(self, at: int) -> int:
        """The size of a tag that begins here, 0 for none."""
        head = self.read_bytes_at(at, 32)
        if head[:3] == b"ID3" and len(head) >= 10 and all(byte < 0x80 for byte in head[6:10]):
            footer = 10 if head[5] & 0x10 else 0
            return 10 + footer + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        if head[:3] == b"TAG" and self.size - at in (TAG_BYTES, TAG_BYTES + 227):
            return TAG_BYTES
        if head[:8] == b"APETAGEX" and len(head) == 32:
            size = int.from_bytes(head[12:16], "little")  # of what follows this header, the footer included
            is_header = int.from_bytes(head[20:24], "little") & 1 << 29
            return 32 + size if is_header and at + 32 + size <= self.size else 32
        return 0


def _describe(header: Header) -> str:
    return f"{header.rate_hz:,} Hz with {header.channels} channel{'s' if header.channels > 1 else ''}"


def _read_information(frame: bytes, header: Header) -> tuple[int | None, int | None, int | None, bool]:
    """Count of frames, delay and padding that a header frame tells, and whether the frame is one."""
    if header.layer != 3:
        return None, None, None, False
    if frame[36:40] == b"VBRI":
        return None, None, None, True
    side = 17 if header.mpeg1 == (header.channels == 1) else 32 if header.mpeg1 else 9
    at = 4 + side
    if frame[at : at + 4] not in (b"Xing", b"Info") or len(frame) < at + 8:
        return None, None, None, False
    flags = int.from_bytes(frame[at + 4 : at + 8], "big")
    at += 8
    claimed = None
    if flags & 1:
        claimed = int.from_bytes(frame[at : at + 4], "big") or None
        at += 4
    at += 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    if frame[at : at + 4] not in GAPLESS or len(frame) < at + 24:
        return claimed, None, None, True
    delays = int.from_bytes(frame[at + 21 : at + 24], "big")
    return claimed, delays >> 12, delays & 0xFFF, True
