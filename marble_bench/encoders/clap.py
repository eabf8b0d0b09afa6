"""CLAP: audio and its description brought together; the audio side.

Source: Wu et al., "Large-Scale Contrastive Language-Audio Pretraining with Feature Fusion and Keyword-to-Caption
Augmentation", ICASSP 2023; laion's checkpoints on the hub, Apache-2.0, run by transformers' own
ClapAudioModelWithProjection. Those of fused views, such as clap-htsat-fused, are refused.

Conventions: 48 kHz mono, exactly 10 s: 1,001 frames of 64 Slaney mel bands (1,024 samples, hop 480) in decibels from
-100 up, from and to the frequencies that the hub's preprocessor says. A longer window is cut into pieces of 10 s, each
one frame of every layer, and a remainder is dropped. A shorter one is repeated as often as it fits whole, then filled
up with silence: that is how the model was trained and how its own preprocessor does it, and the only place where an
encoder here is given what was not heard. Clips are best cut to 10 s.

Layers: the map that comes out of each of the four stages, averaged over time and frequency, which the model folds into
one picture; `pooled`, after the last norm; `projection`, in the space that is shared with text.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, Source
from marble_bench.encoders import _hub
from marble_bench.encoders._hooks import collect
from marble_bench.encoders._mel import decibels, mel_power
from marble_bench.encoders._pieces import in_pieces
from marble_bench.errors import DataError

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 48000
PIECE = 10 * SAMPLE_RATE_HZ
WINDOW, HOP, BANDS = 1024, 480, 64
# The published graph of the larger checkpoints, HTSAT-base; of a configuration, what decides it.
GRAPH: dict[str, Any] = {
    "patch_embeds_hidden_size": 128,
    "hidden_size": 1024,
    "depths": (2, 2, 12, 2),
    "num_attention_heads": (4, 8, 16, 32),
    "projection_dim": 512,
}
SMALL: dict[str, Any] = {  # of the first checkpoints, HTSAT-tiny
    "patch_embeds_hidden_size": 96,
    "hidden_size": 768,
    "depths": (2, 2, 6, 2),
    "num_attention_heads": (4, 8, 16, 32),
    "projection_dim": 512,
}
OF_THE_GRAPH = (
    *GRAPH, "window_size", "num_mel_bins", "spec_size", "patch_size", "patch_stride", "mlp_ratio", "qkv_bias",
    "enable_patch_layer_norm", "flatten_patch_embeds", "layer_norm_eps", "hidden_act", "projection_hidden_act",
)  # fmt: skip
LOW_HZ, HIGH_HZ = 50.0, 14000.0  # the original's; a hub's preprocessor has its own word
# What the preprocessor must say of the spectrogram, as far as it says it.
FRONT = {"sampling_rate": SAMPLE_RATE_HZ, "hop_length": HOP, "feature_size": BANDS, "fft_window_size": WINDOW}
AUDIO_SIDE = ("audio_model.", "audio_projection.")
_CITATION = "Wu et al., Large-Scale Contrastive Language-Audio Pretraining with Feature Fusion, ICASSP 2023"


def build(config: dict[str, Any]) -> torch.nn.Module:
    """The audio side with weights that are to be replaced."""
    import torch
    from transformers import ClapAudioConfig, ClapAudioModelWithProjection

    made: Any = ClapAudioModelWithProjection
    with torch.random.fork_rng(devices=[]):  # it draws weights: nobody else's numbers move for that
        model: torch.nn.Module = made(ClapAudioConfig(**config))
    return model


def layers(graph: dict[str, Any]) -> tuple[Layer, ...]:
    """The stages, the pooled vector and the projection, a frame of each for every 10 s."""
    first, last = graph["patch_embeds_hidden_size"], len(graph["depths"]) - 1
    widths = [first * 2 ** min(stage + 1, last) for stage in range(last + 1)]
    named = [(f"stage{stage}", width) for stage, width in enumerate(widths, start=1)]
    named += [("pooled", graph["hidden_size"]), ("projection", graph["projection_dim"])]
    return tuple(Layer(name, width, SAMPLE_RATE_HZ / PIECE) for name, width in named)


def prepare(
    graph: dict[str, Any], config: dict[str, Any], tensors: _hub.Tensors
) -> tuple[dict[str, Any], _hub.Tensors]:
    """Configuration and tensors of the audio side. Raises DataError for a model with fusion, which wants several views."""
    audio = config.get("audio_config", {})
    if audio.get("enable_fusion"):
        raise DataError(
            "config.json asks for enable_fusion, which takes several views of a clip; give a model without it"
        )
    facts = {**graph, **{name: audio[name] for name in OF_THE_GRAPH if name in audio}}
    front = config.get(_hub.PREPROCESSOR, {})
    problems = _hub.differences(config, {"model_type": "clap"}, "config.json")
    problems += _hub.differences(audio, graph, "audio_config in config.json")
    _hub.refuse(problems + _hub.differences(front, FRONT, _hub.PREPROCESSOR_FILE))
    _hub.check_small(facts)
    kept = {name: tensor for name, tensor in tensors.items() if name.startswith(AUDIO_SIDE)}
    _hub.fill(build(facts), kept)
    band = {"low_hz": front.get("frequency_min", LOW_HZ), "high_hz": front.get("frequency_max", HIGH_HZ)}
    if not 0 <= band["low_hz"] < band["high_hz"] <= SAMPLE_RATE_HZ / 2:
        raise DataError(f"{_hub.PREPROCESSOR_FILE} has bands from {band['low_hz']} to {band['high_hz']} Hz")
    return {"graph": facts, **band}, kept


def load(graph: dict[str, Any], weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights, or with a lone file of the published graph."""
    assert weights is not None
    config, tensors = _hub.load(weights)
    if config is None:
        config, tensors = prepare(graph, {}, tensors)
    model: Any = build(config["graph"])
    _hub.fill(model, tensors)
    model = _hub.frozen(model, device)
    audio = model.audio_model.audio_encoder
    taps = [*((stage, "out") for stage in audio.layers), (audio, "out"), (model.audio_projection, "out")]
    mel_of = mel_power(
        sample_rate_hz=SAMPLE_RATE_HZ, window=WINDOW, hop=HOP, bands=BANDS,
        low_hz=config["low_hz"], high_hz=config["high_hz"], slaney=True, device=device,
    )  # fmt: skip

    def one_frame(value: Any) -> Any:
        vector = getattr(
            value, "pooler_output", value
        )  # the encoder gives a structure, stages maps, the projection a vector
        return (vector.mean(dim=1) if vector.ndim == 3 else vector)[:, None]

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        spectrum = decibels(mel_of(filled(waveforms))).transpose(1, 2)[:, None]
        found = collect(taps, lambda: model(input_features=spectrum), one_frame)
        return [pool(frame) for frame in found]

    return lambda waveforms, pool: in_pieces(waveforms, PIECE, PIECE, piece, pool)


def filled(waveforms: torch.Tensor) -> torch.Tensor:
    """`(windows, samples)` -> `(windows, 480000)`: repeated as often as it fits whole, then silence."""
    from torch.nn.functional import pad

    repeated = waveforms.repeat(1, PIECE // waveforms.shape[1])
    return pad(repeated, (0, PIECE - repeated.shape[1]))


def _encoder(
    name: str, hub: str, graph: dict[str, Any], what: str, data: tuple[str, ...], revision: str, sha256: str
) -> Encoder:
    small = graph is SMALL
    return Encoder(
        name=name,
        description=f"Contrastive language-audio pretraining{what}, the audio side ({hub})",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=layers(graph),
        load=partial(load, graph),
        license="Apache-2.0",
        citation=_CITATION,
        min_s=1.0,
        parameters=28_190_872 if small else 68_611_864,
        training_data=data,
        gflop_per_s=1.2 if small else 3.1,
        weights=Source(
            url=f"hf:laion/{hub}",
            files=("config.json", "preprocessor_config.json", "model.safetensors|pytorch_model.bin"),
            revision=revision,
            digests=(("pytorch_model.bin", sha256),),
        ),
        convert=partial(_hub.convert, partial(prepare, graph)),
    )


ENCODERS = (
    _encoder(
        "clap-music", "larger_clap_music", GRAPH, "",
        ("LAION-Audio-630K", "AudioSet", "the makers' own music"), "a0b4534a14f58e20944452dff00a22a06ce629d1",
        "5c289311f4a030d768af7ffbfdecd01b008aa64824211899a4e59f4f9d154fd1",
    ),
    _encoder(
        "clap-general", "larger_clap_general", GRAPH, " on sounds, music and speech",
        ("LAION-Audio-630K", "AudioSet", "the makers' own music and speech"), "ada0c23a36c4e8582805bb38fec3905903f18b41",
        "314eb00cce6ad68d25237b8446b659ccdb136ed4672c1bca470f142f72455026",
    ),
    _encoder(
        "clap-music-speech", "larger_clap_music_and_speech", GRAPH, " on music and speech",
        ("LAION-Audio-630K", "AudioSet", "the makers' own music and speech"), "195c3a3e68faebb3e2088b9a79e79b43ddbda76b",
        "d4e5cf6317c7521ca62c11b524f5646565310e040129fe35719cad661696d745",
    ),
    _encoder(
        "clap-htsat-unfused", "clap-htsat-unfused", SMALL, " on sounds",
        ("LAION-Audio-630K",), "8fa0f1c6d0433df6e97c127f64b2a1d6c0dcda8a",
        "1cd3c601bc4afe0fa87be3de4c13dd2cfadd249fac1e29acf74a9b296c3219bb",
    ),
)  # fmt: skip
