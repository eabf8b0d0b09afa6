"""Any package with the API of HEAR (Holistic Evaluation of Audio Representations, NeurIPS 2021): `hear:PACKAGE[:WEIGHTS]`.

The API (hearbenchmark.com/hear-api.html) has three functions. `load_model(path)` returns a model with `sample_rate`,
`scene_embedding_size` and `timestamp_embedding_size`. `get_scene_embeddings(audio, model)` returns `(sounds, size)`.
`get_timestamp_embeddings(audio, model)` returns `(sounds, timestamps, size)`, and the times `(sounds, timestamps)` in
milliseconds. Audio is `(sounds, samples)`, mono at the model's rate, in [-1, 1].

They become two layers, `scene` and `timestamp`. Times become a frame rate: that of the first vector is taken as 0.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from marble_bench import Encode, Encoder, Layer, Pool, audio
from marble_bench.core import contract
from marble_bench.core.keys import digest
from marble_bench.core.torch_state import default_torch
from marble_bench.core.user_files import digest_user_file, find_helpers
from marble_bench.encoders.live import Declared, complete_facts, evaluating
from marble_bench.errors import DataError, UsageError, format_error

if TYPE_CHECKING:
    import torch
    from typing_extensions import Unpack

SCENE, TIMESTAMP = "get_scene_embeddings", "get_timestamp_embeddings"
FORM = "hear:PACKAGE or hear:PACKAGE:WEIGHTS"
UNEVEN_MS = 1.0  # of distances between timestamps, which are rounded by some


def find(place: str, offline: bool) -> Encoder:
    """The encoder of `PACKAGE` or `PACKAGE:WEIGHTS`, from a command line."""
    package, colon, weights = place.partition(":")
    if colon and not weights:
        raise UsageError(f"hear:{place}: no weights after the last colon; write {FORM}")
    path = Path(weights).expanduser() if weights else None
    if path is not None and not path.is_file():
        raise DataError(f"hear:{package}: no weights file {path}")
    module = _import(package)
    key = module, path, _identity(module, path)
    if not _FOUND or _FOUND[0][0] != key:
        _FOUND[:] = [(key, from_hear(module, weights=path))]
    return _FOUND[0][1]


_FOUND: list[
    tuple[tuple[ModuleType, Path | None, tuple[str, str]], Encoder]
] = []  # the last by a name; it holds no model


@default_torch()
def from_hear(
    package: str | ModuleType, *, weights: str | Path | None = None, name: str = "", **declared: Unpack[Declared]
) -> Encoder:
    """An encoder of a package, or an imported module, that has the API of HEAR. It is loaded once, to ask what it gives.

    weights: what `load_model` is called with; None for its own default. name: in records; else `hear:PACKAGE`. declared: see
    `marble_bench.encoders.live.Declared`.

    Package and version identify it, and the digest of `weights` where a file is given. What it gives for two fixed signals
    is compared at every run besides. Raises UsageError for a package that is not installed or lacks the API, DataError for
    weights that are not there.
    """
    module = package if isinstance(package, ModuleType) else _import(package)
    title = module.__name__
    path = None if weights is None else Path(weights).expanduser()
    if path is not None and not path.is_file():
        raise DataError(f"hear:{title}: no weights file {path}")
    if not hasattr(module, "load_model") or not (hasattr(module, SCENE) or hasattr(module, TIMESTAMP)):
        raise UsageError(f"hear:{title} has not the API of HEAR: it needs load_model, and {SCENE} or {TIMESTAMP}")
    facts, frame_rate_hz = complete_facts(
        name or f"hear:{title}", f"{title} through the API of HEAR", declared, f"hear:{title}"
    )
    model = _load_model(module, path, "cpu")
    rate = _attribute(title, model, "sample_rate")
    made_from, code = _identity(module, path)
    return Encoder(
        name=name or f"hear:{title}",
        sample_rate_hz=rate,
        layers=_find_layers(module, model, rate, facts["min_s"], frame_rate_hz),
        load=partial(_load, module, path),
        parameters=sum(each.numel() for each in model.parameters()),
        code=code,
        made_from=made_from,
        **facts,
    )


def _import(package: str) -> ModuleType:
    if not isinstance(package, str) or not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", package, re.ASCII):
        raise UsageError(f"hear:{package} names no package: write {FORM}")
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name and package.startswith(error.name):
            raise UsageError(f"hear:{package}: no package '{error.name}' is installed here (pip install it)") from error
        raise UsageError(f"hear:{package} cannot be imported: {format_error(error)}") from error
    except Exception as error:  # of whatever kind its code raises
        raise UsageError(f"hear:{package} cannot be imported: {type(error).__name__}: {format_error(error)}") from error


def _load_model(module: ModuleType, path: Path | None, device: str) -> torch.nn.Module:
    """The model in evaluation mode on a device. Raises UsageError for one of another framework than PyTorch."""
    import torch

    try:
        model = module.load_model() if path is None else module.load_model(str(path))
    except Exception as error:  # of whatever kind its code raises
        given = "without weights" if path is None else f"with {path}"
        raise UsageError(
            f"hear:{module.__name__}: load_model {given} raised {type(error).__name__}: {format_error(error)}"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise UsageError(
            f"hear:{module.__name__}: the model is a {type(model).__name__}, and only torch modules are read"
        )
    return model.to(device).eval()


def _attribute(title: str, model: torch.nn.Module, name: str) -> int:
    value = getattr(model, name, None)
    if not isinstance(value, int) or value < 1:
        raise UsageError(f"hear:{title}: the model's {name} is {value!r}; the API of HEAR asks for a whole number")
    return value


def _identity(module: ModuleType, path: Path | None) -> tuple[str, str]:
    """What a record says that the encoder was made of, and the digest that keys hold.

    Of a package that pip installed its version; of a module that lies on the path, the digest of its file as well, and of
    the modules that this imports from outside installed packages.
    """
    title = module.__name__
    top = title.partition(".")[0]
    known = sorted({f"{each}=={metadata.version(each)}" for each in metadata.packages_distributions().get(top, ())})
    facts: dict[str, Any] = {"hear": title, "versions": known}
    if not known:
        file = getattr(module, "__file__", None)
        inner = [name for name in sys.modules if name.startswith(f"{top}.")]
        place = Path(file or "").resolve()
        facts["file"] = digest_user_file(place, find_helpers(place, inner, title)) if file else ""
    if path is not None:
        facts["weights"] = audio.digest(path)
    version = "" if not known else f"=={known[0].partition('==')[2]}"
    return f"hear:{title}{version}" + (f" {path.name}" if path else ""), digest(facts)


def _find_layers(
    module: ModuleType, model: torch.nn.Module, rate: int, min_s: float, frame_rate_hz: float | None
) -> tuple[Layer, ...]:
    """The layers by what two windows of noise of `min_s` seconds give. Raises UsageError for other sizes than declared."""
    import torch

    title, samples = module.__name__, round(min_s * rate)
    noise = contract.make_noise(2, samples)
    try:
        with torch.inference_mode(), evaluating([model]):
            scene = getattr(module, SCENE)(noise, model) if hasattr(module, SCENE) else None
            framed = getattr(module, TIMESTAMP)(noise, model) if hasattr(module, TIMESTAMP) else None
    except Exception as error:  # of whatever kind its code raises
        raise UsageError(
            f"hear:{title} raised {type(error).__name__} on noise of {min_s:g} s: {format_error(error)} (a longer shortest "
            "window is min_s=)"
        ) from error
    layers = []
    if scene is not None:
        size = _attribute(title, model, "scene_embedding_size")
        _check_shape(title, SCENE, scene, (2, size))
        layers.append(Layer("scene", size))
    if framed is not None:
        frames, times = framed
        size = _attribute(title, model, "timestamp_embedding_size")
        _check_shape(title, TIMESTAMP, frames, (2, None, size))
        frame_rate_hz = frame_rate_hz or _frame_rate(title, times[0].float().cpu().tolist())
        layers.append(Layer("timestamp", size, frame_rate_hz))
    return tuple(layers)


def _check_shape(title: str, function: str, found: Any, declared: tuple[int | None, ...]) -> None:
    shape = tuple(getattr(found, "shape", ()))
    if len(shape) != len(declared) or any(own not in (None, each) for own, each in zip(declared, shape, strict=True)):
        asked = str(declared).replace("None", "timestamps")
        raise UsageError(
            f"hear:{title}: {function} returned {shape or type(found).__name__} for two sounds, not {asked}"
        )


def _frame_rate(title: str, times_ms: Sequence[float]) -> float | None:
    """Frames per second of timestamps; None for a single one. Raises UsageError where their distances differ."""
    if len(times_ms) < 2:
        return None
    steps = [later - earlier for earlier, later in pairwise(times_ms)]
    mean = (times_ms[-1] - times_ms[0]) / len(steps)
    if mean <= 0 or max(steps) - min(steps) > 2 * UNEVEN_MS:
        raise UsageError(
            f"hear:{title}: timestamps are {min(steps):g} to {max(steps):g} ms apart: only even ones have a frame rate"
        )
    return 1000 / mean


def _load(module: ModuleType, path: Path | None, weights: Path | None, device: str) -> Encode:
    model = _load_model(module, path, device)
    return partial(_encode, module, model)


def _encode(module: ModuleType, model: torch.nn.Module, waveforms: torch.Tensor, pool: Pool) -> Sequence[torch.Tensor]:
    found = []
    if hasattr(module, SCENE):
        found.append(pool(getattr(module, SCENE)(waveforms, model)[:, None]))
    if hasattr(module, TIMESTAMP):
        found.append(pool(getattr(module, TIMESTAMP)(waveforms, model)[0]))
    return found
