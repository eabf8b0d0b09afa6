"""What a record claims and the suite knows: each claim is compared with the fact, and none is believed.

Facts are known of what is registered under the record's names: the protocol's rules, the task's counts, metrics and known
faults, the encoder's layers, licence and training data. Of a name that is not registered nothing is known, which is no
fault. Everything here reads the record alone, and for `faults` the task's list of clips where that is at hand; what
needs the tables beside it is asked in `marble_bench.records.validation`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import UNSET

from marble_bench.audio import perturb
from marble_bench.core import hashes, keys, plugins
from marble_bench.core.encoder import Encoder
from marble_bench.core.keys import task_hash
from marble_bench.core.protocol import Protocol
from marble_bench.core.task import SPLITS, Clip, Task
from marble_bench.errors import UsageError, listing
from marble_bench.metrics import Metric
from marble_bench.records import comparable
from marble_bench.records.comparable import BROUGHT
from marble_bench.records.record import Record
from marble_bench.scoring.targets import Frames, Stems

CLOSE_TRIVIAL = 1e-5
CLOSE_VALID = (
    1e-3  # validation scores of probes trained together and of one alone: single precision, another order of sums
)


def disagreements(record: Record) -> Iterator[tuple[str, str]]:
    """Kind and words of every claim of a record that is not so."""
    yield from _protocol(record)
    yield from _task(record)
    yield from _model(record)
    yield from _comparable(record)
    yield from _selection(record)
    yield from _curves(record)
    yield from _perturbations(record)
    yield from _sources(record)


def _perturbations(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the changes of test clips are those that this suite has."""
    if strange := sorted(set(record.perturbations) - set(perturb.CHANGES)):
        yield (
            "facts",
            f"no perturbation is called {listing(map(ascii, strange), most=3)}; there are {listing(perturb.CHANGES)}",
        )


def unknown(record: Record) -> list[str]:
    """What of a record's names is not registered, so that its facts are not known here."""
    found = {
        "protocol": plugins.protocols().get(record.protocol.name),
        "task": task_of(record),
        "model": encoder_of(record),
    }
    return [f"{what} '{getattr(record, what).name}'" for what, known in found.items() if known is None]


def protocol_of(record: Record) -> Protocol | None:
    """The protocol of a record, if this version of the suite has the very one."""
    found = plugins.protocols().get(record.protocol.name)
    return found if found is not None and found.hash == record.protocol.hash else None


def task_of(record: Record) -> Task | None:
    """The registered task of a record's name; None for somebody's own."""
    try:
        return plugins.registered_task(record.task.name).task
    except UsageError:
        return None


def encoder_of(record: Record) -> Encoder | None:
    """The registered encoder of a record's name; None for somebody's own and for features that were brought."""
    if record.model.source.startswith(BROUGHT):
        return None
    return plugins.encoders().get(record.model.name)


def _sources(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the code that a record names of the suite's plug-ins is code that some version of the suite has.

    Older records name none. Somebody's own task may have a corpus, a metric or a head under a name of the suite's.
    """
    own_task = task_of(record) is None
    yield from _named_sources(record)
    for each in record.identity.sources if record.identity else ():
        kind, name = each.kind, each.name
        if not hashes.shipped_name(kind, name):
            continue
        if each.shipped and not hashes.known(kind, name, each.version, each.digest):
            yield "facts", f"{kind} '{name}' was made with code that no version of this suite has"
        elif not each.shipped and not (own_task and kind in ("corpus", "metric", "head")):
            yield "facts", f"{kind} '{name}' is one of the suite's, and the record calls it somebody's own"


def _named_sources(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the code that a record names is that of its own task, corpus, model, protocol and metrics."""
    identity, task, protocol = record.identity, task_of(record), protocol_of(record)
    if not identity:
        return
    if identity.pipeline > keys.PIPELINE:
        yield (
            "facts",
            f"its features went through pipeline {identity.pipeline}, and this version has {keys.PIPELINE}",
        )
    brought = record.model.source.startswith(BROUGHT)
    own: dict[str, set[tuple[str, int | None]]] = {
        "task": {(record.task.name, record.task.version)},
        "corpus": {(record.data.corpus, None)},
        "protocol": {(record.protocol.name, record.protocol.version)},
        "encoder": set() if brought else {(record.model.name, record.model.version)},
    }
    if task is not None:
        own["metric"] = {(metric.name, None) for metric in task.metrics}
    if protocol is not None:
        own["head"] = {(plugins.head_of(protocol).name, None)}
    for kind, right in own.items():
        versions = {version for _, version in right} != {None}
        found = {(each.name, each.version if versions else None) for each in identity.sources if each.kind == kind}
        if found != right:
            names = listing(f"'{name}'" for name, _ in sorted(found, key=str)) or "none"
            yield "facts", f"its identity names the {kind} {names}, and the record is of another name or version"


def _protocol(record: Record) -> Iterator[tuple[str, str]]:
    claimed = record.protocol
    known = plugins.protocols().get(claimed.name)
    if known is not None and (known.version, known.hash) != (claimed.version, claimed.hash):
        yield (
            "old protocol",
            f"'{claimed.name}' of the record (version {claimed.version}) is not the protocol that is here "
            f"(version {known.version})",
        )


def _task(record: Record) -> Iterator[tuple[str, str]]:
    name = record.task.name
    try:
        named = plugins.registered_task(name)
    except UsageError:
        return  # somebody's own task
    if (record.task.version, record.task.hash) != (named.task.version, task_hash(named)):
        yield "old task", f"'{name}' of the record is not the task that is here (version {named.task.version})"
        return
    yield from _declared(named.task, record)
    yield from _data(named.task, record)


def metrics_of(task: Task) -> dict[str, Metric]:
    """Every score that a record of a task has, with the metric behind it."""
    first = task.metrics[0]
    found = {metric.name: metric for metric in task.metrics}
    found |= {f"{first.name}_ensemble": first} if task.ensemble else {}
    return found | ({f"{first.name}_{task.group_name}": first} if task.group_name else {})


def _declared(task: Task, record: Record) -> Iterator[tuple[str, str]]:
    """Whether a task asks for the scores of its record, and reads them the same way."""
    metrics, scores = metrics_of(task), record.scores
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


def _data(task: Task, record: Record) -> Iterator[tuple[str, str]]:
    data, clips = record.data, record.data.clips
    if data.corpus != task.corpus.name:
        yield "facts", f"its corpus is '{data.corpus}', and the task's is '{task.corpus.name}'"
    more = [split for split in SPLITS if clips.of(split) > task.counts[split]]
    for split in more:
        yield "counts", f"{clips.of(split)} {split} clips, and {task.counts[split]} are published"
    apart = _departures(record)
    if apart.limit and any(clips.of(split) > apart.limit for split in SPLITS):
        yield "counts", f"a split has more clips than the limit, {apart.limit}"
    if data.mini or apart.limit or data.absent or more:
        return
    short, faults = sum(task.counts.values()) - clips.total, len(data.faults)
    if short != faults:
        yield "counts", f"{short} clips fewer than published, and {faults} of them are known faults"


def faults(record: Record, task: Task, clips: Sequence[Clip]) -> Iterator[tuple[str, str]]:
    """Whether the faults of a record are those that the corpus is known for, each once.

    clips: the list of the task's clips, which tells of which file a clip is; none where that stands in the corpus alone.
    """
    claimed, audio_of = record.data.faults, {clip.id: clip.audio for clip in clips}
    if twice := [clip for clip, count in Counter(each.clip for each in claimed).items() if count > 1]:
        yield "facts", f"the fault of {listing(twice, most=3)} is told twice"
    left, strange = Counter(fault.what for fault in task.corpus.faults), []
    for each in claimed:
        fault = task.corpus.known_fault(audio_of.get(each.clip, each.clip))
        known = fault is not None and fault.what == each.why
        if not known and (audio_of or left[each.why] < 1):  # else which file a clip is stands in the corpus alone
            strange.append(f"'{each.clip}': {_short(each.why)}")
        left[each.why] -= 1
    if strange:
        yield "facts", f"corpus '{task.corpus.name}' is not known for the fault of {listing(strange, most=3)}"


def _model(record: Record) -> Iterator[tuple[str, str]]:
    claimed, encoder = record.model, encoder_of(record)
    if encoder is None:
        if claimed.name in plugins.encoders():
            yield "facts", f"'{claimed.name}' is an encoder of the suite, and these features were brought: name them"
        return
    if claimed.version != encoder.version:
        yield (
            "old model",
            f"version {claimed.version} of '{encoder.name}' is not the one that is here ({encoder.version})",
        )
        return
    widths = [layer.width for layer in encoder.layers]
    rates = [layer.frame_rate_hz for layer in encoder.layers]
    facts = {
        "parameters": encoder.parameters,
        "states": len(encoder.layers),
        "width": widths[0] if len(set(widths)) == 1 else widths,
        "sample_rate_hz": encoder.sample_rate_hz,
        "normalize": encoder.normalize,
        "frame_rate_hz": rates[0] if len(set(rates)) == 1 else rates,
        "license": encoder.license,
        "training_data": list(encoder.training_data),
    }
    for key, fact in facts.items():
        told = getattr(claimed, key)
        told = list(told) if isinstance(told, tuple) else told
        if told is not UNSET and told != fact:
            yield "facts", f"model.{key} is {_short(told)}, and that of '{encoder.name}' is {_short(fact)}"
    if (claimed.source == "none") != (encoder.weights is None):
        yield "facts", f"model.source is '{claimed.source}', and '{encoder.name}' has {_weights(encoder)}"


def _weights(encoder: Encoder) -> str:
    return "no weights" if encoder.weights is None else f"its weights from {encoder.weights.url}"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _departures(record: Record) -> comparable.Departures:
    known = plugins.protocols().get(record.protocol.name)
    return comparable.of_record(record, known.seeds if known else None)


def variant_of(record: Record) -> str | None:
    """What a record's file is called after its task's name, by the record; None where a later version gave a reason."""
    apart = _departures(record)
    return apart.variant() if set(record.why_not) <= set(apart.reasons()) else None


def _comparable(record: Record) -> Iterator[tuple[str, str]]:
    if record.comparable == bool(record.why_not):
        yield "impossible", f"comparable is {record.comparable} and why_not is {list(record.why_not)}"
    absent = [reason for reason in _departures(record).reasons() if reason not in record.why_not]
    if absent:
        told = "it calls itself comparable" if record.comparable else "its why_not does not say so"
        yield "impossible", f"{told}: {'; '.join(absent)}"


def _selection(record: Record) -> Iterator[tuple[str, str]]:
    chosen = record.selection.per_seed
    places = Counter((choice.seed, choice.stem or "") for choice in chosen)
    stems = {stem for _, stem in places}
    if set(places) != {(seed, stem) for seed in range(record.selection.seeds) for stem in stems}:
        yield "counts", "the chosen probes are not one for each of the seeds 0, 1, 2, ..."
    elif max(places.values()) > 1:
        yield "counts", "a seed chose two probes"
    if len(stems) == 1 and "" in stems:
        yield from valid_scores(record)
    task, encoder, protocol = task_of(record), encoder_of(record), protocol_of(record)
    if encoder is not None and encoder.version == record.model.version:
        known = {layer.name for layer in encoder.layers} | {"sum"}
        if strange := sorted({choice.layer for choice in chosen} - known):
            yield "choice", f"layer {listing(strange, most=3)} is none of '{encoder.name}'"
    if protocol is None:
        return
    axes = axes_of(protocol, task, record.data.mini)
    for choice in chosen:
        for axis, value in choice.axes.items():
            if axis in axes and value not in axes[axis]:
                yield "choice", f"seed {choice.seed} chose {axis} {value}, which '{protocol.name}' does not try"
    yield from _size(record, protocol, task, encoder, len(stems))


def axes_of(protocol: Protocol, task: Task | None, mini: bool) -> dict[str, tuple[Any, ...]]:
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


def _size(
    record: Record, protocol: Protocol, task: Task | None, encoder: Encoder | None, stems: int
) -> Iterator[tuple[str, str]]:
    """Whether the grid has as many probes as the protocol tries on the model's layers."""
    probes, states = record.selection.probes, record.model.states
    if task is None and record.selection.stems:
        return  # rates of learning are the task's
    each = math.prod(map(len, axes_of(protocol, task, record.data.mini).values()))
    each *= record.selection.seeds * stems
    layers, rest = divmod(probes, each)
    most = states + protocol.layer_sum
    able = range(1, most + 1)
    framewise = task is None or isinstance(task.target, (Frames, Stems))  # reads those layers alone that have frames
    if _departures(record).layers == "all" and not framewise:
        able = range(states, most + 1)
        if encoder is not None:
            summed = protocol.layer_sum and bool(encoder.summable)
            able = range(states + summed, states + summed + 1)
    if rest or layers not in able:
        yield (
            "counts",
            f"{probes} probes in the grid; '{protocol.name}' has {each} for each of {able[0]} to {able[-1]} layers",
        )


def valid_scores(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the chosen probes' scores on valid are those of their answers."""
    score = record.scores.get(record.selection.metric)
    chosen = record.selection.per_seed
    found = [choice.valid for choice in chosen if choice.valid is not None]
    if score is None or score.valid is None or len(found) < len(chosen):
        return
    mean = sum(found) / len(found)
    apart = max(CLOSE_VALID, 1 / max(1, record.data.clips.valid))  # an answer may stand between two classes
    if abs(mean - score.valid) > apart:
        yield (
            "scores",
            f"valid is {score.valid:.6g}, and the mean of the probes that were chosen by it is {mean:.6g}",
        )


def _curves(record: Record) -> Iterator[tuple[str, str]]:
    seeds, train = record.selection.seeds, record.data.clips.train
    for point in record.few_shot:
        if not len(point.valid) == len(point.test) == seeds or point.clips > train:
            yield "counts", f"few shots, {100 * point.share:g} %: not of {seeds} seeds and at most {train} clips"


def trivial_is_possible(metric: Metric, outputs: int, truth: Any, score: float) -> bool:
    """Whether a constant answer, made of whatever training labels, can have this score; True where that is not known.

    outputs: the width of an answer. truth: `(items,)` or `(items, outputs)`, as the metric reads it.
    """
    import torch

    def of(constant: torch.Tensor) -> float:
        return float(metric.compute(constant.expand(1, len(truth), outputs), truth)[0])

    if metric.kind == "classes":
        able = [of(torch.eye(outputs)[index]) for index in range(outputs)]
    elif metric.kind == "tags":
        able = [of(torch.full((outputs,), share)) for share in (0.0, 1.0)]
        if able[0] != able[1]:
            return True  # it looks at more than the order of the clips
    elif metric.kind == "scalars" and metric.name.startswith("r2"):
        return score <= CLOSE_TRIVIAL  # the mean of the truth itself scores 0, every other constant less
    else:
        return True
    return any(abs(value - score) <= CLOSE_TRIVIAL for value in able if value == value)
