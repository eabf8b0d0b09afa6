"""The encoders of Whisper, trained to write down and translate speech: how far speech carries in music.

Source: Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023; weights of openai on the
hub, Apache-2.0, of which only the encoder is kept, run by transformers' own WhisperEncoder.

Conventions: 16 kHz mono, exactly 30 s: 3,000 frames of 80 mel bands (128 for large-v3) as `_whisper` says, 50 frames a
second come out. A shorter window is followed by silence up to 30 s, as the model's own extractor does and the model
demands. The model has no mask: its frames attend to that silence too, as in the makers' own forward. Frames of the silence
are left out before anything is pooled. A longer window is cut into pieces of 30 s; a last piece below a second is dropped.

State 0 goes into the first layer, state i comes out of layer i, and the last one is taken after the final norm.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Pool, Source, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._hooks import collect
from marble_bench.encoders._pieces import in_pieces
from marble_bench.encoders._whisper import FRAME, FRONT, PIECE, SAMPLE_RATE_HZ, count_frames, make_front_end, taps_of

if TYPE_CHECKING:
    import torch

PART = "model.encoder."  # what the whole model calls the encoder


def describe_graph(width: int, layers: int, bands: int = 80) -> dict[str, Any]:
    """The configuration of a published size: heads are 64 wide, and the feed-forward layers four times the width."""
    return {
        "d_model": width,
        "encoder_layers": layers,
        "encoder_attention_heads": width // 64,
        "encoder_ffn_dim": 4 * width,
        "num_mel_bins": bands,
        "max_source_positions": 1500,
        "scale_embedding": False,
        "activation_function": "gelu",
    }


def build(graph: dict[str, Any]) -> torch.nn.Module:
    """The encoder without weights: `(windows, bands, 3000)` -> `(windows, 1500, width)`."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    made: Any = WhisperEncoder  # it carries no types, and a configuration not all of its keywords
    told: Any = WhisperConfig
    with _hub.empty():
        model: torch.nn.Module = made(told(**graph, attn_implementation="sdpa"))
    return model


def prepare(
    graph: dict[str, Any], config: dict[str, Any], tensors: _hub.Tensors
) -> tuple[dict[str, Any], _hub.Tensors]:
    """Configuration and tensors of the encoder. Raises DataError for one of another size or front end."""
    problems = _hub.differences(config, {"model_type": "whisper", **graph}, "config.json")
    front = {**FRONT, "feature_size": graph["num_mel_bins"], "chunk_length": 30}
    problems += _hub.differences(config.get(_hub.PREPROCESSOR, {}), front, _hub.PREPROCESSOR_FILE)
    _hub.refuse(problems)
    _hub.fill(build(graph), tensors)
    return {}, tensors


def load(graph: dict[str, Any], weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights, or with a lone file of the whole model's tensors."""
    assert weights is not None
    config, tensors = _hub.load(weights)
    if config is None:
        tensors = {name.removeprefix(PART): each for name, each in tensors.items() if name.startswith(PART)}
    model: Any = build(graph)
    _hub.fill(model, tensors)
    model = _hub.frozen(model, device)
    taps, log_mel = taps_of(model, model.layer_norm), make_front_end(graph["num_mel_bins"], device)

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        heard = count_frames(waveforms.shape[1])
        return collect(taps, lambda: model(log_mel(waveforms, PIECE)), lambda frames: pool(frames[:, :heard]))

    return lambda waveforms, pool: in_pieces(waveforms, PIECE, SAMPLE_RATE_HZ, piece, pool)


_WEB = "680,000 hours of speech from the web, not named"
_WEB_V3 = "5 million hours of speech from the web, not named"


def _encoder(
    size: str, graph: dict[str, Any], parameters: int, gflop_per_s: float, revision: str, sha256: str, data: str = _WEB
) -> Encoder:
    return Encoder(
        name=f"whisper-{size}",
        description=f"The encoder of Whisper {size}, trained to transcribe speech",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=stack(graph["encoder_layers"] + 1, graph["d_model"], SAMPLE_RATE_HZ / FRAME),
        load=partial(load, graph),
        license="Apache-2.0",
        citation="Radford et al., Robust Speech Recognition via Large-Scale Weak Supervision, ICML 2023",
        min_s=0.1,
        parameters=parameters,
        training_data=(data,),
        gflop_per_s=gflop_per_s,
        weights=Source(
            url=f"hf:openai/whisper-{size}",
            files=_hub.FILES,
            optional=(_hub.PREPROCESSOR_FILE,),
            revision=revision,
            digests=(("model.safetensors", sha256),),
        ),
        convert=partial(_hub.convert, partial(prepare, graph), prefix=PART),
    )


ENCODERS = (
    _encoder(
        "tiny", describe_graph(384, 4), 8_208_384, 1.23, "169d4a4341b33bc18d8881c4b69c2e104e1cc0af",
        "7ebd0e69e78190ffe1438491fa05cc1f5c1aa3a4c4db3bc1723adbb551ea2395",
    ),
    _encoder(
        "base", describe_graph(512, 6), 20_590_592, 2.91, "e37978b90ca9030d5170a5c07aadb050351a65bb",
        "07cadb9f25677c8d50df603e66a98fbd842cce45047139baeb16e6219a1e807b",
    ),
    _encoder(
        "small", describe_graph(768, 12), 88_154_112, 11.5, "973afd24965f72e36ca33b3055d56a652f456b4d",
        "1d7734884874f1a1513ed9aa760a4f8e97aaa02fd6d93a3a85d27b2ae9ca596b",
    ),
    _encoder(
        "medium", describe_graph(1024, 24), 307_216_384, 37.9, "abdf7c39ab9d0397620ccaea8974cc764cd0953e",
        "62f73550fa6db24b0c6f6c5962bd0dae80fa644e93cde9cd9c3792971b47fd28",
    ),
    _encoder(
        "large-v3", describe_graph(1280, 32, bands=128), 636_968_960, 75.8, "06f233fe06e710322aca913c1bc4249a0d71fce1",
        "a8e94b85976e5864ba3e9525c7e6c83b2a1eca42d4b797a0c7c24d778e40fd95", data=_WEB_V3,
    ),
)  # fmt: skip
