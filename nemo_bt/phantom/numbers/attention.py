"""Attention over sequences of different lengths: scores, softmax and sums in fp32, what is written rounded once.

It stands for torch's FlashAttention and for cuDNN's in Transformer Engine. Shape suffixes: Q = queries, K = keys, N =
query heads, G = key/value heads, D = head size, R = queries for each key head, q and k those of one sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from nemo_bt.phantom.numbers.fp8 import Read


def flash_forward(
    query_QND: Tensor, key_KGD: Tensor, value_KGD: Tensor, query_starts: Tensor, key_starts: Tensor,
    longest_query: int, longest_key: int, dropout: float, is_causal: bool, debug: bool, *, scale: float | None = None,
    window_size_left: int | None = None, window_size_right: int | None = None, **_: Any,
) -> tuple[Tensor, Tensor, None, None, None]:  # fmt: skip
    """Stand for torch's aten._flash_attention_forward: output, logarithms of sums [N, Q], and what nothing reads."""
    window = _window(dropout, is_causal, window_size_left, window_size_right)
    given = (query_QND, key_KGD, value_KGD)
    out, lse = attend(*given, query_starts, key_starts, scale=scale or query_QND.shape[-1] ** -0.5, window=window)
    return out.to(query_QND.dtype), lse.T.contiguous(), None, None, None


def flash_backward(
    grad_QND: Tensor, query_QND: Tensor, key_KGD: Tensor, value_KGD: Tensor, out_QND: Tensor, lse: Tensor,
    query_starts: Tensor, key_starts: Tensor, longest_query: int, longest_key: int, dropout: float, is_causal: bool,
    seed: Tensor, offset: Tensor, *, scale: float | None = None, window_size_left: int | None = None,
    window_size_right: int | None = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Stand for torch's aten._flash_attention_backward: the gradients of queries, keys and values."""
    window = _window(dropout, is_causal, window_size_left, window_size_right)
    given = (grad_QND, query_QND, key_KGD, value_KGD)
    found = gradients(*given, query_starts, key_starts, scale=scale or query_QND.shape[-1] ** -0.5, window=window)
    return tuple(grad.to(query_QND.dtype) for grad in found)


def _window(dropout: float, is_causal: bool, left: int | None, right: int | None) -> int | None:
    """Give the keys before its own that a query sees; None for all.

    Raises:
        NotImplementedError: attention is not causal, or drops something.
    """
    if dropout or not is_causal or right not in (0, None):
        raise NotImplementedError(
            f"attention: expected a causal one without dropout, got {dropout}, {is_causal}, {right}"
        )
    return None if left is None or left < 0 else left


def functions(read: Read) -> dict[str, Callable[..., None]]:
    """Give Transformer Engine's by name: each writes what its shape function gave, its first argument."""

    def fused_attn_fwd(
        made: Any, longest_query: int, longest_key: int, is_training: bool, scale: float, dropout: float, fast: bool,
        layout: Any, bias: Any, mask: Any, softmax: Any, window: Any, query_starts: Any, key_starts: Any, query: Any,
        key: Any, value: Any, *_: Any,
    ) -> None:  # fmt: skip
        given = [read(x) for x in (query, key, value, query_starts, key_starts)]
        out, lse = attend(*given, scale=scale, window=None)
        read(made[0]).copy_(out)
        read(made[1]).copy_(lse[..., None])

    def fused_attn_bwd(
        made: Any, longest_query: int, longest_key: int, scale: float, dropout: float, fast: bool, layout: Any,
        bias: Any, mask: Any, softmax: Any, window: Any, deterministic: bool, query_starts: Any, key_starts: Any,
        query: Any, key: Any, value: Any, out: Any, grad: Any, *_: Any,
    ) -> None:  # fmt: skip
        given = [read(x) for x in (grad, query, key, value, query_starts, key_starts)]
        for tensor, values in zip(made[:3], gradients(*given, scale=scale, window=None), strict=True):
            read(tensor).copy_(values)

    return {one.__name__: one for one in (fused_attn_fwd, fused_attn_bwd)}


def attend(
    query_QND: Tensor, key_KGD: Tensor, value_KGD: Tensor, query_starts: Tensor, key_starts: Tensor, *, scale: float,
    window: int | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Give outputs [Q, N, D] and logarithms of the sums of exponentials [Q, N], both fp32."""
    out_QND, lse_QN = torch.zeros(query_QND.shape), torch.zeros(query_QND.shape[:2])
    for queries, keys in _sequences(query_starts, key_starts):
        scores = _scores(query_QND[queries], key_KGD[keys], scale, window)
        lse = scores.logsumexp(-1)
        out = torch.einsum("grqk,kgd->qgrd", (scores - lse[..., None]).exp(), value_KGD[keys].float())
        out_QND[queries], lse_QN[queries] = out.flatten(1, 2), lse.flatten(0, 1).T
    return out_QND, lse_QN


def gradients(
    grad_QND: Tensor, query_QND: Tensor, key_KGD: Tensor, value_KGD: Tensor, query_starts: Tensor, key_starts: Tensor,
    *, scale: float, window: int | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Give the gradients of queries, keys and values, fp32."""
    found = torch.zeros(query_QND.shape), torch.zeros(key_KGD.shape), torch.zeros(value_KGD.shape)
    for queries, keys in _sequences(query_starts, key_starts):
        query, key, value = query_QND[queries], key_KGD[keys].float(), value_KGD[keys].float()
        grad = grad_QND[queries].float().unflatten(1, (key.shape[1], -1))
        weights = _scores(query, key, scale, window).softmax(-1)
        of_weights = torch.einsum("qgrd,kgd->grqk", grad, value)
        of_scores = weights * (of_weights - (weights * of_weights).sum(-1, keepdim=True)) * scale
        found[0][queries] = torch.einsum("grqk,kgd->qgrd", of_scores, key).flatten(1, 2)
        found[1][keys] = torch.einsum("grqk,qgrd->kgd", of_scores, query.float().unflatten(1, (key.shape[1], -1)))
        found[2][keys] = torch.einsum("grqk,qgrd->kgd", weights, grad)
    return found


def _sequences(query_starts: Tensor, key_starts: Tensor) -> Iterator[tuple[slice, slice]]:
    """Give the queries and the keys of each sequence."""
    bounds = [starts.tolist() for starts in (query_starts, key_starts)]
    parts = [[slice(*pair) for pair in pairwise(starts)] for starts in bounds]
    yield from zip(*parts, strict=True)


def _scores(query_qND: Tensor, key_kGD: Tensor, scale: float, window: int | None) -> Tensor:
    """Give scores [G, R, q, k], -inf where a query does not look: the last query sees the last key."""
    heads = query_qND.float().unflatten(1, (key_kGD.shape[1], -1))
    scores = torch.einsum("qgrd,kgd->grqk", heads, key_kGD.float()) * scale
    num_queries, num_keys = scores.shape[-2:]
    ahead = torch.arange(num_keys) - torch.arange(num_queries)[:, None] - (num_keys - num_queries)
    is_hidden = ahead > 0 if window is None else (ahead > 0) | (ahead < -window)
    return scores.masked_fill(is_hidden, float("-inf"))
