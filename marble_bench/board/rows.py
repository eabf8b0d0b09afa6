"""The leaderboard as data: one `Cell` per model, source, task and metric. Values are fractions, or decibels for SDR."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from msgspec import structs

from marble_bench.core import plugins
from marble_bench.core.task import Task
from marble_bench.errors import UsageError, counted, listing
from marble_bench.records import claims
from marble_bench.records.record import Record, Versioned
from marble_bench.records.record_file import Stored
from marble_bench.scoring.statistics import compute_spread

UNKNOWN = "facts not known here"  # of names that are not registered: somebody's own model or task


@dataclass(frozen=True)
class PublishedDifference:
    """A published score of the same model: by whom, how far the measured one is from it, and the verdict.

    verdict: `inside` if the published score lies in the measured one's 95 % interval, else `above` or `below`: where the
    measured one is.
    """

    mark: str
    value: float
    difference: float
    verdict: str


@dataclass(frozen=True)
class MetricReading:
    """How a value of a metric is read. trivial: what the best constant answer gets, None where that is not known.

    main: whether it is the task's first metric. averaged: whether it is part of the mean of the board's task set.
    """

    unit: str
    higher_is_better: bool = True
    trivial: float | None = None
    main: bool = True
    averaged: bool = False

    @property
    def scale(self) -> int:
        """What a value is multiplied with to be in points: percent, or decibels and ranks as they are."""
        return 100 if self.unit == "fraction" else 1


@dataclass(frozen=True)
class Uncertainty:
    """How sure a score is. interval: 95 %, None where there is none; basis: what it rests on, or why there is none.

    spread: standard deviation over seeds, None where there are no seeds.
    """

    interval: tuple[float | None, float | None] | None = None
    basis: str = ""
    spread: float | None = None


@dataclass(frozen=True)
class Provenance:
    """Where a score is from, and what speaks against it. source: the record's file, or the citation.

    label: what that source calls the model, where it is a paper. borrowed: that source took the number from another
    paper. contaminated: the training data of the model that names the corpus. impossible: why the test clips cannot give a
    printed score; empty if they can. apart: what is different where the suite does not run the protocol of a paper.
    """

    source: str = ""
    label: str = ""
    borrowed: bool = False
    comparable: bool = True
    why_not: tuple[str, ...] = ()
    contaminated: str = ""
    impossible: str = ""
    apart: str = ""


@dataclass(frozen=True)
class Position:
    """How a score stands to others: rank and ties among measured ones (see `board`), and against published ones."""

    rank: int | None = None
    ties: str = ""
    against: tuple[PublishedDifference, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One score.

    mark: `measured` for a record, `floor` for a row of floors, else the published source's letter. weights: 12 hex of the
    digest. mini: made on a miniature, ranked apart.
    """

    model: str
    mark: str
    protocol: str
    task: str
    metric: str
    value: float
    measure: MetricReading
    weights: str = ""
    mini: bool = False
    uncertainty: Uncertainty = Uncertainty()
    origin: Provenance = Provenance()
    position: Position = Position()

    @property
    def row(self) -> tuple[str, str, str]:
        """What identifies a row: model, mark, weights."""
        return self.model, self.mark, self.weights

    @property
    def column(self) -> tuple[str, str]:
        """What identifies a column: task, metric."""
        return self.task, self.metric


def suggest_other_boards(stored: Sequence[Stored], protocol: str, mini: bool) -> str:
    """Where records are when none is of the protocol and kind asked for, and the option that shows them.

    mini: whether records of miniatures were asked for. Empty if some are as asked, or if there is no record at all.
    """
    asked = [each for each in stored if each.record.protocol.name == protocol]
    if any(each.record.data.mini == mini for each in asked):
        return ""
    if asked:
        have = f"{counted(len(asked), 'record')} of protocol {protocol} {'is' if len(asked) == 1 else 'are'}"
        return f"{have} of the full corpora: leave --mini out" if mini else f"{have} of miniatures: add --mini"
    others = sorted({each.record.protocol.name for each in stored})
    return f"there are records of protocol {listing(others)}: give --protocol" if others else ""


@lru_cache(maxsize=256)
def find_task(name: str) -> Task | None:
    """The task of a name, None for one that is not here."""
    try:
        return plugins.find_registered_task(name).task
    except UsageError:
        return None


@lru_cache(maxsize=256)
def find_training_data(model: str) -> tuple[str, ...]:
    """The training data that the encoder of a name declares; none for a model that is not here."""
    encoder = plugins.find_encoders().get(model)
    return encoder.training_data if encoder else ()


def _normalize_words(text: str) -> str:
    return " " + " ".join(re.findall("[a-z0-9]+", text.lower())) + " "


def find_named_corpus(training_data: Iterable[str], corpus: Iterable[str]) -> str:
    """The first entry of a model's training data that names a corpus by one of its names; empty for none.

    An entry names it if it has the name's words next to each other, whatever the case and what is between them.

    >>> find_named_corpus(["Million Song Dataset", "MTG-Jamendo (train)"], ["mtg-jamendo"])
    'MTG-Jamendo (train)'
    >>> find_named_corpus(["Million Song Dataset"], ["mtg-jamendo", "gtzan"])
    ''
    """
    names = [_normalize_words(name) for name in corpus]
    return next((entry for entry in training_data if any(name in _normalize_words(entry) for name in names)), "")


def explain_contamination(training_data: Iterable[str], task: str, corpus: str = "") -> str:
    """The entry of training data that names the corpus of a task; empty for none. corpus: a name of it, if it is known."""
    found = find_task(task)
    names = {corpus} | ({found.corpus.name, found.corpus.title} if found else set())
    return find_named_corpus(training_data, sorted(names - {""}))


def find_contamination(record: Record) -> str:
    """The training data of a record's model that names the corpus of its task; empty for none."""
    return explain_contamination(record.model.training_data, record.task.name, record.data.corpus)


def tell_apart(stored: Sequence[Stored]) -> list[Stored]:
    """Records with protocols and tasks under names that say which: where one name stands for several, `NAME@HASH`.

    Somebody's own protocol or task may keep its name when its rules change; scores under other rules are not ranked with it.
    """
    hashes: dict[tuple[str, str], set[str]] = {}
    for each in stored:
        for kind in ("protocol", "task"):
            part = getattr(each.record, kind)
            hashes.setdefault((kind, part.name), set()).add(part.hash)

    def renamed(kind: str, part: Versioned) -> Versioned:
        several = len(hashes[kind, part.name]) > 1
        return structs.replace(part, name=f"{part.name}@{part.hash.partition(':')[2][:7]}") if several else part

    if all(len(each) == 1 for each in hashes.values()):
        return list(stored)
    return [
        replace(
            each,
            record=structs.replace(
                each.record,
                protocol=renamed("protocol", each.record.protocol),
                task=renamed("task", each.record.task),
            ),
        )
        for each in stored
    ]


def is_control(record: Record) -> bool:
    """Whether a record was made to be wrong, on shuffled labels: it is no score of its model."""
    return any(reason.startswith("a control") for reason in record.why_not)


def _describe_basis(record: Record, metric: str, seeds: int) -> str:
    """What a measured interval rests on, with what the record warns about this metric."""
    basis = f"{record.data.clips.test:,} test clips, mean of {seeds} seeds"
    warnings = [text.partition(": ")[2] for text in record.data.marks if text.startswith(f"{metric}: ")]
    strange = claims.list_unknown(record)
    return "; ".join([f"over {basis}", *warnings, *([f"{UNKNOWN}: {listing(strange)}"] if strange else [])])


def record_cells(stored: Iterable[Stored]) -> list[Cell]:
    """Every score of some records, controls left out.

    Of two for the same place: the comparable one, else the one with fewer reasons not to be, else that of more
    clips.
    """
    place: dict[tuple[str, str, str, str, bool], Stored] = {}
    for each in sorted((each for each in stored if not is_control(each.record)), key=get_display_order):
        record = each.record
        model, protocol, task = record.model, record.protocol.name, record.task.name
        place[model.name, model.weights_sha256, protocol, task, record.data.mini] = each
    return [
        _build_measured_cell(each, metric, value)
        for each in place.values()
        for metric, score in each.record.scores.items()
        if (value := score.test) is not None
    ]


def _build_measured_cell(stored: Stored, metric: str, value: float) -> Cell:
    """The cell of a record's score."""
    record, score = stored.record, stored.record.scores[metric]
    return Cell(
        model=record.model.name,
        mark="measured",
        protocol=record.protocol.name,
        task=record.task.name,
        metric=metric,
        value=value,
        measure=MetricReading(
            score.unit,
            score.higher_is_better,
            score.trivial,
            score.main,
        ),
        weights=record.model.weights,
        mini=record.data.mini,
        uncertainty=Uncertainty(
            score.ci95,
            _describe_basis(record, metric, len(score.per_seed)),
            compute_spread([each for each in score.per_seed if each is not None]),
        ),
        origin=Provenance(
            str(stored.path),
            comparable=record.comparable,
            why_not=record.why_not,
            contaminated=find_contamination(record),
        ),
    )


def get_display_order(each: Stored) -> tuple[bool, int, int]:
    record = each.record
    return record.comparable, -len(record.why_not), record.data.clips.total
