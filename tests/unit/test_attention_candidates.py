"""The ways to compute attention that benchmarks measure beside the product's equal a dense mask."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from benchmarks.attention_candidates import Part, TorchFlash, two_calls, two_calls_of
from tests.support.attention import HEADS, KEY_HEADS, NUM_FILLED, RULES, SEGMENTS, SIZE, dense, inputs

ON_CPU = torch.device("cpu")


class PlainFlash:
    """The promises of a kernel with a log-sum-exp, written down sequence by sequence."""

    def probabilities(
        self, query: Tensor, key: Tensor, part: Part, bounds: tuple[slice, slice], scale: float
    ) -> Tensor:
        """Logits, [N, q, k]."""
        rows, keys = bounds
        wide = key[keys].repeat_interleave(HEADS // KEY_HEADS, 1)
        logits = torch.einsum("qnd,knd->nqk", query[rows], wide) * scale
        hidden = torch.ones(logits.shape[1:], dtype=torch.bool).triu(1) & part.is_causal
        return logits.masked_fill(hidden, float("-inf"))

    def sequences(self, part: Part) -> list[tuple[slice, slice]]:
        both = (part.query_starts.tolist(), part.key_starts.tolist())
        return list(zip(*([slice(a, b) for a, b in pairwise(starts)] for starts in both), strict=True))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
        out, lse = torch.empty_like(query), torch.empty(HEADS, len(query))
        for rows, keys in self.sequences(part):
            logits = self.probabilities(query, key, part, (rows, keys), scale)
            lse[:, rows] = logits.logsumexp(-1)
            wide = value[keys].repeat_interleave(HEADS // KEY_HEADS, 1)
            out[rows] = torch.einsum("nqk,knd->qnd", logits.softmax(-1), wide)
        return out, lse

    def backward(
        self, grad: Tensor, tensors: tuple[Tensor, ...], out: Tensor, lse: Tensor, part: Part, scale: float
    ) -> tuple[Tensor, ...]:
        """Probabilities by the given log-sum-exp; P (dO V' - rowsum(dO O)) is the gradient of the logits."""
        query, key, value = tensors
        grads = [torch.zeros_like(x) for x in tensors]
        for rows, keys in self.sequences(part):
            probs = (self.probabilities(query, key, part, (rows, keys), scale) - lse[:, rows, None]).exp()
            wide_key, wide_value = (x[keys].repeat_interleave(HEADS // KEY_HEADS, 1) for x in (key, value))
            mean = torch.einsum("qnd,qnd->nq", grad[rows], out[rows])[..., None]
            logits = probs * (torch.einsum("qnd,knd->nqk", grad[rows], wide_value) - mean) * scale
            grads[0][rows] = torch.einsum("nqk,knd->qnd", logits, wide_key)
            for number, found in (
                (1, torch.einsum("nqk,qnd->knd", logits, query[rows])),
                (2, torch.einsum("nqk,qnd->knd", probs, grad[rows])),
            ):
                grads[number][keys] = found.view(len(found), KEY_HEADS, -1, SIZE).sum(2)
        return tuple(grads)


def test_two_calls_merged_by_their_log_sum_exp_equal_a_dense_mask() -> None:
    tensors, grad = inputs()
    short = [x.detach()[:NUM_FILLED].requires_grad_() for x in tensors]
    calls = two_calls_of(SEGMENTS, ON_CPU)
    assert calls.prefix_rows_K.tolist() == [*range(5), *range(5), 22, 23]
    got, expected = two_calls(*short, calls, 0.3, PlainFlash()), dense(*tensors, RULES["all"])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    found, wanted = torch.autograd.grad(got, short, grad), torch.autograd.grad(expected, tensors, grad)
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other[:NUM_FILLED], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("is_causal", [True, False])
def test_torchs_operators_take_what_they_are_given(is_causal: bool) -> None:
    tensors = tuple(
        torch.empty(20, n, SIZE, dtype=torch.bfloat16, device="meta") for n in (HEADS, KEY_HEADS, KEY_HEADS)
    )
    starts = torch.empty(4, dtype=torch.int32, device="meta")
    part = Part(starts, starts, 9, 9, is_causal)
    out, lse = TorchFlash().forward(*tensors, part, 0.3)
    grads = TorchFlash().backward(out, tensors, out, lse, part, 0.3)
    assert (out.shape, lse.shape) == ((20, HEADS, SIZE), (HEADS, 20))
    assert [grad.shape for grad in grads] == [x.shape for x in tensors]
