"""Splits that are drawn for a corpus without any."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from marble_bench import draw_splits
from marble_bench.errors import UsageError


def _corpus(seed=0):
    """300 clips of 60 songs of three genres."""
    random = np.random.default_rng(seed)
    songs = [(f"song{index}", "abc"[index % 3]) for index in range(60) for _ in range(int(random.integers(2, 8)))]
    random.shuffle(songs)
    return [genre for _, genre in songs], [song for song, _ in songs]


@pytest.mark.parametrize("seed", range(5))
def test_no_song_is_in_two_splits_and_every_genre_in_each(seed):
    labels, songs = _corpus(seed)
    drawn = draw_splits(labels, songs, seed=seed)
    of_song, of_split = defaultdict(set), defaultdict(Counter)
    for split, song, label in zip(drawn, songs, labels, strict=True):
        of_song[song].add(split)
        of_split[split][label] += 1
    assert all(len(splits) == 1 for splits in of_song.values())
    assert set(of_split) == {"train", "valid", "test"}
    for split, share in (("train", 0.6), ("valid", 0.2), ("test", 0.2)):
        for genre, count in Counter(labels).items():
            assert of_split[split][genre] / count == pytest.approx(share, abs=0.08)


def test_a_seed_gives_one_division_and_another_seed_another():
    labels, songs = _corpus()
    assert draw_splits(labels, songs, seed=1) == draw_splits(labels, songs, seed=1)
    assert draw_splits(labels, songs, seed=1) != draw_splits(labels, songs, seed=2)


def test_the_folds_are_the_shares():
    assert Counter(draw_splits(["x"] * 40, folds=(8, 1, 1))) == {"train": 32, "valid": 4, "test": 4}


@pytest.mark.parametrize(
    ("labels", "groups", "folds", "words"),
    [
        (["a"] * 9 + ["b"] * 4, None, (3, 1, 1), "5 folds need 5 groups of each class: 'b' has 4"),
        (["a"] * 9, ["s"] * 9, (3, 1, 1), "'a' has 1"),
        (["a"] * 9, ["s"] * 8, (3, 1, 1), "9 labels and 8 groups"),
        (["a"] * 9, None, (3, 0, 1), "give at least one for each of train, valid, test"),
    ],
)
def test_what_cannot_be_divided_is_refused(labels, groups, folds, words):
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        draw_splits(labels, groups, folds)
