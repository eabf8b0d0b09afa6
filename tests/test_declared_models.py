"""A folder of a model is verified against what is declared of it: another model of the same shapes is refused, and named."""

import dataclasses
import itertools
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
import transformers
from stand_ins import TINY_CLAP, TINY_CODEC, TINY_CONFORMER, TINY_QWEN, draw_weights

from marble_bench.core import plugins
from marble_bench.encoders import _hub, _speech, clap, codecs, conformer, qwen2_audio, weights
from marble_bench.errors import DataError

GOLDEN = Path(__file__).parent / "golden"


def _tiny_mert(graph, maker):
    convert = partial(_hub.convert, partial(_speech.prepare, graph, maker=maker))
    return dataclasses.replace(plugins.find_encoder("mert-95m"), convert=convert)


def _maker_of(name):
    """What the shipped encoder compares a folder with."""
    return plugins.find_encoder(name).convert.args[0].keywords["maker"]


MERT_TINY = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "conv_dim": (32,) * 7}
MERT_TINY |= {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_hidden_layers": 3}


@pytest.fixture
def mert(tmp_path):
    """(encoder, folder): mert-95m scaled down, and its folder as on the hub."""
    encoder = _tiny_mert(_speech.Graph("hubert", tuple(MERT_TINY.items())), _maker_of("mert-95m"))
    return encoder, Path(shutil.copytree(GOLDEN / "mert-tiny-95m", tmp_path / "hub"))


def _change(folder, file, **changes):
    path = folder / file
    facts = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**facts, **changes}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("config.json", {"sample_rate": 16000}, "config.json has sample_rate 16000, declared is 24000"),
        ("config.json", {"model_type": "hubert"}, "config.json has model_type hubert, declared is mert_model"),
        ("config.json", {"hidden_act": "relu"}, "config.json has hidden_act relu, declared is gelu"),
        ("config.json", {"layer_norm_eps": 0.1}, "config.json has layer_norm_eps 0.1, declared is 1e-05"),
        ("config.json", {"conv_stride": [5, 2, 2, 2, 2, 2, 1]}, "config.json has conv_stride [5, 2, 2, 2, 2, 2, 1]"),
        ("preprocessor_config.json", {"sampling_rate": 16000}, "sampling_rate 16000, declared is 24000"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize False, declared is True"),
    ],
)
def test_another_model_of_the_same_shapes_is_refused(mert, tmp_path, file, changes, words):
    encoder, folder = mert
    weights.resolve(encoder, tmp_path / "fine", override=folder)
    _change(folder, file, **changes)
    with pytest.raises(DataError) as caught:
        weights.resolve(encoder, tmp_path / "cache", override=folder)
    assert "the weights of encoder 'mert-95m' cannot be converted: this is another model: " in str(caught.value)
    assert words in str(caught.value)
    assert file in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.slow
def test_a_speech_model_does_not_pass_as_one_of_music(mert, tmp_path):
    """A HuBERT on speech has every tensor of MERT, in every shape."""
    encoder, _ = mert
    speech = transformers.HubertModel(transformers.HubertConfig(**MERT_TINY))
    speech.load_state_dict(draw_weights(speech))
    speech.save_pretrained(tmp_path / "speech")
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=16000, do_normalize=True).save_pretrained(tmp_path / "speech")
    with pytest.raises(DataError) as caught:
        weights.resolve(encoder, tmp_path / "cache", override=tmp_path / "speech")
    for words in ("model_type hubert, declared is mert_model", "sampling_rate 16000, declared is 24000"):
        assert words in str(caught.value)
    hubert = _tiny_mert(_speech.Graph("hubert", tuple(MERT_TINY.items())), _maker_of("hubert-base"))
    weights.resolve(hubert, tmp_path / "cache", override=tmp_path / "speech")


@pytest.mark.slow
def test_what_a_lone_file_does_not_say_is_said(mert, tmp_path):
    encoder, folder = mert
    messages = []
    talk = weights.DownloadCallbacks(messages.append, lambda *_: None)
    weights.resolve(encoder, tmp_path / "cache", override=folder / "pytorch_model.bin", callbacks=talk)
    (line,) = messages
    assert "pytorch_model.bin comes without config.json, preprocessor_config.json: the names and shapes of its" in line
    assert "the sampling rate and the normalisation that it was trained with are not" in line
    weights.resolve(encoder, tmp_path / "cache", override=folder, callbacks=talk)
    assert len(messages) == 1


def test_check_says_it_too(bench, tmp_path):
    """Of weights as they are, without a configuration."""
    _hub.save({}, {"x": torch.ones(1)}, tmp_path / "lone.safetensors")
    ended = bench("check", "mert-95m", "--weights", tmp_path / "lone.safetensors")
    assert ended.code == 3
    assert "comes without config.json" in ended.err


@pytest.mark.parametrize(
    "name", ["mert-95m", "mert-330m", "mert-v0-public", "hubert-base", "wav2vec2-base", "music2vec"]
)
def test_the_declared_graph_is_what_the_published_configuration_says(name):
    """Of the configurations that were seen; a false refusal would keep everybody from a model."""
    encoder = plugins.find_encoder(name)
    graph, maker = encoder.convert.args[0].args[0], _maker_of(name)
    base = {
        "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
        "hidden_act": "gelu", "layer_norm_eps": 1e-5, "conv_dim": [512] * 7, "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
        "conv_stride": [5, 2, 2, 2, 2, 2, 2], "conv_bias": False, "feat_extract_norm": "group",
        "do_stable_layer_norm": False, "num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 16,
    }  # fmt: skip
    large = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    mert = {"model_type": "mert_model", "sample_rate": encoder.sample_rate_hz, "feature_extractor_cqt": False}
    published = {
        "mert-95m": {**base, **mert},
        "mert-330m": {**base, **large, **mert, "do_stable_layer_norm": True},
        "mert-v0-public": {**base, **mert},
        "hubert-base": {**base, "model_type": "hubert"},
        "wav2vec2-base": {**base, "model_type": "wav2vec2"},
        # data2vec has no name for these norms and ignores them
        "music2vec": {**base, "model_type": "data2vec-audio", "num_conv_pos_embeddings": 5, "conv_pos_kernel_size": 19,
                      "feat_extract_norm": "layer", "do_stable_layer_norm": True},
    }[name]  # fmt: skip
    front = {"sampling_rate": encoder.sample_rate_hz} | (
        {} if maker.do_normalize is None else {"do_normalize": maker.do_normalize}
    )
    maker.check({**published, _hub.PREPROCESSOR: front})
    facts = {fact: published[fact] for fact in _speech.OF_THE_GRAPH if fact in published}
    _speech._as_graph(graph, facts)
    with pytest.raises(DataError, match="this is another model"):
        _speech._as_graph(graph, {**facts, "conv_kernel": [9, 3, 3, 3, 3, 2, 2]})


def test_other_families_compare_what_is_declared_too(tmp_path):
    told = dict(plugins.find_encoder("encodec-24khz").convert.args[0].keywords)
    with pytest.raises(DataError, match=r"sampling_rate 48000, declared is 24000; config\.json has audio_channels 2"):
        codecs.prepare("encodec", {"sampling_rate": 48000, "audio_channels": 2}, {}, **told)
    told = dict(plugins.find_encoder("dac-44khz").convert.args[0].keywords)
    with pytest.raises(DataError, match="sampling_rate 16000, declared is 44100"):
        codecs.prepare("dac", {"sampling_rate": 16000}, {}, **told)
    with pytest.raises(DataError, match=r"config\.json has num_filters 1000000; at most 1024 is built"):
        codecs.prepare("encodec", {**TINY_CODEC["encodec"], "num_filters": 10**6}, {})
    for front, words in (({"sampling_rate": 44100}, "sampling_rate 44100"), ({"feature_size": 80}, "feature_size 80")):
        with pytest.raises(DataError, match=f"preprocessor_config.json has {words}, declared is"):
            clap.prepare(TINY_CLAP, {_hub.PREPROCESSOR: front}, {})
    with pytest.raises(DataError, match="window_size 1000000; at most"):
        clap.prepare(TINY_CLAP, {"audio_config": {"window_size": 10**6}}, {})
    audio = {"audio_config": TINY_QWEN}
    tower = qwen2_audio.build(TINY_QWEN)
    with pytest.raises(DataError, match=r"preprocessor_config\.json has sampling_rate 8000, declared is 16000"):
        qwen2_audio.prepare(TINY_QWEN, {**audio, _hub.PREPROCESSOR: {"sampling_rate": 8000}}, draw_weights(tower))
    for change, words in (({"hop_length": 480}, "hop_length 480"), ({"sample_rate": 16000}, "sample_rate 16000")):
        folder = Path(shutil.copytree(GOLDEN / "muq-tiny", tmp_path / words))
        _change(folder, "config.json", **change)
        with pytest.raises(DataError, match=f"config.json has {words}, declared is"):
            conformer.convert_muq(TINY_CONFORMER, 4, folder, tmp_path / "out")


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "many"},
        {"conv_dim": 3},
        {"hidden_size": None},
        {"num_hidden_layers": 10**12},
        {"hidden_act": ["x"]},
    ],
)
def test_a_configuration_of_nonsense_is_told_and_builds_nothing(mert, tmp_path, changes):
    encoder, folder = mert
    _change(folder, "config.json", **changes)
    with pytest.raises(DataError, match=r"cannot be converted: .*(another model|no model can be made)"):
        weights.resolve(encoder, tmp_path / "cache", override=folder)


@pytest.mark.parametrize("content", ["[" * 100_000, "3", "{", '{"a":' * 50_000])
def test_a_configuration_that_is_none_is_told(mert, tmp_path, content):
    encoder, folder = mert
    (folder / "config.json").write_text(content)
    with pytest.raises(DataError, match=r"config\.json (cannot be read|holds int)"):
        weights.resolve(encoder, tmp_path / "cache", override=folder)


def test_every_public_model_says_whether_it_is_pinned(bench):
    rows = {row["name"]: row["pin"] for row in json.loads(bench("list", "models", "--json").out)}
    assert rows["mert-95m"] == "commit 12af15fef9d0"
    assert rows["musicnn-mtt"] == "version 0.1.0"
    assert rows["mert-v0"] == "unpinned"
    assert rows["mfcc"] == "none"
    public = [each for each in plugins.find_encoders().values() if each.weights and each.weights.status == "public"]
    unpinned = {each.name for each in public if each.weights.pin == "unpinned"}
    assert unpinned == {
        "mert-v0", "culturemert-95m", "music2vec", "data2vec-audio", "mule", "clmr", "jukebox-5b", "jukebox-5b-half",
        "dasheng-base", "dasheng-0.6b", "dasheng-1.2b", "m2d", "matpac-pp",
    }  # fmt: skip
    for encoder in public:
        if encoder.weights.url.startswith("hf:") and encoder.name not in unpinned:
            assert len(encoder.weights.revision) == 40
        for name, digest in encoder.weights.digests:
            assert len(digest) in (40, 64)
            assert any(name in entry.split("|") for entry in (*encoder.weights.files, *encoder.weights.optional))


def test_models_are_listed_by_family(bench):
    rows = json.loads(bench("list", "models", "--json").out)
    families = [row["family"] for row in rows]
    assert {row["name"] for row in rows} == set(plugins.find_encoders())
    assert len(list(itertools.groupby(families))) == len(set(families)), "a family is listed in two places"
    of = {row["name"]: row["family"] for row in rows}
    assert of["mert-95m"] == of["culturemert-95m"] == of["mert-v2-30s"] == "mert"
    assert of["muq"] == of["musicfm-fma"] == of["muq-mulan"] == "conformer"
    assert {name for name, family in of.items() if family == "clap"} == {
        "clap-music", "clap-general", "clap-music-speech", "clap-htsat-unfused",
    }  # fmt: skip
    shown = bench("list", "models").out
    assert [line.split()[0] for line in shown.splitlines()].count("whisper") == 1  # a group's name stands once


def test_of_several_models_of_one_repository_its_id_is_the_first():
    assert plugins.find_encoder("minzwon/MusicFM", offline=True).name == "musicfm"
