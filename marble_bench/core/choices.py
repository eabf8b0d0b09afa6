"""The words of options that take one of a few: for the command line, for Python and for records."""

from __future__ import annotations

from enum import Enum


class Dtype(str, Enum):
    """The precision that encoders run in; features are stored in half precision."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Engine(str, Enum):
    """What reads and encodes: this machine, or a Ray cluster."""

    local = "local"
    ray = "ray"


class Control(str, Enum):
    """What a control does to the training labels."""

    shuffle = "shuffle"


def words_of(choices: type[Enum]) -> tuple[str, ...]:
    """The words of an option, the default first where it has one.

    >>> words_of(Engine)
    ('local', 'ray')
    """
    return tuple(str(each.value) for each in choices)
