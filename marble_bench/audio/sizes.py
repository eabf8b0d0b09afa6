"""How long a sound file is: by what its header promises, and by the bytes that are there.

No decoder is asked, and nothing is allocated by a number from a file. `measure` reads headers, the last frame of a flac, the
headers of all ogg pages, and of an mp3 every frame's header (see `mpeg`). The rules:

- *Truncated* is a file with fewer samples than its header promises. What a container promises: the size of the chunk that
  holds the samples (wav, RF64, W64, AIFF, CAF, au); the count in STREAMINFO (flac), in a Xing or Info frame (mp3), or in the
  last page's position (ogg, whose last page must also be marked as the last). A size that a streaming writer could not know
  promises nothing, and the samples reach to the end of the file: 0 with bytes behind it that are no chunks, 2^31 or 2^32 or
  up to 4,096 below either (0x7FFFF000, 0x80000000 and 0xFFFFFFFF are in use), and in a CAF -1.
- *Contradictory* is a header of which two numbers exclude each other: bytes of a sample frame that are not channels times
  bytes of a sample, bytes a second that are not rate times that (for coded blocks, by 10 %), a flac with more samples than
  STREAMINFO promises, or more than `SLACK` bytes behind the samples that are no chunks. Up to so many are left unread, and
  noted, as is a part of a sample frame, and a container that tells another size than the file has.
- Coded wavs (MS and IMA ADPCM, GSM 6.10) have whole blocks; the `fact` chunk says where in the last block the sound ends.
- An mp3 without a count, a flac of unknown length and the streaming writers' files have no promise: a cut one is known only
  by a frame that is cut, which is noted.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from marble_bench.audio import mpeg
from marble_bench.audio.waveform import Unusable
from marble_bench.errors import DataError

SLACK = 4096  # bytes behind the samples that may belong to nothing
ROUNDING = 16  # bytes that writers are off by when they tell the size of a whole container
PAGE = 4096  # how far below 2^31 or 2^32 a size is that means "unknown"
PLAIN = {1: None, 3: None, 6: 1, 7: 1}  # wav codings whose block is a sample of each channel; bytes of one where fixed
PCM, MS_ADPCM, IMA_ADPCM, GSM, EXTENSIBLE = 1, 2, 0x11, 0x31, 0xFFFE
FFMPEG_PACE = 16_000  # bytes a second that ffmpeg tells of every ADPCM: its default bit rate, which says nothing
AU_BYTES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 4, 6: 4, 7: 8, 27: 1}  # bytes of a sample by the header's coding
AIFF_BYTES = {b"fl32": 4, b"FL32": 4, b"fl64": 8, b"FL64": 8, b"ulaw": 1, b"ULAW": 1, b"alaw": 1, b"ALAW": 1}
AIFF_PLAIN = (b"NONE", b"sowt", b"twos", b"in24", b"in32", b"42ni", b"23ni", b"raw ")
W64_RIFF, W64_TAIL = bytes.fromhex("726966662e91cf11a5d628db04c10000"), bytes.fromhex("f3acd3118cd100c04f8edb8a")
OPUS_HZ = 48000  # what an ogg's positions of Opus count, whatever the rate is
FLAC_RATES_HZ = dict(
    enumerate((88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000), 1)
)  # by a frame header's code
FLAC_TAIL = 1 << 18  # bytes at the end of a flac that its last frame is looked for in
FLAC_ENDS = 4  # places where that frame may end: the file's end, or where a damaged one behind it begins


@dataclass(frozen=True)
class Size:
    """Samples per channel of a file.

    promised: by its header, None for nothing. there: by its bytes, None where only decoding tells. stream: the frames, of an
    mp3. notes: what is odd without being wrong, by the names of `waveform.ODDITIES`. patched: bytes that the
    decoder shall see in place of the file's, `(place, bytes)`.
    """

    promised: int | None = None
    there: int | None = None
    stream: mpeg.Stream | None = None
    notes: tuple[str, ...] = ()
    patched: tuple[int, bytes] | None = None

    @property
    def samples(self) -> int | None:
        """Samples that can be read; None where only decoding tells."""
        known = [count for count in (self.promised, self.there) if count is not None]
        return min(known) if known else None

    @property
    def truncated(self) -> bool:
        return self.promised is not None and self.there is not None and self.there < self.promised


def measure(path: Path) -> Size:
    """How long a file is. Raises DataError, without the file's name, if its header contradicts itself or the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = _skip_id3(file, size)
        head = _read_at(file, begin, 12)
        if head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE":
            return _read_wav(file, begin, size, "big" if head[:4] == b"RIFX" else "little", head[:4] == b"RF64")
        if head[:4] == b".snd":
            return _read_au(file, begin, size)
        if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
            return _read_aiff(file, begin, size, head[8:12] == b"AIFC")
        if head[:4] == b"riff" and _read_at(file, begin, 16) == W64_RIFF:
            return _read_w64(file, begin, size)
        if head[:4] == b"caff":
            return _read_caf(file, begin, size)
        if head[:4] == b"fLaC":
            return _read_flac(file, begin, size)
        if head[:4] == b"OggS":
            return _read_ogg(file, begin, size)
        if begin or head[:1] == b"\xff" or path.suffix.lower() == ".mp3":
            return _read_mp3(file, size)
    raise Unusable("is not a wav, RF64, W64, AIFF, CAF, au, flac, ogg or mp3 file: convert it, for example with ffmpeg")


def _read_at(file: BinaryIO, place: int, count: int) -> bytes:
    file.seek(place)
    return file.read(count)


def _skip_id3(file: BinaryIO, size: int) -> int:
    """Where a file begins behind the ID3v2 tags that some writers put before any format."""
    begin = 0
    while begin < size and (head := _read_at(file, begin, 10))[:3] == b"ID3" and len(head) == 10:
        footer = 10 if head[5] & 0x10 else 0
        begin += 10 + footer + ((head[6] & 127) << 21 | (head[7] & 127) << 14 | (head[8] & 127) << 7 | head[9] & 127)
    return begin if begin < size else 0


def _is_unknown(size: int) -> bool:
    """Whether a chunk's 32-bit size is one that a streaming writer puts for "unknown"."""
    return (1 << 31) - PAGE <= size <= 1 << 31 or size >= (1 << 32) - PAGE


def _iterate_chunks(file: BinaryIO, begin: int, size: int, order: str) -> Iterator[tuple[bytes, int, int]]:
    """Name, place of the content, and size of each chunk of a RIFF or FORM, as far as the file goes."""
    form = "<I" if order == "little" else ">I"
    at = begin + 12
    while at + 8 <= size:
        head = _read_at(file, at, 8)
        length = struct.unpack(form, head[4:])[0]
        yield head[:4], at + 8, length
        at += 8 + length + length % 2


def _describe_surplus(file: BinaryIO, end: int, size: int, stated_end: int | None, order: str) -> tuple[str, ...]:
    """What is to be noted of the bytes from `end` on, where the samples end: chunks, or too few to matter.

    stated_end: where the whole container ends by its own size. Raises DataError if there are more.
    """
    form = "<I" if order == "little" else ">I"
    at = end + (end % 2)
    while at + 8 <= size:
        head = _read_at(file, at, 8)
        length = struct.unpack(form, head[4:])[0]
        if head[:3] == b"TAG" and size - at == mpeg.TAG_BYTES:
            at = size
        elif not head[:4].strip(b" \0").isalnum() or at + 8 + length > size:
            break
        else:
            at += 8 + length + length % 2
    noted = _describe_left_over(size - at)
    agrees = stated_end is None or end <= stated_end <= at + 1 or abs(stated_end - size) <= ROUNDING
    return noted or (() if agrees else ("size",))


def _describe_left_over(foreign: int) -> tuple[str, ...]:
    if foreign > SLACK:
        raise DataError(
            f"has {foreign:,} bytes after the samples that its header states: the header or the end is damaged"
        )
    return ("surplus",) if foreign > 1 else ()


def _check(holds: bool, words: str) -> None:
    if not holds:
        raise DataError(f"has a header that contradicts itself: {words}")


@dataclass(frozen=True)
class _Coding:
    """Blocks of a wav: bytes of one, samples per channel in it, and channels."""

    bytes: int
    samples: int
    channels: int

    def count(self, size: int, fact: int | None) -> int:
        """Samples per channel in so many bytes, of which a `fact` chunk says how many of the last block's are sound.

        Writers that know only blocks put nothing, or the count over or times the channels (libsndfile), which says nothing.
        """
        full = size // self.bytes * self.samples
        if self.samples == 1 or fact in (None, 0, 0xFFFFFFFF, full, full // self.channels, full * self.channels):
            return full
        assert fact is not None
        _check(full - self.samples < fact <= full, f"{fact:,} samples in its fact chunk, {full:,} in its blocks")
        return fact


def _read_coding(fmt: bytes, order: str) -> _Coding:
    """What a wav's fmt chunk says. Raises DataError where its numbers contradict each other."""
    if len(fmt) < 16:
        raise DataError("has a header that is too short")
    form = "<" if order == "little" else ">"
    _, channels, rate, per_second, align, bits = struct.unpack(form + "HHIIHH", fmt[:16])
    kind = _read_kind(fmt, form)
    _check(channels > 0 and align > 0, f"{channels} channels in blocks of {align} bytes")
    if kind in PLAIN:
        wide = PLAIN[kind] or (bits + 7) // 8
        _check(align == channels * wide, f"{channels} channels of {wide} bytes are not blocks of {align}")
        _check(
            per_second in (0, rate * align), f"{rate:,} Hz and blocks of {align} bytes are not {per_second:,} a second"
        )
        return _Coding(align, 1, channels)
    valid_bits = struct.unpack(form + "H", fmt[18:20])[0] if len(fmt) >= 20 else 0
    if kind == GSM:
        _check(channels == 1 and align == 65, f"{channels} channels in blocks of {align} bytes of GSM 6.10")
        _check_pace(per_second, rate * align / 320)
        return _Coding(65, 320, 1)
    if kind == MS_ADPCM:
        samples = (align // channels - 7) * 2 + 2
    elif kind == IMA_ADPCM:
        samples = (align // channels - 4) * 2 + 1
    else:
        raise Unusable(
            f"has a coding (wav format 0x{kind:04X}) whose length cannot be checked: convert it, for example with ffmpeg"
        )
    _check(samples > 0 and valid_bits == samples, f"blocks of {align} bytes hold {samples} samples, not {valid_bits}")
    _check_pace(per_second, rate * align / samples)
    return _Coding(align, samples, channels)


def _read_kind(fmt: bytes, form: str) -> int:
    """The coding of a fmt chunk, which the extensible form tells behind the rest."""
    kind: int = struct.unpack(form + "H", fmt[:2])[0]
    if kind == EXTENSIBLE and len(fmt) >= 26:
        kind = struct.unpack(form + "H", fmt[24:26])[0]
    return kind


def _check_pace(stated: int, expected: float) -> None:
    """Bytes a second of coded blocks, which writers round in ways of their own, and some leave at 0."""
    _check(
        stated in (0, FFMPEG_PACE) or abs(stated - expected) <= 0.1 * expected,
        f"{stated:,} bytes a second, where {expected:,.0f} are needed",
    )


def _read_wav(file: BinaryIO, begin: int, size: int, order: str, is_rf64: bool) -> Size:
    form = "<I" if order == "little" else ">I"
    stated = struct.unpack(form, _read_at(file, begin + 4, 4))[0]
    large, fact, coding = None, None, None
    for name, at, length in _iterate_chunks(file, begin, size, order):
        if name == b"ds64" and length >= 24:
            stated, large = struct.unpack("<QQ", _read_at(file, at, 16))
        elif name == b"fact" and length >= 4:
            fact = struct.unpack(form, _read_at(file, at, 4))[0]
        elif name == b"fmt ":
            coding = _read_coding(_read_at(file, at, min(length, 64)), order)
        elif name == b"data":
            if coding is None:
                raise DataError("has no fmt chunk before its samples")
            length = large if is_rf64 and large is not None and length == 0xFFFFFFFF else length
            riff_end = None if _is_unknown(stated) or not stated else begin + 8 + stated
            return _read_data(file, at, length, size, coding, fact, riff_end, order)
    raise DataError("has no samples: it ends before its data chunk")


def _read_data(
    file: BinaryIO,
    at: int,
    length: int,
    size: int,
    coding: _Coding,
    fact: int | None,
    stated_end: int | None,
    order: str,
) -> Size:
    """The samples of a wav's data chunk at a place of the file."""
    here = size - at
    unknown = _is_unknown(length) or (not length and here >= 8 and not _are_chunks(file, at, size, order))
    notes: tuple[str, ...] = ()
    if not unknown and at + length <= size:
        notes = _describe_surplus(file, at + length, size, stated_end, order)
    inside = here if unknown else length
    promised = coding.count(inside, None if unknown else fact)
    if not unknown and inside % coding.bytes and coding.samples == 1:
        notes = notes or ("surplus",)  # a part of a sample frame
    there = min(here, inside) // coding.bytes * coding.samples
    # libsndfile believes a size of 0
    patched = (
        None
        if length or not unknown
        else (at - 4, struct.pack(">I" if order == "big" else "<I", min(here, 0xFFFFFFFF)))
    )
    return Size(None if unknown else promised, promised if there >= promised else there, notes=notes, patched=patched)


def _are_chunks(file: BinaryIO, at: int, size: int, order: str) -> bool:
    """Whether the rest of a file is chunks, one after another, to its end."""
    form = "<I" if order == "little" else ">I"
    while at + 8 <= size:
        head = _read_at(file, at, 8)
        if not head[:4].strip(b" \0").isalnum():
            return False
        length = struct.unpack(form, head[4:])[0]
        at += 8 + length + length % 2
    return size <= at <= size + 1


def _read_au(file: BinaryIO, begin: int, size: int) -> Size:
    head = _read_at(file, begin + 4, 20)
    if len(head) < 20:
        raise DataError("is cut within its header")
    offset, length, coding, _, channels = struct.unpack(">IIIII", head)
    if coding not in AU_BYTES:
        raise Unusable(
            f"has a coding (au format {coding}) whose length cannot be checked: convert it, for example with ffmpeg"
        )
    _check(channels > 0 and offset >= 24, f"{channels} channels, samples from byte {offset} on")
    block, here = AU_BYTES[coding] * channels, max(0, size - begin - offset)
    if _is_unknown(length) or (not length and here):
        return Size(None, here // block)
    notes = _describe_left_over(here - length) if here > length else ("surplus",) if length % block else ()
    return Size(length // block, min(here, length) // block, notes=notes)


def _read_aiff(file: BinaryIO, begin: int, size: int, compressed: bool) -> Size:
    stated = struct.unpack(">I", _read_at(file, begin + 4, 4))[0]
    frames, block, packet = None, 0, 1
    found: Size | None = None
    for name, at, length in _iterate_chunks(file, begin, size, "big"):
        if name == b"COMM" and length >= 18:
            body = _read_at(file, at, 22)
            channels, frames, bits = struct.unpack(">HIH", body[:8])
            coding = body[18:22] if compressed else b"NONE"
            _check(channels > 0 and bits > 0, f"{channels} channels of {bits} bits")
            if coding == b"ima4":
                block, packet = 34 * channels, 64
            elif coding in AIFF_PLAIN or coding in AIFF_BYTES:
                block = channels * (AIFF_BYTES.get(coding) or (bits + 7) // 8)
            else:
                raise Unusable(
                    f"has a coding (AIFC {coding!r}) whose length cannot be checked: convert it, for example with ffmpeg"
                )
        elif name == b"SSND" and length >= 8 and frames is not None:
            offset = struct.unpack(">I", _read_at(file, at, 4))[0]
            here = max(0, size - at - 8 - offset)
            if _is_unknown(length):
                found = Size(None, here // block * packet)
            else:
                inside = length - 8 - offset
                _check(inside >= 0, f"samples from byte {offset:,} of {length:,} on")
                _check(inside // block == frames, f"{frames:,} sample frames in COMM, {inside // block:,} in SSND")
                notes: tuple[str, ...] = ()
                if at + length <= size:
                    notes = _describe_surplus(file, at + length, size, begin + 8 + stated, "big")
                found = Size(frames * packet, min(here, inside) // block * packet, notes=notes)
            break
    if found is None:
        raise DataError("has no samples: it ends before its SSND chunk, or has no COMM chunk before it")
    return found


def _read_w64(file: BinaryIO, begin: int, size: int) -> Size:
    at, coding, fact, patched = begin + 40, None, None, None
    while at + 24 <= size:
        head = _read_at(file, at, 24)
        name, length = head[:4], struct.unpack("<Q", head[16:])[0]
        if head[4:16] == W64_TAIL and name == b"fmt ":
            fmt = _read_at(file, at + 24, min(length - 24, 64)) if length > 24 else b""
            coding, kind = _read_coding(fmt, "little"), _read_kind(fmt, "<")
            if kind != struct.unpack("<H", fmt[:2])[0] and kind != PCM:
                patched = at + 24, struct.pack("<H", kind)  # libsndfile takes every extensible W64 for integers
        elif head[4:16] == W64_TAIL and name == b"fact" and length >= 28:
            fact = struct.unpack("<I", _read_at(file, at + 24, 4))[0]
        elif head[4:16] == W64_TAIL and name == b"data":
            if coding is None:
                raise DataError("has no fmt chunk before its samples")
            here, inside = size - at - 24, length - 24
            unknown = not length or length >= (1 << 63) - PAGE
            _check(unknown or inside >= 0, f"a data chunk of {length:,} bytes")
            inside = here if unknown else inside
            promised = coding.count(inside, None if unknown else fact)
            there = min(here, inside) // coding.bytes * coding.samples
            notes = (
                ()
                if unknown or here < inside
                else _describe_left_over(size - _find_w64_end(file, at + length + -length % 8, size))
            )
            there = promised if there >= promised else there
            return Size(None if unknown else promised, there, notes=notes, patched=patched)
        if length < 24:
            break
        at += length + -length % 8
    raise DataError("has no samples: it ends before its data chunk")


def _find_w64_end(file: BinaryIO, at: int, size: int) -> int:
    """Where the chunks end that follow one another from a place on."""
    while at + 24 <= size and (head := _read_at(file, at, 24))[4:16] == W64_TAIL:
        length = max(24, struct.unpack("<Q", head[16:])[0])
        at += length + -length % 8
    return at


def _read_caf(file: BinaryIO, begin: int, size: int) -> Size:
    at, packet, valid, data, unknown = begin + 8, (0, 0), None, None, False
    while at + 12 <= size:
        name, length = struct.unpack(">4sq", _read_at(file, at, 12))
        if not name.isalnum() or length < (-1 if name == b"data" else 0):
            break
        if name == b"desc" and length >= 32:
            packet = struct.unpack(">II", _read_at(file, at + 28, 8))
        elif name == b"pakt" and length >= 24:
            valid = struct.unpack(">qq", _read_at(file, at + 12, 16))[1]
        elif name == b"data":
            unknown = length == -1
            length = size - at - 12 if unknown else length
            data = at + 16, length - 4  # behind a count of edits
        elif at + 12 + length > size:
            break
        at += 12 + length
    if data is None:
        raise DataError("has no samples: it ends before its data chunk")
    place, inside = data
    here, notes = max(0, size - place), _describe_left_over(size - at)
    _check(inside >= 0, f"a data chunk of {inside + 4:,} bytes")
    if packet[0] and packet[1]:
        promised, there = (count // packet[0] * packet[1] for count in (inside, min(inside, here)))
        notes = notes or (("surplus",) if inside % packet[0] and not unknown else ())
        return Size(None if unknown else promised, there, notes=notes)
    if here < inside:
        raise DataError(f"is truncated: {inside:,} bytes of samples promised, {here:,} found")
    return Size(valid, valid, notes=notes)


def _read_flac(file: BinaryIO, begin: int, size: int) -> Size:
    head = _read_at(file, begin + 4, 38)
    if len(head) < 38 or head[0] & 0x7F:
        raise DataError("is cut within its header, or has none")
    facts = int.from_bytes(head[14:22], "big")  # rate 20 bits, channels 3, bits of a sample 5, samples 36
    promised = facts & ((1 << 36) - 1) or None
    least, most = struct.unpack(">HH", head[4:8])
    last = _find_last_flac_frame(file, begin + 42, size, least if least == most else None)
    if last is None:
        return Size(promised, None)
    rate, channels = facts >> 44, (facts >> 41 & 7) + 1
    _check(last.rate_hz in (0, rate), f"{rate:,} Hz, and {last.rate_hz:,} Hz in its last frame")
    _check(last.channels == channels, f"{channels} channels, and {last.channels} in its last frame")
    there = last.first + last.samples
    _check(promised is None or there <= promised, f"{promised} samples, and {there} up to its last frame's end")
    return Size(promised, there)


@dataclass(frozen=True)
class _FlacFrame:
    """What the header of a flac's frame says. first: its first sample. rate_hz: 0 where it does not tell."""

    first: int
    samples: int
    rate_hz: int
    channels: int


def _find_last_flac_frame(file: BinaryIO, begin: int, size: int, block: int | None) -> _FlacFrame | None:
    """The last whole frame; None where none is found.

    block: samples of every frame but the last, None if they differ. The last frame is known by both of its checksums.
    """
    if size - begin >= mpeg.TAG_BYTES and _read_at(file, size - mpeg.TAG_BYTES, 3) == b"TAG":
        size -= mpeg.TAG_BYTES
    if size - begin >= 32 and (foot := _read_at(file, size - 32, 32))[:8] == b"APETAGEX":
        length, has_header = int.from_bytes(foot[12:16], "little"), foot[23] >> 7
        size = max(begin, size - length - 32 * has_header)
    first = max(begin, size - FLAC_TAIL)
    tail = _read_at(file, first, size - first)
    at, ends = len(tail), [len(tail)]
    while len(ends) <= FLAC_ENDS and (at := tail.rfind(b"\xff", 0, at)) >= 0:
        found = _parse_flac_header(tail[at : at + 16], block)
        if found is not None:
            if any(_compute_crc16(tail[at:end]) == 0 for end in ends):
                return found
            ends.append(at)
    return None


def _parse_flac_header(head: bytes, block: int | None) -> _FlacFrame | None:
    """What a frame's first bytes say; None if they begin no frame."""
    if len(head) < 6 or head[0] != 0xFF or head[1] & 0xFE != 0xF8:
        return None
    code, rate = head[2] >> 4, head[2] & 15
    if not code or rate == 15 or head[3] & 1 or head[3] >> 4 > 10:
        return None
    lead, at = head[4], 5
    ones = next((bit for bit in range(8) if not lead << bit & 0x80), 8)
    if ones == 1 or ones == 8:
        return None
    number = lead & (0x7F >> ones)
    for byte in head[5 : 5 + max(0, ones - 1)]:
        if byte & 0xC0 != 0x80:
            return None
        number = number << 6 | byte & 0x3F
        at += 1
    if code in (6, 7):
        width = code - 5
        samples = int.from_bytes(head[at : at + width], "big") + 1
        at += width
    else:
        samples = 192 if code == 1 else 576 << code - 2 if code <= 5 else 256 << code - 8
    rate_hz = FLAC_RATES_HZ.get(rate, 0)
    if rate >= 12:
        width = 1 if rate == 12 else 2
        rate_hz = int.from_bytes(head[at : at + width], "big") * {12: 1000, 13: 1, 14: 10}[rate]
        at += width
    if at >= len(head) or _compute_crc8(head[:at]) != head[at]:
        return None
    if not head[1] & 1:  # frames of one size are numbered; else their first samples are
        number *= block or samples
    kind = head[3] >> 4
    return _FlacFrame(number, samples, rate_hz, kind + 1 if kind < 8 else 2)


def _build_crc_table(width: int, polynomial: int) -> list[int]:
    high, mask = 1 << width - 1, (1 << width) - 1
    table = []
    for byte in range(256):
        value = byte << width - 8
        for _ in range(8):
            value = (value << 1 ^ polynomial if value & high else value << 1) & mask
        table.append(value)
    return table


_CRC8, _CRC16 = _build_crc_table(8, 0x07), _build_crc_table(16, 0x8005)


def _compute_crc8(content: bytes) -> int:
    value = 0
    for byte in content:
        value = _CRC8[value ^ byte]
    return value


def _compute_crc16(content: bytes) -> int:
    value, table = 0, _CRC16
    for byte in content:
        value = value << 8 & 0xFF00 ^ table[value >> 8 ^ byte]
    return value


def _read_ogg(file: BinaryIO, begin: int, size: int) -> Size:
    at, streams, last, position, skip, scale = begin, 0, False, 0, 0, 1.0
    while at + 27 <= size:
        head = _read_at(file, at, 27)
        if head[:4] != b"OggS":
            break
        kind, count = head[5], head[26]
        table = file.read(count)
        length = 27 + count + sum(table)
        if len(table) < count or at + length > size:
            break
        if kind & 2:
            streams += 1
            first = file.read(19)
            if first[:8] == b"OpusHead" and len(first) == 19:
                skip, rate = struct.unpack("<HI", first[10:16])
                scale = (rate if rate in (8000, 12000, 16000, 24000) else OPUS_HZ) / OPUS_HZ
        granule = struct.unpack("<q", head[6:14])[0]
        if granule >= 0:
            position = granule
        last = bool(kind & 4)
        at += length
    if streams != 1:
        raise Unusable(f"has {streams} streams, but only one can be read: separate them, for example with ffmpeg")
    there = int(max(0, position - skip) * scale)
    if not last:
        raise DataError(f"is truncated: its last page is missing, and {there:,} samples are found before it")
    return Size(there, there, notes=_describe_left_over(size - at))


def _read_mp3(file: BinaryIO, size: int) -> Size:
    stream = mpeg.scan_frames(file, size)
    notes = []
    if stream.lacking and stream.claimed is None:
        notes.append("cut")
    if stream.foreign:
        notes.append("foreign")
    if stream.claimed is not None and stream.frames > stream.claimed:
        notes.append("longer")
    if stream.promised is not None and stream.whole < stream.promised:
        return Size(stream.promised, stream.whole, stream, tuple(notes))
    return Size(None, stream.samples, stream, tuple(notes))
