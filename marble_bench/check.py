"""Tries a plug-in the way a run would, and says what it found."""

from __future__ import annotations

from pathlib import Path

from marble_bench import audio, contract, corpus
from marble_bench.encoder import Encoder, ready
from marble_bench.errors import UsageError
from marble_bench.plugins import Named
from marble_bench.task import SPLITS


def check_task(named: Named, cache: Path, data_dir: Path | None = None) -> list[str]:
    """Read a corpus's folder, else its miniature, with the task's own loader; decode a clip of each split.

    Lines of what was found.
    """
    task = named.task
    root = corpus.ensure_mini(task.corpus, cache) if data_dir is None else data_dir.expanduser()
    there = corpus.on_disk(named, root)
    target = task.target.encode([clip.target for clip in there.clips], [clip.id for clip in there.clips])
    counts = {split: sum(clip.split == split for clip in there.clips) for split in SPLITS}
    empty = [split for split, count in counts.items() if not count]
    if empty:
        raise UsageError(f"the corpus of '{named.name}' in {root} has no clip in {', '.join(empty)}")
    lines = [
        f"{named.name}: {task.title}",
        f"{'miniature' if corpus.is_mini(root) else 'corpus'} {root}: {counts} clips, truth {target.shape} {target.dtype}",
    ]
    for split in SPLITS:
        at = next(index for index, clip in enumerate(there.clips) if clip.split == split)
        clip, rate = there.clips[at], task.corpus.sample_rate_hz
        waveform = audio.read(
            there.paths[at],
            sample_rate_hz=rate or 22050,
            start_s=clip.start_s,
            duration_s=clip.duration_s,
            native_rate_hz=rate,
        )
        length = len(waveform) / (rate or 22050)
        if task.window.length_s is not None and length < task.window.length_s:
            raise UsageError(f"clip '{clip.id}' has {length:.2f} s, less than one window of {task.window.length_s} s")
        lines.append(f"{split}: {clip.id}, {length:.2f} s, target {clip.target!r}")
    return lines


def check_encoder(encoder: Encoder, weights: Path | None, device: str) -> list[str]:
    """Encode noise of the shortest window and of 30 s; compare layers, widths and rates with what is declared.

    Raises UsageError naming every difference once, also if features depend on what else is in the batch.
    """
    encode = ready(encoder.name, encoder.load(weights, device))
    problems, lines = [], [f"{encoder.name}: {encoder.description}"]
    for length_s in sorted({encoder.min_s, min(30.0, encoder.max_s or 30.0)}):
        found, frames = contract.tried(encoder, encode, device, length_s)
        problems += found
        lines.append(
            f"{length_s:.2f} s: "
            + ", ".join(f"{x.name} {tuple(v.shape)}" for x, v in zip(encoder.layers, frames, strict=True))
        )
    contract.refuse(encoder.name, problems)
    return lines
