"""Which code stands for which version: `hashes.json` keeps the digests of every shipped plug-in's code, by version.

The first digest of a version is the one that keys hold, so that code that was only written differently moves no cache. A
record made with any digest of a version is valid under it; code under a shipped name that has another digest is unknown.

`python -m marble_bench.core.hashes` lists what is not entered, `--enter` enters it under the version that is declared:
only where the encoder's golden, or the miniature's scores and predictions, came out the same. Else raise the version.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from marble_bench.core.sources import Origin

Entered: TypeAlias = "dict[str, dict[str, dict[str, list[str]]]]"  # kind -> name -> version -> digests, the first first
FILE = "hashes.json"


@lru_cache(maxsize=1)
def entered() -> Entered:
    """What is entered."""
    found: Entered = json.loads((files("marble_bench.core") / FILE).read_text(encoding="utf-8"))
    return found


def _digests(kind: str, name: str, version: int) -> list[str]:
    return entered().get(kind, {}).get(name, {}).get(str(version), [])


def known(kind: str, name: str, version: int, digest: str) -> bool:
    """Whether a digest is entered for this version of a shipped plug-in."""
    return digest in _digests(kind, name, version)


def shipped_name(kind: str, name: str) -> bool:
    """Whether a plug-in of this name is, or was, shipped."""
    return name in entered().get(kind, {})


def first(kind: str, name: str, version: int) -> str | None:
    """The digest of a version that keys hold; None for a version that is not entered."""
    return next(iter(_digests(kind, name, version)), None)


def lacking(origins: Iterable[Origin]) -> list[Origin]:
    """Those whose digest is not entered under their version."""
    return [each for each in origins if not known(each.kind, each.name, each.version, each.digest)]


def with_entries(before: Entered, origins: Iterable[Origin]) -> Entered:
    """What was entered, and these behind it."""
    made: Entered = json.loads(json.dumps(before))
    for each in origins:
        digests = made.setdefault(each.kind, {}).setdefault(each.name, {}).setdefault(str(each.version), [])
        if each.digest not in digests:
            digests.append(each.digest)
    return made


def main(arguments: list[str]) -> int:
    """List what is not entered, exit code 1 if anything; `--enter` enters it, `--reset` begins the file anew."""
    from marble_bench.core.sources import all_shipped
    from marble_bench.files.atomic import write_whole

    if unknown := set(arguments) - {"--enter", "--reset"}:
        print(f"{' '.join(sorted(unknown))} is no option; there are --enter and --reset", file=sys.stderr)
        return 2
    origins = all_shipped()
    missing = origins if "--reset" in arguments else lacking(origins)
    for each in missing:
        print(f"{each.kind} {each.name} version {each.version}: {each.digest}")
    if not arguments:
        return 1 if missing else 0
    made = with_entries({} if "--reset" in arguments else entered(), missing)
    write_whole(
        Path(str(files("marble_bench.core") / FILE)), (json.dumps(made, indent=1, sort_keys=True) + "\n").encode()
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
