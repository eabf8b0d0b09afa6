"""Jukebox against OpenAI's own code, windows of any length, and the conversion of its checkpoints in bounded memory."""

import dataclasses
import json
import os
import struct
import subprocess
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from marble_bench.cli.check import check_encoder
from marble_bench.core import plugins
from marble_bench.core.encoder import stack
from marble_bench.encoders import jukebox, torch_file, weights
from marble_bench.encoders.tensors import read_exactly
from marble_bench.errors import DataError

GOLDEN = Path(__file__).parent / "golden" / "jukebox"
TINY = jukebox.Size(width=64, heads=8, context=512, parts=16, depth=6)
STRETCH = 512 * 128  # samples


def _encoder(activations="float32"):
    """The encoder as it is declared, of the reference's size."""
    return dataclasses.replace(
        jukebox.ENCODERS[0],
        layers=stack(TINY.depth + 1, TINY.width, 44100 / 128),
        load=partial(jukebox._load, TINY, activations),
        convert=partial(jukebox._convert, TINY),
        stretch_s=STRETCH / 44100,
    )


def _checkpoints():
    """Both checkpoints' content in the published form, of the reference's weights, with what is not needed."""
    coder = {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "vqvae.npz").items()}
    coder["decoders.2.out.weight"] = torch.ones(1, 64, 3)
    stored = dict(np.load(GOLDEN / "prior.npz"))
    rows, used = stored.pop("x_emb_rows"), stored["prior.x_emb.weight"]
    prior = {name: torch.from_numpy(value) for name, value in stored.items()}
    prior["prior.x_emb.weight"] = torch.zeros(2048, 64)
    prior["prior.x_emb.weight"][torch.from_numpy(rows.astype(np.int64))] = torch.from_numpy(used)
    artists = torch.zeros(4111, 64)
    artists[:1] = prior["y_emb.artist_emb.emb.weight"]
    prior["y_emb.artist_emb.emb.weight"] = artists
    prior["prior.x_out.weight"] = torch.ones(2048, 64)
    return OrderedDict(coder), OrderedDict(prior)


def _write(folder, coder, prior, **how):
    folder.mkdir(exist_ok=True)
    torch.save({"model": coder, "step": 7}, folder / "vqvae.pth.tar", **how)
    torch.save({"model": prior, "opt": None, "step": 7}, folder / "prior_level_2.pth.tar", **how)
    return folder


LEGACY = {"_use_new_zipfile_serialization": False}


@pytest.fixture(scope="module")
def golden():
    return {name: torch.from_numpy(value) for name, value in np.load(GOLDEN / "reference.npz").items()}


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """The reference's weights through the conversion, from the format of 2020."""
    folder = tmp_path_factory.mktemp("jukebox")
    _encoder().convert(_write(folder / "published", *_checkpoints(), **LEGACY), folder / "jukebox.safetensors")
    return folder / "jukebox.safetensors"


@pytest.fixture(scope="module")
def tensors(converted):
    return read_exactly(converted, TINY.shapes(), "cpu", of="the reference")


def _noise(seconds, windows=1):
    return 0.3 * torch.randn(windows, round(seconds * 44100), generator=torch.Generator().manual_seed(0))


def _every_frame(frames):
    return frames


def test_codes_are_openais(golden, tensors):
    with torch.inference_mode():
        heard = jukebox.vectors(golden["audio"], tensors)[:256]
        ours, theirs = jukebox.nearest(heard, tensors), golden["codes_of_audio"].long()
        book = tensors["bottleneck.level_blocks.2.k"].double()
        far = torch.cdist(heard.double(), book).square()
    other = ours != theirs
    assert other.sum() <= 8
    # Where another code was chosen, the reference's own lies as near: its distance is a difference of numbers about 5.
    assert (far[other, theirs[other]] - far[other].amin(1)).max() <= 4e-6 if other.any() else True


def test_the_conditioning_is_openais_to_the_bit(golden, tensors):
    assert list(TINY.conditioning) == golden["y"].tolist()
    placed, first = jukebox.conditioning(TINY, tensors)
    assert torch.equal(placed, golden["x_cond"])
    assert torch.equal(first, golden["y_cond"])
    assert jukebox.JUKEBOX_5B.conditioning == (2734080, 0, 1048576, 0, 0, -1, -1, -1, -1)


def test_every_layer_is_openais(golden, tensors):
    with torch.inference_mode():
        layers = jukebox.states([golden["codes"].long()], TINY, "float32", tensors, _every_frame)
    assert len(layers) == 7
    for index in range(1, 7):
        assert (layers[index][0, ::2] - golden[f"layer_{index}"]).abs().max() <= 1e-4, index


def test_half_precision_stays_within_a_hundredth(golden, tensors):
    with torch.inference_mode():
        codes = [golden["codes"].long()]
        whole = jukebox.states(codes, TINY, "float32", tensors, _every_frame)
        half = jukebox.states(codes, TINY, "float16", tensors, _every_frame)
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(half, whole, strict=True)]
    assert 0 < max(errors) < 0.01
    assert all(layer.dtype == torch.float32 for layer in half)


@pytest.mark.parametrize("count", [1, 31, 32, 333])
def test_fewer_codes_give_the_first_frames(count, golden, tensors):
    codes = golden["codes"].long()
    with torch.inference_mode():
        whole = jukebox.states([codes], TINY, "float32", tensors, _every_frame)
        short = jukebox.states([codes[:count]], TINY, "float32", tensors, _every_frame)
    for few, every in zip(short, whole, strict=True):
        torch.testing.assert_close(few, every[:, :count], rtol=0, atol=2e-6)


@pytest.mark.slow
def test_a_stretchs_codes_are_those_of_the_whole_window(tensors, monkeypatch):
    waveform = _noise(2.6 * STRETCH / 44100)[0]
    with torch.inference_mode():
        whole = jukebox.vectors(waveform, tensors)
        heard = []
        monkeypatch.setattr(jukebox, "nearest", lambda found, _: heard.append(found) or found)
        pieces = jukebox.codes(waveform, tensors, 512)
        assert [len(piece) for piece in pieces] == [512, 512]
        torch.testing.assert_close(torch.cat(heard), whole[:1024], rtol=0, atol=2e-6)
        monkeypatch.setattr(jukebox, "MARGIN", 2048)
        narrow = torch.cat(jukebox.codes(waveform, tensors, 512))
    assert (narrow - whole[:1024]).abs().max() > 1e-4, "a margin that is too small shows"


@pytest.mark.slow
def test_the_contract_holds_for_a_part_of_a_stretch_and_for_several(converted):
    lines = check_encoder(dataclasses.replace(_encoder(), max_s=4.0), converted, "cpu")
    assert "1.00 s: 0 (2, 344, 64)" in lines[1]
    assert "4.00 s: 0 (2, 1024, 64)" in lines[2]  # two whole stretches of 1.486 s


@pytest.mark.slow
def test_windows_are_encoded_alike_in_any_batch_and_order(converted):
    encode = _encoder().load(converted, "cpu")
    waveforms = _noise(1.2, 3)
    forward, backward = encode(waveforms, _every_frame), encode(waveforms.flip(0), _every_frame)
    alone = encode(waveforms[1:2], _every_frame)
    for layer, (one, other) in enumerate(zip(forward, backward, strict=True)):
        assert torch.equal(one, other.flip(0))
        assert torch.equal(one[1:2], alone[layer])
        assert one.shape == (3, round(1.2 * 44100) // 128, 64)
        assert torch.isfinite(one).all()


def test_half_weights_are_kept_and_widened(tmp_path, golden):
    coder, prior = _checkpoints()
    matrices = [name for name in prior if name.endswith((".w", ".b"))]
    half = OrderedDict((name, value.half() if name in matrices else value) for name, value in prior.items())
    wide = OrderedDict((name, value.half().float() if name in matrices else value) for name, value in prior.items())
    found = []
    for name, each in (("half", half), ("wide", wide)):
        path = tmp_path / f"{name}.safetensors"
        _encoder().convert(_write(tmp_path / name, coder, each, **LEGACY), path)
        found.append(read_exactly(path, TINY.shapes(), "cpu", of=name))
    assert found[0][matrices[0]].dtype == torch.float16
    codes = [golden["codes"].long()]
    with torch.inference_mode():
        layers = [jukebox.states(codes, TINY, "float32", each, _every_frame) for each in found]
    assert all(torch.equal(one, other) for one, other in zip(*layers, strict=True))


def test_a_peak_of_one_is_asked_for():
    assert {encoder.normalize for encoder in jukebox.ENCODERS} == {"peak"}


def test_the_full_size_is_that_of_the_published_model():
    encoder = plugins.find_encoder("jukebox-5b")
    per_layer = 4800 * 3600 + 3600 + 1200 * 4800 + 4800 + 2 * (4800 * 4800 + 4800) + 4 * 4800
    tables = (2048 + 8192 + 120 + 4111 + 3 * 128) * 4800
    shapes = jukebox.JUKEBOX_5B.shapes()
    coder = sum(np.prod(shape) for name, shape in shapes.items() if name.startswith("encoders."))
    assert coder == sum(value.size for name, value in np.load(GOLDEN / "vqvae.npz").items() if name[0] == "e")
    assert encoder.parameters == 36 * per_layer + tables + coder + 2048 * 64
    assert [layer.name for layer in encoder.layers] == [str(index) for index in range(37)]
    assert round(encoder.stretch_s * 44100) == 1048576
    assert jukebox.JUKEBOX_5B.context // jukebox.JUKEBOX_5B.parts == 64


@pytest.mark.parametrize("how", [LEGACY, {}], ids=["legacy", "zip"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_conversion_keeps_every_bit(how, prefix, tmp_path):
    coder, prior = _checkpoints()
    prior["prior.transformer._attn_mods.0.mlp.c_fc.w"] = torch.randn(64, 64).half().T  # not in the order of its numbers
    shared = torch.randn(3, 64)  # three in one storage
    for index, part in enumerate(("total_length", "absolute_pos", "relative_pos")):
        prior[f"y_emb.{part}_emb.emb.weight"] = torch.nn.Parameter(shared[index].expand(128, 64))
    named = OrderedDict((prefix + name, value) for name, value in prior.items())
    _encoder().convert(_write(tmp_path / "in", coder, named, **how), tmp_path / "out")
    found = load_file(tmp_path / "out")
    assert set(found) == set(TINY.shapes())
    for name, value in found.items():
        expected = (coder | prior)[name]
        assert value.dtype == expected.dtype, name
        assert torch.equal(value, expected), name
    content = (tmp_path / "out").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    starts = [entry["data_offsets"][0] for entry in json.loads(content[8 : 8 + length]).values()]
    assert length % 8 == 0
    assert starts == sorted(starts)


class _Harmful:
    """Unpickled as usual, it would make a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


class _Held:
    """Of a class that is left out, with a tensor before those that are needed."""

    def __init__(self):
        self.kept = torch.ones(5, dtype=torch.float64)


@pytest.mark.parametrize("how", [LEGACY, {}], ids=["legacy", "zip"])
def test_nothing_of_a_checkpoint_is_run(how, tmp_path):
    content = {
        "held": _Held(),
        "model": {"a": torch.arange(3.0)},
        "opt": _Harmful(tmp_path / "made"),
        "args": (Path("x"), {1: [2]}),
    }
    torch.save(content, tmp_path / "file", **how)
    found = torch_file.read_torch_file(tmp_path / "file")
    assert not (tmp_path / "made").exists()
    assert found.content["args"][1] == {1: [2]}
    torch_file.write_safetensors(tmp_path / "out", {"a": (found, found.content["model"]["a"])})
    assert load_file(tmp_path / "out")["a"].tolist() == [0, 1, 2]


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("how", [LEGACY, {}], ids=["legacy", "zip"])
def test_a_damaged_checkpoint_is_told(how, tmp_path):
    folder = _write(tmp_path / "in", *_checkpoints(), **how)
    _cut(folder / "prior_level_2.pth.tar")
    with pytest.raises(DataError, match=r"prior_level_2\.pth\.tar is .*damaged"):
        _encoder().convert(folder, tmp_path / "out")
    (folder / "prior_level_2.pth.tar").write_bytes(b"\x80\x02not a pickle")
    with pytest.raises(DataError, match=r"prior_level_2\.pth\.tar is no file of torch\.save"):
        _encoder().convert(folder, tmp_path / "out")
    (folder / "prior_level_2.pth.tar").write_bytes(b"")
    with pytest.raises(DataError, match=r"prior_level_2\.pth\.tar is no file of torch\.save"):
        _encoder().convert(folder, tmp_path / "out")


def test_what_is_missing_or_other_is_named(tmp_path):
    coder, prior = _checkpoints()
    with pytest.raises(DataError, match=r"a folder with vqvae\.pth\.tar and prior_level_2\.pth\.tar; vqvae"):
        _encoder().convert(tmp_path, tmp_path / "out")
    del prior["prior.pos_emb.pos_emb"]
    with pytest.raises(DataError, match=r"lack prior\.pos_emb\.pos_emb"):
        _encoder().convert(_write(tmp_path / "in", coder, prior), tmp_path / "out")
    prior["prior.pos_emb.pos_emb"] = torch.zeros(511, 64)
    with pytest.raises(DataError, match=r"prior\.pos_emb\.pos_emb \(511, 64\), not \(512, 64\)"):
        _encoder().convert(_write(tmp_path / "in", coder, prior), tmp_path / "out")
    prior["prior.pos_emb.pos_emb"] = torch.zeros(512, 64, dtype=torch.int64)
    with pytest.raises(DataError, match=r"pos_emb of type I64"):
        _encoder().convert(_write(tmp_path / "in", coder, prior), tmp_path / "out")
    torch.save([1], tmp_path / "in" / "vqvae.pth.tar")
    with pytest.raises(DataError, match=r"vqvae\.pth\.tar has no 'model'"):
        _encoder().convert(tmp_path / "in", tmp_path / "out")


def test_a_folder_given_by_weights_is_converted_once(tmp_path):
    folder, encoder = _write(tmp_path / "in", *_checkpoints(), **LEGACY), _encoder()
    first = weights.resolve(encoder, tmp_path / "cache", override=folder)
    assert weights.resolve(encoder, tmp_path / "cache", override=first.path).sha256 == first.sha256
    assert weights.resolve(encoder, tmp_path / "cache", override=folder) == first


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the peak of a process is read from /proc")
def test_the_conversion_needs_little_memory(tmp_path):
    script = Path(__file__).parent.parent / "benchmarks" / "convert_jukebox.py"
    done = subprocess.run(
        [sys.executable, str(script), "--layers", "3", "--json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    assert found["checkpoint_mb"] > 100
    assert found["grown_mb"] < 40
