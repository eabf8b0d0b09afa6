"""The feature store: whole shards, one column per layer, nothing computed twice."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from marble_bench.errors import BenchError, DataError
from marble_bench.features.store import Span, Store

FACTS = {"encoder": "toy", "weights_sha256": "0" * 64, "window_s": None}
LAYERS = [("0", 4), ("wide", 6)]


def _values(windows: int, seed: int = 0):
    random = np.random.default_rng(seed)
    return [random.normal(size=(windows, width)).astype(np.float32) for _, width in LAYERS]


def test_what_is_read_is_what_was_added_in_half_precision(tmp_path):
    store = Store(tmp_path, FACTS, LAYERS)
    spans = [Span("a", "0:"), Span("b", "0:30"), Span("b", "30:30")]
    added = [_values(count, seed) for seed, count in enumerate((1, 3, 2))]
    store.add(spans[0], added[0])
    store.flush()
    store.add(spans[1], added[1])
    store.add(spans[2], added[2])
    store.flush()
    again = Store(tmp_path, FACTS, LAYERS)
    order = [2, 0, 1]
    for index in range(2):
        expected = np.concatenate([added[each][index] for each in order]).astype(np.float16)
        assert np.array_equal(again.read(index, [spans[each] for each in order]), expected)


def test_any_arrow_tool_opens_a_shard_with_one_fixed_width_column_per_layer(tmp_path):
    store = Store(tmp_path, FACTS, LAYERS)
    store.add(Span("a", "0:"), _values(2))
    store.flush()
    (shard,) = store.folder.glob("*.arrow")
    table = pa.ipc.open_file(shard).read_all()
    assert table.column_names == ["audio", "stretch", "layer:0", "layer:wide"]
    assert table.schema.field("layer:wide").type == pa.list_(pa.float16(), 6)


def test_another_key_is_another_folder(tmp_path):
    folders = {Store(tmp_path, {**FACTS, "window_s": window}, LAYERS).folder for window in (None, 5.0, 10.0)}
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.__setitem__((0, 0), np.nan), "layer '0' has NaN or infinity"),
        (lambda v: v.__setitem__((0, 0), 1e6), "layer '0' reaches 1e+06, beyond half precision"),
    ],
)
def test_values_that_cannot_be_kept_are_refused_by_layer(tmp_path, change, words):
    store, values = Store(tmp_path, FACTS, LAYERS), _values(2)
    change(values[0])
    with pytest.raises(BenchError) as caught:
        store.add(Span("a", "0:"), values)
    assert words in str(caught.value)


def test_a_damaged_shard_is_named(tmp_path):
    store = Store(tmp_path, FACTS, LAYERS)
    store.add(Span("a", "0:"), _values(2))
    store.flush()
    (shard,) = store.folder.glob("*.arrow")
    shard.write_bytes(shard.read_bytes()[:-20])
    with pytest.raises(DataError, match=shard.name):
        Store(tmp_path, FACTS, LAYERS)


def test_a_writer_killed_in_the_middle_leaves_only_whole_shards(tmp_path):
    code = (
        "import sys, os, numpy as np, pathlib\n"
        "from marble_bench.features import store as s\n"
        "made = s.Store(pathlib.Path(sys.argv[1]), {'encoder': 'toy'}, [('0', 4)])\n"
        "made.add(s.Span('a', '0:'), [np.ones((2, 4), np.float32)]); made.flush()\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "made.add(s.Span('b', '0:'), [np.ones((2, 4), np.float32)]); made.flush()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True)
    assert done.returncode == -9
    again = Store(tmp_path, {"encoder": "toy"}, [("0", 4)])
    assert list(again.rows) == [Span("a", "0:")]
    assert len(list(again.folder.glob("*.tmp"))) == 1  # not a shard, so never read


def test_the_same_span_written_twice_is_read_once(tmp_path):
    one, other = Store(tmp_path, FACTS, LAYERS), Store(tmp_path, FACTS, LAYERS)
    values = _values(2)
    one.add(Span("a", "0:"), values)
    other.add(Span("a", "0:"), values)
    other.add(Span("b", "0:"), values)
    one.flush()
    other.flush()
    again = Store(tmp_path, FACTS, LAYERS)
    assert len(again.read(0, [Span("a", "0:")])) == 2
    assert len(again.read(0, [Span("a", "0:"), Span("b", "0:")])) == 4


def test_a_cache_that_is_a_file_is_told(tmp_path):
    (tmp_path / "features").write_text("")
    with pytest.raises(BenchError, match="cannot be written"):
        Store(tmp_path / "features", FACTS, LAYERS)
