"""MERT-v2 gives what its makers' own code gave, from a file with exactly the published tensors, and refuses others."""

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
from marble_bench.encoders import _hub, _mert_v2, mert_v2, weights
from marble_bench.errors import DataError, UsageError

GOLDEN = Path(__file__).parent / "golden/mert-v2-tiny"
TINY = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in json.loads((GOLDEN / "config.json").read_text()).items()
    if name in mert_v2.GRAPH
}
PUBLISHED_BYTES = 2_529_812_848  # of model.safetensors of MERT-v2-FullSong
# config.json and preprocessor_config.json of MERT-v2-FullSong, whose digests are declared.
PUBLISHED = {
    "architectures": ["MERT2Model"],
    "auto_map": {"AutoConfig": "configuration_mert2.MERT2Config", "AutoModel": "modeling_mert2.MERT2Model"},
    "context_seconds": 360.0, "conv_depthwise_kernel_size": 31, "frame_rate": 25.0, "hidden_size": 1024,
    "hop_length": 240, "initializer_range": 0.02, "inputs_to_logits_ratio": 960, "intermediate_size": 4096,
    "layer_norm_eps": 1e-05, "minimum_input_samples": 1025, "model_type": "mert2", "n_fft": 2048,
    "num_attention_heads": 16, "num_hidden_layers": 24, "num_mel_bins": 128, "rotary_embedding_base": 10000,
    "sampling_rate": 24000, "subsampling_channels": [128, 512, 1024], "subsampling_depths": [3, 4, 5],
    "subsampling_layer_norm_eps": 1e-06, "torch_dtype": "float32", "transformers_version": "4.53.2", "variant": "fs",
    "win_length": 2048,
}  # fmt: skip
PREPROCESSOR = {
    "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "sampling_rate": 24000,
    "padding_value": 0.0, "padding_side": "right", "return_attention_mask": True, "do_normalize": False,
}  # fmt: skip


def _identity(frames):
    return frames


def _encode(folder, cache, name="mert-v2-30s", variant="30s"):
    convert = partial(_hub.convert, partial(mert_v2.prepare, TINY, variant=variant))
    encoder = dataclasses.replace(plugins.find_encoder(name), load=partial(mert_v2.load, TINY), convert=convert)
    return encoder.load(weights.resolve(encoder, cache, override=folder).path, "cpu")


@pytest.fixture(scope="module")
def reference():
    with np.load(GOLDEN / "reference.npz") as found:
        return torch.from_numpy(found["waveform"]), found["hidden_states"]


def test_every_block_is_that_of_the_makers_own_code(tmp_path, reference):
    """Layer k is block k, which the makers call hidden_states[k - 1]; layer 0 goes into the first block."""
    waveform, states = reference
    with torch.inference_mode():
        layers = _encode(GOLDEN, tmp_path)(waveform, _identity)
        means = _encode(GOLDEN, tmp_path)(waveform, lambda frames: frames.mean(dim=1))
    assert len(layers) == len(states) + 1
    for layer, mean, state in zip(layers[1:], means[1:], states, strict=True):
        assert np.abs(layer.numpy() - state).max() <= 1e-5
        assert np.abs(mean.numpy() - state.mean(axis=1)).max() <= 1e-5


def test_the_graph_fills_the_published_file_to_the_byte():
    """Names and shapes decide how long the header is, so that a file of just this size holds just these tensors."""
    tensors, end = mert_v2.build(mert_v2.GRAPH).state_dict(), 0
    header = {"__metadata__": {"format": "pt"}}
    for name in sorted(tensors):
        start, end = end, end + 4 * tensors[name].numel()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":")))
    assert 8 + length + -length % 8 + end == PUBLISHED_BYTES


def test_the_declared_graph_is_that_of_the_published_configuration():
    """Both files were rebuilt from what is known of them, to the digests that public lists give."""
    encoder = plugins.find_encoder("mert-v2-fullsong")
    digests = dict(encoder.weights.digests)
    for name, ending, facts in (("config.json", "\n", PUBLISHED), ("preprocessor_config.json", "\n", PREPROCESSOR)):
        text = json.dumps(facts, indent=2) + ending
        assert hashlib.sha256(text.encode()).hexdigest() == digests[name], name
    assert _hub.differences(PUBLISHED, mert_v2.GRAPH, "config.json") == []
    assert set(mert_v2.GRAPH) <= set(PUBLISHED)
    assert encoder.layers[0].frame_rate_hz == PUBLISHED["frame_rate"]
    assert round(encoder.min_s * encoder.sample_rate_hz) == PUBLISHED["minimum_input_samples"]
    assert (encoder.normalize, PREPROCESSOR["do_normalize"]) == ("none", False)


def test_names_are_the_published_ones():
    """As a public script that converts the weights lists them; of each kind one."""
    names = set(mert_v2.build(mert_v2.GRAPH).state_dict())
    block, stage = "layers.23.", "subsampling_module.2."
    assert len(names) == 876
    assert names >= {
        "feature_extractor.spectrogram.window", "feature_extractor.mel_scale.fb", "feature_extractor.mel_mean",
        "feature_extractor.mel_std", f"{stage}resampling_layer.0.weight", f"{stage}resampling_layer.2.bias",
        f"{stage}convnext_layers.4.depthwise_block.1.weight", f"{stage}convnext_layers.4.pointwise_block.3.weight",
        f"{block}ffn1_layer_norm.weight", f"{block}ffn1.w_1.weight", f"{block}attn_layer_norm.bias",
        f"{block}attn.query_proj.bias", f"{block}conv_module.layer_norm.weight",
        f"{block}conv_module.conv_block.1.weight", f"{block}conv_module.conv_block.3.weight",
        f"{block}conv_module.conv_block.4.1.bias", f"{block}conv_module.conv_block.6.weight",
        f"{block}ffn2.w_2.bias", f"{block}final_layer_norm.weight",
    }  # fmt: skip
    assert not any("resampling_layer" in name for name in names if name.startswith("subsampling_module.0."))
    assert not any("inv_freq" in name for name in names)


@pytest.mark.slow
def test_declared_parameters_and_operations_are_the_graphs():
    from torch.utils.flop_counter import FlopCounterMode

    model = mert_v2.build(mert_v2.GRAPH).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.layers(model.subsampling_module(torch.empty(1, 1000, 128, device="meta")))
    for encoder in mert_v2.ENCODERS:
        assert sum(parameter.numel() for parameter in model.parameters()) == encoder.parameters
        assert counter.get_total_flops() / 1e10 == pytest.approx(encoder.gflop_per_s, rel=0.01)


def test_positions_turn_by_the_formula_whatever_was_encoded_before(tmp_path, reference):
    """In transformers 5 the makers' own class is made without its frequencies, and each load gives other features."""
    cosine, sine = _mert_v2.rotations(50, 64, 10000, torch.empty(1))
    angles = np.arange(50)[:, None] * 10000.0 ** (-2 * np.arange(32) / 64)[None]
    np.testing.assert_allclose(cosine.numpy(), np.cos(np.tile(angles, 2)), atol=1e-5)
    np.testing.assert_allclose(sine.numpy(), np.sin(np.tile(angles, 2)), atol=1e-5)
    waveform, _ = reference
    first, second = _encode(GOLDEN, tmp_path), _encode(GOLDEN, tmp_path)
    with torch.inference_mode():
        second(waveform[:, :5000], _identity)
        for one, other in zip(first(waveform, _identity), second(waveform, _identity), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("samples", "frames"), [(1025, 1), (24000 * 5, 125), (719_760, 749), (720_000, 750)])
def test_a_frame_for_every_960_whole_samples(tmp_path, samples, frames):
    with torch.inference_mode():
        layers = _encode(GOLDEN, tmp_path)(torch.zeros(1, samples), _identity)
    assert {layer.shape[1] for layer in layers} == {frames}


def test_silence_behind_a_clip_changes_all_of_it(tmp_path, reference):
    """Which is why a window is never padded: the norm over time sees the silence."""
    waveform, _ = reference
    encode = _encode(GOLDEN, tmp_path)
    with torch.inference_mode():
        alone = encode(waveform[:, :24000], _identity)[-1]
        padded = encode(torch.nn.functional.pad(waveform[:, :24000], (0, 24000)), _identity)[-1]
    assert (alone[:, 0] - padded[:, 0]).abs().max() > 1e-3


def test_a_padded_window_with_its_mask_gives_what_the_clip_gives_alone(tmp_path, reference):
    """Windows of three lengths in one batch, in any order; the mean is over valid frames."""
    waveform, _ = reference
    encode, lengths = _encode(GOLDEN, tmp_path), [30_000, 48_000, 1025, 30_000]
    clips = [
        waveform[0, start : start + length] for start, length in zip((5000, 0, 9000, 18_000), lengths, strict=True)
    ]
    padded = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=0.7)
    with torch.inference_mode():
        together = encode(padded, lambda frames: frames.mean(dim=1), valid=torch.tensor(lengths))
        alone = [encode(clip[None], lambda frames: frames.mean(dim=1)) for clip in clips]
    for layer, *each in zip(together, *alone, strict=True):
        torch.testing.assert_close(layer, torch.cat(each), rtol=0, atol=1e-4)
    with pytest.raises(UsageError, match="a window has 256 valid samples, and the model takes at least 257"):
        encode(padded, _identity, valid=torch.tensor([256, 48_000, 1025, 30_000]))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", {"num_hidden_layers": 4}, "has num_hidden_layers 4, declared is 3"),
        ("config.json", {"variant": "fs"}, "has variant fs, declared is 30s"),
        ("config.json", {"hop_length": 320}, "has hop_length 320, declared is 240"),
        ("config.json", {"model_type": "mert_model"}, "has model_type mert_model, declared is mert2"),
        ("preprocessor_config.json", {"do_normalize": True}, "has do_normalize True, declared is False"),
        ("preprocessor_config.json", {"sampling_rate": 16000}, "has sampling_rate 16000, declared is 24000"),
    ],
)
def test_another_model_is_refused(tmp_path, file, change, words):
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "hub"))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(DataError, match=f"this is another model: .*{words}"):
        _encode(folder, tmp_path)


def test_a_file_without_one_of_its_tensors_is_refused(tmp_path):
    _, tensors = _hub.read(GOLDEN)
    del tensors["layers.1.conv_module.conv_block.4.1.bias"]
    _hub.save({}, tensors, tmp_path / "lacking.safetensors")
    with pytest.raises(DataError, match=r"1 tensors are missing: layers\.1\.conv_module\.conv_block\.4\.1\.bias"):
        mert_v2.load(TINY, tmp_path / "lacking.safetensors", "cpu")
