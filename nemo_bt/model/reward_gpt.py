"""A Megatron GPT whose output layer is the reward head, run on a pair stream.

Shape suffixes: T = tokens in the stream, t = T / TP under sequence parallelism and T without, H = hidden size,
C = continuations (the scored sequences), c = C rounded up to a multiple of TP under sequence parallelism.
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

from nemo_bt.model.rotary import RotaryAngles
from nemo_bt.weights.head import new_head


class RewardHead(MegatronModule):
    """reward = w . h at the scored positions, without bias, in fp32.

    Initialised by `new_head`. The weight, [1, H], is whole on every tensor-parallel rank of the last pipeline stage.
    """

    def __init__(self, input_size: int, output_size: int, *, config: TransformerConfig, **_: Any) -> None:
        super().__init__(config=config)
        self.sequence_parallel = config.sequence_parallel
        self.weight = torch.nn.Parameter(
            torch.empty(1, input_size, dtype=config.params_dtype, device=torch.cuda.current_device())
        )
        if config.perform_initialization:
            self.weight.data.copy_(new_head(input_size))
        # Each rank scores its own tokens, so Megatron has to sum the gradient over TP.
        self.weight.sequence_parallel = config.sequence_parallel

    def forward(self, hidden_c1H: Tensor, num_scored: int) -> Tensor:
        """Rewards of the scored rows, the same on every tensor-parallel rank.

        Args:
            hidden_c1H: output of the last norm, [c, 1, H], or c / TP of it under sequence parallelism.
            num_scored: C; rows beyond it are filling.

        Returns:
            [C], float32. Under sequence parallelism each rank projects the rows that it holds and the results
            are summed over TP: nothing of size H is sent.
        """
        reward_c = hidden_c1H[:, 0].float() @ self.weight[0].float()
        if self.sequence_parallel:
            world_size = parallel_state.get_tensor_model_parallel_world_size()
            before = len(reward_c) * parallel_state.get_tensor_model_parallel_rank()
            after = len(reward_c) * (world_size - 1) - before
            reward_c = tensor_parallel.reduce_from_tensor_model_parallel_region(F.pad(reward_c, (before, after)))
        return reward_c[:num_scored]

    def sharded_state_dict(
        self, prefix: str = "", sharded_offsets: tuple[Any, ...] = (), metadata: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """The weight as one tensor that every tensor-parallel rank holds."""
        return make_sharded_tensors_for_checkpoint(self.state_dict(keep_vars=True), prefix, {}, sharded_offsets)


class RewardGPT(gpt_model.GPTModel):
    """`GPTModel` with a `RewardHead` for its output layer; no language-model head is ever allocated."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # GPTModel builds its output layer from the name tensor_parallel.ColumnParallelLinear (gpt_model.py:234),
        # which it uses for nothing else.
        with replaced(gpt_model, "tensor_parallel", SimpleNamespace(ColumnParallelLinear=RewardHead)):
            super().__init__(*args, **kwargs)
        del self.rotary_pos_emb
        self.rotary_angles = RotaryAngles(self.config.hf_config)

    def forward(self, tokens_1T: Tensor, positions_1T: Tensor, segments_C4: Tensor, scored_C: Tensor) -> Tensor:
        """Rewards on the last pipeline stage, hidden states on the others.

        Args:
            tokens_1T: [1, T], int64.
            positions_1T: [1, T], int64.
            segments_C4: [C, 4], int32, on the CPU.
            scored_C: [C], int64: the ends of the segments.

        Returns:
            [C] float32 on the last stage, else [t, 1, H].
        """
        hidden_t1H = None
        if self.pre_process:
            hidden_t1H = self.embedding(tokens_1T, positions_1T)
            if self.config.embedding_scale != 1.0:
                hidden_t1H = hidden_t1H * torch.tensor(self.config.embedding_scale, dtype=hidden_t1H.dtype)
        angles = self.rotary_angles(positions_1T)
        hidden_t1H = self.decoder(hidden_states=hidden_t1H, attention_mask=segments_C4, rotary_pos_emb=angles)
        return self.output_layer(hidden_t1H, len(scored_C)) if self.post_process else hidden_t1H


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """`module.name` is `value` for the length of a with block: for classes that NeMo and Megatron name themselves."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)
