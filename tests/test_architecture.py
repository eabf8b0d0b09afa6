"""The house holds: imports go only down, importing is free, and everything that is there is shipped."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parent.parent
# From the ground up; a module may import what stands before it. What one line holds may import each other.
FLOORS = [
    ["_version"],
    ["errors", "names", "escape"],
    ["disk", "source", "cache", "data", "tensor_file", "archives"],
    ["scratch", "compiling"],
    ["download"],
    ["metrics"],
    ["targets"],
    ["audio", "synth", "beat_decoder", "perturb"],
    ["stems", "mixing", "stem_scores"],
    ["task", "encoder", "protocol"],
    ["contract"],
    ["core", "plugins"],
    ["weights"],
    ["encoders"],
    ["features"],
    ["request"],
    ["comparable"],
    ["corpus"],
    ["soundness"],
    ["inspection", "dataset", "catalogue", "fetch"],
    ["gather"],
    ["statistics", "results"],
    ["scoring"],
    ["stored"],
    ["framed", "identity"],
    ["events", "separation"],
    ["record"],
    ["robustness"],
    ["claims"],
    ["corpus_facts", "copies"],
    ["verdicts"],
    ["run", "check"],
    ["prepare"],
    ["leaderboard"],
    ["reproduce"],
    ["progress", "show"],
    ["cli_options"],
    ["cli_data", "cli_features", "cli_models", "cli_board", "cli_results"],
    ["cli"],
]
# Task checks its target and metrics against each other; both sides name the other's type, inside functions only.
ALLOWED = {("metrics", "targets")}


def _modules():
    return sorted((ROOT / "marble_bench").rglob("*.py"))


def _imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("marble_bench"):
            parts = node.module.split(".")
            yield from ([parts[1]] if len(parts) > 1 else [alias.name for alias in node.names])
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("marble_bench."))


def test_imports_go_only_down():
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    wrong = []
    for path in _modules():
        here = path.relative_to(ROOT / "marble_bench").parts[0].removesuffix(".py")
        if here == "__init__":
            continue
        assert here in floor, f"{here} has no floor in this test"
        for there in _imports(path):
            if there in ("tasks", "probes"):  # tasks are reached by name; trainers are imported, by those who run them
                assert here in ("run", "record", "scoring", "events", "separation", "robustness"), (
                    f"{path} imports {there}"
                )
            elif there in floor and floor[there] > floor[here] and (here, there) not in ALLOWED:
                wrong.append(f"{here} imports {there}")
    assert not wrong


def test_the_machinery_knows_no_task_and_no_encoder_by_name():
    from marble_bench import plugins

    names = {*plugins.task_names(), *plugins.encoders()}
    for path in _modules():
        if "encoders" in path.parts:
            continue
        strings = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not {s for s in strings if isinstance(s, str)} & names, path


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["list", "tasks"], ["list", "models"], ["list", "protocols"], ["--version"]],
)
def test_asking_for_help_or_a_list_loads_nothing_heavy(arguments):
    code = (
        "import sys\nfrom marble_bench.cli import main\nsys.argv = ['bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'librosa', 'scipy', 'sklearn', 'pyarrow'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_every_package_folder_is_declared():
    declared = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    inside = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "marble_bench").rglob("__init__.py")}
    beside = {
        "marble_bench." + ".".join(p.parent.relative_to(ROOT).parts)
        for name in ("tasks", "probes")
        for p in (ROOT / name).rglob("__init__.py")
    }
    assert inside | beside | {"marble_bench.published"} == declared


@pytest.mark.slow
def test_the_wheel_installs_one_package_with_its_data_and_nothing_else(tmp_path):
    import shutil

    ignore = shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, tmp_path / "source", ignore=ignore)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--no-deps",
            "--no-build-isolation",
            "-q",
            "-w",
            tmp_path,
            tmp_path / "source",
        ],
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"marble_bench"}
    for needed in (
        "tasks/gtzan.py",
        "tasks/splits/gtzan.csv",
        "published/published.csv",
        "record.schema.json",
        "core/hashes.json",
        "leaderboard/page/page.html",
        "leaderboard/page/page.js",
        "leaderboard/page/charts.js",
        "py.typed",
    ):
        assert f"marble_bench/{needed}" in names
    assert not [name for name in names if name.startswith("marble_bench/tests")]
