"""The page and the notebook of the Python API: their code runs, and shows what the text around it says.

Cells run in order in one namespace, in this process. A kernel would bring Jupyter's dozens of packages into every install
for development, and these cells use nothing of it but the value of a cell's last line.
"""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
PAGE, NOTEBOOK = ROOT / "docs/python.md", ROOT / "docs/first-encoder.ipynb"


def run_cells(cells):
    """What the last line of each cell gives, None where it is no expression, and all names in the end."""
    names = {"__name__": "__main__"}
    found = []
    for place, text in enumerate(cells):
        parsed, value = ast.parse(text), None
        last = parsed.body.pop() if isinstance(parsed.body[-1], ast.Expr) else None
        exec(compile(parsed, f"<cell {place}>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"<cell {place}>", "eval"), names)
        found.append(value)
    return found, names


@pytest.fixture(scope="module")
def cache(tmp_path_factory, miniatures):
    """A cache with the miniatures, of both: the features of one are the features of the other."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "mini").symlink_to(miniatures / "mini")
    return folder


@pytest.fixture
def place(cache, tmp_path, monkeypatch):
    """The current folder, empty, and the cache."""
    monkeypatch.setenv("BENCH_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_its_text_says(place, capsys):
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    found, names = run_cells(["".join(cell["source"]) for cell in cells])
    printed = capsys.readouterr().out
    assert f"test {found[0]:.3f}, interval" in printed
    assert names["record"].scores["accuracy"].trivial == 0.1
    assert [layer.name for layer in found[3]] == ["low", "high"]
    assert "my-net: its weights have changed" in printed
    assert set(found[6]["model"]) == {"mfcc", "my-net"}
    difference = found[7].iloc[0]
    assert difference["value"] == pytest.approx(found[0] - found[4])
    assert found[8] == (5, 2, 64)
    assert {name: shape[0] for name, shape in found[9].items()} == {"frames": 1, "statistics": 1}
    assert list(place.glob("results/*/*/marble/gtzan.mini.json"))


@pytest.mark.slow
def test_the_code_of_the_page_runs(place, capsys):
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    _, names = run_cells(blocks)
    assert names["record"].model.name == "my-net"
    assert set(names["board"].model) == {"my-net", "mfcc", "trivial", "random"}
    assert np.isclose(names["difference"].compared[0].difference.value, -np.diff(_tests(names["table"]))[0])
    assert names["by_layer"]["statistics"].shape == (3, 120)
    assert "(Layer(name='0', width=1, frame_rate_hz=50.0),)" in capsys.readouterr().out


def _tests(table):
    """The test scores of my-net and mfcc."""
    return [table[table.model == name].test.item() for name in ("my-net", "mfcc")]


def test_the_page_names_every_argument_and_every_column():
    from marble_bench.api import Options
    from marble_bench.records.loaded import SCORE_COLUMNS

    page = PAGE.read_text()
    arguments = page.partition("| argument |")[2].partition("\n\n")[0]
    for name in [
        *Options.__annotations__,
        "model",
        "task",
        "data_dir",
        "mini",
        "protocol",
        "results_dir",
        "device",
        "progress",
    ]:
        assert f"`{name}`" in arguments, name
    columns = page.partition("| column |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", columns, re.MULTILINE) == list(SCORE_COLUMNS.items())


def test_the_columns_of_the_leaderboard_are_those_of_its_table():
    from marble_bench.board.table import COLUMNS

    _, _, told = PAGE.read_text().partition("The table has these columns:")
    rows = re.findall(r"^\| (`.*`) \| .* \|$", told.partition("The table of `mb.compare`")[0], re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])] == list(COLUMNS)
