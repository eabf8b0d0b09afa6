"""Splits for a corpus that was published without any: drawn once, kept in the list of clips."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence

from marble_bench.core.task import SPLITS
from marble_bench.errors import UsageError, listing


def draw_splits(
    labels: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    folds: tuple[int, int, int] = (3, 1, 1),
    seed: int = 0,
) -> list[str]:
    """The split of each clip, `train`, `valid` or `test`, with every class in each of them and no group in two.

    labels: `(clips,)` the class of each clip; of tags or numbers give the same label for all.
    groups: `(clips,)` the recording, song, album or singer of each clip, which a probe could recognise; None: no two clips
        share one.
    folds: how many equal parts of the groups go to train, valid and test: `(3, 1, 1)` is 60, 20 and 20 %.

    Another version of scikit-learn may draw otherwise: draw once, write the splits beside the labels, and publish them.
    Raises UsageError where a class has fewer groups than folds. Source: `sklearn.model_selection.StratifiedGroupKFold`.

    >>> draw_splits(["blues"] * 5 + ["rock"] * 5).count("test")
    2
    """
    import numpy as np
    from sklearn.model_selection import StratifiedGroupKFold

    together = list(range(len(labels)) if groups is None else groups)
    _check(labels, together, folds)
    names = [split for split, share in zip(SPLITS, folds, strict=True) for _ in range(share)]
    codes, numbers = _number_values(labels), _number_values(together)
    # the groups are put in a drawn order here: scikit-learn's own shuffling does not keep the classes even before 1.8
    order = np.random.default_rng(seed).permutation(max(numbers) + 1)
    drawn = [""] * len(labels)
    for name, (_, places) in zip(
        names, StratifiedGroupKFold(len(names)).split(codes, codes, order[numbers]), strict=True
    ):
        for place in places:
            drawn[place] = name
    return drawn


def _check(labels: Sequence[Hashable], groups: Sequence[Hashable], folds: tuple[int, int, int]) -> None:
    """Raise UsageError for what cannot be divided."""
    if len(folds) != len(SPLITS) or min(folds) < 1:
        raise UsageError(f"folds are {folds}: give at least one for each of {', '.join(SPLITS)}")
    if len(groups) != len(labels):
        raise UsageError(f"{len(labels)} labels and {len(groups)} groups: give one of each for every clip")
    of_class: dict[Hashable, set[Hashable]] = defaultdict(set)
    for label, group in zip(labels, groups, strict=True):
        of_class[label].add(group)
    count = sum(folds)
    if few := [f"'{label}' has {len(own)}" for label, own in of_class.items() if len(own) < count]:
        raise UsageError(f"{count} folds need {count} groups of each class: {listing(few)}; give fewer folds")


def _number_values(values: Sequence[Hashable]) -> list[int]:
    """Values as whole numbers, by the order in which they first appear."""
    order = {value: index for index, value in enumerate(dict.fromkeys(values))}
    return [order[value] for value in values]
