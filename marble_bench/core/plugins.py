"""Names -> files. A file in the folder is the registration: there is no list to edit.

Tasks: `tasks/*.py`, the folders of `BENCH_TASKS`, or a path. Encoders: the `ENCODERS` of `marble_bench/encoders/*.py`,
or `path/to/file.py:Name`. Heads: `probes/*.py`. A file whose name begins with `_` is no plug-in.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from marble_bench.core import sources
from marble_bench.core.encoder import Encoder, Layer
from marble_bench.core.task import Clip, Corpus, Fault, Schedule, Task, Window, task_name
from marble_bench.core.trees import module_file
from marble_bench.errors import UsageError, did_you_mean
from marble_bench.files.names import RULE, is_name
from marble_bench.files.source import Source

DECLARED = (Task, Corpus, Clip, Window, Schedule, Fault, Encoder, Layer, Source)  # what a plug-in file is made of
FROM_PATH = "marble_bench_plugin_"  # what the modules of a user's files are called
_DIGESTS: dict[Path, str] = {}  # of users' files, as they were when they were imported
_HELPERS: dict[str, tuple[Path, str]] = {}  # modules that users' files are made of too: their file and its digest


@dataclass(frozen=True)
class Named:
    """A task with the name that its file gives it, and that file."""

    name: str
    task: Task
    path: Path


def _files(package: str) -> dict[str, list[Path]]:
    """Name -> the files in a plug-in package's folders that stand for it."""
    found: dict[str, list[Path]] = {}
    for folder in importlib.import_module(package).__path__:
        if not Path(folder).is_dir():
            raise UsageError(f"BENCH_TASKS names {folder}, which is not a folder; correct it or leave it out")
        for path in sorted(Path(folder).glob("*.py")):
            if not path.name.startswith("_"):
                found.setdefault(task_name(path), []).append(path)
    return found


def _unknown_keywords(path: Path, call: str, known: set[str]) -> list[str]:
    """Messages for the keywords of each `call(...)` in a file that it does not take."""
    problems = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == call:
            names = [keyword.arg for keyword in node.keywords if keyword.arg]
            problems += [
                f"line {node.lineno}: {call} has no '{n}'{did_you_mean(n, known)}" for n in names if n not in known
            ]
    return problems


def _load(path: Path, module: str | None) -> ModuleType:
    """Import a plug-in, by module name if it stands in a package, else from its path. UsageError says what is wrong."""
    theirs = sources.is_theirs(path.resolve())
    before = set(sys.modules)
    if theirs:
        _forget_edited_helpers()
    try:
        loaded = _import_file(path) if module is None else importlib.import_module(module)
        if theirs and (module is None or module not in before):
            _note_sources(path.resolve(), set(sys.modules) - before, module or "")
        return loaded
    except SyntaxError as error:  # of the file, or of one that it imports
        raise UsageError(f"{error.filename or path} line {error.lineno}: {error.msg}") from error
    except SystemExit as error:
        raise UsageError(f"{path} ends Python when it is imported (exit {error.code}); leave that out") from error
    except UsageError as error:
        raise UsageError(f"{path}:\n" + "\n".join(f"  {line}" for line in str(error).splitlines())) from error
    except TypeError as error:
        known = {kind.__name__: {spec.name for spec in fields(kind)} for kind in DECLARED}
        unknown = [problem for call in known for problem in _unknown_keywords(path, call, known[call])]
        if not unknown:
            raise
        raise UsageError(f"{path}:\n" + "\n".join(f"  {line}" for line in unknown)) from error
    except ImportError as error:
        raise UsageError(f"{path} cannot be imported: {error}") from error


def _import_file(path: Path) -> ModuleType:
    """Run a user's file as a module of its own: two files of one name in two folders are two modules.

    What is run are the bytes on disk: compiled files of Python's, which it tells apart by the second, are not used.
    """
    name = f"{FROM_PATH}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        raise UsageError(f"{path} is not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    importlib.invalidate_caches()
    kept, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        code = spec.loader.source_to_code(path.read_bytes(), str(path))
        sys.modules[name] = loaded  # dataclasses in the file look themselves up there
        exec(code, vars(loaded))
    finally:
        sys.dont_write_bytecode = kept
    return loaded


def _note_sources(path: Path, brought: set[str], module: str) -> None:
    """Keep the digest of a user's file that was just imported. brought: modules that its import brought in. module: its
    name, where it stands in a package.

    Raises UsageError if it imports a module beside it, and another folder's module of that name was there already.
    """
    helpers = sources.helpers_of(path, brought, module)
    for name, place in helpers.items():
        beside = module_file(path.parent / name.partition(".")[0])
        if beside and "." not in name and beside.resolve() not in (place, path):
            raise UsageError(
                f"imports '{name}' and got {place}, which was imported before; {beside} stands beside it: rename one of them"
            )
        _HELPERS[name] = place, _sha256(place)
    _DIGESTS[path] = sources.user_digest(path, helpers)


def _forget_edited_helpers() -> None:
    """Have users' modules imported anew if one of them was edited meanwhile, so that what is run is what was hashed."""
    edited = [path for path, digest in _HELPERS.values() if not path.is_file() or _sha256(path) != digest]
    if edited:
        for name in _HELPERS:
            sys.modules.pop(name, None)
        _HELPERS.clear()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_file(path: Path) -> str:
    """The source digest of a user's file: as it was imported, else as it is."""
    return _DIGESTS.get(path) or sources.user_digest(path, sources.helpers_of(path))


def fault_of(error: Exception) -> UsageError | None:
    """What a user's own task or encoder file raised, as an error that names file and line.

    None where no such file was running: then it is no fault of the user's.
    """
    is_theirs = _theirs()
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        name, file = str(frame.f_globals.get("__name__", "")), Path(frame.f_code.co_filename)
        if name.startswith((FROM_PATH, "marble_bench.tasks.")) or is_theirs(file):
            if _is_ours(file):
                continue
            what = f"{type(error).__name__}: {error}".rstrip(": ")
            return UsageError(f"{file} line {line}, in {frame.f_code.co_name}: {what} (--debug shows the traceback)")
    return None


def _is_ours(file: Path) -> bool:
    """Whether a file is of this suite: its package, its tasks or its heads, wherever they stand."""
    packages = (importlib.import_module(f"marble_bench{part}").__file__ for part in ("", ".tasks", ".probes"))
    return any(Path(each or "").parent in file.parents for each in packages)


def _theirs() -> Callable[[Path], bool]:
    """Whether a file is one that a user's plug-in is made of: it lies beside it, or the plug-in took something out of it.

    What is installed, Python's own library, and this suite are not.
    """
    modules = [module for name, module in list(sys.modules.items()) if name.startswith(FROM_PATH)]
    folders = {Path(module.__file__).parent for module in modules if module.__file__}
    taken = {
        each.__name__ if isinstance(each, ModuleType) else str(getattr(each, "__module__", ""))
        for module in modules
        for each in vars(module).values()
    }
    files = {getattr(sys.modules.get(name), "__file__", None) for name in taken}
    library = {Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")}

    def is_theirs(file: Path) -> bool:
        installed = any(each in file.parents for each in library) or "site-packages" in file.parts
        return (
            (str(file) in files or any(each in file.parents for each in folders)) and not installed and file.is_file()
        )

    return is_theirs


def task_names() -> list[str]:
    """Every task that a name reaches, sorted."""
    return sorted(_files("marble_bench.tasks"))


def _no_file(kind: str, path: Path) -> str:
    """What is said of a plug-in's file that is not there. kind: `task` or `encoder`."""
    near = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
    form, lists = ("FILE.py", "tasks") if kind == "task" else ("FILE.py:NAME", "models")
    way = f": give the path of one as {form}, or a name (bench list {lists})"
    return f"no {kind} file {path}{did_you_mean(path.name, near) or way}"


def find_task(name: str) -> Named:
    """The task that a user asks for, by its name or by the path of its file, which is opened and run.

    Only for words of a command line; what a record names goes to `registered_task`. UsageError has the closest name, or
    every mistake in the file.
    """
    if name.endswith(".py") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(_no_file("task", path))
        _check_file_name(path)
        return Named(task_name(path), _task_of(_load(path.resolve(), None), path), path)
    return registered_task(name)


def _check_file_name(path: Path) -> None:
    if not is_name(task_name(path)):
        raise UsageError(f"{path}: a task is called by its file's name, and {task_name(path)!r} is none: give {RULE}")


def registered_task(name: str) -> Named:
    """The task of a name, among those registered; no path is ever opened. Raises UsageError with the closest name."""
    files = _files("marble_bench.tasks")
    if name not in files:
        raise UsageError(f"no task '{name}'{did_you_mean(name, files)} (bench list tasks)")
    if len(files[name]) > 1:
        raise UsageError(f"two files stand for task '{name}': {', '.join(map(str, files[name]))}; rename one")
    path = files[name][0]
    _check_file_name(path)
    return Named(name, _task_of(_load(path, f"marble_bench.tasks.{path.stem}"), path), path)


def _task_of(module: ModuleType, path: Path) -> Task:
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        if task is None and (own := _encoders_of(module)):
            raise UsageError(
                f"{path} has no TASK but encoders: name one of them, {' or '.join(f'{path}:{n}' for n in own)}"
            )
        found = "nothing of that name" if task is None else repr(task)
        raise UsageError(f"{path} must define TASK = Task(...); it has {found}")
    return task


def encoders() -> dict[str, Encoder]:
    """Every encoder that a name reaches, in the order of the files."""
    found: dict[str, Encoder] = {}
    for paths in _files("marble_bench.encoders").values():
        module = _load(paths[0], f"marble_bench.encoders.{paths[0].stem}")
        found.update({encoder.name: encoder for encoder in getattr(module, "ENCODERS", ())})
    return found


def encoder_files() -> dict[str, Path]:
    """The file of every encoder that a name reaches."""
    found: dict[str, Path] = {}
    for paths in _files("marble_bench.encoders").values():
        module = _load(paths[0], f"marble_bench.encoders.{paths[0].stem}")
        found.update({encoder.name: paths[0].resolve() for encoder in getattr(module, "ENCODERS", ())})
    return found


def _encoders_of(module: ModuleType) -> dict[str, Encoder]:
    return {key: value for key, value in vars(module).items() if isinstance(value, Encoder)}


def find_encoder(name: str) -> Encoder:
    """The encoder that a user asks for, by its name or by `path/to/file.py:Name`, a file that is opened and run.

    Only for words of a command line; what a record names goes to `registered_encoder`. Raises UsageError with the closest
    name.
    """
    if found := re.fullmatch(r"(.*\.py)(?::(.*))?", name):  # the last: folders such as .pyenv have it in their names
        path, attribute = Path(found[1]).expanduser(), found[2] or ""
        if not path.is_file():
            raise UsageError(_no_file("encoder", path))
        module = _load(path.resolve(), None)
        own = _encoders_of(module)
        if attribute not in own:
            choices = ", ".join(own) or "none"
            what = f"{path} has no Encoder '{attribute}'" if attribute else f"{path} does not say which Encoder"
            raise UsageError(f"{what} (Encoders in it: {choices}); write {path}:NAME")
        return replace(own[attribute], code=digest_of_file(path.resolve()))
    return registered_encoder(name)


def registered_encoder(name: str) -> Encoder:
    """The encoder of a name, among those registered; no path is ever opened. Raises UsageError with the closest name."""
    known = encoders()
    if name not in known:
        raise UsageError(f"no model '{name}'{did_you_mean(name, known)} (bench list models)")
    return known[name]


def find_head(name: str) -> Any:
    """The module in `probes/` that draws a head's initial weights: `mlp` or `linear`."""
    return importlib.import_module(f"marble_bench.probes.{name}")
