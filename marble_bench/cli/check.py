"""Tries a plug-in the way a run would, and says what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench import audio
from marble_bench.core import contract
from marble_bench.core.encoder import Encode, Encoder, check_callable
from marble_bench.core.plugins import Named
from marble_bench.data import corpus
from marble_bench.data.checks import check_ends, check_frames, check_ids, measure
from marble_bench.data.examples import Examples, find
from marble_bench.errors import DataError, UsageError, counted
from marble_bench.features import fingerprint, frames, pooled
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
    there = find(named, root).examples
    target = there.truth(task.target)
    warnings = check_ids(there)
    shapes = measure(there.paths, whole=True, native_rate_hz=task.corpus.sample_rate_hz)
    if isinstance(task.target, Frames):
        if wrong := check_ends(task.target, there, shapes):
            raise DataError("\n  ".join([f"{counted(len(wrong), 'clip')} cannot be used:", *wrong[:10]]))
        warnings += check_frames(task.target, there)
    if empty := [split for split in there.list_empty_splits() if split in task.used_splits]:
        raise UsageError(f"the corpus of '{named.name}' in {root} has no clip in {', '.join(empty)}")
    what = "miniature" if corpus.is_mini(root) else "corpus"
    lines = [
        f"{named.name}: {task.title}",
        f"{what} {root}: {there.counts()} clips, truth {target.shape} {target.dtype}",
    ]
    lines.append(_describe_lengths(named, there, shapes))
    for split in task.used_splits:
        clip, rate = there.of(split).clips[0], task.corpus.sample_rate_hz
        waveform = audio.read(
            there.of(split).paths[0],
            sample_rate_hz=rate or 22050,
            start_s=clip.start_s,
            duration_s=clip.duration_s,
            native_rate_hz=rate,
        )
        length = len(waveform) / (rate or 22050)
        lines.append(f"{split}: {clip.id}, {length:.2f} s, target {_cut(repr(clip.target))}")
    return lines + [f"warning: {warning}" for warning in warnings]


def _cut(text: str) -> str:
    return text if len(text) <= MOST else f"{text[:MOST]}..."


def _describe_lengths(named: Named, there: Examples, shapes: Mapping[Path, audio.Shape | DataError]) -> str:
    """A line with the shortest and the longest clip. shapes: what each file holds.

    Raises DataError with the clips that cannot be opened, or are shorter than one window.
    """
    window, lengths, wrong = named.task.window, {}, []
    for clip, path in zip(there.clips, there.paths, strict=True):
        shape = shapes[path]
        if isinstance(shape, DataError):
            if named.task.corpus.find_known_fault(clip.audio) is None:
                wrong.append(str(shape))
            continue
        length_s = shape.length_s - clip.start_s if clip.duration_s is None else clip.duration_s
        if window.length_s is not None and (why := pooled.explain_no_window(length_s, window)):
            wrong.append(f"clip '{clip.id}' {why} ({path})")
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
    encode = check_callable(encoder.name, encoder.load(weights, device), encoder.masks)
    problems, warnings, lines = [], [], [f"{encoder.name}: {encoder.description}"]
    for length_s in sorted({encoder.min_s, min(30.0, encoder.max_s or 30.0)}):
        wrong, found = contract.try_on_noise(encoder, encode, device, length_s)
        problems += wrong
        lines.append(
            f"{length_s:.2f} s: "
            + ", ".join(f"{x.name} {tuple(v.shape)}" for x, v in zip(encoder.layers, found, strict=True))
        )
        warnings += [] if wrong else _find_out_of_range(encoder, found)
    if not problems:
        problems += _compare_second_load(encoder, encode, weights, device)
    contract.refuse(encoder.name, problems)
    return lines + [f"warning: {warning}" for warning in dict.fromkeys(warnings)]


def _find_out_of_range(encoder: Encoder, found: Sequence[torch.Tensor]) -> list[str]:
    """Warnings of layers whose means over time can be stored and whose frames cannot.

    found: by layer, `(windows, frames, width)`.
    """
    layers = [(encoder.layers[index], found[index]) for index in frames.find_framewise_layers(encoder.layers)]
    return [
        f"layer '{layer.name}' has frames beyond half precision ({contract.HALF_MAX:g}): a task that is asked frame by "
        "frame refuses them, others store means over time"
        for layer, values in layers
        if not float(frames.average_frames(values, layer).abs().max()) <= contract.HALF_MAX
    ]


def _compare_second_load(encoder: Encoder, encode: Encode, weights: Path | None, device: str) -> list[str]:
    """What is wrong if an encoder gives other features when it is loaded a second time."""
    first = fingerprint.compute(encoder, encode, device)
    found = fingerprint.compare(fingerprint.compute(encoder, encoder.load(weights, device), device), first)
    return [fingerprint.describe_unsteady(encoder.name, *found)] if found else []
