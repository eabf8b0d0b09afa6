"""The audio tower of Qwen2-Audio, which hears for a language model: Whisper large, trained on.

Source: Chu et al., "Qwen2-Audio Technical Report", 2024; Qwen/Qwen2-Audio-7B on the hub, Apache-2.0, of which only the
`audio_tower` is fetched and loaded (1.3 of 17 GB), run by transformers' own Qwen2AudioEncoder.

Conventions: 16 kHz mono, exactly 30 s: 3,000 frames of 128 Slaney mel bands (400 samples, hop 160), log10 from -10 up,
no more than 8 below the loudest, (x + 4) / 4. A shorter window is followed by silence up to 30 s, as the model's own
extractor does and the model demands. No frame attends to that silence: the tower gets the mask that
`Qwen2AudioForConditionalGeneration` gives it. Frames of the silence are left out before anything is pooled. A longer
window is cut into pieces of 30 s; a last piece below a second is dropped.

Version 1 gave the tower no mask: every frame of a window below 30 s, and of a longer window's last piece, attended to the
silence.

State 0 goes into the first layer and states 1 to 31 come out of layers, at 50 frames a second; state 32 is the tower's
output, averaged in pairs and normed, at 25.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, Source, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._hooks import collect
from marble_bench.encoders._pieces import in_pieces
from marble_bench.encoders._whisper import FRAME, FRONT, PIECE, SAMPLE_RATE_HZ, count_frames, make_front_end, taps_of
from marble_bench.errors import DataError
from marble_bench.files.download import INDEX

if TYPE_CHECKING:
    import torch

BANDS = 128
TOWER = "audio_tower."  # what the whole model calls it
GRAPH: dict[str, Any] = {
    "d_model": 1280,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "num_mel_bins": BANDS,
    "max_source_positions": 1500,
    "scale_embedding": False,
    "activation_function": "gelu",
}


def build(config: dict[str, Any]) -> torch.nn.Module:
    """The tower without weights."""
    import torch
    from transformers import AutoModel, Qwen2AudioEncoderConfig

    auto: Any = AutoModel  # its methods carry no types
    with _hub.empty():
        model: torch.nn.Module = auto.from_config(
            Qwen2AudioEncoderConfig(**config), attn_implementation="sdpa", dtype=torch.float32
        )
    return model


def layers(graph: dict[str, Any]) -> tuple[Layer, ...]:
    """The states at 50 Hz, and the output at 25."""
    depth, width, rate = graph["encoder_layers"], graph["d_model"], SAMPLE_RATE_HZ / FRAME
    return (*stack(depth, width, rate), Layer(str(depth), width, rate / 2))


def prepare(
    graph: dict[str, Any], config: dict[str, Any], tensors: _hub.Tensors
) -> tuple[dict[str, Any], _hub.Tensors]:
    """Configuration and tensors of the tower. Raises DataError for one of another size."""
    told = config.get("audio_config", {})
    facts = {**graph, **{name: told[name] for name in graph if name in told}}
    if facts != graph:
        different = ", ".join(f"{name} {facts[name]}" for name in graph if facts[name] != graph[name])
        raise DataError(f"this is another model: config.json has {different}")
    front = {**FRONT, "feature_size": BANDS, "chunk_length": 30}
    _hub.refuse(_hub.differences(config.get(_hub.PREPROCESSOR, {}), front, _hub.PREPROCESSOR_FILE))
    _hub.fill(build(facts), tensors)
    return facts, tensors


def load(graph: dict[str, Any], weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights, or with a lone file of the tower's tensors."""
    assert weights is not None
    _, tensors = _hub.load(weights)
    model: Any = build(graph)
    _hub.fill(model, {name.removeprefix(TOWER): tensor for name, tensor in tensors.items()})
    model = _hub.frozen(model, device)
    taps, log_mel = taps_of(model, model.layer_norm), make_front_end(BANDS, device)

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        heard, averaged = valid_frames(waveforms.shape[1])
        mel = log_mel(waveforms, PIECE)
        mask = attention_mask(heard, graph["max_source_positions"], mel.device)

        def without_silence(frames: Any) -> Any:
            at_25_hz = frames.shape[1] < graph["max_source_positions"]
            return pool(frames[:, : averaged if at_25_hz else heard])

        return collect(taps, lambda: model(mel, attention_mask=mask), without_silence)

    return lambda waveforms, pool: in_pieces(waveforms, PIECE, SAMPLE_RATE_HZ, piece, pool)


def valid_frames(samples: int) -> tuple[int, int]:
    """How many frames of the tower hold `samples` samples of audio: at 50 Hz, and at 25 Hz behind the average of pairs.

    As the model counts them: a frame at 50 Hz counts if a part of it is audio, a pair only if both of its frames count.

    >>> valid_frames(30 * 16000), valid_frames(16000), valid_frames(16000 + 100)
    ((1500, 750), (50, 25), (51, 25))
    """
    heard = count_frames(samples)
    return heard, heard // 2


def attention_mask(heard: int, positions: int, device: torch.device) -> torch.Tensor | None:
    """Which of the `positions` frames may be attended to, `(1, 1, 1, positions)`; None where all of them hold audio."""
    import torch

    if heard >= positions:
        return None
    return (torch.arange(positions, device=device) < heard)[None, None, None]


ENCODERS = (
    Encoder(
        name="qwen2-audio-encoder",
        description="The audio tower of Qwen2-Audio-7B, Whisper large trained on",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=layers(GRAPH),
        load=partial(load, GRAPH),
        license="Apache-2.0",
        citation="Chu et al., Qwen2-Audio Technical Report, 2024",
        min_s=0.1,
        parameters=636_968_960,
        training_data=("not stated",),
        version=2,
        gflop_per_s=75.8,
        weights=Source(
            url="hf:Qwen/Qwen2-Audio-7B",
            files=("config.json", INDEX),
            optional=(_hub.PREPROCESSOR_FILE,),
            tensors=TOWER,
            revision="dd84470756e6277a71d4d7188773a43cde92696e",
            note="no digest is known",
        ),
        convert=partial(_hub.convert, partial(prepare, GRAPH), prefix=TOWER),
    ),
)
