"""Another way to compute attention over a stream of pairs on a GPU, measured beside the product's own.

`two_calls` attends each row to its own segment, and rows behind a shared prefix to that too, and merges them by their
log-sum-exp: only prefixes are gathered.

Shape suffixes: T = tokens in the stream, N = query heads, G = key/value heads, D = head size, S = sequences, Q = rows
behind a shared prefix, K = rows of the prefixes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

_Grads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Part:
    """Sequences of one call: queries and keys start at `starts`, [S + 1] int32, and none is longer than `longest`."""

    query_starts: Tensor
    key_starts: Tensor
    longest_query: int
    longest_key: int
    is_causal: bool


class Flash(Protocol):
    """A kernel that also gives the log-sum-exp, and takes it in its backward pass."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        """Give the output, [Q, N, D], and its log-sum-exp, [N, Q], fp32."""

    def backward(self, grad: Tensor, inputs: _Grads, out: Tensor, lse: Tensor, part: Part, scale: float) -> _Grads:
        """Give the gradients of the three inputs, from the output and log-sum-exp of all parts together."""


class TorchFlash:
    """torch's own FlashAttention."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        """Call torch's operator."""
        bounds = part.query_starts, part.key_starts, part.longest_query, part.longest_key
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            query, key, value, *bounds, 0.0, part.is_causal, False, scale=scale
        )
        return out, lse

    def backward(self, grad: Tensor, inputs: _Grads, out: Tensor, lse: Tensor, part: Part, scale: float) -> _Grads:
        """Call torch's operator, which reads no random state without dropout."""
        bounds = part.query_starts, part.key_starts, part.longest_query, part.longest_key
        random = torch.zeros(2, dtype=torch.uint64, device=grad.device)
        unused = torch.empty(0, device=grad.device)
        grads: _Grads = torch.ops.aten._flash_attention_backward(
            grad, *inputs, out, lse, *bounds, 0.0, part.is_causal, random, unused, scale=scale
        )
        return grads


@dataclass(frozen=True)
class TwoCalls:
    """The two calls that `two_calls` makes for a stream.

    Args:
        own: every segment, which attends to itself.
        shared: rows that attend to a prefix before their segment; None where no prefix is shared.
        rows_Q: indices of those rows.
        prefix_rows_K: rows of the prefixes, once for every continuation behind them.
    """

    own: Part
    shared: Part | None
    rows_Q: Tensor
    prefix_rows_K: Tensor


def two_calls_of(segments_C5: Tensor, device: torch.device) -> TwoCalls:
    """Plan the calls for a stream."""
    own = []
    behind = []
    prefixes = []
    for prefix_start, prefix_end, start, end, _ in segments_C5.tolist():
        is_first = start == prefix_end
        own.append((prefix_start if is_first else start, end))
        if not is_first and prefix_end > prefix_start:
            behind.append((start, end))
            prefixes.append((prefix_start, prefix_end))
    lengths = [[end - start for start, end in spans] for spans in (own, behind, prefixes)]
    starts = [torch.tensor([0, *of]).cumsum(0).int().to(device) for of in lengths]
    rows = [torch.cat([torch.arange(*span) for span in spans] or [torch.arange(0)]) for spans in (behind, prefixes)]
    return TwoCalls(
        own=Part(starts[0], starts[0], max(lengths[0]), max(lengths[0]), is_causal=True),
        shared=Part(starts[1], starts[2], max(lengths[1]), max(lengths[2]), is_causal=False) if behind else None,
        rows_Q=rows[0].to(device),
        prefix_rows_K=rows[1].to(device),
    )


class _TwoCalls(torch.autograd.Function):
    """Each part's backward pass gets the whole's output and log-sum-exp, so that its probabilities are the whole's."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, calls: TwoCalls, scale: float, flash: Flash
    ) -> Tensor:
        out, lse = flash.forward(query, key, value, calls.own, scale)
        if calls.shared:
            rows = calls.rows_Q
            prefix = calls.prefix_rows_K
            more, more_lse = flash.forward(query[rows], key[prefix], value[prefix], calls.shared, scale)
            whole_lse = torch.logaddexp(lse[:, rows], more_lse)
            shares = ((part - whole_lse).exp().T[..., None] for part in (lse[:, rows], more_lse))
            merged = out[rows].float() * next(shares) + more.float() * next(shares)
            out = out.index_copy(0, rows, merged.to(out.dtype))
            lse = lse.index_copy(1, rows, whole_lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.calls = calls
        ctx.scale = scale
        ctx.flash = flash
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (query, key, value, out, lse) = ctx.saved_tensors
        calls = ctx.calls
        grad = grads[0].contiguous()
        own = ctx.flash.backward(grad, (query, key, value), out, lse, calls.own, ctx.scale)
        if not calls.shared:
            return *own, None, None, None
        rows = calls.rows_Q
        prefix = calls.prefix_rows_K
        inputs = query[rows], key[prefix], value[prefix]
        lse_of_rows = lse[:, rows].contiguous()
        more = ctx.flash.backward(grad[rows], inputs, out[rows], lse_of_rows, calls.shared, ctx.scale)
        added = [
            x.float().index_add_(0, r, y.float()) for x, r, y in zip(own, (rows, prefix, prefix), more, strict=True)
        ]
        return *(x.to(grad.dtype) for x in added), None, None, None


def two_calls(
    query_TND: Tensor, key_TGD: Tensor, value_TGD: Tensor, calls: TwoCalls, scale: float, flash: Flash | None = None
) -> Tensor:
    """Compute attention over a stream without padding, [T, N, D]."""
    out: Tensor = _TwoCalls.apply(query_TND, key_TGD, value_TGD, calls, scale, flash or TorchFlash())
    return out
