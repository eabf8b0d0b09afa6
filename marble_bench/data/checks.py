"""Looks at features and labels before probes are trained on them: what no score may come of, and what is only odd."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from marble_bench import audio
from marble_bench.audio import Shape
from marble_bench.core.task import SPLITS, Clip
from marble_bench.data.examples import Examples
from marble_bench.errors import DataError, counted, listing
from marble_bench.scoring.targets import Classes, Events, Frames, MaskedTags, Scalars, Tags

if TYPE_CHECKING:
    from marble_bench.features.types import Features
    from marble_bench.metrics import Metric
    from marble_bench.scoring.targets import Target

FEW = 5  # test clips with a tag: the simulated intervals that leave 95 +- 2 have tags on fewer (docs/statistics.md)
ROUGH = "its interval is rough"  # so a warning says it, and a board finds it
ROUGH_FORM = re.compile(rf"{ROUGH}, since fewer than {FEW} (?:groups of )?test clips carry (.+?)(?: and \d+ more)?")
EARLY = 0.5  # of a clip; a file of labels that ends sooner is perhaps cut off
GAP = 1.7  # periods between events of which one may lack; 9 of GTZAN's 999 tracks have such a gap
ROWS = 8192  # windows at once: a layer may be larger than the memory


def check_splits(found: Examples, task: str) -> None:
    """Raise DataError naming the splits that have no clip."""
    if empty := found.list_empty_splits():
        raise DataError(f"no clip is left in the {' and '.join(empty)} split of task '{task}'")


def check_features(features: Features, found: Examples) -> list[str]:
    """Warnings of layers that are the same for every clip. Raises DataError with all layers that have NaN or infinity."""
    import numpy as np

    bad, warnings = [], []
    for name, layer in zip(features.names, features.layers, strict=True):
        sound, low, high = [], np.inf, -np.inf
        for start in range(0, len(layer), ROWS):
            part = np.asarray(layer[start : start + ROWS])
            if part.dtype == np.float16:  # exact, and half precision is compared several times as slowly
                part = part.astype(np.float32)
            sound.append(np.isfinite(part).all(axis=1))
            low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
        wrong = [found.ids[index] for index in np.unique(features.clip[~np.concatenate(sound)])]
        if wrong:
            bad.append(f"layer '{name}' has NaN or infinity in {len(wrong)} of {len(found)} clips: {listing(wrong)}")
        elif np.array_equal(low, high):
            warnings.append(f"layer '{name}' is constant: it is the same for every clip")
    if bad:
        raise DataError("\n".join([*bad, "Compute the features of these clips again; no probe can be trained on them"]))
    return warnings


def check_labels(target: Target, found: Examples) -> list[str]:
    """Warnings of classes that a split lacks, of tags that no training clip carries, and of numbers that are the same for
    all clips."""
    warnings = []
    for split in SPLITS:
        own = found.of(split)
        if isinstance(target, Scalars) and split != "train":
            columns = own.truth(target).T
            warnings += [
                f"every {split} clip has the same {name}, {values[0]:g}: what compares clips by it has no value"
                for name, values in zip(target.names, columns, strict=True)
                if (values == values[0]).all()
            ]
            continue
        if isinstance(target, Classes):
            held = set(own.targets)
        elif isinstance(target, Tags) and split == "train":  # valid and test need all tags, or have no score
            held = {name for tags in own.targets for name in tags}
        elif isinstance(target, MaskedTags) and split == "train":
            held = {name for judged in own.targets for name, holds in judged.items() if holds}
        else:
            continue
        absent = [name for name in target.names if name not in held]
        if absent:
            kind = "labelled" if isinstance(target, Classes) else "tagged"
            warnings.append(f"no {split} clip is {kind} {listing(absent)}")
    return warnings


def check_ids(found: Examples) -> list[str]:
    """A warning of clips whose number is out of order where all others ascend: it may have been changed, and no list
    would tell."""
    if not all(each.isascii() and each.isdigit() for each in found.ids):
        return []
    ids = [int(each) for each in found.ids]
    odd = [
        str(here)
        for before, here, after in zip(ids, ids[1:], ids[2:], strict=False)
        if before < after and not before < here < after
    ]
    few = 0 < len(odd) <= max(1, len(ids) // 100)
    return [f"clip ids ascend, but not at {listing(odd)}: was a number changed?"] if few else []


def check_frames(target: Frames, found: Examples) -> list[str]:
    """Warnings of parts that no clip of a split has annotated, so that what is scored of them has no value, and of gaps
    between events."""
    warnings = []
    for split in SPLITS:
        targets = found.of(split).targets
        for kind in range(len(target.parts)):
            if targets and not any(each[kind] for each in targets):
                named = target.column(target.parts[kind])
                what = f"scores of {named} have no value" if split != "train" else f"nothing is learnt of {named}"
                warnings.append(f"no {split} clip has {named} annotated: {what}")
    gaps = [clip.id for clip in found.clips if isinstance(target, Events) and _has_gap(clip.target[0])]
    if gaps:
        main = target.names[0]
        what = f"gaps of {GAP} periods and more lie between {main}s of {len(gaps)} clips"
        warnings.append(f"{what}: {listing(gaps)}; is one missing?")
    return warnings


def check_early_ends(target: Frames, lasting: Iterable[tuple[Clip, float]]) -> list[str]:
    """A warning of clips whose labels end before half of their audio: a file that was cut off is read like a whole one, and
    only what it has is learnt and scored. Moments may be anywhere.

    lasting: clips and how many seconds each lasts.
    """
    early = [clip.id for clip, length_s in lasting if 0 < target.find_label_end_s(clip.target) < EARLY * length_s]
    if not early:
        return []
    return [
        f"the labels of {counted(len(early), 'clip')} end before half of the audio: {listing(early)}; are files cut off?"
    ]


def _has_gap(times: Sequence[float]) -> bool:
    """Whether two events are much further apart than most."""
    periods = sorted(after - before for before, after in pairwise(times))
    return bool(periods) and periods[-1] >= GAP * periods[len(periods) // 2]


def measure(
    paths: Iterable[Path], *, whole: bool = False, native_rate_hz: int | None = None
) -> dict[Path, Shape | DataError]:
    """What each file holds, or why that cannot be said; each is measured once, which takes long where a file is scanned.

    whole, native_rate_hz: what is asked of each file besides, as `audio.shape` does.
    """
    found: dict[Path, Shape | DataError] = {}
    for path in paths:
        if path not in found:
            try:
                found[path] = audio.read_shape(path, whole=whole, native_rate_hz=native_rate_hz)
            except DataError as error:
                found[path] = error
    return found


def check_ends(target: Frames, found: Examples, shapes: Mapping[Path, Shape | DataError] | None = None) -> list[str]:
    """What is wrong with the annotations of clips, a line each, by how long their files last; a damaged file is not judged.

    shapes: of `measure`, where the files were measured already.
    """
    shapes = measure(found.paths) if shapes is None else shapes
    wrong = []
    for clip, path in zip(found.clips, found.paths, strict=True):
        shape = shapes[path]
        if isinstance(shape, DataError) or shape.truncated:
            continue  # is told as a damaged file
        lasts_s = max(0.0, shape.length_s - clip.start_s) if clip.duration_s is None else clip.duration_s
        try:
            target.within(clip.target, clip.id, lasts_s)
        except DataError as error:
            wrong.append(str(error))
    return wrong


def check_carriers(metrics: Sequence[Metric], target: Target, found: Examples) -> list[str]:
    """A warning for each metric whose interval rests on tags that fewer than `FEW` test clips carry, or groups of them.

    It opens with the metric's name, by which a board finds it.
    """
    if not isinstance(target, Tags | MaskedTags):
        return []
    import numpy as np

    test = found.of("test")
    raised = test.truth(target) > 0
    groups = np.array([clip.group or clip.id for clip in test.clips])
    carried = {name: set(groups[raised[:, place]]) for place, name in enumerate(target.names)}
    rare = [name for name, groups in carried.items() if len(groups) < FEW]
    what = "groups of test clips" if any(clip.group for clip in test.clips) else "test clips"
    return [
        f"{metric.name}: {ROUGH}, since fewer than {FEW} {what} carry {listing(rare)}"
        for metric in metrics
        if metric.carried and rare
    ]


def check_batches(windows: int, sizes: Sequence[int]) -> list[str]:
    """A warning where the training windows are fewer than a batch."""
    short = [size for size in sizes if windows < size]
    return (
        [f"{windows} training windows are fewer than a batch of {max(short)}: every epoch is one batch of all of them"]
        if short
        else []
    )
