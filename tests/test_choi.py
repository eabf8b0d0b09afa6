"""CHOI: the front end against librosa, the network against true convolution, stretches, conversion.

The weights are made here, in the layout of the published file: that one has no licence and is not part of the project.
"""

import sys

import h5py
import librosa
import numpy as np
import pytest
import torch
from conftest import TOY_TASK
from safetensors.numpy import load_file
from scipy.signal import convolve2d

from marble_bench.cli.check import check_encoder
from marble_bench.encoders import choi
from marble_bench.encoders._choi_statistics import STATISTICS
from marble_bench.errors import DataError, UsageError

ENCODER, FIXED = choi.ENCODERS
each_encoder = pytest.mark.parametrize("encoder", choi.ENCODERS, ids=lambda encoder: encoder.name)


def _write(path, blocks=5):
    """A file in the published layout, its numbers drawn at random."""
    random = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for block in range(1, blocks + 1):
            inside = 1 if block == 1 else 32  # of the published kernels' order of size, which fixed statistics go with
            drawn = {
                f"convolution2d_{block}_W": random.normal(0, 0.8, (32, inside, 3, 3)),
                f"convolution2d_{block}_b": random.normal(0, 0.1, 32),
                f"batchnormalization_{block}_gamma": random.uniform(0.5, 1.5, 32),
                f"batchnormalization_{block}_beta": random.normal(0, 0.3, 32),
                f"batchnormalization_{block}_running_mean": np.full(32, np.nan),
                f"batchnormalization_{block}_running_std": np.full(32, np.nan),
            }
            for name, value in drawn.items():
                file[f"ConvBNEluDr/{name}"] = value.astype(np.float32)
        file["dense_1/dense_1_W"] = np.zeros((32, 50), np.float32)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return _write(tmp_path_factory.mktemp("choi") / choi.FILE)


@pytest.fixture(scope="module")
def weights(published):
    ENCODER.convert(published, published.with_name("choi.safetensors"))
    return published.with_name("choi.safetensors")


@pytest.fixture(scope="module")
def encode(weights):
    return ENCODER.load(weights, "cpu")


def _sound(seconds, windows=1, seed=0):
    """Tones that swell, in noise: something in every band and time that differs."""
    random = np.random.default_rng(seed)
    time_s = np.arange(round(seconds * choi.SAMPLE_RATE_HZ)) / choi.SAMPLE_RATE_HZ
    made = [
        sum(
            np.sin(2 * np.pi * (f * time_s + random.random())) * np.sin(f * time_s / 900)
            for f in random.uniform(80, 5500, 4)
        )
        + random.normal(0, 0.1, len(time_s))
        for _ in range(windows)
    ]
    return torch.from_numpy(0.1 * np.stack(made)).float()


def _every_frame(frames):
    return frames


@pytest.mark.slow
def test_the_front_end_is_librosas_in_decibels_below_the_loudest_bin():
    waveform = _sound(29)
    ours = choi.decibels(waveform, choi.mel_filters("cpu"))[0].numpy()
    assert ours.shape == (96, 1360)
    # Theano turns the kernels of the STFT round, so that its frames begin a sample earlier.
    earlier = np.concatenate([[0.0], waveform[0].numpy()])
    mel = librosa.feature.melspectrogram(
        y=earlier, sr=12000, n_fft=512, hop_length=256, n_mels=96, fmin=0, fmax=6000, pad_mode="constant"
    )
    theirs = librosa.power_to_db(mel[:, :1360], ref=np.max, amin=1e-10, top_db=80)
    assert np.abs(ours - theirs).max() <= 2e-3
    assert ours.max() == 0
    assert ours.min() >= -80


@pytest.mark.slow
@each_encoder
def test_the_network_is_keras_on_theano_with_a_batch_of_one_or_with_fixed_statistics(encoder, published, weights):
    """The stored kernels in true convolution, which turns them round as Theano does, and numpy for everything else."""
    waveform = _sound(29)
    x = choi.decibels(waveform, choi.mel_filters("cpu"))[0].double().numpy()[None]
    expected = []
    with h5py.File(published) as file:
        for block, (bands, frames) in enumerate(choi.POOLING, start=1):
            stored = {name: value[()] for name, value in file["ConvBNEluDr"].items() if f"_{block}_" in name}
            kernel, bias = stored[f"convolution2d_{block}_W"], stored[f"convolution2d_{block}_b"]
            x = np.stack(
                [
                    sum(convolve2d(each, turned, mode="same") for each, turned in zip(x, of, strict=True)) + b
                    for of, b in zip(kernel, bias, strict=True)
                ]
            )
            mean, variance = x.mean((1, 2), keepdims=True), x.var((1, 2), keepdims=True)
            if encoder is FIXED:
                mean, variance = (np.array(part)[:, None, None] for part in STATISTICS[block - 1])
            gamma, beta = (stored[f"batchnormalization_{block}_{part}"][:, None, None] for part in ("gamma", "beta"))
            x = gamma * (x - mean) / np.sqrt(variance + 1e-3) + beta
            x = np.where(x > 0, x, np.expm1(x))
            high, long = x.shape[1] // bands, x.shape[2] // frames
            x = x[:, : high * bands, : long * frames].reshape(32, high, bands, long, frames).max((2, 4))
            expected.append(x.mean((1, 2)))
    assert x.shape == (32, 1, 1)
    served = encoder.load(weights, "cpu")(waveform, _every_frame)
    for ours, theirs in zip(served, [*expected, np.concatenate(expected)], strict=True):
        np.testing.assert_allclose(ours[0, 0].numpy(), theirs, rtol=0, atol=1e-4)


@pytest.mark.slow
@each_encoder
def test_the_contract_holds(encoder, weights):
    lines = check_encoder(encoder, weights, "cpu")
    assert "all (2, 1, 160)" in lines[2]


@pytest.mark.slow
@each_encoder
def test_a_window_is_encoded_alike_in_any_batch_and_order(encoder, weights):
    encode = encoder.load(weights, "cpu")
    waveforms = _sound(30, windows=3)
    forward, backward = encode(waveforms, _every_frame), encode(waveforms.flip(0), _every_frame)
    alone = encode(waveforms[1:2], _every_frame)
    for layer, (one, other) in enumerate(zip(forward, backward, strict=True)):
        torch.testing.assert_close(one, other.flip(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(one[1:2], alone[layer], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(one[0], one[1], atol=1e-3)
        assert torch.isfinite(one).all()


@pytest.mark.slow
def test_a_louder_window_gives_the_same(encode):
    waveform = _sound(29)
    for soft, loud in zip(encode(waveform, _every_frame), encode(4 * waveform, _every_frame), strict=True):
        torch.testing.assert_close(soft, loud, rtol=0, atol=1e-3)


def test_silence_is_finite(encode):
    assert all(torch.isfinite(layer).all() for layer in encode(torch.zeros(1, choi.STRETCH), _every_frame))


@pytest.mark.slow
def test_a_longer_window_is_cut_and_a_shorter_one_repeated(encode):
    long = _sound(59)
    served = encode(long, _every_frame)
    for at in (0, 1):
        own = encode(long[:, at * choi.STRETCH : (at + 1) * choi.STRETCH], _every_frame)
        for layer, one in zip(served, own, strict=True):
            assert layer.shape[1] == 2
            torch.testing.assert_close(layer[:, at], one[:, 0], rtol=0, atol=1e-5)
    short = long[:, : 3 * choi.SAMPLE_RATE_HZ]
    repeated = torch.cat([short] * 10, 1)[:, : choi.STRETCH]
    for one, other in zip(encode(short, _every_frame), encode(repeated, _every_frame), strict=True):
        assert torch.equal(one, other)


def test_the_conversion_turns_the_kernels_and_counts(published, weights, tmp_path):
    found = load_file(weights)
    with h5py.File(published) as file:
        kernel = file["ConvBNEluDr/convolution2d_3_W"][()]
    assert found["3.weight"][5, 7, 0, 2] == kernel[5, 7, 2, 0]
    assert sum(value.size for value in found.values()) == ENCODER.parameters
    ENCODER.convert(published.parent, tmp_path / "again.safetensors")  # the folder does too
    assert (tmp_path / "again.safetensors").read_bytes() == weights.read_bytes()


def test_what_is_not_the_file_of_all_blocks_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"weights_layer4_theano\.hdf5 cannot be read as HDF5"):
        ENCODER.convert(tmp_path, tmp_path / "out")
    (tmp_path / "text.hdf5").write_text("nothing")
    with pytest.raises(DataError, match=r"text\.hdf5 cannot be read as HDF5"):
        ENCODER.convert(tmp_path / "text.hdf5", tmp_path / "out")
    with pytest.raises(DataError, match="which holds all five blocks"):
        ENCODER.convert(_write(tmp_path / "weights_layer2_theano.hdf5", blocks=3), tmp_path / "out")


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UsageError, match=r"pip install marble-bench\[choi\]"):
        ENCODER.convert(tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_a_run_goes_through_from_the_weights_given_to_the_record(bench, published):
    ended = bench(
        *("run", "--model", "choi", "--weights", published, "--task", TOY_TASK, "--mini"),
        *("--limit", 3, "--layers", "block1", "--seeds", 1, "--device", "cpu", "--json"),
    )
    assert ended.code == 0, ended.err
    assert ended.record["model"]["name"] == "choi"
