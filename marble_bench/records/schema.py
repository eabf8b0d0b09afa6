"""The JSON Schema of a record, generated from its classes, and in plain words what is wrong with JSON that breaks it.

`python -m marble_bench.records.schema` writes `record.schema.json` anew; a test compares the two.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from marble_bench.errors import listing
from marble_bench.files.names import LONGEST_TEXT, RULE
from marble_bench.records.migrations import migrate
from marble_bench.records.record import Digest, Name, Record, Sha256, Text

FILE = Path(__file__).with_name("record.schema.json")
MOST_VALUES = 20_000  # of a record of which every fault is told; jsonschema takes 30 us for each of a valid one
_SHARED = {"name": Name, "text": Text, "digest": Digest, "sha256": Sha256}


class InvalidRecord(ValueError):
    """JSON that is no record. faults: a line each, the field and what is wrong with it."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__(listing(faults, most=3))
        self.faults = faults


def from_json(facts: Any) -> Record:
    """The record of some JSON, of whatever version. Raises InvalidRecord that says of each wrong field what is wrong."""
    try:
        return _convert(migrate(facts))
    except RecursionError:
        raise InvalidRecord(["the record: its values are nested deeper than any record's"]) from None


def _convert(facts: Any) -> Record:
    try:
        return msgspec.convert(facts, Record)
    except (
        msgspec.ValidationError,
        UnicodeEncodeError,
    ) as error:  # the second for a key with half a pair of surrogates
        every = [] if _is_long(facts) else _find_faults(facts)
        raise InvalidRecord(every or [describe_fault(error)]) from None


def find_faults(facts: Any) -> list[str]:
    """Where JSON is not of a record's form, a line each: the field and what is wrong with it; none for a record."""
    try:
        from_json(facts)
    except InvalidRecord as error:
        return error.faults
    return []


def build_schema() -> dict[str, Any]:
    """The JSON Schema of a record as it is written today."""
    generated = msgspec.json.schema(Record)
    parts = generated["$defs"]
    shared = {name: _simplify(msgspec.json.schema(rule), {}) for name, rule in _SHARED.items()}
    whole = parts.pop("Record")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "marble-bench record",
        **{key: value for key, value in _simplify(whole, shared).items() if key != "title"},
        "$defs": {**shared, **{name: _simplify(part, shared) for name, part in parts.items()}},
    }


def _simplify(node: Any, shared: dict[str, Any]) -> Any:
    """A schema with alternatives of simple types as one, and shared rules of texts by reference.

    `{"anyOf": [{"type": "number", "minimum": 0}, {"type": "null"}]}` says the same as
    `{"type": ["number", "null"], "minimum": 0}`, and an error by it says which types are right.
    """
    if isinstance(node, list | tuple):
        return [_simplify(each, shared) for each in node]
    if not isinstance(node, dict):
        return node
    simplified = {key: _simplify(value, shared) for key, value in node.items()}
    if simplified.get("$comment") in shared:
        same = shared[simplified["$comment"]]
        own = {key: value for key, value in simplified.items() if value != same.get(key)}
        return {"$ref": f"#/$defs/{simplified['$comment']}", **own}
    options = simplified.get("anyOf")
    if options and all(isinstance(each.get("type"), str) for each in options):
        return _join_types(simplified, options)
    return simplified


def _join_types(joined: dict[str, Any], options: list[dict[str, Any]]) -> dict[str, Any]:
    """Alternatives of simple types as one schema: each keyword speaks of values of its own type alone."""
    kinds = {each["type"]: {key: value for key, value in each.items() if key != "type"} for each in options}
    if kinds.get("integer") == kinds.get("number"):
        kinds.pop("integer", None)  # every integer is a number
    rules: dict[str, Any] = {}
    for more in kinds.values():
        if rules.keys() & more.keys():
            return joined
        rules |= more
    names = list(kinds)
    rest = {key: value for key, value in joined.items() if key != "anyOf"}
    return {"type": names[0] if len(names) == 1 else names, **rules, **rest}


def _is_long(facts: Any) -> bool:
    """Whether some JSON has more values than `MOST_VALUES`, which are counted no further."""
    left, count = [facts], 0
    while left and count <= MOST_VALUES:
        each = left.pop()
        inside = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        count += len(inside)
        left += inside if count <= MOST_VALUES else ()
    return count > MOST_VALUES


def _find_faults(facts: Any) -> list[str]:
    """All that the schema has against some JSON, a line each. jsonschema is loaded here alone: valid records need it not."""
    found = sorted(_build_validator().iter_errors(facts), key=lambda error: list(map(str, error.path)))
    return [f"{'.'.join(map(str, error.path)) or 'the record'}: {_describe_error(error)}" for error in found]


def _describe_error(error: Any) -> str:
    """What is wrong with one value. Of names and texts in the words of their rule, and with nothing of theirs unescaped."""
    rule = {
        "name": f"no name: {RULE}",
        "text": f"no text: one line of at most {LONGEST_TEXT} characters, none of control or unseen",
    }
    if isinstance(error.schema, dict) and error.schema.get("$comment") in rule and error.validator != "type":
        return f"{ascii(error.instance)[:80]} is {rule[error.schema['$comment']]}"
    if error.validator in ("maxItems", "maxProperties"):
        return f"{len(error.instance):,} of them, and no record has more than {error.validator_value:,}"
    return str(error.message[:160])


def describe_fault(error: Exception) -> str:
    """The first fault in msgspec's words: of a long record, and where JSON Schema allows what a record may not have, 3.0 for
    a whole number."""
    what, _, place = str(error).rpartition(" - at `$.")
    if many := re.search(r"of length <= (\d+)$", what):
        return f"{place.rstrip('`')}: more than {int(many[1]):,} of them, and no record has more"
    if "matching regex" in what:
        return f"{place.rstrip('`')}: a name, text or digest that no record has"
    return f"{place.rstrip('`')}: {what[:160]}" if what else str(error)[:160]


@lru_cache(maxsize=1)
def _build_validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(build_schema())


def main() -> None:
    """Write the schema anew."""
    FILE.write_text(format_schema(), encoding="utf-8")
    print(f"wrote {FILE}")


def format_schema() -> str:
    """The text of `record.schema.json`."""
    return json.dumps(build_schema(), indent=2) + "\n"


if __name__ == "__main__":
    main()
