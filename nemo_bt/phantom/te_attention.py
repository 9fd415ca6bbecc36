"""Fused attention of Transformer Engine, which is cuDNN's, for sequences of different lengths."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nemo_bt.phantom.flops import count_attention
from nemo_bt.phantom.ledger import Ledger
from nemo_bt.phantom.te_shapes import empty, expect_on_device, shape_of
from nemo_bt.phantom.te_types import FusedAttention

_MULTIPLE = 64
"""Multiple of the bounds of lengths that cuDNN takes."""
_LARGEST_HEAD = 128
_LEAST_CUDNN, _FAULTY_CUDNN = 90600, (91000, 91001)
"""Versions of cuDNN that compute masks aligned at the bottom right, and those of them that are refused."""
_BACKWARD_PRODUCTS = 2.5


def functions(ledger: Ledger) -> dict[str, Callable[..., Any]]:
    """Give the functions by name."""

    def get_fused_attn_backend(
        is_training: bool, q_dtype: Any, kv_dtype: Any, layout: Any, bias: Any, mask: Any, softmax: Any, dropout: float,
        heads: int, key_heads: int, longest_query: int, longest_key: int, qk_size: int, v_size: int, *_: Any,
    ) -> Any:  # fmt: skip
        fits = longest_query % _MULTIPLE == longest_key % _MULTIPLE == 0 and longest_query <= longest_key
        cudnn: Any = torch.backends.cudnn.version()
        fits = fits and cudnn >= _LEAST_CUDNN and cudnn not in _FAULTY_CUDNN
        takes = fits and dropout == 0 and qk_size % 8 == 0 and max(qk_size, v_size) <= _LARGEST_HEAD
        return FusedAttention.NVTE_F16_arbitrary_seqlen if takes else FusedAttention.NVTE_No_Backend

    def fused_attn_fwd(
        longest_query: int, longest_key: int, is_training: bool, scale: float, dropout: float, fast_zero_fill: bool,
        layout: Any, bias: Any, mask: Any, softmax: Any, window: Any, query_starts: Any, key_starts: Any,
        query: Any, key: Any, value: Any, *_: Any,
    ) -> list[Any]:  # fmt: skip
        _expect(query, key, value, query_starts, key_starts)
        count_attention(ledger, query, key, query_starts, key_starts, 1.0)
        statistics = empty((*query.shape[:2], 1), torch.float32)
        return [empty(shape_of(query), query.dtype), statistics, empty((2,), torch.int64)]

    def fused_attn_bwd(
        longest_query: int, longest_key: int, scale: float, dropout: float, fast_zero_fill: bool, layout: Any,
        bias: Any, mask: Any, softmax: Any, window: Any, deterministic: bool, query_starts: Any, key_starts: Any,
        query: Any, key: Any, value: Any, out: Any, grad: Any, *_: Any,
    ) -> list[Any]:  # fmt: skip
        _expect(query, key, value, query_starts, key_starts)
        count_attention(ledger, query, key, query_starts, key_starts, _BACKWARD_PRODUCTS)
        return [*(empty(shape_of(x), x.dtype) for x in (query, key, value)), None, None]

    return {one.__name__: one for one in (get_fused_attn_backend, fused_attn_fwd, fused_attn_bwd)}


def _expect(query: Any, key: Any, value: Any, query_starts: Any, key_starts: Any) -> None:
    """Check what the kernel reads.

    Raises:
        ValueError: it cannot.
    """
    expect_on_device(query=query, key=key, value=value, query_starts=query_starts, key_starts=key_starts)
    for name, starts in (("query_starts", query_starts), ("key_starts", key_starts)):
        if starts.dtype != torch.int32:
            raise ValueError(f"{name}: expected int32, got {starts.dtype}")
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.dtype not in (torch.bfloat16, torch.float16) or not x.is_contiguous():
            raise ValueError(f"{name}: expected bfloat16 or float16, contiguous, got {x.dtype}, {x.stride()}")
