"""What many tests share: the toy plug-ins, a cache of their own, and `bench` called in this process."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


def toy_module():
    """The toy task's module."""
    from marble_bench.core import plugins

    return sys.modules[plugins.find_task(TOY_TASK).task.clips.__module__]


# one thread for each of pytest's workers: more than cores would only wait for each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
# numba's cache is spoilt by processes that write it at once, and tests call librosa in several
_worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
_places = Path(tempfile.gettempdir())
_user = os.getuid() if hasattr(os, "getuid") else 0  # of a machine with several: none can write another's folder
os.environ["NUMBA_CACHE_DIR"] = str(_places / f"marble-bench-numba-{_user}-{_worker}")
os.environ["HF_HOME"] = str(_places / f"marble-bench-hub-{_user}")  # no test finds what the user once fetched

PLUGINS = Path(__file__).parent / "plugins"
TOY_TASK, TOY_MODEL = str(PLUGINS / "toy_task.py"), f"{PLUGINS / 'toy_encoder.py'}:TOY"


@dataclass(frozen=True)
class Ended:
    """How a call of `bench` ended."""

    code: int
    out: str
    err: str

    @property
    def record(self):
        """The record that `--json` printed."""
        return json.loads(self.out)


Bench = Callable[..., Ended]


@pytest.fixture(autouse=True)
def own_places(tmp_path, monkeypatch):
    """No test sees the user's cache, data or settings."""
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    for name in ("BENCH_DATA", "BENCH_TASKS", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def bench(monkeypatch, capfd, tmp_path) -> Bench:
    """`bench(*arguments)` as from a shell whose current folder is `tmp_path`."""

    def call(*arguments: object) -> Ended:
        from marble_bench.cli.app import main

        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture
def toy(bench) -> Bench:
    """`bench run` of the toy encoder on the toy task's miniature, as JSON, with more arguments."""

    def call(*arguments: object) -> Ended:
        return bench("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--json", "--device", "cpu", *arguments)

    return call
