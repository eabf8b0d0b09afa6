"""The documents that are made of declarations: `python -m marble_bench.catalogue > docs/tasks.md`."""

from __future__ import annotations

from marble_bench import plugins
from marble_bench.task import SPLITS

HEAD = """# Tasks

Made from the task files by `python -m marble_bench.catalogue > docs/tasks.md`; a test compares. What each one means, its
sources, conventions and departures stand at the head of its file in `tasks/`.

"""


def tasks_page() -> str:
    """The table of every task and the list of corpora, as Markdown."""
    rows = [
        "| task | asks | labels | scores (main first) | clips: train / valid / test | windows | corpus |",
        "|---|---|---|---|---|---|---|",
    ]
    corpora = {}
    for name in plugins.task_names():
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


if __name__ == "__main__":
    print(tasks_page(), end="")
