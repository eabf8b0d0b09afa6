"""What a file's header says is never believed: lengths by what is there, bounded memory, every fault told of its file."""

import io
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from marble_bench import audio
from marble_bench.audio import mpeg
from marble_bench.errors import DataError

RATE = 22050
DELAY = 576 + 529  # LAME's, and a decoder's own
ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")


def _music(seconds=1.5, channels=1, rate=RATE, seed=0):
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = [0.3 * np.sin(2 * np.pi * 220 * (1 + each) * time) * (time < seconds / 2) for each in range(channels)]
    return np.stack(tones, axis=1) + 0.01 * random.normal(size=(len(time), channels))


def _vbr(path, channels=1, rate=RATE, seconds=3.0):
    """An mp3 of variable bit rate with a Xing header. Returns its bytes and where its header frame ends."""
    with soundfile.SoundFile(
        path, "w", rate, channels, "MPEG_LAYER_III", format="MP3", bitrate_mode="VARIABLE", compression_level=0.3
    ) as file:
        file.write(_music(seconds, channels, rate))
    content = path.read_bytes()
    assert b"Xing" in content[:200]
    return content, mpeg.parse(int.from_bytes(content[:4], "big")).size


@pytest.mark.parametrize(("channels", "rate"), [(1, 22050), (2, 44100)])
def test_a_vbr_mp3_without_a_header_frame_is_read_to_its_end(tmp_path, channels, rate):
    content, header = _vbr(tmp_path / "whole.mp3", channels, rate)
    whole, _ = soundfile.read(tmp_path / "whole.mp3", dtype="float32", always_2d=True)
    (tmp_path / "bare.mp3").write_bytes(content[header:])
    assert len(soundfile.read(tmp_path / "bare.mp3")[0]) != len(whole) + DELAY  # what libsndfile makes of it
    bare = audio.read_channels(tmp_path / "bare.mp3").T
    assert np.abs(bare[DELAY : DELAY + len(whole)] - whole).max() < 1e-6
    assert audio.read_duration_s(tmp_path / "bare.mp3") == len(bare) / rate
    assert len(bare) % (576 if rate == RATE else 1152) == 0


def test_a_xing_count_of_zero_or_too_few_ends_nothing_early(tmp_path):
    content, _ = _vbr(tmp_path / "whole.mp3")
    whole = audio.read(tmp_path / "whole.mp3", sample_rate_hz=RATE)
    assert len(whole) == 3 * RATE  # delay and padding taken off
    at = content.index(b"Xing") + 8
    for count in (0, 10):
        path = tmp_path / f"{count}.mp3"
        path.write_bytes(content[:at] + struct.pack(">I", count) + content[at + 4 :])
        odd = []
        found = audio.read(path, sample_rate_hz=RATE, oddities=odd)
        assert np.array_equal(found[: len(whole)], whole)  # the delay is taken off, the padding left on
        assert 0 < len(found) - len(whole) < 2000
        assert odd == (["longer"] if count else [])


def test_a_xing_count_that_is_too_large_means_a_truncated_file(tmp_path):
    content, _ = _vbr(tmp_path / "whole.mp3")
    for share in (0.5, 0.99):
        path = tmp_path / "cut.mp3"
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(DataError, match="is truncated"):
            audio.read(path, sample_rate_hz=RATE)
        with pytest.raises(DataError, match="is truncated"):
            audio.check_header(path)


def test_an_mp3_without_a_count_that_ends_inside_a_frame_is_read_and_noted(tmp_path):
    content, header = _vbr(tmp_path / "whole.mp3")
    (tmp_path / "bare.mp3").write_bytes(content[header:])
    (tmp_path / "cut.mp3").write_bytes(content[header:-20])
    odd = []
    cut = audio.read(tmp_path / "cut.mp3", sample_rate_hz=RATE, oddities=odd)
    assert odd == ["cut"]
    assert len(cut) == len(audio.read(tmp_path / "bare.mp3", sample_rate_hz=RATE))


@pytest.mark.parametrize(("start", "count"), [(0, 1000), (1, 999), (1153, 4321), (50000, 7777)])
@pytest.mark.parametrize("bare", [False, True])
def test_a_span_of_a_vbr_mp3_is_that_slice_of_the_whole(tmp_path, start, count, bare):
    content, header = _vbr(tmp_path / "whole.mp3")
    (tmp_path / "asked.mp3").write_bytes(content[header:] if bare else content)
    whole = audio.read(tmp_path / "asked.mp3", sample_rate_hz=RATE)
    span = audio.read(tmp_path / "asked.mp3", sample_rate_hz=RATE, start_s=start / RATE, duration_s=count / RATE)
    assert np.array_equal(span, whole[start : start + count])


def _id3(count):
    return (
        b"ID3\x04\0\0" + bytes([count >> 21 & 127, count >> 14 & 127, count >> 7 & 127, count & 127]) + b"\x07" * count
    )


@pytest.mark.parametrize("with_header", [True, False])
def test_tags_and_junk_around_the_frames_of_an_mp3_change_no_sample(tmp_path, with_header):
    content, header = _vbr(tmp_path / "whole.mp3")
    content = content if with_header else content[header:]
    (tmp_path / "plain.mp3").write_bytes(content)
    whole = audio.read(tmp_path / "plain.mp3", sample_rate_hz=RATE)
    junk = bytes(np.random.default_rng(0).integers(0, 255, 3000, dtype=np.uint8))
    for form in (_id3(70000) + content, _id3(300) + _id3(40) + bytes(500) + content, content + b"TAG" + bytes(125)):
        odd = []
        (tmp_path / "asked.mp3").write_bytes(form)
        assert np.array_equal(audio.read(tmp_path / "asked.mp3", sample_rate_hz=RATE, oddities=odd), whole)
        assert odd == []
    for form in (junk + content, content + junk):
        odd = []
        (tmp_path / "asked.mp3").write_bytes(form)
        assert np.array_equal(audio.read(tmp_path / "asked.mp3", sample_rate_hz=RATE, oddities=odd), whole)
        assert odd == ["foreign"]


def test_mp3_files_that_were_joined_are_read_to_the_end_and_those_of_two_rates_refused(tmp_path):
    content, header = _vbr(tmp_path / "whole.mp3")
    (tmp_path / "joined.mp3").write_bytes(content + _id3(100) + content)
    one = audio.read_shape(tmp_path / "whole.mp3").samples
    frames = (len(_vbr(tmp_path / "again.mp3")[0]) and mpeg.scan_frames(io.BytesIO(content), len(content))).frames
    assert one == 3 * RATE
    assert (
        audio.read_shape(tmp_path / "joined.mp3").samples == 2 * frames * 576 - DELAY
    )  # no header frame is taken for sound
    other, _ = _vbr(tmp_path / "other.mp3", 2, 44100)
    (tmp_path / "mixed.mp3").write_bytes(content[header:] + other)
    with pytest.raises(DataError, match="changes from 22,050 Hz with 1 channel to 44,100 Hz with 2 channels"):
        audio.read(tmp_path / "mixed.mp3", sample_rate_hz=RATE)


FFMPEG_FORMS = [
    (mode, rate, channels, xing, cut)
    for mode in (["-q:a", "4"], ["-b:a", "32k"])
    for rate, channels in ((44100, 2), (22050, 1))
    for xing in "01"
    for cut in (0, 33)
]


@pytest.mark.slow
@ffmpeg
@pytest.mark.parametrize(("mode", "rate", "channels", "xing", "cut"), FFMPEG_FORMS)
def test_an_mp3_is_ffmpegs_to_the_sample(tmp_path, mode, rate, channels, xing, cut):
    soundfile.write(tmp_path / "a.wav", _music(2.0, channels, rate), rate)
    path = tmp_path / "a.mp3"
    made = ["-i", tmp_path / "a.wav", "-c:a", "libmp3lame", *mode, "-write_xing", xing, path]
    subprocess.run(["ffmpeg", "-v", "error", "-y", *made], check=True)
    if cut and xing == "1":
        return  # that is truncated, which ffmpeg does not tell
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])
    decoded = subprocess.run(["ffmpeg", "-v", "quiet", "-i", path, "-f", "f32le", "-"], capture_output=True, check=True)
    theirs = np.frombuffer(decoded.stdout, np.float32).reshape(-1, channels)
    ours = audio.read_channels(path).T
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-5


def _wav_with(path, at, form, number, **options):
    soundfile.write(path, _music(), RATE, **options)
    content = bytearray(path.read_bytes())
    struct.pack_into(form, content, at, number)
    path.write_bytes(content)


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFF000, 0xFFFFFFDB, 0xFFFFFFFF])
def test_a_wav_of_a_streaming_writer_is_read_whole(tmp_path, size):
    path = tmp_path / "music.wav"
    soundfile.write(path, _music(), RATE, subtype="PCM_16")
    whole = audio.read(path, sample_rate_hz=RATE)
    _wav_with(path, 40, "<I", size, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, 4, min(size + 36, 0xFFFFFFFF) if size else 36)
    path.write_bytes(content)
    assert np.array_equal(audio.read(path, sample_rate_hz=RATE), whole)
    assert audio.read_duration_s(path) == 1.5
    audio.check_header(path)


@pytest.mark.parametrize(
    ("suffix", "form", "subtype"),
    [
        ("wav", "WAV", "IMA_ADPCM"),
        ("wav", "WAV", "MS_ADPCM"),
        ("wav", "WAV", "GSM610"),
        ("wav", "WAV", "PCM_24"),
        ("wav", "RF64", "PCM_16"),
        ("w64", "W64", "PCM_16"),
        ("w64", "W64", "IMA_ADPCM"),
        ("aiff", "AIFF", "PCM_16"),
        ("aiff", "AIFF", "IMA_ADPCM"),
        ("caf", "CAF", "PCM_16"),
        ("caf", "CAF", "ALAC_16"),
        ("au", "AU", "ULAW"),
        ("flac", "FLAC", "PCM_16"),
        ("flac", "FLAC", "PCM_24"),
        ("ogg", "OGG", "VORBIS"),
        ("opus", "OGG", "OPUS"),
        ("mp3", "MP3", "MPEG_LAYER_III"),
    ],
)
def test_every_format_is_read_whole_and_found_when_it_is_cut(tmp_path, suffix, form, subtype):
    path, rate = tmp_path / f"music.{suffix}", 24000 if subtype == "OPUS" else RATE
    soundfile.write(path, _music(rate=rate), rate, format=form, subtype=subtype)
    samples = round(1.5 * rate)
    assert audio.read_shape(path).samples == len(audio.read(path, sample_rate_hz=rate))
    if "IMA" not in subtype:  # whose last block is filled up, which libsndfile's header does not tell
        assert audio.read_shape(path).samples == samples
    start = 5000 if subtype != "OPUS" else 4800
    whole = audio.read(path, sample_rate_hz=rate)
    span = audio.read(path, sample_rate_hz=rate, start_s=start / rate, duration_s=0.5)
    assert np.array_equal(span, whole[start : start + rate // 2])
    content = path.read_bytes()
    for size in (len(content) // 2, len(content) - 7):
        path.write_bytes(content[:size])
        for refuse in (audio.check_header, lambda path: audio.read(path, sample_rate_hz=rate)):
            with pytest.raises(DataError, match="truncated") as caught:
                refuse(path)
            assert str(path) in str(caught.value)


def test_a_gsm_wav_is_read_and_its_last_block_ends_where_the_fact_chunk_says(tmp_path):
    soundfile.write(tmp_path / "gsm.wav", _music(), RATE, subtype="GSM610")
    assert len(audio.read(tmp_path / "gsm.wav", sample_rate_hz=RATE)) == round(1.5 * RATE)


def _flac_with_count(path, samples):
    soundfile.write(path, _music(), RATE, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    facts = int.from_bytes(content[18:26], "big")
    content[18:26] = (facts >> 36 << 36 | samples).to_bytes(8, "big")
    path.write_bytes(content)


def test_a_flac_of_unknown_length_is_read(tmp_path):
    soundfile.write(tmp_path / "a.flac", _music(), RATE, subtype="PCM_16")
    whole = audio.read(tmp_path / "a.flac", sample_rate_hz=RATE)
    _flac_with_count(tmp_path / "b.flac", 0)
    assert np.array_equal(audio.read(tmp_path / "b.flac", sample_rate_hz=RATE), whole)
    assert np.array_equal(audio.read(tmp_path / "b.flac", sample_rate_hz=RATE, start_s=1.0), whole[RATE:])
    assert audio.read_duration_s(tmp_path / "b.flac") == 1.5


def test_a_flac_that_promises_too_much_or_too_little_is_told(tmp_path):
    path = tmp_path / "a.flac"
    for samples, words in (
        (1 << 35, "truncated: 34,359,738,368 samples promised, 33,075 found"),
        (20000, "contradicts"),
    ):
        _flac_with_count(path, samples)
        for refuse in (audio.check_header, lambda path: audio.read(path, sample_rate_hz=RATE)):
            with pytest.raises(DataError, match=words):
                refuse(path)


@pytest.mark.parametrize(
    ("at", "form", "number", "words"),
    [
        (24, "<I", 1, "1 Hz and blocks of 2 bytes"),
        (24, "<I", 2**31 - 1, "2,147,483,647 Hz and blocks"),
        (22, "<H", 2, "2 channels of 2 bytes are not blocks of 2"),
        (22, "<H", 1024, "1024 channels"),
        (32, "<H", 0, "blocks of 0 bytes"),
        (32, "<H", 60000, "are not blocks of 60000"),
        (34, "<H", 8, "1 channels of 1 bytes are not blocks of 2"),
        (40, "<I", 20000, "bytes after the samples"),
        (40, "<I", 1 << 30, "is truncated"),
    ],
)
def test_a_wav_whose_header_contradicts_itself_is_told(tmp_path, at, form, number, words):
    path = tmp_path / "music.wav"
    _wav_with(path, at, form, number, subtype="PCM_16")
    for refuse in (audio.check_header, lambda path: audio.read(path, sample_rate_hz=16000)):
        with pytest.raises(DataError, match=words) as caught:
            refuse(path)
        assert str(path) in str(caught.value)


def test_rates_and_channels_that_no_sound_has_are_told(tmp_path):
    for rate in (1, 2**31 - 1):
        soundfile.write(tmp_path / "rate.wav", _music(), rate)
        with pytest.raises(DataError, match=f"{rate:,} Hz; accepted are|contradicts itself"):
            audio.read(tmp_path / "rate.wav", sample_rate_hz=16000)
    soundfile.write(tmp_path / "many.wav", np.zeros((10, 1024)), RATE)
    with pytest.raises(DataError, match="1,024 channels"):
        audio.read(tmp_path / "many.wav", sample_rate_hz=16000)


def test_what_is_no_file_or_cannot_be_opened_is_told_of_its_path(tmp_path, monkeypatch):
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(DataError, match=r"folder\.wav is a folder"):
        audio.read(tmp_path / "folder.wav", sample_rate_hz=RATE)
    with pytest.raises(DataError, match=r"folder\.wav cannot be read"):
        audio.digest(tmp_path / "folder.wav")
    path = tmp_path / "mine.wav"
    soundfile.write(path, _music(), RATE)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    for reading in (
        audio.digest,
        audio.read_duration_s,
        audio.check_header,
        lambda path: audio.read(path, sample_rate_hz=RATE),
    ):
        with pytest.raises(DataError, match=r"mine\.wav cannot be .*Permission denied"):
            reading(path)


def test_a_lack_of_memory_is_told_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "large.wav"
    soundfile.write(path, _music(), RATE)

    def none_left(*_):
        raise MemoryError

    monkeypatch.setattr(audio.files, "average_channels", none_left)
    with pytest.raises(DataError, match=r"large\.wav needs more memory"):
        audio.read(path, sample_rate_hz=RATE)


def test_a_span_that_cannot_be_held_is_told_with_the_way_on(tmp_path, monkeypatch):
    soundfile.write(tmp_path / "long.wav", _music(), RATE)
    monkeypatch.setattr(audio.files, "SPAN_BYTES_MOST", 100_000)
    with pytest.raises(DataError, match=r"too long to be read at once.*give clips a duration"):
        audio.read(tmp_path / "long.wav", sample_rate_hz=RATE)


@pytest.mark.parametrize("rates", [(22050, 16000), (22050, 24000), (44100, 24000), (48000, 44100), (22050, 22050)])
@pytest.mark.parametrize("channels", [1, 2])
def test_reading_in_blocks_gives_the_samples_of_reading_at_once_to_the_bit(tmp_path, monkeypatch, rates, channels):
    rate, to = rates
    soundfile.write(tmp_path / "a.wav", _music(2.0, channels, rate), rate, subtype="FLOAT")
    samples = soundfile.read(tmp_path / "a.wav", dtype="float32", always_2d=True)[0]
    once = audio.resample(audio.waveform.average_channels(samples), rate, to)
    for size in (4096, 1 << 16, 1 << 20):
        monkeypatch.setattr(audio.files, "BLOCK_BYTES", size)
        assert np.array_equal(audio.read(tmp_path / "a.wav", sample_rate_hz=to), once)
        assert np.array_equal(
            audio.read_channels(tmp_path / "a.wav", sample_rate_hz=to),
            np.stack([audio.resample(samples[:, each], rate, to) for each in range(channels)]),
        )


@pytest.mark.slow
def test_ten_minutes_of_stereo_take_the_memory_of_their_mono_and_little_more(tmp_path):
    random = np.random.default_rng(0)
    with soundfile.SoundFile(tmp_path / "long.flac", "w", 44100, 2, "PCM_16") as file:
        for _ in range(20):
            file.write(0.1 * random.standard_normal((30 * 44100, 2)).astype(np.float32))
    code = (
        "import resource, sys, pathlib\n"
        "import numpy, soundfile, soxr\n"
        "from marble_bench import audio\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "samples = audio.read(pathlib.Path(sys.argv[1]), sample_rate_hz=16000)\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, samples.nbytes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "long.flac"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    taken, kept = map(int, done.stdout.split())
    assert kept == 4 * 600 * 16000
    assert taken < kept + (60 << 20)  # decoding it whole took 370 MB
    assert resource.getpagesize()


def _oddities(path, samples, **options):
    soundfile.write(path, samples, RATE, **options)
    odd = []
    audio.read(path, sample_rate_hz=RATE, oddities=odd)
    return odd


def test_what_is_odd_about_a_sound_is_noted(tmp_path):
    music = _music()
    path = tmp_path / "a.wav"
    assert _oddities(path, music) == []
    assert _oddities(path, np.hstack([music, music])) == []
    assert _oddities(path, _music(channels=2)) == []
    dithered = np.hstack([music, -music + np.random.default_rng(0).integers(-2, 3, music.shape) / 32768])
    assert _oddities(path, dithered, subtype="PCM_16") == ["cancels"]
    assert _oddities(path, 32768 * music, subtype="FLOAT") == ["loud"]
    assert _oddities(path, 1.3 * music / np.abs(music).max(), subtype="FLOAT") == []  # a hot master is not odd
    assert _oddities(path, 5e-5 * music, subtype="FLOAT") == ["quiet"]
    with pytest.raises(DataError, match="channels that cancel each other: their mean is silent"):
        _oddities(path, np.hstack([music, -music]), subtype="FLOAT")
    with pytest.raises(DataError, match=r"samples of 1e\+30"):
        _oddities(path, np.full((100, 1), 1e30), subtype="FLOAT")


def test_bytes_behind_a_wav_are_noted_if_few_and_refused_if_many(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, _music(), RATE)
    content = path.read_bytes()
    whole = audio.read(path, sample_rate_hz=RATE)
    for behind, noted in ((b"LIST\4\0\0\0INFO", []), (b"TAG" + bytes(125), []), (b"\1" * 100, ["surplus"])):
        path.write_bytes(content + behind)
        odd = []
        assert np.array_equal(audio.read(path, sample_rate_hz=RATE, oddities=odd), whole)
        assert odd == noted
    path.write_bytes(content + b"\1" * 5000)
    with pytest.raises(DataError, match="5,000 bytes after the samples"):
        audio.read(path, sample_rate_hz=RATE)


@pytest.mark.slow
@pytest.mark.parametrize("written", ["libsndfile", "ffmpeg"])
def test_any_span_of_a_vorbis_file_is_that_slice_of_the_whole(tmp_path, written):
    path = tmp_path / "sound.ogg"
    music = _music(5.0, 2, 44100)
    if written == "libsndfile":
        soundfile.write(path, music, 44100, format="OGG", subtype="VORBIS")
    else:
        if shutil.which("ffmpeg") is None:
            pytest.skip("ffmpeg is not installed")
        soundfile.write(tmp_path / "sound.wav", music, 44100)
        subprocess.run(["ffmpeg", "-v", "error", "-i", tmp_path / "sound.wav", path], check=True)
    whole = audio.read_channels(path)
    for start_s in (0.5, 2.0, 4.2, 4.7):  # the last two lie in the last page, which libsndfile seeks in wrongly
        at, count = round(start_s * 44100), round(0.25 * 44100)
        span = audio.read_channels(path, start_s=start_s, duration_s=0.25)
        assert np.array_equal(span, whole[:, at : at + count]), start_s


@pytest.mark.parametrize(("kind", "type_"), [(3, np.float32), (3, np.float64), (1, np.int32)])
def test_a_w64_of_the_extensible_form_is_read_as_what_it_holds(tmp_path, kind, type_):
    """As ffmpeg writes it; libsndfile takes floats for integers there, which gives noise of full scale."""
    music = _music(0.2, 2)
    stored = (music * 2**31).astype(type_) if kind == 1 else music.astype(type_)
    soundfile.write(tmp_path / "model.w64", music, RATE, format="W64", subtype="PCM_16")
    content, wide = (tmp_path / "model.w64").read_bytes(), 2 * stored.itemsize
    fmt = struct.pack("<HHIIHHHHI", 0xFFFE, 2, RATE, RATE * wide, wide, 4 * wide, 22, 4 * wide, 3)
    fmt += struct.pack("<H", kind) + bytes.fromhex("000000001000800000aa00389b71")
    at, data = content.index(b"fmt "), content.index(b"data")
    body = content[at : at + 16] + struct.pack("<Q", 24 + len(fmt)) + fmt
    body += content[data : data + 16] + struct.pack("<Q", 24 + stored.nbytes) + stored.tobytes()
    path = tmp_path / "sound.w64"
    path.write_bytes(content[:16] + struct.pack("<Q", 40 + len(body)) + content[24:40] + body)
    assert np.abs(audio.read_channels(path).T - music).max() < 1e-6


@pytest.mark.parametrize("subtype", ["MS_ADPCM", "IMA_ADPCM"])
def test_an_adpcm_wav_of_ffmpeg_is_read_though_its_pace_is_a_constant(tmp_path, subtype):
    path = tmp_path / "sound.wav"
    soundfile.write(path, _music(1.0, 2, 44100), 44100, subtype=subtype)
    before, content = audio.read_channels(path), bytearray(path.read_bytes())
    content[28:32] = struct.pack("<I", 16_000)
    path.write_bytes(content)
    assert np.array_equal(audio.read_channels(path), before)


@pytest.mark.parametrize("has_header", [True, False])
def test_an_ape_tag_behind_a_flac_is_no_part_of_its_frames(tmp_path, has_header):
    path = tmp_path / "sound.flac"
    soundfile.write(path, _music(1.0), RATE)
    before = audio.read_channels(path)
    item = struct.pack("<II", 5, 0) + b"Title\0hello"
    ends = [
        b"APETAGEX" + struct.pack("<IIII", 2000, len(item) + 32, 1, flags | has_header << 31) + bytes(8)
        for flags in (1 << 29, 0)
    ]
    path.write_bytes(path.read_bytes() + (ends[0] if has_header else b"") + item + ends[1])
    assert np.array_equal(audio.read_channels(path), before)
    path.write_bytes(path.read_bytes() + b"TAG" + bytes(125))
    assert np.array_equal(audio.read_channels(path), before)


@pytest.mark.slow
@pytest.mark.parametrize("junk", [b"\xff", b"\xff\xfb\x90\x64\0\0", b"\xff\xfb", b"ID", b"\0"])
def test_a_megabyte_that_is_no_frame_is_passed_in_a_moment(tmp_path, junk):
    """Each of its bytes may begin a frame, and what lay ahead was copied for each."""
    content, _ = _vbr(tmp_path / "whole.mp3")
    before = audio.read_channels(tmp_path / "whole.mp3")
    path, many = tmp_path / "sound.mp3", junk * ((1 << 20) // len(junk))
    began = time.process_time()
    path.write_bytes(content + many)
    assert np.array_equal(audio.read_channels(path), before)
    path.write_bytes(many)
    with pytest.raises(DataError, match=r"sound\.mp3"):
        audio.read_channels(path)
    assert time.process_time() - began < 20
