"""The version is the tag's or the commit's, wherever the suite runs from; the authority on versions is `packaging`."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import util
from pathlib import Path

import pytest
from packaging.version import Version

from marble_bench import _version

ROOT = Path(__file__).parent.parent
SKIPPED = shutil.ignore_patterns(
    ".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache", "tests", "benchmarks"
)


def _git(folder, *call):
    called = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *call]
    return subprocess.run(list(map(str, called)), check=True, capture_output=True, text=True).stdout.strip()


def _commit(folder, text):
    (folder / "notes.txt").write_text(text)
    _git(folder, "add", "-A")
    _git(folder, "commit", "-qm", text)


@pytest.fixture
def checkout(tmp_path):
    """A repository with nothing but what the version is made of, one commit old."""
    folder = tmp_path / "checkout"
    (folder / "marble_bench").mkdir(parents=True)
    for name in ("marble_bench/_version.py", "pyproject.toml", ".git_archival.txt", ".gitattributes"):
        shutil.copy(ROOT / name, folder / name)
    _git(tmp_path, "init", "-q", "-b", "main", folder)
    _commit(folder, "first")
    return folder


def _loaded(folder):
    """`_version` of a folder: as a build loads it, and as a new process does."""
    spec = util.spec_from_file_location("version_of_a_folder", folder / "marble_bench" / "_version.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_checkout_tells_its_tag_and_later_the_commit(checkout):
    untagged = _loaded(checkout).version()
    assert untagged == f"0.dev1+g{_git(checkout, 'rev-parse', '--short', 'HEAD')}"
    _git(checkout, "tag", "v1.2.0")
    _git(checkout, "tag", "milestone")  # no version
    assert _loaded(checkout).version() == "1.2.0"
    assert _loaded(checkout).commit() == (_git(checkout, "rev-parse", "HEAD"), False)
    (checkout / "notes.txt").write_text("changed")
    changed = _loaded(checkout).version()
    assert changed == f"1.2.1.dev0+g{_git(checkout, 'rev-parse', '--short', 'HEAD')}.dirty"
    assert _loaded(checkout).commit()[1] is True
    _commit(checkout, "second")
    later = _loaded(checkout).version()
    assert later == f"1.2.1.dev1+g{_git(checkout, 'rev-parse', '--short', 'HEAD')}"
    _git(checkout, "tag", "-am", "the next one", "v1.3.0")
    assert (
        Version(untagged) < Version("1.2.0") < Version(later) < Version(_loaded(checkout).version()) == Version("1.3.0")
    )
    assert all(str(Version(each)) == each for each in (untagged, changed, later))


def test_an_archive_of_a_commit_tells_what_git_filled_in(checkout, tmp_path):
    def packed(reference):
        place = tmp_path / reference
        place.mkdir()
        _git(checkout, "archive", "-o", tmp_path / "archive.tar", reference)
        shutil.unpack_archive(tmp_path / "archive.tar", place)
        return _loaded(place).version()

    assert packed("main") == f"0.dev0+g{_git(checkout, 'rev-parse', '--short=9', 'HEAD')}"
    _git(checkout, "tag", "-am", "a release", "v1.2.0")
    _commit(checkout, "second")
    assert packed("v1.2.0") == "1.2.0"
    assert packed("HEAD") == f"1.2.1.dev1+g{_git(checkout, 'rev-parse', '--short=9', 'HEAD')}"


def test_a_folder_inside_another_repository_is_no_checkout_of_the_suite(checkout):
    inside = checkout / "vendored"
    shutil.copytree(checkout / "marble_bench", inside / "marble_bench")
    shutil.copy(checkout / "pyproject.toml", inside)
    _git(checkout, "tag", "v7.0.0")
    found = _loaded(inside)
    assert found._git("rev-parse", "HEAD") == ""
    assert found.version() != "7.0.0"


def test_without_git_the_installed_version_is_told_and_without_that_none(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = _loaded(checkout)
    monkeypatch.setattr(found, "_installed", lambda: None)
    assert found.version() == "0+unknown"
    assert found.commit() == (None, None)


@pytest.mark.slow
def test_the_package_the_command_and_the_record_tell_the_same(bench, toy_record):
    import marble_bench

    assert marble_bench.__version__ == _version.version()
    assert bench("--version").out == f"marble-bench {_version.version()}\n"
    suite = json.loads(toy_record().read_text())["suite"]
    assert suite == dict(zip(("version", "git", "dirty"), (_version.version(), *_version.commit()), strict=True))


def test_the_last_release_has_one_number():
    release = re.search(r"^## (\d+\.\d+\.\d+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {release[1]}\n" in cited
    assert f"\ndate-released: {release[2]}\n" in cited


@pytest.mark.slow
def test_an_sdist_a_wheel_and_a_repository_install_the_version_of_their_commit(tmp_path):
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT, folder, ignore=SKIPPED)
    _git(tmp_path, "init", "-q", "-b", "main", folder)
    _commit(folder, "first")
    _git(folder, "tag", "v1.2.0")
    _commit(folder, "second")
    expected = f"1.2.1.dev1+g{_git(folder, 'rev-parse', '--short', 'HEAD')}"
    pip = [sys.executable, "-m", "pip", "--quiet", "--no-input"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]

    def told(site, code="print(marble_bench.__version__)"):
        env = os.environ | {"PYTHONPATH": str(site)}
        done = subprocess.run(
            [sys.executable, "-c", f"import json, marble_bench, marble_bench._version as v; {code}"],
            env=env, cwd=tmp_path, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    code = f"from setuptools import build_meta; print(build_meta.build_sdist({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    shutil.unpack_archive(sdist, tmp_path / "unpacked", filter="data")
    (source,) = (tmp_path / "unpacked").iterdir()
    subprocess.run([*pip, "wheel", *offline, "-w", tmp_path / "wheels", source], check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("dist-info/METADATA"))
    assert f"\nVersion: {expected}\n" in zipfile.ZipFile(wheel).read(metadata).decode()
    subprocess.run([*pip, "install", *offline, "--target", tmp_path / "site", wheel], check=True, capture_output=True)
    assert told(tmp_path / "site") == expected
    assert json.loads(told(tmp_path / "site", "print(json.dumps(v.commit()))")) == [None, None]

    call = [*pip, "install", *offline, "--target", tmp_path / "cloned", f"git+file://{folder}"]
    subprocess.run(call, check=True, capture_output=True)
    assert told(tmp_path / "cloned") == expected
    commit = json.loads(told(tmp_path / "cloned", "print(json.dumps(v.commit()))"))
    assert commit == [_git(folder, "rev-parse", "HEAD"), False]
