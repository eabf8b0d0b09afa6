"""Two models, task by task: how far apart, how sure that is, in which classes, and on which clips.

Differences are paired: both answered the same test clips (see `marble_bench.scoring.statistics`). The p-values of the
tasks' main scores are one family and corrected by Holm; further scores and classes are shown without a test of their own,
because who looks at hundreds of them finds some.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.board.printed import PrintedComparison, compare_with_printed, find_printed_scores
from marble_bench.board.published import read_published_cells
from marble_bench.board.rows import (
    Cell,
    find_contamination,
    get_display_order,
    is_control,
    suggest_other_boards,
)
from marble_bench.core import plugins
from marble_bench.core.schemes import scheme_of
from marble_bench.errors import UsageError, listing, suggest_name
from marble_bench.records.comparable import find_variants
from marble_bench.records.record import Score
from marble_bench.records.record_file import Predicted, Stored, are_alike, read_predictions
from marble_bench.records.validation import read_valid
from marble_bench.scoring import statistics

if TYPE_CHECKING:
    import pandas as pd
    import torch


# Of a table of a comparison. value: A minus B, with its 95 % interval `low` to `high`, `p`, and `holm`, which is p corrected
# over main scores. kind: `paired` on the same clips, or `printed`: one of the two is a paper's, with `verdict`, `source`,
# `protocol` of the printed score, whether that is `same_protocol` as the record's, and `borrowed`, where the paper took it
# from another one. contaminated: the training data of the models that names the task's corpus.
COLUMNS = (
    *("task", "metric", "main", "unit", "a", "b", "value", "low", "high", "p", "holm", "kind", "verdict", "source"),
    *("protocol", "same_protocol", "borrowed", "contaminated"),
)


@dataclass(frozen=True)
class Part:
    """A class, tag or dimension: its name, its test clips, both scores there, and their difference."""

    name: str
    clips: int
    a: float
    b: float
    difference: float


@dataclass(frozen=True)
class ClipDifference:
    """A clip, its truth as text, and the gain of A over B on it by the metric's own measure of a clip."""

    clip: str
    truth: str
    a: float
    b: float
    gain: float


@dataclass(frozen=True)
class Compared:
    """One score of two records of one protocol. difference: A minus B. holm: its p corrected, for main scores only.

    contaminated: the training data of either model that names the task's corpus, empty for none.
    """

    task: str
    metric: str
    main: bool
    unit: str
    protocol: str
    contaminated: str
    a: float
    b: float
    difference: statistics.Difference
    holm: float | None
    parts: tuple[Part, ...]
    moved: tuple[ClipDifference, ...]


@dataclass(frozen=True)
class Comparison:
    """All that two models have in common.

    apart: a line for each task that could not be compared, and why. printed: records of one model beside what papers print
    of the other, unpaired.
    """

    a: str
    b: str
    compared: list[Compared]
    apart: list[str]
    printed: list[PrintedComparison] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values. The value, low, high and p of a difference stand beside the scores that it is of."""
        return {**asdict(self), "compared": [_flatten(asdict(each)) for each in self.compared]}

    def to_pandas(self) -> pd.DataFrame:
        """One row for each pair of scores, with the columns of `COLUMNS`; NaN where there is no value."""
        import pandas as pd

        of_pairs = {"kind": "paired", "verdict": "", "source": "", "same_protocol": True, "borrowed": False}
        paired = [{**_flatten(asdict(each)), **of_pairs} for each in self.compared]
        rows = [*paired, *(self._printed_row(each) for each in self.printed)]
        found = pd.DataFrame(rows, columns=list(COLUMNS))
        return found.astype(dict.fromkeys(("a", "b", "value", "low", "high", "p", "holm"), float))

    def _printed_row(self, each: PrintedComparison) -> dict[str, Any]:
        """A measured score beside a printed one, whichever of them is A's."""
        both = each.measured.value, each.printed.value
        a, b = both if each.measured.model == self.a else both[::-1]
        facts = {name: getattr(each, name) for name in ("task", "metric", "main", "unit", "verdict", "same_protocol")}
        facts |= {"protocol": each.printed.protocol, "borrowed": each.printed.borrowed}
        facts["contaminated"] = _join(each.measured.contaminated, each.printed.contaminated)
        return {**facts, "a": a, "b": b, "value": each.difference, "kind": "printed", "source": each.printed.citation}


def _join(*words: str) -> str:
    return ", ".join(sorted({*words} - {""}))


def _flatten(facts: dict[str, Any]) -> dict[str, Any]:
    """A comparison's facts with its difference's value, low, high and p in the difference's place."""
    found: dict[str, Any] = {}
    for name, value in facts.items():
        found |= value if name == "difference" else {name: value}
    return found


@dataclass(frozen=True)
class Choice:
    """Which records are compared.

    folder: where they are. stored: the valid records in it. protocol, mini: the records of that protocol, on miniatures or
    not. tasks: of these tasks, all if empty.
    """

    folder: Path
    stored: Sequence[Stored]
    protocol: str = "marble"
    mini: bool = False
    tasks: tuple[str, ...] = ()

    @property
    def asked(self) -> list[Stored]:
        """The records of the protocol, on miniatures or not."""
        made = [each for each in self.stored if each.record.protocol.name == self.protocol]
        return [each for each in made if each.record.data.mini == self.mini]


@dataclass(frozen=True)
class _Side:
    """What there is of a model: its records, and what papers print of it."""

    name: str
    records: list[Stored]
    printed: list[Cell]

    def on(self, tasks: Sequence[str]) -> _Side:
        """The same of some tasks, of all if none are named."""
        if not tasks:
            return self
        records = [each for each in self.records if each.record.task.name in tasks]
        return replace(self, records=records, printed=[cell for cell in self.printed if cell.task in tasks])


def compare_models(a: str, b: str, choice: Choice, clips: int = 5, cache: Path | None = None) -> Comparison:
    """Two models: their records with each other, paired, and the records of one with what papers print of the other.

    a, b: the name of a model, NAME/DIGEST where it has several weights, or the path of a record. Where A has records, they
    are compared with all that B has, records and printed scores. Where A has printed scores alone, they are compared with
    the records of B. clips: how many of those that moved most to keep. cache: see `build_board`.

    Raises UsageError for a name without records and printed scores, for two names without records, and where no score can
    be compared.
    """
    sides = (_find_side(a, choice), _find_side(b, choice))
    _check_sides(*sides, choice)
    first, second = (side.on(choice.tasks) for side in sides)
    compared, apart = _compare_paired(first.records, second.records, clips, all(map(is_path, (a, b))))
    measured, other = (first, second) if sides[0].records else (second, first)
    printed: list[PrintedComparison] = []
    if measured.records and other.printed:
        printed, why = compare_with_printed(measured.records, other.printed, measured is first, cache)
        apart += why
    if not compared and not printed:
        raise _refuse_comparison(first.name, second.name, apart)
    return Comparison(first.name, second.name, compared, apart, printed)


def _find_side(name: str, choice: Choice) -> _Side:
    records = find_records(name, choice)
    return _Side(records[0].record.model.name if records else name, records, find_printed_scores(name))


def _check_sides(first: _Side, second: _Side, choice: Choice) -> None:
    """Raise UsageError where two sides have nothing to compare, or not on the tasks that were asked for."""
    for side, other in ((first, second), (second, first)):
        if not side.records and not (side.printed and other.records):
            raise _refuse_no_records(side, other, choice)
    on = [{each.record.task.name for each in side.records} for side in (first, second)]
    on = [tasks | {cell.task for cell in side.printed} for tasks, side in zip(on, (first, second), strict=True)]
    both = sorted(on[0] & on[1])
    if choice.tasks and not set(choice.tasks) & set(both):
        hint = suggest_name(choice.tasks[0], both) or f"; both have {listing(both) or 'none'}"
        raise UsageError(f"{first.name} and {second.name} do not both have scores on {', '.join(choice.tasks)}{hint}")


def find_records(name: str, choice: Choice) -> list[Stored]:
    """The records of a path or of a model's name: of each task the one that the board shows, last.

    A model whose weights changed has its name once for each: `name/digest`, as their folders do. Controls are no scores of a
    model; a path reaches them. Raises UsageError with the digests to choose from, and DataError for the path of an
    invalid record.
    """
    if is_path(name):
        return [read_valid(Path(name).expanduser())]
    model, digest = split_weights(name, [each.record.model.name for each in choice.stored])
    found = [each for each in choice.asked if each.record.model.name == model and not is_control(each.record)]
    found = [each for each in found if each.record.model.weights_sha256.startswith(digest)]
    several = dict.fromkeys(each.record.model.weights for each in found)
    if len(several) > 1:
        raise UsageError(
            f"'{name}' has records of {len(several)} weights in {choice.folder}; choose one: "
            + listing(f"{model}/{weights}" for weights in several)
        )
    return sorted(found, key=get_display_order)


def _refuse_no_records(side: _Side, other: _Side, choice: Choice) -> UsageError:
    """What is said of a side without records that are asked for. other: what it is compared with."""
    of_it, of_other = (_find_by_name(each.name, choice.stored) for each in (side, other))
    names = sorted({each.record.model.name for each in choice.asked})
    if not of_it and not side.printed and _is_known(side.name, names):
        return _refuse_no_run(side.name, of_other, choice)
    hint = suggest_other_boards(of_it, choice.protocol, choice.mini)
    if hint and other.printed and not of_other and not choice.mini:
        made = [each for each in of_it if each.record.protocol.name == choice.protocol]
        hint = "its miniatures are not compared with printed scores, which are of full corpora" if made else hint
    elif side.printed and other.printed and not hint:
        models = " ".join(f"--model {each.name}" for each in (side, other))
        hint = f"papers print scores of both: bench leaderboard {models}"
    elif not (hint or names):
        hint = suggest_other_boards(choice.stored, choice.protocol, choice.mini)
    known = sorted({*names, *(cell.model for cell in read_published_cells())})
    hint = f"; {hint}" if hint else suggest_name(side.name, known)
    hint = hint or (f"; there are {listing(names)}" if names else "; there are none")
    where = f"{choice.folder}, protocol {choice.protocol}" + (", miniatures" if choice.mini else "")
    return UsageError(f"no record of model '{side.name}' in {where}{hint}")


def _is_known(model: str, recorded: Sequence[str]) -> bool:
    """Whether a name is that of an encoder which can be run: one of the suite, or of the hub or a package, if it is no
    misspelling of a recorded one."""
    return model in plugins.find_encoders() or (scheme_of(model) is not None and not suggest_name(model, recorded))


def _refuse_no_run(model: str, of_other: Sequence[Stored], choice: Choice) -> UsageError:
    """What is said of an encoder that was never run. of_other: the records of what it is compared with."""
    tasks = choice.tasks or sorted({each.record.task.name for each in of_other})
    mini = choice.mini or (bool(of_other) and all(each.record.data.mini for each in of_other))
    word = "hf:FOLDER" if model.startswith("hf:") and "/" not in model else model
    call = f"bench run --model {word} --task {tasks[0] if tasks else 'NAME'}{' --mini' if mini else ''}"
    return UsageError(f"no record of model '{model}' in {choice.folder}: make one with {call}")


def _find_by_name(name: str, stored: Sequence[Stored]) -> list[Stored]:
    model, _ = split_weights(name, [each.record.model.name for each in stored])
    return [each for each in stored if each.record.model.name == model]


def split_weights(name: str, known: Iterable[str]) -> tuple[str, str]:
    """The model and the first digits of the weights' digest in `NAME/DIGEST`; the digest is empty in a name alone.

    known: names of models that have records. A name may have a slash of its own, so one of these is never split, and
    what follows the last slash is a digest only if it is hexadecimal.

    >>> split_weights("mert-95m/0a1b", []), split_weights("hf:org/name", []), split_weights("hf:org/bad", ["hf:org/bad"])
    (('mert-95m', '0a1b'), ('hf:org/name', ''), ('hf:org/bad', ''))
    """
    model, _, digest = name.rpartition("/")
    if name in known or not (model and re.fullmatch("[0-9a-f]+", digest)):
        return name, ""
    return model, digest


def is_path(name: str) -> bool:
    """Whether a side of a comparison is the path of a record, and not the name of a model."""
    return name.endswith(".json")


def _refuse_comparison(a: str, b: str, apart: Sequence[str]) -> UsageError:
    return UsageError(f"{a} and {b} cannot be compared:\n  " + "\n  ".join(apart))


def _compare_paired(
    a: Sequence[Stored], b: Sequence[Stored], clips: int, by_path: bool
) -> tuple[list[Compared], list[str]]:
    """Every score that the records of two models share, and why others do not; nothing of a model without records.

    by_path: whether somebody named the files of both, and so may compare records of different variants.
    """
    if not a or not b:
        return [], []
    by_task: list[dict[str, Stored]] = [{_get_task_key(each): each for each in side} for side in (a, b)]
    compared, apart = [], []
    for task in sorted(by_task[0].keys() | by_task[1].keys()):
        sides = [side.get(task) for side in by_task]
        one, other = sides
        if one is None or other is None:
            apart.append(f"{task}: only {(one or other).record.model.name} has it")  # type: ignore[union-attr]
            continue
        other_rules = "" if by_path else _explain_other_variants(one, other)
        found, why = ([], other_rules) if other_rules else _compare_scores(one, other, clips)
        compared += found
        apart += [f"{task}: {why}"] if why else []
    main = [index for index, each in enumerate(compared) if each.main]
    for index, p in zip(main, statistics.correct_holm([compared[index].difference.p for index in main]), strict=True):
        compared[index] = replace(compared[index], holm=p)
    return compared, apart


def _explain_other_variants(one: Stored, other: Stored) -> str:
    """Why records of two names are not compared, one of which was made by other rules; empty for records of one variant."""
    variants = [find_variants(each.record) for each in (one, other)]
    if variants[0] == variants[1]:
        return ""
    rules = ["; ".join(each.list_reasons()) or "the rules of the protocol" for each in variants]
    return (
        f"the two records are of different variants ({rules[0]}, and {rules[1]}): give the paths of both records to compare "
        "them"
    )


def _get_task_key(each: Stored) -> str:
    return each.record.task.name


def _compare_scores(one: Stored, other: Stored, clips: int) -> tuple[list[Compared], str]:
    """The comparisons of two records of one task, and why there is none."""
    for part in ("protocol", "task"):
        if getattr(one.record, part).hash != getattr(other.record, part).hash:
            return [], f"the two records are of different {part} versions"
    comparisons = []
    for name, score in one.record.scores.items():
        if name not in other.record.scores:
            continue
        sides = [read_predictions(each, name) for each in (one, other)]
        a, b = sides
        if a is None or b is None:
            continue
        if not are_alike([a, b]):
            ranked = one.record.retrieval and other.record.retrieval
            return [], f"they were scored on different {'lists of items' if ranked else 'test clips'}"
        found = _compare_score(one, name, score, a, b, clips)
        contaminated = _join(find_contamination(one.record), find_contamination(other.record))
        comparisons.append(replace(found, contaminated=contaminated))
    return comparisons, "" if comparisons else "their files of predictions are missing"


def _compare_score(one: Stored, name: str, score: Score, a: Predicted, b: Predicted, clips: int) -> Compared:
    first, second = statistics.replicate(a.metric, [a.outputs, b.outputs], a.truth, a.groups)
    labels = _list_labels(one, a)
    return Compared(
        task=one.record.task.name,
        metric=name,
        main=score.main,
        unit=score.unit,
        protocol=one.record.protocol.name,
        contaminated="",
        a=first.score,
        b=second.score,
        difference=statistics.compute_difference(first, second, a.metric.smooth),
        holm=None,
        parts=_compare_parts(a, b, labels),
        moved=_find_most_changed_clips(a, b, labels, clips),
    )


def _list_labels(one: Stored, found: Predicted) -> list[str]:
    """The names of classes, tags or dimensions; numbers where the task is not here."""
    try:
        target = plugins.find_registered_task(one.record.task.name).task.target
    except UsageError:
        return [str(index) for index in range(found.outputs.shape[-1])]
    return list(target.names)


def _compare_parts(a: Predicted, b: Predicted, labels: Sequence[str]) -> tuple[Part, ...]:
    """Per class the mean of the clips of that class; per tag or dimension the metric on it alone; none for other kinds."""
    import torch

    kind = a.metric.kind
    rows: list[tuple[str, int, float, float]] = []
    if kind == "classes":
        one, other = (each.metric.per_clip(each.outputs, each.truth).mean(dim=0) for each in (a, b))
        for index, name in enumerate(labels):
            own = torch.nonzero(a.truth == index)[:, 0]
            if len(own):
                rows.append((name, len(own), float(one[own].mean()), float(other[own].mean())))
    elif kind in ("tags", "scalars") and a.outputs.shape[-1] == len(labels) > 1 and _is_splittable(a):
        for index, name in enumerate(labels):
            count = int(a.truth[:, index].sum()) if kind == "tags" else len(a.truth)
            rows.append((name, count, _score_column(a, index), _score_column(b, index)))
    return tuple(Part(name, count, first, second, first - second) for name, count, first, second in rows)


def _is_splittable(found: Predicted) -> bool:
    """Whether a metric is the mean of what it gives for one column of the outputs alone."""
    whole = found.metric.compute(found.outputs[:1], found.truth)
    columns = [_select_columns(found, index) for index in range(found.outputs.shape[-1])]
    try:
        each = [found.metric.compute(outputs[:1], truth) for outputs, truth in columns]
    except IndexError:
        return False  # it reads one column only, by its place
    return bool(abs(float(whole[0]) - sum(float(score[0]) for score in each) / len(each)) < 1e-6)


def _select_columns(found: Predicted, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    return found.outputs[..., [index]], found.truth[..., [index]]


def _score_column(found: Predicted, index: int) -> float:
    return float(found.metric.compute(*_select_columns(found, index)).mean())


def _find_most_changed_clips(
    a: Predicted, b: Predicted, labels: Sequence[str], count: int
) -> tuple[ClipDifference, ...]:
    """The clips on which A gained and lost most, `count` of each, by the metric's measure of a clip; best first."""
    each = [side.metric.per_clip(side.outputs, side.truth).mean(dim=0).tolist() for side in (a, b)]
    rows = [
        ClipDifference(clip, _describe_truth(a, index, labels), one, other, one - other)
        for index, (clip, one, other) in enumerate(zip(a.items, *each, strict=True))
    ]
    rows = [row for row in rows if row.gain == row.gain]  # a clip without a score of its own
    rows.sort(key=lambda row: (-row.gain, row.clip))
    extremes = rows[:count] + rows[max(count, len(rows) - count) :]
    return tuple(row for row in extremes if row.gain)


def _describe_truth(found: Predicted, index: int, labels: Sequence[str]) -> str:
    """A clip's truth in words."""
    if found.metric.kind == "ranking":
        return found.groups[index]
    truth = found.truth[index]
    if found.metric.kind == "classes":
        return labels[int(truth)]
    if found.metric.kind == "tags":
        return ", ".join(name for name, holds in zip(labels, truth.tolist(), strict=True) if holds)
    values = truth.reshape(-1).tolist()
    if found.metric.kind != "scalars":
        return f"{sum(value >= 0 for value in values)} annotated" if values else ""
    return ", ".join(f"{value:.3g}" for value in values[:6])
