"""The pipeline on a Ray cluster of this machine: the same store, also when a worker is lost. Skipped where Ray is absent."""

import os
import signal
from dataclasses import replace
from functools import partial

import pytest
from test_pipeline import SMALL, _bytes, _extract, _items, batches

from marble_bench.errors import BenchError, UsageError

try:
    import ray
except ImportError:
    ray = None
needs_ray = pytest.mark.skipif(ray is None, reason="Ray is not installed (pip install 'marble-bench[ray]')")


@pytest.fixture
def items(tmp_path):
    return _items(tmp_path / "audio")


@pytest.fixture(scope="module")
def cluster():
    """Two workers that find this folder's modules."""
    import logging
    import warnings
    from pathlib import Path

    warnings.simplefilter("ignore")
    here = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=200 << 20,
        _system_config={"memory_monitor_refresh_ms": 0},  # a full machine is no reason to kill what is tested
        runtime_env={"env_vars": {"PYTHONPATH": here}},
    )
    yield
    ray.shutdown()


@pytest.mark.skipif(ray is not None, reason="Ray is installed")
def test_without_ray_the_extra_is_named(items, tmp_path):
    with pytest.raises(UsageError, match=r"marble-bench\[ray\]"):
        _extract(items, tmp_path, engine="ray")


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_makes_the_same_store(items, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(batches, "SHARD_S", 4.0)
    items[4].path.write_bytes(b"RIFF nothing")
    _extract(items, tmp_path / "local")
    messages = []
    made = _extract(items, tmp_path / "ray", engine="ray", workers=1, batch_s=2.0, say=messages.append)
    assert _bytes(tmp_path / "ray") == _bytes(tmp_path / "local")
    assert list(made[2].damaged) == ["clip4"]
    assert messages == ["1 encoder on a Ray cluster of 1 machine"]


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_changes_clips_as_this_machine_does(items, tmp_path, cluster):
    """Noise is seeded by the file; what is changed on a worker is the same."""
    _extract(items, tmp_path / "plain")
    _extract(items, tmp_path / "local", change="noise")
    _extract(items, tmp_path / "ray", engine="ray", workers=1, change="noise")
    assert _bytes(tmp_path / "ray") == _bytes(tmp_path / "local")
    assert list(_bytes(tmp_path / "ray").values()) != list(_bytes(tmp_path / "plain").values())


def _dying(folder, path, device):
    """Notes its process; the first process that comes to its second batch is killed in the midst of it."""
    encode, batches = SMALL.load(path, device), []

    def once(waveforms, pool):
        batches.append(len(waveforms))
        (folder / str(os.getpid())).touch()
        if len(batches) == 2:
            try:
                with open(folder / "killed", "x") as file:  # of several processes one makes it
                    file.write(str(os.getpid()))
            except FileExistsError:
                pass
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return encode(waveforms, pool)

    return once


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_worker_that_is_killed_midway_loses_nothing(items, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(batches, "SHARD_S", 4.0)
    _extract(items, tmp_path / "local")
    seen = tmp_path / "seen"
    seen.mkdir()
    dying = replace(SMALL, load=partial(_dying, seen))
    _extract(items, tmp_path / "ray", dying, engine="ray", workers=2, batch_s=1.0)
    pids = {path.name for path in seen.iterdir()} - {"killed"}
    assert (seen / "killed").read_text() in pids
    assert len(pids) >= 3  # two, and the one that took the killed one's place
    assert _bytes(tmp_path / "ray") == _bytes(tmp_path / "local")


@needs_ray
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_fails_on_a_worker_is_told_as_on_this_machine(items, tmp_path, cluster):
    def load(path, device):
        encode = SMALL.load(path, device)
        return lambda waveforms, pool: [each * float("nan") for each in encode(waveforms, pool)]

    with pytest.raises(BenchError, match=r"small on .*00\.wav: layer '0' has NaN or infinity"):
        _extract(items, tmp_path, replace(SMALL, load=load), engine="ray", workers=1)


@needs_ray
@pytest.mark.filterwarnings("ignore")
def test_a_cluster_that_cannot_be_joined_is_named(items, tmp_path, monkeypatch):
    def refused(**options):
        raise ConnectionError("nobody answers")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.setenv("RAY_ADDRESS", "far:6379")
    with pytest.raises(BenchError, match=r"the Ray cluster at far:6379 cannot be joined: nobody answers"):
        _extract(items, tmp_path, engine="ray")
