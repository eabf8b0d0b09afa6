"""Which code belongs to which version: `hashes.json` keeps the digests of every shipped plug-in's code, by version.

The first digest of a version is the one that keys hold, so that code that was only written differently moves no cache. A
record made with any digest of a version is valid under it; code under a shipped name that has another digest is unknown.
`python -m marble_bench.core.shipped` enters digests.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import TypeAlias

Entered: TypeAlias = "dict[str, dict[str, dict[str, list[str]]]]"  # kind -> name -> version -> digests, the first first
FILE = "hashes.json"


@lru_cache(maxsize=1)
def load_digests() -> Entered:
    """The digests that are entered."""
    found: Entered = json.loads((files("marble_bench.core") / FILE).read_text(encoding="utf-8"))
    return found


def _read_digests(kind: str, name: str, version: int) -> list[str]:
    return load_digests().get(kind, {}).get(name, {}).get(str(version), [])


def is_known(kind: str, name: str, version: int, digest: str) -> bool:
    """Whether a digest is entered for this version of a shipped plug-in."""
    return digest in _read_digests(kind, name, version)


def is_shipped_name(kind: str, name: str) -> bool:
    """Whether a plug-in of this name is, or was, shipped."""
    return name in load_digests().get(kind, {})


def find_first(kind: str, name: str, version: int) -> str | None:
    """The digest of a version that keys hold; None for a version that is not entered."""
    return next(iter(_read_digests(kind, name, version)), None)
