"""What a record claims of its model, of the layers it read and of their cost, beside what is known and what can be.

Of an encoder of the suite the declared facts are known. Of features that were brought a run writes the same few facts
whatever they are. Of somebody's own encoder nothing is known, but its numbers have to fit each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import UNSET

from marble_bench.core import plugins
from marble_bench.core.encoder import Encoder, pick_layers
from marble_bench.errors import UsageError, listing
from marble_bench.records import comparable
from marble_bench.records.claims import find_encoder, shorten
from marble_bench.records.comparable import BROUGHT, BROUGHT_FACTS
from marble_bench.records.record import Cost, Model, Record

HALF_MS = 0.0005  # seconds are rounded to milliseconds


def find_disagreements(record: Record) -> Iterator[tuple[str, str]]:
    """Kind and words of every claim about the model and the cost that is not so."""
    claimed, encoder = record.model, find_encoder(record)
    yield from _check_layers(claimed)
    if claimed.source.startswith(BROUGHT):
        yield from _check_brought(record)
    elif encoder is not None:
        yield from _check_registered(claimed, encoder)
    yield from _check_speed(record.cost)


def _check_layers(claimed: Model) -> Iterator[tuple[str, str]]:
    """Whether there is one width and one frame rate for each layer, and no rate above that of the samples."""
    for name in ("width", "frame_rate_hz"):
        values = getattr(claimed, name)
        if isinstance(values, tuple) and len(values) != claimed.states:
            yield "impossible", f"model.{name} is of {len(values)} layers, and model.states is {claimed.states}"
    rates = claimed.frame_rate_hz if isinstance(claimed.frame_rate_hz, tuple) else (claimed.frame_rate_hz,)
    highest = max((rate for rate in rates if rate is not None), default=0)
    if claimed.sample_rate_hz is not None and highest > claimed.sample_rate_hz:
        yield (
            "impossible",
            f"model.frame_rate_hz is {highest:.6g}, more frames than the {claimed.sample_rate_hz} samples of a second",
        )


def _check_brought(record: Record) -> Iterator[tuple[str, str]]:
    """Whether a record of features that were brought says what a run writes of any, and that nothing was encoded."""
    claimed, cost = record.model, record.cost
    if claimed.name in plugins.find_encoders():
        yield "facts", f"'{claimed.name}' is an encoder of the suite, and these features were brought: name them"
    for key, fact in {**BROUGHT_FACTS, "normalize": UNSET, "files": {}}.items():
        if _make_list(recorded := getattr(claimed, key)) != fact:
            known = "nothing" if fact is UNSET else shorten(repr(fact))
            yield (
                "facts",
                f"model.{key} is {shorten(repr(recorded))}, and of features that were brought a run writes {known}",
            )
    if cost.audio_s or cost.extract_s or not cost.cached:
        yield "facts", f"cost has {cost.audio_s:g} s of audio encoded, and these features were brought"


def _check_registered(claimed: Model, encoder: Encoder) -> Iterator[tuple[str, str]]:
    """Whether a record says of an encoder of the suite what that declares."""
    if claimed.version != encoder.version:
        yield (
            "old model",
            f"version {claimed.version} of '{encoder.name}' is not the one that is here ({encoder.version})",
        )
        return
    widths = [layer.width for layer in encoder.layers]
    rates = [layer.frame_rate_hz for layer in encoder.layers]
    facts: dict[str, Any] = {
        "parameters": encoder.parameters,
        "states": len(encoder.layers),
        "width": widths[0] if len(set(widths)) == 1 else widths,
        "sample_rate_hz": encoder.sample_rate_hz,
        "normalize": encoder.normalize,
        "frame_rate_hz": rates[0] if len(set(rates)) == 1 else rates,
        "license": encoder.license,
        "training_data": list(encoder.training_data),
        "files": {},
    }
    for key, fact in facts.items():
        recorded = _make_list(getattr(claimed, key))
        if recorded is not UNSET and recorded != fact:
            yield "facts", f"model.{key} is {shorten(recorded)}, and that of '{encoder.name}' is {shorten(fact)}"
    if (claimed.source == "none") != (encoder.weights is None):
        yield "facts", f"model.source is '{claimed.source}', and '{encoder.name}' has {_digest_weights(encoder)}"


def check_asked_layers(record: Record, tried: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Whether the grid is of the layers that its `why_not` names, where it names some. tried: the grid's, in its order."""
    asked, encoder = comparable.find_departures(record, None).layers, find_encoder(record)
    if asked == "all":
        return
    names = (
        [layer.name for layer in encoder.layers]
        if encoder
        else [name for name in tried if name not in ("sum", "concat")]
    )
    try:
        picked, with_sum = pick_layers(asked, names)
    except UsageError:
        picked, with_sum = [], False
    together = ({"sum"} if with_sum else set()) | ({"concat"} if "concat" in asked.split(",") else set())
    if {names[index] for index in picked} | together != set(tried):
        yield "facts", f"why_not says 'only layers {shorten(asked)}', and the grid has {listing(tried)}"


def _make_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _digest_weights(encoder: Encoder) -> str:
    return "no weights" if encoder.weights is None else f"its weights from {encoder.weights.url}"


def _check_speed(cost: Cost) -> Iterator[tuple[str, str]]:
    """Whether the speed is that of the seconds beside it; a run writes none where nothing was encoded."""
    factor, seconds = cost.real_time_factor, f"{cost.audio_s:g} s of audio took {cost.extract_s:g} s"
    if not (cost.audio_s and cost.extract_s):
        if factor is not None:
            yield "facts", f"cost.real_time_factor is {factor:.6g}, and {seconds}"
        return
    if factor is None:
        yield "facts", "cost.real_time_factor is absent, and there are seconds of audio and of work"
        return
    least = (cost.audio_s - HALF_MS) / (cost.extract_s + HALF_MS)
    most = (cost.audio_s + HALF_MS) / (cost.extract_s - HALF_MS) if cost.extract_s > HALF_MS else math.inf
    if not 0.99 * least - 0.01 <= factor <= 1.01 * most + 0.01:
        yield "facts", f"cost.real_time_factor is {factor:.6g}, and {seconds}"
