"""The audio tower of Qwen2.5-Omni, which hears for a language model: Whisper large, trained on, in blocks of two seconds.

Source: Xu et al., "Qwen2.5-Omni Technical Report", 2025; Qwen/Qwen2.5-Omni-7B on the hub, of which only
`thinker.audio_tower` is fetched and loaded, run by transformers' own Qwen2_5OmniAudioEncoder; Apache-2.0.

Conventions: 16 kHz mono, 128 mel bands as `_whisper` says. Nothing is filled up: the tower takes the 100 mel frames a second
that hold audio, in blocks of 200, and no frame attends beyond its own block. A window longer than 300 s, at which the
makers' extractor ends, is cut into pieces of 300 s; a last piece below a second is dropped.

State 0 goes into the first layer and states 1 to 31 come out of layers, at 50 frames a second; state 32 is averaged in pairs
and normed, at 25. What follows, a projection into the language model's space of 3,584 numbers, is left out.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, Source, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._hooks import collect
from marble_bench.encoders._pieces import in_pieces
from marble_bench.encoders._whisper import FRAME, FRONT, HOP, SAMPLE_RATE_HZ, WINDOW, make_front_end, taps_of
from marble_bench.files.download import INDEX

if TYPE_CHECKING:
    import torch

BANDS = 128
PIECE = 300 * SAMPLE_RATE_HZ
TOWER = "thinker.audio_tower."  # what the whole model calls it
GRAPH: dict[str, Any] = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": BANDS,
    "max_source_positions": 1500,
    "n_window": 100,
    "output_dim": 3584,
    "scale_embedding": False,
    "activation_function": "gelu",
}
# Marks that the language model puts around audio; the tower makes no use of them.
MAY_LACK = frozenset({"audio_bos_eos_token.weight"})


def build(graph: dict[str, Any]) -> torch.nn.Module:
    """The tower without weights."""
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniAudioEncoderConfig
    from transformers.models.qwen2_5_omni.modeling_qwen2_5_omni import Qwen2_5OmniAudioEncoder

    made: Any = Qwen2_5OmniAudioEncoder  # it carries no types, and a configuration not all of its keywords
    told: Any = Qwen2_5OmniAudioEncoderConfig
    with _hub.empty():
        model: Any = made(told(**graph, attn_implementation="sdpa"))
    model.positional_embedding.positional_embedding = compute_positions(graph["max_source_positions"], graph["d_model"])
    found: torch.nn.Module = model
    return found


def compute_positions(frames: int, width: int) -> torch.Tensor:
    """Sines and cosines of each frame's number, `(frames, width)`: they are in no file of weights."""
    import torch

    slower = torch.exp(-math.log(10000) / (width // 2 - 1) * torch.arange(width // 2))
    angles = torch.outer(torch.arange(frames).float(), slower)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def prepare(
    graph: dict[str, Any], config: dict[str, Any], tensors: _hub.Tensors
) -> tuple[dict[str, Any], _hub.Tensors]:
    """Tensors of the tower. Raises DataError for one of another size or front end."""
    problems = _hub.differences(config, {"model_type": "qwen2_5_omni"}, "config.json")
    told = config.get("thinker_config", {}).get("audio_config", {})
    problems += _hub.differences(told, graph, "audio_config in config.json")
    front = {**FRONT, "feature_size": BANDS}
    problems += _hub.differences(config.get(_hub.PREPROCESSOR, {}), front, _hub.PREPROCESSOR_FILE)
    _hub.refuse(problems)
    _hub.fill(build(graph), tensors, MAY_LACK)
    return {}, tensors


def load(graph: dict[str, Any], weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights, or with a lone file of the tower's tensors."""
    import torch

    assert weights is not None
    _, tensors = _hub.load(weights)
    model: Any = build(graph)
    _hub.fill(model, {name.removeprefix(TOWER): tensor for name, tensor in tensors.items()}, MAY_LACK)
    model = _hub.frozen(model, device)
    taps, log_mel = taps_of(model, model.ln_post), make_front_end(BANDS, device)

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        windows, samples = waveforms.shape
        length = -(-samples // HOP)  # mel frames that hold audio
        mel = log_mel(waveforms, samples + WINDOW)[
            ..., :length
        ]  # behind the audio is silence, as in the makers' extractor
        lengths = torch.full((windows,), length, device=mel.device)
        one_row = mel.transpose(0, 1).flatten(1)  # (bands, frames of all windows): they are kept apart by their lengths

        def run() -> None:
            model(one_row, feature_lens=lengths, aftercnn_lens=(lengths - 1) // 2 + 1)

        return collect(taps, run, lambda frames: pool(frames.unflatten(0, (windows, -1))))

    return lambda waveforms, pool: in_pieces(waveforms, PIECE, SAMPLE_RATE_HZ, piece, pool)


def describe_layers(graph: dict[str, Any]) -> tuple[Layer, ...]:
    """The states at 50 Hz, and the last at 25."""
    depth, width, rate = graph["encoder_layers"], graph["d_model"], SAMPLE_RATE_HZ / FRAME
    return (*stack(depth, width, rate), Layer(str(depth), width, rate / 2))


ENCODERS = (
    Encoder(
        name="qwen2.5-omni-audio",
        description="The audio tower of Qwen2.5-Omni-7B, Whisper large trained on in blocks of two seconds",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=describe_layers(GRAPH),
        load=partial(load, GRAPH),
        license="Apache-2.0",
        citation="Xu et al., Qwen2.5-Omni Technical Report, 2025",
        min_s=0.1,
        parameters=639_647_232,
        training_data=("not stated",),
        gflop_per_s=63.7,
        weights=Source(
            url="hf:Qwen/Qwen2.5-Omni-7B",
            files=("config.json", INDEX),
            optional=(_hub.PREPROCESSOR_FILE,),
            tensors=TOWER,
            revision="ae9e1690543ffd5c0221dc27f79834d0294cba00",
            note="no digest is known",
        ),
        convert=partial(_hub.convert, partial(prepare, GRAPH), prefix=TOWER),
    ),
)
