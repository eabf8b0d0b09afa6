"""MERT gives what its makers' own code gave, refuses what it does not compute, and knows other weights."""

import dataclasses
import hashlib
import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from marble_bench.core import plugins
from marble_bench.encoders import _hub, _random, _speech, mert, weights
from marble_bench.errors import DataError

GOLDEN = Path(__file__).parent / "golden"
TINY = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "conv_dim": (32,) * 7}
TINY |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
GRAPHS = {
    "95m": _speech.Graph("hubert", tuple({**TINY, "num_hidden_layers": 3}.items())),
    "330m": _speech.Graph("hubert", tuple({**TINY, "num_hidden_layers": 4, "do_stable_layer_norm": True}.items())),
}


def _tiny(size):
    """mert-95m or mert-330m, scaled down to the golden reference."""
    encoder, graph = plugins.find_encoder(f"mert-{size}"), GRAPHS[size]
    convert = partial(_hub.convert, partial(_speech.prepare, graph))
    return dataclasses.replace(encoder, layers=graph.layers(24000), load=partial(_speech.load, graph), convert=convert)


@pytest.fixture(params=["95m", "330m"])
def size(request):
    return request.param


@pytest.fixture
def folder(size, tmp_path):
    return Path(shutil.copytree(GOLDEN / f"mert-tiny-{size}", tmp_path / "hub"))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_every_state_is_that_of_the_makers_own_code(size, folder, tmp_path, attention):
    encoder = _tiny(size)
    path = weights.resolve(encoder, tmp_path, override=folder).path
    encode = _speech.load(GRAPHS[size], path, "cpu", attention)
    with np.load(folder / "reference.npz") as reference, torch.inference_mode():
        waveform, states = torch.from_numpy(reference["waveform"]), reference["hidden_states"]
        frames = encode(waveform, lambda each: each)
        means = encode(waveform, lambda each: each.mean(dim=1))
    assert len(frames) == len(states) == len(encoder.layers)
    for layer, mean, state in zip(frames, means, states, strict=True):
        assert np.abs(layer.numpy() - state).max() <= 1e-4
        assert np.abs(mean.numpy() - state.mean(axis=1)).max() <= 1e-4


def test_hooks_see_what_transformers_calls_hidden_states(size, folder):
    """Of any version: from 5.16 on, the last one must be asked for after the final norm."""
    _, tensors = _speech.prepare(GRAPHS[size], *_hub.read(folder))
    model = _speech.build(GRAPHS[size], "eager")
    _hub.fill(model, tensors)
    model.config.tie_last_hidden_states = True
    waveform = torch.randn(2, 16000, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        frames = _speech.encoding(model, "cpu")(waveform, lambda each: each)
        states = model(waveform, output_hidden_states=True).hidden_states
    assert len(frames) == len(states)
    for layer, state in zip(frames, states, strict=True):
        assert torch.equal(layer, state)


@pytest.mark.slow
def test_old_and_new_names_of_weight_norm_are_the_same_weights(size, folder, tmp_path):
    _, tensors = _hub.read(folder)
    assert any(name.endswith("weight_g") for name in tensors)
    renamed = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in tensors.items()
    }
    torch.save(renamed, folder / "pytorch_model.bin")
    found = []
    for place in (folder, GOLDEN / f"mert-tiny-{size}"):
        path = weights.resolve(_tiny(size), tmp_path, override=place).path
        with torch.inference_mode():
            found.append(_tiny(size).load(path, "cpu")(torch.ones(1, 4000).cumsum(1).sin(), lambda each: each))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def _config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"feature_extractor_cqt": True},
            "asks for feature_extractor_cqt, which transformers' hubert does not compute",
        ),
        ({"deepnorm": True}, "asks for deepnorm, which"),
        ({"num_hidden_layers": 7}, "this is another model: config.json has 7 layers of width 48, declared are"),
    ],
)
def test_a_variant_that_is_not_computed_is_refused(size, folder, tmp_path, change, words):
    _config(folder, **change)
    with pytest.raises(DataError, match=f"the weights of encoder 'mert-{size}' cannot be converted: .*{words}"):
        weights.resolve(_tiny(size), tmp_path, override=folder)


def test_a_model_with_a_constant_q_spectrogram_is_refused_whatever_its_file_says(size, folder, tmp_path):
    _, tensors = _hub.read(folder)
    for name in ("weight", "bias"):
        tensors[f"feature_projection.layer_norm.{name}"] = torch.ones(32 + 336)
    tensors["feature_projection.projection.weight"] = torch.ones(48, 32 + 336)
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"takes 368 inputs a frame and the convolutions give 32: .*constant-Q"):
        weights.resolve(_tiny(size), tmp_path, override=folder)


@pytest.mark.parametrize("how", ["lacks", "has more", "other shape"])
def test_weights_are_taken_whole_or_not_at_all(size, folder, tmp_path, how):
    _, tensors = _hub.read(folder)
    name = "encoder.layers.1.attention.q_proj.bias"
    if how == "lacks":
        del tensors[name]
    elif how == "has more":
        tensors["encoder.layers.9.attention.q_proj.bias"] = tensors[name]
    else:
        tensors[name] = tensors[name][:-1]
    torch.save(tensors, folder / "pytorch_model.bin")
    words = {
        "lacks": f"1 tensors are missing: {name}",
        "has more": r"1 tensors are not the model's: encoder\.layers\.9",
        "other shape": rf"{name} has shape \(47,\), the model's is \(48,\)",
    }
    with pytest.raises(DataError, match=f"not of this HubertModel: {words[how]}"):
        weights.resolve(_tiny(size), tmp_path, override=folder)


def test_nothing_but_tensors_is_unpickled(folder, size, tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"x": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(
        DataError, match=r"pytorch_model\.bin holds more than tensors.* so it was not read: get the"
    ) as caught:
        weights.resolve(_tiny(size), tmp_path, override=folder)
    assert "weights_only" not in str(caught.value)  # PyTorch's own advice is to run the file
    assert not (tmp_path / "ran").exists()


def test_a_lone_file_is_read_with_the_declared_graph(size, folder, tmp_path):
    from safetensors.torch import save_file

    _, tensors = _hub.read(folder)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "lone.safetensors")
    waveform = torch.ones(1, 4000).cumsum(1).sin()
    with torch.inference_mode():
        lone = _tiny(size).load(tmp_path / "lone.safetensors", "cpu")(waveform, lambda each: each)
        path = weights.resolve(_tiny(size), tmp_path, override=folder).path
        whole = _tiny(size).load(path, "cpu")(waveform, lambda each: each)
    assert all(torch.equal(one, other) for one, other in zip(lone, whole, strict=True))


@pytest.mark.parametrize(("size", "tensors"), [("95m", 211), ("330m", 403)])
def test_the_graphs_have_the_published_tensors(size, tensors):
    encoder = plugins.find_encoder(f"mert-{size}")
    wanted = _speech.build({"95m": mert.BASE, "330m": mert.LARGE}[size]).state_dict()
    assert len(wanted) == tensors
    assert sum(tensor.numel() for tensor in wanted.values()) == encoder.parameters


def test_random_weights_are_the_same_everywhere():
    """Of bits, not of a library's random numbers: this digest was taken once."""
    shapes = {
        "conv.weight": (4, 3, 5),
        "norm.weight": (8,),
        "norm.bias": (8,),
        "pos.weight_g": (1, 1, 6),
        "pos.weight_v": (4, 2, 6),
    }
    total = hashlib.sha256()
    for name, tensor in sorted(_random.draw(shapes, seed=0, spread=0.1).items()):
        total.update(name.encode() + tensor.numpy().tobytes())
    assert total.hexdigest() == "37a445181478a725ee26f55cde4d33b488960c8b6cab20b8760d40e50706d02a"


@pytest.mark.slow
def test_the_full_graph_runs_and_random_mert_is_it(tmp_path):
    encoder = plugins.find_encoder("random-mert-95m")
    one = encoder.load(None, "cpu")
    with torch.inference_mode():
        waveform = torch.randn(1, 24000, generator=torch.Generator().manual_seed(0))
        layers = one(waveform, lambda each: each.mean(dim=1))
        again = encoder.load(None, "cpu")(waveform, lambda each: each.mean(dim=1))
    assert [tuple(layer.shape) for layer in layers] == [(1, 768)] * 13
    assert all(torch.equal(first, second) for first, second in zip(layers, again, strict=True))
    assert all(torch.isfinite(layer).all() for layer in layers)
