"""Small audio models with random weights in the form that transformers itself writes, and what its own forward gives.

`CASES` has one for each architecture that is run by its hub id: a model's configuration, its feature extractor, and its
maker's own way from a clip to hidden states.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as t
from packaging.version import Version
from safetensors.torch import load_file, save_file
from stand_ins import draw_weights

CONV = {"conv_dim": (32,) * 7, "num_conv_pos_embedding_groups": 4, "num_conv_pos_embeddings": 16}
WIDTH = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
WAVES = {**WIDTH, **CONV}
SEW = {"squeeze_factor": 2, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2)}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
WHISPER = {
    "d_model": 48, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 96, "num_mel_bins": 80,
    "decoder_layers": 1, "decoder_attention_heads": 4, "decoder_ffn_dim": 96, "max_source_positions": 200,
    "vocab_size": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip
QWEN = {**{name: each for name, each in WHISPER.items() if "encoder_" in name and "decoder" not in name}, "d_model": 48}
TEXT = {**WIDTH, "num_key_value_heads": 4, "vocab_size": 64, "max_position_embeddings": 64}
HTSAT = {
    "patch_embeds_hidden_size": 16, "hidden_size": 128, "depths": [1, 1, 1, 1], "num_attention_heads": [2, 2, 2, 2],
    "projection_dim": 24, "num_hidden_layers": 4,
}  # fmt: skip
AUDIO_TOKEN = 5
# Before 5.16 transformers took the last state of these models after the final norm, where there is one.
NORMED_LAST = Version(t.__version__) < Version("5.16")
States = list[torch.Tensor]


@dataclass(frozen=True)
class Case:
    """model: what is saved. extractor: its feature extractor; None for one whose configuration says all.

    part: what a whole model calls this part of it, which is saved as one.
    forward: (the saved model, the extractor, a clip) -> the hidden states of what was heard, `(1, frames, width)` each.
    """

    build: Callable[[], Any]
    extractor: Callable[[], Any] | None
    forward: Callable[[Any, Any, np.ndarray], States]
    part: str = ""

    def save(self, folder: Path) -> Any:
        """Write the model's folder; the model, in eval mode."""
        model = self.build()
        model.load_state_dict(draw_weights(model), strict=False)
        model.save_pretrained(folder)
        if self.extractor is not None:
            self.extractor().save_pretrained(folder)
        if self.part:
            tensors = {f"{self.part}.{name}": each for name, each in load_file(folder / "model.safetensors").items()}
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
            config = json.loads((folder / "config.json").read_text())
            whole = {"model_type": config["model_type"].removesuffix(f"_{self.part}"), f"{self.part}_config": config}
            (folder / "config.json").write_text(json.dumps(whole))
        return model.eval()

    def expected(self, model: Any, wave: np.ndarray) -> States:
        """What transformers gives for a clip."""
        with torch.inference_mode():
            return self.forward(model, self.extractor() if self.extractor else None, wave)


def _given(extractor: Any, wave: np.ndarray, **options: Any) -> Any:
    return extractor([wave], sampling_rate=extractor.sampling_rate, return_tensors="pt", **options)


def _of_waves(model: Any, extractor: Any, wave: np.ndarray) -> States:
    encoder = model.get_encoder() if isinstance(model, t.MoonshineForConditionalGeneration) else model
    last: list[torch.Tensor] = []
    inner = getattr(encoder, "wav2vec2", encoder)
    if NORMED_LAST and hasattr(inner, "encoder") and hasattr(inner.encoder, "layers"):
        inner.encoder.layers[-1].register_forward_hook(lambda *each: last.append(each[2]))
    found = encoder(_given(extractor, wave)["input_values"], output_hidden_states=True).hidden_states
    return [*found[:-1], last[-1][0] if isinstance(last[-1], tuple) else last[-1]] if last else list(found)


def _of_speecht5(model: Any, extractor: Any, wave: np.ndarray) -> States:
    given = extractor(audio=wave, sampling_rate=16000, return_tensors="pt")["input_values"]
    return model.speecht5.encoder(given, output_hidden_states=True).hidden_states


def _of_speech_to_text(model: Any, extractor: Any, wave: np.ndarray) -> States:
    given = _given(extractor, wave)
    return model.get_encoder()(**given, output_hidden_states=True).hidden_states


def _of_w2v_bert(model: Any, extractor: Any, wave: np.ndarray) -> States:
    given = _given(extractor, wave)
    valid = int(given["attention_mask"].sum())
    return [each[:, :valid] for each in model(**given, output_hidden_states=True).hidden_states]


def _of_parakeet(model: Any, extractor: Any, wave: np.ndarray) -> States:
    encoder = getattr(model, "encoder", model)
    found = encoder(**_given(extractor, wave), output_hidden_states=True)
    valid = int(found.attention_mask.sum())
    return [each[:, :valid] for each in found.hidden_states]


def _of_ast(model: Any, extractor: Any, wave: np.ndarray) -> States:
    base, config = model.audio_spectrogram_transformer, model.config
    states = base(**_given(extractor, wave), output_hidden_states=True).hidden_states
    times = (config.max_length - config.patch_size) // config.time_stride + 1
    heard = math.ceil(((len(wave) - 400) // 160 + 1) / config.time_stride)
    found = []
    for state in states:  # class and distillation tokens, then row by row of the frequencies
        rows = [state[:, 2 + row * times : 2 + row * times + heard] for row in range((state.shape[1] - 2) // times)]
        found.append(torch.stack(rows).mean(dim=0))
    return found


def _of_whisper(model: Any, extractor: Any, wave: np.ndarray) -> States:
    given = _given(extractor, wave, return_attention_mask=True)
    found = model.get_encoder()(given["input_features"], output_hidden_states=True).hidden_states
    frames = model._get_feat_extract_output_lengths(given["attention_mask"].sum())
    return [each[:, : int(frames)] for each in found]


def _of_qwen2_audio(model: Any, extractor: Any, wave: np.ndarray) -> States:
    """The whole model's own way to its audio tower, the mask that it makes included."""
    given = _given(extractor, wave, return_attention_mask=True, padding="max_length")
    tower, kept = next(each for name, each in model.named_modules() if name.endswith("audio_tower")), []
    at_50, at_25 = (int(each) for each in tower._get_feat_extract_output_lengths(given["attention_mask"].sum(-1)))
    handle = tower.register_forward_hook(lambda *each: kept.append(each), with_kwargs=True)
    words = torch.tensor([[1, *[AUDIO_TOKEN] * at_25, 2]])
    model(
        input_ids=words,
        input_features=given["input_features"],
        attention_mask=torch.ones_like(words),
        feature_attention_mask=given["attention_mask"],
    )
    handle.remove()
    _, args, kwargs, _ = kept[0]
    found = tower(*args, **{**kwargs, "output_hidden_states": True}).hidden_states
    return [*(each[:, :at_50] for each in found[:-1]), found[-1][:, :at_25]]


def _of_audio_flamingo(model: Any, extractor: Any, wave: np.ndarray) -> States:
    given = _given(extractor, wave, return_attention_mask=True, padding="max_length")
    tower, mask = (
        next(each for name, each in model.named_modules() if name.endswith("audio_tower")),
        given["attention_mask"],
    )
    found = tower(given["input_features"], input_features_mask=mask, output_hidden_states=True).hidden_states
    at_50, at_25 = (int(each) for each in tower._get_feat_extract_output_lengths(mask.sum(-1)))
    return [*(each[:, :at_50] for each in found[:-1]), found[-1][:, :at_25]]


def _of_voxtral(model: Any, extractor: Any, wave: np.ndarray) -> States:
    given = _given(extractor, wave, return_attention_mask=True, padding="max_length")
    tower = next(each for name, each in model.named_modules() if name.endswith("audio_tower"))
    found = tower(given["input_features"], output_hidden_states=True).hidden_states
    return [each[:, : int(tower._get_feat_extract_output_lengths(given["attention_mask"].sum())[0])] for each in found]


def _of_mimi(model: Any, extractor: Any, wave: np.ndarray) -> States:
    whole = torch.from_numpy(wave)[None, None, : len(wave) // 1920 * 1920]
    found = model.encoder(whole)
    if isinstance(found, torch.Tensor):  # of an older transformers
        found = model.encoder_transformer(found.transpose(1, 2), return_dict=True).last_hidden_state
        return [model.downsample(found.transpose(1, 2)).transpose(1, 2)]
    return [found.latents.transpose(1, 2)]


def _of_qwen2_5_omni(model: Any, extractor: Any, wave: np.ndarray) -> States:
    """The whole model's own way to its audio tower; a clip is filled up to the extractor's full length, as is done there."""
    given = _given(extractor, wave, return_attention_mask=True, padding="max_length")
    found = model.get_audio_features(
        given["input_features"], feature_attention_mask=given["attention_mask"], output_hidden_states=True
    )
    return [each[None] for each in found.hidden_states]


def _of_clap(model: Any, extractor: Any, wave: np.ndarray) -> States:
    given = _given(extractor, wave)
    found = model.audio_model(**given, output_hidden_states=True)
    maps = [each.flatten(2).mean(dim=2)[:, None] for each in found.hidden_states]
    return [*maps, found.pooler_output[:, None], model.audio_projection(found.pooler_output)[:, None]]


def _of_codec(model: Any, extractor: Any, wave: np.ndarray) -> States:
    hop = model.config.hop_length
    whole = torch.from_numpy(wave)[None, None, : len(wave) // hop * hop]
    if not hasattr(model, "encoder_semantic"):
        return [model.encoder(whole).transpose(1, 2)]
    semantic = model.encoder_semantic(model._extract_semantic_features(whole).transpose(1, 2))
    acoustic = model.acoustic_encoder(whole)
    if acoustic.shape[2] != semantic.shape[2]:
        acoustic = model.acoustic_encoder(torch.nn.functional.pad(whole, (model.pad, model.pad)))
    return [model.fc(torch.cat([acoustic, semantic], dim=1).transpose(1, 2))]


def _waves(model: str, config: str, stable: bool = False, **more: Any) -> Case:
    facts = {**WAVES, **(STABLE if stable else {}), **more}
    return Case(
        lambda: getattr(t, model)(getattr(t, config)(**facts)),
        lambda: t.Wav2Vec2FeatureExtractor(do_normalize=not stable, return_attention_mask=stable),
        _of_waves,
    )


def _whisper_front(seconds: int, bands: int = 80) -> Callable[[], Any]:
    return lambda: t.WhisperFeatureExtractor(feature_size=bands, chunk_length=seconds)


def _parakeet() -> Any:
    return t.ParakeetEncoderConfig(**WIDTH, subsampling_conv_channels=8, num_mel_bins=80)


def _w2v_bert() -> Any:
    return t.Wav2Vec2BertModel(
        t.Wav2Vec2BertConfig(**WIDTH, feature_projection_input_dim=160, conv_depthwise_kernel_size=5)
    )


def _ast() -> Any:
    return t.ASTForAudioClassification(t.ASTConfig(**WIDTH, max_length=400))


def _clap() -> Any:
    config = t.ClapConfig(audio_config=HTSAT, text_config={**TEXT, "projection_hidden_act": "relu"}, projection_dim=24)
    return t.ClapModel(config)


def _qwen2_audio() -> Any:
    audio = {**QWEN, "num_mel_bins": 80, "max_source_positions": 200, "model_type": "qwen2_audio_encoder"}
    text = {**TEXT, "model_type": "qwen2"}
    return t.Qwen2AudioForConditionalGeneration(
        t.Qwen2AudioConfig(audio_config=audio, text_config=text, audio_token_index=AUDIO_TOKEN)
    )


def _qwen2_5_omni() -> Any:
    audio = {**QWEN, "num_mel_bins": 80, "output_dim": 48, "n_window": 50}
    text = {**TEXT, "rope_scaling": {"rope_type": "default", "mrope_section": [2, 2, 2]}}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48}
    config = t.Qwen2_5OmniThinkerConfig(audio_config=audio, text_config=text, vision_config=vision)
    return t.Qwen2_5OmniThinkerForConditionalGeneration(config)


def _tower(model: str, config: str, **more: Any) -> Any:
    audio = {**QWEN, "num_mel_bins": 80, "max_source_positions": 200, **more}
    text = {**TEXT, "model_type": "qwen2" if "Flamingo" in model else "llama"}
    return getattr(t, model)(getattr(t, config)(audio_config=audio, text_config=text, audio_token_id=AUDIO_TOKEN))


def _flamingo(kind: str) -> Any:
    audio = {
        "model_type": "audioflamingo3_encoder",
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    return _tower(f"{kind}ForConditionalGeneration", f"{kind}Config", **audio, intermediate_size=96)


def _mimi() -> Any:
    sizes = {"hidden_size": 32, "num_filters": 4, "codebook_size": 32, "codebook_dim": 8, "num_quantizers": 4}
    inner = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 32}
    return t.MimiModel(
        t.MimiConfig(**sizes, **inner, vector_quantization_hidden_dimension=8, upsample_groups=32, head_dim=16)
    )


def _qwen3_omni() -> Any:
    """Its thinker, saved as the whole model is: in a part of its own."""
    audio = {**QWEN, "num_mel_bins": 80, "output_dim": 48, "n_window": 50, "downsample_hidden_size": 8}
    text = {**TEXT, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16, "head_dim": 12}
    text["rope_scaling"] = {"rope_type": "default", "mrope_section": [2, 2, 2]}
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 48}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 16}
    config = t.Qwen3OmniMoeThinkerConfig(audio_config=audio, text_config=text, vision_config=vision)
    return t.Qwen3OmniMoeThinkerForConditionalGeneration(config)


def _encodec() -> Any:
    return t.EncodecModel(
        t.EncodecConfig(
            num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=32, upsampling_ratios=[8, 5, 4, 2]
        )
    )


def _dac() -> Any:
    sizes = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 4, 5, 8], "decoder_hidden_size": 32}
    return t.DacModel(
        t.DacConfig(**sizes, upsampling_ratios=[8, 5, 4, 2], n_codebooks=2, codebook_size=32, sampling_rate=16000)
    )


def _xcodec() -> Any:
    acoustic = {"model_type": "dac", "encoder_hidden_size": 4, "decoder_hidden_size": 32, "hidden_size": 16}
    semantic = {"model_type": "hubert", **WAVES}
    return t.XcodecModel(
        t.XcodecConfig(acoustic_model_config=acoustic, semantic_model_config=semantic, codebook_size=32)
    )


CASES: dict[str, Case] = {
    "wav2vec2": _waves("Wav2Vec2Model", "Wav2Vec2Config"),
    "wav2vec2 for CTC": _waves("Wav2Vec2ForCTC", "Wav2Vec2Config", vocab_size=32),
    "wav2vec2 layer norm": _waves("Wav2Vec2Model", "Wav2Vec2Config", stable=True),
    "hubert": _waves("HubertModel", "HubertConfig"),
    "hubert layer norm": _waves("HubertModel", "HubertConfig", stable=True),
    "wavlm": _waves("WavLMModel", "WavLMConfig"),
    "wavlm layer norm": _waves("WavLMModel", "WavLMConfig", stable=True),
    "data2vec-audio": _waves("Data2VecAudioModel", "Data2VecAudioConfig", conv_pos_kernel_size=5),
    "unispeech": _waves("UniSpeechModel", "UniSpeechConfig"),
    "unispeech-sat": _waves("UniSpeechSatModel", "UniSpeechSatConfig"),
    "wav2vec2-conformer": _waves("Wav2Vec2ConformerModel", "Wav2Vec2ConformerConfig", position_embeddings_type="rotary"),
    "sew": _waves("SEWModel", "SEWConfig", **SEW),
    "sew-d": _waves("SEWDModel", "SEWDConfig", **SEW),
    "moonshine": Case(
        lambda: t.MoonshineForConditionalGeneration(
            t.MoonshineConfig(
                hidden_size=48, intermediate_size=96, encoder_num_hidden_layers=2, decoder_num_hidden_layers=1,
                encoder_num_attention_heads=4, decoder_num_attention_heads=4, vocab_size=64, pad_token_id=0,
            )
        ),
        lambda: t.Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True),
        _of_waves,
    ),
    "speecht5": Case(
        lambda: t.SpeechT5ForSpeechToText(
            t.SpeechT5Config(
                hidden_size=48, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=96, decoder_layers=1,
                decoder_attention_heads=4, decoder_ffn_dim=96, vocab_size=32, **CONV,
            )
        ),
        lambda: t.SpeechT5FeatureExtractor(), _of_speecht5,
    ),
    "speech_to_text": Case(
        lambda: t.Speech2TextForConditionalGeneration(
            t.Speech2TextConfig(
                d_model=48, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=96, decoder_layers=1,
                decoder_attention_heads=4, decoder_ffn_dim=96, vocab_size=32, conv_channels=64,
            )
        ),
        lambda: t.Speech2TextFeatureExtractor(), _of_speech_to_text,
    ),
    "wav2vec2-bert": Case(_w2v_bert, lambda: t.SeamlessM4TFeatureExtractor(padding_value=1), _of_w2v_bert),
    "parakeet": Case(
        lambda: t.ParakeetEncoder(_parakeet()), lambda: t.ParakeetFeatureExtractor(feature_size=80), _of_parakeet
    ),
    "parakeet for CTC": Case(
        lambda: t.ParakeetForCTC(t.ParakeetCTCConfig(vocab_size=32, encoder_config=_parakeet().to_dict(), pad_token_id=0)),
        lambda: t.ParakeetFeatureExtractor(feature_size=80),
        _of_parakeet,
    ),
    "audio-spectrogram-transformer": Case(_ast, lambda: t.ASTFeatureExtractor(max_length=400), _of_ast),
    "whisper": Case(
        lambda: t.WhisperForConditionalGeneration(t.WhisperConfig(**WHISPER)), _whisper_front(4), _of_whisper
    ),
    "clap": Case(
        _clap, lambda: t.ClapFeatureExtractor(truncation="rand_trunc", frequency_min=50, frequency_max=14000), _of_clap
    ),
    "qwen2_audio": Case(_qwen2_audio, _whisper_front(4), _of_qwen2_audio),
    "voxtral": Case(
        lambda: _tower("VoxtralForConditionalGeneration", "VoxtralConfig", model_type="voxtral_encoder", hidden_size=48,
                       num_hidden_layers=2, num_attention_heads=4, intermediate_size=96),
        _whisper_front(4), _of_voxtral,
    ),
    "audioflamingo3": Case(lambda: _flamingo("AudioFlamingo3"), _whisper_front(4), _of_audio_flamingo),
    "musicflamingo": Case(lambda: _flamingo("MusicFlamingo"), _whisper_front(4), _of_audio_flamingo),
    "mimi": Case(_mimi, lambda: t.EncodecFeatureExtractor(), _of_mimi),
    "qwen2_5_omni_thinker": Case(_qwen2_5_omni, _whisper_front(30), _of_qwen2_5_omni),
    "qwen2_5_omni": Case(_qwen2_5_omni, _whisper_front(30), _of_qwen2_5_omni, "thinker"),
    "qwen3_omni_moe": Case(_qwen3_omni, _whisper_front(30), _of_qwen2_5_omni, "thinker"),
    "encodec": Case(_encodec, lambda: t.EncodecFeatureExtractor(), _of_codec),
    "dac": Case(_dac, None, _of_codec),
    "xcodec": Case(_xcodec, lambda: t.DacFeatureExtractor(sampling_rate=16000, hop_length=320), _of_codec),
}  # fmt: skip


def tone(rate_hz: int, length_s: float, seed: int = 0) -> np.ndarray:
    """A clip of chords with some noise, `(samples,)` float32."""
    samples = round(rate_hz * length_s)
    time = np.arange(samples) / rate_hz
    noise = np.random.default_rng(seed).standard_normal(samples)
    wave = sum(np.sin(2 * math.pi * hz * (1 + 0.03 * seed) * time) for hz in (220.0, 277.2, 329.6)) / 6 + 0.02 * noise
    return wave.astype(np.float32)


def edit(path: Path, **facts: Any) -> None:
    """Change entries of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **facts}))
