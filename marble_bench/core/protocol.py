"""The protocol contract: named, versioned rules of grid, training and selection. A file in `protocols/` declares one.

Two results are compared only when their protocol and its hash are equal; a change makes a new version. Windows,
metrics and patience belong to the task, but where a protocol brings its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from marble_bench.core.declared import (
    MOST_VALUES,
    find_axis_problem,
    find_bool_problem,
    find_whole_problem,
    is_empty,
    is_number,
    is_whole,
    shorten_repr,
)
from marble_bench.core.head import Head
from marble_bench.core.task_rules import TaskRules
from marble_bench.errors import UsageError
from marble_bench.files.names import RULE, is_name, is_text

# Fields that the first protocols did not have: at their defaults they say nothing, so that old hashes stay valid.
LATER = frozenset(
    "hiddens dropouts batch_sizes standardizing input_dropout validate_steps stop_evaluations max_evaluations "
    "solver penalties both_ways layer_concat kept validated".split()
)
# Fields that say nothing about the numbers of a task: words, and the table, of which a task's hash has its own row.
UNHASHED = frozenset(("description", "departures", "tasks"))


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value < 1


# What each axis of a grid may hold, and in words.
AXES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "learning_rates": (lambda value: is_number(value) and value > 0, "finite numbers above 0"),
    "weight_decays": (lambda value: is_number(value) and value >= 0, "finite numbers from 0 on"),
    "penalties": (lambda value: is_number(value) and value > 0, "finite numbers above 0"),
    "hiddens": (lambda value: is_whole(value, 0), "whole numbers from 0 on"),
    "dropouts": (_is_share, "shares from 0 to below 1"),
    "batch_sizes": (lambda value: is_whole(value, 1), "whole numbers from 1 on"),
    "standardizing": (lambda value: isinstance(value, bool), "True, False, or both"),
}


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The rules of a grid. Every mistake found in it is reported in one error.

    head: the name of one in `probes/heads/`, or a `Head` of one's own. hidden, dropout: its facts.
    layer_sum: also train a softmax-weighted sum over the layers behind the input embedding.
    standardize: z-score each feature by the training windows' mean and standard deviation.
    learning_rates, weight_decays: the grid; every layer and every seed meets each of them.
    seeds: how many; fewer makes a record not comparable.
    plateau_factor: what the learning rate is multiplied with on a plateau of the validation score.

    More axes of the grid, for protocols that have them; an axis that is empty has the one value above:
    hiddens (0: no hidden layer), dropouts, batch_sizes, standardizing.

    input_dropout: dropout strikes the features too. validate_steps: validate before the first step and after every so
    many, each on a batch drawn anew; 0: after each epoch. stop_evaluations: stop after so many validations without
    gain, without a plateau; 0: the task's schedule. max_evaluations: their limit; 0: none.
    solver: `adam`, or `exact`: the penalised problem is solved to its end for each of `penalties`, from the strongest
    (a penalty is the L2 term's weight per training window: mean loss + penalty / 2 * |weights|^2). A head that fits itself
    asks for `exact`, and is fitted once for each of its own strengths instead. `none`: no probe is trained, for tasks of
    `Ranking`; then head is empty, and so are the grid's axes.
    both_ways: the LSTM of a separator reads a song forwards and backwards, half its width each way.

    layer_concat: also train on the concatenation of all layers, through an affine map of its own to the last layer's width.
    kept: the weights of the `best` validation, or of the `last` one. validated: `clips`, outputs averaged over the windows
    of each, or every one of the `windows`.
    tasks: what it says of each task in place of what that says, `TaskRules`; a task without a row is then refused. Empty:
    the task's own. departures: where it departs from what it is named for, a line each, which a record repeats.
    """

    name: str
    version: int
    description: str
    head: str | Head
    hidden: int
    dropout: float
    layer_sum: bool
    standardize: bool
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...] = (0.0,)
    batch_size: int = 64
    plateau_factor: float = 0.5
    seeds: int = 3
    hiddens: tuple[int, ...] = ()
    dropouts: tuple[float, ...] = ()
    batch_sizes: tuple[int, ...] = ()
    standardizing: tuple[bool, ...] = ()
    input_dropout: bool = False
    validate_steps: int = 0
    stop_evaluations: int = 0
    max_evaluations: int = 0
    solver: Literal["adam", "exact", "none"] = "adam"
    penalties: tuple[float, ...] = ()
    both_ways: bool = False
    layer_concat: bool = False
    kept: Literal["best", "last"] = "best"
    validated: Literal["clips", "windows"] = "clips"
    tasks: tuple[TaskRules, ...] = ()
    departures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if problems := list(self._find_problems()):
            raise UsageError("\n".join(f"protocol {shorten_repr(self.name)}: {problem}" for problem in problems))

    def _find_problems(self) -> Iterator[str]:
        if not (isinstance(self.name, str) and is_name(self.name)):
            yield f"name {shorten_repr(self.name)} cannot be used in a record: give {RULE}"
        if not (isinstance(self.description, str) and self.description and is_text(self.description)):
            complaint = "is empty" if is_empty(self.description) else f"is {shorten_repr(self.description)}"
            yield f"description {complaint}: give a line that says what its probes are"
        if not isinstance(self.head, (str, Head)):
            yield f"head is {shorten_repr(self.head)}: give a name (bench list heads) or a Head"
        numbers = [problem for problem in self._find_number_problems() if problem]
        yield from numbers
        if not isinstance(self.solver, str) or self.solver not in ("adam", "exact", "none"):
            yield f"solver is {shorten_repr(self.solver)}: give 'adam', 'exact' or 'none'"
        if self.solver == "none" and (self.head or not self._is_bare):
            yield "solver is 'none', which trains no probe: give head='', layer_sum=False and no axis of a grid"
        if self.solver == "exact" and self.layer_sum is True:
            yield "layer_sum is True: a weighted sum of layers is trained by 'adam', and the solver is 'exact'"
        if self.solver == "exact" and is_empty(self.strengths):
            yield "penalties is empty: give what the solver 'exact' is tried with"
        yield from self._find_table_problems()
        if not numbers and (problem := self.find_size_problem(self.seeds)):
            yield problem

    def _find_table_problems(self) -> Iterator[str]:
        """What is wrong with the later fields: the concatenation, what is kept and validated, the table of tasks."""
        scaled = self.standardize is True or any(self.standardizing) or self.input_dropout
        if self.layer_concat is True and (self.solver == "exact" or scaled):
            yield (
                "layer_concat is True: the concatenation is trained by 'adam' on features as they are; leave out "
                "standardize, standardizing, input_dropout and solver='exact'"
            )
        for name, choices in (("kept", ("best", "last")), ("validated", ("clips", "windows"))):
            if getattr(self, name) not in choices:
                yield f"{name} is {shorten_repr(getattr(self, name))}: give {' or '.join(map(repr, choices))}"
        if not (isinstance(self.tasks, tuple) and all(isinstance(each, TaskRules) for each in self.tasks)):
            yield f"tasks is {shorten_repr(self.tasks)}: give a tuple of TaskRules(...)"
            return
        of_rows = any(each.aggregation == "probabilities" or each.validated == "windows" for each in self.tasks)
        if self.solver == "exact" and (of_rows or (self.kept, self.validated) != ("best", "clips")):
            yield "kept, validated and averaged probabilities are of the solver 'adam', and the solver is 'exact'"
        if len({each.task for each in self.tasks}) < len(self.tasks):
            yield "tasks has two rows for one task"
        for row in self.tasks:
            yield from row.find_problems()
        lines = self.departures
        if not (isinstance(lines, tuple) and all(isinstance(each, str) and is_text(each) for each in lines)):
            yield f"departures is {shorten_repr(self.departures)}: give a tuple of lines of text"

    def find_rules(self, task: str) -> TaskRules | None:
        """What it says of a task; None where it leaves all to the task. Raises UsageError for a task without a row."""
        if not self.tasks:
            return None
        if found := next((each for each in self.tasks if each.task == task), None):
            return found
        raise UsageError(
            f"protocol '{self.name}' has no rules for task '{task}': it has them for "
            f"{', '.join(sorted(each.task for each in self.tasks))}"
        )

    def train_by(self, rules: TaskRules | None) -> Protocol:
        """The protocol as the probes of a task are trained by it. rules: what it says of that task."""
        if rules is None:
            return self
        return replace(
            self,
            batch_size=rules.batch_size,
            plateau_factor=rules.plateau_factor,
            validated=rules.validated or self.validated,
        )

    def _find_number_problems(self) -> Iterator[str | None]:
        """What is wrong with numbers and axes, or None, one by one."""
        for name in ("version", "batch_size", "seeds"):
            yield find_whole_problem(name, getattr(self, name), 1)
        for name in ("hidden", "validate_steps", "stop_evaluations", "max_evaluations"):
            yield find_whole_problem(name, getattr(self, name), 0)
        for name in ("layer_sum", "layer_concat", "standardize", "input_dropout", "both_ways"):
            yield find_bool_problem(name, getattr(self, name))
        if not _is_share(self.dropout):
            yield f"dropout is {shorten_repr(self.dropout)}: give shares from 0 to below 1"
        if not (is_number(self.plateau_factor) and 0 < self.plateau_factor < 1):
            yield f"plateau_factor is {shorten_repr(self.plateau_factor)}: give a share above 0 and below 1"
        for name, (is_right, words) in AXES.items():
            values = getattr(self, name)
            if name in ("learning_rates", "weight_decays") and is_empty(values) and self.solver != "none":
                yield f"{name} is empty: give one value or more"
            yield find_axis_problem(name, values, is_right, words)

    def find_size_problem(self, seeds: int) -> str | None:
        """What is said of a grid with more probes for each layer than can be trained, or None."""
        decays = self.strengths if self.solver == "exact" else self.weight_decays
        axes = (self.learning_rates, decays, self.hiddens, self.dropouts, self.batch_sizes, self.standardizing)
        probes = seeds * math.prod(max(1, len(axis)) for axis in axes)
        if probes <= MOST_VALUES:
            return None
        return f"its grid has {probes:,} probes for each layer, all seeds together: give at most {MOST_VALUES:,}"

    @property
    def trains(self) -> bool:
        """Whether it trains probes."""
        return self.solver != "none"

    @property
    def _is_bare(self) -> bool:
        """Whether its grid has no axis, and its probes nothing to be trained by."""
        return not (self.hidden or self.dropout or self.layer_sum) and all(
            is_empty(getattr(self, name)) for name in AXES
        )

    @property
    def strengths(self) -> tuple[float, ...]:
        """What an exact solution is tried with: the penalties, or those of a head that fits itself."""
        return self.head.strengths if isinstance(self.head, Head) and self.head.fits_itself else self.penalties

    def with_head(self, head: str | Head) -> Protocol:
        """The same rules with another head, under a name that says so."""
        if head == self.head:
            return self
        name = head if isinstance(head, str) else head.name
        return replace(self, name=f"{self.name}+{name}", description=f"{self.name} with the head {name}", head=head)

    def without_hidden_layer(self) -> Protocol:
        """The same rules for a head without a hidden layer."""
        return replace(self, hidden=0, hiddens=(), dropout=0.0, dropouts=())

    @property
    def framewise(self) -> bool:
        """Whether its probes can answer frame by frame: plain networks, trained epoch by epoch on features as they are."""
        unlike = self.standardize or self.validate_steps or self.layer_concat
        plain = not unlike and (self.kept, self.validated) == ("best", "clips")
        return plain and self.solver == "adam" and self.head == "mlp"

    @property
    def hash(self) -> str:
        """`sha256:...` over everything but words and the table of tasks, and but what came later and is not used.

        Of a head of one's own its name, version and code.
        """
        unused = {spec.name for spec in fields(self) if spec.name in LATER and getattr(self, spec.name) == spec.default}
        facts: dict[str, Any] = {
            spec.name: getattr(self, spec.name) for spec in fields(self) if spec.name not in unused | UNHASHED
        }
        if isinstance(self.head, Head):
            facts["head"] = [self.head.name, self.head.version, self.head.code]
            facts["strengths"] = self.strengths
        return "sha256:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
