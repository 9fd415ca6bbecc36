"""What stands for torch.cuda, and for the little else that reaches past torch's dispatcher.

`install` replaces it in this process, which traces and does nothing else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.spec import Gpu

_torch: Any = torch  # what is put in the place of its functions has types of its own


def ones(tensor: Tensor) -> Tensor:
    """Give what the host reads where there are no values."""
    return torch.ones(tensor.shape, dtype=tensor.dtype)


def install(gpu: Gpu, ledger: Ledger, num_devices: int, read: Callable[[Tensor], Tensor]) -> None:
    """Have this process see GPUs, of which the first is its own.

    Args:
        read: gives the values of a tensor of the device, on the CPU.
    """
    streams = _streams(ledger)
    functions = {**_facts(gpu, num_devices), **_memory(gpu, ledger), **_random_state(), **streams}
    for name, function in functions.items():
        setattr(_torch.cuda, name, function)
    _torch.version.cuda = gpu.cuda
    _torch.backends.cudnn.version = lambda: gpu.cudnn
    _torch.cuda.nvtx = SimpleNamespace(
        range_push=_nothing, range_pop=_nothing, mark=_nothing, range=lambda *_, **__: contextlib.nullcontext()
    )
    _torch.Tensor.record_stream = _nothing
    setattr(FakeTensor, "tolist", _tolist(ledger, read))  # noqa: B010 - one wait, where it would count one for each value
    _torch.nn.Module._apply = _apply
    _torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") is made on the CPU and copied


def _nothing(*_: Any, **__: Any) -> None: ...


def _facts(gpu: Gpu, num_devices: int) -> dict[str, Callable[..., Any]]:
    major, minor = gpu.capability
    properties = SimpleNamespace(
        name=gpu.name,
        major=major,
        minor=minor,
        multi_processor_count=gpu.num_sms,
        total_memory=gpu.memory_bytes,
        warp_size=32,
    )
    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "init": _nothing,
        "_lazy_init": _nothing,
        "_lazy_call": _nothing,
        "device_count": lambda: num_devices,
        "current_device": lambda: 0,
        "set_device": _nothing,
        "get_device_capability": lambda *_: gpu.capability,
        "get_device_name": lambda *_: gpu.name,
        "get_device_properties": lambda *_: properties,
        "is_current_stream_capturing": lambda: False,
        "is_bf16_supported": lambda *_: True,
    }


def _memory(gpu: Gpu, ledger: Ledger) -> dict[str, Callable[..., Any]]:
    return {
        "memory_allocated": lambda *_: ledger.alive,
        "max_memory_allocated": lambda *_: ledger.peak_since,
        "memory_reserved": lambda *_: ledger.alive,
        "max_memory_reserved": lambda *_: ledger.peak,
        "memory_stats": lambda *_: {},
        "mem_get_info": lambda *_: (gpu.memory_bytes - ledger.alive, gpu.memory_bytes),
        "reset_peak_memory_stats": lambda *_: ledger.reset_peak(),
        "empty_cache": _nothing,
        "ipc_collect": _nothing,
    }


def _random_state() -> dict[str, Callable[..., Any]]:
    return {
        "get_rng_state": lambda *_, **__: torch.get_rng_state(),
        "set_rng_state": _nothing,
        "manual_seed": _nothing,
        "manual_seed_all": _nothing,
        "initial_seed": lambda: 0,
    }


def _streams(ledger: Ledger) -> dict[str, Any]:
    """Give streams and events, which order nothing: what the host has waited for, all at once, it waits for no more."""

    class Event:
        num_drained = -1

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def record(self, *_: Any) -> None:
            self.num_drained = ledger.num_drained

        def wait(self, *_: Any) -> None: ...

        def query(self) -> bool:
            return True

        def elapsed_time(self, _: Any) -> float:
            return 0.0

        def synchronize(self) -> None:
            if self.num_drained == ledger.num_drained:
                ledger.waited("synchronize")

    class Stream:
        cuda_stream = 0
        device = torch.device("cuda", 0)

        def __init__(self, *_: Any, **__: Any) -> None: ...

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: Any) -> None: ...

        def wait_stream(self, _: Any) -> None: ...

        def wait_event(self, _: Any) -> None: ...

        def record_event(self, event: Any = None) -> Any:
            event = event or Event()
            event.record()
            return event

        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            ledger.waited("synchronize")

    current = Stream()
    return {
        "Stream": Stream,
        "Event": Event,
        "current_stream": lambda *_: current,
        "default_stream": lambda *_: current,
        "stream": lambda *_: contextlib.nullcontext(),
        "device": lambda *_: contextlib.nullcontext(),
        "synchronize": lambda *_: ledger.waited("synchronize"),
    }


def _tolist(ledger: Ledger, read: Callable[[Tensor], Tensor]) -> Callable[[FakeTensor], Any]:
    def tolist(self: FakeTensor) -> Any:
        if self.fake_device.type == "cuda":
            ledger.waited("tolist")
        return read(self).tolist()

    return tolist


def _apply(self: Any, function: Callable[[Any], Any], recurse: bool = True) -> Any:
    """Stand for `Module._apply`: parameters keep their attributes, as on a GPU, where torch changes their data."""
    for child in self.children() if recurse else ():
        child._apply(function)
    for name, parameter in self._parameters.items():
        if parameter is None:
            continue
        with torch.no_grad():
            moved = function(parameter)
        if moved is not parameter and (moved.dtype, moved.device) != (parameter.dtype, parameter.device):
            replaced = torch.nn.Parameter(moved, parameter.requires_grad)
            replaced.__dict__.update(parameter.__dict__)
            self._parameters[name] = replaced
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = function(buffer)
    return self
