"""What decides a number, as exact facts: the key of stored features, that of a run, and the one function that hashes facts.

Folders of features, kept probes and records are known by these. Nothing measured is in a key: floating point differs
between machines. What a key cannot know, weights that an encoder reads or draws by itself, the fingerprint beside each
store is for (`marble_bench.features.fingerprint`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from marble_bench.core import sources
from marble_bench.core.encoder import Encoder
from marble_bench.scoring.frame_targets import Frames
from marble_bench.scoring.targets import Ranking

if TYPE_CHECKING:
    from marble_bench.core.plugins import Named
    from marble_bench.core.sources import Origin
    from marble_bench.core.task import Clip

# Version of what all features go through: decoding, the mean of the channels, resampling, normalising, cutting, pooling,
# rounding to half precision. Raised whenever one of them gives other features for the same file.
PIPELINE = 1
# Of a store's facts those that say which encoder made it, and in what precision.
OF_ENCODER = ("encoder", "version", "source", "weights_sha256", "sample_rate_hz", "normalize", "dtype")


def digest(facts: Any) -> str:
    """sha256 over facts that JSON can hold, 64 hex digits; the order of a mapping's entries does not count."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def digest_with_arrays(facts: Any, arrays: Iterable[Any]) -> str:
    """sha256 over facts and numpy arrays: their shapes, types and bytes."""
    total = hashlib.sha256(digest(facts).encode())
    for values in arrays:
        total.update(f"{tuple(values.shape)} {values.dtype}\n".encode())
        total.update(values.tobytes())
    return total.hexdigest()


@dataclass(frozen=True, kw_only=True)
class FeatureKey:
    """All that decides the features of a store, but the audio.

    encoder, version, source: of the encoder; source is its code's digest. weights_sha256: of its weights, else of its
    declared facts.
    normalize: what the encoder asks for. clip_normalize: what is done to every clip before. channels: how several become
    one. kind: `pooled` or `frames`; pooling: what is taken of a window's frames.
    window_s, first_s, min_ratio: how clips are cut (pooled). padding: `heard` or `masked`, where windows are padded.
    layer, averaged, cut: the layer, how many of its frames are averaged to one, and how sounds are cut (frames).
    feature_rate_hz: the common rate that all layers are averaged to instead (frames). mixed: how the mixtures of a
    separation task are made.
    change: what is done to the audio before. dtype: what the encoder runs in. pipeline: see `PIPELINE`.
    """

    encoder: str
    version: int
    source: str
    weights_sha256: str
    sample_rate_hz: int
    normalize: str
    clip_normalize: str
    kind: str
    dtype: str
    channels: str = "mean"
    pooling: str = ""
    window_s: float | None = None
    first_s: float | None = None
    min_ratio: float | None = None
    padding: str = ""
    layer: str = ""
    averaged: int | None = None
    feature_rate_hz: float | None = None
    cut: Mapping[str, Any] = field(default_factory=dict)
    mixed: Mapping[str, Any] = field(default_factory=dict)
    change: str = ""
    pipeline: int = PIPELINE

    @classmethod
    def of(cls, encoder: Encoder, weights_sha256: str, **more: Any) -> FeatureKey:
        """The key of an encoder's features. more: what is not the encoder's to say."""
        name, version, source = sources.find_origin("encoder", encoder).key
        return cls(
            encoder=name,
            version=version,
            source=source,
            weights_sha256=weights_sha256,
            sample_rate_hz=encoder.sample_rate_hz,
            normalize=encoder.normalize,
            **more,
        )

    def facts(self) -> dict[str, Any]:
        """Its facts, by name, without what is not set."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", {})}

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return digest(self.facts())


@dataclass(frozen=True, kw_only=True)
class RunKey:
    """All that decides the numbers of a run, but the machine.

    features: digests of the keys of its stores, else of the features that were brought. layers: their names. summable: the
    layers that a weighted sum runs over. corpus: fingerprint of its clips. spans: digest of where in their files they lie,
    and of their groups. task: hash of what the task declares. sources: of task, corpus, metrics, protocol and head, name,
    version and digest each. seeds: how many. variant: what sets it apart from the full run.
    """

    features: Sequence[str]
    layers: Sequence[str]
    summable: Sequence[int]
    corpus: str
    spans: str
    task: str
    sources: Mapping[str, Any]
    seeds: int
    variant: str

    def facts(self) -> dict[str, Any]:
        """Its facts, by name."""
        return {each.name: getattr(self, each.name) for each in fields(self)}

    @property
    def digest(self) -> str:
        """64 hex digits."""
        return digest(self.facts())

    def list_probe_facts(self, **more: Any) -> dict[str, Any]:
        """The facts that identify kept probes: all but the count of seeds and the variant, as each probe has its own seed.

        more: what else decides them on this machine, such as the device.
        """
        facts = {key: value for key, value in self.facts().items() if key not in ("seeds", "variant")}
        return {**facts, **more}


def group_by_kind(origins: Iterable[Origin]) -> dict[str, Any]:
    """Origins as keys hold them: by kind, name, version and digest of each."""
    found: dict[str, Any] = {}
    for each in origins:
        found.setdefault(each.kind, []).append(each.key)
    return found


def digest_spans(clips: Iterable[Clip]) -> str:
    """sha256 of where clips lie in their files, in seconds, and of their groups; their order does not count."""
    return digest(sorted([clip.id, clip.start_s, clip.duration_s, clip.group] for clip in clips))


def digest_facts(encoder: Encoder) -> str:
    """sha256 of what decides the features of an encoder without weights; it takes the place of a digest of weights."""
    facts = {
        "name": encoder.name,
        "version": encoder.version,
        **({"code": encoder.code} if encoder.code else {}),
        "sample_rate_hz": encoder.sample_rate_hz,
        "normalize": encoder.normalize,
        "layers": [[layer.name, layer.width, layer.frame_rate_hz] for layer in encoder.layers],
    }
    return digest(facts)


def hash_task(named: Named) -> str:
    """`sha256:...` over what a task declares that a score depends on; of a user's own task, over its file too."""
    task = named.task
    facts: dict[str, Any] = {
        "name": named.name,
        "version": task.version,
        "corpus": task.corpus.name,
        "target": [type(task.target).__name__, task.target.names],
        "metrics": [metric.name for metric in task.metrics],
        "window": task.window.facts(),
        "also": [task.ensemble, task.group_name],
        "schedule": asdict(task.schedule),
        "counts": task.counts,
    }
    if isinstance(task.target, Frames) and (more := task.target.facts()):
        facts["frames"] = more
    if isinstance(task.target, Ranking):
        facts["ranking"] = [task.target.chosen_on]
    if task.open_list:
        facts["open_list"] = True
    if task.separation is not None:
        facts["separation"] = asdict(task.separation)
    if named.rules is not None:
        facts["rules"] = named.rules.facts()
    origin = sources.find_origin("task", named)
    if not origin.shipped:
        facts["source"] = origin.digest
    return f"sha256:{digest(facts)}"
