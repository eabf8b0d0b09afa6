"""Features that are mapped are those that are stored, and a run on them finds the same to the bit."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from marble_bench.probes import trainer

from marble_bench.core.task import Schedule
from marble_bench.errors import DataError
from marble_bench.features import pooled
from marble_bench.features.mapped import MappedLayer, Tensors
from marble_bench.features.store import Span, Store, list_shards
from marble_bench.metrics import accuracy
from marble_bench.protocols.marble import PROTOCOL as MARBLE

LAYERS = [("0", 6), ("1", 6), ("2", 10)]
CLIPS, CLASSES = 40, 3


@pytest.fixture
def stored(tmp_path):
    """A store of six shards, its spans in an order that is not theirs on disk, and the rows of each span by layer."""
    random = np.random.default_rng(0)
    store, rows = Store(tmp_path, {"encoder": "toy"}, LAYERS), {}
    for number in range(CLIPS):
        span, windows = Span(f"{number:064x}", "0:"), int(random.integers(1, 5))
        rows[span] = [random.standard_normal((windows, width)).astype(np.float16) for _, width in LAYERS]
        store.add(span, rows[span])
        if number % 7 == 6:
            store.flush()
    store.flush()
    spans = list(rows)
    order = [spans[place] for place in random.permutation(CLIPS)]
    return Store(tmp_path, {"encoder": "toy"}, LAYERS), order, rows


def _mapped(store, spans):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooled, "HELD_BYTES", 0)
        found = pooled.load(store, spans)
    assert all(isinstance(layer, MappedLayer) for layer in found.layers)
    return found


def test_mapped_layers_hold_what_was_stored_in_the_order_asked_for(stored):
    store, spans, rows = stored
    found = _mapped(store, spans)
    assert found.clip.tolist() == [at for at, span in enumerate(spans) for _ in range(len(rows[span][0]))]
    for index, layer in enumerate(found.layers):
        whole = np.concatenate([rows[span][index] for span in spans])
        assert (layer.shape, layer.nbytes, len(layer)) == (whole.shape, whole.nbytes, len(whole))
        assert np.array_equal(np.asarray(layer), whole)
        assert np.array_equal(layer[3:17], whole[3:17])
        some = np.random.default_rng(index).integers(0, len(whole), 50)  # in any order, and some twice
        assert np.array_equal(layer[some], whole[some])
        assert layer[np.array([], np.int64)].shape == (0, whole.shape[1])


def test_what_is_small_is_read_into_memory_and_is_the_same(stored):
    store, spans, _ = stored
    held, found = pooled.load(store, spans), _mapped(store, spans)
    assert all(isinstance(layer, np.ndarray) for layer in held.layers)
    assert all(np.array_equal(one, np.asarray(other)) for one, other in zip(held.layers, found.layers, strict=True))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="the system does not list open files")
def test_no_shard_is_left_open(stored):
    store, spans, _ = stored
    found = _mapped(store, spans)
    opened = [
        place for each in Path("/proc/self/fd").iterdir() if (place := _target(each)).startswith(str(store.folder))
    ]
    assert not opened  # other threads may open other files
    assert len(found.layers[0].parts) == len(list_shards(store.folder)) == 6


def _target(link):
    """Where a link leads; nowhere if it is gone by now."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""


def test_a_shard_that_is_not_what_was_written_is_named_when_it_is_mapped(stored):
    store, spans, _ = stored
    shard = list_shards(store.folder)[2]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=shard.name):
        _mapped(store, spans)


def _grid(features):
    """A small grid on the features, trained as a run trains it; the outputs of its probes too."""
    layers, clip = Tensors(features.layers), features.clip
    truth = torch.arange(CLIPS) % CLASSES
    splits = []
    for first, last in ((0, 25), (25, CLIPS)):
        rows = np.flatnonzero((clip >= first) & (clip < last))
        place = torch.from_numpy(clip[rows] - first)
        splits.append(trainer.Split(layers, place, truth[first:last], torch.from_numpy(rows)))
    recipe = trainer.Recipe(MARBLE, Schedule(3, 2, 2), CLASSES, "cross_entropy", accuracy.compute, (0, 1))
    fitted = trainer.fit(trainer.build_grid(MARBLE, (0, 2), True, 1), *splits, recipe)
    return fitted, [trainer.predict_windows(one, splits[1], recipe) for one in fitted]


def test_probes_on_mapped_features_are_those_on_features_in_memory(stored):
    store, spans, _ = stored
    (held, outputs), (found, others) = _grid(pooled.load(store, spans)), _grid(_mapped(store, spans))
    assert [one.history for one in held] == [one.history for one in found]
    for one, other in zip(held, found, strict=True):
        assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)
    assert all(torch.equal(one, other) for one, other in zip(outputs, others, strict=True))


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not tell a process's own memory")
def test_mapped_features_take_no_memory_of_their_own(tmp_path):
    store = Store(tmp_path, {"encoder": "toy"}, [("0", 1024)])
    spans = [Span(f"{number:064x}", "0:") for number in range(8)]
    for span in spans:
        store.add(span, [np.ones((2048, 1024), np.float16)])
        store.flush()
    store = Store(tmp_path, {"encoder": "toy"}, [("0", 1024)])
    _own_bytes()
    before = _own_bytes()
    (layer,) = _mapped(store, spans).layers
    total = sum(float(layer[start : start + 512].sum(dtype=np.float64)) for start in range(0, len(layer), 512))
    assert total == 8 * 2048 * 1024
    assert _own_bytes() - before < layer.nbytes // 4


def _own_bytes() -> int:
    """Of the process, without what is mapped from files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) << 10
