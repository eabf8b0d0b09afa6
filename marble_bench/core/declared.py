"""What the values may be that a plug-in's file declares: looked at before any work, told by the field's name.

Each function gives the words of what is wrong, or None. A value is anything that a file may hold, so nothing is taken for
granted of it, and what is shown of it is cut.
"""

from __future__ import annotations

import inspect
import re
import reprlib
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
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


@dataclass(frozen=True)
class Form:
    """What the value of a field may be. words: the right values, for people."""

    is_right: Callable[[Any], bool]
    words: str


TEXT = Form(lambda value: isinstance(value, str), "a text")
WHOLE = Form(lambda value: is_whole(value, 1), "a whole number from 1 on")
COUNT = Form(lambda value: is_whole(value, 0), "a whole number from 0 on")
NUMBER = Form(is_number, "a number")
BOOL = Form(lambda value: isinstance(value, bool), "True or False")


def allow_instance(kind: type[Any]) -> Form:
    """The form of a field that is an object of a class."""
    return Form(lambda value: isinstance(value, kind), f"a {kind.__name__}(...)")


def allow_choice(*values: str) -> Form:
    """The form of a field that is one of a few words."""
    return Form(lambda value: isinstance(value, str) and value in values, f"one of {', '.join(map(repr, values))}")


def allow_tuple(one: Form) -> Form:
    """The form of a field that lists values of one form; a list will do."""
    return Form(
        lambda value: isinstance(value, (tuple, list)) and all(map(one.is_right, value)),
        f"a tuple, (X,) or (X, Y), of which each is {one.words}",
    )


def allow_function(form: str) -> Form:
    """The form of a function that is called with so many values, one after another. form: such as `(root) -> clips`."""
    given = re.findall(r"\w+", form.partition("->")[0])
    return Form(lambda value: callable(value) and _takes(value, given), f"a function {form}")


def _takes(function: Callable[..., Any], given: list[str]) -> bool:
    try:
        inspect.signature(function).bind(*given)
    except TypeError:
        return False
    except ValueError:  # some functions of C have no signature
        pass
    return True


def find_problems(declared: Any, forms: Mapping[str, Form]) -> list[str]:
    """What is wrong with the fields of a declaration. None is right where a field has it by default.

    >>> @dataclass(frozen=True)
    ... class Plug:
    ...     rate_hz: int
    ...     load: object = None
    >>> find_problems(Plug("16k", lambda: 1), {"rate_hz": WHOLE, "load": allow_function("(path) -> model")})
    ["rate_hz is '16k': give a whole number from 1 on", 'load is <lambda>(): give a function (path) -> model']
    """
    wrong = [(name, form) for name, form in forms.items() if not form.is_right(getattr(declared, name))]
    optional = {field.name for field in fields(declared) if field.default is None} if wrong else set()
    return [
        f"{name} is {_describe(getattr(declared, name))}: give {form.words}"
        for name, form in wrong
        if not (name in optional and getattr(declared, name) is None)
    ]


def _describe(value: Any) -> str:
    """A value for an error; of a function what it is called with."""
    if callable(value) and not isinstance(value, type):
        with suppress(Exception):  # a callable without a name or a signature is shown as any other value
            return f"{value.__name__}({', '.join(inspect.signature(value).parameters)})"
    return shorten_repr(value)
