"""What a record claims and the suite knows: each claim is compared with the fact, and none is believed.

Facts are known of what is registered under the record's names: the protocol's rules, the task's counts, metrics and known
faults, the encoder's layers, licence and training data. Of a name that is not registered nothing is known, which is no
fault. Everything here reads the record alone, and for `faults` the task's list of clips where that is at hand; what
needs the tables beside it is asked in `marble_bench.records.validation`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec import UNSET

from marble_bench.audio import perturb
from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder
from marble_bench.core.keys import hash_task
from marble_bench.core.plugins import Named
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import SPLITS, Clip, Task, Window
from marble_bench.data.checks import ROUGH_FORM
from marble_bench.errors import UsageError, listing
from marble_bench.metrics import Metric
from marble_bench.probes import few_shot
from marble_bench.records import comparable, ranking_facts, versions
from marble_bench.records.comparable import BROUGHT
from marble_bench.records.record import FewShotPoint, Interval, Record, Score
from marble_bench.scoring.statistics import WHY
from marble_bench.scoring.targets import Frames, Ranking, Stems

CLOSE = 1e-6  # scores are made again in double precision from stored single precision
CLOSE_TRIVIAL = 1e-5
MOST_TRIED = (
    10**9
)  # values of constant answers that are scored; of a task of 50 classes and 10,000 test clips 25 million
LOUDEST_DB = 400  # no ratio of two signals in double precision is larger
NO_INTERVAL = "no interval, "  # so begins what is marked of a score without one
CLOSE_VALID = (
    1e-3  # validation scores of probes trained together and of one alone: single precision, another order of sums
)


def find_disagreements(record: Record) -> Iterator[tuple[str, str]]:
    """Kind and words of every claim of a record that is not so."""
    yield from _check_protocol(record)
    yield from _check_task(record)
    yield from _check_absent(record)
    yield from _check_comparable(record)
    yield from _check_variants(record)
    yield from _check_selection(record)
    yield from _check_other_kinds(record)
    yield from _check_curves(record)
    yield from _check_perturbations(record)
    yield from _check_marks(record)


def _check_perturbations(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the changes of test clips are those that this suite has, and their scores those of the record."""
    if strange := sorted(set(record.perturbations) - set(perturb.CHANGES)):
        yield (
            "facts",
            f"no perturbation is called {listing(map(ascii, strange), most=3)}; there are {listing(perturb.CHANGES)}",
        )
    for name, found in record.perturbations.items():
        if more := [metric for metric in found.scores if metric not in record.scores]:
            yield (
                "impossible",
                f"{name}: {listing(more, most=3)} is scored on changed clips, and is no score of the record",
            )


def list_unknown(record: Record, own_task: str = "") -> list[str]:
    """What of a record's names is not registered, so that its facts are not known here. own_task: one that was given."""
    found = {
        "protocol": plugins.find_protocols().get(record.protocol.name),
        "task": find_task(record),
        "model": find_encoder(record),
    }
    return [
        f"{what} '{getattr(record, what).name}'"
        for what, known in found.items()
        if known is None and (what != "task" or record.task.name != own_task)
    ]


def find_protocol(record: Record) -> Protocol | None:
    """The protocol of a record as its variants change it, if this version of the suite has the very one.

    Variants that it cannot have leave it as it is; `_check_variants` says so.
    """
    found = plugins.find_protocols().get(record.protocol.name)
    if found is None or found.hash != record.protocol.hash:
        return None
    try:
        return comparable.find_variants(record).adapt_protocol(found)
    except UsageError:
        return found


def find_window(record: Record, task: Task) -> Window:
    """How the clips of a record were cut. task: as its protocol asks it."""
    try:
        return comparable.find_variants(record).adapt_window(task.window)
    except UsageError:
        return task.window


def find_task(record: Record) -> Task | None:
    """The registered task of a record's name, as its protocol asks it; None for somebody's own."""
    named = find_named(record)
    return named.task if named else None


def find_named(record: Record) -> Named | None:
    """As `find_task`, with the task's name and file. A protocol that is not here leaves the task as it is."""
    try:
        named = plugins.find_registered_task(record.task.name)
    except UsageError:
        return None
    protocol = plugins.find_protocols().get(record.protocol.name.partition("+")[0])
    if protocol is None:
        return named
    try:
        return plugins.adapt_task(named, protocol, record.data.mini)
    except UsageError:
        return named  # the protocol does not ask this task: its hash will differ


def find_training(record: Record, protocol: Protocol) -> Protocol:
    """A protocol as it trains the probes of a record's task."""
    named = find_named(record)
    return protocol.train_by(named.rules if named else None)


def find_encoder(record: Record) -> Encoder | None:
    """The registered encoder of a record's name; None for somebody's own and for features that were brought."""
    if record.model.source.startswith(BROUGHT):
        return None
    return plugins.find_encoders().get(record.model.name)


def _check_protocol(record: Record) -> Iterator[tuple[str, str]]:
    claimed = record.protocol
    known = plugins.find_protocols().get(claimed.name)
    if known is not None and (known.version, known.hash) != (claimed.version, claimed.hash):
        yield (
            "old protocol",
            f"'{claimed.name}' of the record (version {claimed.version}) is not the protocol that is here "
            f"(version {known.version})",
        )


def _check_task(record: Record) -> Iterator[tuple[str, str]]:
    name, named = record.task.name, find_named(record)
    if named is None:
        return  # somebody's own task
    if (record.task.version, record.task.hash) != (named.task.version, hash_task(named)):
        yield "old task", f"'{name}' of the record is not the task that is here (version {named.task.version})"
        return
    yield from _check_declared(named.task, record)
    yield from _check_data(named.task, record)


def list_metrics(task: Task) -> dict[str, Metric]:
    """Every score that a record of a task has, with the metric behind it."""
    first = task.metrics[0]
    found = {metric.name: metric for metric in task.metrics}
    found |= {f"{first.name}_ensemble": first} if task.ensemble else {}
    return found | ({f"{first.name}_{task.group_name}": first} if task.group_name else {})


def _check_declared(task: Task, record: Record) -> Iterator[tuple[str, str]]:
    """Whether a task asks for the scores of its record, and reads them the same way."""
    metrics, scores = list_metrics(task), record.scores
    if absent := [name for name in metrics if name not in scores]:
        yield "impossible", f"no score {listing(absent)}, which its task has"
    for name, score in scores.items():
        metric = metrics.get(name)
        if metric is None:
            yield "impossible", f"{name} is no score of its task, which has {listing(metrics)}"
        elif (score.unit, score.higher_is_better) != (metric.unit, metric.higher_is_better):
            better = "higher" if metric.higher_is_better else "lower"
            yield (
                "impossible",
                f"{name}: a score in {metric.unit} of which {better} is better, the record says otherwise",
            )
        elif score.main != (name == task.metrics[0].name):
            yield (
                "impossible",
                f"{name}: the main score of its task is {task.metrics[0].name}, the record says otherwise",
            )


def _check_data(task: Task, record: Record) -> Iterator[tuple[str, str]]:
    data, clips = record.data, record.data.clips
    if data.corpus != task.corpus.name:
        yield "facts", f"its corpus is '{data.corpus}', and the task's is '{task.corpus.name}'"
    more = [split for split in SPLITS if clips.of(split) > task.counts[split]]
    for split in more:
        yield "counts", f"{clips.of(split)} {split} clips, and {task.counts[split]} are published"
    apart = _find_departures(record)
    if apart.limit and any(clips.of(split) > apart.limit for split in SPLITS):
        yield "counts", f"a split has more clips than the limit, {apart.limit}"
    if data.mini or apart.limit or more or (data.absent and not record.identity) or task.open_list:
        return
    copies = len(record.retrieval.copies) if record.retrieval else 0
    short, faults = sum(task.counts.values()) - clips.total - copies, len(data.faults)
    if short != faults + data.absent + len(data.too_short):
        absent = f", {data.absent} absent" if data.absent else ""
        absent += f", {len(data.too_short)} too short" if data.too_short else ""
        yield "counts", f"{short} clips fewer than published, and {faults} of them are known faults{absent}"


def _check_absent(record: Record) -> Iterator[tuple[str, str]]:
    """Whether as many clips are absent as are named; more may be, but not of a miniature, all of whose clips are listed."""
    data, named = record.data, len(record.data.missing)
    if twice := [clip for clip, count in Counter(data.missing).items() if count > 1]:
        yield "facts", f"data.missing names {listing(map(_quote, twice), most=3)} twice"
    if data.absent < named or (data.mini and data.absent > named):
        yield "counts", f"data.missing names {named} clips, and data.absent is {data.absent}"


def check_faults(record: Record, task: Task, clips: Sequence[Clip]) -> Iterator[tuple[str, str]]:
    """Whether the faults of a record are those that the corpus is known for, each once.

    clips: the list of the task's clips, which tells of which file a clip is; none where only the corpus says it.
    """
    claimed, audio_of = record.data.faults, {clip.id: clip.audio for clip in clips}
    if twice := [clip for clip, count in Counter(each.clip for each in claimed).items() if count > 1]:
        yield "facts", f"the fault of {listing(twice, most=3)} is listed twice"
    left, strange = Counter(fault.what for fault in task.corpus.faults), []
    for each in claimed:
        fault = task.corpus.find_known_fault(audio_of.get(each.clip, each.clip))
        known = fault is not None and fault.what == each.why
        if not known and (audio_of or left[each.why] < 1):  # else only the corpus says which file a clip is
            strange.append(f"'{each.clip}': {shorten(each.why)}")
        left[each.why] -= 1
    if strange:
        yield "facts", f"corpus '{task.corpus.name}' is not known for the fault of {listing(strange, most=3)}"


def shorten(value: object) -> str:
    """A value of a record as text of at most 80 characters."""
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _find_departures(record: Record) -> comparable.Departures:
    known = plugins.find_protocols().get(record.protocol.name)
    return comparable.find_departures(record, known.seeds if known else None)


def name_variant(record: Record) -> str | None:
    """What a record's file is called after its task's name, by the record; None where its `why_not` has another reason."""
    apart = _find_departures(record)
    return apart.variant() if set(record.why_not) <= set(apart.list_reasons()) else None


def _check_comparable(record: Record) -> Iterator[tuple[str, str]]:
    if record.comparable == bool(record.why_not):
        yield "impossible", f"comparable is {record.comparable} and why_not is {list(record.why_not)}"
    reasons = _find_departures(record).list_reasons()
    if absent := [reason for reason in reasons if reason not in record.why_not]:
        claim = "it calls itself comparable" if record.comparable else "its why_not does not say so"
        yield "impossible", f"{claim}: {'; '.join(absent)}"
    strange = [reason for reason in record.why_not if reason not in reasons]
    if strange and not versions.is_later(record):
        yield "facts", f"why_not has {listing(map(_quote, strange), most=3)}, and nothing in the record says so"
    if len(set(record.why_not)) < len(record.why_not):
        yield "facts", "why_not gives a reason twice"


def _check_variants(record: Record) -> Iterator[tuple[str, str]]:
    """Whether a record's variants are some that its protocol, task and features can have."""
    variants, task = comparable.find_variants(record), find_task(record)
    protocol = plugins.find_protocols().get(record.protocol.name)
    flags = variants.flags()
    if record.variants and not flags:
        yield "impossible", "variants is there and says nothing"
    try:
        if protocol is not None and protocol.hash == record.protocol.hash:
            variants.adapt_protocol(protocol)
        if task is not None:
            variants.adapt_window(task.window)
    except UsageError as error:
        yield "impossible", f"variants: {error}"
    if variants.fixed and variants.learning_rate is None:
        yield "impossible", "variants: layer and learning rate are fixed, and the rate is not said"
    if variants.fixed and _find_departures(record).layers == "all":
        yield "impossible", "variants: layer and learning rate are fixed, and why_not does not say the layer"
    if variants.train_share == 1 or (variants.train_share and record.few_shot):
        yield "impossible", "variants: train_share is below 1, and stands beside no few-shot curve"
    if record.model.source.startswith(BROUGHT) and flags.keys() & {"pool", "window_s"}:
        yield "impossible", "variants: these features were brought, and no run made them"
    whole = task is None or not isinstance(task.target, (Frames, Stems))
    if not whole and (strange := flags.keys() & {"pool", "standardize", "train_share"}):
        yield (
            "impossible",
            f"variants: {flags[min(strange)]} is of tasks of whole clips, and '{record.task.name}' is not",
        )


def _quote(text: str) -> str:
    return f"'{shorten(text)}'"


def _check_selection(record: Record) -> Iterator[tuple[str, str]]:
    chosen = record.selection.per_seed
    if record.retrieval:
        yield from ranking_facts.check_selection(record)
        return
    places = Counter((choice.seed, choice.stem or "") for choice in chosen)
    if not record.selection.probes or record.selection.split != "valid":
        yield "impossible", "it chose among no probes, or not by the valid split, and ranks nothing"
    if any(UNSET in (choice.learning_rate, choice.weight_decay, choice.epoch) or choice.half for choice in chosen):
        yield "impossible", "a choice lacks what every probe has, or has a half of works, which rankings alone have"
    stems = {stem for _, stem in places}
    if set(places) != {(seed, stem) for seed in range(record.selection.seeds) for stem in stems}:
        yield "counts", "the chosen probes are not one for each of the seeds 0, 1, 2, ..."
    elif max(places.values()) > 1:
        yield "counts", "a seed chose two probes"
    if len(stems) == 1 and "" in stems:
        yield from check_valid_scores(record)
    task, encoder, protocol = find_task(record), find_encoder(record), find_protocol(record)
    if encoder is not None and encoder.version == record.model.version:
        known = {layer.name for layer in encoder.layers} | {"sum", "concat"}
        if strange := sorted({choice.layer for choice in chosen} - known):
            yield "choice", f"layer {listing(strange, most=3)} is none of '{encoder.name}'"
    if protocol is None:
        return
    axes = list_axes(protocol, task, record.data.mini)
    for choice in chosen:
        for axis, value in choice.axes.items():
            if axis in axes and value not in axes[axis]:
                yield "choice", f"seed {choice.seed} chose {axis} {value}, which '{protocol.name}' does not try"
    yield from _check_size(record, protocol, task, encoder, len(stems))


def list_axes(protocol: Protocol, task: Task | None, mini: bool) -> dict[str, tuple[Any, ...]]:
    """What each axis of a grid runs over beside layers, seeds and stems; nothing where the task is not known."""
    rates: tuple[float, ...] = protocol.learning_rates
    rules = task and ((task.mini_separation if mini else None) or task.separation)
    if rules:
        rates = rules.learning_rates
    axes: dict[str, tuple[Any, ...]] = {
        "learning_rate": rates,
        "weight_decay": protocol.penalties if protocol.solver == "exact" else protocol.weight_decays,
        "hidden": protocol.hiddens,
        "batch_size": protocol.batch_sizes,
        "dropout": protocol.dropouts,
        "standardize": protocol.standardizing,
    }
    return {axis: values for axis, values in axes.items() if values}


def _check_size(
    record: Record, protocol: Protocol, task: Task | None, encoder: Encoder | None, stems: int
) -> Iterator[tuple[str, str]]:
    """Whether the grid has as many probes as the protocol tries on the model's layers."""
    probes, states = record.selection.probes, record.model.states
    if task is None and record.selection.stems:
        return  # rates of learning are the task's
    each = math.prod(map(len, list_axes(protocol, task, record.data.mini).values()))
    each *= record.selection.seeds * stems
    layers, rest = divmod(probes, each)
    apart = _find_departures(record)
    concat = states > 1 and (protocol.layer_concat or "concat" in apart.layers.split(","))
    most = states + protocol.layer_sum + concat
    able = range(1, most + 1)
    framewise = task is None or isinstance(task.target, (Frames, Stems))  # reads those layers alone that have frames
    if apart.layers == "all" and not framewise:
        able = range(states + concat, most + 1)
        if encoder is not None:
            together = (protocol.layer_sum and bool(encoder.summable)) + concat
            able = range(states + together, states + together + 1)
    if rest or layers not in able:
        yield (
            "counts",
            f"{probes} probes in the grid; '{protocol.name}' has {each} for each of {able[0]} to {able[-1]} layers",
        )


def check_valid_scores(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the chosen probes' scores on valid are those of their answers; of windows no answer is kept."""
    if record.selection.validated == "windows":
        return
    score = record.scores.get(record.selection.metric)
    chosen = record.selection.per_seed
    found = [choice.valid for choice in chosen if choice.valid is not None]
    if score is None or score.valid is None or len(found) < len(chosen):
        return
    mean = sum(found) / len(found)
    apart = max(CLOSE_VALID, 1 / max(1, record.data.clips.valid))  # an answer may lie between two classes
    if abs(mean - score.valid) > apart:
        yield (
            "scores",
            f"valid is {score.valid:.6g}, and the mean of the probes that were chosen by it is {mean:.6g}",
        )


def _check_other_kinds(record: Record) -> Iterator[tuple[str, str]]:
    """Whether choices and scores have those fields alone that their kind of task and their protocol write."""
    task, protocol, chosen = find_task(record), find_protocol(record), record.selection.per_seed
    ensemble = f"{record.selection.metric}_ensemble" in record.scores
    if any((choice.ensemble is not UNSET) != ensemble for choice in chosen):
        yield (
            "impossible",
            "a choice has an ensemble of windows exactly where a score is of one; here one of the two is absent",
        )
    if task is not None:
        stems = set(task.target.names) if isinstance(task.target, Stems) else set()
        if set(record.selection.stems) != stems:
            own, right = (listing(sorted(names)) or "no stem" for names in (record.selection.stems, stems))
            yield "impossible", f"its probes are of {own}, those of its task of {right}"
        settings = task.target.settings if isinstance(task.target, Frames) else ()
        chosen_settings = {choice.setting for choice in chosen if choice.setting is not UNSET}
        if strange := sorted(chosen_settings - set(settings)):
            there = f"tries {listing(f'{value:g}' for value in settings)}" if settings else "has no such parameter"
            yield "choice", f"a decoder with setting {strange[0]:g} was chosen, and its task {there}"
        elif settings and any(choice.setting is UNSET for choice in chosen):
            yield "choice", f"a choice has no setting, and its task tries {listing(f'{value:g}' for value in settings)}"
    if protocol is not None:
        axes = set(list_axes(protocol, task, record.data.mini)) | {"learning_rate", "weight_decay"}
        if strange_axes := sorted({axis for choice in chosen for axis in choice.axes} - axes):
            yield "choice", f"a choice has {listing(strange_axes)}, which '{protocol.name}' does not try"
        rules, says = find_training(record, protocol), "and the record says otherwise"
        if (record.selection.validated == "windows") != (rules.validated == "windows"):
            yield "impossible", f"'{protocol.name}' validates {rules.validated}, {says}"
        if (record.selection.kept == "last") != (rules.kept == "last"):
            yield "impossible", f"'{protocol.name}' keeps the {rules.kept} epoch, {says}"
    if task is not None and bool(record.retrieval) != isinstance(task.target, Ranking):
        yield "impossible", "a record tells of a ranking exactly where its task asks for one; here it is otherwise"
    elif task is not None and isinstance(task.target, Ranking) and record.selection.split != task.target.chosen_on:
        yield (
            "impossible",
            f"its layer was chosen by {record.selection.split}, and the task has it chosen by {task.target.chosen_on}",
        )
    yield from _check_departures(record, task, protocol)
    yield from _check_oracles(record)


def _check_departures(record: Record, task: Task | None, protocol: Protocol | None) -> Iterator[tuple[str, str]]:
    """Whether a record repeats where its protocol departs, and leaves out short clips only under one that pads windows."""
    if task is not None and task.window.min_ratio is None and record.data.too_short:
        yield "impossible", "clips are left out as too short, and no window of its task is padded"
    names = [each.clip for each in record.data.too_short]
    if len(set(names)) < len(names):
        yield "facts", "data.too_short names a clip twice"
    if task is None or protocol is None:
        return
    encoder, brought = find_encoder(record), record.model.source.startswith(BROUGHT)
    if encoder is None and not brought:
        return  # nobody knows whether somebody's own encoder masks
    if record.departures != (right := comparable.list_departures(protocol, task.window, encoder)):
        yield (
            "facts",
            f"departures has {len(record.departures)} lines that are not the {len(right)} of '{protocol.name}' with "
            f"'{record.model.name}'",
        )


def _check_oracles(record: Record) -> Iterator[tuple[str, str]]:
    """Whether scores of separated stems, and they alone, have an oracle that can be: it knows the truth."""
    separated = bool(record.selection.stems)
    for name, score in record.scores.items():
        if score.oracle is not UNSET and not separated:
            yield "impossible", f"{name} has an oracle, which only scores of separated stems have"
        elif score.oracle is UNSET or score.oracle is None:
            if separated and name.startswith("sdr") and score.test is not None and record.identity:
                yield "impossible", f"{name} has no oracle, and every run of separated stems writes it"
        elif score.trivial is not None and score.oracle < score.trivial:
            problem = f"an oracle of {score.oracle:.4g} dB is less than a constant answer gets, {score.trivial:.4g} dB"
            yield "impossible", f"{name}: {problem}"
        else:
            yield from find_out_of_range(f"{name}, oracle", name, score.unit, [score.oracle])


def _check_curves(record: Record) -> Iterator[tuple[str, str]]:
    """Whether a few-shot curve is of one task's shares, clips, seeds and of values that its score can have."""
    seeds, train, task = record.selection.seeds, record.data.clips.train, find_task(record)
    if record.few_shot and task is not None and isinstance(task.target, Frames | Stems | Ranking):
        yield "facts", "it has a few-shot curve, which only runs on whole clips have"
    shares, fixed = [point.share for point in record.few_shot], [*few_shot.SHARES, 1.0]
    if shares and shares != fixed and not versions.is_later(record):
        own, right = (listing(f"{100 * share:g} %" for share in each) for each in (shares, fixed))
        yield "counts", f"few shots: shares of {own}, and a curve has {right}"
    main = record.scores.get(record.selection.metric)
    for point in record.few_shot:
        where, clips = f"few shots, {100 * point.share:g} %", few_shot.count_clips(point.share, train)
        if not len(point.valid) == len(point.test) == seeds:
            yield "counts", f"{where}: {len(point.test)} scores on test, {len(point.valid)} on valid, for {seeds} seeds"
        if point.clips != clips:
            yield "counts", f"{where}: {point.clips} clips, and of {train} train clips that share is {clips}"
        if main is not None:
            yield from find_out_of_range(where, record.selection.metric, main.unit, [*point.valid, *point.test])
            yield from _check_point(record, task, where, point, main)


def _check_point(
    record: Record, task: Task | None, where: str, point: FewShotPoint, main: Score
) -> Iterator[tuple[str, str]]:
    """Whether the values of a point can be: those of all clips are the run's, and a share of clips is one of whole clips."""
    of_run = {"valid": [choice.valid for choice in record.selection.per_seed], "test": list(main.per_seed)}
    accuracy = task is not None and task.metrics[0].name == record.selection.metric == "accuracy"
    for split, right in of_run.items():
        values = list(point.valid if split == "valid" else point.test)
        if point.share == 1 and values != right:
            yield (
                "scores",
                f"{where}: {_format_values(values)} on {split}, and the run itself has {_format_values(right)}",
            )
        if None in values and None not in right and not record.selection.metric.startswith("r2"):
            yield "scores", f"{where}: no score on {split}, and the run has one on the same clips"
        clips = record.data.clips.of(split)
        broken = [each for each in values if each is not None and abs(each * clips - round(each * clips)) > 1e-3]
        if accuracy and broken:
            yield "scores", f"{where}: {broken[0]:.6g} on {split} is no share of {clips} whole clips"


def _format_values(values: Iterable[float | None]) -> str:
    return ", ".join("none" if value is None else f"{value:.6g}" for value in values)


def _check_marks(record: Record) -> Iterator[tuple[str, str]]:
    """Whether what is marked about a score is what a run marks, and fits its interval."""
    marks: dict[str, list[str]] = defaultdict(list)
    for mark in record.data.marks:
        name, _, words = mark.partition(": ")
        marks[name].append(words)
    task = find_task(record)
    for name, score in record.scores.items():
        own = marks[name]
        without = [mark for mark in own if mark.startswith(NO_INTERVAL)]
        strange = [mark for mark in own if not _is_run_mark(mark, task, name)]
        if strange and not versions.is_later(record):
            yield "facts", f"data.marks says of {name} {listing(map(_quote, strange), most=3)}, which no run marks"
        if record.identity and bool(without) != (None in score.ci95):
            marked = (
                "has no interval, and data.marks does not say why"
                if not without
                else "has an interval, and data.marks denies it"
            )
            yield "impossible", f"{name} {marked}"


def _is_run_mark(mark: str, task: Task | None, metric: str) -> bool:
    """Whether a mark of a metric is of a form that runs write: no interval and why, or the rare tags it rests on."""
    if mark.startswith(NO_INTERVAL):
        return WHY.fullmatch(mark.removeprefix(NO_INTERVAL)) is not None
    found = ROUGH_FORM.fullmatch(mark)
    if found is None or task is None:
        return found is not None
    carried = any(each.carried for each in task.metrics if each.name == metric)
    return carried and set(found[1].split(", ")) <= set(task.target.names)


def find_out_of_range(where: str, metric: str, unit: str, values: Iterable[float | None]) -> Iterator[tuple[str, str]]:
    """Values that no score of a metric can have. where: what they are, for people."""
    known = [value for value in values if value is not None]
    if unit == "dB" and known and (loudest := max(known, key=abs)) and abs(loudest) > LOUDEST_DB:
        yield "impossible", f"{where}: {loudest:.4g} dB is beyond double precision ({LOUDEST_DB} dB)"
    if unit == "rank" and known and min(known) < 1 - CLOSE:
        yield "impossible", f"{where}: {min(known):.4g} is less than the first rank, 1"
    if unit != "fraction" or not known:
        return
    if max(known) > 1 + CLOSE:
        yield "impossible", f"{where}: {max(known):.4g} is more than the best there is, 1"
    if not metric.startswith("r2") and min(known) < -CLOSE:
        yield "impossible", f"{where}: {min(known):.4g} is less than the least there is, 0"


def explain_no_interval(where: str, value: float | None, bounds: Interval) -> Iterator[tuple[str, str]]:
    """Why bounds are no interval of a value: one alone, upside down, or without it. where: what they are, for people."""
    low, high = bounds
    if low is None and high is None:
        return
    shown = ", ".join("none" if each is None else f"{each:.4g}" for each in (low, high))
    if low is None or high is None or low > high:
        yield "impossible", f"{where}: its interval runs from {shown.replace(', ', ' to ')}"
    elif value is None or not low - CLOSE <= value <= high + CLOSE:
        value_text = "no value" if value is None else f"{value:.4g}"
        yield "impossible", f"{where}: its interval, {shown}, is of {value_text}, which it does not hold"


def is_trivial_possible(metric: Metric, outputs: int, truth: Any, score: float) -> bool:
    """Whether a constant answer, made of whatever training labels, can have this score; True where that is not known.

    outputs: the width of an answer. truth: `(items,)` or `(items, outputs)`, as the metric reads it.
    """
    import torch

    def of(constant: torch.Tensor) -> float:
        return float(metric.compute(constant.expand(1, len(truth), outputs), truth)[0])

    if metric.kind == "classes":
        if len(truth) * outputs**2 > MOST_TRIED:
            return True
        hot = torch.nn.functional.one_hot
        able = [of(hot(torch.tensor(index), outputs).float()) for index in range(outputs)]
    elif metric.kind == "tags":
        able = [of(torch.full((outputs,), share)) for share in (0.0, 1.0)]
        if able[0] != able[1]:
            return True  # it looks at more than the order of the clips
    elif metric.kind == "scalars" and metric.name.startswith("r2"):
        return score <= CLOSE_TRIVIAL  # the mean of the truth itself scores 0, every other constant less
    else:
        return True
    return any(abs(value - score) <= CLOSE_TRIVIAL for value in able if value == value)
