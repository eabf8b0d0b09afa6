"""What extractions of pooled and of frame-wise features share: a pass through the pipeline into stores, and its cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeAlias

from marble_bench.core.encoder import Encode, Encoder, recheck
from marble_bench.features import oddities, pipeline
from marble_bench.features.fingerprint import Guard
from marble_bench.features.jobs import Cost, Halves, Job, Kind, Settings, Shard
from marble_bench.features.store import Span, Store, sum_spent

Divide: TypeAlias = "Callable[[Halves], list[Halves]]"  # a span's layers -> those of each store


@dataclass(frozen=True)
class Extraction:
    """One encoder's features into its stores: one with all layers, or a store for each layer.

    load: makes the encoder ready. guard: compares it with what it gave when the stores were made. progress, say: see
    `pipeline.run`. divide: makes of a span's layers what belongs into each store; None for all layers into the one store, or
    for a layer into each.
    """

    stores: Sequence[Store]
    encoder: Encoder
    load: Callable[[], Encode]
    guard: Guard
    cache: Path
    settings: Settings
    progress: Callable[[int, int, float], None] | None = None
    say: Callable[[str], None] | None = None
    cost: Cost = field(default_factory=Cost)
    divide: Divide | None = None

    def encode(self, jobs: Sequence[Job], kind: Kind) -> None:
        """Encode all jobs and write what they give, shard by shard."""
        started = time.perf_counter()
        self.guard.check_before_encoding(self.stores)
        write = oddities.save_before(self.cache, self.cost, partial(_write, self.stores, self.encoder, self.divide))
        loaded = partial(self.guard.check_loaded, self.stores)
        pipeline.run(
            jobs, self.encoder, self.load, kind, write, self.settings, self.cost, self.progress, self.say, loaded
        )
        self.cost.extract_s = time.perf_counter() - started

    def compute_cost(self, spans: Sequence[Span]) -> Cost:
        """The cost, with what is known of all these spans, whenever they were encoded."""
        self.cost.odd = oddities.load(self.cache, spans)
        self.cost.feature_bytes = sum(store.size_bytes() for store in self.stores)
        self.cost.whole_audio_s, self.cost.whole_extract_s = sum_spent(self.stores, spans)
        return self.cost


def _write(stores: Sequence[Store], encoder: Encoder, divide: Divide | None, shard: Shard) -> None:
    """Write a shard into its stores, see `Extraction.divide`; spans that are there already are not written twice.

    Nothing of a live encoder is written that was trained since it was loaded.
    """
    recheck(encoder)
    for position, (span, spent) in enumerate(zip(shard.spans, shard.spent, strict=True)):
        layers = shard.layers(position)
        parts = divide(layers) if divide else [layers] if len(stores) == 1 else [[layer] for layer in layers]
        for store, own in zip(stores, parts, strict=True):
            if span not in store.rows:
                store.add(span, own, spent)
    for store in stores:
        store.flush()
