"""What is wrong with a record, if anything: a verdict for each file, found without trusting what the file says of itself.

In the order in which they are asked, and the first that stops further questions is marked:

- `truncated` (stops): no whole JSON. `no record` (stops): JSON, but not of a record. `newer schema` (stops): made by a
  later version of the suite. `form` (stops): not as `record.schema.json` asks, or with NaN, which is no JSON.
- `misplaced`: the path does not say what the record says. `edited`: its digest, or that of a table beside it, is another
  than was written. `tables`: a table is missing, cannot be read, or has other columns or lengths than its task's.
- `counts`: clips of the predictions, probes of the grid or seeds are not as many as the record says. `scores`: a score
  made again from the predictions (test and valid, mean and spread over seeds), or what was measured of a clip, is another.
  `choice`: the chosen probe is not in the grid, or not its best on valid, or the rounds of a probe are those of no training.
- `impossible`: a score out of its range, an interval upside down; a score that the task has not, or reads otherwise; a
  record that calls itself comparable and is not.
- `facts`: what the record says of a registered model, corpus or fault is not what the suite knows of it. `old task`,
  `old protocol`, `old model`: its task, protocol or model is not the one that is here.
- `splits`, `truth`, `trivial`, `fingerprint` (and `counts`): other than the task's list of clips and the corpus
  at hand say; see `marble_bench.records.corpus_facts`.
- `duplicate`: the same run is in another file; `same answers`: predictions that are another model's; see
  `marble_bench.records.copies`.
- `below floor`, `no digests`, `no identity`, `later version`, `not recomputed`, `interval`, `fault not here`,
  `near answers`, `same model`: warnings; the record is valid, somebody should look.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.core import plugins
from marble_bench.core.task import Task
from marble_bench.errors import DataError, listing
from marble_bench.files.atomic import walk
from marble_bench.files.names import name_folder
from marble_bench.records import (
    bsseval,
    claims,
    copies,
    corpus_facts,
    grid_facts,
    measured_facts,
    model_claims,
    origins,
    predictions_facts,
    ranking_facts,
    results,
    versions,
)
from marble_bench.records.claims import CLOSE
from marble_bench.records.corpus_facts import Corpora
from marble_bench.records.record import SCHEMA, Record, compute_mean_and_spread
from marble_bench.records.record_file import Predicted, Stored, find_metric, load_table, read_predictions
from marble_bench.records.schema import InvalidRecord, from_json
from marble_bench.scoring.scores import convert_number, drop, split_of
from marble_bench.scoring.statistics import bootstrap_interval
from marble_bench.scoring.targets import Frames

if TYPE_CHECKING:
    import pandas as pd

MOST_LINES = 5  # of one kind about one record
FAR = 0.25  # of an interval's width: twenty other draws of the clips moved bounds by at most 0.19 of it
FAR_OF_ANY = 3.0  # the same of other versions, whose bounds were at most 0.5 of it away
# what numpy, pandas and torch raise for columns, types and shapes that a run does not write
BROKEN = (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError)
Run = tuple[str | int | tuple[str, ...], ...]  # what makes two records those of one run
WARNINGS = (
    *("below floor", "no digests", "no identity", "later version", "not recomputed", "interval", "fault not here"),
    "near answers",
    "same model",
)


@dataclass(frozen=True)
class Verdict:
    """One thing found about a file. kind: see the module, `ok` for nothing."""

    path: str
    kind: str
    words: str

    @property
    def is_valid(self) -> bool:
        """Whether the record may stay as it is."""
        return self.kind == "ok" or self.kind in WARNINGS


def record_files(places: Sequence[Path]) -> list[Path]:
    """The records that paths mean: files, or folders with records below. Raises DataError for a path that is not."""
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise DataError(f"{place} does not exist")
        found += [place] if place.is_file() else walk(place, ".json")
    return list(dict.fromkeys(found))


def check(paths: Sequence[Path], corpora: Corpora | None = None, intervals: bool = True) -> list[Verdict]:
    """The verdicts on every record, in order, `ok` for those with none. Duplicates are looked for among all of them.

    Of two records with the same answers the one that is asked first stays: those of registered models are, so that no copy
    under another name takes them off the board. What falls for a reason of its own takes no other with it.
    corpora: what is at hand of the records' corpora; None for the lists that are shipped.
    intervals: also make those again, which takes the most time and gives no more than a warning.
    """
    return _list_verdicts({path: _read(path) for path in paths}, corpora, intervals)


def _list_verdicts(read: dict[Path, Stored | Verdict], corpora: Corpora | None, intervals: bool) -> list[Verdict]:
    """See `check`. read: the records by their files, or the verdict on a file that is none."""
    corpora, answers = corpora or Corpora(), copies.Answers()
    of: dict[Path, list[Verdict]] = {}
    runs: dict[Run, Path] = {}
    registered = {name_folder(name) for name in plugins.find_encoders()}
    for path in sorted(read, key=lambda path: path.absolute().parts[-4:][0] not in registered):
        stored = read[path]
        if isinstance(stored, Verdict):
            of[path] = [stored]
            continue
        found = _shorten(_ask_questions(stored, corpora, answers, intervals))
        verdicts = [Verdict(str(path), kind, words) for kind, words in found]
        valid = all(each.is_valid for each in verdicts)
        if not valid:
            answers.invalid.add(path)
        verdicts += [Verdict(str(path), kind, words) for kind, words in _check_twice(stored, runs, valid)]
        of[path] = verdicts or [Verdict(str(path), "ok", _describe_valid(stored, corpora))]
    return [verdict for path in read for verdict in of[path]]


def _shorten(found: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Kinds and words, each once, of which those of one kind are only counted after the first few."""
    counts: Counter[str] = Counter()
    for kind, words in dict.fromkeys(found):
        counts[kind] += 1
        if counts[kind] <= MOST_LINES:
            yield kind, words
    yield from ((kind, f"and {count - MOST_LINES:,} more") for kind, count in counts.items() if count > MOST_LINES)


def _describe_valid(stored: Stored, corpora: Corpora) -> str:
    """What is said of a record with which nothing is wrong."""
    words = f"{stored.name}: scores computed again from the predictions are the same"
    unmade = [name for name in stored.record.scores if find_metric(stored.record, name) is None]
    words += f"; not computed again: {listing(unmade)}, which needs the answers of windows" if unmade else ""
    words += "; not computed again: the few-shot curve, which needs the run" if stored.record.few_shot else ""
    words += "; not computed again: oracles, which need the songs" if stored.record.selection.stems else ""
    here = corpora.of(stored.record)
    if here is None or here.root is None:
        words += _list_unverified(stored.record, here.named.task if here else claims.find_task(stored.record))
    strange = claims.list_unknown(stored.record, corpora.task.name if corpora.task else "")
    return words + (f"; facts not known here: {listing(strange)}" if strange else "")


def _list_unverified(record: Record, task: Task | None) -> str:
    """What only the corpus tells of a record."""
    short, words = len(record.data.too_short), ""
    if short:
        words += f"; not verified: {short} clips left out as too short, which needs the corpus (--data-dir)"
    if measured_facts.find_measure(task):
        words += "; only bounded: what was measured of frames, which needs the corpus (--data-dir)"
    return words


def _read(path: Path) -> Stored | Verdict:
    """A record of the right form, or the verdict that stops."""

    def stop(kind: str, words: str) -> Verdict:
        return Verdict(str(path), kind, words)

    try:
        facts = results.parse_json(results.read_text(path))
    except results.NotANumber as error:
        return stop("form", str(error))
    except (ValueError, OSError) as error:
        return stop("truncated", f"no whole JSON: {error}")
    schema = facts.get("schema") if isinstance(facts, dict) else None
    if not isinstance(schema, str) or not schema.startswith("marble-bench.record/"):
        return stop("no record", f"its schema is {schema!r}, not {SCHEMA!r}")
    if schema != SCHEMA:
        number = schema.rpartition("/")[2]
        known = re.fullmatch("[1-9][0-9]{0,8}", number) is not None
        newer = known and int(number) > int(SCHEMA.rpartition("/")[2])
        words = f"made with {schema[:60]}, this version reads {SCHEMA}"
        return stop("newer schema", words + "; update marble-bench") if newer else stop("no record", words)
    try:
        return Stored(path, from_json(facts), results.compute_digest(facts))
    except InvalidRecord as error:
        return stop("form", listing(error.faults, most=5))


def _ask_questions(
    stored: Stored, corpora: Corpora, answers: copies.Answers, intervals: bool
) -> Iterator[tuple[str, str]]:
    """What is asked of a record of the right form. answers: of the records before it."""
    yield from _place(stored)
    yield from _check_digests(stored)
    yield from _check_ranges(stored.record)
    yield from claims.find_disagreements(stored.record)
    yield from model_claims.find_disagreements(stored.record)
    here = corpora.of(stored.record)
    yield from origins.find_disagreements(stored.record, here)
    if task := here.named.task if here else claims.find_task(stored.record):
        yield from claims.check_faults(stored.record, task, here.clips if here else ())

    def listed(stored: Stored, frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
        return corpus_facts.find_disagreements(stored, frame, here) if here else iter(())

    tables: dict[str, pd.DataFrame] = {}
    asked: list[tuple[str, Callable[[Stored, pd.DataFrame], Iterator[tuple[str, str]]]]] = [
        ("grid", _check_grid),
        ("predictions", partial(_check_predictions, intervals=intervals)),
        ("predictions", partial(predictions_facts.find_disagreements, task=task, thorough=intervals)),
        ("predictions", lambda stored, frame: ranking_facts.check_ranks(stored.record, frame, tables.get("grid"))),
        ("predictions", listed),
        ("predictions", answers.find_copies),
        (bsseval.KIND, _check_windows),
    ]
    yield from _read_tables(stored, tables)
    for kind, questions in asked:
        try:
            if kind in tables:
                yield from questions(stored, tables[kind])
        except DataError as error:
            yield "tables", str(error)
        except BROKEN as error:
            yield "tables", f"the {kind} are not of the form that a run writes: {type(error).__name__}: {error}"


def _read_tables(stored: Stored, tables: dict[str, pd.DataFrame]) -> Iterator[tuple[str, str]]:
    """Puts the tables beside a record into `tables`, and says which are not there or cannot be read."""
    for kind in (*results.TABLES, bsseval.KIND):
        try:
            found = load_table(stored, kind)
        except DataError as error:
            yield "tables", str(error)
            continue
        if found is not None:
            tables[kind] = found
        elif kind != bsseval.KIND:  # a record is whole without BSSEval's windows
            yield "tables", f"{results.find_table_path(stored.path, kind).name} is missing beside it"


def _check_windows(stored: Stored, frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    if wrong := bsseval.find_disagreement(stored, frame):
        yield (
            "tables",
            f"{results.find_table_path(stored.path, bsseval.KIND).name} is not the table of this record: {wrong}",
        )


def _place(stored: Stored) -> Iterator[tuple[str, str]]:
    record = stored.record
    variant, here = claims.name_variant(record), stored.path.absolute().parts[-4:]
    if variant is None:  # for a reason that this version does not know: its name may be any that is not a full run's
        stem = results.name_file_stem(record.task.name)
        variant = stored.path.name.removesuffix(".json").removeprefix(f"{stem}.") or "unknown"
    expected = results.record_path(Path(), record, variant)
    if here != expected.parts:
        yield "misplaced", f"what it says belongs to {expected}"


def _check_digests(stored: Stored) -> Iterator[tuple[str, str]]:
    digests = stored.record.digests
    if not digests:
        yield "no digests", "made before records had digests: an edit cannot be seen"
        return
    if digests.record != stored.digest:
        yield "edited", "the record was changed after it was written: its digest is another"
    for kind in results.TABLES:
        path = results.find_table_path(stored.path, kind)
        try:
            if path.is_file() and results.digest_of_table(path) != getattr(digests, kind):
                yield "edited", f"{path.name} is not the table that was written: its digest is another"
        except DataError as error:
            yield "tables", str(error)
        except OSError as error:
            yield "tables", f"{path} cannot be read: {error.strerror}"


def _check_ranges(record: Record) -> Iterator[tuple[str, str]]:
    main = list(record.main_scores)
    if len(main) != 1:
        yield "impossible", f"{len(main)} main scores; there is one"
    elif record.selection.metric != main[0]:
        yield "impossible", f"probes were chosen by {record.selection.metric}, the main score is {main[0]}"
    seeds = record.selection.seeds
    for name, score in record.scores.items():
        values = [score.test, score.valid, score.trivial, *score.per_seed, *score.ci95]
        yield from claims.find_out_of_range(name, name, score.unit, values)
        if len(score.per_seed) != seeds:
            yield "counts", f"{name}: {len(score.per_seed)} scores for {seeds} seeds"
        mean, std = compute_mean_and_spread(score.per_seed)
        if not _close(mean, score.test):
            yield (
                "scores",
                f"{name}: test is {_format_numbers([score.test])}, the mean of its seeds {_format_numbers([mean])}",
            )
        if not _close(std, score.std):
            yield (
                "scores",
                f"{name}: std is {_format_numbers([score.std])}, the spread of its seeds {_format_numbers([std])}",
            )
        yield from claims.explain_no_interval(name, score.test, score.ci95)
        if score.main and score.test is not None and score.trivial is not None:
            below = (score.test < score.trivial) == score.higher_is_better and score.test != score.trivial
            if below:
                floor = "a random order" if record.retrieval else "a constant answer"
                yield "below floor", f"{name}: {score.test:.4g}, {floor} gets {score.trivial:.4g}"


def _check_grid(stored: Stored, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    selection = stored.record.selection
    if stored.record.retrieval:
        yield from ranking_facts.check_layers(stored.record, grid)
        yield from model_claims.check_asked_layers(stored.record, list(dict.fromkeys(grid["layer"])))
        return
    if len(grid) != selection.probes:
        yield "counts", f"{len(grid)} probes in the grid, {selection.probes} in the record"
    if int(grid["diverged"].sum()) != selection.diverged:
        yield (
            "counts",
            f"{int(grid['diverged'].sum())} probes diverged in the grid, {selection.diverged} in the record",
        )
    yield from _check_tried(stored.record, grid)
    yield from _check_histories(stored.record, grid)
    yield from grid_facts.find_disagreements(stored, grid)
    for choice in selection.per_seed:
        same, stem = grid, {"stem": choice.stem} if choice.stem else {}
        places = {"seed": choice.seed, "layer": choice.layer, "best_epoch": choice.epoch, **stem, **choice.axes}
        for column, value in places.items():
            same = same[same[column] == value] if column in same else same[:0]
        if len(same) != 1:
            yield "choice", f"the probe that seed {choice.seed} chose is not in the grid"
            continue
        rivals = grid[grid["seed"] == choice.seed]
        if choice.stem:  # each stem has a probe of its own
            rivals = rivals[rivals["stem"] == choice.stem]
        best, valid = float(rivals["valid"].max()), choice.valid
        valid = -math.inf if valid is None else valid
        if abs(float(same["valid"].iloc[0]) - valid) > CLOSE or best > valid + CLOSE:
            yield (
                "choice",
                f"seed {choice.seed} chose {valid:.6g} on valid; the best of the grid is {best:.6g}",
            )


def _check_tried(record: Record, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether the grid holds what its protocol tries, on every layer that a full run reads, and nothing twice."""
    protocol, task, encoder = claims.find_protocol(record), claims.find_task(record), claims.find_encoder(record)
    keys = [name for name in grid.columns if name not in ("valid", "best_epoch", "diverged", "history")]
    if grid.duplicated(keys).any():
        yield "counts", "a probe is in the grid twice"
    seeds = set(range(record.selection.seeds))
    if set(grid["seed"]) != seeds:
        yield (
            "counts",
            f"the grid has seeds {listing(map(str, sorted(set(grid['seed']))))}, the record has {len(seeds)}",
        )
    known = {layer.name for layer in encoder.layers} | {"sum", "concat"} if encoder else set(grid["layer"])
    if strange := sorted(set(grid["layer"]) - known):
        yield "choice", f"the grid has layer {listing(strange, most=3)}, which '{record.model.name}' has not"
    yield from model_claims.check_asked_layers(record, list(dict.fromkeys(grid["layer"])))
    if protocol is None or (task is None and "stem" in grid):
        return
    for axis, values in claims.list_axes(protocol, task, record.data.mini).items():
        found = set(grid[axis]) if axis in grid else set()
        if found != set(values):
            yield (
                "counts",
                f"the grid has {axis} {_format_some(found)}, and '{protocol.name}' tries {_format_some(values)}",
            )


def _format_some(values: Iterable[Any]) -> str:
    return listing([f"{value:g}" for value in sorted(values)], most=6) or "of none"


def _check_histories(record: Record, grid: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether each probe's score is that of its own history that is kept, where both are of the same metric."""
    task, protocol = claims.find_task(record), claims.find_protocol(record)
    by_loss = task is None or isinstance(task.target, Frames)  # trained by their loss, chosen by what is decoded
    if "history" not in grid or by_loss or protocol is None or protocol.validate_steps:
        return
    for row, (history, valid, diverged) in enumerate(
        zip(grid["history"], grid["valid"], grid["diverged"], strict=True)
    ):
        known = [value for value in history if value == value]
        if not known or diverged or valid != valid:
            continue
        which, score = ("last", known[-1]) if record.selection.kept == "last" else ("best", max(known))
        if abs(score - valid) > CLOSE * max(1, abs(valid)):
            yield (
                "choice",
                f"probe {row} of the grid has {valid:.6g} on valid, the {which} of its history is {score:.6g}",
            )
            return


def _check_predictions(stored: Stored, frame: pd.DataFrame, intervals: bool) -> Iterator[tuple[str, str]]:
    record = stored.record
    seeds = record.selection.seeds
    for split in ("valid", "test"):
        rows = frame[frame["split"] == split]
        clips, expected = rows["clip"].nunique(), record.data.clips.of(split)
        if clips != expected or len(rows) != expected * seeds:
            yield (
                "counts",
                f"{len(rows)} predictions of {clips} {split} clips, the record has {expected} clips and {seeds} seeds",
            )
    yield from _check_items(record, frame)
    yield from _check_perturbed(stored, frame)
    for name, score in record.scores.items():
        found = read_predictions(stored, name, frame=frame)
        if found is not None:
            yield from _score(name, record, found, intervals)
            chosen = read_predictions(stored, name, "valid", frame)
            valid = compute_mean_and_spread(_compute_scores(chosen))[0] if chosen else score.valid
            if not _close(valid, score.valid):
                recorded, computed = _format_numbers([score.valid]), _format_numbers([valid])
                yield "scores", f"{name}: valid is {recorded} in the record, {computed} by its predictions"
        elif find_metric(record, name) or score.main:
            yield "not recomputed", f"{name} cannot be computed again from the stored data"


def _score(name: str, record: Record, found: Predicted, intervals: bool) -> Iterator[tuple[str, str]]:
    """Whether a score on test, its interval and that of a constant answer are what the predictions give."""
    score = record.scores[name]
    again = _compute_scores(found)
    if not all(_close(*pair) for pair in zip_longest(again, score.per_seed)):
        yield (
            "scores",
            f"{name}: {_format_numbers(score.per_seed)} in the record, {_format_numbers(again)} by its predictions",
        )
    elif intervals:
        bounds = bootstrap_interval(found.metric, found.outputs, found.truth, found.groups)
        yield from _check_interval(name, score.ci95, [convert_number(bound) for bound in bounds], record)
    trivial, width = score.trivial, found.outputs.shape[-1]
    if trivial is not None and not claims.is_trivial_possible(found.metric, width, found.truth, trivial):
        yield "scores", f"{name}: trivial is {trivial:.6g} in the record, and no constant answer gets it on these clips"


def _check_interval(
    what: str, recorded: Sequence[float | None], computed: Sequence[float | None], record: Record
) -> Iterator[tuple[str, str]]:
    """Whether an interval is that of the predictions: a warning where another version, or other draws of clips, made it."""
    if all(_close(*pair, 1e-4) for pair in zip(recorded, computed, strict=True)):
        return
    words = f"{what} {_format_numbers(recorded)} in the record, {_format_numbers(computed)} with this version"
    known = [bound for bound in (*recorded, *computed) if bound is not None]
    if len(known) < 4:
        widths = math.inf if versions.is_this(record) else 0.0
    else:
        widths = max(abs(known[0] - known[2]), abs(known[1] - known[3])) / (known[3] - known[2])
    if widths > (FAR if versions.is_this(record) else FAR_OF_ANY):
        yield "scores", f"interval of {words}"
    else:
        yield "interval", words


def _check_items(record: Record, frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether every seed answered the same clips, once each, with one truth; and no clip is in two splits."""
    plain = frame[frame["split"].isin(("valid", "test"))]
    if set(plain["seed"]) != set(range(record.selection.seeds)):
        yield "counts", f"predictions of seeds {listing(map(str, sorted(set(plain['seed']))))}, not 0, 1, 2, ..."
    if frame.duplicated(["split", "seed", "clip"]).any():
        yield "counts", "a clip has two predictions of one seed"
    if plain.groupby("clip")["split"].nunique().max() > 1:
        yield "counts", "a clip is in the valid and in the test split"
    facts = frame.assign(truth=[str(list(truth)) for truth in frame["truth"]])
    for column in ("truth", "group"):
        if (facts.groupby(["split", "clip"])[column].nunique() > 1).any():
            yield "counts", f"the {column} of a clip differs from seed to seed"


def _compute_scores(found: Predicted) -> list[float | None]:
    """Each seed's score of stored answers; None where there is none."""
    return [convert_number(value) for value in found.metric.compute(found.outputs, found.truth).tolist()]


def _check_perturbed(stored: Stored, frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Whether what a record says of changed clips is what its predictions give."""
    record = stored.record
    seeds, clips = len(record.selection.per_seed), record.data.clips.test
    perturbations = record.perturbations
    for split in sorted(set(frame["split"]) - {"valid", "test"} - {split_of(name) for name in perturbations}):
        yield "counts", f"predictions of '{split}', of which the record says nothing"
    for name, found in perturbations.items():
        rows = frame[frame["split"] == split_of(name)]
        if rows["clip"].nunique() != found.clips or len(rows) != found.clips * seeds:
            yield "counts", f"{name}: {len(rows)} predictions, the record has {found.clips} clips and {seeds} seeds"
            continue
        if found.clips + found.left_out != clips:
            yield "counts", f"{name}: {found.clips} clips and {found.left_out} left out; there are {clips}"
        for metric, score in found.scores.items():
            after = read_predictions(stored, metric, split_of(name), frame)
            before = read_predictions(stored, metric, frame=frame)
            if after is None or before is None:
                yield "not recomputed", f"{name}: {metric} cannot be computed again from the stored data"
                continue
            places = [before.items.index(item) for item in after.items]
            unchanged, changed = (before.outputs[:, places], before.truth[places]), (after.outputs, after.truth)
            again = drop(after.metric, unchanged, changed, after.groups)
            pairs = [(again[key], getattr(score, key)) for key in ("test", "clean", "drop")]
            pairs += list(zip(again["per_seed"], score.per_seed, strict=False))
            if len(again["per_seed"]) != len(score.per_seed) or not all(_close(*pair) for pair in pairs):
                yield (
                    "scores",
                    f"{name}: {metric} {_format_numbers([score.test])}, drop {_format_numbers([score.drop])} in the record, "
                    f"{_format_numbers([again['test']])} and {_format_numbers([again['drop']])} by its predictions",
                )
                continue
            bounds = score.drop_ci95 or again["drop_ci95"]  # a record made before drops had one has none
            yield from _check_interval(f"{name}: {metric} drop", bounds, again["drop_ci95"], record)


def _close(one: float | None, other: float | None, apart: float = CLOSE) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= apart * max(1, abs(one))


def _format_numbers(values: Iterable[float | None]) -> str:
    return ", ".join("none" if value is None else f"{value:.6g}" for value in values)


def _check_twice(stored: Stored, runs: dict[Run, Path], valid: bool) -> Iterator[tuple[str, str]]:
    """Whether a run was met before, in a valid record."""
    record = stored.record
    run = (
        record.protocol.hash,
        record.task.hash,
        record.data.fingerprint,
        record.model.name,
        record.model.weights_sha256,
        record.why_not,
        record.selection.seeds,
    )
    if run in runs:
        yield "duplicate", f"the same run is in {runs[run]}"
    if valid:
        runs.setdefault(run, stored.path)


def read_all(paths: Sequence[Path]) -> list[Stored]:
    """The records of the right form among some files; the others' verdicts say what is wrong with them."""
    return [found for found in map(_read, paths) if isinstance(found, Stored)]


@dataclass(frozen=True)
class ValidRecords:
    """The records of a folder: the valid ones, and a line for each other file that says what is wrong with it."""

    valid: list[Stored]
    left_off: list[str]


def read_valid(path: Path) -> Stored:
    """The record of a path that somebody names, wherever it lies.

    Raises DataError naming the file where no record is there, and where `check` finds it invalid.
    """
    stored = results.read(path)
    if left_off := keep_valid([path], placed=False).left_off:
        raise DataError(f"{left_off[0]} (bench results check)")
    return stored


def keep_valid(paths: Sequence[Path], placed: bool = True) -> ValidRecords:
    """Records by what `check` finds: boards, lists and comparisons show the valid ones, and name the others.

    placed: whether a record has to lie where it belongs; one that somebody names by its path need not.
    """
    read = {path: _read(path) for path in paths}
    invalid: dict[str, Verdict] = {}
    for verdict in _list_verdicts(read, None, intervals=False):
        if not verdict.is_valid and (placed or verdict.kind != "misplaced"):
            invalid.setdefault(verdict.path, verdict)
    valid = [each for each in read.values() if isinstance(each, Stored) and str(each.path) not in invalid]
    return ValidRecords(valid, [f"{each.path}: {each.kind}: {each.words}" for each in invalid.values()])
