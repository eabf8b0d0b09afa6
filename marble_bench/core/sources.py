"""Source digests: what code a plug-in is made of.

Of a shipped plug-in: the syntax trees of its own file and of the modules of its room that it imports (see `trees`). Of a
user's file: its bytes, and those of the modules that its import brought in from outside site-packages and this suite. A
protocol is facts and no code: its digest is that of its facts.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core import hashes, trees
from marble_bench.core.encoder import Encoder
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Corpus
from marble_bench.core.trees import OWN, Room
from marble_bench.errors import UsageError
from marble_bench.scoring.metric import Metric

if TYPE_CHECKING:
    from marble_bench.core.plugins import Named

# The folder whose modules count for a kind of plug-in.
ROOMS = {"encoder": "encoders", "task": "tasks", "corpus": "tasks", "metric": "metrics", "head": "probes"}


@dataclass(frozen=True)
class Origin:
    """A plug-in and the digest of its code. shipped: False for one of a user's file."""

    kind: str
    name: str
    version: int
    digest: str
    shipped: bool

    @property
    def key(self) -> list[Any]:
        """What keys hold of it: name, version, and the version's first digest, or its own where it is not entered."""
        entered = self.shipped and hashes.known(self.kind, self.name, self.version, self.digest)
        return [self.name, self.version, hashes.first(self.kind, self.name, self.version) if entered else self.digest]


@cache
def room_of(kind: str) -> Room:
    """The room of a kind of plug-in."""
    package = f"{OWN}.{ROOMS[kind]}"
    found = importlib.util.find_spec(package)
    assert found is not None
    assert found.origin is not None
    return Room(package, Path(found.origin).resolve().parent)


def origin(kind: str, plugin: Any) -> Origin:
    """Where a plug-in comes from: an `Encoder`, a task's `Named`, a `Corpus`, a `Metric`, a `Protocol` or a head's name."""
    of_kind: dict[str, Callable[[Any], Origin]] = {
        "encoder": _of_encoder,
        "task": _of_task,
        "corpus": _of_corpus,
        "metric": _of_metric,
        "protocol": _of_protocol,
        "head": _of_head,
    }
    return of_kind[kind](plugin)


def origins_of_run(named: Named, encoder: Encoder | None, protocol: Protocol) -> list[Origin]:
    """Where everything comes from that a run's numbers depend on. encoder: None where features are brought."""
    found = [_of_encoder(encoder)] if encoder else []
    found += [_of_task(named), _of_corpus(named.task.corpus)]
    found += [_of_metric(metric) for metric in named.task.metrics]
    return [*found, _of_protocol(protocol), _of_head(protocol.head)]


def all_shipped() -> list[Origin]:
    """Where everything comes from that is shipped, each once."""
    from marble_bench import metrics
    from marble_bench.core import plugins
    from marble_bench.core.protocol import PROTOCOLS

    tasks = [plugins.find_task(name) for name in plugins.task_names()]
    tasks = [named for named in tasks if room_of("task").holds(named.path.resolve())]
    found = [_of_encoder(encoder) for encoder in plugins.encoders().values()]
    found += [_of_task(named) for named in tasks] + [_of_corpus(named.task.corpus) for named in tasks]
    known = [each for each in (getattr(metrics, name) for name in metrics.__all__) if isinstance(each, Metric)]
    found += [_of_metric(metric) for metric in [*known, *(m for named in tasks for m in named.task.metrics)]]
    found += [_of_protocol(each) for each in PROTOCOLS.values()]
    found += [_of_head(name) for name in sorted({each.head for each in PROTOCOLS.values()})]
    return list(dict.fromkeys(found))


def user_digest(path: Path, helpers: Mapping[str, Path]) -> str:
    """The digest of a user's file: of its bytes alone, or with names and bytes of the modules that it brought in."""
    own = hashlib.sha256(path.read_bytes()).hexdigest()
    others = sorted([name, hashlib.sha256(each.read_bytes()).hexdigest()] for name, each in helpers.items())
    return hashlib.sha256(json.dumps([own, others]).encode()).hexdigest() if others else own


@cache
def _not_theirs() -> tuple[Path, ...]:
    """The folders of Python's own modules and of this suite's."""
    python = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib")]
    return (*python, Path(__file__).resolve().parents[1], room_of("task").folder, room_of("head").folder)


def is_theirs(path: Path) -> bool:
    """Whether a module's file is a user's own: not Python's, not an installed package's, not this suite's."""
    above = set(path.parents)
    return not ({"site-packages", "dist-packages"} & set(path.parts) or above & set(_not_theirs()))


def helpers_of(path: Path, brought: Iterable[str] = (), module: str = "") -> dict[str, Path]:
    """The modules of a user's own that their file is made of too, by name.

    brought: names of modules that its import brought in. module: the file's own dotted name, where it has one, from which
    its relative imports are told. What its code, or a helper's, imports is found besides, so that one
    that was imported before, or is imported only later, counts as well.
    """
    found: dict[str, Path] = {}
    for name in brought:
        place = _loaded_from(name)
        if place is not None and place != path and is_theirs(place):
            found[name] = place
    waiting = [(module, path), *found.items()]
    seen = {path}
    while waiting:
        here, file = waiting.pop()
        for name, place in _imported(here, file):
            if place not in seen and place != path:
                seen.add(place)
                found.setdefault(name, place)
                waiting.append((name, place))
    return found


def _imported(module: str, file: Path) -> Iterator[tuple[str, Path]]:
    """The user's own modules that a file's code imports anywhere. module: its own dotted name, where it has one."""
    if file.suffix != ".py":
        return
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    try:
        text = trees.read(file)
        imports = [*trees.imports_of(text), *trees.imports_by_text(text)]
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
            if place is not None and is_theirs(place):
                yield each, place


def _loaded_from(name: str) -> Path | None:
    """The file that a module was loaded from, if it was, and from a file."""
    place = getattr(sys.modules.get(name), "__file__", None)
    return Path(place).resolve() if place and Path(place).is_file() else None


def _place_of(name: str) -> Path | None:
    """The file of a module by its dotted name, found without importing it; None where it has none."""
    if (loaded := _loaded_from(name)) is not None:
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
        if file := trees.module_file(Path(folder).joinpath(*rest.split("."))):
            return file.resolve()
    return None


@cache
def _shipped_digest(kind: str, files: tuple[Path, ...]) -> str:
    return trees.digest_with_imports(files, room_of(kind))


def _of_encoder(encoder: Encoder) -> Origin:
    from marble_bench.core import plugins

    if encoder.code:
        return Origin("encoder", encoder.name, encoder.version, encoder.code, False)
    file = plugins.encoder_files().get(encoder.name)
    if file is None:
        digest, _ = _digest_of_functions([encoder.load], "encoder")  # made by code that has no file of encoders
        return Origin("encoder", encoder.name, encoder.version, digest, False)
    return Origin("encoder", encoder.name, encoder.version, _shipped_digest("encoder", (file,)), True)


def _of_task(named: Named) -> Origin:
    from marble_bench.core import plugins

    path = named.path.resolve()
    if room_of("task").holds(path):
        return Origin("task", named.name, named.task.version, _shipped_digest("task", (path,)), True)
    return Origin("task", named.name, named.task.version, plugins.digest_of_file(path), False)


def _of_corpus(corpus: Corpus) -> Origin:
    return _of_functions("corpus", corpus.name, corpus.version, [corpus.mini, corpus.locate, corpus.parts])


def _of_metric(metric: Metric) -> Origin:
    functions = [
        metric.compute,
        metric.per_clip,
        metric.on_resample,
        metric.weighted,
        metric.carried,
        *metric.measured_by,
    ]
    return _of_functions("metric", metric.name, metric.version, functions)


def _of_protocol(protocol: Protocol) -> Origin:
    from marble_bench.core.protocol import PROTOCOLS

    shipped = PROTOCOLS.get(protocol.name) == protocol
    return Origin("protocol", protocol.name, protocol.version, protocol.hash.removeprefix("sha256:"), shipped)


def _of_head(name: str) -> Origin:
    room = room_of("head")
    file = trees.module_file(room.folder / name)
    if file is None:
        raise UsageError(f"no head '{name}' in {room.folder}")
    return Origin("head", name, 1, _shipped_digest("head", (file,)), True)


@cache
def machinery_digest() -> str:
    """The digest of the suite's own code, encoders and metrics left out, which have digests of their own.

    It is of the files' bytes, which takes a tenth of the time of their syntax trees: a run computes it every time, and it
    decides only whether an interrupted run takes up its finished probes.
    """
    suite = Path(__file__).resolve().parents[1]
    files = sorted(each for each in suite.rglob("*.py") if not any(room_of(k).holds(each) for k in ROOMS))
    total = hashlib.sha256()
    for path in [*files, *sorted(room_of("head").folder.rglob("*.py"))]:
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _of_functions(kind: str, name: str, version: int, functions: Sequence[Callable[..., Any] | None]) -> Origin:
    """Where something comes from that is facts and functions, by the files in which the functions stand."""
    return Origin(kind, name, version, *_digest_of_functions(functions, kind))


def _digest_of_functions(functions: Sequence[Callable[..., Any] | None], kind: str) -> tuple[str, bool]:
    """The digest of some functions and of the files in which they stand, and whether all of these are shipped."""
    from marble_bench.core import plugins

    given = [each for each in functions if each is not None]
    files = sorted({file for each in given for file in files_of(each)})
    own = tuple(file for file in files if room_of(kind).holds(file))
    theirs = [file for file in files if is_theirs(file)]
    told = [held_by(each) for each in functions]
    parts = [_shipped_digest(kind, own) if own else "", [plugins.digest_of_file(file) for file in theirs], told]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest(), bool(own) and not theirs


def files_of(function: Any) -> Iterator[Path]:
    """The files in which a function stands, and those of the functions that a partial one holds."""
    if isinstance(function, partial):
        for each in (function.func, *function.args, *function.keywords.values()):
            yield from files_of(each)
    elif callable(function):
        code = getattr(inspect.unwrap(function), "__code__", None)
        place = code.co_filename if code else getattr(sys.modules.get(type(function).__module__), "__file__", None)
        if place:
            yield Path(place).resolve()


def held_by(function: Any) -> Any:
    """A function by its name, a partial one with what it holds."""
    if isinstance(function, partial):
        held = {key: held_by(each) for key, each in function.keywords.items()}
        return ["partial", held_by(function.func), [held_by(each) for each in function.args], held]
    if callable(function):
        return getattr(function, "__qualname__", type(function).__qualname__)
    return ascii(function)
