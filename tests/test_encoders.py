"""One suite over every encoder that can have weights in a test: what is declared is what comes out, whatever the batch.

It runs on the CPU, or where BENCH_TEST_DEVICE says.
"""

import hashlib
import os
import re

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from stand_ins import FRAMES, REMAINDER_S, list_names, stand_in

from marble_bench import audio
from marble_bench.core import contract, plugins
from marble_bench.core.task import Clip, Window
from marble_bench.encoders import clap
from marble_bench.encoders.weights import Weights
from marble_bench.errors import DataError, UsageError
from marble_bench.features import pooled as extract
from marble_bench.features.frames import MIN_RATE_HZ, check_framewise, find_framewise_layers

DEVICE = os.environ.get("BENCH_TEST_DEVICE", "cpu")
APART = 1e-5 if DEVICE == "cpu" else 1e-2  # other batches take other kernels there, and convolutions round to TF32
HEAVY = {"random-mert-95m"}  # full size: has a test of its own
every = pytest.mark.parametrize("name", [name for name in list_names() if name not in HEAVY])
# What of gain and offset a normalisation over the clip takes away.
TAKEN = {"zscore": {"gain", "offset"}, "peak": {"gain"}, "none": set()}
LEVELLED = {"choi", "choi-fixed"}  # whose decibels are counted from the loudest bin
_made = {}


@pytest.fixture
def loaded(name, tmp_path_factory):
    """(encoder, weights, encode), made once for each encoder."""
    if name not in _made:
        encoder, path = stand_in(name, tmp_path_factory.mktemp(name))
        _made[name] = encoder, path, encoder.load(path, DEVICE)
    return _made[name]


def _music(encoder, windows, length_s, seed=0):
    """Tones that come and go over noise: `(windows, samples)`, every window another."""
    time = np.arange(round(length_s * encoder.sample_rate_hz)) / encoder.sample_rate_hz
    random = np.random.default_rng(seed)
    tones = [np.sin(2 * np.pi * 220 * 1.3**index * time) * np.sin(3 * time + index) ** 2 for index in range(windows)]
    return torch.from_numpy(
        (0.3 * np.stack(tones) + 0.02 * random.standard_normal((windows, len(time)))).astype(np.float32)
    )


def _frames(encode, waveforms):
    with torch.inference_mode():
        return [layer.cpu() for layer in encode(waveforms.to(DEVICE), lambda frames: frames)]


@pytest.mark.slow
@every
def test_layers_widths_and_frames_are_as_declared(name, loaded):
    """In windows of 1, 5, 10 and 30 s, as far as the encoder takes them; 20 s more give 20 s worth of frames."""
    encoder, _, encode = loaded
    counts = {}
    for length_s in (1.0, 5.0, 10.0, 30.0):
        if length_s < encoder.min_s or (encoder.max_s and length_s > encoder.max_s):
            continue
        waveforms = _music(encoder, 1, length_s)
        layers = _frames(encode, waveforms)
        assert [layer.shape[2] for layer in layers] == [layer.width for layer in encoder.layers]
        assert all(layer.dtype == torch.float32 and layer.shape[0] == 1 for layer in layers)
        assert all(torch.isfinite(layer).all() for layer in layers)
        counts[length_s] = [layer.shape[1] for layer in layers]
        assert name not in FRAMES or counts[length_s] == FRAMES[name](waveforms.shape[1])
    assert counts, f"{name} takes none of the lengths tried"
    for index, layer in enumerate(encoder.layers):
        rate = layer.frame_rate_hz
        most = 1.0 + REMAINDER_S.get(name, 0.0) * (rate or 0.0)  # an end may give one frame more or less
        for length_s, of_layers in counts.items():
            assert of_layers[index] == 1 if rate is None else abs(of_layers[index] - rate * length_s) <= most
        if rate is not None and {10.0, 30.0} <= set(counts):
            assert abs(counts[30.0][index] - counts[10.0][index] - 20.0 * rate) <= most


@pytest.mark.slow
@every
def test_pooled_is_the_mean_of_the_frames(name, loaded):
    encoder, _, encode = loaded
    waveforms = _music(encoder, 2, max(5.0, encoder.min_s))
    with torch.inference_mode():
        pooled = encode(waveforms.to(DEVICE), lambda frames: frames.float().mean(dim=1))
    for frames, mean in zip(_frames(encode, waveforms), pooled, strict=True):
        torch.testing.assert_close(mean.cpu(), frames.mean(dim=1), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@every
def test_nothing_depends_on_the_size_or_order_of_the_batch(name, loaded):
    encoder, _, encode = loaded
    waveforms = _music(encoder, 3, max(2.0, encoder.min_s))
    together = _frames(encode, waveforms)
    turned = [layer.flip(0) for layer in _frames(encode, waveforms.flip(0))]
    alone = [torch.cat(parts) for parts in zip(*(_frames(encode, one[None]) for one in waveforms), strict=True)]
    for layer, other, single in zip(together, turned, alone, strict=True):
        scale = layer.abs().max().item()
        torch.testing.assert_close(other, layer, rtol=0, atol=APART * scale)
        torch.testing.assert_close(single, layer, rtol=0, atol=APART * scale)
        assert (layer[0] - layer[1]).abs().max() > 1e-3 * scale or layer.shape[2] < 2, "windows give the same"


@pytest.mark.slow
@every
def test_the_model_is_frozen_and_draws_nothing(name, loaded):
    """Nothing trains: not by mode, not by gradient; two calls give the same bits; weights on disk are untouched."""
    encoder, path, encode = loaded
    before = path and hashlib.sha256(path.read_bytes()).hexdigest()
    waveforms, seen = _music(encoder, 1, max(2.0, encoder.min_s)), []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(lambda module, _: seen.append(module))
    state = torch.random.get_rng_state()
    try:
        first, second = (encode(waveforms.to(DEVICE), lambda frames: frames) for _ in range(2))
    finally:
        hook.remove()
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not any(layer.requires_grad for layer in first)
    assert not any(module.training for module in seen)
    parameters = [parameter for module in seen for parameter in module.parameters(recurse=False)]
    assert not any(parameter.requires_grad or parameter.dtype != torch.float32 for parameter in parameters)
    assert before == (path and hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.slow
@every
@pytest.mark.parametrize("change", ["gain", "offset"])
def test_gain_and_offset_do_what_the_declared_normalisation_says(name, loaded, change):
    encoder, _, encode = loaded
    clip = _music(encoder, 1, max(3.0, encoder.min_s))[0].numpy()
    changed = 0.25 * clip if change == "gain" else clip + np.float32(0.2)
    one, other = (
        _frames(encode, torch.from_numpy(audio.normalize(each, encoder.normalize))[None]) for each in (clip, changed)
    )
    apart = [((a - b).norm() / a.norm()).item() for a, b in zip(one, other, strict=True)]
    if change in TAKEN[encoder.normalize] or (change == "gain" and name in LEVELLED):
        assert max(apart) < 1e-2
    elif change == "gain":
        assert max(apart) > 1e-2  # who says "none" is told how loud it is


@pytest.mark.slow
@every
def test_a_window_that_is_too_short_is_told(name, loaded, tmp_path):
    encoder, path, _ = loaded
    length_s, file = 0.9 * encoder.min_s, tmp_path / "short.wav"
    rate = 48000
    soundfile.write(file, 0.1 * np.sin(np.arange(max(1, round(length_s * rate)))), rate, subtype="FLOAT")
    item = extract.Item(Clip(id="brief", audio="short.wav", split="train", target="x"), file, "0" * 64, None)
    weights = Weights(path, "0" * 64, "none", "")
    _, _, cost = extract.extract([item], encoder, weights, Window(), tmp_path / "cache", DEVICE)
    assert re.search(f"clip 'brief' gives a window of .* s, and {name} needs at least", cost.damaged["brief"])


@pytest.mark.slow
@every
def test_the_shortest_window_can_be_encoded(name, loaded):
    encoder, _, encode = loaded
    samples = int(np.ceil(encoder.min_s * encoder.sample_rate_hz))
    layers = _frames(encode, _music(encoder, 1, samples / encoder.sample_rate_hz))
    assert all(layer.shape[1] >= 1 and torch.isfinite(layer).all() for layer in layers)


@pytest.mark.slow
@every
def test_nothing_is_wrong_with_it_by_the_suites_own_check(name, loaded):
    """What `bench check` tries of a user's encoder; of one that takes a mask, with padding behind its windows too."""
    encoder, _, encode = loaded
    problems, _ = contract.try_on_noise(encoder, encode, DEVICE, max(2.0, encoder.min_s))
    assert not problems


@pytest.mark.slow
@every
def test_another_load_gives_the_same_bits(name, loaded):
    """As a table that is left uninitialised, or weights that are drawn anew, would not."""
    encoder, path, encode = loaded
    waveforms = _music(encoder, 1, max(2.0, encoder.min_s))
    for one, other in zip(_frames(encode, waveforms), _frames(encoder.load(path, DEVICE), waveforms), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@every
@pytest.mark.parametrize("change", ["missing", "more"])
def test_a_file_with_a_tensor_more_or_less_is_refused(name, loaded, tmp_path, change):
    encoder, path, _ = loaded
    if path is None:
        pytest.skip("it has no weights")
    with safe_open(path, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    if change == "more":
        tensors[f"{max(tensors)}.more"] = torch.ones(3)
    else:  # one that the model cannot do without, and that no other follows from
        del tensors[max((key for key in tensors if tensors[key].ndim > 1), key=lambda key: tensors[key].numel())]
    save_file(tensors, tmp_path / "changed.safetensors", metadata=metadata)
    with pytest.raises(DataError):
        encoder.load(tmp_path / "changed.safetensors", DEVICE)


@pytest.mark.slow
@every
def test_a_click_moves_the_frame_of_its_time_most(name, loaded):
    """In the first layer that has frames: a rate that is declared wrongly would show, and pieces put together wrongly."""
    encoder, _, encode = loaded
    index = next((i for i, layer in enumerate(encoder.layers) if (layer.frame_rate_hz or 0) >= MIN_RATE_HZ), None)
    length_s, at_s = 14.0, 11.0
    if index is None or (encoder.max_s or length_s) < length_s:
        pytest.skip("it has no frames, or takes no window of 14 s")
    before = _music(encoder, 1, length_s)
    after = before.clone()
    after[0, round(at_s * encoder.sample_rate_hz)] += 0.9
    one, other = _frames(encode, before)[index], _frames(encode, after)[index]
    rate = encoder.layers[index].frame_rate_hz
    moved = (one - other).norm(dim=2)[0].argmax().item()
    assert abs(moved / rate - at_s) <= 0.15 + 1.0 / rate


def test_encoders_without_frames_are_refused_for_tasks_that_ask_frame_by_frame():
    without = {"clmr", "choi", "choi-fixed", "mule", "muq-mulan", "clamp3", *(each.name for each in clap.ENCODERS)}
    without |= {"m2d", "matpac-pp"}  # 6.25 frames a second
    for name, encoder in plugins.find_encoders().items():
        if name in without:
            with pytest.raises(UsageError, match=f"{name}: layer .* has no frames .* choose another model"):
                check_framewise(encoder, range(len(encoder.layers)))
        else:
            assert find_framewise_layers(encoder.layers), name


def test_every_encoder_declares_what_the_page_of_encoders_needs():
    for name, encoder in plugins.find_encoders().items():
        if encoder.weights:
            assert encoder.training_data, name
            assert encoder.parameters > 0, name
            assert encoder.license, name
