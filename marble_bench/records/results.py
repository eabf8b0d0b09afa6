"""Records on disk: the immutable JSON of one run, its grid and predictions beside it; written whole, read with care."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from marble_bench.errors import BenchError, DataError
from marble_bench.files.atomic import write_whole
from marble_bench.files.download import digest
from marble_bench.files.names import name_folder
from marble_bench.records.record import SCHEMA, Digests, Record, to_json
from marble_bench.records.schema import InvalidRecord, from_json

if TYPE_CHECKING:
    import pandas as pd

# What may differ between two runs that found the same: the machine, its speed, the code.
VOLATILE = ("suite", "cost", "environment", "digests", "identity")
TABLES = ("grid", "predictions")
LARGEST_BYTES = 16 << 20  # of a record's JSON: 55,000 missing clips are 4 MB
LARGEST_TABLE_BYTES = 1 << 30  # of a file: 80 million values of 8 bytes are 0.64 GB
BRIEF_LIST, BRIEF_TEXT = 6, 40  # values of a list, characters of a text, that a line of differences shows
LARGEST_INTEGER = 1 << 53  # above it, JSON's numbers are not the same everywhere


@dataclass(frozen=True)
class Stored:
    """A record and its file. digest: of the JSON in the file (`compute_digest`)."""

    path: Path
    record: Record
    digest: str = ""

    @property
    def name(self) -> str:
        """`model task`, for messages."""
        return f"{self.record.model.name} {self.record.task.name}"


def record_path(results: Path, record: Record, variant: str = "") -> Path:
    """`<results>/<model>/<weights digest, 12 hex>/<protocol>/<task>[.<variant>].json`.

    variant: what makes a record not comparable (`mini`, `limit20`), so that it never takes a full run's place.
    Names are escaped (`files.names.name_folder`), so that none is a way out of the folder and no two share a file.
    """
    model = record.model
    return place_of(results, model.name, model.weights_sha256, record.protocol.name, record.task.name, variant)


def place_of(results: Path, model: str, weights_sha256: str, protocol: str, task: str, variant: str) -> Path:
    """The path of the record of these names; see `record_path`."""
    stem = name_file_stem(task) + (f".{name_folder(variant).replace('%2B', '+')}" if variant else "")
    return find_model_folder(results, model) / name_folder(weights_sha256[:12]) / name_folder(protocol) / f"{stem}.json"


def find_model_folder(results: Path, model: str) -> Path:
    """The folder of all records of a model."""
    return results / name_folder(model)


def name_file_stem(task: str) -> str:
    """What the file of a task's record begins with: its name, in which a dot is escaped too, for a variant follows one."""
    return name_folder(task).replace(".", "%2E")


def check_writable(folder: Path, what: str = "the results folder", option: str = "--results-dir") -> None:
    """Raise BenchError now if a record, or what else a run leaves in a folder, could not be written later."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BenchError(f"{what} {folder} cannot be written: {error.strerror}; choose {option}") from error


def format_json(record: Record) -> str:
    """A record as text; NaN and infinity are no JSON and raise ValueError."""
    return json.dumps(to_json(record), indent=1, allow_nan=False) + "\n"


def compute_digest(facts: dict[str, Any]) -> str:
    """sha256 of a record's JSON without its `digests`: another one than those name means an edit by hand."""
    bare = {key: value for key, value in facts.items() if key != "digests"}
    return hashlib.sha256(json.dumps(bare, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def find_table_path(path: Path, kind: str) -> Path:
    """The table beside a record's file; kind: `grid` or `predictions`."""
    return path.with_name(f"{path.name.removesuffix('.json')}.{kind}.parquet")


def check_table_size(path: Path) -> None:
    """Raise DataError for a file that is larger than any table of a run, before any of it is read."""
    if (size := path.stat().st_size) > LARGEST_TABLE_BYTES:
        raise DataError(
            f"{path} has {size / 1e9:.3g} GB, and no table of a run has more than {LARGEST_TABLE_BYTES / 1e9:.3g}"
        )


def digest_of_table(path: Path) -> str:
    """sha256 of a table's file, read in blocks. Raises DataError for one that is larger than any, OSError for none."""
    check_table_size(path)
    return digest(path)


def list_differences(old: Any, new: Any, place: str = "") -> Iterator[str]:
    """Where the JSON of two records differs, a short line each, the volatile parts left out.

    >>> list(list_differences({"a": [1, {"b": 0.123456789}]}, {"a": [1, {"b": 0.123456788}], "c": {"d": 1}}))
    ['a[1].b: 0.123456789 -> 0.123456788', 'c: none -> an object of 1']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            if place or key not in VOLATILE:
                yield from list_differences(old.get(key), new.get(key), f"{place}.{key}" if place else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and any(map(_is_nested, old)):
        for index, pair in enumerate(zip(old, new, strict=True)):
            yield from list_differences(*pair, f"{place}[{index}]")
    elif old != new:
        shown = [_shorten(old), _shorten(new)]
        if shown[0] == shown[1]:
            shown = [_shorten(old, digits=None), _shorten(new, digits=None)]
        yield f"{place}: {shown[0]} -> {shown[1]}" if shown[0] != shown[1] else f"{place}: {shown[0]}, not the same"


def _is_nested(value: Any) -> bool:
    return isinstance(value, dict | list)


def _shorten(value: Any, digits: int | None = 4) -> str:
    """A value of a record in some words. digits: of numbers, None for all. Long texts and lists are cut."""
    if isinstance(value, float):
        return repr(value) if digits is None else f"{value:.{digits}g}"
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list) and (len(value) > BRIEF_LIST or any(map(_is_nested, value))):
        return f"a list of {len(value)}"
    if isinstance(value, list):
        return f"[{', '.join(_shorten(each, digits) for each in value)}]"
    text = "none" if value is None else str(value)
    return text if len(text) <= BRIEF_TEXT else f"{text[: BRIEF_TEXT - 3]}..."


def find_broken(stored: Stored) -> list[str]:
    """What of a record's three files is not what its digests say, a phrase each."""
    digests = stored.record.digests
    found = ["its JSON was changed by hand"] if digests and digests.record != stored.digest else []
    for kind in TABLES:
        try:
            held = digest_of_table(find_table_path(stored.path, kind))
        except FileNotFoundError:
            found.append(f"its {kind} table was gone")
            continue
        except DataError:  # larger than any
            held = ""
        if digests and getattr(digests, kind) != held:
            found.append(f"its {kind} table was damaged")
    return found


def save(
    path: Path,
    record: Record,
    grid: pd.DataFrame,
    predictions: pd.DataFrame,
    overwrite: bool = False,
    say: Callable[[str], None] | None = None,
) -> tuple[Record, bool]:
    """Write a record, its grid and its predictions.

    Returns the record with the digests of the three, and whether they were written: they are not if the same record is
    there already, whole. Where it is there but not whole, all three are written again, and `say` is told why. Raises
    BenchError with the differences if another record is there and `overwrite` is not set, or with the fields if this
    one is not valid; DataError if what is there cannot be read. The JSON is written last, so its existence means that
    all three are whole.
    """
    tables = {"grid": grid.to_parquet(index=False), "predictions": predictions.to_parquet(index=False)}
    record = _seal(record, tables)
    if path.is_file() and not overwrite and not _is_spoilt(path, record, say):
        return record, False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for kind, content in tables.items():
            write_whole(find_table_path(path, kind), content)
        write_whole(path, format_json(record).encode())
    except OSError as error:
        raise BenchError(f"the record {path} cannot be written: {error.strerror}") from error
    return record, True


def _seal(record: Record, tables: dict[str, bytes]) -> Record:
    """A record with the digests of its three files. Raises BenchError with the fields if it is not valid."""
    own = {kind: hashlib.sha256(content).hexdigest() for kind, content in tables.items()}
    sealed = msgspec.structs.replace(record, digests=Digests(**own, record=compute_digest(to_json(record))))
    try:
        return from_json(parse_json(format_json(sealed)))
    except ValueError as error:
        what = f"{record.model.name} on {record.task.name}"
        raise BenchError(f"the record of {what} is not valid, and nothing was written: {error}") from error


def _is_spoilt(path: Path, record: Record, say: Callable[[str], None] | None) -> bool:
    """Whether the same record has to be written again, for the one at `path` is not whole. Raises BenchError for another."""
    try:
        old = read(path)
    except DataError as error:
        raise DataError(f"{error}. Nothing was written; delete it, or replace it by --overwrite") from error
    changed = list(list_differences(to_json(old.record), to_json(record)))
    if changed:
        shown = "\n  ".join(changed[:12]) + (f"\n  and {len(changed) - 12} more" if len(changed) > 12 else "")
        raise BenchError(f"{path} holds another result; nothing was written (--overwrite replaces it):\n  {shown}")
    spoilt = find_broken(old)
    if spoilt and say:
        say(f"{path} was not whole ({'; '.join(spoilt)}): its numbers agree with this run's, so it is written again")
    return bool(spoilt)


class NotANumber(ValueError):
    """JSON that holds NaN, infinity or a number that no reader has."""


def parse_json(text: str) -> Any:
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
        fields = dict(pairs)
        if len(fields) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"an object has the key {ascii(twice)[:80]} twice")
        return fields

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


def read(path: Path) -> Stored:
    """A record from its file, of whatever version. Raises DataError naming the file, and the fields that are wrong."""
    try:
        facts = parse_json(read_text(path))
    except FileNotFoundError as error:
        raise DataError(f"no record {path}: give the path of its .json (bench results check names all)") from error
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"{path} cannot be read as a record: {why}") from error
    found = facts.get("schema") if isinstance(facts, dict) else None
    if found != SCHEMA:
        raise DataError(f"{path} has schema {found!r}; this version reads {SCHEMA}")
    try:
        return Stored(path, from_json(facts), compute_digest(facts))
    except InvalidRecord as error:
        raise DataError(f"{path} is no whole record (bench results check): {error}") from error


def list_paths(results: Path) -> list[Path]:
    """The files of all records below a results folder."""
    return sorted(results.glob("*/*/*/*.json"))
