"""The encoder contract: a frozen model, waveform in, every layer's frames out.

An encoder file declares facts and one function, `load`. The machinery decodes, resamples, normalises, cuts windows,
batches windows of equal length, pools and stores. An encoder sees no padding but under a protocol that pads windows; if it
declares `masks`, it is then told how many samples of each window are valid.

Conventions: waveforms are mono float32 in [-1, 1] at the encoder's own rate, `(windows, samples)`; a layer's frames are
`(windows, frames, width)`. Layers may differ in width and in frame rate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, get_args

from marble_bench.audio import Normalize
from marble_bench.core.declared import (
    BOOL,
    NUMBER,
    TEXT,
    WHOLE,
    Form,
    allow_choice,
    allow_function,
    allow_instance,
    allow_tuple,
    find_problems,
    shorten_repr,
)
from marble_bench.errors import UsageError
from marble_bench.files.names import RULE, is_name, is_text
from marble_bench.files.source import Source

if TYPE_CHECKING:
    import torch

# What an encoder does with each layer's frames `(windows, frames, width)` before it hands them on: the mean over time
# `(windows, width)` for pooled features, nothing for frame-wise ones. Handing it in lets a deep encoder pool inside its
# own layer hooks, so that the frames of all layers are never in memory together.
Pool: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
# `encode(waveforms (windows, samples) float32, pool)` -> one tensor per layer, in the declared order. An encoder that
# declares `masks` also takes `valid=`, see `encode_valid`.
Encode: TypeAlias = "Callable[..., Sequence[torch.Tensor]]"
NOT_STATED = "not stated"  # a licence, a citation or training data that the makers do not state


@dataclass(frozen=True)
class Layer:
    """One layer: its name, its width, and its frames per second (None: one vector per window)."""

    name: str
    width: int
    frame_rate_hz: float | None = None


LAYER_FORMS = {"name": TEXT, "width": WHOLE, "frame_rate_hz": NUMBER}
FORMS = {
    **dict.fromkeys(("name", "description", "license", "citation", "code", "made_from"), TEXT),
    **dict.fromkeys(("sample_rate_hz", "version"), WHOLE),
    **dict.fromkeys(("min_s", "max_s", "stretch_s", "gflop_per_s"), NUMBER),
    "layers": allow_tuple(allow_instance(Layer)),
    "load": allow_function("(weights, device) -> encode"),
    "convert": allow_function("(downloaded, safetensors_path)"),
    "weights": allow_instance(Source),
    "normalize": allow_choice(*get_args(Normalize)),
    "training_data": allow_tuple(TEXT),
    "parameters": Form(lambda value: type(value) is int, "a whole number"),  # which may be larger than others
    "masks": BOOL,
}


def stack(states: int, width: int, frame_rate_hz: float) -> tuple[Layer, ...]:
    """The layers of a transformer: `states` hidden states named by index, 0 being the input embedding.

    >>> [layer.name for layer in stack(3, 768, 75.0)]
    ['0', '1', '2']
    """
    return tuple(Layer(str(index), width, frame_rate_hz) for index in range(states))


def pick_layers(asked: str, names: Sequence[str]) -> tuple[list[int], bool]:
    """The layers that `--layers` asks for, and whether `sum` is among them; `asked` is not `all`.

    Names with commas, ranges `first-last` of names, and `last` for the last one; `concat` is no layer.
    Raises UsageError for one that is not there.

    >>> pick_layers("0-1,3,sum", ["0", "1", "2", "3"])
    ([0, 1, 3], True)
    """
    picked: set[int] = set()
    with_sum = False
    for part in asked.split(","):
        first, dash, last = part.partition("-")
        if part == "sum":
            with_sum = True
        elif part == "concat":
            continue
        elif part in names:
            picked.add(names.index(part))
        elif part == "last":
            picked.add(len(names) - 1)
        elif dash and first in names and last in names and names.index(first) <= names.index(last):
            picked.update(range(names.index(first), names.index(last) + 1))
        else:
            raise UsageError(
                f"--layers {asked}: no layer '{part}'; layers are {', '.join(names)}, or all, last, sum or concat"
            )
    return sorted(picked), with_sum


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """What is declared of an encoder. Names follow the published tables.

    load: `(weights, device) -> encode`; `weights` is a local safetensors file or None for an encoder without any.
        Imports torch and friends inside. The returned function must not change with batch size or order.
    weights: where the weights come from; None where nothing was trained.
    convert: `(downloaded, safetensors_path)`: the one-time conversion of what `weights` hands out, if it needs one.
    normalize: done by the machinery over the whole clip before windows are cut: `peak` divides by the largest
        magnitude, `zscore` subtracts the mean and divides by sqrt(variance + 1e-7).
    min_s: the shortest window that can be encoded, in seconds. max_s: the longest, None for no limit.
    gflop_per_s: thousand million multiplications and additions per second of audio, counted on a window of 10 s.
    masks: whether `encode(waveforms, pool, valid=None)` takes the number of valid samples of each window, `(windows,)`
        int64. What follows them is padding: no valid frame may depend on it, and only valid frames are handed to `pool`.
    version: raised whenever the same weights would give other features; part of every cache key and record.
    code: the source digest of the file that a user's encoder was loaded from and of the user's modules that it imports; of
        what an adapter made, the digest of the state that it holds. Set by the machinery, so that features are not taken
        for those of an earlier state of it.
    made_from: what an adapter made it of, as a record has it in `model.source`: `hear:PACKAGE==VERSION`, `live: CLASS`.
    stretch_s: what the model takes at once: a longer window is cut into stretches so long, one after another, and what
        remains is dropped. None where a window is encoded as a whole.
    training_data: names of what it was trained on, to mark a task whose corpus is among them.
    """

    name: str
    description: str
    sample_rate_hz: int
    layers: tuple[Layer, ...]
    load: Callable[[Path | None, str], Encode]
    license: str
    citation: str
    min_s: float
    max_s: float | None = None
    stretch_s: float | None = None
    masks: bool = False
    normalize: Normalize = "none"
    parameters: int = 0
    training_data: tuple[str, ...] = ()
    gflop_per_s: float | None = None
    weights: Source | None = None
    convert: Callable[[Path, Path], None] | None = None
    version: int = 1
    code: str = ""
    made_from: str = ""

    def __post_init__(self) -> None:
        if problems := find_problems(self, FORMS) or self._find_layer_problems() or self._find_problems():
            raise UsageError(f"encoder {shorten_repr(self.name)}: " + "; ".join(problems))

    def _find_layer_problems(self) -> list[str]:
        return [
            f"layer {shorten_repr(layer.name)}: {problem}"
            for layer in self.layers
            for problem in find_problems(layer, LAYER_FORMS)
        ]

    def _find_problems(self) -> list[str]:
        """What is wrong with values that are of the right kind."""
        problems = [
            f"{field} is empty" for field in ("name", "description", "license", "citation") if not getattr(self, field)
        ]
        if self.name and not is_name(self.name):
            problems.append(f"name {self.name!r} cannot be used in a record: give {RULE}")
        problems += [
            f"layer {layer.name!r}: give a name on one line, without control characters"
            for layer in self.layers
            if not is_text(layer.name)
        ]
        problems += [
            f"a layer is called '{name}', which means the {what} of layers: give another name"
            for name, what in (("sum", "weighted sum"), ("concat", "concatenation"))
            if any(layer.name == name for layer in self.layers)
        ]
        if not self.layers:
            problems.append("layers is empty")
        if len({layer.name for layer in self.layers}) != len(self.layers):
            problems.append("two layers share a name")
        problems += [
            f"layer '{layer.name}' has frame_rate_hz {layer.frame_rate_hz}: give frames per second, at most one per sample"
            for layer in self.layers
            if layer.frame_rate_hz is not None and not 0 < layer.frame_rate_hz <= self.sample_rate_hz
        ]
        if self.parameters < 0:
            problems.append(f"parameters is {self.parameters}: give a number from 0 on")
        if self.min_s <= 0:
            problems.append(f"min_s is {self.min_s}; state the shortest window in seconds")
        if self.max_s is not None and self.max_s < self.min_s:
            problems.append(
                f"max_s is {self.max_s} and min_s {self.min_s}: the longest window is not below the shortest"
            )
        return problems

    def compute_counted_s(self, length_s: float) -> float:
        """How much of a window of `length_s` seconds gives frames: all of it, or the stretches that fit into it."""
        if self.stretch_s is None or length_s < self.stretch_s:
            return length_s
        return length_s // self.stretch_s * self.stretch_s

    @property
    def summable(self) -> tuple[int, ...]:
        """Indices of the layers that a weighted sum can run over: all but the input embedding, if of one width.

        Empty when the widths differ or fewer than two layers remain.
        """
        inner = tuple(range(1, len(self.layers)))
        same = len({self.layers[index].width for index in inner}) == 1
        return inner if len(inner) > 1 and same else ()


def encode_valid(
    encoder: Encoder, encode: Encode, waveforms: torch.Tensor, pool: Pool, valid: torch.Tensor
) -> Sequence[torch.Tensor]:
    """What an encoder gives for padded windows `(windows, samples)`, of which only `valid` samples, `(windows,)`, count.

    Each window's valid frames alone are pooled, so what `pool` gives has to have one shape for every window. Raises
    UsageError for an encoder that takes no mask.
    """
    if not encoder.masks:
        raise UsageError(f"encoder '{encoder.name}' takes no mask: give it windows without padding")
    return encode(waveforms, pool, valid=valid)


def recheck(encoder: Encoder) -> None:
    """Raise UsageError if what an encoder was loaded from has changed since; only a live one, whose `load` has `recheck`,
    can tell."""
    if callable(again := getattr(encoder.load, "recheck", None)):
        again()


def check_callable(name: str, encode: object, masks: bool = False) -> Encode:
    """What `load` of encoder `name` returned, if it can be called, with a mask if it declares `masks`. Raises UsageError."""
    import inspect

    called = getattr(encode, "forward", encode)  # a module of PyTorch is called by what it calls forward
    if not callable(called):
        raise UsageError(f"{name}: load returned {type(encode).__name__}: return the function encode(waveforms, pool)")
    with suppress(ValueError):  # some functions of C have no signature; they are called and seen to
        try:
            inspect.signature(called).bind("waveforms", "pool", **({"valid": None} if masks else {}))
        except TypeError as error:
            if masks:
                raise UsageError(
                    f"{name}: it declares masks=True, and what load returned cannot be called as "
                    f"encode(waveforms, pool, valid=None) ({error}): add valid, or leave masks out"
                ) from error
            raise UsageError(
                f"{name}: load returned {type(encode).__name__}, which cannot be called as encode(waveforms, pool) "
                f"({error}): return a function that calls the model and hands each layer's frames to pool"
            ) from error
    found: Encode = encode  # type: ignore[assignment]
    return found


def check_layers(name: str, layers: Sequence[Layer], found: object) -> Sequence[torch.Tensor]:
    """What `encode` of encoder `name` returned, if it is a list or tuple of floating-point tensors, one for each layer.

    Raises UsageError that says what it is instead; shapes and values are for the caller to look at.
    """
    import torch

    if not isinstance(found, (list, tuple)):
        raise UsageError(
            f"{name}: encode returned {type(found).__name__}: return a list of tensors, one for each layer, "
            "as [pool(frames)] if it has one"
        )
    if len(found) != len(layers):
        raise UsageError(
            f"{name} gives {len(found)} layers and declares {len(layers)}: "
            f"return one tensor for each of {', '.join(layer.name for layer in layers)}"
        )
    for layer, value in zip(layers, found, strict=True):
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"{name}: layer '{layer.name}' is of type {type(value).__name__}: return torch tensors (torch.from_numpy)"
            )
        if not value.is_floating_point():
            raise UsageError(f"{name}: layer '{layer.name}' holds {value.dtype}: return real floating-point values")
    return found
