"""What pyproject.toml states of dependencies is so: each import is declared, and `make test-lowest` has every floor."""

import ast
import os
import re
import sys
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
EXTRAS = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
RESOLUTION = os.environ.get("BENCH_TEST_RESOLUTION", "")
COMES_WITH = {"botocore": "s3fs"}  # what an extra's own package brings along


def _imported():
    """Third-party modules that the product imports when it runs, and a file of each."""
    found = {}
    for folder in ("marble_bench", "tasks", "probes"):
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            for_types = {id(node) for block in ast.walk(tree) if _is_for_types(block) for node in ast.walk(block)}
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                if id(node) not in for_types:
                    found |= {name.split(".")[0]: path for name in names}
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | {"marble_bench"}}


def _is_for_types(node):
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


@pytest.mark.slow
def test_every_import_is_of_a_declared_dependency():
    declared = {canonicalize_name(each.name) for group in (REQUIRED, *EXTRAS.values()) for each in group}
    of_module = packages_distributions()
    unknown = {}
    for module, path in _imported().items():
        owners = {canonicalize_name(COMES_WITH.get(module, name)) for name in of_module.get(module, [module])}
        if not owners & declared:
            unknown[module] = path
    assert not unknown


def test_every_dependency_states_a_floor():
    for each in [*REQUIRED, *(one for group in EXTRAS.values() for one in group)]:
        assert re.fullmatch(r">=[0-9.]+", str(each.specifier)), f"{each} states no floor"


@pytest.mark.skipif(RESOLUTION != "lowest-direct", reason="only `make test-lowest` installs the floors")
@pytest.mark.parametrize("each", [*REQUIRED, *EXTRAS["dev"]], ids=lambda each: each.name)
def test_a_floor_is_what_was_installed(each):
    """A floor that another dependency's needs raise is never tried, and so not true."""
    if each.name == "torch":
        pytest.skip("torch comes from the pins")
    if each.marker and not each.marker.evaluate():
        pytest.skip(f"only where {each.marker}")
    floor = Version(str(each.specifier).removeprefix(">=")).release
    assert Version(version(each.name)).release[: len(floor)] == floor


@pytest.mark.skipif(not RESOLUTION, reason="only `make test-lowest` and `make test-newest` choose releases")
def test_torch_is_of_the_pins():
    pinned = re.search(r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert Version(version("torch")).public == pinned[1]
