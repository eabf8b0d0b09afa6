"""The table of a run's examples, and the configuration that a run is given."""

from pathlib import Path

import numpy as np
import pytest

from marble_bench.core.task import Clip
from marble_bench.data import corpus
from marble_bench.data.examples import Example, Examples
from marble_bench.errors import DataError
from marble_bench.protocols.marble import PROTOCOL as MARBLE
from marble_bench.runs.config import RunConfig
from marble_bench.scoring.targets import Classes

CLIPS = [
    Clip("a", "train", "a.wav", "low"),
    Clip("b", "test", "b.wav", "high", group="song"),
    Clip("c", "train", "c.wav", "high"),
    Clip("d", "valid", "d.wav", "low"),
]
TABLE = Examples(Example(clip, Path(clip.audio), f"{place}" * 64) for place, clip in enumerate(CLIPS))


def test_splits_keep_the_order_and_the_columns():
    train = TABLE.of("train")
    assert (train.ids, train.targets, train.paths) == (["a", "c"], ["low", "high"], [Path("a.wav"), Path("c.wav")])
    assert (TABLE.places("train"), TABLE.counts()) == ([0, 2], {"train": 2, "valid": 1, "test": 1})
    assert TABLE.groups == ["a", "song", "c", "d"]
    assert TABLE.of("train") is train
    assert TABLE.without({"a", "d"}).ids == ["b", "c"]
    assert TABLE.without({"b"}).list_empty_splits() == ["test"]
    assert TABLE.fingerprint() == corpus.compute_fingerprint(CLIPS, [f"{place}" * 64 for place in range(4)])


def test_truth_is_encoded_in_the_order_of_the_table_and_names_a_strange_label():
    target = Classes(("low", "high"))
    assert np.array_equal(TABLE.truth(target), [0, 1, 1, 0])
    assert np.array_equal(TABLE.of("train").truth(target), [0, 1])
    assert np.array_equal(TABLE.of("test").truth(Classes(("high", "low"))), [0])
    with pytest.raises(DataError, match=r"'b'.*'high'"):
        TABLE.truth(Classes(("low", "hi")))


def test_labels_are_encoded_once_whatever_splits_ask_for_them():
    calls = []

    class Counted(Classes):
        def encode(self, targets, clips):
            calls.append(list(clips))
            return super().encode(targets, clips)

    table, target = Examples(TABLE.rows), Counted(("low", "high"))
    whole = table.truth(target)
    for split in ("train", "valid", "test"):
        assert np.array_equal(table.of(split).truth(target), whole[table.places(split)])
    assert calls == [["a", "b", "c", "d"]]
    table.truth(Counted(("high", "low")))
    assert len(calls) == 2


def test_flat_options_go_to_every_part_that_has_a_field_of_their_name():
    given = {"named": None, "protocol": MARBLE, "encoder": None, "model": "m", "cache": Path("c"), "results": Path("r")}
    config = RunConfig.of(**given, device="cuda", limit=4, layers="sum", overwrite=True)
    assert (config.features.device, config.probes.device) == ("cuda", "cuda")
    assert {config.data.cache, config.features.cache, config.probes.cache} == {Path("c")}
    assert (config.data.limit, config.probes.layers, config.output.overwrite) == (4, "sum", True)
    with pytest.raises(TypeError, match="limits"):
        RunConfig.of(**given, limits=4)
