"""How plug-in files are found and loaded, whatever their kind: every mistake in one is told, with its file."""

from __future__ import annotations

import ast
import importlib
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Generic, TypeVar

from marble_bench.core import user_files
from marble_bench.core.advice import find_advice
from marble_bench.core.encoder import Encoder, Layer
from marble_bench.core.head import Head
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Clip, Corpus, Fault, Schedule, Task, Window, name_task
from marble_bench.core.task_set import TaskSet
from marble_bench.errors import UsageError, format_error, suggest_name
from marble_bench.files.source import Source
from marble_bench.scoring.metric import Metric

# What a plug-in file is made of.
DECLARED = (Task, Corpus, Clip, Window, Schedule, Fault, Encoder, Layer, Source, Protocol, Head, Metric, TaskSet)
Plugin = TypeVar("Plugin", Protocol, Head, TaskSet)


def find_files_by_name(package: str) -> dict[str, list[Path]]:
    """Name -> the files in a plug-in package's folders that declare it."""
    found: dict[str, list[Path]] = {}
    for folder in importlib.import_module(package).__path__:
        if not Path(folder).is_dir():
            raise UsageError(f"BENCH_TASKS names {folder}, which is not a folder; correct it or leave it out")
        for path in sorted(Path(folder).glob("*.py")):
            if not path.name.startswith("_"):
                found.setdefault(name_task(path), []).append(path)
    return found


def _find_unknown_keywords(path: Path, call: str, known: set[str]) -> list[str]:
    """Messages for the keywords of each `call(...)` in a file that it does not take."""
    problems = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == call:
            names = [keyword.arg for keyword in node.keywords if keyword.arg]
            problems += [
                f"line {node.lineno}: {call} has no '{n}'{suggest_name(n, known)}" for n in names if n not in known
            ]
    return problems


def load(path: Path, module: str | None) -> ModuleType:
    """Import a plug-in, by module name if it is in a package, else from its path. UsageError says what is wrong."""
    theirs = user_files.is_user_file(path.resolve())
    before = set(sys.modules)
    if theirs:
        user_files.forget_edited_helpers()
    try:
        loaded = user_files.import_file(path) if module is None else importlib.import_module(module)
        if theirs and (module is None or module not in before):
            user_files.note_sources(path.resolve(), set(sys.modules) - before, module or "")
        return loaded
    except SyntaxError as error:  # of the file, or of one that it imports
        raise UsageError(f"{error.filename or path} line {error.lineno}: {error.msg}") from error
    except SystemExit as error:
        raise UsageError(f"{path} calls exit when it is imported ({format_error(error)}): remove that call") from error
    except UsageError as error:
        raise UsageError(f"{path}:\n" + "\n".join(f"  {line}" for line in format_error(error).splitlines())) from error
    except TypeError as error:
        known = {kind.__name__: {spec.name for spec in fields(kind)} for kind in DECLARED}
        unknown = [problem for call in known for problem in _find_unknown_keywords(path, call, known[call])]
        if not unknown:
            raise
        raise UsageError(f"{path}:\n" + "\n".join(f"  {line}" for line in unknown)) from error
    except ImportError as error:
        advice = find_advice(error) or "correct the name, or take the import out"
        raise UsageError(f"{path} cannot be imported: {format_error(error)}: {advice}") from error


def is_path(name: str) -> bool:
    """Whether a user's word is the path of a file, and no name."""
    return name.endswith(".py") or "/" in name


@dataclass(frozen=True)
class Kind(Generic[Plugin]):
    """A kind of plug-in of which a file declares one, which has the file's name. declares: by which name."""

    word: str
    package: str
    declares: str
    plugin: type[Plugin]

    def find_registered(self, name: str) -> Plugin:
        """The plug-in of a name; no path is ever opened. Raises UsageError with the closest name."""
        files = find_files_by_name(self.package)
        if name not in files:
            raise UsageError(f"no {self.word} '{name}'{suggest_name(name, files)} (bench list {self.word}s)")
        if len(files[name]) > 1:
            raise UsageError(
                f"two files are named for {self.word} '{name}': {', '.join(map(str, files[name]))}; rename one"
            )
        path = files[name][0]
        found = self.declared(load(path, f"{self.package}.{path.stem}"), path)
        if found.name != name:
            raise UsageError(f"{path}: {self.declares} is called '{found.name}': rename it to '{name}', or the file")
        return found

    def all(self) -> dict[str, Plugin]:
        """Every plug-in that a name reaches, sorted."""
        return {name: self.find_registered(name) for name in sorted(find_files_by_name(self.package))}

    def from_file(self, name: str) -> Plugin:
        """The plug-in of a user's file, which is opened and run. Raises UsageError for a name that is the suite's."""
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(f"no {self.word} file {path}")
        files = find_files_by_name(self.package)
        if path.resolve() in {each.resolve() for paths in files.values() for each in paths}:
            return self.find_registered(name_task(path))
        return self.own(self.declared(load(path.resolve(), None), path), path)

    def own(self, found: Plugin, path: Path) -> Plugin:
        """What a user's file declares. Raises UsageError if it has the name of another one, which is the suite's."""
        if found.name in find_files_by_name(self.package) and found != self.find_registered(found.name):
            raise UsageError(f"{path}: {self.word} '{found.name}' is one of the suite's: give yours another name")
        return found

    def declared(self, module: ModuleType, path: Path) -> Plugin:
        """What a file declares. Raises UsageError if it is not there."""
        found = getattr(module, self.declares, None)
        if not isinstance(found, self.plugin):
            what = "nothing of that name" if found is None else repr(found)
            raise UsageError(f"{path} must define {self.declares} = {self.plugin.__name__}(...); it has {what}")
        return found
