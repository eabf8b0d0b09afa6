"""Which audio models of transformers are run by their hub id: a row for each `model_type`, and what its configuration says.

Source: the configurations, feature extractors and models of transformers (github.com/huggingface/transformers), whose own
classes are run; no code of a repository is. Layers are the model's `hidden_states` by index: 0 goes into the first layer,
i comes out of layer i, and where the model norms its output and counts that as its last state, the last is normed too.
A codec has one layer, `latent`: what its encoder gives before quantisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from marble_bench import Encode, Layer, Normalize, stack
from marble_bench.encoders import _hub_fronts as fronts
from marble_bench.errors import DataError

Config: TypeAlias = Any  # a configuration of transformers, with its defaults
Front: TypeAlias = "Mapping[str, Any]"  # what the feature extractor's file says


@dataclass(frozen=True)
class Facts:
    """What an encoder declares of a model. samples: the fewest that it takes."""

    sample_rate_hz: int
    layers: tuple[Layer, ...]
    samples: int
    normalize: Normalize = "none"
    stretch_s: float | None = None


@dataclass(frozen=True)
class Family:
    """One architecture.

    model: its class in transformers, behind its folder there where it is not at the top.
    extractor: the class of its feature extractor; empty where none is needed.
    describe: (configuration, extractor) -> Facts. The extractor is that of transformers, or the file's facts where the
    family needs none. Raises DataError for a variant that is not run.
    encoding: (model, extractor) -> what encodes windows of any length that the facts allow.
    audio: where the audio side's configuration is in config.json, key below key. prefixes: what names of its tensors may
    begin with in a file that holds more. parts: the modules that compute, as any transformers calls
    them; empty for all.
    """

    model: str
    describe: Callable[[Config, Any], Facts]
    encoding: Callable[[Any, Any], Encode]
    extractor: str = ""
    audio: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ("",)
    parts: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its class."""
        return self.model.rpartition(".")[2]


def _waves(config: Config, extractor: Any) -> Facts:
    """The wav2vec 2.0 family: convolutions on the waveform that pad nothing, then a transformer."""
    squeezed = getattr(config, "squeeze_factor", 1)
    rate, hop = extractor.sampling_rate, math.prod(config.conv_stride) * squeezed
    samples = squeezed
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        samples = (samples - 1) * stride + kernel
    normalize: Normalize = "zscore" if extractor.do_normalize else "none"
    return Facts(rate, stack(config.num_hidden_layers + 1, config.hidden_size, rate / hop), samples, normalize)


def _moonshine(config: Config, extractor: Any) -> Facts:
    """Three convolutions of kernels 127, 7 and 3 and strides 64, 3 and 2, then a transformer."""
    rate, hop, least = extractor.sampling_rate, 64 * 3 * 2, ((3 - 1) * 3 + 7 - 1) * 64 + 127
    normalize: Normalize = "zscore" if extractor.do_normalize else "none"
    return Facts(rate, stack(config.encoder_num_hidden_layers + 1, config.hidden_size, rate / hop), least, normalize)


def _w2v_bert(config: Config, extractor: Any) -> Facts:
    """Pairs of mel frames every 10 ms, 25 ms long, normed over the window."""
    rate, hop = extractor.sampling_rate, fronts.KALDI_HOP * extractor.stride
    samples = fronts.KALDI_WINDOW + (2 * extractor.stride - 1) * fronts.KALDI_HOP
    return Facts(rate, stack(config.num_hidden_layers + 1, config.hidden_size, rate / hop), samples)


def _parakeet(config: Config, extractor: Any) -> Facts:
    rate, hop = extractor.sampling_rate, extractor.hop_length * config.subsampling_factor
    return Facts(rate, stack(config.num_hidden_layers + 1, config.hidden_size, rate / hop), 2 * hop)


def _speech_to_text(config: Config, extractor: Any) -> Facts:
    """Mel frames every 10 ms, halved in number by each of some convolutions."""
    halved = 2**config.num_conv_layers
    rate, hop = extractor.sampling_rate, fronts.KALDI_HOP * halved
    samples = fronts.KALDI_WINDOW + 2 * hop
    return Facts(rate, stack(config.encoder_layers + 1, config.d_model, rate / hop), samples)


def _spectrogram_transformer(config: Config, extractor: Any) -> Facts:
    if config.max_length != extractor.max_length or config.num_mel_bins != extractor.num_mel_bins:
        raise DataError(
            f"config.json has {config.max_length} frames of {config.num_mel_bins} bands, the feature extractor "
            f"{extractor.max_length} of {extractor.num_mel_bins}: the two are not of one model"
        )
    rate = extractor.sampling_rate
    rate_hz = rate / (fronts.KALDI_HOP * config.time_stride)
    return Facts(rate, stack(config.num_hidden_layers + 1, config.hidden_size, rate_hz), fronts.KALDI_WINDOW)


def _whisper(config: Config, extractor: Any) -> Facts:
    _check_length(2 * config.max_source_positions, extractor)
    rate = extractor.sampling_rate
    return Facts(
        rate, stack(config.encoder_layers + 1, config.d_model, rate / (2 * extractor.hop_length)), extractor.hop_length
    )


def _qwen2_audio(config: Config, extractor: Any) -> Facts:
    """As Whisper, but the last state is averaged in pairs."""
    _check_length(2 * config.max_source_positions, extractor)
    rate, depth, width = extractor.sampling_rate, config.encoder_layers, config.d_model
    rate_hz = rate / (2 * extractor.hop_length)
    last = Layer(str(depth), width, rate_hz / 2)
    return Facts(rate, (*stack(depth, width, rate_hz), last), 4 * extractor.hop_length)


def _check_length(frames: int, extractor: Any) -> None:
    if frames != extractor.nb_max_frames:
        raise DataError(
            f"config.json has positions for {frames} mel frames, the feature extractor gives {extractor.nb_max_frames}: "
            "the two are not of one model"
        )


def _qwen2_5_omni(config: Config, extractor: Any) -> Facts:
    rate = extractor.sampling_rate
    rate_hz = rate / (2 * extractor.hop_length)
    return Facts(rate, stack(config.encoder_layers + 1, config.d_model, rate_hz), 4 * extractor.hop_length)


def _qwen3_omni(config: Config, extractor: Any) -> Facts:
    """Each block of mel frames goes through three convolutions of stride 2 that round up."""
    rate, block = extractor.sampling_rate, 2 * config.n_window
    rate_hz = -(-block // 8) / block * rate / extractor.hop_length
    return Facts(rate, stack(config.encoder_layers + 1, config.d_model, rate_hz), 16 * extractor.hop_length)


def _clap(config: Config, extractor: Any) -> Facts:
    """The map before and after each stage, folded and averaged; the pooled vector; what is shared with text."""
    if config.enable_fusion or extractor.truncation == "fusion":
        raise DataError("it is a CLAP with fusion, which takes several views of a clip and draws them at random")
    first, last = config.patch_embeds_hidden_size, len(config.depths) - 1
    widths = [first, *(first * 2 ** min(stage + 1, last) for stage in range(last + 1))]
    named = [*((str(index), width) for index, width in enumerate(widths)), ("pooled", config.hidden_size)]
    rate, length_s = extractor.sampling_rate, extractor.nb_max_samples / extractor.sampling_rate
    layers = [Layer(name, width, 1 / length_s) for name, width in [*named, ("projection", config.projection_dim)]]
    return Facts(rate, tuple(layers), extractor.fft_window_size, stretch_s=length_s)


def _codec(width: Callable[[Config], int], hop: Callable[[Config], int]) -> Callable[[Config, Any], Facts]:
    def describe(config: Config, front: Front) -> Facts:
        rate = getattr(config, "sampling_rate", None) or config.sample_rate
        told = front.get("sampling_rate", rate)
        if told != rate:
            raise DataError(f"config.json has {rate} Hz, the feature extractor {told} Hz: the two are not of one model")
        if getattr(config, "audio_channels", 1) != 1:
            raise DataError(f"it takes {config.audio_channels} channels, and an encoder here is handed one")
        if getattr(config, "chunk_length_s", None):
            raise DataError(
                f"it cuts its input into overlapping chunks of {config.chunk_length_s:g} s, which is not done here"
            )
        return Facts(rate, (Layer("latent", width(config), rate / hop(config)),), max(2 * hop(config), rate // 10))

    return describe


def _wave_family(model: str) -> Family:
    return Family(model, _waves, fronts.of_waveforms, "Wav2Vec2FeatureExtractor")


def _flamingo() -> Family:
    return Family(
        "AudioFlamingo3Encoder", _qwen2_audio, fronts.of_audio_flamingo, "WhisperFeatureExtractor",
        audio=("audio_config",), prefixes=TOWER,
    )  # fmt: skip


TOWER = ("audio_tower.", "model.audio_tower.")
FAMILIES: dict[str, Family] = {
    "wav2vec2": _wave_family("Wav2Vec2Model"),
    "hubert": _wave_family("HubertModel"),
    "wavlm": _wave_family("WavLMModel"),
    "data2vec-audio": _wave_family("Data2VecAudioModel"),
    "unispeech": _wave_family("UniSpeechModel"),
    "unispeech-sat": _wave_family("UniSpeechSatModel"),
    "wav2vec2-conformer": _wave_family("Wav2Vec2ConformerModel"),
    "sew": _wave_family("SEWModel"),
    "sew-d": _wave_family("SEWDModel"),
    "moonshine": Family(
        "moonshine.MoonshineEncoder", _moonshine, fronts.of_waveforms, "Wav2Vec2FeatureExtractor",
        prefixes=("model.encoder.", "encoder."),
    ),
    "wav2vec2-bert": Family("Wav2Vec2BertModel", _w2v_bert, fronts.of_w2v_bert, "SeamlessM4TFeatureExtractor"),
    "speecht5": Family(
        "speecht5.SpeechT5EncoderWithSpeechPrenet", _waves, fronts.of_waveforms, "SpeechT5FeatureExtractor",
        prefixes=("speecht5.encoder.", "encoder."),
    ),
    "speech_to_text": Family(
        "speech_to_text.Speech2TextEncoder", _speech_to_text, fronts.of_speech_to_text, "Speech2TextFeatureExtractor",
        prefixes=("model.encoder.", "encoder."),
    ),
    "parakeet_encoder": Family("ParakeetEncoder", _parakeet, fronts.of_parakeet, "ParakeetFeatureExtractor"),
    "parakeet_ctc": Family(
        "ParakeetEncoder", _parakeet, fronts.of_parakeet, "ParakeetFeatureExtractor",
        audio=("encoder_config",), prefixes=("encoder.",),
    ),
    "audio-spectrogram-transformer": Family(
        "ASTModel", _spectrogram_transformer, fronts.of_spectrogram_transformer, "ASTFeatureExtractor"
    ),
    "whisper": Family(
        "whisper.WhisperEncoder", _whisper, fronts.of_whisper, "WhisperFeatureExtractor",
        prefixes=("model.encoder.", "encoder."),
    ),
    "clap": Family(
        "ClapAudioModelWithProjection", _clap, fronts.of_clap, "ClapFeatureExtractor", audio=("audio_config",)
    ),
    "qwen2_audio": Family(
        "Qwen2AudioEncoder", _qwen2_audio, fronts.of_qwen2_audio, "WhisperFeatureExtractor",
        audio=("audio_config",), prefixes=TOWER,
    ),
    "voxtral": Family(
        "VoxtralEncoder", _whisper, fronts.of_whisper, "WhisperFeatureExtractor",
        audio=("audio_config",), prefixes=TOWER,
    ),
    "audioflamingo3": _flamingo(),
    "musicflamingo": _flamingo(),
    "qwen2_5_omni": Family(
        "qwen2_5_omni.Qwen2_5OmniAudioEncoder", _qwen2_5_omni, fronts.of_qwen2_5_omni, "WhisperFeatureExtractor",
        audio=("thinker_config", "audio_config"),
        prefixes=("thinker.audio_tower.", "thinker.model.audio_tower."),
    ),
    "qwen2_5_omni_thinker": Family(
        "qwen2_5_omni.Qwen2_5OmniAudioEncoder", _qwen2_5_omni, fronts.of_qwen2_5_omni, "WhisperFeatureExtractor",
        audio=("audio_config",), prefixes=TOWER,
    ),
    "qwen3_omni_moe": Family(
        "qwen3_omni_moe.Qwen3OmniMoeAudioEncoder", _qwen3_omni, fronts.of_qwen2_5_omni, "WhisperFeatureExtractor",
        audio=("thinker_config", "audio_config"),
        prefixes=("thinker.audio_tower.", "thinker.model.audio_tower."),
    ),
    "encodec": Family(
        "EncodecModel", _codec(lambda c: int(c.hidden_size), lambda c: int(c.hop_length)), fronts.of_codec,
        parts=("encoder",),
    ),
    "dac": Family(
        "DacModel", _codec(lambda c: int(c.hidden_size), lambda c: int(c.hop_length)), fronts.of_codec,
        parts=("encoder",),
    ),
    "mimi": Family(
        "MimiModel", _codec(lambda c: int(c.hidden_size), lambda c: round(c.sampling_rate / c.frame_rate)), fronts.of_mimi,
        parts=("encoder", "encoder_transformer", "downsample"),
    ),
    "xcodec": Family(
        "XcodecModel", _codec(lambda c: int(c.hidden_size), lambda c: int(c.hop_length)), fronts.of_xcodec,
        parts=("acoustic_encoder", "encoder_semantic", "semantic_model", "fc"),
    ),
}  # fmt: skip
