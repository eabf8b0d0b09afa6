"""MULE against its package: its own pipeline on halved waveforms, slices, the file of the weights."""

import dataclasses
import importlib.util
import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from marble_bench.cli.check import check_encoder
from marble_bench.encoders import mule
from marble_bench.errors import DataError, UsageError

ENCODER = mule.ENCODERS[0]
needs_package = pytest.mark.skipif(
    importlib.util.find_spec("mule_torch") is None, reason="the extra marble-bench[mule] (GPL-3.0) is not installed"
)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as on the hub, with random weights."""
    from mule_torch import MuleModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MuleModel()
        for name, value in model.named_parameters():
            if name.endswith(
                "skip_gain"
            ):  # zero at the beginning of training, which would leave most of the network out
                torch.nn.init.constant_(value, 0.5)
    folder = tmp_path_factory.mktemp("mule")
    model.save_pretrained(folder)
    return folder


def _noise(seconds, windows=1):
    """Noise that gets louder, so that slices differ."""
    samples = round(seconds * mule.SAMPLE_RATE_HZ)
    noise = torch.randn(windows, samples, generator=torch.Generator().manual_seed(0))
    return noise * torch.linspace(0.001, 0.3, samples)


def _every_frame(frames):
    return frames


@needs_package
def test_the_features_are_the_packages_at_the_scale_of_the_training(published):
    from mule_torch import MuleModel

    waveforms = 0.003 * _noise(7, 2)  # soft, where the logarithm of 10000 x + 1 is no logarithm
    encode = ENCODER.load(published / "model.safetensors", "cpu")
    with torch.inference_mode():
        model = MuleModel.from_pretrained(model_dir=published)
        expected, louder = model(0.5 * waveforms), model(waveforms)
    (mean,) = encode(waveforms, lambda frames: frames.mean(1))
    assert (mean - expected).norm() <= 1e-5 * expected.norm()
    assert (mean - louder).norm() >= 1e-3 * louder.norm(), "the scale makes a difference"
    assert sum(value.numel() for value in model.parameters()) == ENCODER.parameters


@needs_package
def test_windows_are_encoded_alike_in_any_batch_and_order(published, monkeypatch):
    monkeypatch.setattr(mule, "AT_ONCE", 2)
    encode = ENCODER.load(published / "model.safetensors", "cpu")
    waveforms = torch.cat([_noise(5), _noise(5).flip(1), _noise(5).abs()])
    (forward,), (backward,) = encode(waveforms, _every_frame), encode(waveforms.flip(0), _every_frame)
    (alone,) = encode(waveforms[1:2], _every_frame)
    assert forward.shape == (3, 2, 1728)
    torch.testing.assert_close(forward, backward.flip(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(forward[1:2], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(forward[0], forward[1], rtol=1e-2)


@needs_package
def test_the_contract_holds_and_the_shortest_window_fills_one_slice(published):
    lines = check_encoder(dataclasses.replace(ENCODER, max_s=8.0), published / "model.safetensors", "cpu")
    assert "2.99 s: timeline (2, 1, 1728)" in lines[1]
    assert "8.00 s: timeline (2, 4, 1728)" in lines[2]
    assert 1 + round(ENCODER.min_s * 16000) // 160 == 300


@needs_package
def test_a_folder_as_on_the_hub_is_taken_and_another_configuration_is_not(published, tmp_path):
    ENCODER.convert(published, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == (published / "model.safetensors").read_bytes()
    with pytest.raises(
        DataError, match=r"model\.safetensors and config\.json; model\.safetensors, config\.json is not"
    ):
        ENCODER.convert(tmp_path, tmp_path / "out")
    config = json.loads((published / "config.json").read_text())
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({**config, "weight_standardization": False}))
    with pytest.raises(DataError, match="it differs in weight_standardization"):
        ENCODER.convert(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(DataError, match="no configuration of MULE"):
        ENCODER.convert(tmp_path, tmp_path / "out")


@needs_package
def test_a_file_with_other_tensors_is_refused(published, tmp_path):
    tensors = load_file(published / "model.safetensors")
    del tensors["backbone.fast_stem.convs.0.bias"]
    save_file({**tensors, "more": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"missing: backbone\.fast_stem\.convs\.0\.bias; unexpected: more"):
        ENCODER.load(tmp_path / "other.safetensors", "cpu")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"missing: frontend\.mel_fb"):
        ENCODER.load(tmp_path / "other.safetensors", "cpu")
    (tmp_path / "other.safetensors").write_text("none")
    with pytest.raises(DataError, match="cannot be read as safetensors"):
        ENCODER.load(tmp_path / "other.safetensors", "cpu")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mule_torch", None)
    with pytest.raises(UsageError, match=r"pip install 'marble-bench\[mule\]'"):
        ENCODER.load(tmp_path / "model.safetensors", "cpu")
