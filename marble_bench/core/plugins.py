"""Names -> files. A file in the folder is the registration: there is no list to edit.

Tasks: `tasks/*.py`, the folders of `BENCH_TASKS`, or a path. Encoders: the `ENCODERS` of `marble_bench/encoders/*.py`,
`path/to/file.py:Name`, or a name with a prefix (`marble_bench.core.schemes`). Protocols: `marble_bench/protocols/*.py`,
heads: `probes/heads/*.py`, or a path; metrics: `marble_bench/metrics/*.py`, each with one `METRIC` or a tuple of them; task
sets: `tasks/sets/*.py`. A file whose name begins with `_` is no plug-in.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from marble_bench.core import schemes
from marble_bench.core.encoder import Encoder
from marble_bench.core.head import Head
from marble_bench.core.loading import Kind, find_files_by_name, is_path, load
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import Task, name_task
from marble_bench.core.task_rules import TaskRules
from marble_bench.core.task_set import TaskSet
from marble_bench.core.trees import OWN
from marble_bench.core.user_files import digest_of_file
from marble_bench.errors import UsageError, listing, suggest_name
from marble_bench.files.names import RULE, is_name
from marble_bench.scoring.metric import Metric


@dataclass(frozen=True)
class Named:
    """A task with the name that its file gives it, and that file. rules: of a protocol that it was adapted to."""

    name: str
    task: Task
    path: Path
    rules: TaskRules | None = None


def adapt_task(named: Named, protocol: Protocol, mini: bool) -> Named:
    """A task as a protocol asks it, if the protocol has a table of tasks. mini: whether its corpus is a miniature.

    Raises UsageError for a task without a row, and for one whose frames it would have to cut.
    """
    from marble_bench.scoring.targets import Frames, Stems

    if not protocol.tasks:
        return named
    rules = protocol.find_rules(named.name)
    if rules is None or named.rules == rules:
        return named
    if isinstance(named.task.target, (Frames, Stems)):
        raise UsageError(
            f"protocol '{protocol.name}' cuts task '{named.name}' into clips of {rules.window.length_s:g} s that are scored "
            "frame by frame, and this is not built: choose a task of whole clips, or --protocol marble"
        )
    return replace(named, task=rules.adapt(named.task, mini), rules=rules)


def list_task_names() -> list[str]:
    """Every task that a name reaches, sorted."""
    return sorted(find_files_by_name("marble_bench.tasks"))


def _describe_missing_file(kind: str, path: Path) -> str:
    """What is said of a plug-in's file that is not there. kind: `task` or `encoder`."""
    near = [each.name for each in path.parent.glob("*.py")] if path.parent.is_dir() else []
    form, lists = ("FILE.py", "tasks") if kind == "task" else ("FILE.py:NAME", "models")
    way = f": give the path of one as {form}, or a name (bench list {lists})"
    return f"no {kind} file {path}{suggest_name(path.name, near) or way}"


def find_task(name: str) -> Named:
    """The task that a user asks for, by its name or by the path of its file, which is opened and run.

    Only for words of a command line; what a record names goes to `find_registered_task`. UsageError has the closest name, or
    every mistake in the file.
    """
    if is_path(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise UsageError(_describe_missing_file("task", path))
        _check_file_name(path)
        ours = find_files_by_name("marble_bench.tasks").get(name_task(path), ())
        if ours and path.resolve() not in {each.resolve() for each in ours}:
            raise UsageError(f"{path}: '{name_task(path)}' is a task of the suite: give yours another name")
        return Named(name_task(path), _read_task(load(path.resolve(), None), path), path)
    _check_kind("task", name, list_task_names())
    return find_registered_task(name)


def _check_file_name(path: Path) -> None:
    if not is_name(name_task(path)):
        raise UsageError(
            f"{path}: the name of a task is the name of its file, and {name_task(path)!r} is not allowed: use {RULE}"
        )


def find_registered_task(name: str) -> Named:
    """The task of a name, among those registered; no path is ever opened. Raises UsageError with the closest name."""
    files = find_files_by_name("marble_bench.tasks")
    if name not in files:
        raise UsageError(f"no task '{name}'{suggest_name(name, files)} (bench list tasks)")
    if len(files[name]) > 1:
        raise UsageError(f"two files are named for task '{name}': {', '.join(map(str, files[name]))}; rename one")
    path = files[name][0]
    _check_file_name(path)
    return Named(name, _read_task(load(path, f"marble_bench.tasks.{path.stem}"), path), path)


def _read_task(module: ModuleType, path: Path) -> Task:
    task = getattr(module, "TASK", None)
    if not isinstance(task, Task):
        if task is None and (own := _read_encoders(module)):
            raise UsageError(
                f"{path} has no TASK but encoders: name one of them, {' or '.join(f'{path}:{n}' for n in own)}"
            )
        found = "nothing of that name" if task is None else repr(task)
        raise UsageError(f"{path} must define TASK = Task(...); it has {found}")
    return task


def find_encoders() -> dict[str, Encoder]:
    """Every encoder that a name reaches, in the order of the files."""
    found: dict[str, Encoder] = {}
    for paths in find_files_by_name("marble_bench.encoders").values():
        module = load(paths[0], f"marble_bench.encoders.{paths[0].stem}")
        found.update({encoder.name: encoder for encoder in getattr(module, "ENCODERS", ())})
    return found


def find_encoder_files() -> dict[str, Path]:
    """The file of every encoder that a name reaches."""
    found: dict[str, Path] = {}
    for paths in find_files_by_name("marble_bench.encoders").values():
        module = load(paths[0], f"marble_bench.encoders.{paths[0].stem}")
        found.update({encoder.name: paths[0].resolve() for encoder in getattr(module, "ENCODERS", ())})
    return found


def families() -> dict[str, str]:
    """The family of every encoder that a name reaches: the first word of its file's name."""
    return {name: path.stem.partition("_")[0] for name, path in find_encoder_files().items()}


def _read_encoders(module: ModuleType) -> dict[str, Encoder]:
    return {key: value for key, value in vars(module).items() if isinstance(value, Encoder)}


def find_encoder(name: str, offline: bool = False) -> Encoder:
    """The encoder that a user asks for: by its name, by `path/to/file.py:Name`, a file that is opened and run, or by a name
    with a prefix (`marble_bench.core.schemes`), such as `hf:org/name`; `org/name` alone is one of the hub.

    Only for words of a command line; what a record names goes to `recorded_encoder`. offline: fetch nothing to find it.
    Raises UsageError with the closest name.
    """
    name = schemes.with_prefix(name)
    if schemes.scheme_of(name):
        return schemes.find(name, offline)
    if found := re.fullmatch(r"(.*\.py)(?::(.*))?", name):  # the last: folders such as .pyenv have it in their names
        path, attribute = Path(found[1]).expanduser(), found[2] or ""
        if not path.is_file():
            raise UsageError(_describe_missing_file("encoder", path))
        module = load(path.resolve(), None)
        own = _read_encoders(module)
        if attribute not in own:
            raise UsageError(_explain_no_encoder(path, attribute, module))
        found_here, digest = own[attribute], digest_of_file(path.resolve())
        if path.resolve() not in find_encoder_files().values():
            check_own_name(found_here.name, found_here.made_from, f"{path}: ")
        if found_here.code:  # an adapter made it: what it holds counts besides
            digest = hashlib.sha256(f"{digest} {found_here.code}".encode()).hexdigest()
        return replace(found_here, code=digest)
    _check_kind("model", name, find_encoders())
    return find_registered_encoder(name)


def check_own_name(name: str, made_from: str = "", where: str = "") -> None:
    """Raise UsageError for a user's encoder of a name of the suite's, in whatever case, or of a model's elsewhere.

    made_from: as of `Encoder`; what a scheme made has a name with its prefix. where: what the error begins with.
    """
    known = {each.casefold(): each for each in find_encoders()}
    scheme = schemes.scheme_of(name)
    if own := known.get(name.casefold()):
        same = "" if own == name else f", '{own}' there"
        raise UsageError(f"{where}'{name}' is an encoder of the suite{same}: give yours a name of its own")
    if scheme is not None and not made_from.startswith(f"{scheme.prefix}:"):
        raise UsageError(f"{where}'{name}' begins as {scheme.forms} do: give your encoder another name")
    if scheme is None and schemes.HUB_ID.fullmatch(name.partition("@")[0]):
        raise UsageError(f"{where}'{name}' is how models of the hub are called: give your encoder another name")


def _explain_no_encoder(path: Path, attribute: str, module: ModuleType) -> str:
    """What is said of a user's file that has no encoder of a name, or of which none was named."""
    own = _read_encoders(module)
    choices = ", ".join(own) or "none"
    if not attribute:
        return f"{path} does not say which Encoder (Encoders in it: {choices}); write {path}:NAME"
    if hasattr(module, attribute):
        found = getattr(module, attribute)
        what = f"{path}: {attribute} is {'a class' if isinstance(found, type) else f'of type {type(found).__name__}'}"
        return (
            f"{what}, not an Encoder (Encoders in it: {choices}); write NAME = Encoder(...) there and {path}:NAME here"
        )
    what = f"{path} has no Encoder '{attribute}'{suggest_name(attribute, own)}"
    return f"{what} (Encoders in it: {choices}); write {path}:NAME"


def _check_kind(kind: str, name: str, known: Collection[str]) -> None:
    """Raise UsageError for a user's word that names no `model` or `task`, and plainly means something else."""
    if name not in known and (other := _guess_meaning(name)):
        raise UsageError(f"no {kind} '{name}': {other} (bench list {kind}s)")


def _guess_meaning(name: str) -> str:
    """What a word may mean that is no name: a file written otherwise, a model of the hub, a task or a model; or empty."""
    path, _, attribute = name.partition(":")  # looked for by os.path, for which one that is too long is not there
    if name.startswith(("http://", "https://")):
        return "a model of the hub is named hf:ORG/NAME"
    if path and os.path.isfile(f"{path}.py"):
        return f"there is a file {path}.py; write {path}.py for a task, {path}.py:{attribute or 'NAME'} for an encoder"
    if os.path.isfile(os.path.join(name, "config.json")):
        return f"{name} is a folder; a model of transformers in it is hf:{name}"
    if path and os.path.exists(path):
        return f"{path} is no Python file; an encoder of your own is FILE.py:NAME, a task FILE.py"
    if name in list_task_names():
        return f"that is a task; write --task {name}"
    return f"that is a model; write --model {name}" if name in find_encoders() else ""


def is_model(name: str) -> bool:
    """Whether a word of a command line names an encoder, and no task."""
    return ".py:" in name or name in find_encoders() or schemes.scheme_of(schemes.with_prefix(name)) is not None


def recorded_encoder(name: str, revision: str, offline: bool = False) -> Encoder:
    """The encoder that a record names, with the commit of its weights that the record has; no path is ever opened.

    Raises UsageError with the closest name.
    """
    return schemes.find_recorded(name, revision, offline) if schemes.scheme_of(name) else find_registered_encoder(name)


def find_registered_encoder(name: str) -> Encoder:
    """The encoder of a name, among those registered; no path is ever opened. Raises UsageError with the closest name."""
    known = find_encoders()
    if name not in known:
        forms = ", ".join(each.forms for each in schemes.SCHEMES.values())
        raise UsageError(f"no model '{name}'{suggest_name(name, known)} (bench list models; or give {forms})")
    return known[name]


PROTOCOLS = Kind("protocol", f"{OWN}.protocols", "PROTOCOL", Protocol)
HEADS = Kind("head", f"{OWN}.probes.heads", "HEAD", Head)
SETS = Kind("set", f"{OWN}.tasks.sets", "SET", TaskSet)


def find_protocols() -> dict[str, Protocol]:
    """Every protocol that a name reaches, sorted."""
    return PROTOCOLS.all()


def find_registered_protocol(name: str) -> Protocol:
    """The protocol of a name; no path is ever opened. Raises UsageError with the closest name."""
    return PROTOCOLS.find_registered(name)


def find_protocol(name: str, head: str | None = None) -> Protocol:
    """The protocol that a user asks for, by its name or by the path of its file; head: another one than its own, likewise.

    Only for words of a command line; what a record names goes to `find_recorded_protocol`.
    """
    if is_path(name):
        found = PROTOCOLS.from_file(name)
        if "+" in found.name:
            raise UsageError(
                f"{name}: protocol '{found.name}' has a name as --head makes them, PROTOCOL+HEAD: give it one without '+'"
            )
        if isinstance(found.head, Head):
            found = replace(found, head=_as_declared(_bind_own_head(found.head, Path(name))))
    else:
        found = find_registered_protocol(name)
    return _exchange_head(found, None if head is None else find_head(head))


def find_recorded_protocol(name: str) -> Protocol:
    """The protocol that a record names, `PROTOCOL` or `PROTOCOL+HEAD`; both are looked up, no path is ever opened.

    Raises UsageError with the closest name.
    """
    rules, _, head = name.partition("+")
    return _exchange_head(find_registered_protocol(rules), find_registered_head(head) if head else None)


def _exchange_head(protocol: Protocol, head: Head | None) -> Protocol:
    """A protocol with another head than its own, if one is given. Raises UsageError where the two do not go together."""
    if head is not None and not protocol.trains:
        raise UsageError(f"protocol '{protocol.name}' trains no probe: leave --head out, or give another --protocol")
    if head is not None:
        able = protocol if head.hidden_layer else protocol.without_hidden_layer()
        protocol = able.with_head(_as_declared(head))
    _check_head(protocol)
    return protocol


def find_head(name: str) -> Head:
    """The head that a user or a protocol asks for, by its name or by the path of its file."""
    return _bind_own_head(HEADS.from_file(name), Path(name)) if is_path(name) else find_registered_head(name)


def _bind_own_head(head: Head, path: Path) -> Head:
    """A head of a user's file with that file's digest; one of the suite's as it is."""
    if HEADS.own(head, path).name in find_files_by_name(HEADS.package):
        return head
    return replace(head, code=digest_of_file(path.expanduser().resolve()))


def _as_declared(head: Head) -> Head | str:
    """A head as a protocol declares it: one of the suite's by its name, so that the protocol's hash has it so."""
    return head if head.code else head.name


def find_heads() -> dict[str, Head]:
    """Every head that a name reaches, sorted."""
    return HEADS.all()


def find_registered_head(name: str) -> Head:
    """The head of a name; no path is ever opened. Raises UsageError with the closest name."""
    return HEADS.find_registered(name)


def get_head(protocol: Protocol) -> Head:
    """The head of a protocol."""
    return protocol.head if isinstance(protocol.head, Head) else find_registered_head(protocol.head)


def _check_head(protocol: Protocol) -> None:
    """Raise UsageError for a head that its protocol's solver cannot train."""
    if not protocol.trains:
        return
    head = get_head(protocol)
    if not head.hidden_layer and (protocol.hidden or any(protocol.hiddens)):
        raise UsageError(
            f"protocol '{protocol.name}': head '{head.name}' has no hidden layer: give hidden=0 and no hiddens"
        )
    if protocol.solver == "adam" and head.fits_itself:
        exact = listing(f"--protocol {name}" for name, each in find_protocols().items() if each.solver == "exact")
        raise UsageError(
            f"head '{head.name}' fits itself, and protocol '{protocol.name}' trains by gradient: give {exact}, or a "
            "protocol of your own with solver='exact'"
        )
    if protocol.solver == "exact" and head.hidden_layer and not head.fits_itself:
        raise UsageError(
            f"protocol '{protocol.name}' solves its problem exactly, and head '{head.name}' has a hidden layer, which only "
            "training by gradient fits: give a head that is linear or fits itself, or another protocol"
        )


def find_metrics() -> dict[str, Metric]:
    """Every metric that a file of `metrics/` declares, in the order of the files."""
    found: dict[str, Metric] = {}
    for paths in find_files_by_name(f"{OWN}.metrics").values():
        path = paths[0]
        declared = getattr(load(path, f"{OWN}.metrics.{path.stem}"), "METRIC", None)
        several = declared if isinstance(declared, tuple) else (declared,)
        for metric in several:
            if not isinstance(metric, Metric):
                raise UsageError(f"{path} must define METRIC = Metric(...), or a tuple of them; it has {declared!r}")
            if metric.name in found:
                raise UsageError(f"{path}: another file declares a metric '{metric.name}' too: rename one")
            found[metric.name] = metric
    return found


def find_task_sets() -> dict[str, TaskSet]:
    """Every task set that a name reaches, sorted. Raises UsageError for a task or metric in one that is not there."""
    found = SETS.all()
    if problems := [problem for each in found.values() for problem in _find_unknown_members(each)]:
        raise UsageError("\n".join(problems))
    return found


def find_task_set(name: str) -> TaskSet:
    """The task set of a name; no path is ever opened. Raises UsageError with the closest name, or for what is not there."""
    found = SETS.find_registered(name)
    if problems := _find_unknown_members(found):
        raise UsageError("\n".join(problems))
    return found


def list_directions(task_set: TaskSet) -> list[str]:
    """What is better in the metrics of a set whose tasks are here: `higher`, `lower` or both."""
    known = {
        metric.name: "higher" if metric.higher_is_better else "lower"
        for name in task_set.members
        if name in list_task_names()
        for metric in find_registered_task(name).task.metrics
    }
    wanted = dict.fromkeys(metric for metrics in task_set.members.values() for metric in metrics)
    return list(dict.fromkeys(known[metric] for metric in wanted if metric in known))


def _find_unknown_members(each: TaskSet) -> list[str]:
    problems, measures, names = [], list[Metric](), list_task_names()
    for name, wanted in each.members.items():
        if name in each.absent:
            continue
        if name not in names:
            problems.append(f"set '{each.name}': no task '{name}'{suggest_name(name, names)} (bench list tasks)")
            continue
        known = {metric.name: metric for metric in find_registered_task(name).task.metrics}
        problems += [
            f"set '{each.name}': task '{name}' has no metric '{metric}'{suggest_name(metric, known)}"
            for metric in wanted
            if metric not in known
        ]
        measures += [known[metric] for metric in wanted if metric in known]
    if each.averaging == "none":
        return problems
    units = {measure.unit for measure in measures}
    if len(units) > 1 and not each.mixed_units:
        problems.append(
            f"set '{each.name}' has a mean over {' and '.join(sorted(units))}: give averaging='none', or mixed_units=True "
            "where its source takes such a mean"
        )
    if len({measure.higher_is_better for measure in measures}) > 1:
        lower = listing(dict.fromkeys(measure.name for measure in measures if not measure.higher_is_better))
        problems.append(
            f"set '{each.name}' has a mean over metrics of both directions ({lower}): give averaging='none'"
        )
    return problems
