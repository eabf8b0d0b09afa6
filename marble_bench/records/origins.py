"""What a record says of the code and the keys that it was made by: versions, source digests, `identity.features` and `.run`.

Both keys hold exact facts (`marble_bench.core.keys`), so they are made again from what the record says elsewhere and what
is known here: the encoder's declared facts, the task's window, and the list of clips where it is at hand. What needs more is
left alone: the keys of a separation task rest on its mixtures, those of chosen layers on the order they were asked in.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

from marble_bench import _version
from marble_bench.core import hashes, keys, plugins
from marble_bench.core.encoder import Encoder
from marble_bench.core.keys import FeatureKey, RunKey
from marble_bench.core.protocol import Protocol
from marble_bench.core.sources import Origin
from marble_bench.core.task import Task
from marble_bench.errors import listing
from marble_bench.features import frames, pooled
from marble_bench.features.timing import Timing
from marble_bench.records import claims, comparable, versions
from marble_bench.records.comparable import BROUGHT
from marble_bench.records.corpus_facts import AtHand, find_used_clips
from marble_bench.records.record import Identity, Record, SourceCode
from marble_bench.scoring.targets import Frames, Stems


def find_disagreements(record: Record, here: AtHand | None) -> Iterator[tuple[str, str]]:
    """Kind and words of everything that is not so. here: the task's list of clips, if it is at hand."""
    yield from _check_suite(record)
    yield from _check_named_sources(record)
    yield from _check_sources(record)
    yield from _check_no_weights(record)
    if record.identity:
        yield from _check_keys(record, record.identity, here)


def _check_no_weights(record: Record) -> Iterator[tuple[str, str]]:
    """Whether an encoder without weights has the digest of its declared facts, which stands in the place of theirs."""
    encoder, model = claims.find_encoder(record), record.model
    if encoder is None or encoder.weights is not None or encoder.version != model.version:
        return
    if model.weights_sha256 != (expected := keys.digest_facts(encoder)):
        yield (
            "facts",
            f"model.weights_sha256 is {model.weights}..., and '{encoder.name}', without weights, has {expected[:12]}...",
        )


def _check_keys(record: Record, identity: Identity, here: AtHand | None) -> Iterator[tuple[str, str]]:
    """Whether the two keys are those of what the record says elsewhere."""
    features = list_feature_digests(record, identity)
    if features is None:
        return
    computed = {"features": features[0] if len(features) == 1 else keys.digest(list(features))}
    if here is not None and (run := run_of(record, identity, features, here)) is not None:
        computed["run"] = run
    for name, expected in computed.items():
        recorded = getattr(identity, name)
        if recorded != f"sha256:{expected}":
            yield (
                "facts",
                f"identity.{name} is {recorded[:19]}..., and the key of its facts is sha256:{expected[:12]}...",
            )


def _check_suite(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the version is one, and whether the record holds what that version writes."""
    version, brought = record.suite.version, record.model.source.startswith(BROUGHT)
    if not versions.is_version(record):
        yield "facts", f"suite.version is {claims.shorten(version)!r}, which is no version of this suite"
        return
    if versions.is_later(record):
        yield "later version", f"made by version {version}, and this is {_version.version()}: update marble-bench"
    committed = re.search(r"\+g([0-9a-f]+)", version)
    if committed and record.suite.git and not record.suite.git.startswith(committed[1]):
        yield "facts", f"suite.git is {record.suite.git[:12]}..., and suite.version {version} is of another commit"
    if not record.identity:
        words = "it names no code and no keys (identity)"
        if version == versions.UNTOLD:
            yield "no identity", f"{words}: made before records did, or they were taken away"
        else:
            yield "facts", f"{words}, and version {version} writes them"
    elif not brought and not record.model.normalize:
        yield "facts", "model.normalize is absent, and every version that writes identity writes it"


def _check_sources(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the code that a record names of the suite's plug-ins is code that some version of the suite has.

    Older records name none. Somebody's own task may have a corpus, a metric or a head under a name of the suite's.
    """
    own_task = claims.find_task(record) is None
    for each in record.identity.sources if record.identity else ():
        kind, name = each.kind, each.name
        if not hashes.is_shipped_name(kind, name):
            continue
        if each.shipped and not hashes.is_known(kind, name, each.version, each.digest):
            yield "facts", f"{kind} '{name}' was made with code that no version of this suite has"
        elif not each.shipped and not (own_task and kind in ("corpus", "metric", "head")):
            yield "facts", f"{kind} '{name}' is one of the suite, but the record says that it is a user's own"


def _check_named_sources(record: Record) -> Iterator[tuple[str, str]]:
    """Whether the code that a record names is that of its own task, corpus, model, protocol and metrics."""
    identity, task, protocol = record.identity, claims.find_task(record), claims.find_protocol(record)
    if not identity:
        return
    if identity.pipeline > keys.PIPELINE:
        yield "facts", f"its features went through pipeline {identity.pipeline}, and this version has {keys.PIPELINE}"
    counts = Counter((each.kind, each.name) for each in identity.sources)
    if twice := [f"{kind} '{name}'" for (kind, name), count in counts.items() if count > 1]:
        yield "facts", f"its identity names the {listing(twice, most=3)} twice"
    for kind, right in _list_expected(record, task, protocol).items():
        versions = {version for _, version in right} != {None}
        found = {(each.name, each.version if versions else None) for each in identity.sources if each.kind == kind}
        if found != right:
            names = listing(f"'{name}'" for name, _ in sorted(found, key=str)) or "none"
            yield "facts", f"its identity names the {kind} {names}, and the record is of another name or version"


def _list_expected(
    record: Record, task: Task | None, protocol: Protocol | None
) -> dict[str, set[tuple[str, int | None]]]:
    """Names and versions of the code that a record should name, by kind; None for a version that it does not say."""
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
        own["head"] = {(plugins.get_head(protocol).name, None)} if protocol.trains else set()
    return own


def list_feature_digests(record: Record, identity: Identity) -> list[str] | None:
    """Digests of the keys of a record's features, one for each store; None where they do not follow from what is known."""
    encoder, task = claims.find_encoder(record), claims.find_task(record)
    if record.model.source.startswith(BROUGHT):
        return [record.model.weights_sha256]
    if identity.pipeline != keys.PIPELINE or encoder is None or task is None:
        return None
    code = [each for each in identity.sources if each.kind == "encoder"]
    if encoder.version != record.model.version or len(code) != 1 or isinstance(task.target, Stems):
        return None
    found = _make_feature_keys(record, task, encoder)
    return None if found is None else [replace(key, source=_make_origin(code[0]).key[2]).digest for key in found]


def _make_origin(code: SourceCode) -> Origin:
    """The code of a plug-in as runs know it."""
    return Origin(code.kind, code.name, code.version, code.digest, code.shipped)


def _make_feature_keys(record: Record, task: Task, encoder: Encoder) -> list[FeatureKey] | None:
    weights, dtype, window = record.model.weights_sha256, record.environment.dtype, claims.find_window(record, task)
    if not isinstance(task.target, Frames):
        return [pooled.make_key(encoder, weights, window, dtype, pool=comparable.find_variants(record).pool)]
    if comparable.find_departures(record, None).layers != "all":
        return None
    facts = {"clip_normalize": window.normalize}
    able, timing = frames.find_framewise_layers(encoder.layers), Timing.of(task.target)
    return [frames.make_key(encoder, weights, layer, facts, window.length_s, dtype, timing) for layer in able]


def run_of(record: Record, identity: Identity, features: Sequence[str], here: AtHand) -> str | None:
    """The digest of the key of a run; None where it does not follow from what is known."""
    encoder, task, protocol = claims.find_encoder(record), claims.find_task(record), claims.find_protocol(record)
    if encoder is None or task is None or protocol is None or (record.data.mini and here.root is None):
        return None
    used, sure = find_used_clips(record, here)
    if not sure or here.mini != record.data.mini:
        return None
    layers, summable = list(range(len(encoder.layers))), encoder.summable
    if isinstance(task.target, Frames):
        layers = frames.find_framewise_layers(encoder.layers)
        summed = frames.find_summable_layers(encoder) if protocol.layer_sum else ()
        summable = tuple(layers.index(index) for index in summed)
    return RunKey(
        features=features,
        layers=[encoder.layers[layer].name for layer in layers],
        summable=summable,
        corpus=record.data.fingerprint,
        spans=keys.digest_spans(used),
        task=record.task.hash,
        sources=keys.group_by_kind(_make_origin(each) for each in identity.sources if each.kind != "encoder"),
        seeds=record.selection.seeds,
        variant=claims.name_variant(record) or "",
    ).digest
