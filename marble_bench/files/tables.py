"""The one reader of label files: text, tables of separated values, and JSON.

Every fault of a file is a DataError that names the file and the line (of JSON, the line or the key) in a few hundred
characters, so that no label is read wrongly in silence and no faulty file ends in a traceback. A task of your own
reads its tables by the same
functions:

    for row in read_table(root / "labels.csv", columns=("id", "split", "label"), unique=("id",)):
        yield Clip(row["id"], row["split"], f"audio/{row['id']}.wav", row["label"])

Text is UTF-8. A byte order mark is taken off; UTF-16 and Latin-1 are refused, since a wrong guess of the encoding
changes names without a word. Lines end with LF, CRLF or CR. A table has as many fields in every row as in its head, no
column twice, and no blank line but at its end.
"""

from __future__ import annotations

import csv
import json
import re
import reprlib
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from marble_bench.errors import DataError, listing, suggest_name

MOST_BYTES = 1 << 29  # NSynth's largest examples.json has less than half of that
MOST_FIELD = 4096  # characters; no field of a label table is near it
SHOWN = 60  # characters of a value in an error
BYTE_ORDER_MARK = "\ufeff"
LINE_END = re.compile(r"\r\n|\n|\r")


def brief(value: object, most: int = SHOWN) -> str:
    """A value from a file for an error message: quoted, its control characters escaped, cut to `most` characters.

    >>> brief("rock"), brief("x" * 100, most=10)
    ("'rock'", "'xxxxxxxxxx...'")
    """
    if isinstance(value, str):
        return repr(value if len(value) <= most else f"{value[:most]}...")
    text = reprlib.repr(value)  # which does not write out a large list to cut it
    return text if len(text) <= most else f"{text[:most]}..."


def fault(path: Path, words: str, line: int | None = None) -> DataError:
    """The error for a fault of a label file, with its line where there is one."""
    return DataError(f"{path}{'' if line is None else f' line {line}'}: {words}")


def read_text(path: Path, *, byte_order_mark: bool = True) -> str:
    """The text of a UTF-8 file without its byte order mark.

    byte_order_mark: whether there may be one. Raises DataError with the line for another encoding and for a NUL
    character, and for what is no file, cannot be read, or is too large for a label file.
    """
    try:
        found = path.stat()
        if stat.S_ISDIR(found.st_mode):
            raise fault(path, "is a folder, not a label file")
        if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, and a device never ends
            raise fault(path, "is a pipe, a socket or a device, not a label file")
        if found.st_size > MOST_BYTES:
            raise fault(path, f"has {found.st_size:,} bytes, too many for a label file (at most {MOST_BYTES:,})")
        content = path.read_bytes()
    except OSError as error:
        raise fault(path, f"cannot be read ({error.strerror})") from error
    for mark, name in ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16")):
        if content.startswith(mark):
            raise fault(path, f"is {name}, not UTF-8: save it as UTF-8 (iconv -f {name} -t UTF-8)", 1)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        raise fault(
            path,
            f"byte 0x{content[error.start]:02x} is not UTF-8 (Latin-1 or Windows-1252, perhaps): save the file as UTF-8",
            len(LINE_END.findall(before)) + 1,
        ) from error
    if text.startswith(BYTE_ORDER_MARK):
        if not byte_order_mark:
            raise fault(path, "begins with a byte order mark: save it as UTF-8 without one", 1)
        text = text[1:]
    if (at := text.find("\0")) >= 0:
        raise fault(
            path,
            "has a NUL character: the file is damaged, or UTF-16 without its mark",
            len(LINE_END.findall(text[:at])) + 1,
        )
    return text


def read_lines(path: Path, *, byte_order_mark: bool = True) -> list[str]:
    """The lines of a text file without their ends; blank lines at the end are left out.

    A line's number is its place in the list plus 1. Raises DataError as `read_text`, and for a blank line between others.
    """
    lines = LINE_END.split(read_text(path, byte_order_mark=byte_order_mark))
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            raise fault(path, "is blank; remove the line", number)
    return lines


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: its fields by column, with the file and line that they come from."""

    path: Path
    line: int
    cells: dict[str, str]

    def __getitem__(self, column: str) -> str:
        return self.cells[column]

    def fault(self, words: str) -> DataError:
        """The error for a fault of this row."""
        return fault(self.path, words, self.line)

    def number(self, column: str, low: float, high: float) -> float:
        """A field as a number from `low` to `high`. Raises DataError if it is none."""
        try:
            value = float(self.cells[column])
        except ValueError:
            raise self.fault(f"{column} is {brief(self.cells[column])}, which is no number") from None
        if not low <= value <= high:
            raise self.fault(f"{column} is {brief(self.cells[column])}; it runs from {low:g} to {high:g}")
        return value


def read_table(
    path: Path,
    *,
    columns: Sequence[str],
    delimiter: str = ",",
    unique: Sequence[str] = (),
    strip: bool = False,
) -> Iterator[Row]:
    """The rows of a table with a head.

    columns: those that must be there; others may be. unique: columns in which no value may occur twice. strip: take
    blanks and tabs off names and fields. Raises DataError naming the line of the first fault.
    """
    lines = read_lines(path)
    if not lines:
        raise fault(path, f"is empty; it should have the columns {listing(columns)}")
    head = _split_fields(path, 1, lines[0], delimiter, strip)
    _check_head(path, head, columns)
    seen: dict[str, dict[str, int]] = {column: {} for column in unique}
    for number, line in enumerate(lines[1:], 2):
        fields = _split_fields(path, number, line, delimiter, strip)
        if len(fields) != len(head):
            raise fault(path, f"has {len(fields)} fields, the header {len(head)}", number)
        row = Row(path, number, dict(zip(head, fields, strict=True)))
        for column, lines_of in seen.items():
            first = lines_of.setdefault(row[column], number)
            if first != number:
                raise row.fault(f"{column} {brief(row[column])} is already in line {first}; which one is right?")
        yield row


def _split_fields(path: Path, number: int, line: str, delimiter: str, strip: bool) -> list[str]:
    """The fields of one line: no field of a label table goes on in the next line, so a quotation mark that does is
    astray."""
    if strip:  # what is between a quotation mark and the delimiter is no part of the field
        cut = re.escape(delimiter)
        line = re.sub(rf'"[ \t]+(?={cut}|$)', '"', re.sub(rf'(^|{cut})[ \t]+"', r'\1"', line))
    try:
        (fields,) = csv.reader([line], delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise fault(path, f"has a stray quotation mark, or a field that is too long ({error})", number) from None
    for field in fields:
        if len(field) > MOST_FIELD:
            raise fault(path, f"has a field of {len(field):,} characters", number)
    return [field.strip() for field in fields] if strip else fields


def _check_head(path: Path, head: Sequence[str], columns: Sequence[str]) -> None:
    twice = list(dict.fromkeys(name for name in head if head.count(name) > 1))
    if twice:
        raise fault(path, f"the header has the column {listing([brief(name) for name in twice], 3)} more than once", 1)
    lacking = [name for name in columns if name not in head]
    if lacking:
        shown = listing([brief(name, 20) for name in head], 5)
        hint = suggest_name(lacking[0], [name[:SHOWN] for name in head])
        raise fault(
            path,
            f"has no column {listing(lacking, 3)}{hint} (its columns are {shown}); {_explain_head(head, columns)}",
            1,
        )


def _explain_head(head: Sequence[str], columns: Sequence[str]) -> str:
    """What to do about a head that lacks some of its columns."""
    for mark in (",", ";", "\t", "|"):
        if set(columns) <= {name.strip() for name in head[0].split(mark)} and len(head) == 1:
            return f"they are separated by {mark!r}: read_table(..., delimiter={mark!r})"
    if set(columns) <= {name.strip() for name in head}:
        return "their names have blanks around them: take them out, or read_table(..., strip=True)"
    return "correct its first line, or get the file again"


class _Refused(ValueError):
    """What JSON's own reader lets pass."""


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose names are all different."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names: set[str] = set()
        for name, _ in pairs:
            if name in names:
                raise _Refused(f"has {brief(name)} twice; which one is right?")
            names.add(name)
    return fields


def _refuse_constant(word: str) -> NoReturn:
    raise _Refused(f"has {word}, which is no number of JSON")


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises DataError for what is no JSON, a name that occurs twice in one object, NaN,
    infinity, and
    brackets that go too deep. JSON is UTF-8 without a byte order mark, as its standard asks."""
    text = read_text(path, byte_order_mark=False)
    try:
        return json.loads(text, object_pairs_hook=_build_object, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise fault(path, f"is no whole JSON ({error.msg}): it is damaged, get it again", error.lineno) from None
    except RecursionError:
        raise fault(path, "has brackets that go deeper than any label file's") from None
    except ValueError as error:  # also a number of thousands of digits
        raise fault(path, str(error)[:200]) from None
