"""What a live object computes with: the modules, tensors and arrays that it holds, and one digest of their values.

A callable holds what its closure, its arguments (`functools.partial`), its object (a bound method) and the globals that its
code names lead to. What is found by a name made at run time is not seen.
"""

from __future__ import annotations

import hashlib
import inspect
import pickle
from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import TYPE_CHECKING, Any

from marble_bench.core.keys import digest
from marble_bench.core.user_files import is_user_file
from marble_bench.errors import UsageError

if TYPE_CHECKING:
    import torch

DEEPEST, LONGEST = 5, 1000  # from an object to what it holds, and so on; a longer list or mapping is data


def find_held(thing: Any) -> dict[str, Any]:
    """The `torch.nn.Module`s, tensors and numpy arrays that an object is, or holds, by the shortest way to them."""
    import numpy as np
    import torch

    found: dict[str, Any] = {}
    waiting = deque([("", thing, 0)])  # first in, first out: nothing is reached by a longer way first
    seen: dict[int, Any] = {}  # the objects too, so that no number is given to another one meanwhile
    while waiting:
        label, value, depth = waiting.popleft()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        if isinstance(value, torch.nn.Module | torch.Tensor | np.ndarray):
            found[label] = value
        elif depth < DEEPEST:
            waiting += [(f"{label}.{name}", each, depth + 1) for name, each in _parts(value)]
    return dict(sorted(found.items()))


def pick_modules(held: Mapping[str, Any]) -> list[torch.nn.Module]:
    """The modules among what an object holds."""
    import torch

    return [each for each in held.values() if isinstance(each, torch.nn.Module)]


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object leads to, by name; nothing for modules of Python, classes, and functions of installed packages."""
    if isinstance(value, partial):
        yield "func", value.func
        yield from ((str(place), each) for place, each in enumerate(value.args))
        yield from value.keywords.items()
    elif isinstance(value, MethodType):
        yield "self", value.__self__
        yield "func", value.__func__
    elif isinstance(value, FunctionType):
        yield from _of_function(value)
    elif isinstance(value, Mapping | list | tuple) and len(value) > LONGEST:
        return
    elif isinstance(value, Mapping):
        yield from ((str(key), each) for key, each in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(place), each) for place, each in enumerate(value))
    elif not isinstance(value, type | ModuleType):
        yield from getattr(value, "__dict__", {}).items()
        yield from _of_slots(value)
        if isinstance(called := inspect.getattr_static(type(value), "__call__", None), FunctionType):
            yield "__call__", called


def _of_slots(value: Any) -> Iterator[tuple[str, Any]]:
    """The attributes of an object that its classes declare as `__slots__`."""
    for kind in type(value).__mro__:
        for name, slot in vars(kind).items() if "__slots__" in vars(kind) else ():
            if isinstance(slot, MemberDescriptorType):
                try:
                    yield name, slot.__get__(value)
                except AttributeError:  # not set yet
                    continue


def _of_function(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function's closure, defaults, wrapped function and named globals are; of the latter only for a user's own."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from ((f"default{place}", each) for place, each in enumerate(function.__defaults__ or ()))
    yield from (function.__kwdefaults__ or {}).items()
    if (wrapped := inspect.unwrap(function)) is not function:
        yield "wrapped", wrapped
    if is_user_file(Path(function.__code__.co_filename)):
        yield from (
            (name, function.__globals__[name]) for name in _names(function.__code__) if name in function.__globals__
        )


def _names(code: CodeType) -> set[str]:
    """The names that some code, and the functions within it, look up."""
    inner = [each for each in code.co_consts if isinstance(each, CodeType)]
    return {*code.co_names, *(name for each in inner for name in _names(each))}


def digest_held(held: Mapping[str, Any]) -> str:
    """sha256 over all that is held, see `digest_each`."""
    return digest(digest_each(held))


def digest_each(held: Mapping[str, Any]) -> dict[str, str]:
    """By name, sha256 over type, shape and bytes of all that is held: of a module its state dict.

    Raises UsageError naming what has no bytes, such as a tensor on the device `meta`.
    """
    found: dict[str, str] = {}
    for label, value in held.items():
        for name, each in _values(value):
            try:
                total = hashlib.sha256()
                for part in _bytes(each):
                    total.update(part)
                found[" ".join(word for word in (label, name) if word)] = total.hexdigest()
            except Exception as error:  # a class of the user's may raise anything when it is pickled
                raise UsageError(
                    f"{name or label} of type {type(each).__name__} has no bytes that can be hashed ({error}): "
                    "its weights would be in no key"
                ) from error
    return found


def _values(value: Any) -> Iterator[tuple[str, Any]]:
    import torch

    if not isinstance(value, torch.nn.Module):
        yield "", value
        return
    yield from sorted(value.state_dict().items())  # other buffers are tables that a module makes, and may make larger


def _bytes(value: Any) -> Iterator[Any]:
    """A tensor's or an array's type, shape and bytes; of another entry of a state what pickle makes of it."""
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes() if value.dtype != object else pickle.dumps(value.tolist())
    else:
        yield pickle.dumps(value)
