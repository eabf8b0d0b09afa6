"""Whether what is annotated along a clip lies within its audio."""

from __future__ import annotations

from dataclasses import replace

from marble_bench.core.task import Clip
from marble_bench.scoring.frame_targets import Frames


def clip_annotation(target: Frames, clip: Clip, length_s: float) -> tuple[Clip, int]:
    """A clip with what is annotated within its audio, and how many moments or labelled frames are not.

    Raises DataError as `Frames.within`.
    """
    target_within, beyond = target.within(clip.target, clip.id, length_s)
    return replace(clip, target=target_within), beyond
