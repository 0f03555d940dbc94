"""A device that is not there: tensors on the CPU that say they are on another, and may not meet one that is not."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("xpu:0")
CPU = torch.device("cpu")
ALLOWED = ("copy_", "_to_copy")  # which carry values from one device to another


def is_there(tensor: Tensor) -> bool:
    """Whether a tensor counts as one of ``DEVICE``: what it is stored in says so, which its views share."""
    return any(getattr(storage, "there", False) for storage in _storages(tensor))


def _put(tensor: Tensor, there: bool) -> None:
    for storage in _storages(tensor):
        storage.there = there  # type: ignore[attr-defined]


def _storages(tensor: Tensor) -> list[torch.UntypedStorage]:
    with torch._C.DisableTorchFunction():
        while is_functorch_wrapped_tensor(tensor):  # in vmap
            tensor = get_unwrapped(tensor)
        parts = [tensor._values(), tensor._indices()] if tensor.layout == torch.sparse_coo else [tensor]
        return [part.untyped_storage() for part in parts]


class _Meetings(TorchDispatchMode):
    """Refuses an operation on tensors of both devices; what it makes is where they are."""

    wanted = False  # whether what is made of no tensor is to be there

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        name = function.name().split("::")[1].split(".")[0]
        meeting = (arguments[0], arguments[2:]) if name.startswith("index") else (arguments, kwargs)  # from anywhere
        tensors = [value for value in tree_leaves(meeting) if isinstance(value, Tensor)]
        # a number may come from anywhere
        places = {is_there(tensor) for tensor in tensors if tensor.numel() and (tensor.dim() or is_there(tensor))}
        if len(places) > 1 and name not in ALLOWED:
            where = [(tuple(tensor.shape), str(DEVICE if is_there(tensor) else CPU)) for tensor in tensors]
            raise RuntimeError(f"{name} mixes devices: {where}")
        result = function(*arguments, **(kwargs or {}))
        for made in tree_leaves(result):
            if isinstance(made, Tensor) and not any(hasattr(storage, "there") for storage in _storages(made)):
                _put(made, True in places if tensors else self.wanted)
        return result


class _Generator(torch.Generator):
    """On the CPU; it knows where it would be."""

    def __new__(cls, device: Any = CPU) -> Any:
        made = super().__new__(cls, CPU)
        made.there = device == DEVICE
        return made


class Elsewhere(TorchFunctionMode):
    """While it is entered, ``DEVICE`` can be given wherever torch takes a device."""

    def __enter__(self) -> Elsewhere:
        self.meetings, self.generator, torch.Generator = _Meetings(), torch.Generator, _Generator
        self.meetings.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.meetings.__exit__(*error)
        torch.Generator = self.generator

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if function == Tensor.device.__get__:  # type: ignore[attr-defined]
            return DEVICE if is_there(arguments[0]) else CPU
        if name == "_parse_to":  # of a module's
            return function(*arguments, **kwargs)
        if name in ("to", "cpu") and isinstance(arguments[0], Tensor):
            return self._to(arguments[0], arguments[1:], kwargs, name)
        asked = kwargs.get("device")
        asked = None if asked is None else torch.device(asked)
        if asked == DEVICE:
            kwargs["device"] = CPU
        if isinstance(kwargs.get("generator"), _Generator) and kwargs["generator"].there != (asked == DEVICE):
            raise RuntimeError(f"{name}: the generator is on another device")
        if name == "__deepcopy__":
            result = function(*arguments, **kwargs)
            _put(result, is_there(arguments[0]))
            return result
        before, self.meetings.wanted = self.meetings.wanted, asked == DEVICE
        try:
            result = function(*tree_map(_on_cpu, arguments), **kwargs)
        finally:
            self.meetings.wanted = before
        if asked is not None:
            for made in tree_leaves(result):
                if isinstance(made, Tensor):
                    _put(made, asked == DEVICE)
        return result

    def _to(self, tensor: Tensor, arguments: Any, kwargs: dict[str, Any], name: str) -> Tensor:
        there = before = is_there(tensor)
        device, dtype, layout = None, None, kwargs.get("memory_format", torch.preserve_format)
        for value in (*arguments, kwargs.get("device"), kwargs.get("dtype")):
            if isinstance(value, Tensor):
                device, dtype = DEVICE if is_there(value) else CPU, value.dtype
            elif isinstance(value, (torch.device, str)):
                device = torch.device(value)
            elif isinstance(value, torch.dtype):
                dtype = value
        device = CPU if name == "cpu" else device
        there = before if device is None else device == DEVICE
        copied = tensor.to(dtype or tensor.dtype, copy=kwargs.get("copy", False) or there != before)
        copied = copied if layout == torch.preserve_format else copied.contiguous(memory_format=layout)
        _put(copied, there)
        return copied


def _on_cpu(value: Any) -> Any:
    return CPU if isinstance(value, torch.device) and value == DEVICE else value
