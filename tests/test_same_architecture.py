"""Encoders of the suite beside the same architecture by its hub id: which layers there are, and which have other values.

The page of hub models has the table. Its layers are compared with what both ways declare at the published size, its last
column with what both compute from one folder of a small model with random weights.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as t
from hub_folders import TEXT, Case, tone
from stand_ins import TINY_AST, TINY_CLAP, TINY_CODEC, TINY_OMNI, TINY_QWEN, TINY_SPEECH, TINY_WHISPER, stand_in

from marble_bench import audio
from marble_bench.core import plugins
from marble_bench.encoders import (
    _hub,
    _speech,
    ast_model,
    clap,
    codecs,
    mert,
    qwen2_5_omni,
    qwen2_audio,
    weights,
    whisper,
)
from marble_bench.encoders._hub_families import FAMILIES

PAGE = (Path(__file__).parent.parent / "docs/hub-models.md").read_text()
TABLE = PAGE.partition("## The same architecture by name and by id")[2].partition("\n## ")[0]
ROWS = {
    cells[0].strip("` "): [each.strip() for each in cells[1:]]
    for cells in (line.strip("|").split("|") for line in TABLE.splitlines() if line.startswith("| `"))
}


@dataclass(frozen=True)
class Pair:
    """One architecture both ways. family: its `model_type`; config, front: what transformers reads at the published size.

    model: a small one, saved as the `part` of a whole. prepare: the encoder's own, of the small graph. prefix: what the
    whole model calls what is kept. lengths_s: of the clips; one is longer than a fixed input.
    """

    family: str
    config: Callable[[], Any]
    front: Callable[[], Any]
    model: Callable[[], Any]
    prepare: Any
    prefix: str = ""
    part: str = ""
    lengths_s: tuple[float, ...] = (1.37,)


def _speech_pair(family: str, kind: str, graph: _speech.Graph, rate_hz: int) -> Pair:
    def config(**sizes: Any) -> Any:
        return getattr(t, f"{kind}Config")(**{**graph.facts, **sizes})

    return Pair(
        family,
        config,
        lambda: t.Wav2Vec2FeatureExtractor(sampling_rate=rate_hz),
        lambda: getattr(t, f"{kind}Model")(config(**TINY_SPEECH)),
        partial(_speech.prepare, _speech.Graph(family, tuple({**graph.facts, **TINY_SPEECH}.items()))),
    )


def _codec_pair(family: str, kind: str, config: Any, **options: Any) -> Pair:
    return Pair(
        family,
        lambda: config(**options),
        partial(t.EncodecFeatureExtractor, sampling_rate=options.get("sampling_rate", 24000)),
        lambda: getattr(t, f"{kind}Model")(config(**options, **TINY_CODEC[family])),
        partial(codecs.prepare, family),
    )


def _whisper() -> Any:
    rest = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 40}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    return t.WhisperForConditionalGeneration(t.WhisperConfig(**TINY_WHISPER, **rest, **tokens))


def _clap() -> Any:
    text = {**TEXT, "projection_hidden_act": "relu"}
    return t.ClapModel(t.ClapConfig(audio_config=TINY_CLAP, text_config=text, projection_dim=24))


def _qwen2_audio() -> Any:
    tower = {**TINY_QWEN, "model_type": "qwen2_audio_encoder"}
    text = {**TEXT, "model_type": "qwen2"}
    return t.Qwen2AudioForConditionalGeneration(
        t.Qwen2AudioConfig(audio_config=tower, text_config=text, audio_token_index=5)
    )


def _omni() -> Any:
    text = {**TEXT, "rope_scaling": {"rope_type": "default", "mrope_section": [2, 2, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 24}
    return t.Qwen2_5OmniThinkerForConditionalGeneration(
        t.Qwen2_5OmniThinkerConfig(
            audio_config=dict(TINY_OMNI), text_config={**text, "hidden_size": 24}, vision_config=vision
        )
    )


def _omni_config() -> Any:
    return t.Qwen2_5OmniThinkerConfig(audio_config=qwen2_5_omni.GRAPH).audio_config


PAIRS = {
    "ast": Pair(
        "audio-spectrogram-transformer", lambda: t.ASTConfig(**ast_model.GRAPH), t.ASTFeatureExtractor,
        lambda: t.ASTForAudioClassification(t.ASTConfig(**TINY_AST)), partial(ast_model.prepare, TINY_AST),
        lengths_s=(1.37, 11.5),
    ),
    "clap-music": Pair(
        "clap", lambda: t.ClapAudioConfig(**clap.GRAPH),
        lambda: t.ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50), _clap, partial(clap.prepare, TINY_CLAP),
        lengths_s=(1.37, 21.0),
    ),
    "qwen2.5-omni-audio": Pair(
        "qwen2_5_omni", _omni_config, lambda: t.WhisperFeatureExtractor(feature_size=128, chunk_length=300),
        _omni, partial(qwen2_5_omni.prepare, TINY_OMNI), qwen2_5_omni.TOWER, "thinker",
    ),
    "mert-330m": _speech_pair("hubert", "Hubert", mert.LARGE, 24000),
    "mert-95m": _speech_pair("hubert", "Hubert", mert.BASE, 24000),
    "wav2vec2-base": _speech_pair("wav2vec2", "Wav2Vec2", _speech.Graph("wav2vec2"), 16000),
    "data2vec-audio": _speech_pair("data2vec-audio", "Data2VecAudio", _speech.Graph("data2vec-audio"), 16000),
    "whisper-base": Pair(
        "whisper", lambda: t.WhisperConfig(**whisper.describe_graph(512, 6)), t.WhisperFeatureExtractor,
        _whisper, partial(whisper.prepare, TINY_WHISPER), whisper.PART, lengths_s=(1.37, 33.0),
    ),
    "qwen2-audio-encoder": Pair(
        "qwen2_audio", lambda: t.Qwen2AudioEncoderConfig(**qwen2_audio.GRAPH),
        lambda: t.WhisperFeatureExtractor(feature_size=128), _qwen2_audio, partial(qwen2_audio.prepare, TINY_QWEN),
        qwen2_audio.TOWER, lengths_s=(1.37, 33.0),
    ),
    "encodec-24khz": _codec_pair("encodec", "Encodec", t.EncodecConfig),
    "dac-44khz": _codec_pair("dac", "Dac", t.DacConfig, sampling_rate=44100),
}  # fmt: skip


def _show(layers: Any) -> str:
    """Layers as the table has them: the first and last of those that are counted at one rate, the others by name."""
    groups: list[list[Any]] = []
    for layer in layers:
        stem = re.fullmatch(r"([a-z]*)\d+", layer.name)
        key = (stem and stem[1], layer.frame_rate_hz)
        if groups and stem and groups[-1][0] == key:
            groups[-1][2] = layer.name
        else:
            groups.append([key, layer.name, layer.name])
    said = []
    for (_, rate_hz), first, last in groups:
        span = f"`{first}`" if first == last else f"`{first}` to `{last}`"
        said.append((span, f"{rate_hz:.4g} Hz" if rate_hz >= 1 else f"every {1 / rate_hz:.4g} s"))
    rates = dict.fromkeys(rate for _, rate in said)
    return "; ".join(f"{', '.join(span for span, each in said if each == rate)}: {rate}" for rate in rates)


def _layers_by_id(pair: Pair) -> Any:
    family, front = FAMILIES[pair.family], pair.front()
    return family.describe(pair.config(), front if family.extractor else front.to_dict()).layers


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("name", PAIRS)
def test_the_table_has_the_layers_of_both(name):
    pair = PAIRS[name]
    assert ROWS[name][:3] == [f"`{pair.family}`", _show(plugins.find_encoder(name).layers), _show(_layers_by_id(pair))]


def test_the_table_has_no_other_rows():
    assert list(ROWS) == list(PAIRS)


def test_the_wav2vec_family_is_normalised_by_name_always_and_by_id_if_its_extractor_says_so():
    names = ("mert-330m", "mert-95m", "hubert-base", "wav2vec2-base", "data2vec-audio", "music2vec", "mert-v0-public")
    assert {plugins.find_encoder(name).normalize for name in names} == {"zscore"}
    describe, config = FAMILIES["hubert"].describe, t.HubertConfig()
    fronts = [t.Wav2Vec2FeatureExtractor(do_normalize=told) for told in (True, False)]
    assert [describe(config, front).normalize for front in fronts] == ["zscore", "none"]


@pytest.mark.parametrize(("other", "name"), re.findall(r"`([\w.-]+)` as `([\w.-]+)`", TABLE))
def test_what_is_said_to_behave_alike_is_computed_alike(other, name):
    alike = [plugins.find_encoder(each).load for each in (other, name)]
    assert name in PAIRS
    assert alike[0].func is alike[1].func


def _mean(frames: torch.Tensor) -> torch.Tensor:
    return frames.mean(dim=1)


def _features(encoder: Any, path: Path, lengths_s: tuple[float, ...]) -> dict[str, torch.Tensor]:
    """The mean over time of each layer, `(clips, width)`, of a clip of each length."""
    encode = encoder.load(path, "cpu")
    waves = [audio.normalize(tone(encoder.sample_rate_hz, length_s), encoder.normalize) for length_s in lengths_s]
    with torch.inference_mode():
        found = [encode(torch.from_numpy(wave)[None], _mean) for wave in waves]
    return {layer.name: torch.cat(each) for layer, *each in zip(encoder.layers, *found, strict=True)}


def _last_number(layers: Any) -> str:
    """The last layer that is a number."""
    return next((layer.name for layer in reversed(layers) if layer.name.isdigit()), "")


@pytest.mark.filterwarnings("ignore:At least one mel filter")
@pytest.mark.parametrize("name", PAIRS)
def test_the_table_has_the_layers_that_have_other_values(tmp_path, name):
    """The last layer of the small model stands for the last one of the published."""
    pair = PAIRS[name]
    Case(pair.model, pair.front, lambda *_: [], pair.part).save(tmp_path / "model")
    small, _ = stand_in(name, tmp_path)
    small = replace(small, convert=partial(_hub.convert, pair.prepare, prefix=pair.prefix))
    by_name = _features(small, weights.resolve(small, tmp_path, override=tmp_path / "model").path, pair.lengths_s)
    hub = plugins.find_encoder(f"hf:{tmp_path / 'model'}")
    by_id = _features(hub, weights.resolve(hub, tmp_path).path, pair.lengths_s)
    published = {_last_number(small.layers): _last_number(plugins.find_encoder(name).layers)}
    both = {layer: by_id[as_id] for layer in by_name if (as_id := layer.removeprefix("stage")) in by_id}
    differ = [layer for layer, other in both.items() if (other - by_name[layer]).norm() > 1e-5 * other.norm()]
    assert ROWS[name][3] == (", ".join(f"`{published.get(layer, layer)}`" for layer in differ) or "none")
