"""AST, the Audio Spectrogram Transformer: a vision transformer on spectrograms, trained to tag AudioSet.

Source: Gong, Chung and Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021; the weights that
MIT/ast-finetuned-audioset-10-10-0.4593 on the hub converted from the makers' own, BSD-3-Clause; run by transformers' own
ASTModel.

Conventions: 16 kHz mono, at most 1,024 frames of 128 Kaldi mel bands (400 samples, hop 160, symmetric Hann window, offset
removed and high frequencies raised frame by frame), natural logarithm, standardised by AudioSet's mean and twice its
deviation. Frames that a window lacks are zeros before they are standardised, and the model attends to them, as the model's
own extractor and forward do. Patches are 16 by 16, one every 10 frames and 10 bands.

Layers: of `0`, what goes into the first layer, to `12`, behind the final norm, a frame is the mean of the 12 patches that
begin at one time, so that there are 10 a second. Columns that begin behind the audio are left out. `pooled` is the model's
own summary, the mean of its class and distillation tokens behind the final norm.

A longer window is cut into pieces of 10.1 s, which give 101 columns and leave 16 frames of zeros as a clip of AudioSet
does; each is one frame of `pooled`. A last piece below a second is dropped.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, Source, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._hooks import Tap, collect
from marble_bench.encoders._mel import banded
from marble_bench.encoders._pieces import in_pieces

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 16000
WINDOW, HOP, BINS = 400, 160, 257
LOWEST_HZ = 20.0
STEP = 10  # mel frames from one column of patches to the next
COLUMNS = 101  # of a piece: as many as 1,024 frames have
PIECE = COLUMNS * STEP * HOP
PREEMPHASIS = 0.97
LEAST_POWER = (
    1.192092955078125e-07  # the smallest power of which a logarithm is taken: float32's epsilon, as Kaldi has it
)
# What the preprocessor must say, as far as it says it.
FRONT: dict[str, Any] = {
    "sampling_rate": SAMPLE_RATE_HZ,
    "num_mel_bins": 128,
    "max_length": 1024,
    "mean": -4.2677393,
    "std": 4.5689974,
    "do_normalize": True,
}
# The published graph; of a configuration, what decides it.
GRAPH: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "qkv_bias": True,
    "patch_size": 16,
    "frequency_stride": 10,
    "time_stride": STEP,
    "num_mel_bins": 128,
    "max_length": 1024,
}
# Names of published tensors, and how versions of transformers since 5 call them.
PREFIX = "audio_spectrogram_transformer."
RENAMED = (
    ("encoder.layer.", "layers."),
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)


def build(graph: dict[str, Any]) -> torch.nn.Module:
    """The model without weights: `(windows, 1024, bands)` -> tokens `(windows, 2 + patches, width)`."""
    from transformers import ASTConfig, ASTModel

    made: Any = ASTModel  # it carries no types, and a configuration not all of its keywords
    told: Any = ASTConfig
    with _hub.empty():
        model: torch.nn.Module = made(told(**graph, attn_implementation="sdpa"))
    return model


def rename(tensors: _hub.Tensors, wanted: dict[str, Any]) -> _hub.Tensors:
    """Published tensors by the names that the version of transformers at hand has; the classifier is left out."""
    found = {}
    for name, tensor in tensors.items():
        new = name.removeprefix(PREFIX)
        if new.startswith("classifier."):
            continue
        for old, other in RENAMED:
            new = new if new in wanted else new.replace(old, other)
        found[new] = tensor
    return found


def prepare(
    graph: dict[str, Any], config: dict[str, Any], tensors: _hub.Tensors
) -> tuple[dict[str, Any], _hub.Tensors]:
    """Tensors of the model without its classifier. Raises DataError for another graph or front end."""
    problems = _hub.differences(
        config, {"model_type": "audio-spectrogram-transformer", **graph}, "config.json"
    ) + _hub.differences(config.get(_hub.PREPROCESSOR, {}), FRONT, _hub.PREPROCESSOR_FILE)
    _hub.refuse(problems)
    kept = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if not name.startswith("classifier.")}
    model = build(graph)
    _hub.fill(model, rename(kept, model.state_dict()))
    return {}, kept


def make_front_end(device: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """`(windows, samples)`, at least 400 -> standardised log-mel frames `(windows, 1024, 128)`."""
    import torch
    from torch.nn.functional import pad
    from transformers.audio_utils import mel_filter_bank

    with warnings.catch_warnings():  # the lowest bands lie between two bins, in the makers' spectrogram too
        warnings.filterwarnings("ignore", message="At least one mel filter has all zero values")
        bank = mel_filter_bank(
            BINS, FRONT["num_mel_bins"], LOWEST_HZ, SAMPLE_RATE_HZ / 2, SAMPLE_RATE_HZ,
            norm=None, mel_scale="kaldi", triangularize_in_mel_space=True,
        )  # fmt: skip
    filters = torch.from_numpy(bank.T).float().to(device)
    hann = torch.hann_window(WINDOW, periodic=False).to(device)

    def log_mel(waveforms: torch.Tensor) -> torch.Tensor:
        frames = waveforms.unfold(1, WINDOW, HOP)
        frames = frames - frames.mean(dim=2, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), dim=2)
        spectrum = torch.fft.rfft((frames - PREEMPHASIS * before) * hann, 2 * (BINS - 1))
        power = spectrum.real.square() + spectrum.imag.square()
        mel = banded(filters, power.transpose(1, 2)).clamp(min=LEAST_POWER).log().transpose(1, 2)
        filled = pad(mel, (0, 0, 0, FRONT["max_length"] - mel.shape[1]))
        standardised: torch.Tensor = (filled - FRONT["mean"]) / (2 * FRONT["std"])
        return standardised

    return log_mel


def count_columns(samples: int) -> int:
    """How many columns of patches begin within `samples` samples of audio, at least 400 and at most a piece.

    >>> count_columns(PIECE), count_columns(16000)
    (101, 10)
    """
    frames = (samples - WINDOW) // HOP + 1
    return -(-frames // STEP)


def load(graph: dict[str, Any], weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights, or with a lone file of the published tensors."""
    assert weights is not None
    _, tensors = _hub.load(weights)
    model: Any = build(graph)
    _hub.fill(model, rename(tensors, model.state_dict()))
    model, log_mel = _hub.frozen(model, device), make_front_end(device)
    inner = getattr(model, "layers", None) or model.encoder.layer  # as older versions of transformers call them
    taps: list[Tap] = [(inner[0], "in"), *((layer, "out") for layer in inner[:-1]), (model.layernorm, "out")]
    rows = (graph["num_mel_bins"] - graph["patch_size"]) // graph["frequency_stride"] + 1

    def piece(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        heard = count_columns(waveforms.shape[1])
        summary: list[torch.Tensor] = []

        def run() -> None:
            summary.append(model(log_mel(waveforms)).pooler_output[:, None])

        def columns(tokens: torch.Tensor) -> torch.Tensor:
            patches = tokens[:, 2:]  # row by row of bands, behind the class and distillation tokens
            by_row = patches.reshape(len(patches), rows, -1, patches.shape[2])
            return pool(by_row.mean(dim=1)[:, :heard])

        found = collect(taps, run, columns)
        return [*found, pool(summary[0])]

    return lambda waveforms, pool: in_pieces(waveforms, PIECE, SAMPLE_RATE_HZ, piece, pool)


def describe_layers(graph: dict[str, Any]) -> tuple[Layer, ...]:
    """The states, 10 frames a second, and the summary, one frame a piece."""
    width, rate = graph["hidden_size"], SAMPLE_RATE_HZ / HOP / STEP
    return (*stack(graph["num_hidden_layers"] + 1, width, rate), Layer("pooled", width, SAMPLE_RATE_HZ / PIECE))


ENCODERS = (
    Encoder(
        name="ast",
        description="Audio Spectrogram Transformer, a vision transformer trained to tag AudioSet",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=describe_layers(GRAPH),
        load=partial(load, GRAPH),
        license="BSD-3-Clause",
        citation="Gong, Chung and Glass, AST: Audio Spectrogram Transformer, Interspeech 2021",
        min_s=0.1,
        parameters=86_187_264,
        training_data=("AudioSet", "ImageNet"),
        gflop_per_s=26.1,
        weights=Source(
            url="hf:MIT/ast-finetuned-audioset-10-10-0.4593",
            files=_hub.FILES,
            optional=(_hub.PREPROCESSOR_FILE,),
            revision="f826b80d28226b62986cc218e5cec390b1096902",
            digests=(
                ("model.safetensors", "ae0c1e2ad4e1381d851fa9bf298ba13ebc9c5a914cdee2dbe427a6583869924d"),
                ("pytorch_model.bin", "9ca280ba0276a0d2243f7dd561c72b10cc7c3955a2b1f12e42e93983f24b8ca4"),
            ),
        ),
        convert=partial(_hub.convert, partial(prepare, GRAPH)),
    ),
)
