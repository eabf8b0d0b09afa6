"""Models from the hub's own form, verified against transformers' own models and front ends, or their makers' code."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import librosa
import numpy as np
import pytest
import torch
import transformers
from stand_ins import TINY_CLAP, TINY_CODEC, TINY_CONFORMER, TINY_QWEN, TINY_SPEECH, draw_weights

from marble_bench.core import plugins
from marble_bench.encoders import _hub, _mel, _pieces, _random, _speech, clap, codecs, conformer, qwen2_audio, weights
from marble_bench.errors import DataError

GOLDEN = Path(__file__).parent / "golden"


def _noise(windows, samples, seed=0):
    return 0.1 * torch.randn(windows, samples, generator=torch.Generator().manual_seed(seed))


def _identity(frames):
    return frames


def _published(model, folder, **options):
    """A model as the hub ships it, every tensor stirred; the model, in eval mode."""
    model.load_state_dict(draw_weights(model))
    model.save_pretrained(folder, **options)
    return model.eval()


def _resolved(name, graph_load, convert, folder, tmp_path):
    encoder = dataclasses.replace(plugins.find_encoder(name), load=graph_load, convert=convert)
    return encoder.load(weights.resolve(encoder, tmp_path / "cache", override=folder).path, "cpu")


def _speech_encode(name, family, folder, tmp_path):
    graph = _speech.Graph(family, tuple(TINY_SPEECH.items()))
    convert = partial(_hub.convert, partial(_speech.prepare, graph))
    return _resolved(name, partial(_speech.load, graph), convert, folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "config", "model"),
    [
        ("hubert-base", "hubert", "HubertConfig", "HubertModel"),
        ("hubert-music", "hubert", "HubertConfig", "HubertModel"),
        ("wav2vec2-base", "wav2vec2", "Wav2Vec2Config", "Wav2Vec2ForPreTraining"),
        ("data2vec-audio", "data2vec-audio", "Data2VecAudioConfig", "Data2VecAudioModel"),
        ("data2vec-music", "data2vec-audio", "Data2VecAudioConfig", "Data2VecAudioForCTC"),
    ],
)
def test_speech_models_give_their_hidden_states(tmp_path, name, family, config, model):
    """Heads of pretraining, which some files hold, are left away."""
    made = getattr(transformers, model)(getattr(transformers, config)(**TINY_SPEECH, codevector_dim=32))
    full = _published(made, tmp_path / "hub")
    encode, waveforms = _speech_encode(name, family, tmp_path / "hub", tmp_path), _noise(2, 16000)
    with torch.inference_mode():
        states = getattr(full, full.base_model_prefix, full)(waveforms, output_hidden_states=True).hidden_states
        layers = encode(waveforms, _identity)
    assert len(layers) == len(states) == 4
    for layer, state in zip(layers, states, strict=True):
        torch.testing.assert_close(layer, state, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_music2vecs_published_configuration_is_read_for_what_it_is_worth(tmp_path):
    """Its `vocab_size` is a path, at which transformers' own loading fails."""
    full = _published(
        transformers.Data2VecAudioModel(transformers.Data2VecAudioConfig(**TINY_SPEECH)), tmp_path / "hub"
    )
    path = tmp_path / "hub/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": "/fsx/dict.ltr.txt"}))
    encode, waveforms = _speech_encode("music2vec", "data2vec-audio", tmp_path / "hub", tmp_path), _noise(1, 8000)
    with torch.inference_mode():
        torch.testing.assert_close(
            encode(waveforms, _identity)[-1], full(waveforms).last_hidden_state, rtol=0, atol=1e-5
        )


def _conformer_encode(name, folder, tmp_path):
    musicfm = {"musicfm": "msd", "musicfm-fma": "fma"}
    convert = partial(conformer.convert_musicfm, musicfm[name]) if name in musicfm else conformer.convert_muq
    load = partial(conformer.load, TINY_CONFORMER, 4)
    return _resolved(name, load, partial(convert, TINY_CONFORMER, 4), folder, tmp_path)


def _musicfm_folder(folder, trained_on="msd"):
    """MuQ's reference in the form that MusicFM has: a checkpoint, statistics beside it."""
    config, tensors = _hub.read(GOLDEN / "muq-tiny")
    folder.mkdir()
    torch.save({"state_dict": tensors}, folder / f"pretrained_{trained_on}.pt")
    (folder / f"{trained_on}_stats.json").write_text(json.dumps(config["stat"]))
    return folder


@pytest.mark.parametrize(("name", "trained_on"), [("muq", ""), ("musicfm", "msd"), ("musicfm-fma", "fma")])
def test_conformers_give_what_the_makers_package_gave(tmp_path, name, trained_on):
    folder = _musicfm_folder(tmp_path / "hub", trained_on) if trained_on else GOLDEN / "muq-tiny"
    encode = _conformer_encode(name, folder, tmp_path)
    with np.load(GOLDEN / "muq-tiny/reference.npz") as reference, torch.inference_mode():
        layers = encode(torch.from_numpy(reference["waveform"]), _identity)
        states = reference["hidden_states"]
    assert len(layers) == len(states)
    for layer, state in zip(layers, states, strict=True):
        assert np.abs(layer.numpy() - state).max() <= 1e-4


def test_a_conformer_without_its_statistics_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"muq-tiny/model\.safetensors lacks the training set's statistics; give the folder"
    ):
        conformer.load(TINY_CONFORMER, 4, GOLDEN / "muq-tiny/model.safetensors", "cpu")
    folder = _musicfm_folder(tmp_path / "hub")
    (folder / "msd_stats.json").write_text('{"melspec_2048_mean": 1.0}')
    with pytest.raises(DataError, match="lack melspec_2048_std"):
        _conformer_encode("musicfm", folder, tmp_path)
    with pytest.raises(DataError, match=r"is no folder with pretrained_fma\.pt and fma_stats\.json"):
        _conformer_encode("musicfm-fma", folder, tmp_path)
    (folder / "msd_stats.json").unlink()
    with pytest.raises(DataError, match=r"is no folder with pretrained_msd\.pt and msd_stats\.json"):
        _conformer_encode("musicfm", folder, tmp_path)


@pytest.fixture(scope="module")
def clap_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clap")
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 20,
    }
    config = transformers.ClapConfig(audio_config=TINY_CLAP, text_config=text, projection_dim=24)
    full = _published(transformers.ClapModel(config), folder)
    front = transformers.ClapFeatureExtractor(frequency_min=50, truncation="rand_trunc")
    front.save_pretrained(folder)
    return folder, full, front


@pytest.mark.parametrize("length_s", [10, 4])
def test_clap_hears_what_its_own_preprocessor_and_model_do(clap_folder, tmp_path, length_s):
    folder, full, front = clap_folder
    convert = partial(_hub.convert, partial(clap.prepare, TINY_CLAP))
    encode = _resolved("clap-music", partial(clap.load, TINY_CLAP), convert, folder, tmp_path)
    waveforms = _noise(2, length_s * 48000)
    features = front([each.numpy() for each in waveforms], sampling_rate=48000, return_tensors="pt")["input_features"]
    with torch.inference_mode():
        layers = encode(waveforms, _identity)
        heard = full.audio_model(input_features=features.float(), output_hidden_states=True)
        projected = full.audio_projection(heard.pooler_output)
    maps = heard.hidden_states[1:]  # (windows, width, bands, frames) of each stage
    expected = [*(each.mean(dim=(2, 3)) for each in maps), heard.pooler_output, projected]
    assert len(layers) == len(expected)
    for layer, value in zip(layers, expected, strict=True):
        torch.testing.assert_close(layer[:, 0], value, rtol=1e-3, atol=1e-3)


def test_clap_takes_a_long_window_in_pieces_and_another_band_from_its_preprocessor(clap_folder, tmp_path):
    folder, _, _ = clap_folder
    convert = partial(_hub.convert, partial(clap.prepare, TINY_CLAP))
    encode = _resolved("clap-music", partial(clap.load, TINY_CLAP), convert, folder, tmp_path)
    waveforms = _noise(1, 25 * 48000)
    with torch.inference_mode():
        long = encode(waveforms, _identity)
        pieces = [encode(waveforms[:, first * 48000 : (first + 10) * 48000], _identity) for first in (0, 10)]
    for layer, *parts in zip(long, *pieces, strict=True):
        torch.testing.assert_close(layer, torch.cat(parts, dim=1))
    path = folder / "preprocessor_config.json"
    told = path.read_text()
    path.write_text(json.dumps({**json.loads(told), "frequency_min": 0}))
    other = _resolved("clap-music", partial(clap.load, TINY_CLAP), convert, folder, tmp_path)
    path.write_text(told)
    with torch.inference_mode():
        assert not torch.allclose(other(waveforms, _identity)[-1], long[-1], rtol=1e-4, atol=1e-4)


def test_clap_with_fusion_is_refused():
    with pytest.raises(DataError, match="enable_fusion"):
        clap.prepare(TINY_CLAP, {"audio_config": {"enable_fusion": True}}, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "family", "config", "model", "hop"),
    [
        ("encodec-24khz", "encodec", "EncodecConfig", "EncodecModel", 320),
        ("dac-44khz", "dac", "DacConfig", "DacModel", 512),
    ],
)
def test_codecs_give_their_encoders_output(tmp_path, name, family, config, model, hop):
    made = getattr(transformers, model)(getattr(transformers, config)(**TINY_CODEC[family]))
    full = _published(made, tmp_path / "hub")
    convert = partial(_hub.convert, partial(codecs.prepare, family))
    encode = _resolved(name, partial(codecs.load, family, hop), convert, tmp_path / "hub", tmp_path)
    waveforms = _noise(2, 20 * hop + 77)
    with torch.inference_mode():
        (frames,) = encode(waveforms, _identity)
        expected = full.encoder(waveforms[:, None, : 20 * hop]).transpose(1, 2)
    assert frames.shape[1] == 20
    torch.testing.assert_close(frames, expected, rtol=1e-5, atol=1e-5)


def test_a_codec_of_the_familys_own_defaults_is_loaded_as_it_was_converted(tmp_path):
    """Of such a configuration nothing is kept, which is not the same as having none."""
    tensors = {f"encoder.{name}": tensor for name, tensor in draw_weights(codecs.build("encodec", {})).items()}
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/config.json").write_text("{}")
    _hub.save({}, tensors, tmp_path / "hub/model.safetensors")
    encoder = plugins.find_encoder("encodec-24khz")
    path = weights.resolve(encoder, tmp_path, override=tmp_path / "hub").path
    with torch.inference_mode():
        assert encoder.load(path, "cpu")(_noise(1, 640), _identity)[0].shape == (1, 2, 128)


def test_weight_norm_is_taken_in_where_a_graph_has_none(tmp_path):
    plain = codecs.build("dac", TINY_CODEC["dac"])
    plain.load_state_dict(draw_weights(plain))
    normed = {}
    for name, tensor in plain.state_dict().items():
        if name.endswith("weight"):
            length = tensor.flatten(1).norm(dim=1).view(-1, 1, 1)
            normed |= {f"encoder.{name}_g": length, f"encoder.{name}_v": 3 * tensor}
        else:
            normed[f"encoder.{name}"] = tensor
    _, kept = codecs.prepare("dac", TINY_CODEC["dac"], normed)
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(kept[name], tensor)
    with pytest.raises(DataError, match=r"is of a encodec, not of dac"):
        codecs.prepare("dac", {"model_type": "encodec"}, normed)


@pytest.fixture(scope="module")
def qwen_folder(tmp_path_factory):
    """The whole model in shards, as the hub has it: the tower's tensors are one part of it."""
    folder = tmp_path_factory.mktemp("qwen")
    text = {"model_type": "qwen2", "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text |= {"num_key_value_heads": 2, "intermediate_size": 16, "vocab_size": 40}
    audio = {"model_type": "qwen2_audio_encoder", **TINY_QWEN}
    config = transformers.Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_id=3)
    tower = qwen2_audio.build(TINY_QWEN)
    _hub.fill(tower, draw_weights(tower))
    shards = {
        "model-00001-of-00002.safetensors": {},
        "model-00002-of-00002.safetensors": {"language_model.x": torch.ones(3)},
    }
    for index, (name, tensor) in enumerate(tower.state_dict().items()):
        shards[f"model-0000{1 + index % 2}-of-00002.safetensors"][f"audio_tower.{name}"] = tensor.to(torch.bfloat16)
    shards["model-00003-of-00003.safetensors"] = {"language_model.y": torch.ones(3)}
    for name, tensors in list(shards.items())[:2]:
        _hub.save({}, tensors, folder / name)  # the third is not there, and is not asked for
    index = {"weight_map": {tensor: name for name, tensors in shards.items() for tensor in tensors}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config.save_pretrained(folder)
    tower.load_state_dict({name: tensor.to(torch.bfloat16).float() for name, tensor in tower.state_dict().items()})
    return folder, tower.eval()


def _qwen_encode(folder, tmp_path):
    convert = partial(_hub.convert, partial(qwen2_audio.prepare, TINY_QWEN), prefix="audio_tower.")
    return _resolved("qwen2-audio-encoder", partial(qwen2_audio.load, TINY_QWEN), convert, folder, tmp_path)


def _qwen_of_the_makers(folder, tower, waveforms):
    """The tower's states as `Qwen2AudioForConditionalGeneration` computes them, cut to the frames that it hands on."""
    full = transformers.Qwen2AudioForConditionalGeneration(transformers.Qwen2AudioConfig.from_pretrained(folder)).eval()
    own = full.model.audio_tower
    own.load_state_dict(tower.state_dict())
    front = transformers.WhisperFeatureExtractor(feature_size=128)
    heard = front(
        [each.numpy() for each in waveforms], sampling_rate=16000, return_tensors="pt", return_attention_mask=True
    )
    lengths, outputs = own._get_feat_extract_output_lengths(heard["attention_mask"].sum(-1))
    tokens = torch.full((len(waveforms), int(outputs[0])), full.config.audio_token_id)
    states = []
    own.layers[0].register_forward_pre_hook(lambda _, given: states.append(given[0]))
    for module in (*own.layers[:-1], own.layer_norm):
        module.register_forward_hook(lambda _, __, value: states.append(value))
    with torch.inference_mode():
        full.model(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            input_features=heard["input_features"],
            feature_attention_mask=heard["attention_mask"],
        )
    return [*(state[:, : int(lengths[0])] for state in states[:-1]), states[-1][:, : int(outputs[0])]]


@pytest.mark.slow
@pytest.mark.parametrize("samples", [30 * 16000, 7 * 16000, 3 * 16000 + 100], ids=["30 s", "7 s", "3 s and a bit"])
def test_qwens_tower_hears_what_the_whole_model_lets_it_hear(qwen_folder, tmp_path, samples):
    """Below 30 s the whole model masks the silence that follows: no frame attends to it."""
    folder, tower = qwen_folder
    encode, waveforms = _qwen_encode(folder, tmp_path), _noise(2, samples)
    with torch.inference_mode():
        layers = encode(waveforms, _identity)
        means = encode(waveforms, lambda each: each.mean(dim=1))
    states = _qwen_of_the_makers(folder, tower, waveforms)
    assert len(layers) == len(states)
    for layer, mean, state in zip(layers, means, states, strict=True):
        assert layer.shape == state.shape
        torch.testing.assert_close(layer, state, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(mean, state.mean(dim=1), rtol=1e-3, atol=1e-3)


def test_the_last_piece_of_qwens_long_window_attends_to_no_silence_either(qwen_folder, tmp_path):
    folder, tower = qwen_folder
    waveforms = _noise(1, 34 * 16000)
    with torch.inference_mode():
        layers = _qwen_encode(folder, tmp_path)(waveforms, _identity)
    pieces = [_qwen_of_the_makers(folder, tower, each) for each in torch.split(waveforms, 30 * 16000, dim=1)]
    for layer, *parts in zip(layers, *pieces, strict=True):
        torch.testing.assert_close(layer, torch.cat(parts, dim=1), rtol=1e-3, atol=1e-3)


def test_qwens_tower_leaves_the_silence_out_of_the_mean(qwen_folder, tmp_path):
    encode, waveforms = _qwen_encode(qwen_folder[0], tmp_path), _noise(1, 3 * 16000)
    with torch.inference_mode():
        frames = encode(waveforms, _identity)
        means = encode(waveforms, lambda each: each.mean(dim=1))
    for layer, mean in zip(frames, means, strict=True):
        torch.testing.assert_close(layer.mean(dim=1), mean)


def test_a_shard_that_is_missing_is_named(qwen_folder, tmp_path):
    index = json.loads((qwen_folder[0] / "model.safetensors.index.json").read_text())
    for name in ("config.json", "model-00001-of-00002.safetensors"):
        (tmp_path / name).write_bytes((qwen_folder[0] / name).read_bytes())
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(
        DataError, match=r"lacks model-00002-of-00002\.safetensors, which model\.safetensors\.index\.json"
    ):
        _hub.read(tmp_path, "audio_tower.")


def test_pieces_are_put_together_in_order_and_a_short_rest_is_dropped():
    def run(waveforms, pool):
        return [pool(waveforms[:, :, None])]

    waveforms = torch.arange(25.0)[None]
    (frames,) = _pieces.in_pieces(waveforms, 10, 4, run, _identity)
    assert frames.flatten().tolist() == list(range(25))
    (frames,) = _pieces.in_pieces(waveforms, 10, 6, run, _identity)
    assert frames.flatten().tolist() == list(range(20))
    (mean,) = _pieces.in_pieces(waveforms[:, :3], 10, 6, run, lambda each: each.mean(dim=1))
    assert mean.item() == 1.0


@pytest.mark.parametrize("slaney", [True, False])
def test_mel_power_is_librosas(slaney):
    waveforms = _noise(2, 24000)
    ours = _mel.mel_power(
        sample_rate_hz=24000, window=2048, hop=240, bands=128, low_hz=0.0, high_hz=12000.0, slaney=slaney, device="cpu"
    )(waveforms)
    theirs = librosa.feature.melspectrogram(
        y=waveforms.double().numpy(), sr=24000, n_fft=2048, hop_length=240, n_mels=128, htk=not slaney,
        norm="slaney" if slaney else None, pad_mode="reflect",
    )  # fmt: skip
    assert np.abs(ours.numpy() - theirs).max() <= 1e-4 * theirs.max()


def test_mel_bands_are_float32_under_autocast_too():
    """In half precision a loud bin overflows and a soft one is 0, whose logarithm is none."""
    mel_of = _mel.mel_power(
        sample_rate_hz=24000, window=2048, hop=240, bands=128, low_hz=0.0, high_hz=12000.0, slaney=True, device="cpu"
    )
    waveforms = _noise(2, 24000) * torch.tensor([[1.0], [1e-6]])
    alone = _mel.decibels(mel_of(waveforms))
    with torch.autocast("cpu", torch.bfloat16):
        assert (torch.ones(1, 8, 8) @ torch.ones(8, 8)).dtype == torch.bfloat16
        assert torch.equal(_mel.decibels(mel_of(waveforms)), alone)


@pytest.mark.parametrize(
    ("name", "build", "call"),
    [
        ("muq", lambda: conformer.build(conformer.CONFORMER, conformer.CHANNELS), (1, 128, 1000)),
        ("hubert-base", lambda: _speech.build(_speech.Graph("hubert")), (1, 160000)),
        ("data2vec-audio", lambda: _speech.build(_speech.Graph("data2vec-audio")), (1, 160000)),
        ("wav2vec2-base", lambda: _speech.build(_speech.Graph("wav2vec2")), (1, 160000)),
        ("mert-95m", lambda: _speech.build(_speech.Graph("hubert")), (1, 240000)),
    ],
)
def test_declared_parameters_and_operations_are_the_graphs(name, build, call):
    """On tensors without memory; 10 s of audio."""
    from torch.utils.flop_counter import FlopCounterMode

    encoder, model = plugins.find_encoder(name), build().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(*call, device="meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder.parameters
    assert counter.get_total_flops() / 1e10 == pytest.approx(encoder.gflop_per_s, rel=0.01)


def test_qwens_declared_parameters_and_operations_are_the_graphs():
    from torch.utils.flop_counter import FlopCounterMode

    encoder, model = plugins.find_encoder("qwen2-audio-encoder"), qwen2_audio.build(qwen2_audio.GRAPH).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.empty(1, 128, 3000, device="meta"))
    assert sum(parameter.numel() for parameter in model.parameters()) == encoder.parameters
    assert counter.get_total_flops() / 30e9 == pytest.approx(encoder.gflop_per_s, rel=0.01)


def test_random_draws_are_used_whole():
    """A stand-in whose weights were all alike would let every comparison above pass."""
    drawn_once = _random.draw({"a.weight": (50, 50), "b.weight": (50, 50)}, seed=0)
    assert drawn_once["a.weight"].std() == pytest.approx((2 / 50) ** 0.5, rel=0.05)
    assert not torch.equal(drawn_once["a.weight"], drawn_once["b.weight"])
