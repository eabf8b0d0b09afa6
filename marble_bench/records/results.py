"""Records: the immutable JSON of one run, its grid and predictions beside it. `record.schema.json` is their form."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.errors import BenchError, DataError
from marble_bench.files.atomic import write_whole
from marble_bench.files.names import LONGEST_TEXT, RULE, folder_name

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = "marble-bench.record/1"
# What may differ between two runs that found the same: the machine, its speed, the code.
VOLATILE = ("suite", "cost", "environment", "digests", "identity")
TABLES = ("grid", "predictions")
LARGEST_BYTES = 16 << 20  # of a record's JSON: 55,000 missing clips are 4 MB
BRIEF_LIST, BRIEF_TEXT = 6, 40  # values of a list, characters of a text, that a line of differences shows
LARGEST_INTEGER = 1 << 53  # above it, JSON's numbers are not the same everywhere


def schema() -> dict[str, Any]:
    """The JSON Schema of a record."""
    loaded: dict[str, Any] = json.loads(
        (files("marble_bench.records") / "record.schema.json").read_text(encoding="utf-8")
    )
    return loaded


def faults(record: Any) -> list[str]:
    """Where a record is not as the schema asks, a line each: the field and what is wrong with it."""
    found = sorted(_validator().iter_errors(record), key=lambda error: list(map(str, error.path)))
    return [f"{'.'.join(map(str, error.path)) or 'the record'}: {_words(error)}" for error in found]


def _words(error: Any) -> str:
    """What is wrong with one value. Of names and texts in the words of their rule, and with nothing of theirs unescaped."""
    rule = {
        "name": f"no name: {RULE}",
        "text": f"no text: one line of at most {LONGEST_TEXT} characters, none of control",
    }
    if isinstance(error.schema, dict) and error.schema.get("$comment") in rule and error.validator != "type":
        return f"{ascii(error.instance)[:80]} is {rule[error.schema['$comment']]}"
    return str(error.message[:160])


@lru_cache(maxsize=1)
def _validator() -> Any:
    import jsonschema

    return jsonschema.Draft202012Validator(schema())


def record_path(results: Path, record: dict[str, Any], variant: str = "") -> Path:
    """`<results>/<model>/<weights digest, 12 hex>/<protocol>/<task>[.<variant>].json`.

    variant: what makes a record not comparable (`mini`, `limit20`), so that it never stands in a full run's place.
    Names are escaped (`files.names.folder_name`), so that none is a way out of the folder and no two share a file.
    """
    model = record["model"]
    stem = file_stem(record["task"]["name"]) + (f".{folder_name(variant).replace('%2B', '+')}" if variant else "")
    folders = [folder_name(str(each)) for each in (model["weights_sha256"][:12], record["protocol"]["name"])]
    return of_model(results, str(model["name"])).joinpath(*folders) / f"{stem}.json"


def of_model(results: Path, model: str) -> Path:
    """The folder of all records of a model."""
    return results / folder_name(model)


def file_stem(task: str) -> str:
    """What the file of a task's record begins with: its name, in which a dot is escaped too, for a variant follows one."""
    return folder_name(task).replace(".", "%2E")


def check_writable(folder: Path, what: str = "the results folder", option: str = "--results-dir") -> None:
    """Raise BenchError now if a record, or what else a run leaves in a folder, could not be written later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BenchError(f"{what} {folder} cannot be written: {error.strerror}; choose {option}") from error


def dumps(record: dict[str, Any]) -> str:
    """A record as text; NaN and infinity are no JSON and raise ValueError."""
    return json.dumps(record, indent=1, allow_nan=False) + "\n"


def digest_of(record: dict[str, Any]) -> str:
    """sha256 of a record's JSON without its `digests`: another one than those name means an edit by hand."""
    bare = {key: value for key, value in record.items() if key != "digests"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def table_path(path: Path, kind: str) -> Path:
    """The table beside a record's file; kind: `grid` or `predictions`."""
    return path.with_name(f"{path.name.removesuffix('.json')}.{kind}.parquet")


def differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Where two records differ, a short line each, the volatile parts left out.

    >>> list(differences({"a": [1, {"b": 0.123456789}]}, {"a": [1, {"b": 0.123456788}], "c": {"d": 1}}))
    ['a[1].b: 0.123456789 -> 0.123456788', 'c: none -> an object of 1']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if place or key not in VOLATILE:
                yield from differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and any(map(_is_nested, old)):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{place}[{index}]")
    elif old != new:
        shown = [_brief(old), _brief(new)]
        if shown[0] == shown[1]:
            shown = [_brief(old, digits=None), _brief(new, digits=None)]
        yield f"{place}: {shown[0]} -> {shown[1]}" if shown[0] != shown[1] else f"{place}: {shown[0]}, not the same"


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _brief(value: Any, digits: int | None = 4) -> str:
    """A value of a record in some words. digits: of numbers, None for all. Long texts and lists are cut."""
    if isinstance(value, float):
        return repr(value) if digits is None else f"{value:.{digits}g}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list) and (len(value) > BRIEF_LIST or any(map(_is_nested, value))):
        return f"a list of {len(value)}"
    if isinstance(value, list):
        return f"[{', '.join(_brief(each, digits) for each in value)}]"
    text = "none" if value is None else str(value)
    return text if len(text) <= BRIEF_TEXT else f"{text[: BRIEF_TEXT - 3]}..."


def not_whole(path: Path, record: dict[str, Any]) -> list[str]:
    """What of a record's three files is not what its digests say, a phrase each. record: as it was read from `path`."""
    digests = record.get("digests", {})
    found = [] if digests.get("record", digest_of(record)) == digest_of(record) else ["its JSON was changed by hand"]
    for kind in TABLES:
        try:
            content = table_path(path, kind).read_bytes()
        except FileNotFoundError:
            found.append(f"its {kind} table was gone")
            continue
        digest = hashlib.sha256(content).hexdigest()
        if digests.get(kind, digest) != digest:
            found.append(f"its {kind} table was damaged")
    return found


def save(
    path: Path,
    record: dict[str, Any],
    grid: pd.DataFrame,
    predictions: pd.DataFrame,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> bool:
    """Write a record, its grid and its predictions; True if written, False if the same record stands there already, whole.

    The digests of the three are put into `record["digests"]`. Where the same record stands there but is not whole, all three
    are written again, and `say` is told why. Raises BenchError with the differences if another record stands there and
    `overwrite` is not set, DataError if what stands there cannot be read. The JSON is written last, so its existence means
    that all three are whole.
    """
    written = {"grid": grid.to_parquet(index=False), "predictions": predictions.to_parquet(index=False)}
    record["digests"] = {kind: hashlib.sha256(content).hexdigest() for kind, content in written.items()}
    record["digests"]["record"] = digest_of(record)
    if path.is_file() and not overwrite:
        try:
            old = read(path)
        except DataError as error:
            raise DataError(f"{error}. Nothing was written; delete it, or replace it by --overwrite") from error
        changed = list(differences(old, record))
        if changed:
            shown = "\n  ".join(changed[:12]) + (f"\n  and {len(changed) - 12} more" if len(changed) > 12 else "")
            raise BenchError(f"{path} holds another result; nothing was written (--overwrite replaces it):\n  {shown}")
        spoilt = not_whole(path, old)
        if not spoilt:
            return False
        if say:
            say(
                f"{path} was not whole ({'; '.join(spoilt)}): its numbers agree with this run's, so it is written again"
            )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for kind, content in written.items():
            write_whole(table_path(path, kind), content)
        write_whole(path, dumps(record).encode())
    except OSError as error:
        raise BenchError(f"the record {path} cannot be written: {error.strerror}") from error
    return True


class NotANumber(ValueError):
    """JSON that holds NaN, infinity or a number that no reader has."""


def loads(text: str) -> Any:
    """JSON as its standard has it, which Python's reader does not ask for.

    Raises NotANumber for NaN, infinity and numbers too large; another ValueError for what is no JSON, and for an object
    that has a key twice, of which readers take different ones.
    """

    def refuse(word: str) -> Any:
        raise NotANumber(f"{word} is no number of JSON; what is not known is null")

    def real(word: str) -> float:
        value = float(word)
        return value if math.isfinite(value) else refuse(word[:40])

    def integer(word: str) -> int:
        value = int(word) if len(word) <= len(str(-LARGEST_INTEGER)) else LARGEST_INTEGER + 1
        return value if abs(value) <= LARGEST_INTEGER else refuse(word[:40])

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            twice = next(key for index, (key, _) in enumerate(pairs) if key in dict(pairs[:index]))
            raise ValueError(f"an object has the key {ascii(twice)[:80]} twice")
        return made

    try:
        return json.loads(text, parse_constant=refuse, parse_float=real, parse_int=integer, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("its brackets go deeper than any record's") from None


def read_text(path: Path) -> str:
    """The text of a record's file. Raises ValueError for one that is larger than any record, OSError for none."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError("it is no file")
    with path.open("rb") as file:
        held = file.read(LARGEST_BYTES + 1)
    if len(held) > LARGEST_BYTES:
        raise ValueError(f"it has more than {LARGEST_BYTES >> 20} MB, and no record has")
    return held.decode("utf-8")


def read(path: Path) -> dict[str, Any]:
    """A record from its file. Raises DataError naming the file if it is no record of this schema."""
    try:
        record = loads(read_text(path))
    except FileNotFoundError as error:
        raise DataError(f"no record {path}: give the path of its .json (bench results check names all)") from error
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read as a record: {why}") from error
    found = record.get("schema") if isinstance(record, dict) else None
    if found != SCHEMA:
        raise DataError(f"{path} has schema {found!r}; this version reads {SCHEMA}")
    return dict(record)


def paths(results: Path) -> list[Path]:
    """The files of all records below a results folder."""
    return sorted(results.glob("*/*/*/*.json"))
