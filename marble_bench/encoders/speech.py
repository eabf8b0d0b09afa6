"""Encoders in the graphs of speech models: trained on speech, which the tables hold against music, and on music.

Sources: Hsu et al., HuBERT, TASLP 2021; Baevski et al., wav2vec 2.0, NeurIPS 2020, and data2vec, ICML 2022 (weights of
facebook on the hub, Apache-2.0); Li et al., MAP-Music2Vec, ISMIR 2022 late breaking (m-a-p/music2vec-v1, CC BY-NC 4.0:
a data2vec on music). All at 16 kHz mono, a frame every 320 samples, clips normalised to mean 0 and variance 1 whole, as
MARBLE does.

`hubert-music` and `data2vec-music` are in MARBLE's table; their weights were never published. Who has such a model in
the hub's form gives its folder by --weights.
"""

from __future__ import annotations

from functools import partial

from marble_bench import Encoder, Source
from marble_bench.encoders import _hub, _speech

SAMPLE_RATE_HZ = 16000
HUBERT, WAV2VEC2, DATA2VEC = (_speech.Graph(family) for family in ("hubert", "wav2vec2", "data2vec-audio"))
_HUBERT = "Hsu et al., HuBERT: Self-Supervised Speech Representation Learning by Masked Prediction, TASLP 2021"
_DATA2VEC = "Baevski et al., data2vec: A General Framework for Self-supervised Learning, ICML 2022"
_WAV2VEC2 = "Baevski et al., wav2vec 2.0: A Framework for Self-Supervised Learning of Speech, NeurIPS 2020"
_MUSIC2VEC = "Li et al., MAP-Music2Vec: A Simple and Effective Baseline for Self-Supervised Music, ISMIR LBD 2022"
_MARBLE = "Yuan et al., MARBLE: Music Audio Representation Benchmark for Universal Evaluation, NeurIPS 2023"


def _encoder(
    name: str,
    graph: _speech.Graph,
    hub: str,
    description: str,
    license: str,
    citation: str,
    training_data: str,
    revision: str = "",
    digests: tuple[tuple[str, str], ...] = (),
    do_normalize: bool | None = None,
) -> Encoder:
    maker = _hub.Maker(SAMPLE_RATE_HZ, graph.family, do_normalize)
    data2vec = graph == DATA2VEC
    return Encoder(
        name=name,
        description=description,
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=graph.layers(SAMPLE_RATE_HZ),
        load=partial(_speech.load, graph),
        license=license,
        citation=citation,
        min_s=_speech.LEAST / SAMPLE_RATE_HZ,
        normalize="zscore",
        parameters=93_164_288 if data2vec else 94_371_712,
        training_data=(training_data,),
        gflop_per_s=14.7 if data2vec else 14.8,
        weights=_public(hub, revision, digests) if hub else _unpublished(name),
        convert=partial(_hub.convert, partial(_speech.prepare, graph, maker=maker)),
    )


def _public(hub: str, revision: str, digests: tuple[tuple[str, str], ...]) -> Source:
    """Weights on the hub."""
    return Source(
        url=f"hf:{hub}",
        files=_hub.FILES,
        optional=(_hub.PREPROCESSOR_FILE,),
        revision=revision,
        digests=digests,
    )


def _unpublished(name: str) -> Source:
    """Weights that only the model's makers have."""
    return Source(
        url=f"unpublished:{name}",
        files=_hub.FILES,
        optional=(_hub.PREPROCESSOR_FILE,),
        status="dead",
        note=f"they were never published: get a folder with {_hub.NEEDED} from the model's makers",
    )


_SPEECH = "LibriSpeech"
ENCODERS = (
    _encoder(
        "music2vec", DATA2VEC, "m-a-p/music2vec-v1", "data2vec on music", "CC-BY-NC-4.0", _MUSIC2VEC,
        "1,000 hours of the makers' own music",
    ),
    _encoder(
        "data2vec-audio", DATA2VEC, "facebook/data2vec-audio-base", "data2vec on speech", "Apache-2.0", _DATA2VEC, _SPEECH
    ),
    _encoder(
        "hubert-base", HUBERT, "facebook/hubert-base-ls960", "HuBERT on speech", "Apache-2.0", _HUBERT, _SPEECH,
        revision="dba3bb02fda4248b6e082697eee756de8fe8aa8a",
        digests=(("pytorch_model.bin", "062249fffb353eab67547a2fbc129f7c31a2f459faf641b19e8fb007cc5c48ad"),),
        do_normalize=True,
    ),
    _encoder(
        "wav2vec2-base", WAV2VEC2, "facebook/wav2vec2-base", "wav2vec 2.0 on speech", "Apache-2.0", _WAV2VEC2, _SPEECH,
        revision="0b5b8e868dd84f03fd87d01f9c4ff0f080fecfe8",
        digests=(("pytorch_model.bin", "3249fe98bfc62fcbc26067f724716a6ec49d12c4728a2af1df659013905dff21"),),
        do_normalize=True,
    ),
    _encoder("hubert-music", HUBERT, "", "HuBERT on music, as MARBLE trained it", "not published", _MARBLE, "not stated"),
    _encoder(
        "data2vec-music", DATA2VEC, "", "data2vec on music, as MARBLE trained it", "not published", _MARBLE, "not stated"
    ),
)  # fmt: skip
