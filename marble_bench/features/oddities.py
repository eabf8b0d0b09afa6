"""What is odd about the sounds whose features are stored, kept beside them.

A run that finds all features stored reads no sound, and its record shall say what the first one's said. So what was odd is
noted in one file of the cache, a line for each span, before the features are written. It lists odd spans only.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from marble_bench.features.jobs import Cost, Shard
from marble_bench.features.store import Span


def _find_file(cache: Path) -> Path:
    return cache / "audio" / "oddities.jsonl"


def save_before(cache: Path, cost: Cost, write: Callable[[Shard], None]) -> Callable[[Shard], None]:
    """`write`, which first notes what `cost.odd` has of a shard's spans."""

    def both(shard: Shard) -> None:
        lines = [json.dumps([s.audio, s.segment, *cost.odd[s]]) + "\n" for s in shard.spans if s in cost.odd]
        if lines:
            path = _find_file(cache)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:  # whole lines at once, so that two processes may do it
                file.write("".join(["\n", *lines]))  # behind a line that a kill cut off, not on it
        write(shard)

    return both


def load(cache: Path, spans: Sequence[Span]) -> dict[Span, tuple[str, ...]]:
    """What was noted of some spans, now or by an earlier run; a line that is not whole is left out."""
    path, wanted = _find_file(cache), set(spans)
    found: dict[Span, tuple[str, ...]] = {}
    if not path.is_file():
        return found
    for line in path.read_text(errors="replace").splitlines():
        try:
            audio, segment, *odd = json.loads(line)
        except (ValueError, TypeError, RecursionError):
            continue  # cut by a kill while it was written; the features it belongs to were not written either
        if (span := Span(audio, segment)) in wanted:
            found[span] = tuple(odd)
    return found


def group_by_kind(odd: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, list[str]]:
    """Names of clips by what is odd about them. odd: each clip's name with that."""
    kinds: dict[str, list[str]] = {}
    for name, those in odd:
        for kind in those:
            kinds.setdefault(kind, []).append(name)
    return kinds
