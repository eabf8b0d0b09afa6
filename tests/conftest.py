"""What many tests share: the toy plug-ins, a cache of their own, and `bench` called in this process."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest


def load_toy_module():
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
TOY_RUN = ("run", "--task", TOY_TASK, "--model", TOY_MODEL, "--json", "--device", "cpu")
THREE_EPOCHS = ("--protocol", str(PLUGINS / "three_epochs.py"))  # of a run whose grid a test does not look at


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
    for name in ("BENCH_DATA", "BENCH_TASKS", "COLUMNS", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory) -> Path:
    """A cache folder of miniatures alone, for `corpus.ensure_mini`: pytest's workers share it, and each is composed once.

    emoMusic's, GiantSteps' and MTG-Jamendo's take 17 s of processor time each.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "miniatures"
    (folder / "mini").mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture
def own_cache_with_miniatures(tmp_path, miniatures) -> Path:
    """This test's own cache, in which the shared miniatures stand."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "mini").symlink_to(miniatures / "mini")
    return tmp_path / "cache"


@pytest.fixture
def bench(monkeypatch, capfd, tmp_path) -> Bench:
    """`bench(*arguments)` as from a shell whose current folder is `tmp_path`."""

    def call(*arguments: object) -> Ended:
        capfd.readouterr()
        code = _call(monkeypatch, tmp_path, arguments)
        return Ended(code, *capfd.readouterr())

    return call


def _call(monkeypatch, folder: Path, arguments: tuple[object, ...]) -> int:
    """The exit code of `bench` with these arguments, called in a folder."""
    from marble_bench.cli.app import main

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def toy(bench) -> Bench:
    """`bench run` of the toy encoder on the toy task's miniature, as JSON, with more arguments."""

    def call(*arguments: object) -> Ended:
        return bench(*TOY_RUN, *arguments)

    return call


@pytest.fixture(scope="session")
def shared_runs(tmp_path_factory) -> Callable[..., Path]:
    """`shared_runs(*arguments)`: `cache` and `results` of a `toy` run on the miniature, made once. To be copied only."""
    made: dict[tuple[object, ...], Path] = {}

    def call(*arguments: object) -> Path:
        if arguments not in made:
            folder = tmp_path_factory.mktemp("shared")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("BENCH_CACHE", str(folder / "cache"))
                assert _call(patch, folder, (*TOY_RUN, "--mini", *arguments)) == 0
            made[arguments] = folder
        return made[arguments]

    return call


@pytest.fixture
def toy_record(shared_runs, tmp_path) -> Callable[..., Path]:
    """`toy_record(*arguments)`: the path of the record of a `toy` run on the miniature, and its cache, as if this test had
    made them. The run itself is shared by all tests: for those that need a record, and not the making of one."""

    def call(*arguments: object) -> Path:
        shutil.copytree(shared_runs(*arguments), tmp_path, dirs_exist_ok=True)
        (path,) = (tmp_path / "results").rglob("*.mini*.json")
        return path

    return call
