"""A Megatron GPT whose output layer is the reward head, run on a pair stream.

Shape suffixes: T = tokens in the stream, t = T / CP of them on this rank, s = t / TP under sequence parallelism and t
without, H = hidden size, C = continuations (the scored sequences), c = those whose scored token this context-parallel
rank holds, rounded up to a multiple of TP under sequence parallelism, A = attributes, W = width of a head's hidden
layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.models.gpt import gpt_model
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from nemo_bt.model.attention.context_parallel import held_here, own_rows, rewards_of_all
from nemo_bt.model.attention.module import keeps_only_scored_tokens, take_scored_rows
from nemo_bt.model.rotary import RotaryAngles
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.head import new_heads
from nemo_bt.pretrained.names import HEAD, HEAD_BIAS, HIDDEN_BIAS, HIDDEN_WEIGHT


class HiddenLayer(torch.nn.Module):
    """A linear layer and ReLU, in fp32. It is called: Megatron waits for the weights of modules that are."""

    def __init__(self, weight_WH: torch.nn.Parameter, bias_W: torch.nn.Parameter) -> None:
        super().__init__()
        self.weight, self.bias = weight_WH, bias_W

    def forward(self, x_cH: Tensor) -> Tensor:
        """[c, H] -> [c, W], float32."""
        return F.relu(F.linear(x_cH, self.weight.float(), self.bias.float()))


class RewardHead(MegatronModule):
    """reward = w . h at the scored positions, without bias, in fp32; one for each attribute where there are some.

    With a hidden layer it is w . relu(W h + b) + c. `new_heads` draws the weights; all are whole on every
    tensor-parallel rank of the last pipeline stage.
    """

    def __init__(self, input_size: int, output_size: int, *, config: TransformerConfig, **_: Any) -> None:
        super().__init__(config=config)
        self.sequence_parallel = config.sequence_parallel
        architecture: Architecture = config.architecture
        self.has_attributes = bool(architecture.attributes)
        draws = config.perform_initialization
        with torch.device("cpu" if draws else "meta"):
            drawn = new_heads(input_size, architecture.head_hidden_size, architecture.num_head_rows)

        def parameter(name: str) -> Any:
            weight = torch.empty(drawn[name].shape, dtype=config.params_dtype, device=torch.cuda.current_device())
            if draws:
                weight.copy_(drawn[name])
            made: Any = torch.nn.Parameter(weight)
            made.sequence_parallel = config.sequence_parallel  # its ranks score their own tokens: gradients are summed
            return made

        self.weight = parameter(HEAD)
        self.bias = parameter(HEAD_BIAS) if HEAD_BIAS in drawn else None
        if config.tie is not None:
            first = torch.full((1,), config.tie, dtype=config.params_dtype, device=self.weight.device)
            self.log_tie = torch.nn.Parameter(first.log())  # every rank has its whole gradient: nothing is summed
        self.hidden: Any = None
        if HIDDEN_WEIGHT in drawn:
            self.hidden = HiddenLayer(parameter(HIDDEN_WEIGHT), parameter(HIDDEN_BIAS))

    def forward(self, hidden_c1H: Tensor) -> Tensor:
        """Give the rewards of the scored rows, the same on every tensor-parallel rank.

        Args:
            hidden_c1H: output of the last norm, [c, 1, H], or c / TP of it under sequence parallelism.

        Returns:
            [c], float32, or [c, A]. Under sequence parallelism each rank projects the rows that it holds, biases
            included, and the results are summed over TP: nothing of size H is sent.
        """
        weight = self.weight.float()
        x_cH = hidden_c1H[:, 0].float()
        if self.hidden is not None:
            x_cH = self.hidden(x_cH)  # [c, W]
        reward_c = x_cH @ (weight.T if self.has_attributes else weight[0])
        if self.bias is not None:
            reward_c = reward_c + (self.bias if self.has_attributes else self.bias[0]).float()
        if self.sequence_parallel:
            world_size = parallel_state.get_tensor_model_parallel_world_size()
            before = len(reward_c) * parallel_state.get_tensor_model_parallel_rank()
            after = len(reward_c) * (world_size - 1) - before
            reward_c = tensor_parallel.reduce_from_tensor_model_parallel_region(
                F.pad(reward_c, (0, 0) * (reward_c.ndim - 1) + (before, after))
            )
        return reward_c

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Give each weight as one tensor that every tensor-parallel rank holds."""
        return make_sharded_tensors_for_checkpoint(self.state_dict(keep_vars=True), prefix, {}, sharded_offsets)


class RewardGPT(gpt_model.GPTModel):
    """`GPTModel` with a `RewardHead` for its output layer; no language-model head is ever allocated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # GPTModel builds its output layer from the name tensor_parallel.ColumnParallelLinear (gpt_model.py:234),
        # which it uses for nothing else.
        with replaced(gpt_model, "tensor_parallel", SimpleNamespace(ColumnParallelLinear=RewardHead)):
            super().__init__(*args, **kwargs)
        del self.rotary_pos_emb
        self.rotary_angles = RotaryAngles(self.config.architecture)

    def forward(self, tokens_1T: Tensor, positions_1T: Tensor, segments_C5: Tensor) -> Tensor:
        """Give rewards on the last pipeline stage, hidden states on the others.

        Each context-parallel rank takes its rows of the stream, a `PairStream`'s, and has the rewards of all.

        Returns:
            [C] float32 on the last stage, or [C, A] with attributes, else [s, 1, H].
        """
        tokens_1t = own_rows(tokens_1T)
        positions_1t = own_rows(positions_1T)
        hidden_s1H = None
        if self.pre_process:
            hidden_s1H = self.embedding(tokens_1t, positions_1t)
            if self.config.embedding_scale != 1.0:
                hidden_s1H = hidden_s1H * torch.tensor(self.config.embedding_scale, dtype=hidden_s1H.dtype)
            if torch.is_grad_enabled() and not hidden_s1H.requires_grad:
                hidden_s1H.requires_grad_()  # under a frozen embedding, recomputed layers would have no gradient
        angles = self.rotary_angles(positions_1t, next(self.decoder.parameters()).dtype)
        hidden_s1H = self.decoder(hidden_states=hidden_s1H, attention_mask=segments_C5, rotary_pos_emb=angles)
        if not self.post_process:
            return hidden_s1H
        shard = held_here(tokens_1t.shape[1])
        if not keeps_only_scored_tokens(self.config, self.config.num_layers):
            hidden_s1H = take_scored_rows(hidden_s1H, segments_C5, shard, self.config)
        return rewards_of_all(self.output_layer(hidden_s1H), segments_C5, shard)


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """Set `module.name` for the length of a with block: for classes that NeMo and Megatron name themselves."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
