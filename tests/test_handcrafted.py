"""MFCC, chroma and log-mel against computations of our own, and against sounds whose answer is known."""

import warnings

import librosa
import numpy as np
import pytest
import scipy.fft
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from marble_bench.encoders import handcrafted, weights
from marble_bench.features.frames import Sound, extract
from marble_bench.features.store import Span

RATE = 22050
ENCODERS = {encoder.name: encoder for encoder in handcrafted.ENCODERS}


def _noise(windows, length_s, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(windows, round(length_s * RATE), generator=generator)


def _encode(name, waveforms):
    return ENCODERS[name].load(None, "cpu")(waveforms, lambda frames: frames)


def _tones(frequencies_hz, length_s=4.0):
    time_s = torch.arange(round(length_s * RATE)) / RATE
    return sum(torch.sin(2 * torch.pi * each * time_s) for each in frequencies_hz)[None] / len(frequencies_hz)


def _power(window, hop):
    """`(1025, frames)`: the power spectrogram by numpy alone, centred on zero padding."""
    padded = np.pad(window.astype(np.float64), 1024)
    starts = range(0, len(padded) - 2047, hop)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(2048) / 2048)
    return np.abs(np.fft.rfft([padded[start : start + 2048] * hann for start in starts])).T ** 2


def _decibels(power, floor):
    return 10 * np.log10(np.maximum(power, floor))


def _moments(values):
    parts = []
    for _ in range(3):
        average = values.sum(axis=1) / values.shape[1]
        parts += [average, np.sqrt(((values - average[:, None]) ** 2).sum(axis=1) / values.shape[1])]
        values = values[:, 1:] - values[:, :-1]
    return np.concatenate(parts)


@pytest.mark.slow
def test_mfcc_is_the_cosine_transform_of_log_mel_bands():
    waveforms = _noise(2, 2.0) * torch.linspace(0, 1, 2 * RATE)
    _, ours = _encode("mfcc", waveforms)
    assert ours.shape == (2, 1, 120)
    for window, vector in zip(waveforms.numpy(), ours[:, 0].numpy(), strict=True):
        bands = _decibels(librosa.filters.mel(sr=RATE, n_fft=2048) @ _power(window, 512), 1e-10)
        coefficients = scipy.fft.dct(np.maximum(bands, bands.max() - 80), axis=0, norm="ortho")[:20]
        np.testing.assert_allclose(vector, _moments(coefficients), rtol=1e-4, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("length_s", [0.1, 3.0, 10.0])
def test_mfcc_and_logmel_are_librosas_own(length_s):
    waveforms = _noise(2, length_s)
    (ours, statistics), (frames, _) = _encode("mfcc", waveforms), _encode("logmel", waveforms)
    for number, window in enumerate(waveforms.numpy()):
        theirs = librosa.feature.mfcc(y=window, sr=RATE, n_mfcc=20, hop_length=512)
        np.testing.assert_allclose(ours[number].numpy(), theirs.T, rtol=1e-5, atol=1e-3)
        np.testing.assert_allclose(statistics[number, 0].numpy(), handcrafted.moments(theirs), rtol=1e-5, atol=1e-4)
        mel = librosa.feature.melspectrogram(y=window, sr=RATE, n_mels=128, hop_length=441)
        np.testing.assert_allclose(frames[number].numpy(), librosa.power_to_db(mel, top_db=None).T, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ENCODERS))
def test_the_bits_do_not_depend_on_the_threads_of_blas(name):
    # Two threads cut a product elsewhere than one does; windows of these lengths showed it in the last bits.
    loads = [_noise(2, length_s, seed).cumsum(1) for seed, length_s in enumerate((3.0, 5.0, 10.0))]
    found = []
    for threads in (1, 2):
        with threadpool_limits(threads, user_api="blas"):
            found.append([layer for waveforms in loads for layer in _encode(name, waveforms / waveforms.abs().max())])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_blas_has_its_threads_back_after_encoding_even_after_an_error():
    def threads():
        return {each["filepath"]: each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}

    encode = ENCODERS["mfcc"].load(None, "cpu")
    with threadpool_limits(2, user_api="blas"):
        before = threads()
        encode(_noise(1, 1.0), lambda frames: frames)
        assert threads() == before
        with pytest.raises(librosa.ParameterError):
            encode(torch.full((1, RATE), torch.nan), lambda frames: frames)
        assert threads() == before


def test_chroma_is_librosas_with_its_moments():
    waveforms = _noise(2, 4.0)
    frames, ours = _encode("chroma", waveforms)
    assert ours.shape == (2, 1, 72)
    for window, every, vector in zip(waveforms.numpy(), frames.numpy(), ours[:, 0].numpy(), strict=True):
        spectrum = np.abs(librosa.cqt(window, sr=RATE, hop_length=512, n_bins=7 * 36, bins_per_octave=36, tuning=None))
        classes = librosa.filters.cq_to_chroma(7 * 36, bins_per_octave=36) @ spectrum
        np.testing.assert_allclose(every, (classes / classes.max(axis=0)).T, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(vector, _moments(classes / classes.max(axis=0)), rtol=1e-4, atol=1e-5)


def test_the_chroma_of_a_c_major_chord_is_highest_at_c_e_and_g():
    _, ours = _encode("chroma", _tones([261.626, 329.628, 391.995]))
    means = ours[0, 0, :12]
    assert set(means.topk(3).indices.tolist()) == {0, 4, 7}
    assert means[[0, 4, 7]].min() > 2 * means[[1, 2, 3, 5, 6, 8, 9, 10, 11]].max()


def test_the_chroma_of_a_chord_is_the_same_when_every_string_is_a_little_sharp():
    chord = np.array([261.626, 329.628, 391.995])
    _, concert = _encode("chroma", _tones(chord))
    _, sharp = _encode("chroma", _tones(chord * 2 ** (0.1 / 12)))
    assert (concert[0, 0, :12] - sharp[0, 0, :12]).abs().max() < 0.05


@pytest.mark.parametrize("name", ["mfcc", "chroma"])
def test_statistics_are_the_moments_of_the_frames(name):
    for frames, vector in zip(*_encode(name, _noise(2, 3.0).cumsum(1)), strict=True):
        np.testing.assert_allclose(vector[0].numpy(), _moments(frames.numpy().T), rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize(
    ("name", "peak", "times_s"),
    [
        ("mfcc", 0, [0.5, 1.25, 3.3]),  # the first coefficient is loudness
        ("chroma", 9, [0.5, 2.0, 3.3]),  # A
    ],
)
def test_a_frame_stands_where_the_sound_is(name, peak, times_s):
    """Short bursts of A at known times: the frames that are highest there are those at time x rate."""
    time_s = torch.arange(4 * RATE) / RATE
    bursts = sum(torch.exp(-(((time_s - at) / 0.03) ** 2)) for at in times_s)
    sound = bursts * torch.sin(2 * torch.pi * 440 * time_s) + 1e-3 * _noise(1, 4.0)[0]
    frames = ENCODERS[name].load(None, "cpu")(sound[None], lambda frames: frames)[0][0]
    rate = ENCODERS[name].layers[0].frame_rate_hz
    for at in times_s:
        near = frames[round((at - 0.3) * rate) : round((at + 0.3) * rate), peak].numpy()
        found = np.flatnonzero(near > near.max() - 0.05 * np.ptp(near)).mean() + round((at - 0.3) * rate)
        assert abs(found - at * rate) <= 1.5


def _as_pieces(name, sound, piece_s, cache):
    """The frames of a sound as a task stores them, in pieces of so many seconds: `(frames, width)`."""
    encoder = ENCODERS[name]
    one = Sound("sound", Span(f"digest{piece_s}", "0:"), len(sound) / RATE, lambda rate: sound)
    got, _ = extract(
        [one],
        encoder,
        weights.resolve(encoder, cache),
        [0],
        cache,
        {"clip_normalize": "none"},
        piece_s=piece_s,
        dtype="float32",
        workers=1,
    )
    return got.read(0, 0, 0, got.length(0, 0)).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "edge"), [("mfcc", 2), ("chroma", 36)])
def test_frames_in_pieces_are_those_of_the_whole_sound_but_at_a_pieces_beginning(name, edge, tmp_path):
    """In a sound of one tuning and of less than 80 dB; pieces of whole frames, so that these stand at the same samples."""
    chord, piece = _tones([220.0, 277.18, 329.63], 12.0)[0], 200
    sound = (0.5 * chord + 0.01 * _noise(1, 12.0)[0]).numpy()
    whole, pieces = (_as_pieces(name, sound, each, tmp_path) for each in (None, piece * 512 / RATE))
    assert whole.shape == pieces.shape == (1 + len(sound) // 512, ENCODERS[name].layers[0].width)
    apart = np.abs(whole - pieces).max(axis=1) / np.ptp(whole)
    at = np.arange(len(whole))
    seams = (at >= piece) & (at % piece < edge)
    assert apart[~seams].max() < 1e-3
    assert apart[seams].max() > 0.1  # where a piece begins, nothing is heard of what was before


def test_the_decibels_of_mfcc_are_cut_below_the_loudest_bin_of_a_piece(tmp_path):
    """A passage 100 dB softer: silent beside the loud one, and all there in a piece of its own."""
    loud, piece = _noise(1, 10.0)[0].numpy(), 200
    sound = loud * np.where(np.arange(len(loud)) < 220 * 512, 1.0, 1e-5).astype(np.float32)
    whole, pieces = (_as_pieces("mfcc", sound, each, tmp_path) for each in (None, piece * 512 / RATE))
    assert np.ptp(whole[230:], axis=0).max() < 1e-3  # the cut, and nothing else
    assert np.ptp(pieces[410:], axis=0).max() > 1
    bands = librosa.power_to_db(librosa.feature.melspectrogram(y=sound / np.abs(sound).max(), sr=RATE))
    assert whole[300, 0] == pytest.approx(np.sqrt(128) * (bands.max() - 80), abs=1)


@pytest.mark.slow
@pytest.mark.parametrize("samples", [65472, 65473])
def test_chroma_of_short_windows_is_librosas_without_its_warning(samples):
    """Below 65,473 samples librosa warns, above it does not; what it computes is what is served."""
    waveforms = _noise(1, 3.0)[:, :samples]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        chroma = librosa.feature.chroma_cqt(y=waveforms[0].numpy(), sr=RATE, hop_length=512)
    assert bool(caught) == (samples < 65473)
    _, ours = _encode("chroma", waveforms)
    np.testing.assert_allclose(ours[0, 0].numpy(), _moments(chroma), rtol=1e-4, atol=1e-5)


def test_no_window_that_chroma_takes_is_shorter_than_its_longest_filter():
    # The estimate of the tuning lowers the filters by half a bin at most.
    lowest_hz = librosa.note_to_hz("C1") * 2 ** (-0.5 / 36) * 2 ** (np.arange(84 * 3) / 36)
    lengths, _ = librosa.filters.wavelet_lengths(freqs=lowest_hz, sr=RATE)
    assert lengths.max() / RATE == pytest.approx(1.604, abs=5e-4)
    assert ENCODERS["chroma"].min_s > lengths.max() / RATE


def test_logmel_is_ten_times_the_logarithm_of_the_bands_power():
    waveforms = _noise(2, 1.5) * torch.linspace(0, 1, round(1.5 * RATE))
    frames, mean_std = _encode("logmel", waveforms)
    assert frames.shape == (2, 1 + waveforms.shape[1] // 441, 128)
    assert mean_std.shape == (2, 1, 256)
    for window, ours, vector in zip(waveforms.numpy(), frames.numpy(), mean_std[:, 0].numpy(), strict=True):
        bands = _decibels(librosa.filters.mel(sr=RATE, n_fft=2048, n_mels=128) @ _power(window, 441), 1e-10).T
        np.testing.assert_allclose(ours, bands, atol=5e-3)
        np.testing.assert_allclose(vector[:128], bands.mean(axis=0), atol=5e-3)
        np.testing.assert_allclose(vector[128:], bands.std(axis=0), atol=5e-3)


def test_the_loudest_log_mel_band_is_the_one_of_the_tone():
    (frames, _) = _encode("logmel", _tones([1000.0]))
    centres_hz = librosa.mel_frequencies(130, fmin=0, fmax=RATE / 2)[1:-1]
    assert frames[0, 50].argmax() == np.abs(centres_hz - 1000).argmin()


def test_half_the_amplitude_is_six_decibels_less():
    waveforms = _noise(1, 1.0)
    loud, soft = _encode("logmel", waveforms)[0], _encode("logmel", waveforms / 2)[0]
    torch.testing.assert_close(loud - soft, torch.full_like(loud, 20 * np.log10(2)), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ENCODERS))
def test_silence_is_finite_and_the_shortest_window_too(name):
    encoder = ENCODERS[name]
    for waveforms in (torch.zeros(1, 3 * RATE), _noise(1, encoder.min_s)):
        for layer, value in zip(encoder.layers, _encode(name, waveforms), strict=True):
            assert value.dtype == torch.float32
            assert value.shape[2] == layer.width
            assert torch.isfinite(value).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(ENCODERS))
def test_one_window_is_encoded_alike_in_any_batch(name):
    # Loudness differs by 100 dB, which a floor below the batch's loudest bin would show.
    waveforms = _noise(3, 3.0) * torch.tensor([[1.0], [1e-5], [0.1]])
    among = _encode(name, waveforms)
    for index in range(3):
        for one, all_three in zip(_encode(name, waveforms[index : index + 1]), among, strict=True):
            assert torch.equal(one[0], all_three[index])


@pytest.mark.slow
def test_only_one_process_compiles_at_a_time(tmp_path):
    import subprocess
    import sys

    from marble_bench.files.locks import one_at_a_time

    code = (
        "import pathlib, sys\nfrom marble_bench.files.locks import one_at_a_time\n"
        "with one_at_a_time(): pathlib.Path(sys.argv[1]).write_text('in')"
    )
    with one_at_a_time():
        other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "mark")])
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=2)
        assert not (tmp_path / "mark").exists()
    assert other.wait(timeout=60) == 0
    assert (tmp_path / "mark").read_text() == "in"
