"""MERT-v2: self-supervised music encoders of 632 million parameters, for clips and for whole songs.

Source: M-A-P, MERT-v2-30s and MERT-v2-FullSong on the hub, CC BY-NC 4.0. There is no paper yet; the model's page asks to
cite MERT. The network (`_mert_v2`) is this suite's own code and gives what the makers' own modelling code gives
(tests/golden/mert-v2-tiny), none of which is run here.

The graph: a mel spectrogram in decibels (2048 samples, hop 240; window, bands, mean and deviation are in the weights'
file), three stages of ConvNeXt layers that divide time by four, and 24 conformer layers with rotary positions.

Conventions: 24 kHz mono, 25 frames a second: one for every 960 whole samples, from 1,025 samples. The waveform is not
normalised: the preprocessor of MERT-v2-FullSong says `do_normalize: false`. That of MERT-v2-30s was not seen; the page says
the same of both.

Layers are numbered by block: `0` is what goes into the first block, `1` to `24` are the blocks. The makers' `hidden_states`
have no state 0, so their `hidden_states[k]` is layer `k + 1` here.

Each ConvNeXt layer divides by a norm over the whole window: every frame depends on the window's length, and silence behind
a clip would change all of it. A window is therefore encoded without padding; of one that is padded, with `valid=`, the valid
samples alone, as the makers' code does with its mask.

30s and FullSong were trained on up to 30 and 360 s. Nothing in the graph limits a window, and none is refused.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Pool, Source, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._hooks import Tap, collect
from marble_bench.encoders._masks import encode_by_length
from marble_bench.encoders._mert_v2 import HOP, build

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 24000
FRAME = 4 * HOP  # samples: two of the three stages halve time
# The published graph; of a configuration, what decides it.
GRAPH: dict[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_mel_bins": 128,
    "n_fft": 2048,
    "subsampling_channels": (128, 512, 1024),
    "subsampling_depths": (3, 4, 5),
    "conv_depthwise_kernel_size": 31,
    "rotary_embedding_base": 10000,
    "layer_norm_eps": 1e-5,
    "subsampling_layer_norm_eps": 1e-6,
}
_CITATION = "Li et al., MERT: Acoustic Music Understanding Model with Large-Scale Self-supervised Training, ICLR 2024"


def prepare(
    graph: dict[str, Any], config: dict[str, Any], tensors: _hub.Tensors, variant: str = ""
) -> tuple[dict[str, Any], _hub.Tensors]:
    """Configuration and tensors as `load` takes them.

    variant: what config.json must say of it, as far as it says it. Raises DataError for another model: of another graph,
    variant, sampling rate or normalisation, or with a tensor more or less.
    """
    declared = {**graph, "hop_length": HOP, "win_length": graph["n_fft"], **({"variant": variant} if variant else {})}
    _hub.refuse(_hub.differences(config, declared, "config.json"))
    _hub.Maker(SAMPLE_RATE_HZ, "mert2", do_normalize=False).check(config)
    _hub.fill(build(graph), tensors)
    return {}, tensors


def load(graph: dict[str, Any], weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights, or with a lone file of the published tensors."""
    assert weights is not None
    _, tensors = _hub.load(weights)
    model: Any = build(graph)
    _hub.fill(model, tensors)
    model = _hub.frozen(model, device)
    taps: list[Tap] = [(model.layers[0], "in"), *((layer, "out") for layer in model.layers)]

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        return collect(taps, lambda: model(waveforms), pool)

    return encode_by_length(encode, graph["n_fft"] // 2 + 1)


def _encoder(name: str, hub: str, variant: str, what: str, weights: Source) -> Encoder:
    return Encoder(
        name=name,
        description=f"Self-supervised conformer on mel spectrograms, trained on {what} ({hub})",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=stack(GRAPH["num_hidden_layers"] + 1, GRAPH["hidden_size"], SAMPLE_RATE_HZ / FRAME),
        load=partial(load, GRAPH),
        license="CC-BY-NC-4.0",
        citation=_CITATION,
        min_s=(GRAPH["n_fft"] // 2 + 1) / SAMPLE_RATE_HZ,
        masks=True,
        parameters=632_295_808,
        training_data=("not stated",),
        gflop_per_s=32.7,
        weights=weights,
        convert=partial(_hub.convert, partial(prepare, GRAPH, variant=variant)),
    )


ENCODERS = (
    _encoder(
        "mert-v2-30s", "m-a-p/MERT-v2-30s", "30s", "clips of up to 30 s",
        Source(
            url="hf:m-a-p/MERT-v2-30s",
            files=_hub.FILES,
            optional=(_hub.PREPROCESSOR_FILE,),
            revision="12130d22fd947c24b0299c9368900fb06a608512",
            note="its preprocessor was not seen and no digest is known; the hub may ask to accept its terms first",
        ),
    ),
    _encoder(
        "mert-v2-fullsong", "m-a-p/MERT-v2-FullSong", "fs", "songs of 30 to 360 s after clips of up to 30 s",
        Source(
            url="hf:m-a-p/MERT-v2-FullSong",
            files=_hub.FILES,
            optional=(_hub.PREPROCESSOR_FILE,),
            revision="d8ba1c745e733b3908ce6ad16ebeb17ac7600a42",
            digests=(
                ("model.safetensors", "e6dd2ab187d6dd62b6521cd7d8f932e237acf0c5757745a7232082e28391350d"),
                ("config.json", "f2e194895f58be3ddba327255db129ff0e3bee550cc0ecf08e4d22d79ce3bca3"),
                ("preprocessor_config.json", "fc7337f113b71062b8efd03f8a43a07aa769ce85c6a53fdc0b3bb90c299fe63f"),
            ),
            note="the hub may ask to accept its terms first",
        ),
    ),
)  # fmt: skip
