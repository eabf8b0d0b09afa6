"""Whisper, AST, Qwen2.5-Omni and CLAP give what transformers' own models give of their own front ends' features."""

import dataclasses
import json
from functools import partial

import numpy as np
import pytest
import torch
import transformers
from stand_ins import TINY_AST, TINY_OMNI, TINY_WHISPER, draw_weights

from marble_bench.core import plugins
from marble_bench.encoders import _hub, ast_model, clap, qwen2_5_omni, weights, whisper
from marble_bench.errors import DataError


def _identity(frames):
    return frames


def _noise(windows, samples, seed=0):
    swell = torch.linspace(0.01, 1, samples)
    return 0.1 * swell * torch.randn(windows, samples, generator=torch.Generator().manual_seed(seed))


def _published(model, folder):
    """A model as the hub ships it, every tensor stirred; the model, in eval mode."""
    model.load_state_dict(draw_weights(model))
    model.save_pretrained(folder)
    return model.eval()


def _resolved(name, module, graph, folder, cache, prefix=""):
    convert = partial(_hub.convert, partial(module.prepare, graph), prefix=prefix)
    encoder = dataclasses.replace(plugins.find_encoder(name), load=partial(module.load, graph), convert=convert)
    return encoder.load(weights.resolve(encoder, cache, override=folder).path, "cpu")


def _heard(front, waveforms, **options):
    """What a model's own front end makes of waveforms."""
    return front([each.numpy() for each in waveforms], sampling_rate=16000, return_tensors="pt", **options)


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    config = transformers.WhisperConfig(
        **TINY_WHISPER, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16, vocab_size=40,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=3,
    )  # fmt: skip
    full = _published(transformers.WhisperForConditionalGeneration(config), folder)
    front = transformers.WhisperFeatureExtractor()
    front.save_pretrained(folder)
    return folder, full.model.encoder, front


def _whisper_states(encoder, front, waveforms):
    with torch.inference_mode():
        given = encoder(_heard(front, waveforms)["input_features"], output_hidden_states=True)
    return [*given.hidden_states[:-1], given.last_hidden_state]


@pytest.mark.parametrize("samples", [30 * 16000, 7 * 16000 + 100], ids=["30 s", "7 s and a bit"])
def test_whisper_gives_its_encoders_states_without_the_silence_behind(whisper_folder, tmp_path, samples):
    """Below 30 s, frames attend to the silence, as in the makers' forward; the mean is over frames with audio only."""
    folder, full, front = whisper_folder
    encode, waveforms = (
        _resolved("whisper-base", whisper, TINY_WHISPER, folder, tmp_path, whisper.PART),
        _noise(2, samples),
    )
    with torch.inference_mode():
        layers = encode(waveforms, _identity)
        means = encode(waveforms, lambda frames: frames.mean(dim=1))
    states, heard = _whisper_states(full, front, waveforms), -(-samples // 320)
    assert len(layers) == len(states) == 4
    for layer, mean, state in zip(layers, means, states, strict=True):
        torch.testing.assert_close(layer, state[:, :heard], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mean, state[:, :heard].mean(dim=1), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_whisper_takes_a_longer_window_in_pieces_of_30_s(whisper_folder, tmp_path):
    folder, full, front = whisper_folder
    encode, waveforms = (
        _resolved("whisper-base", whisper, TINY_WHISPER, folder, tmp_path, whisper.PART),
        _noise(1, 32 * 16000),
    )
    with torch.inference_mode():
        layers = encode(waveforms, _identity)
    first, rest = (_whisper_states(full, front, each) for each in torch.split(waveforms, 30 * 16000, dim=1))
    for layer, one, other in zip(layers, first, rest, strict=True):
        torch.testing.assert_close(layer, torch.cat((one, other[:, :100]), dim=1), rtol=1e-4, atol=1e-4)


def test_a_lone_file_of_the_whole_whisper_is_read_for_its_encoder(whisper_folder, tmp_path):
    folder = whisper_folder[0]
    lone = whisper.load(TINY_WHISPER, folder / "model.safetensors", "cpu")
    whole = _resolved("whisper-base", whisper, TINY_WHISPER, folder, tmp_path, whisper.PART)
    with torch.inference_mode():
        for one, other in zip(lone(_noise(1, 16000), _identity), whole(_noise(1, 16000), _identity), strict=True):
            assert torch.equal(one, other)


def test_a_whisper_of_another_size_or_front_end_is_refused(whisper_folder, tmp_path):
    folder = whisper_folder[0]
    with pytest.raises(DataError, match=r"config\.json has d_model 32, declared is 512"):
        weights.resolve(plugins.find_encoder("whisper-base"), tmp_path, override=folder)
    wide = {**TINY_WHISPER, "num_mel_bins": 128}
    with pytest.raises(
        DataError, match=r"num_mel_bins 80, declared is 128; preprocessor_config\.json has feature_size 80"
    ):
        _resolved("whisper-large-v3", whisper, wide, folder, tmp_path, whisper.PART)


@pytest.fixture(scope="module")
def ast_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ast")
    full = _published(transformers.ASTForAudioClassification(transformers.ASTConfig(**TINY_AST, num_labels=5)), folder)
    with pytest.warns(UserWarning, match="mel filter"):
        front = transformers.ASTFeatureExtractor()
    front.save_pretrained(folder)
    return folder, full.audio_spectrogram_transformer, front


def _ast_states(model, front, waveforms):
    """(states of columns, the summary): patches of one time averaged, without the class and distillation tokens."""
    with torch.inference_mode():
        given = model(_heard(front, waveforms)["input_values"], output_hidden_states=True)
    states = [*given.hidden_states[:-1], given.last_hidden_state]
    grid = [state[:, 2:].reshape(len(waveforms), 12, 101, -1) for state in states]
    return [each.mean(dim=1) for each in grid], given.pooler_output


@pytest.mark.parametrize(("samples", "columns"), [(161_600, 101), (10 * 16000, 100), (3 * 16000, 30), (400, 1)])
def test_ast_gives_its_states_column_by_column_and_its_summary(ast_folder, tmp_path, samples, columns):
    folder, full, front = ast_folder
    encode, waveforms = _resolved("ast", ast_model, TINY_AST, folder, tmp_path), _noise(2, samples)
    with torch.inference_mode():
        layers = encode(waveforms, _identity)
        means = encode(waveforms, lambda frames: frames.mean(dim=1))
    states, summary = _ast_states(full, front, waveforms)
    assert len(layers) == len(states) + 1 == 5
    for layer, mean, state in zip(layers, means, states, strict=False):
        torch.testing.assert_close(layer, state[:, :columns], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(mean, state[:, :columns].mean(dim=1), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(layers[-1][:, 0], summary, rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_ast_takes_a_longer_window_in_pieces_that_join_without_a_gap(ast_folder, tmp_path):
    folder, full, front = ast_folder
    encode, waveforms = _resolved("ast", ast_model, TINY_AST, folder, tmp_path), _noise(1, 30 * 16000)
    with torch.inference_mode():
        layers = encode(waveforms, _identity)
    pieces = [_ast_states(full, front, each) for each in torch.split(waveforms, 161_600, dim=1)]
    assert layers[0].shape[1] == 300
    assert layers[-1].shape[1] == len(pieces) == 3
    for layer, *parts in zip(layers, *(states for states, _ in pieces), strict=False):
        torch.testing.assert_close(layer, torch.cat(parts, dim=1)[:, :300], rtol=1e-3, atol=1e-3)


def test_asts_front_end_is_the_makers():
    """Of noise that swells, of a click, and of silence, whose logarithm is the smallest that is taken."""
    with pytest.warns(UserWarning, match="mel filter"):
        front = transformers.ASTFeatureExtractor()
    click = torch.zeros(1, 16000).index_fill(1, torch.tensor([8000]), 0.5)
    for waveforms in (_noise(2, 5000), click, torch.zeros(1, 16000)):
        expected = torch.as_tensor(np.stack(_heard(front, waveforms)["input_values"]))
        torch.testing.assert_close(ast_model.make_front_end("cpu")(waveforms), expected, rtol=0, atol=1e-3)


def test_published_names_of_ast_are_read_in_every_version_of_transformers():
    """The hub's file has the names of version 4; the model here may have others, or those."""
    state = ast_model.build(TINY_AST).state_dict()
    new = ("layers.0.attention.q_proj.weight", "layers.2.attention.o_proj.bias", "layers.1.mlp.fc2.weight")
    old = (
        "encoder.layer.0.attention.attention.query.weight",
        "encoder.layer.2.attention.output.dense.bias",
        "encoder.layer.1.output.dense.weight",
    )
    published = {f"audio_spectrogram_transformer.{name}": torch.ones(1) for name in old}
    published["classifier.dense.weight"] = torch.ones(1)
    assert set(ast_model.rename(published, dict.fromkeys(new))) == set(new)
    assert set(ast_model.rename(published, dict.fromkeys(old))) == set(old)
    assert set(new) <= set(state) or set(old) <= set(state)


def test_an_ast_of_another_front_end_is_refused(ast_folder, tmp_path):
    folder = ast_folder[0]
    path = folder / "preprocessor_config.json"
    told = path.read_text()
    path.write_text(json.dumps({**json.loads(told), "mean": 0.0}))
    with pytest.raises(DataError, match=r"preprocessor_config\.json has mean 0\.0, declared is -4\.2677393"):
        _resolved("ast", ast_model, TINY_AST, folder, tmp_path)
    path.write_text(told)


@pytest.fixture(scope="module")
def omni_folder(tmp_path_factory):
    """The tower's tensors as the whole model names them, in one shard of two, and the whole thinker's own class."""
    folder = tmp_path_factory.mktemp("omni")
    text = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    text |= {"intermediate_size": 16, "vocab_size": 40, "max_window_layers": 1}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 24}
    config = transformers.Qwen2_5OmniThinkerConfig(
        audio_config=dict(TINY_OMNI), text_config=text, vision_config=vision, audio_token_index=3
    )
    full = transformers.Qwen2_5OmniThinkerForConditionalGeneration(config).eval()
    full = full if hasattr(full, "audio_tower") else full.model  # versions of transformers differ in where the tower is
    full.audio_tower.load_state_dict(draw_weights(full.audio_tower))
    shard = {f"thinker.audio_tower.{name}": each for name, each in full.audio_tower.state_dict().items()}
    _hub.save({}, shard, folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {**dict.fromkeys(shard, "model-00001-of-00002.safetensors"), "thinker.model.x": "absent"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    told = {"model_type": "qwen2_5_omni", "thinker_config": {"audio_config": TINY_OMNI}}
    (folder / "config.json").write_text(json.dumps(told))
    transformers.WhisperFeatureExtractor(feature_size=128, chunk_length=300).save_pretrained(folder)
    return folder, full


def _omni_states(full, waveforms):
    """The tower's states as the whole thinker has them computed, from its own extractor's features and mask."""
    front, tower, states = (
        transformers.WhisperFeatureExtractor(feature_size=128, chunk_length=300),
        full.audio_tower,
        [],
    )
    heard = _heard(front, waveforms, return_attention_mask=True, padding="max_length")

    def keep(module, given, value):
        states.append(value[0] if isinstance(value, tuple) else value)

    hooks = [tower.layers[0].register_forward_pre_hook(lambda _, given: states.append(given[0]))]
    hooks += [module.register_forward_hook(keep) for module in (*tower.layers[:-1], tower.ln_post)]
    with torch.inference_mode():
        full.get_audio_features(heard["input_features"], feature_attention_mask=heard["attention_mask"])
    for hook in hooks:
        hook.remove()
    return [state.reshape(len(waveforms), -1, state.shape[-1]) for state in states]


@pytest.mark.slow
@pytest.mark.parametrize("samples", [3 * 16000 + 100, 33 * 16000], ids=["3 s and a bit", "33 s"])
def test_omnis_tower_gives_what_the_whole_model_has_it_compute(omni_folder, tmp_path, samples):
    folder, full = omni_folder
    encode = _resolved("qwen2.5-omni-audio", qwen2_5_omni, TINY_OMNI, folder, tmp_path, qwen2_5_omni.TOWER)
    waveforms = _noise(2, samples)
    with torch.inference_mode():
        layers = encode(waveforms, _identity)
    states = _omni_states(full, waveforms)
    assert len(layers) == len(states) == 4
    for layer, state in zip(layers, states, strict=True):
        assert layer.shape == state.shape
        torch.testing.assert_close(layer, state, rtol=1e-4, atol=1e-4)


def test_an_omni_of_another_size_is_refused(omni_folder, tmp_path):
    with pytest.raises(DataError, match=r"audio_config in config\.json has d_model 32, declared is 1280"):
        weights.resolve(plugins.find_encoder("qwen2.5-omni-audio"), tmp_path, override=omni_folder[0])


@pytest.mark.slow
def test_declared_parameters_and_operations_are_the_graphs():
    """On tensors without memory; of 30 s for Whisper, 10 s for AST and CLAP, which take no less."""
    from torch.utils.flop_counter import FlopCounterMode

    cases = [(each, whisper, (each.load.args[0]["num_mel_bins"], 3000), 30) for each in whisper.ENCODERS]
    cases += [(each, ast_model, (1024, 128), 10) for each in ast_model.ENCODERS]
    for encoder, module, shape, length_s in cases:
        model = module.build(encoder.load.args[0]).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.empty(1, *shape, device="meta"))
        assert sum(parameter.numel() for parameter in model.parameters()) == encoder.parameters, encoder.name
        counted = counter.get_total_flops() / length_s / 1e9
        assert counted == pytest.approx(encoder.gflop_per_s, rel=0.01), encoder.name
    for encoder in clap.ENCODERS:
        with torch.device("meta"):
            config = transformers.ClapAudioConfig(**encoder.load.args[0])
            model = transformers.ClapAudioModelWithProjection(config)
        assert sum(parameter.numel() for parameter in model.parameters()) == encoder.parameters, encoder.name


@pytest.mark.slow
def test_omnis_declared_parameters_and_operations_are_the_graphs():
    """Counted on one layer and on two, since the tower computes with lengths, which tensors without memory lack."""
    from torch.utils.flop_counter import FlopCounterMode

    encoder, counts = plugins.find_encoder("qwen2.5-omni-audio"), []
    assert sum(each.numel() for each in qwen2_5_omni.build(qwen2_5_omni.GRAPH).parameters()) == encoder.parameters
    for depth in (1, 2):
        model = qwen2_5_omni.build({**qwen2_5_omni.GRAPH, "encoder_layers": depth})
        _hub.fill(model, {name: torch.zeros(each.shape) for name, each in model.state_dict().items()})
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(torch.zeros(128, 200), feature_lens=torch.tensor([200]), aftercnn_lens=torch.tensor([100]))
        counts.append(counter.get_total_flops())
    total = counts[0] + (qwen2_5_omni.GRAPH["encoder_layers"] - 1) * (counts[1] - counts[0])
    assert total / 2e9 == pytest.approx(encoder.gflop_per_s, rel=0.01)
