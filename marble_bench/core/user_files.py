"""A user's own plug-in files: how they are imported, which modules they are made of, and what they raised.

A user's file is known by its bytes, and by those of the modules that its import brought in from outside site-packages and
this suite.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.abc import SourceLoader
from pathlib import Path
from types import ModuleType

from marble_bench.core import trees
from marble_bench.core.advice import find_advice
from marble_bench.core.trees import OWN
from marble_bench.errors import UsageError, format_error

FROM_PATH = "marble_bench_plugin_"  # what the modules of a user's files are called
_DIGESTS: dict[Path, str] = {}  # of users' files, as they were when they were imported
_HELPERS: dict[str, tuple[Path, str]] = {}  # modules that users' files are made of too: their file and its digest


def import_file(path: Path) -> ModuleType:
    """Run a user's file as a module of its own: two files of one name in two folders are two modules.

    What is run are the bytes on disk: compiled files of Python's, which it tells apart by the second, are not used.
    """
    name = f"{FROM_PATH}{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        raise UsageError(f"{path} is not a Python file")
    loaded = importlib.util.module_from_spec(spec)
    importlib.invalidate_caches()
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        code = spec.loader.source_to_code(path.read_bytes(), str(path))
        sys.modules[name] = loaded  # dataclasses in the file look themselves up there
        exec(code, vars(loaded))
    finally:
        sys.dont_write_bytecode = before
    return loaded


def note_sources(path: Path, brought: set[str], module: str) -> None:
    """Keep the digest of a user's file that was just imported. brought: modules that its import brought in. module: its
    name, where it is in a package.

    Raises UsageError if it imports a module beside it, and another folder's module of that name was there already.
    """
    helpers = find_helpers(path, brought, module)
    for name, place in helpers.items():
        beside = trees.find_module_file(path.parent / name.partition(".")[0])
        if beside and "." not in name and beside.resolve() not in (place, path):
            raise UsageError(
                f"imports '{name}', but Python uses {place}, which was imported before, and not {beside}: rename one"
            )
        _HELPERS[name] = place, _compute_sha256(place)
    _DIGESTS[path] = digest_user_file(path, helpers)


def forget_edited_helpers() -> None:
    """Have users' modules imported anew if one of them was edited meanwhile, so that what is run is what was hashed."""
    edited = [path for path, digest in _HELPERS.values() if not path.is_file() or _compute_sha256(path) != digest]
    if edited:
        for name in _HELPERS:
            sys.modules.pop(name, None)
        _HELPERS.clear()


def _compute_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digest_of_file(path: Path) -> str:
    """The source digest of a user's file: as it was imported, else as it is."""
    return _DIGESTS.get(path) or digest_user_file(path, find_helpers(path))


def digest_user_file(path: Path, helpers: Mapping[str, Path]) -> str:
    """The digest of a user's file: of its bytes alone, or with names and bytes of the modules that it brought in."""
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    others = sorted([name, hashlib.sha256(each.read_bytes()).hexdigest()] for name, each in helpers.items())
    return hashlib.sha256(json.dumps([own, others]).encode()).hexdigest() if others else own


@cache
def _find_library_folders() -> tuple[Path, ...]:
    """The folders of Python's own modules and of this suite's."""
    python = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib")]
    suite = (importlib.util.find_spec(f"{OWN}.{part}") for part in ("tasks", "probes"))
    return (
        *python,
        Path(__file__).resolve().parents[1],
        *(Path(each.origin or "").resolve().parent for each in suite if each),
    )


def is_user_file(path: Path) -> bool:
    """Whether a module's file is a user's own: not Python's, not an installed package's, not this suite's."""
    above = set(path.parents)
    return not ({"site-packages", "dist-packages"} & set(path.parts) or above & set(_find_library_folders()))


def find_helpers(path: Path, brought: Iterable[str] = (), module: str = "") -> dict[str, Path]:
    """The modules of a user's own that their file is made of too, by name.

    brought: names of modules that its import brought in. module: the file's own dotted name, where it has one, from which
    its relative imports are told. What its code, or a helper's, imports is found besides, so that one
    that was imported before, or is imported only later, counts as well.
    """
    found: dict[str, Path] = {}
    for name in brought:
        place = _find_loaded_file(name)
        if place is not None and place != path and is_user_file(place):
            found[name] = place
    waiting = [(module, path), *found.items()]
    seen = {path}
    while waiting:
        here, file = waiting.pop()
        for name, place in _find_imported(here, file):
            if place not in seen and place != path:
                seen.add(place)
                found.setdefault(name, place)
                waiting.append((name, place))
    return found


def _find_imported(module: str, file: Path) -> Iterator[tuple[str, Path]]:
    """The user's own modules that a file's code imports anywhere. module: its own dotted name, where it has one."""
    if file.suffix != ".py":
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        text = trees.read(file)
        imports = [*trees.list_imports(text), *trees.list_imports_by_text(text)]
    except (SyntaxError, ValueError):  # a helper that cannot be imported will say so when it is
        return
    for level, base, name in imports:
        if level:
            above = package.split(".")
            whole = ".".join([*above[: len(above) - level + 1], *([base] if base else [])]) if package else ""
        else:
            whole = base
        parts = [*whole.split("."), *([name] if name else [])] if whole else []
        for each in (".".join(parts[:end]) for end in range(1, len(parts) + 1)):  # packages above it run too
            place = _place_of(each)
            if place is not None and is_user_file(place):
                yield each, place


def _find_loaded_file(name: str) -> Path | None:
    """The file that a module was loaded from, if it was, and from a file."""
    place = getattr(sys.modules.get(name), "__file__", None)
    return Path(place).resolve() if place and Path(place).is_file() else None


def _place_of(name: str) -> Path | None:
    """The file of a module by its dotted name, found without importing it; None where it has none."""
    if (loaded := _find_loaded_file(name)) is not None:
        return loaded
    top, _, rest = name.partition(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin).resolve() if spec.has_location and spec.origin else None
    for folder in spec.submodule_search_locations or ():
        if file := trees.find_module_file(Path(folder).joinpath(*rest.split("."))):
            return file.resolve()
    return None


def find_fault(error: BaseException) -> UsageError | None:
    """What a user's own task or encoder file raised, as an error that names file and line.

    None where no such file was running: then it is no fault of the user's. Of an error that was raised from another one, as
    Python does where a generator ends by StopIteration, the other one counts too.
    """
    is_user_file = _make_user_file_test()
    for each in _find_causes(error):
        for frame, line in reversed(list(traceback.walk_tb(each.__traceback__))):
            name, file = str(frame.f_globals.get("__name__", "")), Path(frame.f_code.co_filename)
            if name.startswith((FROM_PATH, "marble_bench.tasks.")) or is_user_file(file):
                if _is_suite_file(file):
                    continue
                where = f"{file} line {line}, in {frame.f_code.co_name}"
                return UsageError(f"{where}: {_describe(each)} (--debug shows the traceback)")
    return None


def _find_causes(error: BaseException) -> list[BaseException]:
    """An error, the one that it was raised from, and so on; each once, for an error may be its own cause."""
    found = [error]
    while (cause := found[-1].__cause__) is not None and not any(cause is each for each in found):
        found.append(cause)
    return found


def _describe(error: BaseException) -> str:
    """What a user's code raised, and what to do about it where that is known."""
    what = f"{type(error).__name__}: {format_error(error)}".rstrip(": ")
    if isinstance(error, SystemExit):
        return f"it ends Python ({what}): leave that out, or raise an error that says why"
    advice = find_advice(error)
    return f"{what.rstrip('.')}: {advice}" if advice else what


def _is_suite_file(file: Path) -> bool:
    """Whether a file is of this suite: its package, its tasks or its heads, wherever they are."""
    packages = (importlib.import_module(f"marble_bench{part}").__file__ for part in ("", ".tasks", ".probes"))
    return any(Path(each or "").parent in file.parents for each in packages)


def _make_user_file_test() -> Callable[[Path], bool]:
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

    def is_user_file(file: Path) -> bool:
        installed = any(each in file.parents for each in library) or "site-packages" in file.parts
        return (
            (str(file) in files or any(each in file.parents for each in folders)) and not installed and file.is_file()
        )

    return is_user_file
