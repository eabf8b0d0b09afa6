"""MuQ-MuLan: music and its description brought together; the audio side, one vector for a window.

Source: Zhu et al., "MuQ: Self-Supervised Music Representation Learning with Mel Residual Vector Quantization", 2025;
OpenMuQ/MuQ-MuLan-large on the hub, CC BY-NC 4.0. The graph is MuQ's (see `conformer`), trained on, and two linear layers:
the last state is projected, averaged over time, projected into the space that is shared with text, and divided by its norm.

Conventions: 24 kHz mono. As in the makers' package, a window is cut into clips of 10 s, of which the last, if it is shorter,
goes on with the window's beginning; a window below 5 s is heard twice and no more. The vectors of the clips, each of norm 1,
are averaged, and the mean is not divided by its norm again. There is no axis of time: tasks that ask frame by frame are
refused.

The makers' package takes the mean and deviation of mel spectrograms from the configuration of another model,
MuQ-large-msd-iter, which is not fetched here. They are taken to be those of the Million Song Dataset that MusicFM publishes
in msd_stats.json and that the makers' training code has too.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, Source
from marble_bench.encoders import _hub, conformer

if TYPE_CHECKING:
    import torch

CLIP = 10 * conformer.SAMPLE_RATE_HZ  # samples
STATISTICS = {conformer.MEAN: 6.768444971712967, conformer.DEVIATION: 18.417922652295623}
WIDTH, LATENT = 768, 512  # between the two linear layers, and behind them
# What the whole model calls the parts that are kept; the rest is of text, or of training.
MUQ, PROJECTION, TO_LATENT = "mulan.audio.model.model.", "mulan.audio.proj.", "mulan.audio_to_latents."
BETWEEN = "mulan.audio.transformer."  # layers that the published model has none of
# What config.json must say, part by part, as far as it says it.
DECLARED: dict[str, dict[str, Any]] = {
    "mulan": {"sr": conformer.SAMPLE_RATE_HZ, "clip_secs": 10, "dim_latent": LATENT},
    "audio_model": {"use_layer_idx": -1},
    "audio_transformer": {"dim": WIDTH, "tf_depth": 0},
}


def build_head(width: int, between: int, latent: int) -> torch.nn.ModuleDict:
    """The two linear layers without weights."""
    from torch import nn

    with _hub.empty():
        return nn.ModuleDict({"projection": nn.Linear(width, between), "to_latent": nn.Linear(between, latent)})


def prepare(
    config: dict[str, Any], channels: int, sizes: tuple[int, int], facts: dict[str, Any], tensors: _hub.Tensors
) -> tuple[dict[str, Any], _hub.Tensors]:
    """The tensors of the audio side, MuQ's as `muq.*`. Raises DataError for another model, or if one is missing.

    config, channels: of MuQ. sizes: widths of the two linear layers' outputs. facts: config.json.
    """
    declared = {
        "mulan": {**DECLARED["mulan"], "dim_latent": sizes[1]},
        "audio_model": DECLARED["audio_model"],
        "audio_transformer": {**DECLARED["audio_transformer"], "dim": sizes[0]},
    }
    problems = []
    for part, wanted in declared.items():
        problems += _hub.differences(facts.get(part, {}), wanted, f"{part} in config.json")
    if any(name.startswith(BETWEEN) for name in tensors):
        problems.append(f"there are layers {BETWEEN}* between the two linear layers, declared are none")
    _hub.refuse(problems)
    of_muq = {name.removeprefix(MUQ): each for name, each in tensors.items() if name.startswith(MUQ)}
    _, kept = conformer.prepare(config, channels, STATISTICS, of_muq)
    head = {
        new + name.removeprefix(old): each
        for old, new in ((PROJECTION, "projection."), (TO_LATENT, "to_latent."))
        for name, each in tensors.items()
        if name.startswith(old)
    }
    _hub.fill(build_head(config["hidden_size"], *sizes), head)
    return {}, {**head, **{f"muq.{name}": each for name, each in kept.items()}}


def load(config: dict[str, Any], channels: int, sizes: tuple[int, int], weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights, or with a lone file of the published tensors."""
    from torch.nn.functional import normalize

    assert weights is not None
    told, tensors = _hub.load(weights)
    if told is None:
        _, tensors = prepare(config, channels, sizes, {}, tensors)
    muq = conformer.build(config, channels)
    _hub.fill(muq, {name.removeprefix("muq."): each for name, each in tensors.items() if name.startswith("muq.")})
    states_of = conformer.make_encode(muq, STATISTICS, device)
    head: Any = build_head(config["hidden_size"], *sizes)
    _hub.fill(head, {name: each for name, each in tensors.items() if not name.startswith("muq.")})
    head = _hub.frozen(head, device)

    def latent(clips: torch.Tensor) -> torch.Tensor:
        last = states_of(clips, lambda frames: frames)[-1]
        return normalize(head["to_latent"](head["projection"](last).mean(dim=1)), dim=1)

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        latents = [latent(clips) for clips in cut_clips(waveforms)]
        return [pool((sum(latents[1:], latents[0]) / len(latents))[:, None])]

    return encode


def cut_clips(waveforms: torch.Tensor) -> list[torch.Tensor]:
    """`(windows, samples)` cut into clips of 10 s; a last one that is shorter goes on with the windows' beginnings."""
    import torch

    clips = list(torch.split(waveforms, CLIP, dim=1))
    if (lacking := CLIP - clips[-1].shape[1]) > 0:
        clips[-1] = torch.cat((clips[-1], waveforms[:, :lacking]), dim=1)
    return clips


ENCODERS = (
    Encoder(
        name="muq-mulan",
        description="Contrastive pretraining on music and text, the audio side (MuQ-MuLan-large)",
        sample_rate_hz=conformer.SAMPLE_RATE_HZ,
        layers=(Layer("latent", LATENT),),
        load=partial(load, conformer.CONFORMER, conformer.CHANNELS, (WIDTH, LATENT)),
        license="CC-BY-NC-4.0",
        citation=conformer.MUQ_PAPER,
        min_s=0.1,
        parameters=317_524_224,
        training_data=("Million Song Dataset", "music-text pairs, not named"),
        gflop_per_s=42.1,
        weights=Source(
            url="hf:OpenMuQ/MuQ-MuLan-large",
            files=_hub.FILES,
            revision="57b8af8e903a6fa28b6ba1d7a1578b4d68fcc918",
            digests=(
                ("model.safetensors", "5fe234bbc5f183a9f4275fb292f54a30cb3a8ce75f82f1a43410ee6044d71d59"),
                ("pytorch_model.bin", "d42ae3f7cb9b66759ee0089ddc70e2f28b130c2d8ba621457358272d32dd0444"),
                ("config.json", "8fefc545ef87ecd9bcde7417dd03464370c48c321f36dcff20266a752079e468"),
            ),
            note="its mel statistics, which are in another model's configuration, are taken to be MusicFM's msd_stats.json",
        ),
        convert=partial(_hub.convert, partial(prepare, conformer.CONFORMER, conformer.CHANNELS, (WIDTH, LATENT))),
    ),
)
