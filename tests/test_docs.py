"""The documents are true: their code runs as a new user would run it, and what they point to is there."""

import re
from pathlib import Path

import pytest
from conftest import TOY_TASK

ROOT = Path(__file__).parent.parent
FEATURES = ("plan", *(f"features {name}" for name in ("extract", "ls", "verify", "prune", "export", "push")))
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])


def _python_of(page: str) -> str:
    """The first Python block of a page."""
    return re.search(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL).group(1)


def test_the_task_of_the_guide_is_checked_and_run(bench, tmp_path):
    (tmp_path / "loops.py").write_text(_python_of("adding-a-task.md"))
    checked = bench("check", "loops.py")
    assert checked.code == 0, checked.err
    assert "all is as declared" in checked.out
    ended = bench("run", "--task", "loops.py", "--model", "mfcc", "--mini", "--json", "--quiet")
    assert ended.code == 0, ended.err
    assert ended.record["task"]["name"] == "loops"
    assert 0.5 < ended.record["scores"]["accuracy"]["test"] <= 1


def test_the_encoder_of_the_guide_is_checked_and_run(bench, tmp_path):
    (tmp_path / "loudness.py").write_text(_python_of("adding-an-encoder.md"))
    checked = bench("check", "loudness.py:LOUDNESS")
    assert checked.code == 0, checked.err
    ended = bench("run", "--model", "loudness.py:LOUDNESS", "--task", TOY_TASK, "--mini", "--json", "--quiet")
    assert ended.code == 0, ended.err
    assert ended.record["model"]["name"] == "loudness"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists() or target.startswith("http"), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_the_documents_exists(page, bench):
    known = set()
    for command in (
        "run",
        "list",
        "leaderboard",
        "check",
        "data list",
        "data check",
        "data mini",
        "data get",
        "models get",
        "models verify",
        "compare",
        "plot",
        "reproduce",
        "results check",
        "results export",
        *FEATURES,
    ):
        known |= set(re.findall(r"--[a-z][a-z-]+", bench(*command.split(), "--help").out))
    lines = [line for line in page.read_text().splitlines() if "bench " in line or line.startswith("|")]
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)):
        assert option in known | {"--version"}, option


def test_the_table_of_tasks_is_made_of_the_task_files():
    from marble_bench.cli.docs import tasks_page

    assert (ROOT / "docs/tasks.md").read_text() == tasks_page()


def test_the_page_of_encoders_is_made_of_the_encoder_files():
    from marble_bench.cli.docs import encoders_page

    assert (ROOT / "docs/encoders.md").read_text() == encoders_page()


def test_every_test_that_the_table_of_reliability_names_is_there():
    page = (ROOT / "docs/reliability.md").read_text()
    assert "@@" not in page
    rows = [line for line in page.splitlines() if "::test_" in line]
    assert len(rows) >= 150
    for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", "\n".join(rows)):
        assert re.search(rf"^def {name}\b", (ROOT / "tests" / file).read_text(), re.MULTILINE), f"{file}::{name}"
