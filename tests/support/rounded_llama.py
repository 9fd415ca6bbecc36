"""An independent Llama on one stream, in plain torch: bf16 between its matrices, whose factors are rounded to FP8.

Continuations attend one after the other, `tests.support.rounding` rounds, autograd makes the backward pass, torch's
AdamW takes the steps. Shape suffixes: T = rows of the stream, C = continuations, H = hidden size, M, N, K = rows,
outputs and inputs of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.support.rounding import E4M3, E5M2, Exact


class RoundedLinear(torch.autograd.Function):
    """y = x w^T, and its gradients, of rounded factors; outputs and the gradient of x are bf16, that of w is fp32."""

    @staticmethod
    def forward(ctx: Any, x_MK: Tensor, weight_NK: Tensor, rounding: Exact, name: str) -> Tensor:
        weight = rounding(weight_NK.bfloat16().float(), E4M3, f"{name}.weight", is_weight=True)
        ctx.save_for_backward(x_MK, weight)
        ctx.rounding, ctx.name = rounding, name
        return (rounding(x_MK.float(), E4M3, f"{name}.input") @ weight.T).bfloat16()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x_MK, weight = ctx.saved_tensors
        grad_MN, rounding, name = grads[0].float(), ctx.rounding, ctx.name
        by_rows = rounding(grad_MN, E5M2, f"{name}.grad")
        by_columns = rounding(grad_MN.T.contiguous(), E5M2, f"{name}.grad")
        x_KM = rounding(x_MK.float().T.contiguous(), E4M3, f"{name}.input")
        return (by_rows @ weight).bfloat16().to(x_MK.dtype), by_columns @ x_KM.T, None, None


_OUTSIDE = {
    "embedding": "embedding.word_embeddings.weight",
    "norm": "decoder.final_layernorm.weight",
    "head": "output_layer.weight",
}
_LAYER = {
    "qkv": "self_attention.linear_qkv.weight",
    "out": "self_attention.linear_proj.weight",
    "fc1": "mlp.linear_fc1.weight",
    "fc2": "mlp.linear_fc2.weight",
    "norm1": "self_attention.linear_qkv.layer_norm_weight",
    "norm2": "mlp.linear_fc1.layer_norm_weight",
}


class GatedUnit(torch.autograd.Function):
    """silu(gate) * up, computed in fp32 and rounded once, as Transformer Engine's kernel does."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return (F.silu(gate.float()) * up.float()).to(gate.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        grad, gate, up = (x.float() for x in (*grads, *ctx.saved_tensors))
        open_ = gate.sigmoid()
        both = grad * up * open_ * (1 + gate * (1 - open_)), grad * F.silu(gate)
        of_gate, of_up = (x.to(ctx.saved_tensors[0].dtype) for x in both)
        return of_gate, of_up


class RoundedLlama(torch.nn.Module):
    """Weights of a Hugging Face classifier, each layer's projections as Megatron has them: in one matrix."""

    def __init__(self, hf: Any) -> None:
        super().__init__()
        self.config = config = hf.config
        self.size = config.hidden_size // config.num_attention_heads
        state = hf.state_dict()
        named = {"embedding": state["model.embed_tokens.weight"], "norm": state["model.norm.weight"]}
        named["head"] = state["score.weight"]
        groups = config.num_key_value_heads
        for i in range(config.num_hidden_layers):
            layer = f"model.layers.{i}."
            q, k, v = (state[f"{layer}self_attn.{x}_proj.weight"].unflatten(0, (groups, -1)) for x in "qkv")
            named[f"{i}_qkv"] = torch.cat([q, k, v], 1).flatten(0, 1)
            named[f"{i}_out"] = state[f"{layer}self_attn.o_proj.weight"]
            named[f"{i}_fc1"] = torch.cat([state[f"{layer}mlp.{x}_proj.weight"] for x in ("gate", "up")])
            named[f"{i}_fc2"] = state[f"{layer}mlp.down_proj.weight"]
            named[f"{i}_norm1"] = state[f"{layer}input_layernorm.weight"]
            named[f"{i}_norm2"] = state[f"{layer}post_attention_layernorm.weight"]
        self.weights = torch.nn.ParameterDict({name: torch.nn.Parameter(w.clone()) for name, w in named.items()})

    def forward(self, tokens: list[int], segments: list[list[int]], rounding: Exact) -> Tensor:
        """Rewards [C] of a stream's continuations."""
        tokens_T, positions_T = torch.tensor(tokens), positions_of(len(tokens), segments)
        scored = [end - 1 for _, _, _, end, _ in segments]
        rows = torch.tensor(scored + scored[-1:] * (-len(scored) % rounding.multiple))
        hidden_TH = self.weights["embedding"].bfloat16()[tokens_T]
        num_layers = self.config.num_hidden_layers
        for i in range(num_layers):
            linear = self._linear(i, rounding)
            qkv = linear(self._norm(hidden_TH, f"{i}_norm1", rounding.rounds_norms), "qkv")
            attended = self._attend(qkv, positions_T, segments)
            if i == num_layers - 1:
                is_filling = torch.arange(len(rows))[:, None] >= len(scored)
                attended, hidden_TH = attended[rows].masked_fill(is_filling, 0), hidden_TH[rows]
            hidden_TH = hidden_TH + linear(attended, "out")
            gate, up = linear(self._norm(hidden_TH, f"{i}_norm2", rounding.rounds_norms), "fc1").chunk(2, -1)
            hidden_TH = hidden_TH + linear(GatedUnit.apply(gate, up), "fc2")
        normed = self._norm(hidden_TH, "norm", True)[: len(scored)]
        return normed.float() @ self.weights["head"].bfloat16().float()[0]

    def gradients(self) -> dict[str, Tensor]:
        """By Megatron's names."""
        found = {name: parameter.grad for name, parameter in self.weights.items()}
        named = {megatron: found[own] for own, megatron in _OUTSIDE.items()}
        for i in range(self.config.num_hidden_layers):
            named |= {f"decoder.layers.{i}.{megatron}": found[f"{i}_{own}"] for own, megatron in _LAYER.items()}
        return named

    def _linear(self, layer: int, rounding: Exact) -> Callable[[Tensor, str], Tensor]:
        def linear(x: Tensor, name: str) -> Tensor:
            return RoundedLinear.apply(x, self.weights[f"{layer}_{name}"], rounding, f"{layer}_{name}")

        return linear

    def _norm(self, x: Tensor, name: str, rounds: bool) -> Tensor:
        wide = x.float()
        normed = wide * (wide.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).rsqrt()
        normed = normed * self.weights[name].bfloat16().float()
        return normed.bfloat16() if rounds else normed

    def _attend(self, qkv: Tensor, positions_T: Tensor, segments: list[list[int]]) -> Tensor:
        """One continuation after the other, the first of a group with its prefix; rows of padding give zeros.

        The gradients of keys and values are rounded for each continuation, then added up, then rounded again.
        """
        parts = qkv.unflatten(-1, (self.config.num_key_value_heads, -1, self.size))
        query, key = (rotated(x, positions_T, self.config.rope_theta) for x in (parts[:, :, :-2], parts[:, :, -2]))
        key, value = key.float(), parts[:, :, -1].float()
        out = []
        for prefix_start, prefix_end, start, end, _ in segments:
            own = torch.arange(prefix_start if start == prefix_end else start, end)
            rows = own if start == prefix_end else torch.cat([torch.arange(prefix_start, prefix_end), own])
            keys, values = (x[rows].bfloat16().float() for x in (key, value))
            scores = torch.einsum("tgrd,sgd->grts", query[own].float(), keys) * self.size**-0.5
            is_ahead = torch.ones(len(own), len(rows), dtype=torch.bool).triu(len(rows) - len(own) + 1)
            scores = scores.masked_fill(is_ahead, float("-inf"))
            weights = (scores - scores.logsumexp(-1, keepdim=True)).exp()
            out.append(torch.einsum("grts,sgd->tgrd", weights, values).flatten(1).bfloat16())
        return F.pad(torch.cat(out), (0, 0, 0, len(qkv) - sum(map(len, out))))


def rotated(x: Tensor, positions_T: Tensor, theta: float) -> Tensor:
    """Heads [T, ..., D], turned by the angles of their positions."""
    size = x.shape[-1]
    angles = positions_T[:, None].float() * theta ** (-torch.arange(0, size, 2).float() / size)
    cosine, sine = (
        torch.cat([part, part], -1).view(len(x), *[1] * (x.ndim - 2), size) for part in (angles.cos(), angles.sin())
    )
    first, second = x.float().chunk(2, -1)
    return (x.float() * cosine + torch.cat([-second, first], -1) * sine).bfloat16()


def positions_of(num_rows: int, segments: list[list[int]]) -> Tensor:
    """Positions [T] in the sequence that a row belongs to; 0 for padding."""
    positions = torch.zeros(num_rows, dtype=torch.long)
    for prefix_start, prefix_end, start, end, _ in segments:
        length = prefix_end - prefix_start
        positions[prefix_start:prefix_end] = torch.arange(length)
        positions[start:end] = length + torch.arange(end - start)
    return positions


def train(model: RoundedLlama, steps: list[list[dict[str, Any]]], rounding: Exact, lr: float) -> list[float]:
    """Losses of steps of one stream each, as `nemo_bt.phantom.numbers.rewards` has them."""
    groups = [[p for p in model.parameters() if (p.ndim > 1) is is_matrix] for is_matrix in (True, False)]
    decays = [{"params": params, "weight_decay": decay} for params, decay in zip(groups, (0.1, 0.0), strict=True)]
    optimizer = torch.optim.AdamW(decays, lr=lr, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    for (stream,) in steps:
        rewards = model(stream["tokens"], stream["segments"], rounding)
        chosen, rejected = rewards[torch.tensor(stream["sides"])].unbind(1)
        loss = -F.logsigmoid(chosen - rejected).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        rounding.end_step()
        losses.append(loss.item())
    return losses
