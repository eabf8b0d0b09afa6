"""The pages that are made from declarations: `python -m marble_bench.cli.docs [encoders] > docs/tasks.md`."""

from __future__ import annotations

import sys

from marble_bench.core import plugins
from marble_bench.core.encoder import NOT_STATED, Encoder
from marble_bench.core.task import SPLITS

HEAD = """# Tasks

`python -m marble_bench.cli.docs > docs/tasks.md` makes this page from the task files, and a test compares the two. The head
of each file in `tasks/` explains the task, its sources, conventions and departures.

"""


def write_tasks_page() -> str:
    """The table of every task and the list of corpora, as Markdown."""
    rows = [
        "| task | asks | labels | scores (main first) | clips: train / valid / test | windows | corpus |",
        "|---|---|---|---|---|---|---|",
    ]
    corpora = {}
    for name in plugins.list_task_names():
        task = plugins.find_task(name).task
        corpora[task.corpus.name] = task.corpus
        window = "whole clip" if task.window.length_s is None else f"{task.window.length_s:g} s"
        window += "" if task.window.first_s is None else f" of the first {task.window.first_s:g} s"
        scores = [metric.name for metric in task.metrics]
        scores += [f"{scores[0]}_ensemble"] if task.ensemble else []
        scores += [f"{scores[0]}_{task.group_name}"] if task.group_name else []
        counts = " / ".join(f"{task.counts[split]:,}" for split in SPLITS)
        kind = f"{task.target.width} {type(task.target).__name__.lower()}"
        cells = (f"`{name}`", task.title, kind, ", ".join(scores), counts, window, task.corpus.title)
        rows.append(f"| {' | '.join(cells)} |")
    lines = [*rows, "", "## Corpora", ""]
    for name in sorted(corpora):
        corpus = corpora[name]
        lines += [f"**{corpus.title}** (`{name}`), {corpus.license}. {corpus.citation}. On disk: {corpus.layout}."]
        lines += [f"- {s.status}: <{s.url}>" + (f" ({s.note})" if s.note else "") for s in corpus.sources]
        lines += [f"- known fault: `{fault.audio}`: {fault.what}" for fault in corpus.faults]
        lines.append("")
    return HEAD + "\n".join(lines)


ENCODERS_HEAD = """# Encoders

`python -m marble_bench.cli.docs encoders > docs/encoders.md` makes this page from the encoder files, and a test
compares the two. The head of each file in `marble_bench/encoders/` explains the encoder, its sources, conventions and
departures.

Weights are never shipped with the suite. `bench models get NAME` downloads them from their makers. `bench models ls`
lists the weights on this machine, and `bench models verify` reads them again and compares their digests. `--weights
PATH` takes your own file or folder; for a model of the hub, this is its folder (`config.json` with `model.safetensors`
or `pytorch_model.bin`). The suite reads only tensors and never runs code from the hub. A record holds the downloaded
commit and the digest of the weights.

A model of the hub is downloaded at the commit that stands here. Every file is compared with the digest that the hub
states, and with the digest that stands here if one is known. For an unpinned model the first download counts: later
downloads must give the same files, or the same tensors in another kind of file. `config.json` and
`preprocessor_config.json` are compared with the declaration, for your own folder too: a model of another kind,
architecture, sampling rate or normalisation is refused. A single file of tensors has no configuration; then only names
and shapes are compared, and a message says so. A gated model needs `HF_TOKEN`.

Features are computed in float32. Lower precision costs accuracy. With the network of MERT-95M, random weights and 5 s
of audio on a CPU, the errors were: with bfloat16 everywhere, 1.2 to 1.5 % in single frames and 0.5 to 1.5 % in means
over time; with half precision, 0.1 to 0.2 % and 0.1 to 0.2 %; with bfloat16 autocast, 0.9 to 1.3 % and 0.4 to 1.3 %.

The normalisation `zscore` removes gain and offset over the whole clip, `peak` removes gain, and `none` leaves the
waveform unchanged. GFLOP are multiplications and additions per second of audio. PyTorch's FlopCounterMode counted them
on 10 s (convolutions and matrix products; on 30 s if the model accepts no less). A dash means that nobody has counted
them.

Training data matters if an encoder was trained on the corpus of a task: its score there says nothing about new music.

Encoders are grouped by family, here and in `bench list models`: the first word of the name of the file that they are in.

Any audio model of transformers runs [by its id](hub-models.md). A few encoders here have other layers than the same
architecture has by id: see [the table](hub-models.md#the-same-architecture-by-name-and-by-id).

"""

LEFT_OUT = """
## Left out

- OMAR-RQ: its code is AGPL-3.0, so that it was not opened for a port, and its package needs transformers below 5. What is
  known of it otherwise leaves open which activations its blocks have and which scale of the waveform each published model
  takes, and there is nothing to compare a port with.
- MAEST: its code is AGPL-3.0, so that it was not opened for a port, and its package needs torchaudio, which has no release
  for the PyTorch used here. What is known of it otherwise leaves open how its spectrogram is windowed and padded, and there
  is nothing to compare a port with.
- X-codec as MARBLE used it (m-a-p/xcodec): a pickled checkpoint with code of its own and no licence.
- AudioMAE and wav2clip: not in the published tables.
"""


def write_encoders_page() -> str:
    """The table of every encoder and a section on each, as Markdown."""
    rows = [
        "| family | encoder | rate | layers | frames per second | parameters | GFLOP/s | takes | clip is normalised by | "
        "licence |",
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
            f"{encoder.description}. {encoder.citation}.",
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
        files += "".join(f", {name} where it is there" for name in source.optional)
        for folder, other in source.beside:
            others = " and ".join(entry.replace("|", " or ") for entry in other.files)
            files += f", beside it in {folder}: {others} of `{other.url}` at {other.revision}"
        pin = f" at {source.revision}" if source.revision and not source.url.startswith("pypi:") else ""
        if source.pin == "unpinned" and source.status == "public":
            pin += " (unpinned: the first download counts; its digests and commit are stored)"
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
