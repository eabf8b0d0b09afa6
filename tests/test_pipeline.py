"""The pipeline: the same bytes whatever the batch, the workers, the time and the interruption; every fault named."""

import errno
import hashlib
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from marble_bench.core.encoder import Encoder, Layer
from marble_bench.core.task import Clip, Window
from marble_bench.encoders import weights
from marble_bench.errors import BenchError, DataError
from marble_bench.features import batches, local, pooled, store
from marble_bench.features.jobs import Cost, Groups, Job
from marble_bench.features.pooled import Item
from marble_bench.features.store import Span

RATE = 8000
SEEN: list[int] = []  # windows of each batch


def _load(path, device):
    """A small transformer, random but always the same; slightly other numbers under autocast."""
    random = torch.Generator().manual_seed(0)

    def made(*shape):
        return torch.randn(*shape, generator=random) / shape[-1] ** 0.5

    conv, queries, keys, values, out = made(24, 1, 160), *(made(24, 24) for _ in range(4))

    def encode(waveforms, pool):
        SEEN.append(len(waveforms))
        x = torch.nn.functional.conv1d(waveforms.unsqueeze(1), conv, stride=80).transpose(1, 2)
        attention = torch.softmax(x @ queries @ (x @ keys).transpose(1, 2) / 24**0.5, dim=-1)
        y = torch.tanh(attention @ (x @ values)) @ out
        return [pool(x), pool(y)]

    return encode


SMALL = Encoder(
    name="small",
    description="random attention",
    sample_rate_hz=RATE,
    layers=(Layer("0", 24, 100.0), Layer("1", 24, 100.0)),
    load=_load,
    license="MIT",
    citation="none",
    min_s=0.1,
)
WHOLE = Window()
LENGTHS_S = [1.0, 2.0, 1.0, 1.5, 1.0, 0.5, 2.0, 1.0, 1.0, 2.0, 1.5, 1.0]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(batches, "SHARD_S", 4.0)


@pytest.fixture
def items(tmp_path):
    return _items(tmp_path / "audio")


def _items(folder: Path):
    folder.mkdir()
    found = []
    for index, length_s in enumerate(LENGTHS_S):
        path = folder / f"{index:02}.wav"
        random = np.random.default_rng(index)
        soundfile.write(path, 0.3 * random.standard_normal(round(length_s * RATE)).clip(-3, 3), RATE)
        found.append(_item(index, path))
    return found


def _item(index: int, path: Path):
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Item(Clip(f"clip{index}", "train", path.name, "a"), path, digest, RATE)


def _extract(items, cache, encoder=SMALL, window=WHOLE, **options):
    return pooled.extract(items, encoder, weights.resolve(encoder, cache), window, cache, **options)


def _bytes(cache):
    """Every file of a store by its name, but for what killed writers left."""
    return {path.name: path.read_bytes() for path in sorted(cache.rglob("*.arrow"))}


@pytest.mark.slow
@pytest.mark.parametrize("window", [Window(), Window(length_s=0.5)])
def test_batch_size_and_workers_change_no_byte(items, tmp_path, window):
    _extract(items, tmp_path / "first", window=window)
    expected = _bytes(tmp_path / "first")
    assert len(expected) == 4
    for index, (batch_s, workers) in enumerate([(0.1, 1), (1.9, 3), (1000.0, 8)]):
        SEEN.clear()
        _extract(items, tmp_path / str(index), window=window, batch_s=batch_s, workers=workers)
        assert _bytes(tmp_path / str(index)) == expected
        if batch_s != 1.9:
            assert (max(SEEN) > 1) == (batch_s > 1.9)


def test_order_changes_no_feature(items, tmp_path):
    store_, spans, _ = _extract(items, tmp_path / "one")
    turned, _, _ = _extract(items[::-1], tmp_path / "other")
    for layer in (0, 1):
        assert np.array_equal(store_.read(layer, spans), turned.read(layer, spans))


def test_features_are_what_the_encoder_gives_for_one_window_alone(items, tmp_path):
    made, spans, _ = _extract(items, tmp_path)
    encode = SMALL.load(None, "cpu")
    for item, span in zip(items, spans, strict=True):
        wave, _ = soundfile.read(item.path, dtype="float32")
        alone = encode(torch.from_numpy(wave)[None], lambda frames: frames.mean(dim=1))
        for layer in (0, 1):
            assert np.array_equal(made.read(layer, [span]), alone[layer].half().numpy())


@pytest.mark.slow
@pytest.mark.parametrize("stop_at", range(1, len(LENGTHS_S), 3))
def test_a_pass_that_is_stopped_anywhere_goes_on_to_the_same_bytes(items, tmp_path, stop_at):
    _extract(items, tmp_path / "whole")

    def stop(done, todo, audio_s):
        if done >= stop_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _extract(items, tmp_path / "broken", progress=stop)
    _, _, cost = _extract(items, tmp_path / "broken")
    stored = sum(
        LENGTHS_S[: (stop_at - 1) // 3 * 3]
    )  # in shards of three clips, of which the last may not be written yet
    assert sum(LENGTHS_S) - stored <= cost.audio_s <= sum(LENGTHS_S)
    assert cost.whole_audio_s == pytest.approx(sum(LENGTHS_S))
    assert _bytes(tmp_path / "broken") == _bytes(tmp_path / "whole")


@pytest.mark.slow
def test_what_a_stopped_pass_took_counts_for_the_one_that_goes_on(items, tmp_path):
    """The first pass is slowed down by 0.3 s for each of its shards, the second is not."""

    def slow(done, todo, audio_s):
        if done in (1, 4):
            time.sleep(0.3)
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _extract(items, tmp_path, progress=slow, batch_s=1.0)
    _, _, cost = _extract(items, tmp_path, batch_s=1.0)
    assert 0 < cost.audio_s < sum(LENGTHS_S)
    assert cost.whole_audio_s == pytest.approx(sum(LENGTHS_S))
    assert cost.whole_extract_s >= 0.6
    _, _, again = _extract(items, tmp_path)
    assert (again.audio_s, again.extract_s) == (0.0, 0.0)
    assert (again.whole_audio_s, again.whole_extract_s) == (cost.whole_audio_s, cost.whole_extract_s)
    _, _, few = _extract(items[:3], tmp_path)
    assert few.whole_audio_s == pytest.approx(sum(LENGTHS_S[:3]))
    assert 0 < few.whole_extract_s < cost.whole_extract_s


def test_a_shard_is_written_while_the_next_is_encoded_and_no_more_than_one_waits(items, tmp_path, monkeypatch):
    write, gate, begun = store.write_whole, threading.Event(), []

    def slow(path, content):
        if path.suffix == ".arrow":
            begun.append(path)
            assert gate.wait(120)
        write(path, content)

    monkeypatch.setattr(store, "write_whole", slow)
    SEEN.clear()
    worker = threading.Thread(target=_extract, args=(items, tmp_path), kwargs={"batch_s": 1.0})
    worker.start()
    try:
        deadline = time.monotonic() + 60
        # four shards of three windows: the fourth window is of the second shard
        while not (begun and sum(SEEN) > 3) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(begun) == 1
        assert sum(SEEN) > 3  # encoded on, though the disk stands still
        time.sleep(0.3)
        assert len(begun) == 1
        assert sum(SEEN) < len(LENGTHS_S)  # but not without end
    finally:
        gate.set()
        worker.join()
    assert len(begun) == 4


@pytest.mark.slow
def test_a_full_disk_ends_the_pass_keeps_whole_shards_and_goes_on_later(items, tmp_path, monkeypatch):
    _extract(items, tmp_path / "whole")
    write = store.write_whole
    written = []

    def full(path, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)
        written.extend([path] if path.suffix == ".arrow" else [])

    monkeypatch.setattr(store, "write_whole", full)
    with pytest.raises(BenchError, match=r"small-.*\.arrow: No space left on device; finished shards are kept"):
        _extract(items, tmp_path / "full")
    assert len(_bytes(tmp_path / "full")) == 2
    monkeypatch.setattr(store, "write_whole", write)
    _extract(items, tmp_path / "full")
    assert _bytes(tmp_path / "full") == _bytes(tmp_path / "whole")


def test_a_folder_that_cannot_be_written_is_told_and_one_that_has_all_is_read(items, tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_whole", refused)
        with pytest.raises(BenchError, match="cannot be written: Read-only file system"):
            _extract(items, tmp_path)
    _extract(items, tmp_path)
    monkeypatch.setattr(store, "write_whole", refused)
    monkeypatch.setattr(store.os, "utime", refused)
    assert _extract(items, tmp_path)[2].audio_s == 0


@pytest.mark.parametrize("fault", [MemoryError("2 GB"), PermissionError("no"), RuntimeError("soxr"), ValueError("odd")])
def test_whatever_breaks_while_a_file_is_read_counts_as_that_file(items, tmp_path, monkeypatch, fault):
    read = pooled.audio.read

    def broken(path, **options):
        if path.name == "09.wav":
            raise fault
        return read(path, **options)

    monkeypatch.setattr(pooled.audio, "read", broken)
    store, spans, cost = _extract(items, tmp_path)
    assert list(cost.damaged) == ["clip9"]
    assert f"09.wav failed: {type(fault).__name__}: {fault}" in cost.damaged["clip9"]
    assert sum(span in store.rows for span in spans) == len(items) - 1


def test_no_more_is_read_ahead_than_fits_the_bound(monkeypatch):
    under_way, most = [], []

    def read():
        under_way.append(1)
        most.append(len(under_way))
        time.sleep(0.02)
        under_way.pop()
        return Groups([np.zeros((1, 10), np.float32)])

    monkeypatch.setattr(local, "AHEAD_BYTES", 100)
    jobs = [Job(Span(str(index), "0:"), str(index), read, 60) for index in range(6)]
    assert len(list(local.read_ahead(jobs, 4, Cost()))) == 6
    assert max(most) == 1  # two of 60 bytes are more than 100
    most.clear()
    jobs = [Job(job.span, job.name, read, 30) for job in jobs]
    assert len(list(local.read_ahead(jobs, 4, Cost()))) == 6
    assert 1 < max(most) <= 3


def test_damaged_files_are_named_and_move_no_other_row(items, tmp_path):
    _extract([item for index, item in enumerate(items) if index not in (4, 11)], tmp_path / "without")
    for index in (4, 11):
        items[index].path.write_bytes(items[index].path.read_bytes()[:-900])
    _, _, cost = _extract(items, tmp_path / "with")
    assert sorted(cost.damaged) == ["clip11", "clip4"]
    assert "04.wav is truncated" in cost.damaged["clip4"]
    assert _bytes(tmp_path / "with") == _bytes(tmp_path / "without")


def test_an_unreadable_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.wav cannot be read: No such file"):
        pooled.compute_digests([tmp_path / "gone.wav"])


@pytest.mark.slow
def test_two_processes_that_extract_the_same_leave_the_same_bytes(items, tmp_path):
    _extract(items, tmp_path / "whole")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import pathlib, test_pipeline as t\n"
        "t.batches.SHARD_S = 4.0\n"
        "folder = pathlib.Path(sys.argv[2])\n"
        "paths = sorted(folder.glob('*.wav'))\n"
        "items = [t._item(i, p) for i, p in enumerate(paths)]\n"
        "t._extract(items, pathlib.Path(sys.argv[3]))\n"
    )
    command = [
        sys.executable,
        "-c",
        code,
        str(Path(__file__).parent),
        str(items[0].path.parent),
        str(tmp_path / "both"),
    ]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for each in both:
        _, said = each.communicate()
        assert each.returncode == 0, said
    assert _bytes(tmp_path / "both") == _bytes(tmp_path / "whole")


def test_a_disk_too_small_is_told_before_the_first_write(items, tmp_path, monkeypatch):
    usage = store.shutil.disk_usage(tmp_path)._replace(free=store.SPARE_BYTES + 100)
    monkeypatch.setattr(store.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BenchError, match=r"0.00 GB for the features of 12 clips are needed: make room"):
        _extract(items, tmp_path)
    assert not _bytes(tmp_path)


def _cramped(most):
    """A device that has room for so many windows."""

    def load(path, device):
        encode = _load(path, device)

        def limited(waveforms, pool):
            if len(waveforms) > most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return encode(waveforms, pool)

        return limited

    return replace(SMALL, load=load)


def test_batches_are_halved_until_they_fit_the_memory_and_that_is_said(items, tmp_path):
    _extract(items, tmp_path / "roomy", _cramped(1000), window=Window(length_s=0.5))
    messages = []
    SEEN.clear()
    _extract(items, tmp_path / "cramped", _cramped(2), window=Window(length_s=0.5), say=messages.append)
    assert max(SEEN) == 2
    assert messages == [
        "cpu ran out of memory: batches of 2 s of audio from here on",
        "cpu ran out of memory: batches of 1 s of audio from here on",
    ]
    assert _bytes(tmp_path / "cramped") == _bytes(tmp_path / "roomy")
    with pytest.raises(BenchError, match=r"small: one window of 1.0 s does not fit the memory of cpu"):
        _extract(items, tmp_path / "none", _cramped(0))


def test_bfloat16_is_near_float32_and_another_store(items, tmp_path):
    exact, spans, _ = _extract(items, tmp_path)
    low, _, cost = _extract(items, tmp_path, dtype="bfloat16")
    assert exact.folder != low.folder
    assert cost.again == 0
    one, other = exact.read(1, spans).astype(np.float32), low.read(1, spans).astype(np.float32)
    assert 0 < np.abs(one - other).max() < 0.03 * np.abs(one).max()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_window_that_overflows_in_low_precision_is_encoded_again_in_float32(items, tmp_path, dtype):
    loud = soundfile.read(items[6].path, dtype="float32")[0]

    def load(path, device):
        encode = _load(path, device)

        def overflowing(waveforms, pool):
            first, second = encode(waveforms, pool)
            if torch.is_autocast_enabled("cpu"):
                for row, wave in enumerate(waveforms):
                    if len(wave) == len(loud) and np.array_equal(wave.numpy(), loud):
                        second[row] = float("inf")
            return [first, second]

        return overflowing

    exact, spans, _ = _extract(items, tmp_path)
    messages = []
    low, _, cost = _extract(items, tmp_path, replace(SMALL, load=load), dtype=dtype, say=messages.append)
    assert cost.again == 1
    assert messages == [f"{dtype} overflows on {items[6].path}: computing it again in float32"]
    assert np.array_equal(low.read(1, [spans[6]]), exact.read(1, [spans[6]]))
    assert not np.array_equal(low.read(1, [spans[5]]), exact.read(1, [spans[5]]))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: x * float("nan"), "layer '1' has NaN or infinity"),
        (lambda x: x * 0 + 1e6, "layer '1' reaches 1e+06"),
        (lambda x: x[:, :3], "layer '1' came out as"),
    ],
)
def test_features_that_cannot_be_kept_end_the_pass_by_name(items, tmp_path, spoil, words):
    def load(path, device):
        encode = _load(path, device)
        return lambda waveforms, pool: [encode(waveforms, pool)[0], spoil(encode(waveforms, pool)[1])]

    with pytest.raises(BenchError) as caught:
        _extract(items, tmp_path, replace(SMALL, load=load))
    assert "small" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.slow
def test_what_killed_writers_left_is_swept_when_it_is_old(items, tmp_path):
    made, _, _ = _extract(items[:3], tmp_path)
    old, new = made.folder / ".a.arrow.1.tmp", made.folder / ".b.arrow.2.tmp"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    store.os.utime(old, (0, 0))
    _extract(items, tmp_path)
    assert not old.exists()
    assert new.exists()  # perhaps another process is writing it


@pytest.mark.slow
def test_three_random_kills_end_in_the_same_bytes():
    script = Path(__file__).parent.parent / "benchmarks/kills.py"
    done = subprocess.run([sys.executable, str(script), "--kills", "3", "--seed", "1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "killed 3 times; all 90 shards are the same bytes" in done.stdout
