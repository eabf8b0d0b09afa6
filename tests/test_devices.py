"""Nothing is left on the host: encoders, probes and pooling on a second device, which refuses to mix with the CPU."""

from dataclasses import replace

import pytest
import torch
from fake_device import NAME, fake_device
from marble_bench.probes import kernels, trainer
from marble_bench.probes.block import Block, validate
from marble_bench.probes.inputs import Features
from stand_ins import list_names, stand_in

from marble_bench.core.task import Schedule
from marble_bench.metrics import accuracy, r2, roc_auc
from marble_bench.protocols.jukemir import PROTOCOL as JUKEMIR
from marble_bench.protocols.marble import PROTOCOL as MARBLE

HOST = {"mfcc", "chroma", "logmel"}  # librosa computes them on the host and sends what it made
TWICE = {"random-mert-95m", "choi-fixed"}  # the graphs of others, only larger or slower
ASKS = {"qwen2.5-omni-audio"}  # transformers' own model reads lengths from its device, and this one has no values


@pytest.fixture
def device(monkeypatch):
    """A second device."""
    with fake_device(monkeypatch) as name:
        yield name


def test_the_second_device_refuses_to_mix(device):
    here, there = torch.ones(2, 3), torch.ones(2, 3).to(device)
    assert (there @ torch.ones(3, 2, device=device)).device.type == device
    with pytest.raises(RuntimeError, match="same device"):
        here + there
    with pytest.raises(RuntimeError, match="same device"):
        torch.nn.functional.linear(there, torch.nn.Linear(3, 2).weight)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_names() if name not in HOST | TWICE | ASKS])
def test_an_encoder_stays_on_its_device(name, device, tmp_path):
    encoder, path = stand_in(name, tmp_path)
    encode = encoder.load(path, device)
    samples = round(max(2.0, encoder.min_s) * encoder.sample_rate_hz)
    with torch.inference_mode():
        layers = encode(torch.randn(2, samples).to(device), lambda frames: frames.float().mean(dim=1))
    assert [layer.device.type for layer in layers] == [device] * len(encoder.layers)
    assert [tuple(layer.shape) for layer in layers] == [(2, layer.width) for layer in encoder.layers]


def _adam_as_cuda_wants_it(values, gradients, first, second, most, counts, **rules):
    """What torch's fused kernel for CUDA asks of its lists, and the one for the CPU does not: see its source,
    `aten/src/ATen/native/cuda/FusedAdamKernel.cu`, and `ForeachUtils.h` for the fast path's conditions."""
    assert not most
    assert {each.device for each in counts} == {values[0].device}
    for value, *others in zip(values, gradients, first, second, strict=True):
        assert value.device.type == NAME
        for other in others:
            assert (other.device, other.dtype, other.shape, other.stride()) == (
                value.device, value.dtype, value.shape, value.stride(),
            )  # fmt: skip


SMALL_JUKEMIR = replace(JUKEMIR, learning_rates=(1e-4, 1e-3), weight_decays=(0.0,), batch_sizes=(16,), hiddens=(0, 32))
SCORES = {"cross_entropy": accuracy, "binary_cross_entropy": roc_auc, "squared_error": r2}


def _split(clips: int, windows: int, loss: str) -> trainer.Split:
    truth = torch.arange(clips) % 3 if loss == "cross_entropy" else torch.rand(clips, 3)
    layers = [torch.randn(clips * windows, 16).half() for _ in range(3)]
    return trainer.Split(layers, torch.arange(clips).repeat_interleave(windows), truth)


@pytest.mark.slow
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "streamed"])
@pytest.mark.parametrize(
    ("protocol", "loss"),
    [*((MARBLE, loss) for loss in SCORES), (SMALL_JUKEMIR, "cross_entropy")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_step_and_a_validation_of_every_block_stay_on_the_device(protocol, loss, resident, device, monkeypatch):
    assert kernels.has_adam()  # tried before a stand-in takes its place
    monkeypatch.setattr(torch, "_fused_adam_", _adam_as_cuda_wants_it)
    if not resident:
        monkeypatch.setattr(Features, "_settle", lambda self: None)
    train, valid = _split(40, 2, loss), _split(12, 2, loss)
    recipe = trainer.Recipe(protocol, Schedule(2, 2, 2), 3, loss, SCORES[loss].compute, (0, 1))
    probes = trainer.build_grid(protocol, (0, 1, 2), protocol.layer_sum, 2)
    kinds = trainer.make_blocks(probes, train, valid, recipe, device)
    assert len(kinds) > 1
    for members in kinds:
        features = Features(train, valid, (0, 1, 2), device)
        features.valid_counts = torch.full((12,), 2, device=device)  # counting asks for numbers
        block = Block(members, features, recipe, device)
        block.rounds = 1
        with torch.inference_mode():
            losses = block._step(block._make_batches()[0])
            keys, counts, _ = block._groups
            outputs = validate(block.parameters, block.features, recipe, keys, counts)
            finite = losses.isfinite() & outputs.isfinite().flatten(1).all(dim=1)
            block.adam.select(range(0, len(members), 2))
        assert {finite.device.type, outputs.device.type} == {device}
        assert outputs.shape == (len(members), 12, 3)
        assert {value.device.type for value in block.adam.parameters.values()} == {device}


@pytest.mark.parametrize("name", ["muq", "mert-95m"])
def test_float32_after_bfloat16_is_what_it_is_alone(name, tmp_path):
    """As where half precision overflows and a window is encoded once more."""
    encoder, path = stand_in(name, tmp_path)
    encode = encoder.load(path, "cpu")
    waveforms = torch.randn(1, 2 * encoder.sample_rate_hz, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        alone = encoder.load(path, "cpu")(waveforms, lambda frames: frames)
        with torch.autocast("cpu", torch.bfloat16):
            encode(waveforms, lambda frames: frames)
        after = encode(waveforms, lambda frames: frames)
    assert all(torch.equal(one, other) for one, other in zip(alone, after, strict=True))
