"""Source digests: what code a plug-in is made of.

Of a shipped plug-in: the syntax trees of its own file and of the modules of its room that it imports (see `trees`). Of a
user's file: its bytes, and those of the modules that its import brought in from outside site-packages and this suite. A
protocol is facts and no code: its digest is that of its facts.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from marble_bench.core import hashes, plugins, trees
from marble_bench.core.encoder import Encoder
from marble_bench.core.head import Head
from marble_bench.core.loading import find_files_by_name
from marble_bench.core.plugins import Named
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Corpus
from marble_bench.core.trees import ROOMS, find_room
from marble_bench.core.user_files import digest_of_file, is_user_file
from marble_bench.scoring.metric import Metric


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
        entered = self.shipped and hashes.is_known(self.kind, self.name, self.version, self.digest)
        return [
            self.name,
            self.version,
            hashes.find_first(self.kind, self.name, self.version) if entered else self.digest,
        ]


def find_origin(kind: str, plugin: Any) -> Origin:
    """Where a plug-in comes from: an `Encoder`, a task's `Named`, a `Corpus`, `Metric`, `Protocol`, `Head` or its name."""
    of_kind: dict[str, Callable[[Any], Origin]] = {
        "encoder": _find_encoder_origin,
        "task": _find_task_origin,
        "corpus": _find_corpus_origin,
        "metric": _find_metric_origin,
        "protocol": _find_protocol_origin,
        "head": _find_head_origin,
    }
    return of_kind[kind](plugin)


def list_run_origins(named: Named, encoder: Encoder | None, protocol: Protocol) -> list[Origin]:
    """Where everything comes from that a run's numbers depend on. encoder: None where features are brought."""
    found = [_find_encoder_origin(encoder)] if encoder else []
    found += [_find_task_origin(named), _find_corpus_origin(named.task.corpus)]
    found += [_find_metric_origin(metric) for metric in named.task.metrics]
    found.append(_find_protocol_origin(protocol))
    return [*found, *([_find_head_origin(protocol.head)] if protocol.trains else [])]


@cache
def _digest_shipped(kind: str, files: tuple[Path, ...]) -> str:
    return trees.digest_with_imports(files, find_room(kind))


def add_code(encoder: Encoder) -> Encoder:
    """An encoder that somebody made in Python, with the digest of the code of its functions, as one of a user's file has it.

    One of the suite, or with a digest already, stays as it is. Raises UsageError for another one of a name of the suite's.
    """
    registered = plugins.find_encoders().get(encoder.name)
    functions = [each for each in (encoder.load, encoder.convert) if each is not None]
    ours = all(find_room("encoder").holds(file) for each in functions for file in list_files(each))
    if encoder == registered:
        return encoder
    if registered is not None or not ours:
        plugins.check_own_name(encoder.name, encoder.made_from)
    if encoder.code or ours:
        return encoder
    return replace(
        encoder, code=hashlib.sha256(json.dumps([_code_of(each) for each in functions]).encode()).hexdigest()
    )


def _code_of(function: Callable[..., Any]) -> list[str]:
    """The digests of the files that define a function; of one that no file has, as in a notebook, its text."""
    files = sorted(set(list_files(function)))
    if files and all(file.is_file() for file in files):
        return [digest_of_file(file) for file in files]
    try:
        return [inspect.getsource(inspect.unwrap(getattr(function, "func", function)))]
    except (OSError, TypeError):  # typed where no text is kept
        return [repr(describe_function(function))]


def _find_encoder_origin(encoder: Encoder) -> Origin:
    if encoder.code:
        return Origin("encoder", encoder.name, encoder.version, encoder.code, False)
    file = plugins.find_encoder_files().get(encoder.name)
    if file is None:
        digest, _ = _digest_of_functions([encoder.load], "encoder")  # made by code that has no file of encoders
        return Origin("encoder", encoder.name, encoder.version, digest, False)
    return Origin("encoder", encoder.name, encoder.version, _digest_shipped("encoder", (file,)), True)


def _find_task_origin(named: Named) -> Origin:
    path = named.path.resolve()
    if find_room("task").holds(path):
        return Origin("task", named.name, named.task.version, _digest_shipped("task", (path,)), True)
    return Origin("task", named.name, named.task.version, digest_of_file(path), False)


def _find_corpus_origin(corpus: Corpus) -> Origin:
    return _find_function_origin("corpus", corpus.name, corpus.version, [corpus.mini, corpus.locate, corpus.parts])


def _find_metric_origin(metric: Metric) -> Origin:
    functions = [
        metric.compute,
        metric.per_clip,
        metric.on_resample,
        metric.weighted,
        metric.carried,
        *metric.measured_by,
        *_list_measuring(metric),
    ]
    return _find_function_origin("metric", metric.name, metric.version, functions)


def _list_measuring(metric: Metric) -> list[Callable[..., Any]]:
    """The functions that make the rows a metric reads, but for those of the machinery, which counts for itself."""
    measures = [each for each in (metric.measure, metric.chooses) if each is not None]
    functions = [function for each in measures for function in (each.of_clip, each.trivial)]
    machinery = Path(__file__).resolve().parents[1] / "scoring"
    return [each for each in functions if not all(file.is_relative_to(machinery) for file in list_files(each))]


def _find_protocol_origin(protocol: Protocol) -> Origin:
    shipped = plugins.find_protocols().get(protocol.name) == protocol
    return Origin("protocol", protocol.name, protocol.version, protocol.hash.removeprefix("sha256:"), shipped)


def _find_head_origin(head: Head | str) -> Origin:
    found = plugins.find_registered_head(head) if isinstance(head, str) else head
    if found.code:
        return Origin("head", found.name, found.version, found.code, False)
    files = [] if isinstance(head, Head) else find_files_by_name(plugins.HEADS.package)[found.name]
    if not files:  # made by code that has no file of heads
        digest, _ = _digest_of_functions([found.init, found.fit, found.predict], "head")
        return Origin("head", found.name, found.version, digest, False)
    return Origin("head", found.name, found.version, _digest_shipped("head", (files[0].resolve(),)), True)


@cache
def digest_machinery() -> str:
    """The digest of the suite's own code, encoders, tasks and metrics left out, which have digests of their own.

    It is of the files' bytes, which takes a tenth of the time of their syntax trees: a run computes it every time, and it
    decides only whether an interrupted run takes up its finished probes.
    """
    suite = Path(__file__).resolve().parents[1]
    files = {each for each in suite.rglob("*.py") if not any(find_room(kind).holds(each) for kind in ROOMS)}
    total = hashlib.sha256()
    for path in sorted({*files, *find_room("head").folder.parent.rglob("*.py")}):
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _find_function_origin(kind: str, name: str, version: int, functions: Sequence[Callable[..., Any] | None]) -> Origin:
    """Where something comes from that is facts and functions, by the files that define the functions."""
    return Origin(kind, name, version, *_digest_of_functions(functions, kind))


def _digest_of_functions(functions: Sequence[Callable[..., Any] | None], kind: str) -> tuple[str, bool]:
    """The digest of some functions and of the files that define them, and whether all of these are shipped."""
    given = [each for each in functions if each is not None]
    files = sorted({file for each in given for file in list_files(each)})
    own = tuple(file for file in files if find_room(kind).holds(file))
    theirs = [file for file in files if is_user_file(file)]
    described = [describe_function(each) for each in functions]
    parts = [_digest_shipped(kind, own) if own else "", [digest_of_file(file) for file in theirs], described]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest(), bool(own) and not theirs


def list_files(function: Any) -> Iterator[Path]:
    """The files that define a function, and those of the functions that a partial one holds."""
    if isinstance(function, partial):
        for each in (function.func, *function.args, *function.keywords.values()):
            yield from list_files(each)
    elif callable(function):
        code = getattr(inspect.unwrap(function), "__code__", None)
        place = code.co_filename if code else getattr(sys.modules.get(type(function).__module__), "__file__", None)
        if place:
            yield Path(place).resolve()


def describe_function(function: Any) -> Any:
    """A function by its name, a partial one with what it holds."""
    if isinstance(function, partial):
        held = {key: describe_function(each) for key, each in function.keywords.items()}
        return ["partial", describe_function(function.func), [describe_function(each) for each in function.args], held]
    if callable(function):
        return getattr(function, "__qualname__", type(function).__qualname__)
    return ascii(function)
