"""MuQ-MuLan gives what its makers' package gave, window by window, and refuses other models and frame-wise tasks."""

import dataclasses
import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_ins import TINY_CONFORMER

from marble_bench.core import plugins
from marble_bench.encoders import _hub, conformer, conformer_mulan, weights
from marble_bench.errors import DataError, UsageError
from marble_bench.features.frames import check_framewise

GOLDEN = Path(__file__).parent / "golden/muq-mulan-tiny"
SIZES = (24, 16)


def _identity(frames):
    return frames


def _encode(folder, cache):
    convert = partial(_hub.convert, partial(conformer_mulan.prepare, TINY_CONFORMER, 4, SIZES))
    load = partial(conformer_mulan.load, TINY_CONFORMER, 4, SIZES)
    encoder = dataclasses.replace(plugins.find_encoder("muq-mulan"), load=load, convert=convert)
    return encoder.load(weights.resolve(encoder, cache, override=folder).path, "cpu")


def _sweeps(length_s):
    """A tone that rises and falls, with a high one over it, and the same backwards: what the reference was made of."""
    time = np.arange(12 * 24000) / 24000
    tone = 0.3 * np.sin(2 * np.pi * (220 + 30 * time) * time) * np.sin(3 * time) ** 2
    wave = (tone + 0.05 * np.sin(2 * np.pi * 3331 * time)).astype(np.float32)
    return torch.from_numpy(np.stack([wave, wave[::-1].copy()]))[:, : length_s * 24000]


@pytest.mark.parametrize("length_s", [4, 10, 12])
def test_a_windows_vector_is_that_of_the_makers_package(tmp_path, length_s):
    """4 s are heard twice, 8 s and no more; of 12 s, the last two go on with the first eight."""
    encode = _encode(GOLDEN, tmp_path)
    with np.load(GOLDEN / "reference.npz") as reference, torch.inference_mode():
        expected = reference[f"latent_{length_s}s"]
        (found,) = encode(_sweeps(length_s), _identity)
        (pooled,) = encode(_sweeps(length_s), lambda frames: frames.mean(dim=1))
    assert found.shape == (2, 1, 16)
    assert np.abs(found[:, 0].numpy() - expected).max() <= 1e-5
    assert torch.equal(pooled, found[:, 0])
    assert np.abs(expected[0] - expected[1]).max() > 1e-3  # the reference tells windows apart


def test_clips_are_ten_seconds_and_the_last_goes_on_with_the_beginning():
    windows = torch.arange(2 * 600_000.0).view(2, -1)
    clips = conformer_mulan.cut_clips(windows)
    assert [each.shape[1] for each in clips] == [240_000] * 3
    assert torch.equal(clips[2], torch.cat((windows[:, 480_000:], windows[:, :120_000]), dim=1))
    assert [each.shape[1] for each in conformer_mulan.cut_clips(windows[:, :480_000])] == [240_000] * 2
    assert [each.shape[1] for each in conformer_mulan.cut_clips(windows[:, :96_000])] == [192_000]


def test_tasks_that_ask_frame_by_frame_are_refused():
    encoder = plugins.find_encoder("muq-mulan")
    assert encoder.layers[0].frame_rate_hz is None
    with pytest.raises(UsageError, match="asked frame by frame"):
        check_framewise(encoder, [0])


@pytest.mark.parametrize(
    ("part", "change", "words"),
    [
        ("audio_transformer", {"tf_depth": 8}, "audio_transformer in config.json has tf_depth 8, declared is 0"),
        ("audio_model", {"use_layer_idx": 10}, "audio_model in config.json has use_layer_idx 10, declared is -1"),
        ("mulan", {"clip_secs": 5}, "mulan in config.json has clip_secs 5, declared is 10"),
    ],
)
def test_another_model_is_refused(tmp_path, part, change, words):
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "hub"))
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, part: {**told[part], **change}}))
    with pytest.raises(DataError, match=words):
        _encode(folder, tmp_path)


def test_what_is_declared_is_what_the_published_configuration_says():
    """The golden's configuration has the published form; with the published sizes it has the published digest."""
    told = json.loads((GOLDEN / "config.json").read_text())
    told["mulan"]["dim_latent"], told["audio_model"]["model_dim"] = conformer_mulan.LATENT, 1024
    told["audio_transformer"]["dim"] = conformer_mulan.WIDTH
    digest = hashlib.sha256(json.dumps(told, indent=2).encode()).hexdigest()
    assert digest == dict(plugins.find_encoder("muq-mulan").weights.digests)["config.json"]
    for part, facts in conformer_mulan.DECLARED.items():
        assert facts.items() <= told[part].items()


def test_layers_that_the_published_model_lacks_are_refused(tmp_path):
    config, tensors = _hub.read(GOLDEN)
    tensors["mulan.audio.transformer.layers.0.0.to_q.weight"] = torch.ones(1)
    with pytest.raises(DataError, match="between the two linear layers, declared are none"):
        conformer_mulan.prepare(TINY_CONFORMER, 4, SIZES, config, tensors)


def test_declared_parameters_are_the_graphs():
    parts = conformer.build(conformer.CONFORMER, conformer.CHANNELS), conformer_mulan.build_head(1024, 768, 512)
    total = sum(parameter.numel() for part in parts for parameter in part.parameters())
    assert total == plugins.find_encoder("muq-mulan").parameters
