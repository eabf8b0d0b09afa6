"""The wav2vec 2.0 family: seven convolutions on the waveform, then a transformer; run by transformers' own classes.

HuBERT, wav2vec 2.0 and data2vec differ in how positions are put in and in their norms. MERT is a HuBERT in all its published
sizes (its configuration names more, none of which they use). State 0 is what goes into the first layer, state i what comes
out of layer i, and the last one is taken after the final norm where the model has one, as every published number was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Layer, Pool, stack
from marble_bench.encoders import _hub
from marble_bench.encoders._hooks import Tap, collect
from marble_bench.errors import DataError

if TYPE_CHECKING:
    import torch

HOP = 320  # samples: the strides 5, 2, 2, 2, 2, 2, 2 of the convolutions
LEAST = 400  # samples that the convolutions need for one frame
# Of a configuration, what decides the graph. The rest (dropout, masking, tokens) is of training or of other heads, and some
# published files have nonsense there: music2vec's `vocab_size` is a path.
OF_THE_GRAPH = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps",
    "conv_dim", "conv_kernel", "conv_stride", "conv_bias", "feat_extract_norm", "feat_extract_activation",
    "feat_proj_layer_norm", "do_stable_layer_norm", "num_conv_pos_embeddings", "num_conv_pos_embedding_groups",
    "conv_pos_kernel_size", "conv_pos_batch_norm",
)  # fmt: skip
REFUSED = ("feature_extractor_cqt", "deepnorm", "add_adapter")  # variants that no native class computes
# What pretraining needs besides: not part of an encoder.
OTHER_HEADS = ("quantizer.", "project_q.", "project_hid.", "final_proj.", "lm_head.", "label_embs_concat")
PREFIXES = {"hubert": "hubert.", "wav2vec2": "wav2vec2.", "data2vec-audio": "data2vec_audio."}
# The mask's embedding takes part in training only; some files leave it out.
MAY_LACK = frozenset({"masked_spec_embed"})


@dataclass(frozen=True)
class Graph:
    """An architecture: transformers' name of a family, and what of its configuration differs from the family's."""

    family: str
    config: tuple[tuple[str, Any], ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """The configuration as a dict."""
        return dict(self.config)

    @property
    def size(self) -> tuple[Any, Any]:
        """How many layers there are, and how wide they are."""
        return self.facts.get("num_hidden_layers", 12), self.facts.get("hidden_size", 768)

    def layers(self, sample_rate_hz: int) -> tuple[Layer, ...]:
        """The states that come out: the input of the transformer and each layer's output."""
        depth, width = self.size
        return stack(depth + 1, width, sample_rate_hz / HOP)


def frames(samples: int, kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)) -> int:
    """How many frames come out of so many samples, the convolutions padding nothing.

    >>> frames(24000), frames(30 * 24000), frames(399)
    (74, 2249, 0)
    """
    for kernel, stride in zip(kernels, (5, 2, 2, 2, 2, 2, 2), strict=True):
        samples = (samples - kernel) // stride + 1 if samples >= kernel else 0
    return samples


def build(graph: Graph, attention: str = "sdpa") -> torch.nn.Module:
    """The model without weights: `_hub.fill` puts them in."""
    import torch
    from transformers import AutoConfig, AutoModel

    auto: Any = AutoModel  # its methods carry no types
    config = AutoConfig.for_model(
        graph.family, **graph.facts, mask_time_prob=0.05, apply_spec_augment=False, layerdrop=0.0
    )
    with _hub.empty():
        model: torch.nn.Module = auto.from_config(config, attn_implementation=attention, dtype=torch.float32)
    return model


def prepare(
    graph: Graph, config: dict[str, Any], tensors: _hub.Tensors, maker: _hub.Maker | None = None
) -> tuple[dict[str, Any], _hub.Tensors]:
    """Configuration and tensors as this module loads them.

    Raises DataError for a variant that it does not compute, and for a model that is not the declared one: of another
    architecture, or by its maker's files of another kind, sampling rate or normalisation.
    """
    if maker is not None:
        maker.check(config)
    if asked := [name for name in REFUSED if config.get(name)]:
        raise DataError(
            f"config.json asks for {', '.join(asked)}, which transformers' {graph.family} does not compute; "
            "give weights without it"
        )
    prefix = PREFIXES[graph.family]
    bare = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    kept = {name: tensor for name, tensor in bare.items() if not name.startswith(OTHER_HEADS)}
    facts = {name: config[name] for name in OF_THE_GRAPH if name in config} if config else graph.facts
    _check_input(graph, kept)
    _hub.fill(build(_as_graph(graph, facts)), kept, MAY_LACK)
    return facts, kept


def _check_input(graph: Graph, tensors: _hub.Tensors) -> None:
    """Refuse a model that also takes a constant-Q spectrogram, whatever its configuration says."""
    convolved = dict(graph.config).get("conv_dim", (512,))[-1]
    norm = tensors.get("feature_projection.layer_norm.weight")
    if norm is not None and len(norm) > convolved:
        raise DataError(
            f"the model takes {len(norm)} inputs a frame and the convolutions give {convolved}: it is a variant with a "
            "constant-Q spectrogram besides, which is not computed here; give weights without it"
        )


def _as_graph(graph: Graph, facts: dict[str, Any]) -> Graph:
    """The architecture that a configuration describes. Raises DataError if it is not the declared one."""
    from transformers import AutoConfig

    declared, told = graph.size, Graph(graph.family, tuple(facts.items())).size
    if declared != told:
        raise DataError(
            f"this is another model: config.json has {told[0]} layers of width {told[1]}, "
            f"declared are {declared[0]} of {declared[1]}"
        )
    whole = AutoConfig.for_model(graph.family, **graph.facts)  # what a family has no name for, it does not compute
    known = {name: getattr(whole, name) for name in facts if hasattr(whole, name)}
    _hub.refuse(_hub.differences(facts, known, "config.json"))
    return Graph(graph.family, tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in facts.items()))


def load(graph: Graph, weights: Path | None, device: str, attention: str = "sdpa") -> Encode:
    """`encode` with the weights of one safetensors file."""
    assert weights is not None
    config, tensors = _hub.load(weights)
    # a file with a configuration inside was checked when it was made
    facts, kept = (config, tensors) if config is not None else prepare(graph, {}, tensors)
    model = build(_as_graph(graph, facts), attention)
    _hub.fill(model, kept, MAY_LACK)
    return encoding(model, device)


def encoding(model: Any, device: str) -> Encode:
    """`encode` of a filled model."""
    frozen = _hub.frozen(model, device)
    taps = layer_taps(model.encoder)

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        return collect(taps, lambda: frozen(waveforms), pool)

    return encode


def layer_taps(encoder: Any) -> list[Tap]:
    """What to take of a transformer: what goes in, each layer's output, the last after the final norm where there is one."""
    normed = "StableLayerNorm" in type(encoder).__name__ or "Conformer" in type(encoder).__name__
    last = encoder.layer_norm if normed else encoder.layers[-1]
    return [(encoder.layers[0], "in"), *((layer, "out") for layer in encoder.layers[:-1]), (last, "out")]
