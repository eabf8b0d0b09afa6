"""A second device for machines without a GPU: tensors on it have shapes, types and strides, and no numbers.

It is torch's PrivateUse1 device under the name `fake`, with fake tensors. Work on it fails where a GPU would: where an
operation is given tensors of two devices. What it cannot show is anything that asks for a number (`.item()`, `.numpy()`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "fake"


def _register() -> None:
    """Once a process. Raises RuntimeError where another name was given to torch's spare device before."""
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME)
        getattr(torch, NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]  # asked where autocast is switched off


def _is_there(values: object) -> bool:
    """Whether a device is named among the arguments, and it is this one."""
    return any(
        (isinstance(value, str) and value.split(":")[0] == NAME)
        or (isinstance(value, torch.device) and value.type == NAME)
        for value in tree_leaves(values)
    )


class _Elsewhere(TorchFunctionMode):
    """Sends to the fake mode what names the device or has a tensor of it; everything else is done for real."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        named = _is_there((args, kwargs))
        if not named and not any(isinstance(each, FakeTensor) for each in tree_leaves((args, kwargs))):
            return func(*args, **kwargs)
        if func is torch.tensor:
            place = kwargs.pop("device")
            return self.fake.from_tensor(func(*args, **kwargs)).to(place)
        if named and func is not torch.Tensor.to:  # a factory
            with self.fake:
                return func(*args, **kwargs)
        if func is torch.Tensor.to and named:
            args = (self.fake.from_tensor(args[0]), *args[1:]) if not isinstance(args[0], FakeTensor) else args
        if func is torch.Tensor.__getitem__ and isinstance(args[1], list):
            args = args[0], torch.tensor(args[1])  # torch would make it on the device, where no fake mode sees it
        if func is torch.Tensor.__setitem__ and isinstance(args[2], int | float):
            args = *args[:2], self.fake.from_tensor(torch.tensor(args[2], dtype=args[0].dtype))
        args, kwargs = tree_map(self._faked, (args, kwargs))
        if func is torch.nn.functional.pad:
            return func(*args, **kwargs)
        with self.fake:
            return func(*args, **kwargs)

    def _faked(self, value: object) -> object:
        """A real tensor as a fake one on its device: the CPU. A number stays one, as it may be asked for."""
        if isinstance(value, torch.Tensor) and value.ndim and not isinstance(value, FakeTensor):
            return self.fake.from_tensor(value.detach())
        return value


def _move_module(module: torch.nn.Module, device: str) -> torch.nn.Module:
    """`Module.to`, which cannot put fake tensors in the place of real ones."""
    for each in module.modules():
        for name, value in each._parameters.items():
            if value is not None:
                each._parameters[name] = torch.nn.Parameter(value.detach().to(device), requires_grad=False)
        for name, value in each._buffers.items():
            if value is not None:
                each._buffers[name] = value.to(device)
    return module


@contextmanager
def fake_device(monkeypatch) -> Iterator[str]:
    """The device's name; inside, tensors and modules can be sent there."""
    import safetensors.torch

    _register()
    real = safetensors.torch.load_file
    monkeypatch.setattr(torch.nn.Module, "to", _move_module)
    monkeypatch.setattr(
        safetensors.torch,
        "load_file",
        lambda path, device="cpu": {name: tensor.to(device) for name, tensor in real(path).items()},
    )
    with _Elsewhere(FakeTensorMode(allow_non_fake_inputs=True)):
        yield NAME
