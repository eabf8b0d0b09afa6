"""The feature store: whole shards, one column per layer, nothing computed twice."""

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from marble_bench.errors import BenchError, DataError
from marble_bench.features import manage, manifest
from marble_bench.features.store import Span, Spent, Store, find_fault, sum_spent

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


@pytest.mark.slow
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


def _fuzz():
    """The module `benchmarks/fuzz_store.py`."""
    path = Path(__file__).parent.parent / "benchmarks/fuzz_store.py"
    spec = importlib.util.spec_from_file_location("fuzz_store", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("count", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_every_flipped_bit_is_named_by_verify_and_stops_a_run(count):
    assert _fuzz().flip_bits(count, seed=count) == {"a bit of a shard": [], "a bit of the manifest": []}


@pytest.mark.slow
def test_every_exchange_of_files_folders_or_spans_is_named():
    found = _fuzz().try_exchanges()
    assert len(found) == 22
    assert not {name: what for name, what in found.items() if what}


def _stored(tmp_path, *names):
    """A store with a shard for each audio."""
    store = Store(tmp_path, FACTS, LAYERS)
    for name in names:
        store.add(Span(name, "0:"), _values(3, ord(name)))
        store.flush()
    return store


def test_rows_and_columns_of_a_damaged_shard_are_refused_and_those_of_others_read(tmp_path):
    store = _stored(tmp_path, "a", "b")
    shard = store.rows[Span("a", "0:")].shard
    content = bytearray(shard.read_bytes())
    content[content.rindex(_values(3, ord("a"))[0].astype(np.float16).tobytes())] ^= 1
    shard.write_bytes(content)
    again = Store(tmp_path, FACTS, LAYERS)
    for asked in (lambda: again.read(0, [Span("a", "0:")]), lambda: again.read_rows(1, Span("a", "0:"), 0, 1)):
        with pytest.raises(DataError, match=rf"{shard.name} is not what was written.*prune --damaged removes it"):
            asked()
    assert len(again.read(0, [Span("b", "0:")])) == len(again.read_rows(0, Span("b", "0:"), 0, 3)) == 3


def test_a_shard_is_read_whole_once_however_often_its_rows_are_asked_for(tmp_path, monkeypatch):
    store, read = _stored(tmp_path, "a"), []
    digest = manifest.compute_sha256
    monkeypatch.setattr(manifest, "compute_sha256", lambda path: read.append(path) or digest(path))
    for row in range(3):
        store.read_rows(0, Span("a", "0:"), row, 1)
        store.read(1, [Span("a", "0:")])
    assert len(read) == 1


def test_two_writers_of_other_bytes_leave_a_shard_that_one_of_their_entries_names(tmp_path):
    """As on two machines that share a cache, whose processors do not round alike: both orders of their writes."""
    one, other = Store(tmp_path, FACTS, LAYERS), Store(tmp_path, FACTS, LAYERS)
    one.add(Span("a", "0:"), _values(2, 0))
    one.flush()
    (shard,) = one.folder.glob("*.arrow")
    first = shard.read_bytes()
    other.add(Span("a", "0:"), _values(2, 1))
    other.flush()
    second = shard.read_bytes()
    assert first != second
    for content in (first, second):
        shard.write_bytes(content)
        assert not [why for _, why in manage.find_faults(manage._describe_store(one.folder)) if why]
        Store(tmp_path, FACTS, LAYERS).read(0, [Span("a", "0:")])


@pytest.mark.slow
def test_a_writer_killed_between_entry_and_shard_is_named_and_the_next_pass_mends_it(tmp_path):
    code = (
        "import sys, os, numpy as np, pathlib\n"
        "from marble_bench.features import store as s\n"
        "made = s.Store(pathlib.Path(sys.argv[1]), {'encoder': 'toy'}, [('0', 4)])\n"
        "replace = os.replace\n"
        "def dies(one, other):\n"
        "    os.kill(os.getpid(), 9) if str(other).endswith('.arrow') and sys.argv[2] == 'dies' else replace(one, other)\n"
        "os.replace = dies\n"
        "made.add(s.Span('b', '0:'), [np.ones((2, 4), np.float32)]); made.flush()\n"
    )
    for how, code_of_exit in (("dies", -9), ("goes on", 0)):
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path), how], capture_output=True)
        assert done.returncode == code_of_exit, done.stderr
        (folder,) = tmp_path.iterdir()
        named = [why for _, why in manage.find_faults(manage._describe_store(folder)) if why]
        assert [("is missing" in why) for why in named] == ([True] if how == "dies" else [])
        again = Store(tmp_path, {"encoder": "toy"}, [("0", 4)])
        assert list(again.rows) == ([] if how == "dies" else [Span("b", "0:")])


def test_layers_that_the_shard_does_not_have_are_refused(tmp_path):
    store = _stored(tmp_path, "a")
    store.layers = (("0", 4), ("wide", 12))
    with pytest.raises(DataError, match="not 'wide' of width 12"):
        store.read(1, [Span("a", "0:")])


def test_a_store_of_an_earlier_format_is_not_read(tmp_path):
    store = _stored(tmp_path / "features", "a")
    facts = {**manifest.read_sealed(store.folder / "about.json"), "format": "marble-bench.features/3"}
    (store.folder / "about.json").write_bytes(manifest.seal(facts))
    with pytest.raises(DataError, match=r"is of the format marble-bench.features/3; this version reads"):
        Store(tmp_path / "features", FACTS, LAYERS)
    (held,) = manage.list_stores(tmp_path)
    assert [path for path, why in manage.find_faults(held) if why] == [store.folder]


def test_what_spans_took_is_kept_beside_the_shards_and_adds_up(tmp_path):
    one = Store(tmp_path, FACTS, LAYERS)
    for number, (name, batch) in enumerate((("a", "first"), ("b", "first"), ("c", "second"))):
        one.add(Span(name, "0:"), _values(1), Spent(batch, 2.0, 0.5 + number))
    one.flush()
    bytes_ = {path.name: path.read_bytes() for path in one.folder.glob("*.arrow")}
    again = Store(tmp_path, FACTS, LAYERS)
    spans = [Span(name, "0:") for name in "abc"]
    assert sum_spent([again], spans) == (6.0, 4.5)
    assert sum_spent([again], [*spans[:2], *spans[:2]]) == (4.0, 2.0)  # a span that is asked for twice was made once
    twin = Store(tmp_path, {**FACTS, "layer": "other"}, LAYERS)
    twin.add(spans[0], _values(1), Spent("first", 2.0, 0.5))  # stored with the first, as layers of frames are
    twin.add(spans[1], _values(1), Spent("later", 2.0, 4.0))
    twin.flush()
    assert sum_spent([again, twin], spans) == (8.0, 8.5)
    other = Store(tmp_path / "other", FACTS, LAYERS)  # took another time: the shard is the same bytes
    for name in "abc":
        other.add(Span(name, "0:"), _values(1), Spent("x", 2.0, 9.0))
    other.flush()
    assert {path.name: path.read_bytes() for path in other.folder.glob("*.arrow")} == bytes_


@pytest.mark.parametrize("change", [lambda text: text.replace(b'"bytes"', b'"bytes" '), lambda text: text[:-1]])
def test_a_file_of_the_manifest_has_one_form_only(tmp_path, change):
    store = _stored(tmp_path, "a")
    (path,) = manifest.list_entry_paths(store.folder)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=path.name):
        Store(tmp_path, FACTS, LAYERS)
    entry = find_fault(store.rows[Span("a", "0:")].shard)
    assert path.name in entry


def test_an_entry_with_another_count_of_rows_is_of_another_shard(tmp_path):
    store = _stored(tmp_path, "a")
    (path,) = manifest.list_entry_paths(store.folder)
    path.write_bytes(replace(manifest.read_entry(path), rows=(2,)).seal_content())
    with pytest.raises(DataError, match="is the entry of another shard"):
        Store(tmp_path, FACTS, LAYERS)


def test_a_flipped_bit_in_the_name_of_the_format_does_not_cost_the_store(tmp_path):
    store = _stored(tmp_path / "features", "a")
    about = store.folder / "about.json"
    about.write_bytes(about.read_bytes().replace(b"features/4", b"features/5"))
    (held,) = manage.list_stores(tmp_path)
    assert [path for path, why in manage.find_faults(held) if why] == [about]
    manage.remove(manage.plan_removals([held], [], None, True, 0.0))
    assert len(Store(tmp_path / "features", FACTS, LAYERS).read(0, [Span("a", "0:")])) == 3
