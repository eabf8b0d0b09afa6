"""What runs on frames share: which of an encoder's layers they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from marble_bench.core.encoder import Encoder
from marble_bench.core.protocol import Protocol
from marble_bench.errors import UsageError
from marble_bench.features.frames import Frames, check_framewise, framewise
from marble_bench.runs.inputs import Gathered


@dataclass(frozen=True)
class Layers:
    """Which of the encoder's layers a run reads, by index. single: those with probes of their own. summed: those of the
    weighted sum; none without one."""

    single: tuple[int, ...]
    summed: tuple[int, ...]

    @property
    def stored(self) -> list[int]:
        """All of them, in order: the layers of a run's `Frames`."""
        return sorted({*self.single, *self.summed})


def layers_of(encoder: Encoder, single: Sequence[int], with_sum: bool, everything: bool) -> Layers:
    """The layers of a run out of those asked for; with `everything`, those of them that have frames.

    Raises UsageError for a layer without frames, and for an encoder that has none.
    """
    able = framewise(encoder.layers)
    chosen = [index for index in single if index in able] if everything else list(single)
    summed = tuple(index for index in encoder.summable if index in able) if with_sum else ()
    if len(summed) < 2 or len({encoder.layers[index].frame_rate_hz for index in summed}) > 1:
        if with_sum and not everything:
            raise UsageError(f"--layers sum: {encoder.name} has no two layers with frames of one width and rate to sum")
        summed = ()
    if not summed or chosen:
        check_framewise(encoder, chosen)
    return Layers(tuple(chosen), summed)


def check_protocol(protocol: Protocol) -> None:
    """Raise UsageError for a protocol that has no probe for frames."""
    if not protocol.framewise:
        raise UsageError(f"protocol '{protocol.name}' has no probe that answers frame by frame; use --protocol marble")


def frames_of(data: Gathered) -> Frames:
    """The features of a run that has frames."""
    assert isinstance(data.features, Frames)
    return data.features
