"""The workflow that judges records of a pull request: its own steps, run here against an honest and a hostile branch."""

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TOY_TASK

from marble_bench.records import results

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
RESULTS = ROOT / ".github/workflows/results.yml"
CODE = ("marble_bench", "tasks", "probes", ".github", "results/published", "pyproject.toml")
NUMBER = "7"  # of the pull request
RAN = "import pathlib; pathlib.Path({!r}).write_text('ran')\n"


def _git(folder, *arguments):
    called = ["git", "-C", folder, "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(list(map(str, called)), check=True, capture_output=True, text=True).stdout


def _commit(folder):
    _git(folder, "add", "-Af")
    _git(folder, "commit", "-qm", "change")


@pytest.fixture
def upstream(tmp_path, shared_runs):
    """A repository of this suite's code with a record of its base branch; the checkout of a workflow beside it."""
    folder = tmp_path / "upstream"
    for name in CODE:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    shutil.copytree(shared_runs() / "results", folder / "results", dirs_exist_ok=True)
    _git(tmp_path, "init", "-q", "-b", "main", folder)
    _commit(folder)
    return folder


@pytest.fixture
def judged(tmp_path, upstream):
    """The exit code and the output of the workflow's steps on what stands in `upstream`, as pull request."""

    def call():
        _git(upstream, "checkout", "-qb", "branch")
        _commit(upstream)
        _git(upstream, "update-ref", f"refs/pull/{NUMBER}/head", "branch")
        checkout = tmp_path / "checkout"
        _git(tmp_path, "clone", "-q", "--branch", "main", upstream, checkout)
        _git(checkout, "update-ref", "-d", "refs/remotes/origin/branch")  # a workflow has the base alone
        said = ""
        for step in _steps():
            words = [sys.executable if word == "python" else word for word in step.split()]
            env = os.environ | {"NUMBER": NUMBER, "PYTHONPATH": str(upstream)}
            piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            done = subprocess.run(" ".join(words), shell=True, cwd=checkout, env=env, **piped)
            said += done.stdout
            if done.returncode:
                return done.returncode, said
        return 0, said

    return call


def _steps():
    """What the workflow runs, but for installing the base's dependencies, which are here."""
    found = re.findall(r"^ +- run: (.+)$", RESULTS.read_text(), re.MULTILINE)
    assert [step for step in found if "pip install" in step] == ["python -m pip install -c constraints.txt ."]
    return [step for step in found if "pip install" not in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_with_its_version_beside_it(workflow):
    used = re.findall(r"uses: (.+)", workflow.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_has_no_secret_and_may_only_read(workflow):
    text = workflow.read_text()
    assert re.findall(r"^permissions:\n((?:  .+\n)+)", text, re.MULTILINE) == ["  contents: read\n"]
    published = workflow.name == "docs.yml"  # its job of main alone may write the site, and nothing else
    assert text.count("permissions:") == 1 + published
    assert set(re.findall(r"[\w-]+: write", text)) == ({"pages: write", "id-token: write"} if published else set())
    assert not re.search(r"secrets\b|pull_request_target|workflow_run|GITHUB_TOKEN", text)
    for step in re.findall(r"run: (.+)", text):  # what a pull request names must not become shell
        assert "${{" not in step, step


def test_no_record_passes_for_a_table_of_published_scores():
    """What is left to a person to read are those tables and the README alone, and nothing that a board would take."""
    published = runpy.run_path(str(ROOT / ".github/judge_results.py"), run_name="judge_results")["PUBLISHED"]
    tables = [path.relative_to(ROOT).as_posix() for path in (ROOT / "results").rglob("*.csv")]
    assert len(tables) == 2
    assert all(published.fullmatch(each) for each in [*tables, "results/README.md"])
    for place in (
        "results/published",
        "results/README.md",
        "results/README.md.model",
        "results/published/published.csv",
    ):
        assert not published.fullmatch(f"{place}/0123456789ab/marble/gtzan.json"), place


@pytest.mark.slow
def test_an_honest_record_is_valid_whatever_else_the_branch_changes(upstream, judged, toy):
    toy("--mini", "--seeds", "1", "--results-dir", upstream / "results")
    (upstream / "README.md").write_text("more words\n")
    code, said = judged()
    assert code == 0, said
    assert "2 records, 1 of them of this branch" in said
    assert "1 files outside results/ are changed; they were not looked at" in said
    assert "the records of this branch are valid" in said


@pytest.mark.slow
def test_a_hostile_branch_is_judged_by_the_base_and_nothing_of_it_runs(upstream, judged, toy, tmp_path):
    mark = tmp_path / "ran"
    evil = RAN.format(str(mark))
    standing = next((upstream / "results").rglob("toy-task.mini.json"))
    toy("--mini", "--seeds", "1", "--results-dir", upstream / "results")
    (forged,) = set((upstream / "results").rglob("toy-task.*.json")) - {standing}
    record = json.loads(forged.read_text())
    record["scores"]["accuracy"].update(test=1.0, per_seed=[1.0])
    record["digests"]["record"] = results.compute_digest(record)
    forged.write_text(json.dumps(record, indent=1))
    record["task"]["name"] = str(forged.parent.relative_to(upstream) / "evil.py")
    record["digests"]["record"] = results.compute_digest(record)
    forged.with_name("evil.py.mini.json").write_text(json.dumps(record, indent=1))
    forged.with_name("evil.py").write_text(evil)
    shutil.copy(TOY_TASK, forged.with_name("task.json.py"))
    (upstream / "results/toy/conftest.py").write_text(evil)
    unseen = upstream / "results/published/0123456789ab/marble/unseen.json"  # where tables of published scores stand
    unseen.parent.mkdir(parents=True)
    unseen.write_text("{}")
    forged.with_name("two\nlines.json").write_text("{}")
    forged.with_name("link.json").symlink_to("/etc/hostname")
    forged.with_name("alone.grid.parquet").write_bytes(b"PAR1")
    forged.with_name("musdb.bsseval.parquet").write_bytes(b"PAR1")
    large = forged.with_name("large.json")
    large.write_bytes(b" " * (5 << 20))
    standing.write_text(standing.read_text().replace("toy", "joy"))
    results.find_table_path(standing, "grid").unlink()
    for name in ("records/validation.py", "records/results.py", "cli/results.py", "cli/__init__.py", "__init__.py"):
        assert (ROOT / "marble_bench" / name).is_file()
        (upstream / "marble_bench" / name).parent.mkdir(parents=True, exist_ok=True)
        (upstream / "marble_bench" / name).write_text(evil + "def main(): raise SystemExit(0)\n")
    for name in ("conftest.py", "sitecustomize.py", "usercustomize.py", "tests/test_results.py", "re.py", "setup.py"):
        (upstream / name).parent.mkdir(exist_ok=True)
        (upstream / name).write_text(evil)
    (upstream / ".github/judge_results.py").write_text(evil)
    (upstream / ".gitattributes").write_text("*.json filter=evil\n")
    (upstream / "pyproject.toml").write_text("[tool.pytest.ini_options]\naddopts = '-p evil'\n")
    code, said = judged()
    assert code == 1, said
    assert not mark.exists()
    lines = said.splitlines()
    for what, why in (
        ("evil.py'", "is not named as a record"),
        ("task.json.py'", "is not named as a record"),
        ("results/toy/conftest.py'", "is not named as a record"),
        (r"two\nlines.json'", "is not named as a record"),
        ("link.json'", "is no regular file (mode 120000)"),
        ("alone.grid.parquet'", "is a table without its record"),
        ("musdb.bsseval.parquet'", "holds BSSEval's windows"),
        ("large.json'", "has 5242880 bytes; at most 4194304"),
        (f"{standing.name}'", "is on the base already"),
        (".grid.parquet'", "is deleted"),
    ):
        assert [line for line in lines if line.startswith("no: ") and what in line and why in line], (what, said)
    assert "scores: accuracy: 1 in the record" in said  # the forged score, found by the base's checker
    assert "results/published/0123456789ab/marble/unseen.json" in said
    assert "bench results check ended with 3" in said
    assert lines[-1] == "the records of this branch may not be merged"
    assert len([line for line in lines if line.startswith("no: ")]) == 11, said
