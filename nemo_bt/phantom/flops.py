"""Matrix products and attention among torch's own operations: their shapes, dtypes and FLOPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._higher_order_ops.flex_attention import flex_attention, flex_attention_backward

from nemo_bt.phantom.ledger import Ledger

_aten = torch.ops.aten
_PRODUCTS = {_aten.mm.default: 0, _aten.bmm.default: 0, _aten.addmm.default: 1, _aten.baddbmm.default: 1}
"""Operations, and the argument that is the first factor."""
_BACKWARD_PRODUCTS = 2.5
"""Products of the backward pass of attention for each of the forward pass: it computes the scores again."""


def count_flops(ledger: Ledger, func: Any, args: Any, out: Any) -> None:
    """Count an operation of torch, if it is one of those.

    Raises:
        TypeError: the factors of a product have two dtypes, which no kernel takes.
    """
    if func in _PRODUCTS:
        first = _PRODUCTS[func]
        left, right = args[first], args[first + 1]
        if left.dtype != right.dtype:
            raise TypeError(f"expected factors of one dtype, got {left.dtype} and {right.dtype}")
        batch = left.shape[0] if left.ndim == 3 else 1
        dtype = str(left.dtype).removeprefix("torch.")
        ledger.multiplied(left.shape[-2], left.shape[-1], right.shape[-1], dtype, batch)
    elif func is _aten._flash_attention_forward.default:
        query, key, _, query_starts, key_starts = args[:5]
        count_attention(ledger, query, key, query_starts, key_starts, 1.0)
    elif func is _aten._flash_attention_backward.default:
        query, key = args[1:3]
        query_starts, key_starts = args[6:8]
        count_attention(ledger, query, key, query_starts, key_starts, _BACKWARD_PRODUCTS)
    elif func is flex_attention:
        _count_blocks(ledger, args[0], args[4], 1.0)
    elif func is flex_attention_backward:
        _count_blocks(ledger, args[0], args[9], _BACKWARD_PRODUCTS)


def _count_blocks(ledger: Ledger, query_1NQD: Tensor, block_mask: Any, passes: float) -> None:
    """Count FlexAttention, which computes every block of rows and keys of which a row sees a key as a whole."""
    num_partial, num_whole, block_rows, block_keys = (block_mask[place] for place in (2, 4, -3, -2))
    counts = [ledger.values_of(one) for one in (num_partial, num_whole)]
    num_blocks = sum(int(one.sum()) for one in counts if one is not None)
    _, num_heads, _, head_size = query_1NQD.shape
    ledger.computed(4.0 * num_blocks * block_rows * block_keys * num_heads * head_size * passes)


def count_attention(
    ledger: Ledger, query_QND: Tensor, key_KGD: Tensor, query_starts: Tensor, key_starts: Tensor, passes: float
) -> None:
    """Count causal attention over sequences of different lengths, aligned at their ends.

    Args:
        query_starts: where the queries of each sequence start, and their number.
        key_starts: where its keys start, and their number.
        passes: products for each of a forward pass.
    """
    starts = [ledger.values_of(one) for one in (query_starts, key_starts)]
    if any(one is None for one in starts):
        return
    queries, keys = (one.long().diff() for one in starts if one is not None)
    attended = int((queries * keys - queries * (queries - 1) // 2).clamp(min=0).sum())
    ledger.computed(4.0 * attended * query_QND.shape[-2] * query_QND.shape[-1] * passes)
