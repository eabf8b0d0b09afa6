"""The task-set contract: a named, versioned list of tasks that are read together. A file in `tasks/sets/` declares one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from marble_bench.errors import UsageError, suggest_name
from marble_bench.files.names import RULE, is_name, is_text


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """What is declared of a set. Every mistake found in it is reported in one error.

    members: each task's name and the names of its metrics that count, as they are in records.
    averaging: `tasks`: the mean over tasks, each the mean of its metrics, in points (percent; dB as they are), and only of a
        model that has every task; `none`: the source prints no mean, so there is none.
    mixed_units: True where the source itself takes a mean over metrics of several units.
    protocol: whose board shows the mean of this set if no set is asked for; empty for none.
    absent: members that papers score and that the suite need not have. Their metrics are as papers print them.
    source: where the list and the averaging are published. version: raised whenever members, metrics or averaging change.
    """

    name: str
    title: str
    members: Mapping[str, tuple[str, ...]]
    averaging: Literal["tasks", "none"]
    source: str
    mixed_units: bool = False
    protocol: str = ""
    absent: tuple[str, ...] = ()
    version: int = 1

    def __post_init__(self) -> None:
        problems = [] if is_name(self.name) else [f"name {self.name!r} cannot be used in a record: give {RULE}"]
        problems += [f"{f} is empty: give a line" for f in ("title", "source") if not getattr(self, f)]
        problems += [f"{f} is not on one line" for f in ("title", "source") if not is_text(getattr(self, f))]
        if not self.members:
            problems.append("members is empty: give tasks with the metrics that count")
        for task, metrics in self.members.items():
            if isinstance(metrics, str) or not metrics or len(set(metrics)) != len(metrics):
                problems.append(f"members['{task}'] is {metrics!r}: give a tuple of names of metrics, each once")
        problems += [
            f"absent has '{name}', which is no member{suggest_name(name, self.members)}"
            for name in self.absent
            if name not in self.members
        ]
        if self.protocol and not is_name(self.protocol):
            problems.append(f"protocol is {self.protocol!r}: give {RULE}")
        if self.averaging not in ("tasks", "none"):
            problems.append(f"averaging is {self.averaging!r}: give 'tasks' or 'none'")
        if self.version < 1:
            problems.append(f"version is {self.version}: start at 1")
        if problems:
            raise UsageError("\n".join(f"set '{self.name}': {problem}" for problem in problems))
