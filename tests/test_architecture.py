"""The house holds: imports go only down, importing is free, and everything that is there is shipped."""

import ast
import graphlib
import importlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib")  # Python 3.11
ROOT = Path(__file__).parent.parent
# From the ground up: a folder may import those that stand before it. `tasks/` and `probes/` stand at the root.
ROOMS = [
    *(
        "errors",
        "_version",
        "files",
        "audio",
        "scoring",
        "metrics",
        "core",
        "protocols",
        "encoders",
        "features",
        "data",
    ),
    *("probes", "separation", "tasks", "records", "runs", "board", "api", "cli"),
]
OLD_PLACES = {  # of what plug-in authors import, for one version: the new place
    "dataset": "marble_bench.data.hf",
    "encoder": "marble_bench",
    "protocol": "marble_bench",
    "source": "marble_bench",
    "synth": "marble_bench.audio.synth",
    "targets": "marble_bench",
    "task": "marble_bench",
}
LONG, MANY_FIELDS = 40, 12  # lines of a function, fields of a class: more than that is counted
LONGEST, MOST_LONG = 60, 8  # lines that no function may pass; functions that may be long
FLAT = {  # plug-in classes are flat lists of facts, and so are the record's
    *(
        "Model",
        "Record",
        "FrozenCell",
        "Corpus",
        "Encoder",
        "Metric",
        "Protocol",
        "Schedule",
        "Separation",
        "Source",
        "Task",
        "Window",
    ),
    *("FeatureKey", "Choice", "Options"),
}
MOST_AT_THE_TOP = 12  # modules directly in `marble_bench/`


def _modules() -> dict[str, Path]:
    """Every module of the suite, the old places aside: dotted name without `marble_bench`, and its file."""
    found = {}
    for folder in ("marble_bench", "probes", "tasks"):
        above = ROOT / "marble_bench" if folder == "marble_bench" else ROOT
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(above).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            if name and name not in OLD_PLACES:
                found[name] = path
    return found


def _imports(path: Path, name: str, modules: dict[str, Path]) -> set[str]:
    """The suite's modules that a module imports anywhere: at its top, in a function, or for types alone."""
    found = set()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("marble_bench.") for alias in node.names if "marble_bench." in alias.name}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            elif base == "marble_bench" or base.startswith("marble_bench."):
                base = base.removeprefix("marble_bench").removeprefix(".")
            else:
                continue
            whole = {f"{base}.{alias.name}".removeprefix(".") for alias in node.names}
            found |= {each if each in modules else base for each in whole} - {""}
    return found


@pytest.mark.slow
def test_a_folder_imports_only_folders_that_stand_before_it():
    modules = _modules()
    assert len(modules) > 150
    place = {name: number for number, name in enumerate(ROOMS)}
    wrong = []
    for name, path in modules.items():
        here = name.split(".")[0]
        assert here == "__main__" or here in place, f"{name} has no room in this test"
        for there in _imports(path, name, modules):
            assert there in modules, f"{path} imports {there}, which is no module"
            if here != "__main__" and place[there.split(".")[0]] > place[here]:
                wrong.append(f"{name} imports {there}")
    assert not wrong


def test_what_tests_and_benchmarks_import_is_in_this_tree():
    # a module that was moved would else be taken, without a word, from another checkout, if that is the installed one
    modules = _modules()
    packages = {name for name, path in modules.items() if path.name == "__init__.py"}
    wrong = []
    for path in [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/**/*.py"), *ROOT.glob(".github/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("marble_bench."):
                continue
            base = node.module.removeprefix("marble_bench.")
            if base not in {*modules, *OLD_PLACES}:
                wrong.append(f"{path} imports {base}")
            words = set(re.findall(r"\w+", modules[base].read_text())) if base in packages else set()
            names = {alias.name for alias in node.names if base in packages and f"{base}.{alias.name}" not in modules}
            wrong += [f"{path} imports {base}.{name}" for name in names - words]
    assert not wrong


def _definitions(body: list[ast.stmt], above: str) -> list[tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """Every function and class, within others too, with its dotted name."""
    found = []
    for node in body:
        inner = [*getattr(node, "body", ()), *getattr(node, "orelse", ())]
        name = f"{above}.{node.name}" if isinstance(node, ast.FunctionDef | ast.ClassDef) else above
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.append((name, node))
        found += _definitions(inner, name)
    return found


def test_functions_are_short_and_classes_are_small():
    lines, fields = {}, {}
    for module, path in _modules().items():
        for name, node in _definitions(ast.parse(path.read_text()).body, module):
            if isinstance(node, ast.ClassDef):
                fields[name] = sum(isinstance(each, ast.AnnAssign) for each in node.body)
            else:
                lines[name] = node.end_lineno - node.lineno + 1
    assert len(lines) > 1500
    assert len(fields) > 150
    large = {name for name, count in fields.items() if count > MANY_FIELDS and name.rpartition(".")[2] not in FLAT}
    long = {name for name, count in lines.items() if count > LONG}
    assert not large
    assert not {name for name in long if lines[name] > LONGEST}
    assert len(long) <= MOST_LONG, sorted(long)


@pytest.mark.slow
def test_no_module_is_reached_from_itself():
    modules = _modules()
    below = {name: _imports(path, name, modules) - {name} for name, path in modules.items()}
    ordered = list(graphlib.TopologicalSorter(below).static_order())  # raises CycleError, which names the circle
    assert set(ordered) == set(modules)


def _attributes(path: Path) -> set[str]:
    """Every dotted name in a module that begins with a plain one: `os.fsync`, `torch.ops.mkldnn`."""
    return {ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}


@pytest.mark.slow
def test_one_door_writes_whole_files_and_one_calls_what_torch_keeps_private():
    found = {name: _attributes(path) for name, path in _modules().items()}
    # downloads go on where they stopped, so theirs are not temporary files of one process
    assert {name for name, these in found.items() if "os.fsync" in these} == {
        "data.fetch",
        "files.atomic",
        "files.download",
    }
    private = re.compile(r"torch\.(ops|_(?!_version__))")
    assert {name for name, these in found.items() if any(map(private.match, these))} == {"probes.kernels"}


def test_the_top_is_a_handful_of_modules():
    top = [name for name, path in _modules().items() if path.parent == ROOT / "marble_bench"]
    assert len(top) + 1 <= MOST_AT_THE_TOP, top  # and `__init__`


@pytest.mark.parametrize("old", OLD_PLACES)
def test_an_old_place_still_works_and_names_the_new_one(old):
    sys.modules.pop(f"marble_bench.{old}", None)
    with pytest.warns(DeprecationWarning, match=rf"marble_bench\.{old} has moved: import from {OLD_PLACES[old]}"):
        there = importlib.import_module(f"marble_bench.{old}")
    new = importlib.import_module(OLD_PLACES[old])
    public = {name for name in vars(there) if not name.startswith("_")} & set(dir(new))
    assert public
    assert all(getattr(there, name) is getattr(new, name) for name in public)


def test_what_plug_in_authors_import_is_the_top():
    import marble_bench

    assert all(getattr(marble_bench, name) is not None for name in marble_bench.__all__)
    encoders = [path for path in ROOT.glob("marble_bench/encoders/*.py") if "\nENCODERS" in path.read_text()]
    assert len(encoders) > 8
    for path in [*ROOT.glob("tasks/*.py"), *encoders]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module in (
                "marble_bench.core.task",
                "marble_bench.core.encoder",
            ):
                names = {alias.name for alias in node.names}
                assert not names & set(marble_bench.__all__), f"{path} imports {names} from {node.module}"


@pytest.mark.slow
def test_the_machinery_knows_no_task_and_no_encoder_by_name():
    from marble_bench.core import plugins

    names = {*plugins.list_task_names(), *plugins.find_encoders()}
    for path in _modules().values():
        if {"encoders", "tasks", "probes", "protocols"} & set(path.parts):  # a protocol may have a table of tasks
            continue
        strings = {n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)}
        assert not {s for s in strings if isinstance(s, str)} & names, path


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["list", "tasks"],
        ["list", "models"],
        ["list", "protocols"],
        ["list", "heads"],
        ["list", "metrics"],
        ["list", "sets"],
        ["--version"],
    ],
)
def test_asking_for_help_or_a_list_loads_nothing_heavy(arguments):
    code = (
        "import sys\nfrom marble_bench.cli import main\nsys.argv = ['bench', *sys.argv[1:]]\n"
        "try: main()\nexcept SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'librosa', 'scipy', 'sklearn', 'pyarrow', 'museval'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.slow
def test_sklearn_and_museval_are_imported_where_they_are_used_and_not_with_a_module():
    for name, path in _modules().items():
        for node in ast.parse(path.read_text()).body:
            for part in [node] if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) else []:
                names = {alias.name for alias in part.names} if isinstance(part, ast.Import) else set()
                names |= {part.module or ""} if isinstance(part, ast.ImportFrom) else set()
                assert not {"sklearn", "museval"} & {each.split(".")[0] for each in names}, name


@pytest.mark.slow
def test_a_run_from_the_cache_loads_neither(tmp_path):
    plugins = ROOT / "tests" / "plugins"
    code = (
        "import sys\nfrom marble_bench.cli import main\n"
        "for _ in range(2):\n"
        "    try: main()\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "print('HEAVY', sorted({'sklearn', 'museval', 'datasets'} & set(sys.modules)))"
    )
    call = [
        "run",
        "--task",
        plugins / "toy_task.py",
        "--model",
        f"{plugins / 'toy_encoder.py'}:TOY",
        "--mini",
        "--quiet",
    ]
    call += ["--protocol", "linear", "--cache-dir", tmp_path / "cache", "--results-dir", tmp_path / "results"]
    done = subprocess.run([sys.executable, "-c", code, *call], capture_output=True, text=True, check=True)
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
        "tasks/sets/mert_14.py",
        "probes/heads/mlp.py",
        "protocols/marble.py",
        "tasks/splits/gtzan.csv",
        "published/published.csv",
        "records/record.schema.json",
        "core/hashes.json",
        "board/page/page.html",
        "board/page/page.js",
        "board/page/charts.js",
        "py.typed",
    ):
        assert f"marble_bench/{needed}" in names
    assert not [name for name in names if name.startswith("marble_bench/tests")]


def test_the_page_of_the_architecture_names_every_module():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(?:\w+/)*(\w+)(?:\.py)?`", page))
    one_a_file = ("encoders", "heads", "metrics", "protocols")  # folders in which a file is a plug-in
    files = [*(ROOT / "marble_bench").rglob("*.py"), *(ROOT / "probes").rglob("*.py")]
    modules = {
        path.stem
        for path in files
        if not path.stem.startswith("__") and path.stem not in OLD_PLACES and path.parent.name not in one_a_file
    }
    assert len(modules) > 100
    assert sorted(modules - named - {"_version"}) == []
