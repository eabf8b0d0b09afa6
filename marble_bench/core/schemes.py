"""Models that no file declares: a prefix says where they come from, and its module makes an encoder of the rest of the name.

`SCHEMES` is the table. A scheme's module lies in `marble_bench/encoders/`, is imported when a name with its prefix is first
asked for, and has `find(place, offline) -> Encoder` for a name on a command line, where `place` is what follows the prefix.
What a record names is never a path and runs no code: a scheme that can make an encoder of that again, from a name and a
commit alone, also has `find_recorded(place, revision, offline) -> Encoder`.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marble_bench.errors import UsageError

if TYPE_CHECKING:
    from marble_bench.core.encoder import Encoder


@dataclass(frozen=True)
class Scheme:
    """One prefix. module: of `marble_bench.encoders`, without the package. forms: how its names are written, for help and
    errors."""

    prefix: str
    module: str
    forms: str

    def load(self) -> Any:
        """The module that makes its encoders."""
        return importlib.import_module(f"marble_bench.encoders.{self.module}")


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+", re.ASCII)  # `ORG/NAME`
SCHEMES = {
    each.prefix: each
    for each in (
        Scheme("hf", "hub_models", "hf:ORG/NAME, hf:ORG/NAME@REVISION or hf:FOLDER"),
        Scheme("hear", "hear", "hear:PACKAGE or hear:PACKAGE:WEIGHTS"),
    )
}


def scheme_of(name: str) -> Scheme | None:
    """The scheme of a model's name; None for a name without one of the prefixes.

    >>> scheme_of("hf:org/name").prefix, scheme_of("mert-95m")
    ('hf', None)
    """
    prefix, colon, _ = name.partition(":")
    return SCHEMES.get(prefix) if colon else None


def with_prefix(name: str) -> str:
    """A model's name, `hf:` before it where it is a hub id alone: two parts, not those of a file here, with its `.py` or
    without.

    >>> with_prefix("org/name"), with_prefix("org/name@v1"), with_prefix("mine/file.py"), with_prefix("mert-95m")
    ('hf:org/name', 'hf:org/name@v1', 'mine/file.py', 'mert-95m')
    """
    is_id = HUB_ID.fullmatch(name.partition("@")[0]) and not name.endswith(".py")
    if not is_id or len(name) > 200 or Path(name).is_file() or Path(f"{name}.py").is_file():
        return name  # one that long is no id, and may be too long for a file
    return f"hf:{name}"


def find(name: str, offline: bool = False) -> Encoder:
    """The encoder of a name with a prefix, from a command line. Raises UsageError or DataError with the reason."""
    scheme = scheme_of(name)
    assert scheme is not None
    found: Encoder = scheme.load().find(name.partition(":")[2], offline)
    return found


def find_recorded(name: str, revision: str, offline: bool = False) -> Encoder:
    """The encoder that a record names, at the commit that the record has. No path is opened.

    Raises UsageError where a record's name does not suffice.
    """
    scheme = scheme_of(name)
    make = getattr(scheme.load(), "find_recorded", None) if scheme else None
    if make is None:
        raise UsageError(f"no model '{name}' is registered, and a record's name opens nothing")
    found: Encoder = make(name.partition(":")[2], revision, offline)
    return found
