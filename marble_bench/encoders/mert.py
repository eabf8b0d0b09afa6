"""MERT: masked prediction of acoustic and musical tokens, in the graph of HuBERT.

Source: Li et al., "MERT: Acoustic Music Understanding Model with Large-Scale Self-supervised Training", ICLR 2024;
weights at m-a-p on the hub, CC BY-NC 4.0. They are run by transformers' `HubertModel`, which gives the hidden states of
the makers' own code (tests/golden/mert-tiny-*, made with that code on transformers 4.38.2) without running any of it.

Conventions: 16 kHz (v0) or 24 kHz (v1) mono, a frame every 320 samples, the first from 400 samples. Clips are
normalised to mean 0 and variance 1, whole, before windows are cut, as MARBLE's second code does for every MERT. The
hub's own files say so for v1-95M; they said otherwise earlier, and for v0-public still do; MARBLE's first code had it
off for v1-330M. It matters for quiet clips only: the group norm behind the first convolution takes gain away, down to
its epsilon.

`culturemert-95m` is MERT-v1-95M trained on with 650 hours of Greek, Turkish and Indian music: Kanatas et al., "CultureMERT",
ISMIR 2025, ntua-slp/CultureMERT-95M, CC BY-NC 4.0. Its configuration and preprocessor were not seen: it is assumed to be fed
as MERT-v1-95M is. A folder with another architecture, rate or one tensor more or less is refused.

`random-mert-95m` is the same graph with weights from a seed: what is left when nothing was learnt.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from marble_bench import Encode, Encoder, Source
from marble_bench.encoders import _hub, _random, _speech

BASE = _speech.Graph("hubert")
LARGE = _speech.Graph(
    "hubert",
    (
        ("hidden_size", 1024),
        ("num_hidden_layers", 24),
        ("num_attention_heads", 16),
        ("intermediate_size", 4096),
        ("do_stable_layer_norm", True),
        ("feat_extract_norm", "group"),
    ),
)
RANDOM_SEED = 0
_CITATION = "Li et al., MERT: Acoustic Music Understanding Model with Large-Scale Self-supervised Training, ICLR 2024"


def _encoder(
    name: str,
    hub: str,
    graph: _speech.Graph,
    sample_rate_hz: int,
    parameters: int,
    gflop_per_s: float,
    training_data: str,
    note: str,
    revision: str = "",
    digests: tuple[tuple[str, str], ...] = (),
    do_normalize: bool | None = None,
    citation: str = _CITATION,
) -> Encoder:
    # v0 is the oldest: nobody has seen its configuration, which may be of before MERT had a type of its own
    maker = _hub.Maker(sample_rate_hz, "mert_model" if revision else "", do_normalize)
    return Encoder(
        name=name,
        description=f"Masked prediction of acoustic and musical tokens ({hub})",
        sample_rate_hz=sample_rate_hz,
        layers=graph.layers(sample_rate_hz),
        load=partial(_speech.load, graph),
        license="CC-BY-NC-4.0",
        citation=citation,
        min_s=_speech.LEAST / sample_rate_hz,
        normalize="zscore",
        parameters=parameters,
        training_data=(training_data,),
        gflop_per_s=gflop_per_s,
        weights=Source(
            url=f"hf:{hub}",
            files=_hub.FILES,
            optional=(_hub.PREPROCESSOR_FILE,),
            revision=revision,
            digests=digests,
            note=note,
        ),
        convert=partial(_hub.convert, partial(_speech.prepare, graph, maker=maker)),
    )


def _load_random(weights: Path | None, device: str) -> Encode:
    model = _speech.build(BASE)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    _hub.fill(model, _random.draw(shapes, RANDOM_SEED))
    return _speech.encoding(model, device)


ENCODERS = (
    _encoder(
        "mert-95m", "m-a-p/MERT-v1-95M", BASE, 24000, 94_371_712, 22.9, "20,000 hours of the makers' own music",
        "its preprocessor says do_normalize true; an earlier one said false",
        revision="12af15fef9d0ac838c3f475bfbbf26d2060dd4f5",
        digests=(("pytorch_model.bin", "a2b8b747f72c06e0595aeae41ae5473f4364938c6b39b2c58be38c48e6bd3fcd"),
                 ("config.json", "ea2627c4c7825cd66f3c944b6b966331604c35928174e0100cd4a82829424e32"),
                 ("preprocessor_config.json", "cc5a5e4a5d3b1a758a5ed984b2eaa15bb0522d811d44a9eed82bfca4baa0dc8f")),
        do_normalize=True,
    ),
    _encoder(
        "mert-330m", "m-a-p/MERT-v1-330M", LARGE, 24000, 315_428_992, 59.5, "160,000 hours of the makers' own music",
        "no digest is known", revision="5240c2708a5acaee1007f43fb9735c7dcd0b78c9",
    ),
    _encoder(
        "mert-v0", "m-a-p/MERT-v0", BASE, 16000, 94_371_712, 14.8, "1,000 hours of the makers' own music",
        "its configuration was not seen",
    ),
    _encoder(
        "mert-v0-public", "m-a-p/MERT-v0-public", BASE, 16000, 94_371_712, 14.8, "Music4All",
        "its preprocessor says do_normalize false; here its clips are normalised, as MARBLE does",
        revision="e8413e398b3180ca488534aea68fd829402044a4",
        digests=(("pytorch_model.bin", "9b25bde740483579d9895f35d074a949f6593ef48449b6d76e26ee3c0e5e9acb"),),
        do_normalize=False,
    ),
    _encoder(
        "culturemert-95m", "ntua-slp/CultureMERT-95M", BASE, 24000, 94_371_712, 22.9,
        "650 hours of Lyra, Turkish-makam, Hindustani and Carnatic, after 20,000 hours of MERT's makers' own music",
        "its configuration was not seen: it is assumed to be fed as MERT-v1-95M is",
        citation="Kanatas et al., CultureMERT: Continual Pre-Training for Cross-Cultural Music Representation Learning, "
        "ISMIR 2025",
    ),
    Encoder(
        name="random-mert-95m",
        description="The graph of mert-95m with random weights: the floor under every trained encoder",
        sample_rate_hz=24000,
        layers=BASE.layers(24000),
        load=_load_random,
        license="MIT",
        citation="none",
        min_s=_speech.LEAST / 24000,
        normalize="zscore",
        parameters=94_371_712,
        gflop_per_s=22.9,
    ),
)  # fmt: skip
