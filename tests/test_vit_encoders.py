"""DaSheng, M2D and MATPAC++ against their makers' code or an independent computation, and their checkpoints."""

import argparse
import dataclasses
import math
import zipfile
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stand_ins import TINY_VIT, dasheng_drawn

from marble_bench.core import plugins
from marble_bench.encoders import _checkpoint, _random, dasheng, m2d, weights
from marble_bench.encoders._vit import Blocks
from marble_bench.errors import DataError

GOLDEN = Path(__file__).parent / "golden/vit"
FOLDER = "m2d_vit_base-80x96p16x16-000000-test"
DASHENG = dasheng.Graph(Blocks(**TINY_VIT), piece=100)
M2D = m2d.Graph(Blocks(**TINY_VIT), frames=96, statistics=True)
MATPAC = m2d.Graph(Blocks(**TINY_VIT, prefix="student_encoder."), frames=96)
# name -> (its graph scaled down, how to load it, how to convert its checkpoint, the golden)
TINY = {
    "dasheng-base": (DASHENG, dasheng.load, dasheng.convert, "dasheng"),
    "m2d": (M2D, m2d.load, m2d.convert_m2d, "m2d"),
    "matpac-pp": (MATPAC, m2d.load, m2d.convert_matpac, "matpac"),
}
every = pytest.mark.parametrize("name", TINY)


def _identity(frames):
    return frames


def _waveforms(name):
    """A loud window with silent gaps and a soft one, for DaSheng below what the loud one's range leaves of it."""
    random, samples = np.random.default_rng(5), 37000
    loud = (random.random(samples, dtype=np.float32) * 2 - 1) * (np.arange(samples) // 4000 % 3 != 1)
    soft = (random.random(samples, dtype=np.float32) * 2 - 1) * np.float32(1e-6 if name == "dasheng-base" else 1e-3)
    return torch.from_numpy(np.stack([loud.astype(np.float32), soft]))


def _tensors(name):
    """The weights with which the golden was made."""
    if name == "dasheng-base":
        with np.load(GOLDEN / "dasheng.npz") as golden:
            return {**dasheng_drawn(DASHENG), dasheng.BANK: torch.from_numpy(golden["bank"])}
    if name == "m2d":
        return {**_random.draw(M2D.shapes(), 3, spread=0.1), m2d.STATISTICS: torch.tensor([-6.5, 3.5])}
    return _random.draw(MATPAC.shapes(), 2, spread=0.1)


def _publish(name, tensors, folder):
    """A checkpoint in its makers' form; `folder` is a new one."""
    folder.mkdir(parents=True)
    if name == "dasheng-base":
        state = OrderedDict(tensors) | {dasheng.COUNTED: torch.tensor(7)}
        config = {"embed_dim": 999, "patch_stride": [64, 4], "target_length": 1008, "norm_layer": argparse.Namespace()}
        torch.save({"model": state, "config": config}, folder / "dasheng_base.pt")
        return folder / "dasheng_base.pt"
    if name == "matpac-pp":
        front = {"log_mel.MelSpectrogram.spectrogram.window": torch.ones(400), "head.weight": torch.ones(527, 16)}
        torch.save(OrderedDict(tensors) | front, folder / "matpac_plus_music_6s_2048_enconly.pt")
        return folder / "matpac_plus_music_6s_2048_enconly.pt"
    other = {"decoder_blocks.0.norm1.weight": torch.ones(3), "mask_token": torch.ones(1, 1, 16)}
    torch.save({"model": {**tensors, **other}, "args": argparse.Namespace(lr=1)}, folder / "trained.pth")
    with zipfile.ZipFile(folder / "released.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(folder / "trained.pth", f"{FOLDER}/{m2d.CHECKPOINT}")
    return folder / "released.zip"


def _encoder(name):
    """The encoder scaled down."""
    encoder, (graph, load, convert, _) = plugins.find_encoder(name), TINY[name]
    return dataclasses.replace(
        encoder, load=partial(load, graph, *encoder.load.args[1:]), convert=partial(convert, graph)
    )


def _load(name, place, tmp_path):
    encoder = _encoder(name)
    return encoder.load(weights.resolve(encoder, tmp_path / "cache", override=place).path, "cpu")


@every
def test_every_state_is_the_makers(name, tmp_path):
    """In pieces of which the last one is shorter; and a window gives the same beside a louder one."""
    place, waveforms = _publish(name, _tensors(name), tmp_path / "made"), _waveforms(name)
    encode = _load(name, place, tmp_path)
    layers, alone = encode(waveforms, _identity), [encode(each[None], _identity) for each in waveforms]
    with np.load(GOLDEN / f"{TINY[name][3]}.npz") as golden:
        states = golden["states"]
    assert len(layers) == len(states) == 4
    for index, (layer, state) in enumerate(zip(layers, states, strict=True)):
        assert np.abs(layer.numpy() - state).max() <= 1e-4
        assert np.abs(torch.cat([each[index] for each in alone]).numpy() - state).max() <= 1e-4


@every
def test_the_tensors_are_those_of_the_makers_checkpoint(name):
    with np.load(GOLDEN / f"{TINY[name][3]}.npz") as golden:
        names = set(golden["names"])
    assert set(TINY[name][0].shapes()) == names - {dasheng.COUNTED}
    assert set(_tensors(name)) == names - {dasheng.COUNTED}


@every
def test_two_loads_give_the_same(name, tmp_path):
    place, waveforms = _publish(name, _tensors(name), tmp_path / "made"), _waveforms(name)
    one, other = (_load(name, place, tmp_path)(waveforms, _identity) for _ in range(2))
    assert all(torch.equal(a, b) and not a.requires_grad for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("name", "rate_hz", "piece"), [("dasheng-base", 25.0, 25), ("m2d", 6.25, 6), ("matpac-pp", 6.25, 6)]
)
def test_a_click_moves_the_frames_at_its_time_and_within_its_piece(name, rate_hz, piece, tmp_path):
    """State 0 at its time and no other, later states in its piece (of `piece` frames) and no other."""
    encode = _load(name, _publish(name, _tensors(name), tmp_path / "made"), tmp_path)
    plain = 0.01 * torch.randn(1, 12 * 16000, generator=torch.Generator().manual_seed(0))
    clicked, time_s = plain.clone(), 10.13
    clicked[0, int(time_s * 16000)] += 0.1
    pairs = zip(encode(plain, _identity), encode(clicked, _identity), strict=True)
    first, *others = [(after - before).norm(dim=2)[0] for before, after in pairs]
    assert int(first.argmax()) == int(time_s * rate_hz)
    assert set(first.nonzero().flatten().tolist()) <= {int(time_s * rate_hz) + step for step in (-1, 0, 1)}
    start = int(time_s * rate_hz) // piece * piece
    for moved in others:
        assert set(moved.nonzero().flatten().tolist()) == set(range(start, start + piece))


@every
@pytest.mark.parametrize("change", ["missing", "unknown", "of another shape"])
def test_a_checkpoint_that_is_not_the_encoders_is_refused(name, change, tmp_path):
    """Two of the makers' own programs would leave a missing tensor at what it was drawn to be, in silence."""
    tensors, prefix = _tensors(name), getattr(TINY[name][0].blocks, "prefix", "")
    lacking = f"{prefix}blocks.1.attn.qkv.bias"
    if change == "missing":
        del tensors[lacking]
    elif change == "unknown":
        lacking = f"{prefix}blocks.3.ls1.gamma"
        tensors[lacking] = torch.ones(16)
    else:
        lacking = "pos_embed" if "pos_embed" in tensors else "time_pos_embed"
        tensors[lacking] = tensors[lacking][:, :8]
    place = _publish(name, tensors, tmp_path / "made")
    with pytest.raises(DataError, match=f"does not hold the tensors of .*{change}: {lacking}"):
        _load(name, place, tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"model": {"a": torch.ones(1)}, "config": {"hop_size": 320}}, "config has hop_size 320, declared is 160"),
        ({"model": {"a": torch.ones(1)}, "config": {"patch_stride": [64, 2]}}, r"patch_stride \[64, 2\], declared is"),
        ({"model": {"a": torch.ones(1)}}, "has no 'model' with 'config'"),
        ({"config": {}}, "has no 'model' with 'config'"),
        ([torch.ones(1)], "has no 'model' with 'config'"),
    ],
)
def test_a_dasheng_that_says_it_is_another_is_refused(content, said, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(DataError, match=said):
        _load("dasheng-base", tmp_path / "other.pt", tmp_path)


@pytest.mark.parametrize("form", ["checkpoint", "folder", "backbone.", "module.ar.runtime.backbone."])
def test_m2d_is_read_in_each_of_its_forms(form, tmp_path):
    tensors = _tensors("m2d")
    expected = _load("m2d", _publish("m2d", tensors, tmp_path / "made"), tmp_path)(_waveforms("m2d"), _identity)
    folder = tmp_path / FOLDER
    folder.mkdir()
    prefix = form if form.endswith(".") else ""
    named = {prefix + name: tensor for name, tensor in tensors.items()}
    torch.save(named if prefix else {"model": named}, folder / m2d.CHECKPOINT)
    encode = _load("m2d", folder if form == "folder" else folder / m2d.CHECKPOINT, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(encode(_waveforms("m2d"), _identity), expected, strict=True))


def test_m2ds_first_models_have_the_statistics_that_their_makers_give_them(tmp_path):
    tensors = _tensors("m2d")
    del tensors[m2d.STATISTICS]
    encoder = _encoder("m2d")
    path = weights.resolve(encoder, tmp_path / "cache", override=_publish("m2d", tensors, tmp_path / "made")).path
    assert load_file(path)[m2d.STATISTICS].tolist() == pytest.approx([-7.1, 4.2])


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        (
            "m2d_as_vit_base-80x96p16x16p32k-240413_enconly",
            "16 by 16, at 32kHz; this one takes 80 by 96 in .* at 16kHz",
        ),
        ("m2d_vit_base-80x1001p16x16-221006-mr7_as", "80 bands by 1001 mel frames"),
        ("m2d_vit_base-80x96p16x4-230529", "patches of 16 by 4"),
    ],
)
def test_an_m2d_whose_name_says_another_size_or_rate_is_refused(folder, said, tmp_path):
    """Of the model at 32 kHz all tensors have the same shapes: nothing else tells it."""
    made = _publish("m2d", _tensors("m2d"), tmp_path / "made").with_name("trained.pth")
    inner = tmp_path / "beside-80x96p16x16" / folder
    inner.mkdir(parents=True)
    made.rename(inner / m2d.CHECKPOINT)
    with pytest.raises(DataError, match=said):
        _load("m2d", inner, tmp_path)
    (inner.parent / m2d.CHECKPOINT).write_bytes((inner / m2d.CHECKPOINT).read_bytes())
    assert len(_load("m2d", inner.parent / m2d.CHECKPOINT, tmp_path)(_waveforms("m2d"), _identity)) == 4


def test_a_folder_without_m2ds_checkpoint_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has no checkpoint-300\.pth; give the folder"):
        _load("m2d", tmp_path / "empty", tmp_path)


def test_a_damaged_zip_of_m2d_is_named(tmp_path):
    released = _publish("m2d", _tensors("m2d"), tmp_path / "made")
    data = bytearray(released.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    released.write_bytes(data)
    with pytest.raises(DataError, match=r"released\.zip is damaged"):
        _load("m2d", released, tmp_path)


def test_a_zip_of_m2d_that_would_fill_the_disk_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(_checkpoint, "LARGEST", 1000)
    with pytest.raises(
        DataError, match=r"released\.zip holds checkpoint-300\.pth of .* bytes; at most 1,000 are unpacked"
    ):
        _load("m2d", _publish("m2d", _tensors("m2d"), tmp_path / "made"), tmp_path)


@every
def test_a_checkpoint_in_half_precision_is_computed_in_single(name, tmp_path):
    halves = {key: tensor.half() for key, tensor in _tensors(name).items()}
    place, waveforms = _publish(name, halves, tmp_path / "made"), _waveforms(name)
    singles = {key: tensor.float() for key, tensor in halves.items()}
    expected = _load(name, _publish(name, singles, tmp_path / "other"), tmp_path)(waveforms, _identity)
    layers = _load(name, place, tmp_path)(waveforms, _identity)
    assert all(torch.equal(a, b) for a, b in zip(layers, expected, strict=True))


def test_no_name_of_a_path_changes_what_matpac_computes(tmp_path):
    """Its own program takes any path with `as` in it, of a dataset or a task, for a model of longer pieces."""
    tensors, waveforms = _tensors("matpac-pp"), _waveforms("matpac-pp")
    one = _load("matpac-pp", _publish("matpac-pp", tensors, tmp_path / "x"), tmp_path)(waveforms, _identity)
    other = _load("matpac-pp", _publish("matpac-pp", tensors, tmp_path / "dataset"), tmp_path)(waveforms, _identity)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("name", "pieces", "bands", "states", "width"),
    [
        ("dasheng-base", (1001,), 64, 13, 768),
        ("dasheng-0.6b", (1001,), 64, 33, 1280),
        ("dasheng-1.2b", (1001,), 64, 41, 1536),
        ("m2d", (608, 400), 80, 13, 3840),
        ("matpac-pp", (608, 400), 80, 13, 3840),
    ],
)
def test_declared_layers_parameters_and_operations_are_the_graphs(name, pieces, bands, states, width):
    """On tensors without memory; 10 s of audio."""
    from torch.utils.flop_counter import FlopCounterMode

    encoder = plugins.find_encoder(name)
    graph = encoder.load.args[0]
    learnt = {key: shape for key, shape in graph.shapes().items() if key not in (*dasheng.NOT_LEARNT, m2d.STATISTICS)}
    tensors = {key: torch.empty(shape, device="meta") for key, shape in graph.shapes().items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made = [graph.encode(torch.empty(1, each, bands, device="meta"), tensors, _identity) for each in pieces]
    assert [layer.shape[2] for layer in made[0]] == [layer.width for layer in encoder.layers] == [width] * states
    assert sum(math.prod(shape) for shape in learnt.values()) == encoder.parameters
    assert counter.get_total_flops() / 1e10 == pytest.approx(encoder.gflop_per_s, rel=0.005)
