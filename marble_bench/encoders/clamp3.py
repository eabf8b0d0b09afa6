"""CLaMP 3, the audio side: music, scores and text brought together; one vector for a window.

Source: Wu et al., "CLaMP 3: Universal Music Information Retrieval Across Unaligned Modalities and Unseen Languages",
Findings of ACL 2025; sander-wood/clamp3 on the hub. Its code is MIT; a licence of the weights is not stated. It hears
through MERT-v1-95M, which is fetched beside it (see `mert`).

Conventions, as in the authors' script with `--mean_features`: 24 kHz mono, normalised whole; cut into pieces of 5 s, of
which a last one below a second is dropped; of each piece the mean over time and over MERT's 13 states is one row. A row of
zeros before and one behind, then a BERT of 12 layers, at most 128 rows at once. Of more rows, the last segment is the last
128, and a segment counts by the rows that no other has. The mean over rows is projected; nothing is divided by its norm.

Departs from the authors: they encode whole files, this suite the windows of a task, of which the whole file may be one.

Layers: `0` to `12`, what goes into the BERT's first layer and comes out of each, each the mean over a window's rows, the two
of zeros among them, as the authors average the last; `projection`, in the space that is shared with text and scores. There
is no axis of time: tasks that ask frame by frame are refused.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, Source
from marble_bench.encoders import _hub, _speech, mert
from marble_bench.encoders._hooks import Tap, collect
from marble_bench.errors import DataError

if TYPE_CHECKING:
    import torch

SAMPLE_RATE_HZ = 24000
PIECE = 5 * SAMPLE_RATE_HZ  # samples: one row
ROWS = 128  # that the BERT takes at once
FILE = (
    "weights_clamp3_saas_h_size_768_t_model_FacebookAI_xlm-roberta-base_t_length_128_a_size_768_a_layers_12_a_length_128"
    "_s_size_768_s_layers_12_p_size_64_p_length_512.pth"
)
MERT_FOLDER = "MERT-v1-95M"
BERT, PROJECTION, MERT = "audio_model.", "audio_proj.", "mert."  # what tensors are called; MERT's are so only here
GRAPH: dict[str, Any] = {
    "vocab_size": 1,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": ROWS,
}


def build(graph: dict[str, Any]) -> torch.nn.ModuleDict:
    """The BERT and the projection with weights that are to be replaced."""
    import torch
    from transformers import BertConfig, BertModel

    width = graph["hidden_size"]
    told: Any = BertConfig  # it does not name all of its keywords
    with torch.random.fork_rng(devices=[]):  # it draws weights: nobody else's numbers move for that
        bert = BertModel(told(**graph, attn_implementation="sdpa"))
        return torch.nn.ModuleDict({"audio_model": bert, "audio_proj": torch.nn.Linear(width, width)})


def convert(graph: dict[str, Any], of_mert: _speech.Graph, found: Path, path: Path) -> None:
    """Keep the audio side of the authors' file, and of the folder beside it MERT."""
    if not (found / FILE).is_file() or not (found / MERT_FOLDER).is_dir():
        raise DataError(f"{found} is no folder with {FILE} and beside it a folder {MERT_FOLDER} of m-a-p/MERT-v1-95M")
    tensors = _hub.unpickled(found / FILE, inside="model")
    kept = {
        name: each
        for name, each in tensors.items()
        if name.startswith((BERT, PROJECTION)) and not name.endswith("position_ids")
    }
    _hub.fill(build(graph), kept)
    maker = _hub.Maker(SAMPLE_RATE_HZ, "mert_model", do_normalize=True)
    _, heard = _speech.prepare(of_mert, *_hub.read(found / MERT_FOLDER), maker=maker)
    _hub.save({}, {**kept, **{MERT + name: each for name, each in heard.items()}}, path)


def load(graph: dict[str, Any], of_mert: _speech.Graph, weights: Path | None, device: str) -> Encode:
    """`encode` with converted weights."""
    import torch

    assert weights is not None
    _, tensors = _hub.load(weights)
    hearing = _speech.build(of_mert)
    _hub.fill(hearing, {name.removeprefix(MERT): each for name, each in tensors.items() if name.startswith(MERT)})
    states_of = _speech.encoding(hearing, device)
    model: Any = build(graph)
    _hub.fill(model, {name: each for name, each in tensors.items() if not name.startswith(MERT)})
    model = _hub.frozen(model, device)
    inner = model["audio_model"].encoder.layer
    taps: list[Tap] = [(inner[0], "in"), *((layer, "out") for layer in inner)]

    def encode(waveforms: torch.Tensor, pool: Pool) -> list[torch.Tensor]:
        of_segments = []
        for segment, share in cut_segments(hear_rows(waveforms, states_of)):
            run = partial(model["audio_model"], inputs_embeds=segment)
            of_segments.append([share * mean for mean in collect(taps, run, _mean_over_time)])
        means = [torch.stack(layer).sum(dim=0) for layer in zip(*of_segments, strict=True)]
        return [pool(vector[:, None]) for vector in (*means, model["audio_proj"](means[-1]))]

    return encode


def hear_rows(waveforms: torch.Tensor, states_of: Encode) -> torch.Tensor:
    """`(windows, samples)`, at least 1 s -> `(windows, rows, width)`: MERT's mean of each piece, between rows of zeros."""
    import torch

    pieces = [each for each in torch.split(waveforms, PIECE, dim=1) if each.shape[1] >= SAMPLE_RATE_HZ]
    heard = [torch.stack(list(states_of(piece, _mean_over_time))).mean(dim=0) for piece in pieces]
    zeros = torch.zeros_like(heard[0])
    return torch.stack([zeros, *heard, zeros], dim=1)


def _mean_over_time(frames: torch.Tensor) -> torch.Tensor:
    return frames.mean(dim=1)


def cut_segments(rows: torch.Tensor) -> list[tuple[torch.Tensor, float]]:
    """`(windows, rows, width)` in segments of at most 128 rows, each with its share of the whole.

    The last of several is the last 128 rows, and counts by the rows that no other has.
    """
    count = rows.shape[1]
    starts = range(0, count, ROWS)
    segments = [rows[:, start : start + ROWS] for start in starts]
    segments[-1] = rows[:, -ROWS:]
    return [(segment, min(ROWS, count - start) / count) for segment, start in zip(segments, starts, strict=True)]


def describe_layers(graph: dict[str, Any]) -> tuple[Layer, ...]:
    """The BERT's states and the projection, one vector a window."""
    names = [*(str(index) for index in range(graph["num_hidden_layers"] + 1)), "projection"]
    return tuple(Layer(name, graph["hidden_size"]) for name in names)


_MERT = mert.ENCODERS[0].weights
assert _MERT is not None  # those of mert-95m
ENCODERS = (
    Encoder(
        name="clamp3",
        description="Contrastive pretraining on music, scores and text, the audio side, on MERT-v1-95M",
        sample_rate_hz=SAMPLE_RATE_HZ,
        layers=describe_layers(GRAPH),
        load=partial(load, GRAPH, mert.BASE),
        license="not stated",
        citation="Wu et al., CLaMP 3: Universal Music Information Retrieval Across Unaligned Modalities and Unseen "
        "Languages, Findings of ACL 2025",
        min_s=1.0,
        normalize="zscore",
        parameters=94_371_712 + 86_337_792,
        training_data=("M4-RAG, the authors' own pairs of music and text", "20,000 hours of MERT's makers' own music"),
        gflop_per_s=22.0,
        weights=Source(
            url="hf:sander-wood/clamp3",
            files=(FILE,),
            revision="791815a04a3a2bd9ab64cf590ba8307930c179e6",
            digests=((FILE, "5033f868e3977be3945ee416b5a1718d5589a173c7ba8982231d8c94a6441d80"),),
            note="2.6 GB, of which the audio side is kept; the weights' licence is not stated",
            beside=((MERT_FOLDER, _MERT),),
        ),
        convert=partial(convert, GRAPH, mert.BASE),
    ),
)
