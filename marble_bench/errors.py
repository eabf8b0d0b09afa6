"""What can go wrong for a user, each with the exit code that `bench` ends with.

0 done, 1 failed, 2 usage, 3 data or weights missing or damaged, 4 a part of several things that were asked for failed. A
message names the thing, the value and the next step; `bench` prints it alone, and the traceback only with `--debug`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from contextlib import suppress

DONE, FAILED, USAGE, MISSING, PARTLY = 0, 1, 2, 3, 4
INTERRUPTED = 130  # as shells say it


def combine_exit_codes(ended: Sequence[int]) -> int:
    """The exit code of a command that was asked for several things, by how each of them ended.

    >>> [combine_exit_codes(each) for each in ([0, 0], [3, 3], [2, 3], [0, 3])]
    [0, 3, 1, 4]
    """
    if len(set(ended)) == 1:
        return ended[0]
    return PARTLY if DONE in ended else FAILED


class BenchError(Exception):
    """Something failed that the user can act on."""

    exit_code = FAILED


class UsageError(BenchError):
    """The request itself is wrong: an unknown name, a bad value, a faulty plug-in file."""

    exit_code = USAGE


class DataError(BenchError):
    """Data or weights are missing, damaged or not what they should be."""

    exit_code = MISSING


def format_error(error: BaseException) -> str:
    """What an exception says, of which code of somebody's own may be the author.

    >>> format_error(ValueError("too few")), format_error(ValueError())
    ('too few', '')
    """
    with suppress(Exception):  # its `__str__` may raise in its turn
        return str(error)
    return "(its text cannot be read)"


def suggest_name(name: str, choices: Iterable[str]) -> str:
    """The closest of `choices` as a phrase to put behind an error, or an empty string. Case counts for nothing.

    >>> suggest_name("gtzann", ["emo", "gtzan"]), suggest_name("GTZAN", ["emo", "gtzan"])
    ("; did you mean 'gtzan'?", "; did you mean 'gtzan'?")
    >>> suggest_name("qqqq", ["emo", "gtzan"])
    ''
    """
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f"; did you mean '{by_lower[close[0]]}'?" if close else ""


def counted(many: int, one: str, more: str = "") -> str:
    """A number with its noun. more: the noun of several, where it is not that of one with an s.

    >>> counted(1, "record"), counted(0, "record"), counted(1200, "pass", "passes")
    ('1 record', '0 records', '1,200 passes')
    """
    return f"{many:,} {one if many == 1 else more or one + 's'}"


def format_duration(seconds: float) -> str:
    """A time as people read it: the two largest units, whole seconds from ten on.

    >>> [format_duration(each) for each in (4.23, 42, 59.7, 200, 3900, 108_000)]
    ['4.2 s', '42 s', '1 min 00 s', '3 min 20 s', '1 h 05 min', '30 h 00 min']
    """
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def format_speed(rate: float) -> str:
    """A speed in seconds of audio per second, `s/s`.

    >>> [format_speed(each) for each in (0.031, 2.34, 22.6, 1495.2)]
    ['0.03 s/s', '2.3 s/s', '23 s/s', '1,495 s/s']
    """
    return f"{rate:,.{0 if rate >= 10 else 1 if rate >= 1 else 2}f} s/s"


def listing(names: Iterable[str], most: int = 10) -> str:
    """Names for an error message, cut after `most` with the count of the rest.

    >>> listing(["a", "b", "c"], most=2)
    'a, b and 1 more'
    """
    every = list(names)
    rest = len(every) - most
    return ", ".join(every[:most]) + (f" and {rest} more" if rest > 0 else "")
