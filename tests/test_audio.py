"""The one door to audio: exact spans, true resampling, and every kind of damaged file told by name."""

import struct

import numpy as np
import pytest
import soundfile
import soxr

from marble_bench import audio
from marble_bench.errors import DataError

FORMATS = ("wav", "au", "flac", "ogg", "mp3")
RATE = 22050


def _music(seconds=1.5, channels=1, rate=RATE, seed=0):
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = [0.3 * np.sin(2 * np.pi * 220 * (1 + each) * time) for each in range(channels)]
    return np.stack(tones, axis=1) + 0.05 * random.normal(size=(len(time), channels))


@pytest.fixture(params=FORMATS)
def path(request, tmp_path):
    """One and a half seconds of stereo in each format."""
    made = tmp_path / f"music.{request.param}"
    soundfile.write(made, _music(channels=2), RATE)
    return made


def test_a_whole_file_is_the_mean_of_its_channels(path):
    whole, _ = soundfile.read(path, dtype="float32", always_2d=True)
    # libsndfile decodes an mp3 a last bit differently after a seek, which soundfile.read begins with
    assert np.abs(audio.read(path, sample_rate_hz=RATE) - whole.mean(axis=1, dtype=np.float32)).max() < 1e-6


@pytest.mark.parametrize(("start", "count"), [(0, 1000), (1, 999), (1153, 4321), (7777, 1), (20000, 13075)])
def test_a_span_is_that_slice_of_the_whole_to_the_bit(path, start, count):
    whole = audio.read(path, sample_rate_hz=RATE)
    span = audio.read(path, sample_rate_hz=RATE, start_s=start / RATE, duration_s=count / RATE)
    assert np.array_equal(span, whole[start : start + count])


def test_a_span_to_the_end_is_the_rest(path):
    whole = audio.read(path, sample_rate_hz=RATE)
    assert np.array_equal(audio.read(path, sample_rate_hz=RATE, start_s=1.0), whole[RATE:])


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100])
def test_resampling_is_soxrs_and_a_tone_keeps_its_pitch(path, rate):
    resampled = audio.read(path, sample_rate_hz=rate)
    assert np.array_equal(resampled, soxr.resample(audio.read(path, sample_rate_hz=RATE), RATE, rate, quality="HQ"))
    spectrum = np.abs(np.fft.rfft(resampled * np.hanning(len(resampled))))
    heard_hz = spectrum.argmax() * rate / len(resampled)
    assert min(abs(heard_hz - 220), abs(heard_hz - 440)) < 1.5  # the two channels' tones are equally loud


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "AU"])
def test_headers_of_every_kind_promise_what_is_there(tmp_path, subtype, kind):
    if kind == "AU" and subtype == "PCM_U8":
        subtype = "PCM_S8"
    path = tmp_path / "music"
    soundfile.write(path, _music(channels=2), RATE, format=kind, subtype=subtype)
    assert audio.measure(path).promised == soundfile.info(path).frames == round(1.5 * RATE)
    audio.read(path, sample_rate_hz=RATE)


@pytest.mark.parametrize("kind", ["wav", "au", "flac", "mp3"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.95])
def test_a_truncated_file_is_told(tmp_path, kind, share):
    path = tmp_path / f"music.{kind}"
    soundfile.write(path, _music(), RATE)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError) as caught:
        audio.read(path, sample_rate_hz=RATE)
    assert str(path) in str(caught.value)
    assert "truncated" in str(caught.value) or "cannot be decoded" in str(caught.value)


@pytest.mark.parametrize("kind", ["wav", "au"])
def test_one_lost_sample_is_enough(tmp_path, kind):
    path = tmp_path / f"music.{kind}"
    soundfile.write(path, _music(), RATE, subtype="PCM_16")
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match="33,075 samples promised, 33,074 found"):
        audio.read(path, sample_rate_hz=RATE)


def test_a_span_before_the_cut_of_a_truncated_file_is_still_good(tmp_path):
    path = tmp_path / "music.wav"
    soundfile.write(path, _music(), RATE)
    path.write_bytes(path.read_bytes()[:-2000])
    assert len(audio.read(path, sample_rate_hz=RATE, start_s=0.1, duration_s=0.5)) == RATE // 2
    with pytest.raises(DataError, match="truncated"):
        audio.read(path, sample_rate_hz=RATE, start_s=1.0, duration_s=0.5)


def test_a_size_that_the_writer_could_not_know_promises_nothing(tmp_path):
    for kind, at, form in (("wav", 40, "<I"), ("au", 8, ">I")):
        path = tmp_path / f"music.{kind}"
        soundfile.write(path, _music(), RATE, subtype="PCM_16")
        content = bytearray(path.read_bytes())
        content[at : at + 4] = struct.pack(form, 0xFFFFFFFF)
        path.write_bytes(content)
        assert audio.measure(path).promised is None
        assert len(audio.read(path, sample_rate_hz=RATE)) == round(1.5 * RATE)


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "does not exist"), (b"", "empty (0 bytes)"), (b"this is a text, not music" * 10, "is not a wav")],
)
def test_a_file_that_is_no_audio_is_told(tmp_path, content, words):
    path = tmp_path / "music.wav"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        audio.read(path, sample_rate_hz=RATE)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_silence_is_told_and_a_silent_beginning_alone_is_not(tmp_path):
    music = _music()[:, 0]
    music[:RATE] = 0
    soundfile.write(tmp_path / "half.wav", music, RATE)
    assert len(audio.read(tmp_path / "half.wav", sample_rate_hz=RATE)) == len(music)
    with pytest.raises(DataError, match="silent"):
        audio.read(tmp_path / "half.wav", sample_rate_hz=RATE, duration_s=0.5)


def test_samples_that_are_not_finite_are_told(tmp_path):
    music = _music()[:, 0]
    music[77] = np.nan
    soundfile.write(tmp_path / "nan.wav", music, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match="NaN"):
        audio.read(tmp_path / "nan.wav", sample_rate_hz=RATE)


def test_no_samples_at_all_are_told(tmp_path):
    soundfile.write(tmp_path / "none.wav", np.zeros(0), RATE)
    with pytest.raises(DataError, match="no samples"):
        audio.read(tmp_path / "none.wav", sample_rate_hz=RATE)


def test_a_wrong_rate_is_told_with_both_rates(path):
    with pytest.raises(DataError, match="22,050 Hz; the corpus has 44,100 Hz"):
        audio.read(path, sample_rate_hz=16000, native_rate_hz=44100)


def test_at_most_crops_what_is_longer_and_takes_what_is_shorter(path):
    whole = audio.read(path, sample_rate_hz=RATE)
    assert np.array_equal(audio.read(path, sample_rate_hz=RATE, at_most_s=0.5), whole[: RATE // 2])
    assert np.array_equal(audio.read(path, sample_rate_hz=RATE, at_most_s=30.0), whole)
    assert np.array_equal(audio.read(path, sample_rate_hz=RATE, duration_s=1.0, at_most_s=0.5), whole[: RATE // 2])
    assert np.array_equal(audio.read(path, sample_rate_hz=RATE, duration_s=0.5, at_most_s=1.0), whole[: RATE // 2])


def test_a_crop_of_a_truncated_file_is_told_if_the_cut_lies_in_it(tmp_path):
    path = tmp_path / "music.wav"
    soundfile.write(path, _music(), RATE)
    path.write_bytes(path.read_bytes()[:-40000])
    assert len(audio.read(path, sample_rate_hz=RATE, at_most_s=0.5)) == RATE // 2
    with pytest.raises(DataError, match="truncated"):
        audio.read(path, sample_rate_hz=RATE, at_most_s=1.4)


def test_a_span_beyond_the_end_is_told(path):
    for start_s in (1.2, 9.0):
        with pytest.raises(DataError, match="is too short"):
            audio.read(path, sample_rate_hz=RATE, start_s=start_s, duration_s=0.5)
    with pytest.raises(DataError, match="no samples from"):
        audio.read(path, sample_rate_hz=RATE, start_s=9.0)


def test_normalisations_are_what_they_say():
    random = np.random.default_rng(0).normal(2, 3, 1000).astype(np.float32)
    assert np.abs(audio.normalize(random, "peak")).max() == 1
    standard = audio.normalize(random, "zscore").astype(np.float64)
    assert standard.mean() == pytest.approx(0, abs=1e-6)
    assert standard.std() == pytest.approx(1, abs=1e-5)
    assert audio.normalize(random, "none") is random


@pytest.mark.slow
def test_zscore_is_the_feature_extractors_of_transformers():
    from transformers import Wav2Vec2FeatureExtractor

    random = np.random.default_rng(0).normal(0.1, 0.01, 4000).astype(np.float32)
    theirs = Wav2Vec2FeatureExtractor(do_normalize=True)(random, sampling_rate=16000).input_values[0]
    assert np.abs(audio.normalize(random, "zscore") - theirs).max() < 1e-4


def test_windows_are_equal_and_a_remainder_is_dropped():
    samples = np.arange(11, dtype=np.float32)
    assert audio.cut(samples, 3).tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert audio.cut(samples, 3, first=7).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert audio.cut(samples, None).tolist() == [samples.tolist()]
    assert audio.cut(samples, None, first=2).tolist() == [[0, 1]]
    with pytest.raises(DataError, match="11 samples are less than one window of 12"):
        audio.cut(samples, 12)


def test_duration_and_digest(tmp_path):
    import hashlib

    path = tmp_path / "music.wav"
    soundfile.write(path, _music(), RATE)
    assert audio.read_duration_s(path) == 1.5
    assert audio.digest(path) == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_mono_is_the_mean_of_the_channels_to_the_bit(tmp_path, channels):
    noise = np.random.default_rng(0).uniform(-1, 1, (8000, channels)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", noise, 8000, subtype="FLOAT")
    mono = audio.read(tmp_path / "a.wav", sample_rate_hz=8000)
    assert np.array_equal(mono, noise.mean(axis=1, dtype=np.float32))
