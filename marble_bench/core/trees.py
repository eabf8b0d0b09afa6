"""Digests of what Python code computes: of its syntax tree, not of its text.

Left out are docstrings and other bare strings, comments, positions, blocks for type checkers, and the paths of this
suite's own imports. So a mended docstring, another line length or a moved module gives the same digest, and a changed
constant another one. The paths of other packages count: `scipy.fft` is not `scipy.fftpack`.

The form is this module's own, since what `ast.dump` prints is another one with nearly every version of Python. It needs
the standard library alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

OWN = "marble_bench"
# The folder whose modules count for a kind of plug-in.
ROOMS = {"encoder": "encoders", "task": "tasks", "corpus": "tasks", "metric": "metrics", "head": "probes/heads"}
# Fields that say nothing of what is computed, or that only some versions of Python have.
SILENT = frozenset(
    {"ctx", "kind", "lineno", "col_offset", "end_lineno", "end_col_offset", "type_comment", "type_ignores"}
)


@dataclass(frozen=True)
class Room:
    """A folder of modules that belong together, and the name under which they are imported."""

    package: str
    folder: Path

    def holds(self, path: Path) -> bool:
        """Whether a file lies in this folder or below it."""
        return self.folder in path.parents


@cache
def find_room(kind: str) -> Room:
    """The room of a kind of plug-in."""
    package = f"{OWN}.{ROOMS[kind].replace('/', '.')}"
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Room(package, Path(found.origin).resolve().parent)


def compute_form(text: str) -> Any:
    """The form of a module's code, made of lists and strings. Raises SyntaxError for what is no Python."""
    return _compute_form(ast.parse(text))


def digest_text(text: str) -> str:
    """sha256 of a module's form, 64 hex digits."""
    return hashlib.sha256(json.dumps(compute_form(text), separators=(",", ":")).encode()).hexdigest()


def digest_with_imports(files: Sequence[Path], room: Room) -> str:
    """sha256 over some modules of a room and all modules of it that they import, directly or not.

    Where in the room a module lies, and what it is called, does not count.
    """
    own = sorted(digest_text(read(path)) for path in dict.fromkeys(files))
    others = sorted(digest_text(read(path)) for path in find_imported(files, room) if path not in files)
    return hashlib.sha256(json.dumps([own, others]).encode()).hexdigest()


def find_imported(files: Sequence[Path], room: Room) -> list[Path]:
    """The modules of a room that some files import, directly or not, the files among them."""
    found: dict[Path, None] = {}
    waiting = list(files)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = None
            waiting += [each for each in _find_imported(path, room) if each not in found]
    return sorted(found)


def read(path: Path) -> str:
    """A module's text, in the encoding that it declares."""
    import tokenize

    with tokenize.open(path) as file:
        return file.read()


def list_imports(text: str) -> Iterator[tuple[int, str, str]]:
    """Every import of a module, those for type checkers left out: `(level, module, name)`; no name for a plain import."""
    for node in _walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, node.module or "", alias.name) for alias in node.names)


def list_imports_by_text(text: str) -> Iterator[tuple[int, str, str]]:
    """As `list_imports`, what a module imports by a name in quotation marks: `import_module("a.b")`, `__import__("a.b")`."""
    for node in _walk(ast.parse(text)):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            name = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(name, str) and name.strip("."):
                yield len(name) - len(name.lstrip(".")), name.lstrip("."), ""


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, without blocks for type checkers."""
    yield node
    for child in ast.iter_child_nodes(node):
        if _is_for_type_checkers(node) and isinstance(node, ast.If) and child in node.body:
            continue
        yield from _walk(child)


def _find_imported(path: Path, room: Room) -> Iterator[Path]:
    """The modules of a room that one file imports."""
    for level, module, name in list_imports(read(path)):
        if level:
            base = path.parents[level - 1]
        elif f"{module}.".startswith(f"{room.package}."):
            base, module = room.folder, module[len(room.package) + 1 :]
        else:
            continue
        place = base.joinpath(*module.split(".")) if module else base
        file = find_module_file(place / name if name else place) or find_module_file(place)
        if file is not None and file != path and room.holds(file):
            yield file


def find_module_file(place: Path) -> Path | None:
    """The file of the module `a/b`: `a/b.py` or `a/b/__init__.py`."""
    for file in (place.with_name(place.name + ".py"), place / "__init__.py"):
        if file.is_file():
            return file
    return None


def _is_for_type_checkers(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    return (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")) == "TYPE_CHECKING"


def _compute_form(value: Any) -> Any:
    if isinstance(value, ast.Constant):
        return ["Constant", type(value.value).__name__, ascii(value.value)]
    if isinstance(value, ast.JoinedStr):
        return ["JoinedStr", _join_parts(value)]
    if isinstance(value, ast.AST):
        fields = {name: getattr(value, name, None) for name in value._fields if name not in SILENT}
        fields_by_name = [[name, _compute_form(each)] for name, each in sorted(fields.items())]
        return [
            type(value).__name__,
            *(each for each in fields_by_name if each[1] not in (None, [], ["JoinedStr", []])),
        ]
    if isinstance(value, list):
        return (
            _compute_block(value)
            if value and all(isinstance(each, ast.stmt) for each in value)
            else [_compute_form(v) for v in value]
        )
    return None if value is None else ascii(value)


def _join_parts(value: ast.JoinedStr) -> list[Any]:
    """The parts of an f-string, neighbouring texts made one: versions of Python part them in different places."""
    parts: list[Any] = []
    for each in value.values:
        if isinstance(each, ast.Constant) and parts and isinstance(parts[-1], str):
            parts[-1] += str(each.value)
        else:
            parts.append(str(each.value) if isinstance(each, ast.Constant) else each)
    return [ascii(each) if isinstance(each, str) else _compute_form(each) for each in parts if each != ""]


def _compute_block(statements: Sequence[ast.stmt]) -> list[Any]:
    """Statements one after another: bare strings left out, neighbouring imports as one set, whatever their order."""
    forms: list[Any] = []
    names: list[Any] = []

    def close() -> None:
        if names:
            forms.append(["Imports", *sorted({json.dumps(each) for each in names})])
            names.clear()

    for each in statements:
        if isinstance(each, (ast.Import, ast.ImportFrom)):
            names += _list_bound(each)
        elif _is_for_type_checkers(each) and isinstance(each, ast.If):
            if each.orelse:
                close()
                forms += _compute_block(each.orelse)
        elif not (
            isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant) and isinstance(each.value.value, str)
        ):
            close()
            forms.append(_compute_form(each))
    close()
    return forms


def _list_bound(node: ast.Import | ast.ImportFrom) -> list[list[str]]:
    """What an import brings in: module, name, and the name that it has here; no module where that is the suite's own."""
    if isinstance(node, ast.ImportFrom):
        own = node.level > 0 or f"{node.module}.".startswith(f"{OWN}.")
        module = "" if own else node.module or ""
        return [[module, alias.name, alias.asname or alias.name] for alias in node.names]
    found = []
    for alias in node.names:
        own = f"{alias.name}.".startswith(f"{OWN}.")
        found.append(["" if own else alias.name, "", alias.asname or alias.name.partition(".")[0]])
    return found
