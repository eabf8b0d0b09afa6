"""The encoders of two neural codecs: what they give before it is quantised.

Sources: Defossez et al., "High Fidelity Neural Audio Compression" (EnCodec), TMLR 2023, facebook/encodec_24khz; Kumar
et al., "High-Fidelity Audio Compression with Improved RVQGAN" (DAC), NeurIPS 2023, descript/dac_44khz; both MIT. Run by
transformers' own classes, the encoder alone.

A window is cut to whole frames (320 and 512 samples) first, so that neither model has anything to fill up; inside,
every convolution sees zeros (DAC) or the signal reflected (EnCodec, at the beginning) beyond the ends, as it was
trained.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, Source
from marble_bench.encoders import _hub
from marble_bench.errors import DataError

if TYPE_CHECKING:
    import torch

# What of a configuration decides the encoder's graph.
ENCODEC = (
    "hidden_size", "num_filters", "num_residual_layers", "upsampling_ratios", "norm_type", "kernel_size", "last_kernel_size",
    "residual_kernel_size", "dilation_growth_rate", "use_causal_conv", "pad_mode", "compress", "num_lstm_layers",
    "use_conv_shortcut", "audio_channels",
)  # fmt: skip
DAC = ("encoder_hidden_size", "downsampling_ratios")
SIZES = ("stride", "kernel_size", "padding_total")  # what transformers keeps as tensors, to count padding by


def build(family: str, config: dict[str, Any]) -> torch.nn.Module:
    """The encoder with weights that are to be replaced: `(windows, 1, samples)` -> `(windows, width, frames)`."""
    import torch

    with torch.random.fork_rng(devices=[]):  # it draws weights: nobody else's numbers move for that
        made: Any
        if family == "encodec":
            from transformers import EncodecConfig
            from transformers.models.encodec.modeling_encodec import EncodecEncoder

            made = EncodecEncoder(EncodecConfig(**config))
        else:
            from transformers import DacConfig
            from transformers.models.dac.modeling_dac import DacEncoder

            encoder: Any = DacEncoder
            made = encoder(DacConfig(**config))
    found: torch.nn.Module = made
    return found


def prepare(
    family: str, config: dict[str, Any], tensors: _hub.Tensors, declared: tuple[tuple[str, Any], ...] = ()
) -> tuple[dict[str, Any], _hub.Tensors]:
    """Configuration and tensors of the encoder alone.

    declared: what config.json must say, as far as it says it. Raises DataError for another codec.
    """
    names = ENCODEC if family == "encodec" else DAC
    if config.get("model_type", family) != family:
        raise DataError(f"config.json is of a {config['model_type']}, not of {family}")
    _hub.refuse(_hub.differences(config, dict(declared), "config.json"))
    facts = {name: config[name] for name in names if name in config}
    _hub.check_small(facts)
    kept = {name.removeprefix("encoder."): tensor for name, tensor in tensors.items() if name.startswith("encoder.")}
    model = build(family, facts)
    kept = _unnormed(kept, model.state_dict())
    _hub.fill(model, kept)
    return facts, kept


def _unnormed(tensors: _hub.Tensors, wanted: dict[str, Any]) -> _hub.Tensors:
    """Weight norm taken into the weights where the model has it not: weight = g * v / |v|, a length per output."""
    plain = dict(tensors)
    for name in tensors:
        stem = name.removesuffix("_v")
        if name.endswith("weight_v") and stem in wanted:
            direction, length = plain.pop(name), plain.pop(f"{stem}_g")
            plain[stem] = direction * (length / direction.flatten(1).norm(dim=1).view_as(length))
    return plain


def load(family: str, hop: int, weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights, or with a lone file of the published graph."""
    assert weights is not None
    config, tensors = _hub.load(weights)
    if config is None:
        config, tensors = prepare(family, {}, tensors)
    model = build(family, config)
    _hub.fill(model, tensors)
    sizes = [(module, name, value) for module in model.modules() for name, value in module.named_buffers(recurse=False)]
    model = _hub.frozen(model, device)
    for module, name, value in sizes:
        if name in SIZES:
            setattr(module, name, value)  # read at every call: from a GPU each reading would wait for all work

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        import torch

        whole = waveforms[:, None, : waveforms.shape[1] // hop * hop]
        # one window at a time: the first layers hold 32 or 64 channels of every sample
        return [torch.cat([pool(model(window).transpose(1, 2)) for window in torch.split(whole, 1)])]

    return encode


def _encoder(
    name: str, family: str, hub: str, sample_rate_hz: int, hop: int, width: int, parameters: int,
    declared: tuple[tuple[str, Any], ...], revision: str, digests: tuple[tuple[str, str], ...] = (), **facts: Any
) -> Encoder:  # fmt: skip
    told = (("sampling_rate", sample_rate_hz), ("audio_channels", 1), *declared)
    return Encoder(
        name=name,
        sample_rate_hz=sample_rate_hz,
        layers=(Layer("latent", width, sample_rate_hz / hop),),
        load=partial(load, family, hop),
        license="MIT",
        min_s=0.1,
        parameters=parameters,
        weights=Source(url=f"hf:{hub}", files=_hub.FILES, revision=revision, digests=digests),
        convert=partial(_hub.convert, partial(prepare, family, declared=told)),
        **facts,
    )


ENCODERS = (
    _encoder(
        "encodec-24khz", "encodec", "facebook/encodec_24khz", 24000, 320, 128, 7_425_792,
        declared=(("hidden_size", 128), ("num_filters", 32), ("upsampling_ratios", (8, 5, 4, 2))),
        revision="c1dbe2ae3f1de713481a3b3e7c47f357092ee040",
        digests=(("model.safetensors", "37a7cb100f71a29e6c1d815aca8666a1d7ea8885ebe44c306c751a5103559d57"),),
        description="The encoder of a neural codec, before quantisation",
        citation="Defossez et al., High Fidelity Neural Audio Compression, TMLR 2023",
        training_data=("DNS Challenge 4", "Common Voice", "AudioSet", "FSD50K", "MTG-Jamendo"),
        gflop_per_s=2.4,
    ),
    _encoder(
        "dac-44khz", "dac", "descript/dac_44khz", 44100, 512, 1024, 22_299_200,
        declared=(("encoder_hidden_size", 64), ("downsampling_ratios", (2, 4, 8, 8))),
        revision="c1bc521685adf9cfe247bc39a5ca58917eda1ac4",
        description="The encoder of a neural codec, before quantisation",
        citation="Kumar et al., High-Fidelity Audio Compression with Improved RVQGAN, NeurIPS 2023",
        training_data=("DAPS", "DNS Challenge 4", "Common Voice", "VCTK", "MUSDB18", "MTG-Jamendo", "AudioSet"),
        gflop_per_s=61.2,
    ),
)  # fmt: skip
