"""A CPU in the place where NeMo and Megatron ask for a CUDA device.

`install()` is called once, before NeMo is imported, when the run is on CPU; without that call this file has no
effect. Each redirection names the line that needs it: (M) megatron-core 0.15.3, (N) nemo_toolkit 2.7.3.
None sits on a hot path: kernels run as torch dispatches them.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._device import _device_constructors

from nemo_bt.cpu.adam import GroupStepAdamW

_CPU = torch.device("cpu")
_TORCH: Any = torch  # what is put in the place of its functions has types of its own


@functools.cache
def install() -> None:
    """Redirect what asks for CUDA to the CPU, and give Megatron an Adam that runs there. A second call does nothing."""
    _redirect_devices()
    _redirect_streams_and_memory()
    _redirect_random_state()
    _redirect_collectives()
    leave_out_extension()
    import megatron.core.optimizer as megatron_optimizer
    import megatron.core.optimizer.clip_grads as clip_grads
    import megatron.core.optimizer.distrib_optimizer as distributed_optimizer
    import megatron.core.optimizer.optimizer as mixed_optimizer
    import megatron.core.tensor_parallel.random as megatron_random
    import megatron.core.transformer.moe.moe_utils as moe_utils
    import megatron.core.transformer.moe.token_dispatcher as token_dispatcher
    import megatron.core.utils as megatron_utils

    # (M) tensor_parallel/random.py:41,72 read and write the CUDA generator through torch._C.
    megatron_random._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    # (M) transformer/moe/moe_utils.py:958 reads a name that its import of Transformer Engine would have set.
    moe_utils.te_general_gemm = None
    # (M) transformer/moe/moe_utils.py:883 turns only what is on a GPU into numbers; all_to_all takes no tensors.
    token_dispatcher.maybe_move_tensor_to_cpu = _numbers
    # (M) optimizer/__init__.py:30 falls back to torch's AdamW, which keeps a tensor `step` per parameter that the
    # distributed optimizer cannot shard; it handles FusedAdam, whose step belongs to the group.
    megatron_optimizer.Adam = GroupStepAdamW
    megatron_optimizer.USING_PYTORCH_OPTIMIZER = False
    distributed_optimizer.Adam = GroupStepAdamW
    distributed_optimizer.HAVE_APEX_OR_TE = True
    distributed_optimizer.USING_APEX_OPTIMIZER = True
    # (M) optimizer/clip_grads.py:10 and optimizer.py:16 take Transformer Engine's kernels, where it is installed.
    for module in (clip_grads, mixed_optimizer):
        module.multi_tensor_applier = megatron_utils.local_multi_tensor_applier
        module.multi_tensor_scale_impl = megatron_utils.local_multi_tensor_scale
    clip_grads.l2_norm_impl = megatron_utils.local_multi_tensor_l2_norm


def leave_out_extension() -> None:
    """Keep (M) core/inference/unified_memory.py:71 from compiling memory management for GPUs when it is imported.

    It serves the generation of text. With torch built for CUDA it takes a core 20 s, in every process again where there
    is no GPU. Megatron goes on without it.
    """
    from torch.utils import cpp_extension

    def not_compiled(*_: Any, **__: Any) -> None:
        raise RuntimeError("it is not needed")

    load_inline = cpp_extension.load_inline
    cpp_extension.load_inline = not_compiled
    try:
        import megatron.core.inference.unified_memory  # noqa: F401
    finally:
        cpp_extension.load_inline = load_inline


def after_nemo_import() -> None:
    """Redirect what only exists once NeMo is imported."""
    import nemo.collections.llm.peft.lora as nemo_lora
    import nemo.collections.llm.peft.utils as peft_utils
    import nemo.lightning.io.pl as nemo_pl

    # (N) lightning/io/pl.py:495 moves a loaded checkpoint between GPUs; on one CPU there is nothing to move.
    nemo_pl._fix_tensors_device = lambda checkpoint: checkpoint
    # (N) collections/llm/peft/lora.py:703 and utils.py:77 ask whether a layer is one of Transformer Engine's, there or
    # not.
    if not nemo_lora.HAVE_TE:
        nemo_lora.te = SimpleNamespace(Linear=None)
        peft_utils.HAVE_TE = False


def _numbers(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor


def _is_cuda(device: Any) -> bool:
    return str(device).startswith("cuda") if isinstance(device, str | torch.device) else False


def _on_cpu(factory: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(factory)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if _is_cuda(kwargs.get("device")):
            kwargs["device"] = _CPU
        kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return wrapped


def _redirect_devices() -> None:
    # On a GPU host too, a run on CPU is built from CPU modules (nemo_bt/model/layers.py).
    _TORCH.cuda.is_available = lambda: False
    # (M) device=torch.cuda.current_device() in tensor_parallel/layers.py:865, mappings.py:91 and 30 places more.
    _TORCH.cuda.current_device = lambda: _CPU
    # (M) device='cuda' in optimizer/clip_grads.py:90,103, optimizer/optimizer.py:903, schedules.py:573,
    # dist_checkpointing/exchange_utils.py:101,107; (N) torch.tensor(step, pin_memory=True) in megatron_strategy.py:801.
    _device_constructors()  # remembers the functions replaced here, which `with torch.device(...)` then still knows
    for name in ("zeros", "tensor", "empty", "empty_like"):
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    # (N) .to("cuda", non_blocking=True) in megatron_strategy.py:801,881.
    to = torch.Tensor.to

    def tensor_to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args and _is_cuda(args[0]):
            args = (_CPU, *args[1:])
        return to(self, *args, **kwargs)

    _TORCH.Tensor.to = tensor_to
    # (M) dist_checkpointing/exchange_utils.py:502 sends loaded tensors between data-parallel ranks.
    _TORCH.Tensor.cuda = lambda self, *_, **__: self
    # (M) optimizer/clip_grads.py:167, optimizer.py:667,686 and distrib_optimizer.py:357,416,578 compare with
    # 'torch.cuda.FloatTensor' and the like.
    type_of = torch.Tensor.type

    def tensor_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = type_of(self, *args, **kwargs)
        return result.replace("torch.", "torch.cuda.") if isinstance(result, str) else result

    _TORCH.Tensor.type = tensor_type


class _NoStream:
    """Stands for a CUDA stream: work on a CPU is already in order."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def wait_stream(self, _: Any) -> None: ...

    # (M) transformer/moe/token_dispatcher.py:855,859 waits for a copy to the host.
    def record_event(self) -> _NoStream:
        return self

    def synchronize(self) -> None: ...


def _redirect_streams_and_memory() -> None:
    cuda = _TORCH.cuda
    # (N) megatron_parallel.py:617 builds DDP on a side stream.
    cuda.Stream = _NoStream
    cuda.stream = lambda _: contextlib.nullcontext()
    # (M) distributed/distributed_data_parallel.py and param_and_grad_buffer.py wait on the current stream.
    cuda.current_stream = lambda *_: _NoStream()
    # (M) p2p_communication.py:242, timers.py
    cuda.synchronize = lambda *_: None
    # (N) megatron_strategy.py:1149, (M) optimizer.py:358
    cuda.empty_cache = lambda: None
    # (N) megatron_init.py:238 seeds Megatron's generators only where a device is counted.
    cuda.device_count = lambda: 1


def _redirect_random_state() -> None:
    # (M) tensor_parallel/random.py:196-201 forks the CUDA generator per tensor-parallel rank.
    _TORCH.cuda.get_rng_state = lambda *_, **__: torch.get_rng_state()
    _TORCH.cuda.set_rng_state = lambda state, *_, **__: torch.set_rng_state(state)
    _TORCH.cuda.manual_seed = torch.manual_seed


def _redirect_collectives() -> None:
    # (M) tensor_parallel/mappings.py:150,191: experts' tokens over tensor-parallel ranks come in parts of different
    # lengths, which gloo does not take.
    all_gather = torch.distributed.all_gather
    reduce_scatter = torch.distributed.reduce_scatter

    def gather(outputs: list[torch.Tensor], own: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if all(output.shape == own.shape for output in outputs):
            return all_gather(outputs, own, *args, **kwargs)
        rows = own.new_zeros(max(map(len, outputs)), *own.shape[1:])
        rows[: len(own)] = own
        gathered = [torch.empty_like(rows) for _ in outputs]
        all_gather(gathered, rows, *args, **kwargs)
        for output, part in zip(outputs, gathered, strict=True):
            output.copy_(part[: len(output)])
        return None

    def scatter(own: torch.Tensor, inputs: list[torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        if all(part.shape == own.shape for part in inputs):
            return reduce_scatter(own, inputs, *args, **kwargs)
        longest = max(map(len, inputs))
        padded = [part.new_zeros(longest, *part.shape[1:]) for part in inputs]
        for rows, part in zip(padded, inputs, strict=True):
            rows[: len(part)] = part
        result = torch.empty_like(padded[0])
        reduce_scatter(result, padded, *args, **kwargs)
        own.copy_(result[: len(own)])
        return None

    _TORCH.distributed.all_gather = gather
    _TORCH.distributed.reduce_scatter = scatter
