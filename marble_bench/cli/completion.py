"""What a shell completes: names of plug-ins, several with commas too. Nothing heavy is imported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from marble_bench.errors import BenchError


def complete_names(kind: str) -> Callable[[str], list[str]]:
    """Completes the names of a kind of plug-in, as `bench list` calls it: `tasks`, `models` and so on."""

    def complete(incomplete: str) -> list[str]:
        try:
            return _complete(incomplete, [*names_of(kind), *(["all"] if kind == "tasks" else [])])
        except BenchError:  # a faulty plug-in file: the command itself will name it
            return []

    return complete


def complete_choices(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """Completes one of some words."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete


def names_of(kind: str) -> Iterable[str]:
    """The names of a kind of plug-in."""
    from marble_bench.core import plugins

    found: dict[str, Callable[[], Iterable[str]]] = {
        "tasks": plugins.list_task_names,
        "models": plugins.find_encoders,
        "protocols": plugins.find_protocols,
        "heads": plugins.find_heads,
        "sets": plugins.find_task_sets,
    }
    return found[kind]()


def _complete(incomplete: str, names: Iterable[str]) -> list[str]:
    """The names that go on from the last one of several with commas between them, behind those that stand there."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
