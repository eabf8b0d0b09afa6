"""CLMR: the network against modules of PyTorch put together as its authors do, frames, and their form of a checkpoint."""

import argparse
import dataclasses
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from marble_bench.cli.check import check_encoder
from marble_bench.encoders import clmr
from marble_bench.errors import DataError

ENCODER = clmr.ENCODERS[0]
# Channels in and out, as the authors list them.
HIDDEN = [(128, 128), (128, 128), (128, 256), *[(256, 256)] * 5, (256, 512)]


class SampleCNN(nn.Module):
    """As published: a strided convolution, nine with a maximum over three, one more, and a layer that is not used."""

    def __init__(self):
        super().__init__()
        parts = [nn.Sequential(nn.Conv1d(1, 128, 3, stride=3), nn.BatchNorm1d(128), nn.ReLU())]
        parts += [
            nn.Sequential(nn.Conv1d(a, b, 3, padding=1), nn.BatchNorm1d(b), nn.ReLU(), nn.MaxPool1d(3, stride=3))
            for a, b in HIDDEN
        ]
        parts.append(nn.Sequential(nn.Conv1d(512, 512, 3, padding=1), nn.BatchNorm1d(512), nn.ReLU()))
        self.sequential = nn.Sequential(*parts)
        self.fc = nn.Identity()

    def forward(self, x):
        return self.fc(self.sequential(x).flatten(1))


@pytest.fixture(scope="module")
def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = SampleCNN()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.momentum = 1.0  # the statistics are those of the noise below, as if it had been trained with
                nn.init.uniform_(module.weight, 0.8, 1.6)
                nn.init.normal_(module.bias, 0, 0.2)
        made.train()(0.1 * torch.randn(8, 1, 3**10))
    return made.eval()


@pytest.fixture(scope="module")
def published(network, tmp_path_factory):
    """As Lightning writes it: the encoder twice, the projection, and hyper-parameters of a class of its own."""
    state = OrderedDict()
    for prefix in ("encoder.", "model.encoder."):
        state.update({prefix + name: value for name, value in network.state_dict().items()})
    state["model.projector.0.weight"] = torch.zeros(512, 512)
    content = {
        "epoch": 10000,
        "pytorch-lightning_version": "1.1.0",
        "state_dict": state,
        "hyper_parameters": argparse.Namespace(gpus=1, dataset="magnatagatune"),
        "optimizer_states": [{"state": {0: {"step": 3, "exp_avg": torch.zeros(3)}}}],
    }
    path = tmp_path_factory.mktemp("clmr") / clmr.CHECKPOINT
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def weights(published):
    ENCODER.convert(published, published.with_name("clmr.safetensors"))
    return published.with_name("clmr.safetensors")


def _noise(seconds, windows=1):
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(windows, round(seconds * clmr.SAMPLE_RATE_HZ), generator=generator)


def _every_frame(frames):
    return frames


@pytest.mark.slow
def test_the_network_is_the_published_one_and_a_frame_gives_one_vector(network, weights):
    frames = _noise(clmr.FRAME / 22050, 3)
    with torch.inference_mode():
        expected = network(frames.unsqueeze(1))
    (served,) = ENCODER.load(weights, "cpu")(frames, _every_frame)
    assert served.shape == (3, 1, 512)
    assert served.std(0).mean() > 0.01, "the frames differ"
    torch.testing.assert_close(served[:, 0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_parameters_are_2_37_million(network):
    assert ENCODER.parameters == sum(value.numel() for value in network.parameters()) == 2368512
    assert network(torch.zeros(1, 1, 3**10)).shape == network(torch.zeros(1, 1, 59409)).shape == (1, 512)


@pytest.mark.slow
def test_every_tensor_of_the_encoder_and_nothing_else_is_taken(network, weights):
    found = load_file(weights)
    kept = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    assert set(found) == set(kept)
    assert all(torch.equal(found[name], value) for name, value in kept.items())
    SampleCNN().load_state_dict(found, strict=True)  # PyTorch itself adds what only training counts


@pytest.mark.slow
def test_frames_follow_one_another_and_the_rest_is_dropped(weights):
    encode = ENCODER.load(weights, "cpu")
    waveforms = _noise(8.5)
    (served,) = encode(waveforms, _every_frame)
    assert served.shape == (1, 3, 512)
    for at in range(3):
        (one,) = encode(waveforms[:, at * clmr.FRAME : (at + 1) * clmr.FRAME], _every_frame)
        torch.testing.assert_close(served[:, at], one[:, 0], rtol=1e-4, atol=1e-4)
    (mean,) = encode(waveforms, lambda frames: frames.mean(1))
    torch.testing.assert_close(mean, served.mean(1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_window_is_encoded_alike_in_any_batch_and_order(weights, monkeypatch):
    monkeypatch.setattr(clmr, "AT_ONCE", 2)
    encode = ENCODER.load(weights, "cpu")
    waveforms = _noise(2.7, 5)
    (forward,), (backward,) = encode(waveforms, _every_frame), encode(waveforms.flip(0), _every_frame)
    (alone,) = encode(waveforms[4:], _every_frame)
    torch.testing.assert_close(forward, backward.flip(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(forward[4:], alone, rtol=1e-4, atol=1e-4)
    assert torch.isfinite(forward).all()


@pytest.mark.slow
def test_the_contract_holds(weights):
    lines = check_encoder(dataclasses.replace(ENCODER, max_s=8.5), weights, "cpu")
    assert "encoder (2, 1, 512)" in lines[1]
    assert "encoder (2, 3, 512)" in lines[2]


def test_the_zip_and_the_folder_give_the_same(published, weights, tmp_path):
    with zipfile.ZipFile(tmp_path / "clmr_magnatagatune_mlp.zip", "w") as archive:
        archive.write(published, f"clmr_magnatagatune_mlp/{clmr.CHECKPOINT}")
    for place in (tmp_path / "clmr_magnatagatune_mlp.zip", published.parent):
        ENCODER.convert(place, tmp_path / "out")
        assert (tmp_path / "out").read_bytes() == weights.read_bytes()
    assert not list(tmp_path.glob(".clmr-*"))


def test_what_is_no_checkpoint_of_clmr_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no clmr_epoch=10000\.ckpt; give CLMR's release 2\.1"):
        ENCODER.convert(tmp_path, tmp_path / "out")
    torch.save({"state_dict": {"model.encoder.fc.weight": torch.zeros(2)}}, tmp_path / "other.ckpt")
    with pytest.raises(DataError, match=r"lacks model\.encoder\.sequential\.0\.0\.weight"):
        ENCODER.convert(tmp_path / "other.ckpt", tmp_path / "out")
    torch.save([1], tmp_path / "other.ckpt")
    with pytest.raises(DataError, match="has no 'state_dict'"):
        ENCODER.convert(tmp_path / "other.ckpt", tmp_path / "out")
    (tmp_path / "other.ckpt").write_text("nothing")
    with pytest.raises(DataError, match=r"no file of torch\.save"):
        ENCODER.convert(tmp_path / "other.ckpt", tmp_path / "out")
