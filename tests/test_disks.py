"""Processes and disks: what a killed run leaves, places that cannot be written, full disks, files that are shared."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import soundfile
from conftest import TOY_MODEL, TOY_TASK
from made_records import make
from marble_bench.probes import grid, probe_cache, trainer

from marble_bench.data import corpus
from marble_bench.errors import BenchError
from marble_bench.files import locks, scratch
from marble_bench.files.atomic import open_atomic_path
from marble_bench.files.scratch import open_scratch_folder

LOUD = print


def _mounts(*arguments: object) -> bool:
    """Whether the system mounted that; only the system's own user may."""
    if os.geteuid() or not shutil.which("mount"):
        return False
    return subprocess.run(["mount", *map(str, arguments)], capture_output=True).returncode == 0


@contextmanager
def read_only(folder: Path):
    """A folder that nothing can be written to meanwhile. Skips the test where that cannot be had."""
    if os.geteuid():
        os.chmod(folder, 0o500)
        try:
            yield
        finally:
            os.chmod(folder, 0o700)
        return
    if not _mounts("--bind", folder, folder):
        pytest.skip("nothing can be mounted here")
    try:
        if not _mounts("-o", "remount,bind,ro", folder):
            pytest.skip("nothing can be mounted read-only here")
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextmanager
def small_disk(folder: Path, megabytes: float):
    """A folder on a disk of that size. Skips the test where that cannot be had."""
    folder.mkdir(parents=True, exist_ok=True)
    if not _mounts("-t", "tmpfs", "-o", f"size={int(1024 * megabytes)}k", "tmpfs", folder):
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody waited for is a zombie, which has."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout
    return not state.strip() or state.startswith("Z")


@pytest.mark.slow
def test_workers_of_a_killed_run_end_with_it(tmp_path):
    code = (
        "import os, pathlib, sys, time\n"
        "from marble_bench.separation.bsseval_pool import BssevalPool\n"
        "def work(index):\n"
        "    print(os.getpid(), flush=True)\n"
        "    time.sleep(60 if index else 0)\n"
        "if __name__ == '__main__':\n"
        "    with BssevalPool(2, 8000, pathlib.Path(sys.argv[1])) as measuring:\n"
        "        jobs = [measuring.pool.submit(work, index) for index in (1, 0, 0, 0)]\n"
        "        jobs[3].result()\n"
        "        print('all', flush=True)\n"
        "        time.sleep(60)\n"
    )
    script = tmp_path / "parent.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script), str(tmp_path)], stdout=subprocess.PIPE, text=True)
    workers: set[int] = set()
    for line in parent.stdout:
        if line.strip() == "all":
            break
        workers.add(int(line))
    assert len(workers) == 2  # one at work, one that waits
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while not all(map(_gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = [pid for pid in workers if not _gone(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


def _scratch_of_another(cache: Path) -> subprocess.Popen:
    """A process that has a scratch folder with a file in it; when it is there."""
    code = (
        "import sys, time, pathlib\nfrom marble_bench.files.scratch import open_scratch_folder\n"
        "with open_scratch_folder(pathlib.Path(sys.argv[1]), print) as folder:\n"
        "    (folder / 'large').write_bytes(bytes(1000)); print('there', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(cache)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "there\n"
    return process


def test_scratch_of_a_killed_process_is_swept_and_that_of_one_at_work_is_not(tmp_path):
    killed, working = (_scratch_of_another(tmp_path) for _ in range(2))
    try:
        killed.kill()
        killed.wait()
        files = list((tmp_path / "scratch").glob("*/large"))
        assert len(files) == 2
        with open_scratch_folder(tmp_path, LOUD) as mine:
            assert len(list((tmp_path / "scratch").glob("*/large"))) == 1
            assert mine.is_dir()
            with open_scratch_folder(tmp_path, LOUD) as another:  # one process may have two
                assert mine.is_dir()
                assert another != mine
        assert len([path for path in (tmp_path / "scratch").iterdir() if path.is_dir()]) == 1
    finally:
        for process in (killed, working):
            process.kill()
            process.wait()
            process.stdout.close()
    with open_scratch_folder(tmp_path, LOUD):
        pass
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["lock"]


def test_scratch_of_other_machines_and_of_earlier_versions_is_left_for_as_long_as_it_may_be_in_use(tmp_path):
    root = tmp_path / "scratch"
    for name in ("elsewhere-12345678", "tmpold", "tmpnew"):
        (root / name).mkdir(parents=True)
    (root / "elsewhere-12345678.lock").touch()
    for name in ("elsewhere-12345678", "tmpold"):
        os.utime(root / name, (0, 0))
    with open_scratch_folder(tmp_path, LOUD):
        pass
    assert sorted(path.name for path in root.iterdir() if path.is_dir()) == ["elsewhere-12345678", "tmpnew"]


def test_a_disk_that_fills_up_under_scratch_is_told_in_a_line(tmp_path):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    words = r"scratch has no room left \(No space left on device\): make room"
    with pytest.raises(BenchError, match=words), open_scratch_folder(tmp_path, LOUD):
        full()
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["lock"]


def test_where_the_cache_cannot_be_written_scratch_stands_elsewhere_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "cache/scratch").mkdir(parents=True)
    messages = []
    with read_only(tmp_path / "cache/scratch"), open_scratch_folder(tmp_path / "cache", messages.append) as folder:
        (folder / "file").touch()
        assert folder.is_relative_to(tmp_path / "tmp")
    assert len(messages) == 1
    assert "scratch cannot be written" in messages[0]


TOY = ("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--json", "--mini", "--device", "cpu", "--seeds", 1)
ALOUD = tuple(each for each in TOY if each != "--json")  # which is told what happens on the way


@pytest.mark.slow
def test_a_read_only_cache_that_has_everything_serves_a_run(bench, tmp_path):
    first = bench(*TOY, "--results-dir", "first")
    assert first.code == 0, first.err
    with read_only(tmp_path / "cache"):
        again = bench(*ALOUD, "--results-dir", "again")
        assert again.code == 0, again.err
        (path,) = (tmp_path / "again").rglob("*.json")
        record = json.loads(path.read_text())
        assert record["scores"] == first.record["scores"]
        assert record["cost"]["cached"]
        assert again.err.count("cannot be written") == 1
        assert "finished probes are not stored, because" in again.err
        board = bench("leaderboard", "--mini", "--results-dir", tmp_path / "again")
        assert board.code == 0, board.err
        assert bench("features", "verify").code == 0


def test_a_read_only_cache_that_lacks_something_is_told_in_a_line(bench, tmp_path):
    (tmp_path / "cache").mkdir()
    with read_only(tmp_path / "cache"):
        ended = bench(*TOY)
    assert ended.code == 3
    assert ended.err.startswith("error: the miniature of toy cannot be written to")
    assert "give another --cache-dir" in ended.err
    assert len(ended.err.splitlines()) == 1


@pytest.mark.slow
def test_a_board_of_read_only_places_is_shown(bench, tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        make(tmp_path / "results", name, seed=seed)
    (tmp_path / "cache/statistics").mkdir(parents=True)
    with read_only(tmp_path / "results"), read_only(tmp_path / "cache"):
        board = bench("leaderboard", "--json")
    assert board.code == 0, board.err
    assert board.err == ""
    assert bench("leaderboard", "--json").out == board.out


@pytest.mark.slow
def test_a_damaged_statistics_cache_is_not_believed(bench, tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        make(tmp_path / "results", name, seed=seed)
    board = bench("leaderboard", "--json").out
    kept = sorted((tmp_path / "cache/statistics").iterdir())
    before = [path.read_bytes() for path in kept]
    for path, damage in zip(kept, (lambda c: c[:40], lambda c: c[:-2] + bytes([c[-2] ^ 1]) + c[-1:]), strict=True):
        path.write_bytes(damage(path.read_bytes()))
    assert bench("leaderboard", "--json").out == board
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.parametrize("megabytes", [0.0625, 0.5])
def test_a_disk_that_a_miniature_does_not_fit_is_told_in_a_line(bench, tmp_path, megabytes):
    with small_disk(tmp_path / "small", megabytes):
        ended = bench(*TOY, "--cache-dir", tmp_path / "small")
        assert not [path for path in (tmp_path / "small/mini").iterdir() if path.is_dir()]
    assert ended.code == 3
    assert ended.err.startswith("error: the miniature of toy cannot be written to")
    assert "MB are free there); make room" in ended.err
    assert len(ended.err.splitlines()) == 1


def test_what_libsndfile_says_of_a_full_disk_is_told_as_one(bench, tmp_path, monkeypatch):
    def full(*_, **__):
        raise soundfile.LibsndfileError(2, "Error opening: ")

    monkeypatch.setattr(soundfile, "write", full)
    ended = bench("run", "--task", "gtzan", "--model", "mfcc", "--mini", "--device", "cpu")
    assert ended.code == 3
    assert ended.err.startswith("error: the miniature of gtzan cannot be written to")


def test_a_miniature_that_was_killed_midway_is_swept(tmp_path):
    from marble_bench.core import plugins

    toy = plugins.find_task(TOY_TASK).task.corpus
    left = tmp_path / "mini" / f".{toy.name}-000000000000.abcdef.tmp"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    corpus.ensure_mini(toy, tmp_path)
    assert [path.name.startswith(".") for path in (tmp_path / "mini").iterdir()] == [False]


LIBROSA = "import numba\n@numba.njit(cache=True)\ndef doubled(x): return 2 * x\n"
COMPILED = """
import os, pathlib, sys
sys.path.insert(0, sys.argv[2])
from marble_bench.files import locks
locks.keep_compiled(pathlib.Path(sys.argv[1]))
assert not {"numba", "librosa"} & set(sys.modules)
with locks.one_at_a_time():
    import numba.core.caching as c
    for name in ("UserWideCacheLocator", "_UserWideCacheLocator"):  # the user's home cannot be written
        if hasattr(c, name): getattr(c, name).from_function = classmethod(lambda *_: None)
    from librosa import doubled
    assert doubled(2) == 4
    print(os.environ.get("NUMBA_CACHE_DIR"))
"""


@pytest.mark.slow
@pytest.mark.parametrize("writable", ["librosa", "cache", "nothing"])
def test_what_numba_compiles_is_kept_where_neither_home_nor_its_own_folder_can_be_written(tmp_path, writable):
    """Beside librosa, else in the cache, else among temporary files.

    With a librosa of one function; the user's home cannot be written, so numba has no other place.
    """
    cache, librosa, temporary = tmp_path / "cache", tmp_path / "site/librosa", tmp_path / "tmp"
    for folder in (cache, librosa, temporary):
        folder.mkdir(parents=True)
    (librosa / "__init__.py").write_text(LIBROSA)
    environment = {key: value for key, value in os.environ.items() if key != "NUMBA_CACHE_DIR"}
    environment |= {"BENCH_CACHE": str(cache), "TMPDIR": str(temporary)}
    with ExitStack() as stack:
        for folder in {"librosa": (cache,), "cache": (librosa,), "nothing": (librosa, cache)}[writable]:
            stack.enter_context(read_only(folder))
        call = [sys.executable, "-c", COMPILED, str(cache), str(librosa.parent)]
        done = subprocess.run(call, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    place = {"librosa": None, "cache": cache / "numba", "nothing": temporary / f"marble-bench-numba-{os.getuid()}"}
    assert done.stdout.strip() == str(place[writable])
    assert list((place[writable] or librosa / "__pycache__").rglob("*.nbi"))
    said = writable == "nothing"
    assert done.stderr.count("\n") == said
    assert ("cannot be written" in done.stderr) == said


def test_processes_wait_for_each_other_by_the_place_that_numba_writes(tmp_path, monkeypatch):
    """Not by their caches: with two of them, both would write beside the one librosa at once."""
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(locks.tempfile, "gettempdir", lambda: str(tmp_path))
    for place in ("/site/librosa", "/site/librosa", "/other/librosa"):
        monkeypatch.setattr(locks, "_find_beside_librosa", lambda place=place: place)
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / str(time.monotonic_ns())))
        with locks.one_at_a_time():
            pass
    assert len(list(tmp_path.glob("*.lock"))) == 2
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_a_folder_that_the_user_gave_numba_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "_find_beside_librosa", lambda: "")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/of/the/user")
    locks.keep_compiled(tmp_path)
    assert os.environ["NUMBA_CACHE_DIR"] == "/of/the/user"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    locks.keep_compiled(tmp_path / "not/there/yet")
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path / "not/there/yet/numba")
    assert not list(tmp_path.iterdir())


SHARED = """
import os, pathlib, sys, torch
from marble_bench.probes import grid, probe_cache
probes = [grid.Probe(0, 0.1, 0.0, 0)]

def work(number):
    kept = probe_cache.ProbeCacheFolder(pathlib.Path(sys.argv[1]), "key")
    for turn in range(60):
        found = kept.get(probes)
        if found is not None:
            assert (found[0].state["w"] == found[0].valid).all(), found  # whole, and of one writer
        kept.put([grid.TrainedProbe(probes[0], float(number), 0, (0.0,), False, {"w": torch.full((200,), float(number))})])
        if turn % 3 == number % 3:
            kept.clear()

children = []
for number in range(4):
    children.append(os.fork())
    if not children[-1]:
        try:
            work(number)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr)
            os._exit(1)
        os._exit(0)
sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


@pytest.mark.slow
def test_four_processes_that_keep_and_clear_one_block_of_probes(tmp_path):
    done = subprocess.run([sys.executable, "-c", SHARED, str(tmp_path / "probes")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left = [path.name for path in (tmp_path / "probes").iterdir()]
    assert len(left) <= 1
    assert not [name for name in left if name.endswith(".tmp")]


def _block(seed: int):
    probe = grid.Probe(0, 0.1, 0.0, seed)
    return [probe], [grid.TrainedProbe(probe, 0.5, 0, (0.5,), False, {})]


def test_a_block_is_kept_with_the_time_since_the_one_before_and_clearing_leaves_other_keys(tmp_path):
    first, other = probe_cache.ProbeCacheFolder(tmp_path, "key"), probe_cache.ProbeCacheFolder(tmp_path, "other")
    other.put(_block(0)[1])
    for seed in (0, 1):
        time.sleep(0.2)
        first.put(_block(seed)[1])
    again = probe_cache.ProbeCacheFolder(tmp_path, "key")
    assert again.earlier_s == 0
    assert again.get(_block(0)[0])[0].valid == 0.5
    assert 0.2 <= again.earlier_s < 0.4
    again.put(_block(0)[1])  # written again without the weights that lost: the time stays
    assert again.get(_block(1)[0])
    assert 0.4 <= again.earlier_s < 1.0
    third = probe_cache.ProbeCacheFolder(tmp_path, "key")
    third.get(_block(0)[0])
    assert 0.2 <= third.earlier_s < 0.4
    third.clear()
    assert third.get(_block(0)[0]) is None
    assert other.get(_block(0)[0])


def test_probes_are_not_kept_on_a_disk_that_refuses_and_a_full_one_ends_the_run(tmp_path, monkeypatch):
    messages, error = [], OSError(errno.EROFS, "Read-only file system")

    def refuses(*_):
        raise error

    monkeypatch.setattr(probe_cache, "write_whole", refuses)
    cache = probe_cache.ProbeCacheFolder(tmp_path, "key", messages.append)
    for seed in (0, 1):
        cache.put(_block(seed)[1])
    assert messages == [f"finished probes are not stored, because {tmp_path} cannot be written: Read-only file system"]
    error = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(BenchError, match=r"cannot be stored in .*: No space left on device"):
        probe_cache.ProbeCacheFolder(tmp_path, "key", messages.append).put(_block(0)[1])


@pytest.mark.slow
def test_what_training_took_before_a_run_died_counts_for_the_one_that_goes_on(bench, tmp_path, monkeypatch):
    trained, put, kept = trainer._Run._train, probe_cache.ProbeCacheFolder.put, []
    monkeypatch.setattr(trainer.blocking, "count_threads", lambda _: 1)

    def slow(self, members):
        time.sleep(0.5)
        return trained(self, members)

    def dies(self, fitted):
        if kept:
            raise BenchError("killed")
        put(self, fitted)
        kept.append(fitted)

    with monkeypatch.context() as dying:
        dying.setattr(trainer._Run, "_train", slow)
        dying.setattr(probe_cache.ProbeCacheFolder, "put", dies)
        assert "killed" in bench(*TOY).err
    alone = bench(*TOY, "--results-dir", "alone", "--cache-dir", tmp_path / "other").record["cost"]["probe_s"]
    cost = bench(*TOY).record["cost"]
    assert cost["probe_s"] >= 0.5 + alone / 10
    assert cost["audio_s"] == 51.0
    assert cost["extract_s"] > 0
    assert cost["real_time_factor"] == pytest.approx(cost["audio_s"] / cost["extract_s"], rel=0.1)  # of rounded numbers


@pytest.fixture
def stored(bench, tmp_path):
    """A record; its path."""
    assert bench(*TOY).code == 0
    (path,) = (tmp_path / "results").rglob("*.json")
    return path


def _spoilt(path: Path, how: str) -> None:
    table = path.with_name(path.name.replace(".json", ".predictions.parquet"))
    record = json.loads(path.read_text())
    if how == "gone":
        table.unlink()
    elif how == "cut":
        table.write_bytes(table.read_bytes()[:-30])
    elif how == "flipped":
        content = bytearray(table.read_bytes())
        content[len(content) // 2] ^= 1
        table.write_bytes(content)
    else:  # a number that may differ between runs was edited by hand
        record["cost"]["peak_memory_mb"] = 1.0
        path.write_text(json.dumps(record, indent=1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("gone", "its predictions table was gone"),
        ("cut", "its predictions table was damaged"),
        ("flipped", "its predictions table was damaged"),
        ("edited", "its JSON was changed by hand"),
    ],
)
def test_a_record_that_is_not_whole_is_written_again_where_the_numbers_agree(bench, stored, how, words):
    scores = json.loads(stored.read_text())["scores"]
    _spoilt(stored, how)
    assert bench("results", "check", stored).code == 3
    again = bench(*ALOUD)
    assert again.code == 0, again.err
    assert f"{stored.relative_to(stored.parents[4])} was not whole ({words})" in again.err.replace("\n", "")
    assert "was there already" not in again.err
    assert bench("results", "check", stored).code == 0
    assert json.loads(stored.read_text())["scores"] == scores
    assert "exists already with the same result" in bench(*ALOUD).err


@pytest.mark.slow
def test_a_record_that_is_not_whole_and_tells_other_numbers_is_left(bench, stored):
    _spoilt(stored, "gone")
    record = json.loads(stored.read_text())
    record["selection"]["probes"] += 1
    stored.write_text(json.dumps(record, indent=1))
    ended = bench(*TOY)
    assert ended.code == 1
    assert "holds another result; nothing was written" in ended.err
    assert "selection.probes: 25 -> 24" in ended.err
    assert not list(stored.parent.glob("*.predictions.parquet"))


@pytest.mark.slow
def test_a_record_that_stands_is_told_before_any_work(bench, stored, tmp_path, monkeypatch):
    from conftest import load_toy_module

    from marble_bench.errors import DataError
    from marble_bench.runs import inputs

    def no_work(*_):
        raise DataError("work began")

    corpus = tmp_path / "corpus"
    corpus.mkdir()
    load_toy_module().write(corpus)
    next(corpus.rglob("*.wav")).unlink()
    other = ("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--device", "cpu", "--seeds", 1, "--data-dir", corpus)
    assert bench(*other, "--allow-missing").code == 0
    monkeypatch.setattr(inputs, "extract_features", no_work)
    for run, name in ((ALOUD, stored.name), ((*other, "--allow-missing"), "toy-task.partial-seeds1.json")):
        ended = bench(*run)
        told, failed = ended.err.splitlines()
        assert name in told
        assert "exists already; if this run finds another result, it will not be replaced without --overwrite" in told
        assert failed == "error: work began"
        assert bench(*run, "--overwrite").err == bench(*run, "--layers", "1").err == "error: work began\n"


@pytest.mark.slow
def test_a_record_that_cannot_be_read_is_left_unless_it_is_to_be_replaced(bench, stored):
    stored.write_text(stored.read_text()[:-40])
    ended = bench(*TOY)
    assert ended.code == 3
    assert "cannot be read as a record" in ended.err
    assert "Nothing was written; delete it, or replace it by --overwrite" in ended.err
    assert bench(*TOY, "--overwrite").code == 0
    assert bench("results", "check", stored).code == 0


@pytest.mark.slow
def test_a_flipped_bit_in_the_features_stops_a_run_and_prune_mends_it(bench, stored, tmp_path):
    shards = sorted((tmp_path / "cache/features").rglob("*.arrow"))
    before = {shard.name: shard.read_bytes() for shard in shards}
    content = bytearray(before[shards[0].name])
    content[len(content) // 2] ^= 1 << 6
    shards[0].write_bytes(content)
    ended = bench(*TOY, "--overwrite")
    assert ended.code == 3
    assert f"feature shard {shards[0]} is not what was written" in ended.err
    assert "bench features prune --damaged removes it, and the same command makes it again" in ended.err
    exported = bench("features", "export", "out.parquet", *TOY[1:5], "--mini", "--device", "cpu")
    assert exported.code == 3
    assert not (tmp_path / "out.parquet").exists()
    assert bench("features", "prune", "--damaged", "--yes").code == 0
    again = bench(*ALOUD)
    assert again.code == 0, again.err
    assert "exists already with the same result" in again.err
    assert {shard.name: shard.read_bytes() for shard in (tmp_path / "cache/features").rglob("*.arrow")} == before


@pytest.mark.slow
def test_a_deleted_shard_is_named_by_verify(bench, stored, tmp_path):
    shard = sorted((tmp_path / "cache/features").rglob("*.arrow"))[1]
    shard.unlink()
    verified = bench("features", "verify", "--json")
    assert verified.code == 3
    (found,) = verified.record["damaged"]
    assert f"feature shard {shard} is missing" in found["problem"]
    assert bench(*TOY).code == 0
    assert bench("features", "verify").code == 0


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_written_comes_whole_or_leaves_what_was_there(tmp_path, kind):
    place = tmp_path / "place"

    def write(text, fails):
        with open_atomic_path(place) as temporary:
            if kind == "folder":
                temporary.mkdir()
            (temporary / "inside" if kind == "folder" else temporary).write_text(text)
            assert fails != text

    write("first", fails="second")
    with pytest.raises(AssertionError):
        write("second", fails="second")
    assert (place / "inside" if kind == "folder" else place).read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
