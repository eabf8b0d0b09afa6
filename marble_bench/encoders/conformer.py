"""MuQ and MusicFM: masked prediction of quantised mel spectrograms, by a conformer.

Sources: Zhu et al., "MuQ: Self-Supervised Music Representation Learning with Mel Residual Vector Quantization", 2025
(OpenMuQ/MuQ-large-msd-iter, weights CC BY-NC 4.0); Won, Hung and Le, "A Foundation Model for Music Informatics", ICASSP
2024 (minzwon/MusicFM, MIT; `musicfm` was trained on the Million Song Dataset, `musicfm-fma`, the paper's, on FMA-large).
All have one graph: a mel spectrogram at 24
kHz (2048 samples, hop 240, 128 HTK bands without norm, decibels from -100 up, the last frame left away, standardised by
the training set's mean and deviation), two residual convolution blocks that halve time and bands each, and
transformers' `Wav2Vec2ConformerEncoder` of 12 layers with rotary positions: 25 frames a second.

State 0 goes into the first layer, state i comes out of layer i, and the last one is taken after the final norm. The
makers' own packages read the states from transformers, which has stopped handing them out in that place; here they are
taken by hooks. Quantisers and heads that take part in training only are left away.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Pool, Source, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._hooks import collect
from marble_bench.encoders._mel import decibels, mel_power
from marble_bench.encoders._speech import layer_taps
from marble_bench.errors import DataError

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 24000
WINDOW, HOP, BANDS = 2048, 240, 128
# The conformer is that of facebook/wav2vec2-conformer-rope-large-960h-ft, of which MusicFM fetched the configuration.
CONFORMER: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "hidden_act": "swish",
    "layer_norm_eps": 1e-5,
    "position_embeddings_type": "rotary",
    "rotary_embedding_base": 10000,
    "conv_depthwise_kernel_size": 31,
}
CHANNELS = 512
MEAN, DEVIATION = "melspec_2048_mean", "melspec_2048_std"  # as the makers' files call them
OF_THE_ENCODER = ("conv.", "conformer.layers.", "conformer.layer_norm.", "conformer.embed_positions.")


def _residual(inputs: int, outputs: int) -> torch.nn.Module:
    """Two convolutions beside one; the names are those of the published tensors."""
    from torch import nn

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs)
            self.conv3, self.bn3 = nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            inner = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu()))
            summed: torch.Tensor = inner + self.bn3(self.conv3(images))
            return summed.relu()

    return Residual()


def build(config: dict[str, Any], channels: int) -> torch.nn.Module:
    """The model without weights: mel spectrogram `(windows, 128, frames)` -> `(windows, frames / 4, width)`."""
    from torch import nn
    from transformers import Wav2Vec2ConformerConfig
    from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

    class Stem(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Sequential(_residual(1, channels), _residual(channels, channels))
            self.linear = nn.Linear(channels * BANDS // 4, config["hidden_size"])

        def forward(self, mel: torch.Tensor) -> torch.Tensor:
            images = self.conv(mel[:, None])  # (windows, channels, bands / 4, frames / 4)
            projected: torch.Tensor = self.linear(images.permute(0, 3, 1, 2).flatten(2))
            return projected

    class Conformer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = Stem()
            made: Any = Wav2Vec2ConformerEncoder  # it carries no types, and a configuration not all of its keywords
            told: Any = Wav2Vec2ConformerConfig
            self.conformer = made(told(**config, layerdrop=0.0, attn_implementation="eager"))
            del self.conformer.pos_conv_embed  # it has weights, and rotary positions make no use of it

        def forward(self, mel: torch.Tensor) -> Any:
            return self.conformer(self.conv(mel))

    with _hub.empty():
        return Conformer()


def prepare(
    config: dict[str, Any], channels: int, statistics: dict[str, Any], tensors: _hub.Tensors
) -> tuple[dict[str, Any], _hub.Tensors]:
    """What is kept: the training set's statistics, and the tensors of the encoder."""
    if missing := [name for name in (MEAN, DEVIATION) if name not in statistics]:
        raise DataError(f"the statistics of the training set lack {' and '.join(missing)}")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in bare.items() if name.startswith(OF_THE_ENCODER)}
    _hub.fill(build(config, channels), kept)
    try:
        numbers = {name: float(statistics[name]) for name in (MEAN, DEVIATION)}
    except (TypeError, ValueError) as error:
        raise DataError(f"the statistics of the training set are no numbers: {error}") from error
    if not (math.isfinite(numbers[MEAN]) and numbers[DEVIATION] > 0):
        raise DataError(
            f"the statistics of the training set are {numbers}; a finite mean and a deviation above 0 are needed"
        )
    return numbers, kept


def convert_muq(config: dict[str, Any], channels: int, found: Path, path: Path) -> None:
    """Keep what the hub's folder of MuQ holds."""
    if not found.is_dir():
        raise DataError(f"give the folder with {_hub.NEEDED}: {found} alone lacks the training set's statistics")
    facts, tensors = _hub.read(found)
    if facts.get("label_rate", 25) != 25 or facts.get("is_flash"):
        raise DataError(
            "config.json asks for another label rate than 25 or another attention, which is not computed here"
        )
    declared = {
        "hop_length": HOP,
        "n_mels": BANDS,
        "conv_dim": channels,
        "encoder_dim": config["hidden_size"],
        "encoder_depth": config["num_hidden_layers"],
    }
    _hub.refuse(_hub.differences(facts, declared, "config.json"))
    _hub.Maker(SAMPLE_RATE_HZ).check(facts)
    statistics = facts.get("stat")
    _hub.save(*prepare(config, channels, statistics if isinstance(statistics, dict) else {}, tensors), path)


def convert_musicfm(trained_on: str, config: dict[str, Any], channels: int, found: Path, path: Path) -> None:
    """Keep what MusicFM's folder holds of a model: its checkpoint and the statistics beside it. trained_on: msd or fma."""
    tensors, statistics = found / f"pretrained_{trained_on}.pt", found / f"{trained_on}_stats.json"
    if not (tensors.is_file() and statistics.is_file()):
        raise DataError(f"{found} is no folder with {tensors.name} and {statistics.name}")
    _hub.save(*prepare(config, channels, _hub.read_json(statistics), _hub.unpickled(tensors)), path)


def load(config: dict[str, Any], channels: int, weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights."""
    assert weights is not None
    statistics, tensors = _hub.load(weights)
    if statistics is None or MEAN not in statistics:
        raise DataError(f"{weights} lacks the training set's statistics; give the folder as its makers publish it")
    model = build(config, channels)
    _hub.fill(model, tensors)
    return make_encode(model, statistics, device)


def make_encode(filled: torch.nn.Module, statistics: dict[str, Any], device: str) -> Encode:
    """`encode` of a filled model; statistics: mean and deviation of its training set's mel spectrograms."""
    model: Any = _hub.frozen(filled, device)
    taps = layer_taps(model.conformer)
    mel_of = mel_power(
        sample_rate_hz=SAMPLE_RATE_HZ, window=WINDOW, hop=HOP, bands=BANDS,
        low_hz=0.0, high_hz=SAMPLE_RATE_HZ / 2, slaney=False, device=device,
    )  # fmt: skip

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        # transformers keeps the table of the last length in the precision of its first call, whatever is asked next
        model.conformer.embed_positions.cached_sequence_length = None
        mel = (decibels(mel_of(waveforms))[..., :-1] - statistics[MEAN]) / statistics[DEVIATION]
        return collect(taps, lambda: model(mel), pool)

    return encode


def frames(samples: int) -> int:
    """How many frames come out of so many samples: mel frames, halved twice, rounded up.

    >>> frames(24000), frames(30 * 24000)
    (25, 750)
    """
    return math.ceil(math.ceil(samples // HOP / 2) / 2)


MUQ_PAPER = "Zhu et al., MuQ: Self-Supervised Music Representation Learning with Mel Residual Vector Quantization, 2025"
_MSD = "Million Song Dataset"
_MUSICFM = "Won, Hung and Le, A Foundation Model for Music Informatics, ICASSP 2024"


def _encoder(
    name: str, description: str, weights: Source, license: str, citation: str, convert: Any, data: str = _MSD
) -> Encoder:
    return Encoder(
        name=name,
        description=description,
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=stack(CONFORMER["num_hidden_layers"] + 1, CONFORMER["hidden_size"], SAMPLE_RATE_HZ / HOP / 4),
        load=partial(load, CONFORMER, CHANNELS),
        license=license,
        citation=citation,
        min_s=0.1,
        parameters=316_343_296,
        gflop_per_s=42.1,
        training_data=(data,),
        weights=weights,
        convert=partial(convert, CONFORMER, CHANNELS),
    )


ENCODERS = (
    _encoder(
        "muq",
        "Masked prediction of mel residual vector quantisation, by a conformer",
        Source(
            url="hf:OpenMuQ/MuQ-large-msd-iter",
            files=_hub.FILES,
            revision="0562a57814f6f8bbd9fdea0a25921a2fce1a841a",
            digests=(
                ("model.safetensors", "273febab2be02872c37d2c37e48a9d6c52c1c9392f3eeeabd498efa281ccb7a6"),
                ("config.json", "237335ee27d8fb951ce778701a12a79e06c51ae636dd786f97e45f51ce532543"),
            ),
        ),
        "CC-BY-NC-4.0",
        MUQ_PAPER,
        convert_muq,
    ),
    _encoder(
        "musicfm",
        "Masked prediction of randomly quantised mel spectrograms, by a conformer",
        Source(
            url="hf:minzwon/MusicFM",
            files=("msd_stats.json", "pretrained_msd.pt"),
            revision="4513b38bc25ad1d227b1980819b9691ba97f4d87",
            digests=(
                ("pretrained_msd.pt", "218b483a0256ddef736267425fabb166fd97008983696bb9270def464b47bded"),
                ("msd_stats.json", "c36c61ab10ca4d2e7fdfefc3fcc15205316bec276a06a47baa3641a62c546f22"),
            ),
        ),
        "MIT",
        _MUSICFM,
        partial(convert_musicfm, "msd"),
    ),
    _encoder(
        "musicfm-fma",
        "Masked prediction of randomly quantised mel spectrograms, by a conformer, trained on FMA",
        Source(
            url="hf:minzwon/MusicFM",
            files=("fma_stats.json", "pretrained_fma.pt"),
            revision="4513b38bc25ad1d227b1980819b9691ba97f4d87",
            digests=(
                ("pretrained_fma.pt", "68392eee13d34c2941b3761934abb6b1e67b2e9df498695bda2ea5c1087d4b96"),
                ("fma_stats.json", "5416e468018bae68c6231d4cbb2b11f0d11c04e6437881505ae427a3f8344904"),
            ),
        ),
        "MIT",
        _MUSICFM,
        partial(convert_musicfm, "fma"),
        data="FMA-large",
    ),
)
