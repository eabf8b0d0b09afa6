"""What a task may ask of the times of frames: one rate for all layers, and how much an encoder is given at once.

Frames at a common rate. Frame k is of the time from k / rate to (k + 1) / rate: the mean of all frames of the layer whose
own time, j / own rate to (j + 1) / own rate, reaches into that. It is adaptive average pooling, as in
`torch.nn.functional.adaptive_avg_pool1d`, by the two rates instead of the two counts of frames, so that no frame moves with
the length of a sound. A layer that is slower than the rate gives its frames several times, and the mean of two where one of
them ends within a frame. A sound has as many frames as begin before its end and before the end of what the layer gives; the
last is the mean over what there is.

Windows in context. A sound longer than `context_s`, or than the encoder takes, goes through the encoder in windows of that
length, each half a window behind the one before; the last is moved back, so that it ends with the sound. Each frame is taken
from the window whose middle is nearest: all have a quarter of a window before and behind them, but at the ends of the sound.

Windows begin where a frame of the common rate begins, so that no frame has a part in two windows. Without a common rate they
begin at any sample, and a frame of a layer is up to half a frame off its time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from marble_bench.core.encoder import Encoder
from marble_bench.errors import BenchError, UsageError
from marble_bench.scoring.frame_targets import Frames

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TINY = 1e-6  # of a frame: what a quotient of rates may be off by rounding


@dataclass(frozen=True)
class Timing:
    """feature_rate_hz: frames a second of every layer; None for each layer's own. context_s: the longest window in seconds,
    of which the middle half is kept; None for pieces one after another."""

    feature_rate_hz: float | None = None
    context_s: float | None = None

    @classmethod
    def of(cls, target: object) -> Timing:
        """What a task's target declares; nothing where it is not of frames."""
        return cls(target.feature_rate_hz, target.context_s) if isinstance(target, Frames) else cls()

    @property
    def is_set(self) -> bool:
        """Whether anything is asked for."""
        return self.feature_rate_hz is not None or self.context_s is not None


def average_to_rate(frames: Any, from_hz: float, to_hz: float) -> Any:
    """`(windows, frames, width)` tensor at one rate -> the same at another, float32; see the module."""
    import torch

    count, many = frames.shape[1], from_hz / to_hz
    made = max(1, math.ceil(count / many - TINY))
    first = [min(math.floor(k * many + TINY), count - 1) for k in range(made)]
    stop = [min(math.ceil((k + 1) * many - TINY), count) for k in range(made)]
    sizes = torch.tensor(stop) - torch.tensor(first)
    at, size = torch.tensor(first, device=frames.device), sizes.to(frames.device)[:, None]
    total = frames[:, at].float()
    for step in range(1, int(sizes.max())):
        total += torch.where(step < size, frames[:, (at + step).clamp(max=count - 1)].float(), 0.0)
    return total / size


@dataclass(frozen=True)
class Part:
    """A window of a sound. begin, end: in samples. start: in steps of the grid; first, stop: the steps that are taken from
    it, `stop` None for all to the end."""

    begin: int
    end: int
    start: int
    first: int
    stop: int | None


@dataclass(frozen=True)
class Windows:
    """How sounds are cut into windows that begin on a grid: the frames of the common rate, else samples.

    length: samples of a window; None for no limit. overlap: whether each begins half a window behind the one before, else
    at its end. beyond: samples that are heard behind one that does not overlap. stretch, least: as in `frames.Cut`.
    """

    grid_hz: float
    sample_rate_hz: int
    length: int | None
    overlap: bool
    beyond: int
    stretch: int
    least: int

    @classmethod
    def of(cls, encoder: Encoder, piece_s: float | None, timing: Timing) -> Windows:
        """The windows of an encoder. piece_s: as for `frames.extract`. Raises UsageError if they are too short for it."""
        rate = encoder.sample_rate_hz
        grid_hz = timing.feature_rate_hz or float(rate)
        least = max(round(encoder.min_s * rate), 1)
        stretch = round(encoder.stretch_s * rate) if encoder.stretch_s else 1
        overlap = timing.context_s is not None
        beyond = 0 if overlap or stretch > 1 else least
        limits = [round(each * rate) for each in (piece_s, timing.context_s) if each is not None]
        if encoder.max_s is not None:
            longest = round(encoder.max_s * rate)
            limits.append(longest - beyond if longest > 2 * beyond else longest)
        if not limits:
            return cls(grid_hz, rate, None, False, 0, stretch, least)
        length = min(limits)
        if stretch > 1:
            length = length // stretch * stretch or length
        else:
            length = math.floor(math.floor(length * grid_hz / rate + TINY) * rate / grid_hz + TINY)
        if length < least:
            raise UsageError(
                f"{encoder.name} needs {encoder.min_s:g} s of audio at once, and the task gives {min(limits) / rate:g} s: "
                "choose another model, or raise the task's context_s"
            )
        return cls(grid_hz, rate, length, overlap, beyond, stretch, least)

    def cut(self, samples: int) -> list[Part]:
        """The windows of a sound of so many samples, in order; none if it is shorter than can be encoded."""
        if samples < self.least:
            return []
        starts = self._find_starts(samples)
        begins = [self._to_samples(start) for start in starts]
        heard = [self._find_heard_end(begin, samples) for begin in begins]
        if (rest := self._find_rest(heard[-1], samples)) is not None and rest > starts[-1]:
            starts, begins = [*starts, rest], [*begins, self._to_samples(rest)]
            heard.append(self._find_heard_end(begins[-1], samples))
        stops = [
            math.floor((start + self._to_steps(end)) / 2 + 0.5)  # the middle of what two windows share
            for start, end in zip(starts[1:], heard, strict=False)
        ]
        ends = [min(end + self.beyond, samples) for end in heard]
        return [Part(*each) for each in zip(begins, ends, starts, [0, *stops], [*stops, None], strict=True)]

    def count_encoded_s(self, length_s: float) -> float:
        """Seconds of all windows of a sound together."""
        parts = self.cut(round(length_s * self.sample_rate_hz))
        return sum(part.end - part.begin for part in parts) / self.sample_rate_hz

    def join(self, rows: Sequence[NDArray[np.float16]], rate_hz: float, samples: int) -> NDArray[np.float16]:
        """`(frames, width)` of a sound, from the rows that its windows gave at a rate.

        Raises BenchError if a window gave too few.
        """
        import numpy as np

        ratio = rate_hz / self.grid_hz
        taken = []
        for part, own in zip(self.cut(samples), rows, strict=True):
            first, start = round_half_up(part.first * ratio), round_half_up(part.start * ratio)
            stop = len(own) if part.stop is None else round_half_up(part.stop * ratio) - start
            if stop > len(own):
                length_s = (part.end - part.begin) / self.sample_rate_hz
                raise BenchError(
                    f"a window of {length_s:.3f} s gave {len(own)} frames, and {stop} were needed at {rate_hz:g} a second: "
                    "see that the encoder's frame_rate_hz, min_s and stretch_s are right (bench check)"
                )
            taken.append(own[first - start : stop])
        joined = np.concatenate(taken)
        return joined[: math.ceil(self._to_steps(samples) - TINY)] if ratio == 1 else joined

    def _find_starts(self, samples: int) -> list[int]:
        """Where windows begin, in steps."""
        if self.length is None or samples <= self.length:
            return [0]
        length = self._to_steps(self.length)
        if self.overlap:
            left = self._to_steps(samples) - length
            # of an encoder with stretches a window that lacks a sample of them would lose the last
            last = math.floor(left + TINY) if self.stretch > 1 else math.ceil(left - TINY)
            return [*range(0, last, max(1, math.floor(length / 2))), last]
        many = math.ceil(samples / self.length)
        starts = [math.floor(at * length + TINY) for at in range(many)]
        return [start for start in starts if samples - self._to_samples(start) >= self.least]

    def _find_heard_end(self, begin: int, samples: int) -> int:
        """The sample up to which a window is encoded, without what is heard behind it."""
        end = samples if self.length is None else min(begin + self.length, samples)
        return begin + ((end - begin) // self.stretch * self.stretch or end - begin)

    def _find_rest(self, heard: int, samples: int) -> int | None:
        """Where a window begins for what an encoder with stretches leaves over, in steps; None if that is too short."""
        if self.stretch == 1 or heard >= samples:
            return None
        start = math.floor(self._to_steps(heard) + TINY)
        return start if samples - self._to_samples(start) >= self.least else None

    def _to_samples(self, step: int) -> int:
        return round_half_up(step * self.sample_rate_hz / self.grid_hz)

    def _to_steps(self, samples: int) -> float:
        return samples * self.grid_hz / self.sample_rate_hz


def round_half_up(value: float) -> int:
    """The nearest whole number; of two, the larger, so that all windows are rounded one way."""
    return math.floor(value + 0.5)
