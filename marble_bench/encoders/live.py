"""Encoders of what lives in Python: a torch module or callable, or a function of one waveform.

Such an encoder is known by its name, its version and the digest of the state that it holds: of a module its state dict. The
digest is computed when the adapter is called, again at every load, and again before features are kept. A module that was
trained meanwhile is another encoder and is refused: call the adapter again. Code is in no key; what the encoder gives for
two fixed signals is compared at every run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from marble_bench import Encode, Encoder, Normalize, Pool
from marble_bench.core import contract, plugins
from marble_bench.core.encoder import NOT_STATED
from marble_bench.core.keys import digest
from marble_bench.core.torch_state import default_torch
from marble_bench.encoders._held import digest_each, find_held, pick_modules
from marble_bench.encoders._trial import find_layers
from marble_bench.errors import UsageError, format_error, listing, suggest_name

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

_EVALUATING = RLock()
Outputs = dict[str, Any]  # layer -> `(windows, frames, width)` or `(windows, width)`
Forward = Callable[[Any, Pool], Outputs]  # `(windows, samples)` -> each layer, pooled


class Declared(TypedDict, total=False):
    """What may be declared of an encoder that an adapter makes; what is left out is found, or has the value in brackets.

    min_s, max_s: the shortest and the longest window that it takes, in seconds (1, no limit). It is tried on noise of
        `min_s` and of twice that. A module that loses many frames at the edges of a second gets a longer `min_s`.
    frame_rate_hz: frames per second of the layers that have frames; else found by trials, of some twenty windows more.
    normalize: what is done to a clip before windows are cut: `peak` or `zscore` (`none`).
    version: raised when the same weights give other features (1).
    description, license, citation, training_data: as of `Encoder`; the record has the licence and the training data.
    """

    min_s: float
    max_s: float | None
    frame_rate_hz: float | None
    normalize: Normalize
    version: int
    description: str
    license: str
    citation: str
    training_data: Sequence[str]


def from_torch(
    module: Any, *, name: str, sample_rate_hz: int, layers: Sequence[str] = (), **declared: Unpack[Declared]
) -> Encoder:
    """An encoder of a live torch module, or of a callable around one.

    module: called with `(windows, samples)` float32 in [-1, 1] at `sample_rate_hz`. It returns `(windows, frames, width)`,
        `(windows, width)`, or a list, tuple or dict of these, one for each layer; of an output of transformers the
        `hidden_states` are taken, else the `last_hidden_state`. It runs in evaluation mode, on the device where it lies.
    name: of the encoder in records; none of the suite's.
    layers: names of submodules, as `module.named_modules()` has them, whose outputs are the layers instead.
    declared: see `Declared`.

    Raises UsageError for what cannot be an encoder, with what it returned.

    >>> import torch
    >>> convolution = torch.nn.Conv1d(1, 8, 400, stride=160)
    >>> encoder = from_torch(lambda x: convolution(x[:, None]).transpose(1, 2), name="mine", sample_rate_hz=16000)
    >>> encoder.layers
    (Layer(name='output', width=8, frame_rate_hz=100.0),)
    """
    import torch

    if isinstance(module, type):
        raise UsageError(
            f"from_torch takes a module, and {module.__name__} is a class: make one, {module.__name__}(...)"
        )
    if not callable(module):
        raise UsageError(f"from_torch takes a torch module or a callable, not {type(module).__name__}")
    if isinstance(layers, str):
        raise UsageError(f"layers is the text '{layers}': give a list of names, ['{layers}']")
    if layers and not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"layers= names submodules, and {type(module).__name__} is no torch.nn.Module: return them instead"
        )
    forward = partial(_forward_hooked, module, tuple(layers)) if layers else partial(_forward, module)
    return _make(name, sample_rate_hz, module, forward, type(module).__name__, declared)


def from_function(
    function: Callable[[Any], Any],
    *,
    name: str,
    sample_rate_hz: int,
    layers: Sequence[str] = (),
    takes: Literal["numpy", "torch"] = "numpy",
    **declared: Unpack[Declared],
) -> Encoder:
    """An encoder of a function that takes one waveform at a time, whatever library it computes with.

    function: called with `(samples,)` float32 in [-1, 1] at `sample_rate_hz`, a numpy array, or a tensor where `takes` says
        `torch`. It returns `(layers, frames, width)`, an array or a tensor, or a list, tuple or dict of `(frames, width)`.
    layers: names of the layers, in order; else their keys or numbers.
    name, declared: as for `from_torch`, with the same errors.

    >>> import numpy as np
    >>> def loudness(waveform):
    ...     frames = waveform[: len(waveform) // 400 * 400].reshape(1, -1, 400)
    ...     return np.stack([np.abs(frames).mean(axis=-1), frames.std(axis=-1)], axis=-1)
    >>> from_function(loudness, name="my-loudness", sample_rate_hz=8000).layers
    (Layer(name='0', width=2, frame_rate_hz=20.0),)
    """
    if not callable(function):
        raise UsageError(f"from_function takes a function of one waveform, not {type(function).__name__}")
    if takes not in ("numpy", "torch"):
        raise UsageError(f"takes={takes!r}: give 'numpy' or 'torch'")
    forward, title = partial(_forward_each, function, tuple(layers), takes), type(function).__name__
    return _make(name, sample_rate_hz, function, forward, getattr(function, "__name__", title), declared)


def find_live_device(encoder: Encoder) -> str:
    """The device on which the module of an adapter's encoder lies; empty for an encoder that is loaded wherever a run is."""
    return encoder.load.device if isinstance(encoder.load, Live) else ""


@dataclass(frozen=True)
class Live:
    """The `load` of a live encoder. thing: what is called. state: what it held when the encoder was made, as names and
    digests. device: where it lies.
    """

    name: str
    thing: Any
    forward: Forward
    state: tuple[tuple[str, str], ...]
    device: str

    def __call__(self, weights: Path | None, device: str) -> Encode:
        """Its `encode`. Raises UsageError if its state has changed since, or if it lies on another device."""
        if not _same_device(self.device, device):
            raise UsageError(
                f"{self.name} lies on {self.device}, and this run is on {device}: move it there before the adapter is "
                f"called, or give device='{self.device}'"
            )
        self.recheck()
        return partial(_encode, partial(_run, self.forward, pick_modules(find_held(self.thing)), self.device))

    def find_changed(self) -> list[str]:
        """The names of what it holds that is not what it was when the encoder was made."""
        before, now = dict(self.state), digest_each(find_held(self.thing))
        return [name for name in {**before, **now} if before.get(name) != now.get(name)]

    def recheck(self) -> None:
        """Raise UsageError naming what has changed, if its state has since the encoder was made."""
        if changed := self.find_changed():
            others = f" and {len(changed) - 1} more" if changed[1:] else ""
            raise UsageError(
                f"{self.name}: its weights have changed since its encoder was made ({changed[0]}{others}): create "
                "the encoder again, for example with mb.from_torch, so that stored features of the old weights are not used "
                "for the new ones"
            )


def _same_device(own: str, other: str) -> bool:
    return _numbered(own) == _numbered(other)


def _numbered(device: str) -> str:
    """A device with its number: of `cuda` alone that of CUDA's current GPU."""
    import torch

    if ":" in device:
        return device
    return f"{device}:{torch.cuda.current_device() if device == 'cuda' and torch.cuda.is_available() else 0}"


def _encode(run: Callable[[Any, Pool], Outputs], waveforms: torch.Tensor, pool: Pool) -> Sequence[torch.Tensor]:
    return list(run(waveforms, pool).values())


def _run(
    forward: Forward, modules: Sequence[torch.nn.Module], device: str, waveforms: torch.Tensor, pool: Pool
) -> Outputs:
    """Each layer of some waveforms, pooled, by name."""
    with evaluating(modules):
        return forward(waveforms.to(device), pool)


@contextmanager
def evaluating(modules: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Hold modules in evaluation mode, and put every part of them back into the mode that it had.

    One thread at a time: another one, whose modules may share parts with these, would put them back while this one computes.
    """
    with _EVALUATING:
        before = [(part, part.training) for module in modules for part in module.modules()]
        try:
            for module in modules:
                module.eval()
            yield
        finally:
            for part, training in before:
                part.training = training


def _forward(module: Callable[[Any], Any], waveforms: torch.Tensor, pool: Pool) -> Outputs:
    return {name: pool(_frames(name, each)) for name, each in _named(module(waveforms)).items()}


def _forward_hooked(module: torch.nn.Module, names: Sequence[str], waveforms: torch.Tensor, pool: Pool) -> Outputs:
    """What submodules give while the module runs, each pooled at once, so that no two layers' frames are in memory."""
    found: Outputs = {}

    def keep(name: str, _: Any, __: Any, output: Any) -> None:
        if name in found:
            raise UsageError(f"layer '{name}' is called several times in one forward pass: return its outputs yourself")
        found[name] = pool(_frames(name, _first_of(name, output)))

    with ExitStack() as hooks:
        for name in names:
            part = _submodule(module, name)
            hooks.callback(part.register_forward_hook(partial(keep, name)).remove)
        module(waveforms)
    if absent := [name for name in names if name not in found]:
        raise UsageError(f"layers {listing(absent)} are not called when the module runs")
    return {name: found[name] for name in names}


def _first_of(name: str, output: Any) -> torch.Tensor:
    """What a submodule gives first, as recurrent and attention layers do beside states and weights; of a mapping its
    `last_hidden_state` if it has one."""
    if isinstance(output, Mapping):
        named = output.get("last_hidden_state")
        output = list(output.values()) if named is None else named
    if isinstance(output, list | tuple) and output:
        return _first_of(name, output[0])
    return _tensor(name, output)


def _submodule(module: torch.nn.Module, name: str) -> torch.nn.Module:
    known = [each for each, _ in module.named_modules() if each]
    if name not in known:
        raise UsageError(f"no layer '{name}'{suggest_name(str(name), known) or f'; there are {listing(known)}'}")
    return module.get_submodule(name)


def _forward_each(
    function: Callable[[Any], Any], names: Sequence[str], takes: str, waveforms: torch.Tensor, pool: Pool
) -> Outputs:
    """What a function gives for one window after another, `(frames, width)` of each layer, stacked and pooled."""
    import torch

    windows: list[dict[str, Any]] = []
    for wave in waveforms:
        layers = _named(function(wave.cpu().numpy() if takes == "numpy" else wave), axis_of_layers=True)
        if names and len(names) != len(layers):
            raise UsageError(f"layers= has {len(names)} names, and the function returned {len(layers)} layers")
        copies = [each.clone() for each in layers.values()]  # of what a function may fill anew for the next window
        windows.append(dict(zip(names or layers, copies, strict=True)))
    return {
        name: pool(torch.stack([_frames_of_one(name, each[name]) for each in windows]).to(waveforms.device))
        for name in windows[0]
    }


def _frames_of_one(name: str, value: torch.Tensor) -> torch.Tensor:
    if value.ndim != 2:
        raise UsageError(
            f"layer '{name}' of one waveform is {tuple(value.shape)}: return (frames, width) for each layer"
        )
    return value


def _named(output: Any, axis_of_layers: bool = False) -> Outputs:
    """The layers of an output by name. axis_of_layers: the first axis of an array is that of layers.

    Raises UsageError for what holds no arrays.
    """
    if isinstance(output, Mapping) and output.get("hidden_states") is not None:
        output = output["hidden_states"]
    elif isinstance(output, Mapping) and output.get("last_hidden_state") is not None:
        output = {"last_hidden_state": output["last_hidden_state"]}
    if axis_of_layers and hasattr(output, "ndim"):
        if output.ndim != 3:
            raise UsageError(f"an output of the shape {tuple(output.shape)}: return (layers, frames, width)")
        output = list(output)
    if isinstance(output, Mapping):
        named = {str(name): each for name, each in output.items()}
    elif isinstance(output, list | tuple):
        named = {str(place): each for place, each in enumerate(output)}
    else:
        named = {"output": output}
    if not named:
        raise UsageError("an output without any layer")
    return {name: _tensor(name, each) for name, each in named.items()}


def _tensor(name: str, value: Any) -> torch.Tensor:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, np.ndarray) or hasattr(value, "__array__"):
        return torch.from_numpy(np.ascontiguousarray(value))
    raise UsageError(f"layer '{name}' is of type {type(value).__name__}: return tensors or arrays, one for each layer")


def _frames(name: str, value: torch.Tensor) -> torch.Tensor:
    """`(windows, frames, width)`; one vector a window is one frame."""
    if value.ndim not in (2, 3):
        raise UsageError(
            f"layer '{name}' is {tuple(value.shape)}: return (windows, frames, width) or (windows, width) for each layer, "
            "and several layers as a list"
        )
    return value[:, None] if value.ndim == 2 else value


@default_torch()
def _make(name: str, sample_rate_hz: int, thing: Any, forward: Forward, title: str, declared: Declared) -> Encoder:
    """The encoder of `thing`, its layers found on noise. title: what it is called. Raises UsageError with what is wrong."""
    facts, rate = complete_facts(name, title, declared)
    held = find_held(thing)
    modules, device = pick_modules(held), _device_of(held)
    run = partial(_run, forward, modules, device)
    live = Live(name, thing, forward, tuple(digest_each(held).items()), device)
    trial = partial(_try, name, run)
    layers, shortest_s = find_layers(name, trial, sample_rate_hz, facts["min_s"], facts.get("max_s"), rate)
    if "min_s" not in declared:
        facts["min_s"] = shortest_s
    encoder = Encoder(
        name=name,
        sample_rate_hz=sample_rate_hz,
        layers=layers,
        load=live,
        parameters=sum(each.numel() for module in modules for each in module.parameters()),
        code=digest({"live": dict(live.state)}),
        made_from=f"live: {title}",
        **facts,
    )
    contract.require(encoder, partial(_encode, run), device)
    if changed := live.find_changed():
        raise UsageError(
            f"{name}: {listing(changed)} changes when it runs, and what it holds is its identity: make a table or a counter "
            "of a module a buffer with persistent=False, and an array anew in each call"
        )
    return encoder


def complete_facts(
    name: str, title: str, declared: Declared, made_from: str = ""
) -> tuple[dict[str, Any], float | None]:
    """What is declared of an encoder, with defaults for what `Encoder` asks for, and its frame rate where that is declared.

    title: what it is called. made_from: as of `Encoder`. Raises UsageError for a name that is taken, and for
    what cannot be declared.
    """
    plugins.check_own_name(name, made_from)
    for each in declared:
        if each not in Declared.__annotations__:
            hint = suggest_name(each, Declared.__annotations__) or f"; there are {', '.join(Declared.__annotations__)}"
            raise UsageError(f"'{name}': nothing called {each} can be declared{hint}")
    facts: dict[str, Any] = {
        "min_s": 1.0,
        "description": title,
        "license": NOT_STATED,
        "citation": NOT_STATED,
        **declared,
    }
    facts["training_data"] = tuple(declared.get("training_data", ()))
    return facts, facts.pop("frame_rate_hz", None)


def _device_of(held: Mapping[str, Any]) -> str:
    """Where the first parameter that is held lies; the CPU where there is none."""
    first = next((each for module in pick_modules(held) for each in module.parameters()), None)
    return "cpu" if first is None else str(first.device)


def _try(name: str, run: Callable[[Any, Pool], Outputs], noise: torch.Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes of all layers on noise. Raises UsageError with what the user's code raised."""
    import torch

    try:
        with torch.inference_mode():
            return {layer: tuple(each.shape) for layer, each in run(noise, lambda frames: frames).items()}
    except UsageError as error:
        raise UsageError(f"{name}: {format_error(error)}") from error
    except Exception as error:  # of whatever kind the user's code raises
        text = format_error(error)
        hint = (
            "lambda x: module(x[:, None]) adds a channel" if "channel" in text else "a longer shortest window is min_s="
        )
        raise UsageError(
            f"{name} raised {type(error).__name__} on noise of the shape {tuple(noise.shape)}, {noise.dtype}: "
            f"{text} ({hint})"
        ) from error
