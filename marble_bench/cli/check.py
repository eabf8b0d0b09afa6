"""Tries a plug-in the way a run would, and says what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench import audio
from marble_bench.core import contract
from marble_bench.core.encoder import Encode, Encoder, ready
from marble_bench.core.plugins import Named
from marble_bench.core.task import SPLITS
from marble_bench.data import corpus
from marble_bench.data.checks import behind_the_end, check_frames, check_ids, measure
from marble_bench.errors import DataError, UsageError, counted
from marble_bench.features import fingerprint, frames
from marble_bench.scoring.targets import Frames

if TYPE_CHECKING:
    import torch

SHOWN = 10  # faults that a message lists
MOST = 200  # characters of a target: one of frames has thousands


def check_task(named: Named, cache: Path, data_dir: Path | None = None) -> list[str]:
    """Read a corpus's folder, else its miniature, with the task's own loader; decode a clip of each split.

    Lines of what was found.
    """
    task = named.task
    root = corpus.ensure_mini(task.corpus, cache) if data_dir is None else data_dir.expanduser()
    there = corpus.on_disk(named, root)
    target = task.target.encode([clip.target for clip in there.clips], [clip.id for clip in there.clips])
    marks = check_ids(there.clips)
    shapes = measure(there.paths, whole=True, native_rate_hz=task.corpus.sample_rate_hz)
    if isinstance(task.target, Frames):
        if wrong := behind_the_end(task.target, there.clips, there.paths, shapes):
            raise DataError("\n  ".join([f"{counted(len(wrong), 'clip')} cannot be used:", *wrong[:10]]))
        marks += check_frames(task.target, there.clips)
    counts = {split: sum(clip.split == split for clip in there.clips) for split in SPLITS}
    empty = [split for split, count in counts.items() if not count]
    if empty:
        raise UsageError(f"the corpus of '{named.name}' in {root} has no clip in {', '.join(empty)}")
    lines = [
        f"{named.name}: {task.title}",
        f"{'miniature' if corpus.is_mini(root) else 'corpus'} {root}: {counts} clips, truth {target.shape} {target.dtype}",
    ]
    lines.append(_lengths(named, there, shapes))
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
        lines.append(f"{split}: {clip.id}, {length:.2f} s, target {_cut(repr(clip.target))}")
    return lines + [f"mark: {mark}" for mark in marks]


def _cut(text: str) -> str:
    return text if len(text) <= MOST else f"{text[:MOST]}..."


def _lengths(named: Named, there: corpus.OnDisk, shapes: Mapping[Path, audio.Shape | DataError]) -> str:
    """A line with the shortest and the longest clip. shapes: what each file holds.

    Raises DataError with the clips that cannot be opened, or are shorter than one window.
    """
    window_s, lengths, wrong = named.task.window.length_s, {}, []
    for clip, path in zip(there.clips, there.paths, strict=True):
        shape = shapes[path]
        if isinstance(shape, DataError):
            if named.task.corpus.known_fault(clip.audio) is None:
                wrong.append(str(shape))
            continue
        length_s = shape.length_s - clip.start_s if clip.duration_s is None else clip.duration_s
        if window_s is not None and length_s < window_s - 1e-6:
            wrong.append(f"clip '{clip.id}' lasts {length_s:.3f} s, less than one window of {window_s:g} s ({path})")
        lengths[clip.id] = length_s
    if wrong:
        rest = f"\n  and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise DataError(f"{counted(len(wrong), 'clip')} cannot be used:\n  " + "\n  ".join(wrong[:SHOWN]) + rest)
    if not lengths:
        return "no clip can be opened but those with known faults"
    shortest, longest = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
    return f"lengths: {lengths[shortest]:.3f} s ({shortest}) to {lengths[longest]:.3f} s ({longest})"


def check_encoder(encoder: Encoder, weights: Path | None, device: str) -> list[str]:
    """Encode noise of the shortest window and of 30 s; compare layers, widths and rates with what is declared.

    Raises UsageError naming every difference once, also if features depend on what else is in the batch, or are others when
    the encoder is loaded a second time.
    """
    encode = ready(encoder.name, encoder.load(weights, device))
    problems, marks, lines = [], [], [f"{encoder.name}: {encoder.description}"]
    for length_s in sorted({encoder.min_s, min(30.0, encoder.max_s or 30.0)}):
        wrong, found = contract.tried(encoder, encode, device, length_s)
        problems += wrong
        lines.append(
            f"{length_s:.2f} s: "
            + ", ".join(f"{x.name} {tuple(v.shape)}" for x, v in zip(encoder.layers, found, strict=True))
        )
        marks += [] if wrong else _out_of_range(encoder, found)
    if not problems:
        problems += _loaded_again(encoder, encode, weights, device)
    contract.refuse(encoder.name, problems)
    return lines + [f"mark: {mark}" for mark in dict.fromkeys(marks)]


def _out_of_range(encoder: Encoder, found: Sequence[torch.Tensor]) -> list[str]:
    """Marks of layers whose means over time can be stored and whose frames cannot.

    found: by layer, `(windows, frames, width)`.
    """
    layers = [(encoder.layers[index], found[index]) for index in frames.framewise(encoder.layers)]
    return [
        f"layer '{layer.name}' has frames beyond half precision ({contract.HALF_MAX:g}): a task that is asked frame by "
        "frame refuses them, others store means over time"
        for layer, values in layers
        if not float(frames.averaged(values, layer).abs().max()) <= contract.HALF_MAX
    ]


def _loaded_again(encoder: Encoder, encode: Encode, weights: Path | None, device: str) -> list[str]:
    """What is wrong if an encoder gives other features when it is loaded a second time."""
    first = fingerprint.make(encoder, encode, device)
    found = fingerprint.differing(fingerprint.make(encoder, encoder.load(weights, device), device), first)
    return [fingerprint.unsteady(encoder.name, *found)] if found else []
