"""Looks at features and labels before probes are trained on them: what no score may come of, and what is only odd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from marble_bench.errors import DataError, listing
from marble_bench.targets import Classes, Tags
from marble_bench.task import SPLITS, Clip

if TYPE_CHECKING:
    from marble_bench.features.table import Features
    from marble_bench.metrics import Metric
    from marble_bench.targets import Target

FEW = 5  # test clips with a tag: the simulated intervals that leave 95 +- 2 have tags on fewer (docs/leaderboard.md)
ROUGH = "its interval is rough"  # so a mark says it, and a board finds it
ROWS = 8192  # windows at once: a layer may be larger than the memory


def check_features(features: Features, clips: Sequence[Clip]) -> list[str]:
    """Marks of layers that are the same for every clip. Raises DataError with all layers that have NaN or infinity."""
    import numpy as np

    bad, marks = [], []
    for name, layer in zip(features.names, features.layers, strict=True):
        sound, low, high = [], np.inf, -np.inf
        for start in range(0, len(layer), ROWS):
            part = np.asarray(layer[start : start + ROWS])
            sound.append(np.isfinite(part).all(axis=1))
            low, high = np.minimum(low, part.min(axis=0)), np.maximum(high, part.max(axis=0))
        wrong = [clips[index].id for index in np.unique(features.clip[~np.concatenate(sound)])]
        if wrong:
            bad.append(f"layer '{name}' has NaN or infinity in {len(wrong)} of {len(clips)} clips: {listing(wrong)}")
        elif np.array_equal(low, high):
            marks.append(f"layer '{name}' is constant: it is the same for every clip")
    if bad:
        raise DataError("\n".join([*bad, "Compute these clips' features anew; no probe can be trained on them"]))
    return marks


def check_labels(target: Target, clips: Sequence[Clip]) -> list[str]:
    """Marks of classes that a split lacks, and of tags that no training clip carries."""
    marks = []
    for split in SPLITS:
        targets = [clip.target for clip in clips if clip.split == split]
        if isinstance(target, Classes):
            held = set(targets)
        elif isinstance(target, Tags) and split == "train":  # valid and test need all tags, or have no score
            held = {name for tags in targets for name in tags}
        else:
            continue
        absent = [name for name in target.names if name not in held]
        if absent:
            kind = "labelled" if isinstance(target, Classes) else "tagged"
            marks.append(f"no {split} clip is {kind} {listing(absent)}")
    return marks


def check_carriers(metrics: Sequence[Metric], target: Target, clips: Sequence[Clip]) -> list[str]:
    """A mark for each metric whose interval rests on tags that fewer than `FEW` test clips carry, or groups of them.

    It opens with the metric's name, by which a board finds it.
    """
    if not isinstance(target, Tags):
        return []
    test = [clip for clip in clips if clip.split == "test"]
    carried = {name: {clip.group or clip.id for clip in test if name in clip.target} for name in target.names}
    rare = [name for name, groups in carried.items() if len(groups) < FEW]
    what = "groups of test clips" if any(clip.group for clip in test) else "test clips"
    return [
        f"{metric.name}: {ROUGH}, since fewer than {FEW} {what} carry {listing(rare)}"
        for metric in metrics
        if metric.carried and rare
    ]


def check_batches(windows: int, sizes: Sequence[int]) -> list[str]:
    """A mark where the training windows are fewer than a batch."""
    short = [size for size in sizes if windows < size]
    return (
        [f"{windows} training windows are fewer than a batch of {max(short)}: each is one smaller batch"]
        if short
        else []
    )
