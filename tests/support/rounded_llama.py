"""An independent Llama on one stream, in plain torch: bf16 between its matrices, whose factors are rounded to FP8.

A dense mask says who attends to whom, formats are rounded by arithmetic, autograd makes the backward pass, torch's
AdamW takes the steps. Shape suffixes: T = rows of the stream, C = continuations, H = hidden size, M, N, K = rows,
outputs and inputs of a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK = 128


class Format(NamedTuple):
    """A float of `bits` bits behind the point, of exponents from `least` on, and of at most `most`."""

    bits: int
    least: int
    most: float


E4M3 = Format(3, -6, 448.0)
E5M2 = Format(2, -14, 57344.0)


def to_format(x: Tensor, form: Format) -> Tensor:
    """The nearest numbers of a format, of two as near the even one, and at most its largest."""
    x = x.clamp(-form.most, form.most)
    exponent = (torch.frexp(x).exponent - 1).clamp(min=form.least)
    unit = torch.ldexp(torch.ones_like(x), exponent - form.bits)
    return torch.round(x / unit) * unit


class Exact:
    """Factors as they are, in bf16."""

    multiple = 1
    rounds_norms = True

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        return x_MK

    def end_step(self) -> None: ...


class Tensorwise(Exact):
    """One scale for a tensor: its largest number becomes the format's."""

    multiple = 16

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        amax = x_MK.abs().max()
        scale = form.most / amax if amax > 0 else torch.ones(())
        return to_format(x_MK * scale, form) * (1 / scale)


class Blockwise(Exact):
    """A power of two for 1 x 128 numbers, or for 128 x 128 of a weight."""

    multiple = 128

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        out = torch.empty_like(x_MK)
        height = BLOCK if is_weight else len(x_MK)
        for first in range(0, len(x_MK), height):
            for start in range(0, x_MK.shape[1], BLOCK):
                block = x_MK[first : first + height, start : start + BLOCK]
                amax = block.abs().max() if is_weight else block.abs().amax(1, keepdim=True)
                scale = torch.where(amax > 0, 2.0 ** torch.floor(torch.log2(form.most / amax)), 1.0)
                out[first : first + height, start : start + BLOCK] = to_format(block * scale, form) / scale
        return out


@dataclass
class Delayed(Exact):
    """One scale for a tensor, from the largest number of all steps before; 1 in the first."""

    multiple = 16
    rounds_norms = False
    amax: dict[str, Tensor] = field(default_factory=dict)
    newest: dict[str, Tensor] = field(default_factory=dict)

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        self.newest[name] = x_MK.abs().max()
        before = self.amax.get(name, torch.zeros(()))
        scale = form.most / before if before > 0 else torch.ones(())
        return to_format(x_MK * scale, form) * (1 / scale)

    def end_step(self) -> None:
        for name, amax in self.newest.items():
            self.amax[name] = torch.maximum(amax, self.amax.get(name, torch.zeros(())))


@dataclass
class Noisy(Exact):
    """No rounding, but errors as large as that of E4M3, independent of everything."""

    seed: int

    multiple = 16

    def __post_init__(self) -> None:
        self.random = torch.Generator().manual_seed(self.seed)

    def __call__(self, x_MK: Tensor, form: Format, name: str, is_weight: bool = False) -> Tensor:
        return x_MK * (1 + relative_error(form) * torch.randn(x_MK.shape, generator=self.random))


def relative_error(form: Format) -> float:
    """Root mean square of the error of rounding, relative to a number whose logarithm is evenly spread.

    The error is evenly spread over the distance u of neighbours: u^2 / 12. In 1 <= m < 2 it is 2^-bits, and the mean of
    1 / m^2 is (1 - 1/4) / (2 ln 2).
    """
    return float((2.0 ** (-2 * form.bits) / 12 * 0.375 / torch.log(torch.tensor(2.0))) ** 0.5)


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
        tokens_T, positions_T, sees_TT = torch.tensor(tokens), *layout_of(len(tokens), segments)
        scored = [end - 1 for _, _, _, end, _ in segments]
        rows = torch.tensor(scored + scored[-1:] * (-len(scored) % rounding.multiple))
        hidden_TH = self.weights["embedding"].bfloat16()[tokens_T]
        num_layers = self.config.num_hidden_layers
        for i in range(num_layers):
            linear = self._linear(i, rounding)
            qkv = linear(self._norm(hidden_TH, f"{i}_norm1", rounding.rounds_norms), "qkv")
            attended = self._attend(qkv, positions_T, sees_TT)
            if i == num_layers - 1:
                is_filling = torch.arange(len(rows))[:, None] >= len(scored)
                attended, hidden_TH = attended[rows].masked_fill(is_filling, 0), hidden_TH[rows]
            hidden_TH = hidden_TH + linear(attended, "out")
            gate, up = linear(self._norm(hidden_TH, f"{i}_norm2", rounding.rounds_norms), "fc1").chunk(2, -1)
            hidden_TH = hidden_TH + linear(F.silu(gate) * up, "fc2")
        normed = self._norm(hidden_TH, "norm", True)[: len(scored)]
        return normed.float() @ self.weights["head"].bfloat16().float()[0]

    def _linear(self, layer: int, rounding: Exact) -> Callable[[Tensor, str], Tensor]:
        def linear(x: Tensor, name: str) -> Tensor:
            return RoundedLinear.apply(x, self.weights[f"{layer}_{name}"], rounding, f"{layer}_{name}")

        return linear

    def _norm(self, x: Tensor, name: str, rounds: bool) -> Tensor:
        wide = x.float()
        normed = wide * (wide.square().mean(-1, keepdim=True) + self.config.rms_norm_eps).rsqrt()
        normed = normed * self.weights[name].bfloat16().float()
        return normed.bfloat16() if rounds else normed

    def _attend(self, qkv: Tensor, positions_T: Tensor, sees_TT: Tensor) -> Tensor:
        groups = self.config.num_key_value_heads
        parts = qkv.unflatten(-1, (groups, -1, self.size))
        query, key = (rotated(x, positions_T, self.config.rope_theta) for x in (parts[:, :, :-2], parts[:, :, -2:-1]))
        scores = torch.einsum("tgrd,sgd->grts", query.float(), key[:, :, 0].float()) * self.size**-0.5
        weights = scores.masked_fill(~sees_TT, float("-inf")).softmax(-1).nan_to_num(0.0)
        return torch.einsum("grts,sgd->tgrd", weights, parts[:, :, -1].float()).flatten(1).bfloat16()


def rotated(x_TGRD: Tensor, positions_T: Tensor, theta: float) -> Tensor:
    size = x_TGRD.shape[-1]
    angles = positions_T[:, None].float() * theta ** (-torch.arange(0, size, 2).float() / size)
    cosine, sine = (torch.cat([x, x], -1)[:, None, None] for x in (angles.cos(), angles.sin()))
    first, second = x_TGRD.float().chunk(2, -1)
    return (x_TGRD.float() * cosine + torch.cat([-second, first], -1) * sine).bfloat16()


def layout_of(num_rows: int, segments: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Positions [T], and whether a row sees another [T, T]; those of padding see nothing."""
    positions, sees = torch.zeros(num_rows, dtype=torch.long), torch.zeros(num_rows, num_rows, dtype=torch.bool)
    for prefix_start, prefix_end, start, end, _ in segments:
        prefix, own = slice(prefix_start, prefix_end), slice(start, end)
        length = prefix_end - prefix_start
        for part, first in ((prefix, 0), (own, length)):
            count = part.stop - part.start
            positions[part] = first + torch.arange(count)
            sees[part, part] = torch.ones(count, count, dtype=torch.bool).tril()
        sees[own, prefix] = True
    return positions, sees


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
