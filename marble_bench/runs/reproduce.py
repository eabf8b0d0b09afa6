"""Runs a record again, the same model, task, protocol, layers, seeds and limit, and says what comes out otherwise.

Scores are verified against the record's intervals. That alone would let an edit pass that stays inside them, so facts, the
whole grid, the choice and every prediction are compared too. On one machine with one torch a rerun is the same to the last
digit, whatever the number of threads (`SAME`); elsewhere sums are rounded otherwise, and training amplifies that (`APART`:
one in a hundred features moved to the next number of half precision moves outputs by up to 0.0013).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec import UNSET

from marble_bench.audio import perturb
from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder
from marble_bench.core.plugins import Named
from marble_bench.core.protocol import Protocol
from marble_bench.core.schemes import scheme_of
from marble_bench.core.sources import Origin
from marble_bench.errors import DataError, UsageError, listing
from marble_bench.records import comparable
from marble_bench.records.comparable import BROUGHT
from marble_bench.records.record import Data, PerturbedScore, Record, Score, SourceCode, to_json
from marble_bench.records.record_file import Stored, load_table, read_predictions
from marble_bench.records.results import VOLATILE, find_table_path, list_differences
from marble_bench.runs.config import RunConfig, find_corpus_root
from marble_bench.scoring.scores import convert_number, split_of
from marble_bench.scoring.statistics import bootstrap_interval

if TYPE_CHECKING:
    import pandas as pd

CLOSE = 1e-6  # scores are made again in double precision from stored single precision
# How far a rerun's outputs may be from the record's, in standard deviations of that seed's outputs, and validation scores.
SAME, APART = 1e-3, 0.05
VALID_APART = 0.05  # of a probe's validation score where the environment is another
ENVIRONMENT = ("python", "torch", "device", "dtype", "platform")  # what the rounding of sums depends on

Found = TypeVar("Found")


@dataclass(frozen=True)
class ScoreComparison:
    """One score of a record and of its rerun. verdict: `same`, `inside` the interval, or `outside`.

    interval: 95 %, what the rerun is judged by. basis: where that is from, `the record`, `its predictions`, or why neither.
    """

    metric: str
    record: float | None
    again: float | None
    difference: float | None
    interval: tuple[float | None, float | None]
    basis: str
    verdict: str


@dataclass(frozen=True)
class PlugIns:
    """How a user names the plug-ins of a record: names or files; None for those that the record's own names reach.

    head: with `protocol`, the rules that it was put into.
    """

    model: str | None = None
    task: str | None = None
    protocol: str | None = None
    head: str | None = None

    def find_encoder(self, record: Record, offline: bool = False) -> Encoder:
        """The encoder. Raises UsageError for a record of features that somebody brought, which are not in it."""
        facts = record.model
        if facts.source.startswith(BROUGHT):
            raise UsageError(f"{facts.name} was scored from features ({facts.source}), which a record does not hold")
        if self.model:
            return plugins.find_encoder(self.model, offline)
        if scheme_of(facts.name):
            return plugins.recorded_encoder(facts.name, facts.revision, offline)
        return _find(plugins.find_registered_encoder, facts.name, "--model FILE.py:NAME")

    def find_task(self, record: Record) -> Named:
        """The task."""
        if self.task:
            return plugins.find_task(self.task)
        return _find(plugins.find_registered_task, record.task.name, "--task FILE.py")

    def find_protocol(self, record: Record) -> Protocol:
        """The protocol, with the head that was put into it."""
        if self.protocol:
            return plugins.find_protocol(self.protocol, self.head)
        ways = "--protocol NAME or FILE.py, --head NAME or FILE.py"
        return _find(plugins.find_recorded_protocol, record.protocol.name, ways)


def make_config(
    record: Record,
    cache: Path,
    results: Path,
    device: str,
    given: PlugIns = PlugIns(),
    data_dir: Path | None = None,
    weights: Path | None = None,
    **more: Any,
) -> RunConfig:
    """The configuration that would make a record. more: fields of `FeatureConfig`.

    Raises UsageError where a plug-in is not found, and DataError for perturbations that are not known here.
    """
    encoder = given.find_encoder(record, more.get("offline", False))
    named, rules = given.find_task(record), given.find_protocol(record)
    apart = comparable.find_departures(record, rules.seeds)
    _check_perturbations(apart.perturbed)
    _check_perturbed_scores(record)
    return RunConfig.of(
        named=named,
        protocol=rules,
        encoder=encoder,
        model=encoder.name,
        cache=cache,
        results=results,
        root=None if record.data.mini else find_corpus_root(named, cache, data_dir, None),
        mini=record.data.mini,
        weights=weights,
        allow_missing=bool(record.data.missing or apart.missing),
        device=device,
        **_list_options(apart),
        **more,
    )


def _list_options(apart: comparable.Departures) -> dict[str, Any]:
    """What set a run apart, as fields of its configuration."""
    same = {
        name: getattr(apart, name) for name in ("layers", "variants", "seeds", "limit", "dtype", "few_shot", "control")
    }
    return {**same, "perturb": apart.perturbed, "pools": (apart.variants.pool,)}


def _check_perturbations(names: Sequence[str]) -> None:
    """Raise DataError for perturbations that this version does not make."""
    if strange := sorted(set(names) - set(perturb.CHANGES)):
        raise DataError(
            f"the record has perturbations that this version does not know: {listing(map(ascii, strange))} (there are "
            f"{listing(perturb.CHANGES)}); see bench results check"
        )


def _check_perturbed_scores(record: Record) -> None:
    """Raise DataError for scores on changed clips that the record has not on the clips themselves."""
    recorded = {metric for found in record.perturbations.values() for metric in found.scores}
    if strange := sorted(recorded - set(record.scores)):
        raise DataError(
            f"the record has {listing(strange, most=3)} on changed clips, but no such plain score; see bench results check"
        )


def _find(find: Callable[[str], Found], name: str, option: str) -> Found:
    """What a record names. Raises UsageError that says how a file of one's own is given, where no name reaches it."""
    try:
        return find(name)
    except UsageError as error:
        raise UsageError(f"{error}; if it is one of your own, give its file: {option}") from error


def compare_scores(old: Stored, again: Record) -> list[ScoreComparison]:
    """Every score of a record beside that of its rerun; `accuracy, mp3` is one under a perturbation.

    A record has intervals of plain scores and of drops. That of a score under a perturbation is made here, of the
    predictions beside the record; where they do not give that score, the plain score's is moved to it.
    """
    rows = [
        _compare_score(name, score.test, _test(again.scores, name), score.ci95, "the record")
        for name, score in old.record.scores.items()
    ]
    for change, found in old.record.perturbations.items():
        after = again.perturbations[change].scores if change in again.perturbations else {}
        for name, lost in found.scores.items():
            interval, basis = _find_interval(old, name, change)
            rows.append(_compare_score(f"{name}, {change}", lost.test, _test(after, name), interval, basis))
    return rows


def _test(scores: Mapping[str, Score | PerturbedScore], name: str) -> float | None:
    """The test score of a name; None where there is none."""
    return scores[name].test if name in scores else None


def _find_interval(old: Stored, name: str, change: str) -> tuple[tuple[float | None, float | None], str]:
    """The 95 % interval of a score under a perturbation, and what it is from."""
    plain, score = old.record.scores[name], old.record.perturbations[change].scores[name].test
    try:
        found = read_predictions(old, name, split_of(change))
    except DataError as error:
        found, why = None, str(error)
    else:
        why = "they are not beside the record"
    if found is not None:
        values = found.metric.compute(found.outputs, found.truth).tolist()
        if score is not None and abs(sum(values) / len(values) - score) <= CLOSE * max(1, abs(score)):
            low, high = bootstrap_interval(found.metric, found.outputs, found.truth, found.groups)
            return (convert_number(low), convert_number(high)), "its predictions"
        why = "they give another score"
    below, above = (_shift(bound, plain.test, score) for bound in plain.ci95)
    return (below, above), f"the unchanged score, moved, since its predictions cannot be taken: {why}"


def _shift(bound: float | None, base: float | None, to: float | None) -> float | None:
    return None if bound is None or base is None or to is None else bound - base + to


def _compare_score(
    name: str, old: float | None, new: float | None, interval: tuple[float | None, float | None], basis: str
) -> ScoreComparison:
    if old is None or new is None:
        return ScoreComparison(name, old, new, None, interval, basis, "same" if old == new else "outside")
    low, high = interval
    same = abs(new - old) <= 1e-9 * max(1, abs(old))
    inside = low is not None and high is not None and low <= new <= high
    return ScoreComparison(
        name, old, new, new - old, interval, basis, "same" if same else "inside" if inside else "outside"
    )


def list_changed_facts(record: Record, again: Record) -> list[str]:
    """What else is not the same, scores and choices left out: versions, data, weights."""
    left_out = (*VOLATILE, "scores", "selection", "perturbations")
    old, new = ({k: v for k, v in to_json(each).items() if k not in left_out} for each in (record, again))
    return list(list_differences(old, new))


@dataclass(frozen=True)
class Difference:
    """What a record says and its rerun does not. kind: `weights`, `model`, `task`, `protocol`, `data`, `counts`, `faults`,
    `missing`, `identity`, `few-shot`, `trivial`, `grid`, `choice`, `predictions`."""

    kind: str
    words: str


def find_differences(old: Stored, again: Stored) -> list[Difference]:
    """All that speaks against a record, each in plain words. again: the rerun's record, its tables beside it.

    Raises DataError where the record has no tables, or broken ones.
    """
    close = all(getattr(old.record.environment, key) == getattr(again.record.environment, key) for key in ENVIRONMENT)
    found = [Difference(*each) for each in _compare_facts(old.record, again.record, close)]
    try:
        grids, answers = ([_read_table(each, kind) for each in (old, again)] for kind in ("grid", "predictions"))
        found += [Difference(*each) for each in _compare_grid(old.record, grids[0], grids[1], close)]
        found += [Difference(*each) for each in _compare_predictions(answers[0], answers[1], close)]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"the tables beside {old.path} are broken (bench results check): {error}") from error
    return found


def _read_table(stored: Stored, kind: str) -> pd.DataFrame:
    found = load_table(stored, kind)
    if found is None:
        raise DataError(f"{find_table_path(stored.path, kind)} does not exist, so a new run cannot be compared with it")
    return found


def _compare_facts(old: Record, new: Record, close: bool) -> Iterator[tuple[str, str]]:
    """Facts that depend on no rounding."""
    if old.model.weights_sha256 != new.model.weights_sha256:
        digests = [each.model.weights for each in (old, new)]
        yield "weights", f"its weights have the digest {digests[0]}, those of {new.model.name} here {digests[1]}"
    names = ("name", "version", "parameters", "states", "width", "sample_rate_hz", "frame_rate_hz", "license")
    for key in (*names, "training_data", "normalize"):
        before, here = (_make_list(getattr(each.model, key)) for each in (old, new))
        if before is not UNSET and before != here:
            yield "model", f"{key.replace('_', ' ')}: {before!r} in the record, {here!r} here"
    for kind, rules, here in (("task", old.task, new.task), ("protocol", old.protocol, new.protocol)):
        if rules != here:
            versions = [f"{each.name} version {each.version}" for each in (rules, here)]
            more = "" if versions[0] != versions[1] else ", with other contents"
            yield kind, f"made for {versions[0]}, here is {versions[1]}{more}"
    yield from _compare_data(old.data, new.data, close)
    yield from _compare_sources(old, new)
    yield from _compare_keys(old, new)
    yield from _compare_few_shot(old, new, close)
    for name, score in old.scores.items():
        computed = new.scores[name].trivial if name in new.scores else None
        if not _is_near(score.trivial, computed, 10 * CLOSE):
            yield (
                "trivial",
                f"{name}: a constant answer gets {_format(computed)}, the record says {_format(score.trivial)}",
            )


def _compare_sources(old: Record, new: Record) -> Iterator[tuple[str, str]]:
    """Whether the record names the code that the rerun was of. Of a file of one's own the digest is not compared: it may
    have been edited, in a comment too, and what it then answers is compared."""
    if not old.identity or not new.identity:
        return
    recorded, rerun = (
        {_describe_code(each) for each in record.identity.sources} for record in (old, new) if record.identity
    )
    for words, there in ((recorded - rerun, "the record"), (rerun - recorded, "the rerun")):
        if words:
            yield "identity", f"only {there} has {listing(sorted(words), most=3)}"


def _describe_code(source: SourceCode) -> str:
    """The code of a plug-in for people: of the suite's with the digest that its version is known by."""
    origin = Origin(source.kind, source.name, source.version, source.digest, source.shipped)
    digest = f", code {origin.key[2][:12]}" if source.shipped else ", a file of one's own"
    return f"{source.kind} {source.name!r} version {source.version}{digest}"


def _compare_keys(old: Record, new: Record) -> Iterator[tuple[str, str]]:
    """Whether the keys of features and run are the same, where all that they are made of is."""
    if not old.identity or not new.identity or old.identity.sources != new.identity.sources:
        return
    made_of = [(each.model.weights_sha256, each.environment.dtype, each.data.fingerprint) for each in (old, new)]
    if made_of[0] != made_of[1] or old.identity.pipeline != new.identity.pipeline:
        return
    for name in ("features", "run"):
        recorded, rerun = getattr(old.identity, name), getattr(new.identity, name)
        if recorded != rerun:
            yield "identity", f"identity.{name} is {recorded[:19]}..., the rerun's is {rerun[:19]}..."


def _compare_few_shot(old: Record, new: Record, close: bool) -> Iterator[tuple[str, str]]:
    """Whether every point of a few-shot curve comes out as the record says."""
    if len(old.few_shot) != len(new.few_shot):
        yield "few-shot", f"{len(old.few_shot)} points of the curve in the record, {len(new.few_shot)} here"
        return
    most = CLOSE if close else VALID_APART
    for recorded, rerun in zip(old.few_shot, new.few_shot, strict=True):
        where = f"{100 * recorded.share:g} % of the training clips"
        if (recorded.share, recorded.clips) != (rerun.share, rerun.clips):
            yield (
                "few-shot",
                f"{where}, {recorded.clips} clips in the record; {100 * rerun.share:g} %, {rerun.clips} clips here",
            )
        for split in ("valid", "test"):
            before, here = (getattr(each, split) for each in (recorded, rerun))
            if len(before) != len(here) or not all(map(partial(_is_near, apart=most), before, here)):
                shown = [", ".join(map(_format, each)) for each in (before, here)]
                yield "few-shot", f"{where}: {split} is {shown[0]} in the record, {shown[1]} here"


def _make_list(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _compare_data(old: Data, new: Data, close: bool) -> Iterator[tuple[str, str]]:
    for split, count in old.clips.as_dict().items():
        if count != new.clips.of(split):
            yield "counts", f"{count} {split} clips in the record, {new.clips.of(split)} here"
    for kind, sets in (
        ("faults", [{fault.clip for fault in each.faults} for each in (old, new)]),
        ("missing", [set(each.missing) for each in (old, new)]),
    ):
        why = "for a fault" if kind == "faults" else "as missing"
        for more, where in ((sets[0] - sets[1], "the record"), (sets[1] - sets[0], "the rerun")):
            if more:
                yield kind, f"only {where} leaves out {len(more)} clips {why}: {listing(sorted(more), most=5)}"
    drawn = old.mini and not close  # a miniature is computed, and another machine may round its samples otherwise
    if old.fingerprint != new.fingerprint and not drawn:
        yield "data", "clips, splits, labels or audio are not those of the corpus here: the fingerprint is another"


def _compare_grid(record: Record, old: pd.DataFrame, new: pd.DataFrame, close: bool) -> Iterator[tuple[str, str]]:
    """Whether every probe did on validation what the record says, and whether validation chooses what it says."""
    axes = [name for name in new.columns if name not in ("valid", "own", "best_epoch", "diverged", "history")]
    pairs: Any = old.merge(new, on=axes, suffixes=("", "_again"), how="outer", indicator=True)
    if alone := int((pairs["_merge"] != "both").sum()):
        yield "grid", f"{alone} probes are in only one of the two grids"
    both, most = pairs[pairs["_merge"] == "both"], CLOSE if close else VALID_APART
    for seed, rows in both.groupby("seed", sort=True):
        apart = (rows["valid"] - rows["valid_again"]).abs()
        other = rows[(apart > most) | (rows["valid"].isna() != rows["valid_again"].isna())]
        if len(other):
            worst = rows.loc[apart.idxmax()] if apart.notna().any() else other.iloc[0]
            yield (
                "grid",
                f"seed {seed}: {len(other)} of {len(rows)} probes have another validation score, layer {worst['layer']!r} "
                f"{_format(worst['valid'])} in the record and {_format(worst['valid_again'])} here",
            )
    for choice in record.selection.per_seed:
        rivals = both[both["seed"] == choice.seed]
        if choice.stem:
            rivals = rivals[rivals["stem"] == choice.stem]
        if choice.half:
            rivals = rivals[rivals["half"] == choice.half]
        own = rivals
        for name, value in {"layer": choice.layer, **choice.axes}.items():
            own = own[own[name] == value] if name in own else own
        best = rivals["valid_again"].max()
        if len(own) and len(rivals) and not (best - own["valid_again"].max() <= most):
            layer = rivals.loc[rivals["valid_again"].idxmax(), "layer"]
            yield (
                "choice",
                f"seed {choice.seed}: the record chose layer {choice.layer!r}, which gets "
                f"{_format(own['valid_again'].max())} on validation; layer {layer!r} gets {_format(best)}",
            )


def _compare_predictions(old: pd.DataFrame, new: pd.DataFrame, close: bool) -> Iterator[tuple[str, str]]:
    """Whether every clip is answered as the record says."""
    import numpy as np

    keys, most = ["split", "seed", "clip"], SAME if close else APART
    pairs: Any = old.merge(new, on=keys, suffixes=("", "_again"), how="outer", indicator=True)
    for side, where in (("left_only", "the record"), ("right_only", "the rerun")):
        rows = pairs[pairs["_merge"] == side]
        for split, names in rows.groupby("split")["clip"]:
            yield (
                "predictions",
                f"only {where} answers {names.nunique()} {split} clips: {listing(sorted(set(names)), most=5)}",
            )
    both = pairs[pairs["_merge"] == "both"]
    for (split, seed), rows in both.groupby(["split", "seed"], sort=True):
        recorded, rerun = (np.stack(list(rows[name])).astype(np.float64) for name in ("outputs", "outputs_again"))
        if recorded.shape != rerun.shape:
            yield "predictions", f"{split}, seed {seed}: {recorded.shape[1]} outputs a clip, {rerun.shape[1]} here"
            continue
        spread = np.nanstd(rerun) or 1.0
        apart = np.nanmax(np.abs(recorded - rerun), axis=1, initial=0.0) / spread
        apart[(np.isnan(recorded) != np.isnan(rerun)).any(axis=1)] = np.inf
        if (other := apart > most).any():
            clips = list(rows["clip"][other])
            yield (
                "predictions",
                f"{split}, seed {seed}: {len(clips)} of {len(rows)} clips are answered otherwise, by up to "
                f"{apart.max():.2g} standard deviations: {listing(clips, most=5)}",
            )
        wrong = [
            clip
            for clip, one, two in zip(rows["clip"], rows["truth"], rows["truth_again"], strict=True)
            if len(one) != len(two) or not np.allclose(one, two, atol=CLOSE)
        ]
        if wrong:
            yield (
                "predictions",
                f"{split}, seed {seed}: {len(wrong)} clips have another label: {listing(wrong, most=5)}",
            )


def _is_near(one: float | None, other: float | None, apart: float) -> bool:
    return one is other if one is None or other is None else abs(one - other) <= apart * max(1, abs(one))


def _format(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"
