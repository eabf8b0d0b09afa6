"""The documents are true: links, options, and pages that are made from code. Their code runs in `test_docs_blocks.py`."""

import re

import pytest
from docs_blocks import PAGES, ROOT

FEATURES = ("plan", *(f"features {name}" for name in ("extract", "ls", "verify", "prune", "export", "push")))


@pytest.fixture
def plug_ins(tmp_path):
    """The files of the guide to plug-ins, written beside each other: their names."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/adding-plug-ins.md").read_text(), re.DOTALL)
    for block in blocks:
        name = block.partition("\n")[0].removeprefix("# ")
        assert name.endswith(".py"), block
        (tmp_path / name).write_text(block)
    return {path.name for path in tmp_path.glob("*.py")}


def test_the_metric_of_the_guide_is_scikit_learns_and_the_set_names_what_is_there(plug_ins, tmp_path, monkeypatch):
    import sys

    import marble_bench.tasks.sets
    import numpy as np
    import torch
    from sklearn.metrics import balanced_accuracy_score

    import marble_bench.metrics
    from marble_bench.core import plugins

    for room, name in ((marble_bench.metrics, "balanced_accuracy.py"), (marble_bench.tasks.sets, "key_and_beat.py")):
        folder = tmp_path / room.__name__
        folder.mkdir()
        (tmp_path / name).rename(folder / name)
        monkeypatch.setattr(room, "__path__", [*room.__path__, str(folder)])
    metric = plugins.find_metrics()["balanced_accuracy"]
    random = np.random.default_rng(0)
    outputs, truth = random.normal(size=(2, 50, 4)), random.integers(0, 3, 50)
    expected = [balanced_accuracy_score(truth, each[:, :3].argmax(axis=1)) for each in outputs]
    found = metric.compute(torch.from_numpy(outputs[..., :3]), torch.from_numpy(truth))
    assert found.tolist() == pytest.approx(expected)
    assert set(plugins.find_task_sets()["key-and-beat"].members) == {"gs", "gtzan-rhythm"}
    for name in ("metrics.balanced_accuracy", "tasks.sets.key_and_beat"):
        sys.modules.pop(f"marble_bench.{name}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists() or target.startswith("http"), target


COMMANDS = (
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
    "data croissant",
    *FEATURES,
)


@pytest.fixture(scope="module")
def options():
    """Every option that a command has, by its help: filled by the first page that asks."""
    return set()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_option_in_the_documents_exists(page, bench, options):
    for command in () if options else COMMANDS:
        options |= set(re.findall(r"--[a-z][a-z-]+", bench(*command.split(), "--help").out))
    known = options
    lines = [line for line in page.read_text().splitlines() if "bench " in line or line.startswith("|")]
    for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)):
        assert option in known | {"--version", "--install-completion", "--show-completion"}, option


def test_the_table_of_tasks_is_made_of_the_task_files():
    from marble_bench.cli.docs import write_tasks_page

    assert (ROOT / "docs/tasks.md").read_text() == write_tasks_page()


def test_the_page_of_encoders_is_made_of_the_encoder_files():
    from marble_bench.cli.docs import write_encoders_page

    assert (ROOT / "docs/encoders.md").read_text() == write_encoders_page()


def test_every_test_that_the_table_of_reliability_names_is_there():
    page = (ROOT / "docs/reliability.md").read_text()
    assert "@@" not in page
    rows = [line for line in page.splitlines() if "::test_" in line]
    assert len(rows) >= 150
    for file, name in re.findall(r"`(test_\w+\.py)::(test_\w+)`", "\n".join(rows)):
        assert re.search(rf"^def {name}\b", (ROOT / "tests" / file).read_text(), re.MULTILINE), f"{file}::{name}"
