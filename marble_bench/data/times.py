"""Whether annotated times lie within their audio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from marble_bench.core.task import Clip
from marble_bench.errors import DataError

Kinds: TypeAlias = tuple[tuple[float, ...] | None, ...]
BEYOND_S = 2.0  # with events so far behind the end of the audio, an annotation is of something else


def within(target: Sequence[Sequence[float] | None], clip: str, length_s: float) -> tuple[Kinds, int]:
    """The events of each kind that lie within a clip's audio, and how many do not. None stays: that kind is not annotated.

    Raises DataError if events lie so far behind the end that they are of something else, or if fewer than two of the
    main kind are left.
    """
    last = max((times[-1] for times in target if times), default=0.0)
    if last > length_s + BEYOND_S:
        hint = "; or its times are milliseconds" if last / 1000 <= length_s + BEYOND_S and last > 10 * length_s else ""
        raise DataError(
            f"clip '{clip}' lasts {length_s:.2f} s and is annotated up to {last:.2f} s: "
            f"its annotation is of other audio, or its audio was cut; get both again{hint}"
        )
    kept = tuple(None if times is None else tuple(t for t in times if t < length_s) for times in target)
    beyond = sum(len(t) for t in target if t) - sum(len(t) for t in kept if t)
    if len(kept[0] or ()) < 2:
        raise DataError(f"clip '{clip}' has fewer than two events within its {length_s:.2f} s of audio")
    return kept, beyond


def within_clip(clip: Clip, length_s: float) -> tuple[Clip, int]:
    """A clip with the events that lie within its audio, and how many do not; see `within`."""
    kept, beyond = within(clip.target, clip.id, length_s)
    return (replace(clip, target=kept), beyond) if beyond else (clip, 0)
