"""MusiCNN and the VGG baseline: the trained networks against TensorFlow's own activations, patches, layers, weights."""

import dataclasses
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from marble_bench.cli.check import check_encoder
from marble_bench.core import plugins
from marble_bench.encoders import musicnn, tf_bundle, weights
from marble_bench.errors import DataError

GOLDEN = Path(__file__).parent / "golden" / "musicnn"
NETWORKS = {
    "musicnn-mtt": musicnn.MTT_MUSICNN,
    "musicnn-msd": musicnn.MSD_MUSICNN,
    "vgg-mtt": musicnn.MTT_VGG,
    "vgg-msd": musicnn.MSD_VGG,
}
ENCODERS = {encoder.name: encoder for encoder in musicnn.ENCODERS}
every_encoder = pytest.mark.parametrize("name", list(NETWORKS))


@pytest.fixture(scope="session")
def cache():
    """A cache that test runs share, so that the package is fetched once: `BENCH_TEST_CACHE`, else a temporary place."""
    place = os.environ.get("BENCH_TEST_CACHE") or Path(tempfile.gettempdir()) / "marble-bench-tests"
    return Path(place)


@pytest.fixture(scope="session")
def path_of(cache):
    """Encoder name -> its real weights."""
    return lambda name: weights.resolve(ENCODERS[name], cache).path


@pytest.fixture(scope="session")
def package(cache, path_of):
    """The package's source archive, as pip fetched it."""
    digest = ENCODERS["musicnn-mtt"].weights.sha256
    archive = cache / "weights" / "downloads" / digest
    if not archive.is_file():  # the converted weights were kept and the archive was not
        (cache / "weights" / "musicnn-mtt" / f"v1-{digest[:16]}.safetensors").unlink()
        path_of("musicnn-mtt")
    return archive


@pytest.fixture(scope="session")
def checkpoint(package):
    """The index and data of MTT_vgg, the smaller one."""
    return musicnn._checkpoint(package, "MTT_vgg")


def _noise(windows, length_s):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(windows, round(length_s * musicnn.SAMPLE_RATE_HZ), generator=generator)


def _frames(encode, waveforms, name):
    layers = encode(waveforms, lambda frames: frames)
    return {layer.name: value for layer, value in zip(ENCODERS[name].layers, layers, strict=True)}


@every_encoder
def test_every_activation_is_tensorflows(name, path_of):
    network = NETWORKS[name]
    patches = torch.from_numpy(np.load(GOLDEN / "patches.npz")["x"])
    golden = np.load(GOLDEN / f"{network.folder}.npz")
    with torch.inference_mode():
        ours = network.activations(patches, musicnn.read_tensors(path_of(name), network, "cpu"))
    assert {*golden} == {*ours} - {"mean_max_pool"}
    for key in golden:
        value = ours[key].numpy()
        if value.ndim > golden[key].ndim:
            value = value.mean(axis=2)
        assert value.shape == golden[key].shape, key
        assert np.abs(value - golden[key]).max() <= 1e-3, key


@pytest.mark.slow
@every_encoder
def test_the_served_layers_are_the_networks_on_consecutive_patches(name, path_of):
    network, encoder = NETWORKS[name], ENCODERS[name]
    waveforms = _noise(2, 7.0)
    served = _frames(encoder.load(path_of(name), "cpu"), waveforms, name)
    mel = musicnn.log_mel(waveforms, musicnn.mel_filters("cpu"))
    with torch.inference_mode():
        tensors = musicnn.read_tensors(path_of(name), network, "cpu")
        own = [network.activations(mel[:, start : start + 187], tensors) for start in (0, 187)]
    for layer in encoder.layers:
        parts = [part[layer.name] for part in own]
        if parts[0].ndim == 4:
            parts = [part.mean(2) for part in parts]
        expected = torch.cat(parts, 1) if parts[0].ndim == 3 else torch.stack(parts, 1)
        assert served[layer.name].shape == (2, round(layer.frame_rate_hz * 2 * 2.992), layer.width)
        torch.testing.assert_close(served[layer.name], expected, rtol=1e-4, atol=1e-4)


def test_mean_max_pool_is_the_mean_then_the_maximum_over_a_patch(path_of):
    name = "musicnn-msd"
    served = _frames(ENCODERS[name].load(path_of(name), "cpu"), _noise(1, 3.0), name)
    stacked = torch.cat([served[key] for key in ("timbral", "temporal", "cnn1", "cnn2", "cnn3")], 2)
    expected = torch.cat([stacked.mean(1), stacked.amax(1)], 1)
    torch.testing.assert_close(served["mean_max_pool"][:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@every_encoder
def test_one_window_is_encoded_alike_in_any_batch(name, path_of):
    encode = ENCODERS[name].load(path_of(name), "cpu")
    # 34 patches: more than go through the network at once.
    waveforms = _noise(17, 6.0)
    for one, among in zip(
        encode(waveforms[16:], lambda frames: frames.mean(1)),
        encode(waveforms, lambda frames: frames.mean(1)),
        strict=True,
    ):
        torch.testing.assert_close(one[0], among[16], rtol=1e-4, atol=1e-4)


@every_encoder
def test_what_does_not_fill_a_patch_is_dropped(name, path_of):
    encode = ENCODERS[name].load(path_of(name), "cpu")
    longer = _noise(1, 5.9)
    for whole, cut in zip(
        encode(longer, lambda frames: frames), encode(longer[:, :50000], lambda frames: frames), strict=True
    ):
        torch.testing.assert_close(whole, cut, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["musicnn-mtt", "musicnn-msd"])
def test_a_window_shorter_than_a_patch_is_one_patch(name, path_of):
    encoder = ENCODERS[name]
    served = _frames(encoder.load(path_of(name), "cpu"), _noise(2, encoder.min_s), name)
    for layer in encoder.layers[:5]:
        assert served[layer.name].shape == (2, 63, layer.width)
    for layer in encoder.layers[5:]:
        assert served[layer.name].shape == (2, 1, layer.width)
    assert all(torch.isfinite(value).all() for value in served.values())


@pytest.mark.parametrize("name", ["vgg-mtt", "vgg-msd"])
def test_the_vggs_shortest_window_is_one_whole_patch(name):
    samples = round(ENCODERS[name].min_s * musicnn.SAMPLE_RATE_HZ)
    assert samples == 47616
    filters = musicnn.mel_filters("cpu")
    assert musicnn.log_mel(torch.zeros(1, samples), filters).shape == (1, 187, 96)
    assert musicnn.log_mel(torch.zeros(1, samples - 1), filters).shape == (1, 186, 96)


@pytest.mark.slow
def test_the_front_end_is_librosas_with_the_packages_rounding():
    waveform = _noise(1, 3.0)
    mel = librosa.feature.melspectrogram(
        y=waveform[0].numpy(), sr=16000, n_fft=512, hop_length=256, n_mels=96, pad_mode="reflect"
    )
    ours = musicnn.log_mel(waveform, musicnn.mel_filters("cpu"))[0].numpy()
    rounded = np.log10(10000 * mel.T.astype(np.float16).astype(np.float32) + 1)
    # A value on the edge between two half floats may fall to either: 2^-11 of it at most, once.
    assert np.abs(ours - rounded).max() <= np.log10(1 + 2**-10)
    assert (np.abs(ours - rounded) > 1e-5).mean() < 0.01
    assert (np.abs(ours - np.log10(10000 * mel.T + 1)) > 1e-5).mean() > 0.5, "the half floats are gone"


def test_loud_audio_does_not_overflow_the_half_floats():
    time_s = torch.arange(16000 * 3) / 16000
    loud = torch.sin(2 * torch.pi * 1000 * time_s)[None]
    mel = musicnn.log_mel(loud, musicnn.mel_filters("cpu"))
    assert mel.max() > np.log10(65504), "louder than 10000 x could be in half precision"
    assert torch.isfinite(mel).all()


def test_the_parameters_are_those_trained(path_of):
    assert ENCODERS["musicnn-mtt"].parameters == ENCODERS["musicnn-msd"].parameters == 787159
    for name, encoder in ((each, ENCODERS[each]) for each in NETWORKS):
        trained = {key: value for key, value in load_file(path_of(name)).items() if "moving" not in key}
        assert sum(value.size for value in trained.values()) == encoder.parameters


def test_a_file_with_other_tensors_is_refused_by_name(path_of, tmp_path):
    tensors = load_file(path_of("vgg-mtt"))
    del tensors["dense/bias"]
    tensors["dense_9/bias"] = np.zeros(2, np.float32)
    tensors["1CNN/bias"] = np.zeros(3, np.float32)
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"missing: dense/bias; unexpected: dense_9/bias; of a .*1CNN/bias \(3,\)"):
        ENCODERS["vgg-mtt"].load(tmp_path / "other.safetensors", "cpu")
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        ENCODERS["vgg-mtt"].load(tmp_path / "none.safetensors", "cpu")


@pytest.mark.slow
def test_the_conversion_is_the_same_every_time_and_from_the_unpacked_folder(checkpoint, path_of, package, tmp_path):
    (tmp_path / "MTT_vgg").mkdir()
    for name, content in zip((".index", ".data-00000-of-00001"), checkpoint, strict=True):
        (tmp_path / "MTT_vgg" / name).write_bytes(content)
    first = path_of("vgg-mtt").read_bytes()
    for place in (package, tmp_path):
        ENCODERS["vgg-mtt"].convert(place, tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == first


@pytest.mark.slow
def test_what_holds_no_checkpoint_is_refused(checkpoint, tmp_path):
    convert = ENCODERS["vgg-msd"].convert
    text = tmp_path / "text.tar.gz"
    text.write_text("no archive")
    with pytest.raises(DataError, match=r"text\.tar\.gz cannot be read as a tar archive"):
        convert(text, tmp_path / "out")
    with pytest.raises(DataError, match=r"must hold MSD_vgg/\.index"):
        convert(tmp_path, tmp_path / "out")
    archive = tmp_path / "other.tar"
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo("musicnn-0.1.0/setup.py"), io.BytesIO())
    with pytest.raises(DataError, match=r"other\.tar has no MSD_vgg/\.index"):
        convert(archive, tmp_path / "out")
    folder = tmp_path / "MTT_musicnn"
    folder.mkdir()
    for name, content in zip((".index", ".data-00000-of-00001"), checkpoint, strict=True):
        (folder / name).write_bytes(content)
    with pytest.raises(DataError, match="lacks conv2d/kernel"):
        ENCODERS["musicnn-mtt"].convert(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_is_read_without_the_optimizers_slots(checkpoint):
    tensors = tf_bundle.read_bundle(*checkpoint)
    assert tensors["1CNN/kernel"].shape == (3, 3, 1, 128)
    assert not [name for name in tensors if "Adam" in name]


def test_the_checksum_is_crc32c():
    crc = 0xE3069283  # the check value of CRC-32C, that of b"123456789"
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    assert tf_bundle._masked_crc32c(b"123456789") == masked


def _flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda index, data: (index, data[: len(data) // 2]), r"tensor '.*' .* damaged or cut short"),
        (lambda index, data: (index, _flipped(data, 100)), r"tensor '1CNN/bias' \(128,\) is damaged"),
        (lambda index, data: (index, b""), "damaged or cut short"),
        (lambda index, data: (_flipped(index, 100), data), "a checksum differs"),
        (lambda index, data: (index[:-1], data), "no TensorFlow checkpoint index"),
        (lambda index, data: (b"", data), "no TensorFlow checkpoint index"),
        (lambda index, data: (index[200:], data), "damaged"),
        (lambda index, data: (index[-48:], data), "damaged"),
    ],
)
def test_a_damaged_checkpoint_is_told(checkpoint, damage, message):
    with pytest.raises(DataError, match=message):
        tf_bundle.read_bundle(*damage(*checkpoint))


def _varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def _field(number, value):
    """A field of a protocol buffer: a number, or bytes."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _block(pairs):
    """A block of a sorted string table in which no key leaves anything out, and its trailer."""
    body = b"".join(_varint(0) + _varint(len(key)) + _varint(len(value)) + key + value for key, value in pairs)
    body += struct.pack("<II", 0, 1) + b"\0"
    return body + struct.pack("<I", tf_bundle._masked_crc32c(body))


def _write_bundle(folder, tensors):
    """A checkpoint of TensorFlow's form: tensors, in TensorFlow's order of axes, by name."""
    folder.mkdir()
    pairs, at = [(b"", b"")], 0
    with (folder / ".data-00000-of-00001").open("wb") as file:
        for name, value in sorted(tensors.items()):
            content = np.ascontiguousarray(value, "<f4").tobytes()
            shape = b"".join(_field(2, _field(1, size)) for size in value.shape)
            entry = _field(1, 1) + _field(2, shape) + _field(4, at) + _field(5, len(content))
            entry += _varint(6 << 3 | 5) + struct.pack("<I", tf_bundle._masked_crc32c(content))
            pairs.append((name.encode(), entry))
            at += file.write(content)
    data = _block(pairs)
    index = _block([(b"~", _varint(0) + _varint(len(data) - 5))])
    footer = _varint(0) + _varint(0) + _varint(len(data)) + _varint(len(index) - 5)
    footer = footer.ljust(40, b"\0") + struct.pack("<Q", tf_bundle._MAGIC)
    (folder / ".index").write_bytes(data + index + footer)


def _enlarged(small):
    """The big network's tensors, in which the small one's stand in the first channels and all else is nothing."""
    shapes = musicnn.MSD_MUSICNN_BIG.shapes
    big = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    # Where a channel of the small one's four concatenated layers stands in the big one's; each is pooled twice.
    at = np.concatenate([np.arange(561), *(561 + 512 * layer + np.arange(64) for layer in range(3))])
    pooled = (2 * at[:, None] + np.arange(2)).ravel()
    for name, value in small.items():
        places = tuple(np.arange(size) for size in value.shape)
        if name == "dense/kernel":
            places = (places[0], pooled)
        elif name.startswith("batch_normalization_9/"):
            places = (pooled,)
        big[name][np.ix_(*places)] = value
    return big


@pytest.mark.slow
def test_the_big_network_with_the_small_ones_weights_in_it_is_the_small_one(path_of, tmp_path, monkeypatch):
    # Our own checksum takes seconds for 32 MB; that it is CRC-32C is tested above.
    monkeypatch.setattr(tf_bundle, "_masked_crc32c", zlib.crc32)
    encoder, network = ENCODERS["musicnn-msd-big"], musicnn.MSD_MUSICNN_BIG
    turned = {2: (1, 0), 4: (2, 3, 1, 0)}
    stored = {
        name: value.transpose(turned.get(value.ndim))
        for name, value in _enlarged(load_file(path_of("musicnn-msd"))).items()
    }
    _write_bundle(tmp_path / "MSD_musicnn_big", {**stored, "conv2d/kernel/Adam": np.ones(3)})
    encoder.convert(tmp_path, tmp_path / "big.safetensors")
    encoder.convert(tmp_path / "MSD_musicnn_big", tmp_path / "again.safetensors")
    assert (tmp_path / "big.safetensors").read_bytes() == (tmp_path / "again.safetensors").read_bytes()
    patches = torch.from_numpy(np.load(GOLDEN / "patches.npz")["x"])
    with torch.inference_mode():
        ours = network.activations(patches, musicnn.read_tensors(tmp_path / "big.safetensors", network, "cpu"))
    golden = np.load(GOLDEN / "MSD_musicnn.npz")
    assert np.abs(ours["logits"].numpy() - golden["logits"]).max() <= 1e-3
    assert np.abs(ours["penultimate"][:, :200].numpy() - golden["penultimate"]).max() <= 1e-3
    at = np.concatenate([np.arange(561), *(561 + 512 * layer + np.arange(64) for layer in range(3))])
    both = np.concatenate([golden["mean_pool"], golden["max_pool"]], 1)  # in JukeMIR's order
    assert np.abs(ours["mean_max_pool"].numpy()[:, [*at, *(2097 + at)]] - both).max() <= 1e-3
    assert len(check_encoder(dataclasses.replace(encoder, max_s=7.0), tmp_path / "big.safetensors", "cpu")) == 3


def test_the_big_network_is_had_by_two_names_and_gives_jukemirs_4194_numbers():
    by_name = {name: ENCODERS[name] for name in ("musicnn", "musicnn-msd-big")}
    assert dataclasses.replace(by_name["musicnn"], name="x", load=print, convert=None) == dataclasses.replace(
        by_name["musicnn-msd-big"], name="x", load=print, convert=None
    )
    widths = {layer.name: layer.width for layer in by_name["musicnn"].layers}
    assert widths["mean_max_pool"] == 4194
    assert widths["penultimate"] == 500
    # The published data file has 95.8 MB: each trained number with two slots of the Adam optimizer, and the statistics.
    stored = sum(np.prod(shape) for shape in musicnn.MSD_MUSICNN_BIG.shapes.values())
    trained = by_name["musicnn"].parameters
    assert trained == 7980235
    assert round(4 * (stored + 2 * trained) / 1e6, 1) == 95.8


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("musicnn-msd", "MSD_MUSICNN"),
        ("musicnn-msd-big", "MSD_MUSICNN_BIG"),
        ("vgg-mtt", "MTT_VGG"),
        ("vgg-msd", "MSD_VGG"),
    ],
)
def test_declared_operations_are_the_networks(name, network):
    from torch.utils.flop_counter import FlopCounterMode

    graph = getattr(musicnn, network)
    tensors = {key: torch.ones(shape, device="meta") for key, shape in graph.shapes.items()}
    with FlopCounterMode(display=False) as counter:
        graph.activations(torch.ones(4, 187, 96, device="meta"), tensors)
    per_second = counter.get_total_flops() / (4 * 187 * 256 / 16000) / 1e9
    assert per_second == pytest.approx(plugins.find_encoder(name).gflop_per_s, abs=0.01 if per_second < 1 else 0.05)


@pytest.mark.slow
def test_random_musicnn_is_the_graph_of_musicnn_mtt_with_weights_from_a_seed():
    trained, untrained = ENCODERS["musicnn-mtt"], ENCODERS["random-musicnn"]
    for fact in ("sample_rate_hz", "layers", "min_s", "max_s", "stretch_s", "normalize", "parameters", "gflop_per_s"):
        assert getattr(untrained, fact) == getattr(trained, fact), fact
    assert untrained.weights is None
    assert untrained.training_data == ()
    waveforms = _noise(2, 7.0)
    served = _frames(untrained.load(None, "cpu"), waveforms, "random-musicnn")
    mel = musicnn.log_mel(waveforms, musicnn.mel_filters("cpu"))
    tensors = musicnn.random_tensors(musicnn.MTT_MUSICNN, "cpu")
    with torch.inference_mode():
        own = [musicnn.musicnn_activations(mel[:, start : start + 187], tensors) for start in (0, 187)]
    for layer in untrained.layers[:5]:
        expected = torch.cat([part[layer.name] for part in own], 1)
        torch.testing.assert_close(served[layer.name], expected, rtol=1e-4, atol=1e-4)
        assert torch.isfinite(expected).all()
        assert expected.abs().max() < 100  # neither dies away nor grows with depth
        assert (expected.std(dim=(0, 1)) > 1e-3).float().mean() > 0.5, "most channels hear something"


def test_random_musicnns_weights_are_the_same_everywhere_and_its_normalisations_change_nothing():
    """Of bits, not of a library's random numbers: this digest was taken once."""
    tensors, total = musicnn.random_tensors(musicnn.MTT_MUSICNN, "cpu"), hashlib.sha256()
    assert {name: tuple(value.shape) for name, value in tensors.items()} == musicnn.MTT_MUSICNN.shapes
    for name, value in sorted(tensors.items()):
        total.update(name.encode() + value.numpy().tobytes())
        if name.endswith("/kernel"):
            assert value.var() == pytest.approx(2 / np.prod(value.shape[1:]), rel=0.1)
        else:
            assert value.unique().tolist() == [float(name.endswith(("/gamma", "/moving_variance")))], name
    assert total.hexdigest() == "3d790fa0cf161f124aac2d757f4cf49c8fe6d96ab12edd818edf3b59cb77db99"


def test_importing_encoders_and_weights_loads_nothing_heavy():
    modules = "marble_bench.encoders.weights, marble_bench.encoders.musicnn, marble_bench.encoders.handcrafted"
    code = f"import sys, {modules}; print(sorted({{'torch', 'numpy', 'librosa', 'safetensors'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
