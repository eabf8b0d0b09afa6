"""The pages that are made from declarations: `python -m marble_bench.cli.docs [encoders] > docs/tasks.md`."""

from __future__ import annotations

import sys

from marble_bench.core import plugins
from marble_bench.core.encoder import NOT_STATED, Encoder
from marble_bench.core.task import SPLITS

HEAD = """# Tasks

Each task is a file in `tasks/`. The text at its beginning gives the sources and conventions of the task, and says
where it differs from the published one. `Corpora` below says where to download the audio. A source is `public`,
`gated` (you need an account or the makers' permission), `dead` (no longer online), or `unread` (exists, but in a form
that the suite does not read).

This page is generated: `python -m marble_bench.cli.docs > docs/tasks.md`.

"""


def write_tasks_page() -> str:
    """The table of every task and the list of corpora, as Markdown."""
    rows = [
        "| task | question | labels | scores (main first) | clips: train / valid / test | windows | corpus |",
        "|---|---|---|---|---|---|---|",
    ]
    corpora = {}
    for name in plugins.list_task_names():
        task = plugins.find_task(name).task
        corpora[task.corpus.name] = task.corpus
        window = "whole clip" if task.window.length_s is None else f"{task.window.length_s:g} s"
        window += "" if task.window.first_s is None else f" of the first {task.window.first_s:g} s"
        window += "" if task.window.min_ratio is None else f", padded from {task.window.min_ratio:g} of one on"
        scores = [metric.name for metric in task.metrics]
        scores += [f"{scores[0]}_ensemble"] if task.ensemble else []
        scores += [f"{scores[0]}_{task.group_name}"] if task.group_name else []
        counts = ("at most " if task.open_list else "") + " / ".join(f"{task.counts[split]:,}" for split in SPLITS)
        kind = "works" if task.ranks else f"{task.target.width} {type(task.target).__name__.lower()}"
        cells = (f"`{name}`", task.title, kind, ", ".join(scores), counts, window, task.corpus.title)
        rows.append(f"| {' | '.join(cells)} |")
    lines = [*rows, "", RETRIEVAL, "## Corpora", ""]
    for name in sorted(corpora):
        corpus = corpora[name]
        lines += [f"**{corpus.title}** (`{name}`), {corpus.license}. {corpus.citation}. On disk: {corpus.layout}."]
        lines += [f"- {s.status}: <{s.url}>" + (f" ({s.note})" if s.note else "") for s in corpus.sources]
        lines += [f"- known fault: `{fault.audio}`: {fault.what}" for fault in corpus.faults]
        lines.append("")
    return HEAD + "\n".join(lines)


RETRIEVAL = """## Retrieval

Tasks with works as labels ask which recordings are versions of the same work. They run under the protocol
[`retrieval`](protocols.md#retrieval), which trains no probe. `bench run` takes it for them unless `--protocol` says
otherwise; a task under a protocol that cannot run it is refused by name.

- Every recording is a query and ranks all others of its split by the cosine of their features. The features are pooled over
  time, averaged over the windows of a recording, and scaled to length 1. A query is left out of its own ranking by its id.
  Ties are broken by a number drawn from the ids, so equal features give chance.
- `map` is the main score. `mr1` is the mean rank of the first right recording (lower is better), `p_at_10` the number of
  right recordings among the first ten, divided by ten, `hit_at_1` the share of queries whose nearest recording is right,
  and `r_precision` the share of right recordings among the first R, where R are right. `map_centred` and `map_whitened` use
  features less the mean of other recordings, and also scaled by their shrunk covariance; they are never the main score.
- The trivial score is that of a random order. It is computed by an exact formula: for 80 pairs it is 0.0355 (`map`), 80.0
  (`mr1`) and 0.0063 (`p_at_10`).
- Queries whose work has no other recording have no value and are counted (`retrieval.left_out`). Of files of one work
  with the same bytes the first by id is used (`retrieval.copies`). Pairs of recordings with a cosine above 0.9999 are
  named in a warning.
- Intervals draw works. The ranked recordings stay as they are, so an interval says how sure a score is for other queries of
  such a collection, and not for other collections.
"""
ENCODERS_HEAD = """# Encoders

These encoders have a name in the suite. Most other audio models of transformers run [by their id](hub-models.md). If
an architecture runs both ways, its layers [can differ](hub-models.md#the-same-architecture-by-name-and-by-id).

**Weights.** The suite contains no weights. `bench models get NAME` downloads them from their makers, and `bench
models ls` lists those on your machine. `bench models verify` reads them again and compares their digests. `--weights
PATH` takes your own file or folder. For a model of the hub, pass a folder with `config.json` and `model.safetensors`
or `pytorch_model.bin`. The suite reads only tensors and never runs code from the hub. If a model is gated, accept its
terms on the hub and set `HF_TOKEN`.

**Checks.** The list below gives the commit and, if known, the digests of each download. The suite compares every file
with them. If an encoder is `unpinned`, later downloads must have the same files or tensors as the first one. The
suite also compares the model's configuration with the encoder's declaration. It refuses a model with another
architecture, sampling rate or normalisation. A record holds the commit and the digest of the weights.

**The columns.** A family is a group of encoders that share code. `13 x 768` means 13 layers of width 768. `takes` is
the length of a window that the encoder accepts. `clip is normalised by` is `zscore` (mean 0 and variance 1 over the
whole clip), `peak` (largest magnitude 1) or `none`. GFLOP/s are billions of multiplications and additions for each
second of audio, in convolutions and matrix products. PyTorch's FlopCounterMode counted them on 10 s of audio, or on
30 s if the model needs it. A dash means that they were not counted.

**Training data.** If an encoder was trained on the corpus of a task, its score on this task says little about new
music.

**Precision.** By default, features are computed in float32. Lower precision is less accurate. The table shows
relative errors with the network of MERT-95M, random weights and 5 s of audio on a CPU:

| precision | single frames | means over time |
|---|---|---|
| bfloat16 everywhere | 1.2 to 1.5 % | 0.5 to 1.5 % |
| half precision | 0.1 to 0.2 % | 0.1 to 0.2 % |
| bfloat16 autocast | 0.9 to 1.3 % | 0.4 to 1.3 % |

This page is generated from the files in `marble_bench/encoders/`: `python -m marble_bench.cli.docs encoders >
docs/encoders.md`. The text at the beginning of each file gives its sources and conventions.

"""

LEFT_OUT = """
## Left out

These encoders are not in the suite:

- **OMAR-RQ.** Its code has the licence AGPL-3.0, so nobody read it to write an encoder for this suite. Its package
  needs transformers below 5. Public descriptions do not say which activation functions its blocks use, nor how each
  model scales the waveform.
- **MAEST.** Its code has the licence AGPL-3.0, so nobody read it to write an encoder for this suite. Its package
  needs torchaudio, which has no release for the PyTorch used here. Public descriptions do not say how its spectrogram
  is windowed and padded.
- **X-codec** as MARBLE used it (m-a-p/xcodec). It is a pickled checkpoint with its own code and without a licence.
- **AudioMAE and wav2clip.** They are not in the published tables.

"""


def write_encoders_page() -> str:
    """The table of every encoder and a section on each, as Markdown."""
    rows = [
        "| family | encoder | sampling rate | layers | frames per second | parameters | GFLOP/s | takes | "
        "clip is normalised by | licence |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    sections = []
    families = plugins.families()
    for encoder in sorted(plugins.find_encoders().values(), key=lambda each: families[each.name]):
        cost = "-" if encoder.gflop_per_s is None else f"{encoder.gflop_per_s:g}"
        takes = f"from {encoder.min_s:.3g} s" + ("" if encoder.max_s is None else f" to {encoder.max_s:g} s")
        cells = (
            families[encoder.name],
            f"`{encoder.name}`",
            f"{encoder.sample_rate_hz:,} Hz",
            _describe_layers(encoder),
            _describe_rates(encoder),
            f"{encoder.parameters:,}" if encoder.parameters else "-",
            cost,
            takes,
            encoder.normalize,
            encoder.license,
        )
        rows.append(f"| {' | '.join(cells)} |")
        sections += [
            f"## {encoder.name}",
            "",
            f"{encoder.description}." + ("" if encoder.citation == "none" else f" {encoder.citation}."),
            "",
            *_list_facts(encoder),
            "",
        ]
    return ENCODERS_HEAD + "\n".join([*rows, "", *sections]).rstrip() + "\n" + LEFT_OUT


def _describe_layers(encoder: Encoder) -> str:
    """`13 x 768` for a stack of one width, else every layer with its own."""
    widths = {layer.width for layer in encoder.layers}
    if len(widths) == 1:
        return f"{len(encoder.layers)} x {widths.pop()}"
    return ", ".join(f"{layer.name} {layer.width}" for layer in encoder.layers)


def _describe_rates(encoder: Encoder) -> str:
    rates = dict.fromkeys(layer.frame_rate_hz for layer in encoder.layers)
    return ", ".join("one vector" if rate is None else f"{rate:.4g}" for rate in rates)


def _list_facts(encoder: Encoder) -> list[str]:
    """A line each: where weights are downloaded from, what they were trained on, how layers are called."""
    source, lines = encoder.weights, []
    if source is None:
        lines.append("- weights: none" + ("" if not encoder.parameters else ", drawn from a seed"))
    else:
        files = " and ".join(entry.replace("|", " or ") for entry in source.files)
        files += "".join(f", {name} (optional)" for name in source.optional)
        for folder, other in source.beside:
            others = " and ".join(entry.replace("|", " or ") for entry in other.files)
            files += f", beside it in {folder}: {others} of `{other.url}` at {other.revision}"
        pin = f" at {source.revision}" if source.revision and not source.url.startswith("pypi:") else ""
        if source.pin == "unpinned" and source.status == "public":
            pin += " (unpinned)"
        digest = f", sha256 {source.sha256}" if source.sha256 else ""
        for name, known in source.digests:
            digest += f", {name} {'sha256' if len(known) == 64 else 'git id'} {known}"
        note = f" ({source.note})" if source.note else ""
        lines.append(
            f"- weights: {source.status}, `{source.url}`{pin}" + (f": {files}" if files else "") + digest + note
        )
        lines.append(f"- trained on: {', '.join(encoder.training_data) or NOT_STATED}")
    names = [layer.name for layer in encoder.layers]
    span = f"{names[0]} to {names[-1]}" if names == [str(index) for index in range(len(names))] else ", ".join(names)
    return [*lines, f"- layers: {span}"]


if __name__ == "__main__":
    print(write_encoders_page() if sys.argv[1:] == ["encoders"] else write_tasks_page(), end="")
