"""The few places of Megatron and Transformer Engine that reach past torch, or need a value that only a device has.

Each names the line that needs it, of megatron-core 0.15.3.
"""

from __future__ import annotations

import copyreg
import sys
from typing import Any

import megatron.core.tensor_parallel.random as megatron_random
import megatron.core.transformer.moe.token_dispatcher as token_dispatcher
import numpy as np
import torch
import transformer_engine.pytorch.distributed as te_distributed
from torch._subclasses.fake_tensor import FakeTensor

from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.mode import is_on_device


def install(ledger: Ledger) -> None:
    """Put in place what a trace needs of Megatron."""
    # tensor_parallel/random.py:41,72 and Transformer Engine read and write the CUDA generator through torch._C.
    for module in (megatron_random, te_distributed):
        module._get_cuda_rng_state = lambda *_, **__: torch.get_rng_state()
        module._set_cuda_rng_state = lambda *_, **__: None

    def numbers(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        """Stand for transformer/moe/moe_utils.py:883: how many tokens experts get, which are spread evenly."""
        if not is_on_device(tensor):
            return tensor
        ledger.copied("to_cpu")
        dispatcher = sys._getframe(1).f_locals["self"]
        even = even_numbers(tensor, dispatcher)
        return even if as_numpy else torch.from_numpy(even)

    token_dispatcher.maybe_move_tensor_to_cpu = numbers

    # transformer_engine/pytorch/module/base.py:899 pickles what delayed scaling has seen.
    copyreg.pickle(FakeTensor, _as_zeros)


def _as_zeros(tensor: FakeTensor) -> Any:
    return _zeros, (tuple(tensor.shape), tensor.dtype)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def even_numbers(tensor: Any, dispatcher: Any) -> Any:
    """Spread the choices of tokens evenly over the entries of one of the dispatcher's tensors of counts."""
    chosen = int(torch.Size(dispatcher.hidden_shape[:-1]).numel()) * dispatcher.config.moe_router_topk
    ranks = dispatcher.tp_size * dispatcher.ep_size
    if tensor is dispatcher.output_splits_tp:
        total = chosen * dispatcher.tp_size  # what each tensor-parallel rank has got
    elif tensor is dispatcher.input_splits or tensor is dispatcher.output_splits or tensor is dispatcher.num_out_tokens:
        total = chosen
    else:  # what the experts here get, of all ranks
        total = chosen * ranks * dispatcher.num_local_experts // dispatcher.num_experts
    counts = np.full(tensor.numel(), total // tensor.numel(), dtype=np.int64)
    counts[: total % tensor.numel()] += 1
    return counts.reshape(tuple(tensor.shape))
