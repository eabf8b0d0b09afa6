"""Which version a record says it was made by: whether it is one, and how it compares with the one that is here."""

from __future__ import annotations

import re

from marble_bench import _version
from marble_bench.records.record import Record

FORM = re.compile(r"([0-9]{1,6}(?:\.[0-9]{1,6}){0,4})(?:\.dev[0-9]{1,9})?(?:\+[0-9a-z.]{1,80})?")
UNTOLD = "0.1.0"  # what every version called itself before git was asked


def is_version(record: Record) -> bool:
    """Whether what a record has as its version has the form of one."""
    return FORM.fullmatch(record.suite.version) is not None


def is_later(record: Record) -> bool:
    """Whether a record names a release behind the one that is here, so that its rules may be others."""
    return _release(record.suite.version) > max(_release(_version.version()), _release(UNTOLD))


def is_this(record: Record) -> bool:
    """Whether a record names the very version that is here."""
    return record.suite.version == _version.version()


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a release; of a text that is no version, none."""
    found = FORM.fullmatch(version)
    return tuple(map(int, found.group(1).split("."))) if found else ()
