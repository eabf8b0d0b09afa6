"""What the values may be that a plug-in's file declares: looked at before any work, told by the field's name.

Each function gives the words of what is wrong, or None. A value is anything that a file may hold, so nothing is taken for
granted of it, and what is shown of it is cut.
"""

from __future__ import annotations

import reprlib
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

LARGEST = 2**31 - 1  # of a whole number
MOST_VALUES = 10_000  # of an axis, and probes that a grid has for one layer

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shorten_repr(value: object) -> str:
    """A value as text of bounded length, even where its own `repr` fails.

    >>> shorten_repr(range(9)), len(shorten_repr("x" * 1000))
    ('range(0, 9)', 80)
    """
    with suppress(Exception):  # such as that of a number of thousands of digits
        return _SHORT.repr(value)
    return f"a value of type {type(value).__name__}"


def is_whole(value: object, least: int) -> bool:
    """Whether a value is a whole number from `least` on; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST


def is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def find_whole_problem(name: str, value: object, least: int) -> str | None:
    """What is wrong with a field that is a whole number.

    >>> find_whole_problem("seeds", True, 1), find_whole_problem("seeds", 3, 1)
    ('seeds is True: give a whole number from 1 on', None)
    """
    if is_whole(value, least):
        return None
    above = isinstance(value, int) and value > LARGEST
    return f"{name} is {shorten_repr(value)}: give a whole number from {least} {f'to {LARGEST}' if above else 'on'}"


def is_empty(value: object) -> bool:
    """Whether a value is a text, tuple or list without anything in it."""
    return isinstance(value, (str, tuple, list)) and not value


def find_bool_problem(name: str, value: object) -> str | None:
    """What is wrong with a field that is True or False."""
    return None if isinstance(value, bool) else f"{name} is {shorten_repr(value)}: give True or False"


def find_axis_problem(name: str, values: Any, is_right: Callable[[Any], bool], words: str) -> str | None:
    """What is wrong with a field that lists values, each once. words: which values are right, for people.

    >>> find_axis_problem("rates", (0.1, -1), lambda rate: is_number(rate) and rate > 0, "numbers above 0")
    'rates has -1: give numbers above 0'
    """
    if not isinstance(values, (tuple, list)):
        return f"{name} is {shorten_repr(values)}: give a tuple of {words}"
    if len(values) > MOST_VALUES:
        return f"{name} has {len(values):,} values: give at most {MOST_VALUES:,}"
    if wrong := [value for value in values if not is_right(value)]:
        return f"{name} has {shorten_repr(wrong[0])}: give {words}"
    if len(set(values)) < len(values):
        return f"{name} has {shorten_repr(Counter(values).most_common(1)[0][0])} twice: give each value once"
    return None
