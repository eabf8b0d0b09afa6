"""Brings the JSON of an older record to today's form, so that readers know one form.

The form has only gained fields. What an older record lacks is filled in where it follows from the rest. What cannot be
known from the record alone stays absent, and its field in `marble_bench.records.record` may be `UNSET`: `model.normalize`,
`drop_ci95`, `identity` and `digests`.

Nothing is trusted here: a part that has not the expected form is left as it is, and the check of the form names it.
"""

from __future__ import annotations

import re
from typing import Any

from marble_bench.records.record import compute_mean_and_spread


def migrate(facts: Any) -> Any:
    """The JSON of a record in today's form. Copies what it changes; what is no record is given back as it is."""
    if not isinstance(facts, dict):
        return facts
    return _add_absent(_add_spread(facts))


def _add_spread(facts: dict[str, Any]) -> dict[str, Any]:
    """Adds `std`, the spread over seeds, to scores made before scores had it."""
    scores = facts.get("scores")
    if not isinstance(scores, dict):
        return facts
    more = {}
    for name, score in scores.items():
        if isinstance(score, dict) and "std" not in score and _are_scores(score.get("per_seed")):
            more[name] = score | {"std": compute_mean_and_spread(score["per_seed"])[1]}
    return facts | {"scores": scores | more} if more else facts


def _are_scores(values: Any) -> bool:
    able = isinstance(values, list) and values != []
    return able and all(value is None or type(value) in (int, float) for value in values)


def _add_absent(facts: dict[str, Any]) -> dict[str, Any]:
    """Adds `data.absent`, the count of published clips that were not used, to records that name them all in `missing`.

    Their reason not to be comparable gets the words of today.
    """
    data, reasons = facts.get("data"), facts.get("why_not")
    if not isinstance(data, dict) or "absent" in data or not isinstance(reasons, list):
        return facts
    missing = data.get("missing")
    if not isinstance(missing, list) or not missing:
        return facts
    words = [_update_words(reason) for reason in reasons]
    return facts | {"data": data | {"absent": len(missing)}, "why_not": words}


def _update_words(reason: Any) -> Any:
    if not isinstance(reason, str):
        return reason
    return re.sub(r"^(incomplete corpus \(\d{1,9}) entries in data\.missing\)$", r"\1 clips absent)", reason)
