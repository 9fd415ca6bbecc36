"""A reward model at any layout, for scoring: streams in, rewards out. Importing this file imports NeMo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from megatron.core import parallel_state, tensor_parallel
from torch import Tensor

from nemo_bt.batching.stream import PairStream
from nemo_bt.config.job import ParallelSettings
from nemo_bt.config.loss import LossSettings
from nemo_bt.model.config import reward_config
from nemo_bt.model.loss_reduction import combine
from nemo_bt.model.reward_model import RewardModel
from nemo_bt.pretrained.resolve import InitialWeights


class Engine:
    """The part of a model that this rank holds. It needs torch's process group, and makes Megatron's.

    Args:
        initial: all weights of the model, with its head.
        layout: parallel sizes of the job.
        seq_length: longest conversation, tokens.
        dtype: type of weights and activations: float32 or bfloat16.
    """

    def __init__(self, initial: InitialWeights, layout: ParallelSettings, seq_length: int, dtype: torch.dtype) -> None:
        sizes = {
            "tensor_model_parallel_size": layout.tensor_model_parallel_size,
            "pipeline_model_parallel_size": layout.pipeline_model_parallel_size,
            "context_parallel_size": layout.context_parallel_size,
            "expert_model_parallel_size": layout.expert_model_parallel_size,
        }
        order = "tp-cp-ep-pp-dp" if layout.use_tp_pp_dp_mapping else "tp-cp-ep-dp-pp"
        parallel_state.initialize_model_parallel(**sizes, order=order)
        tensor_parallel.model_parallel_cuda_manual_seed(1)  # Megatron asks for a seed where it makes layers
        config = reward_config(
            initial.pretrained.architecture,
            seq_length,
            **sizes,
            sequence_parallel=layout.sequence_parallel,
            num_layers_in_first_pipeline_stage=layout.num_layers_in_first_pipeline_stage,
            num_layers_in_last_pipeline_stage=layout.num_layers_in_last_pipeline_stage,
            params_dtype=dtype,
            pipeline_dtype=dtype,
            bf16=dtype == torch.bfloat16,
            perform_initialization=False,  # every weight is read
        )
        self.attributes = initial.pretrained.architecture.attributes
        reward_model = RewardModel(config, LossSettings())
        reward_model.initial_weights = initial
        reward_model._trainer = None
        reward_model.configure_model()
        self._gpt: Any = reward_model.module.eval()
        self._dtype = dtype
        self._num_sharing = layout.tensor_model_parallel_size if layout.sequence_parallel else 1
        self.hidden_size: int = config.hidden_size

    def rewards(self, streams: Sequence[PairStream]) -> list[Tensor]:
        """Give the rewards of each stream's continuations, [C] float32, as `all_rewards` does."""
        return [found_CR[:, 0] for found_CR in self.all_rewards(streams)]

    @torch.inference_mode()
    def all_rewards(self, streams: Sequence[PairStream]) -> list[Tensor]:
        """Give the reward and the attributes of each stream's continuations, on the last pipeline stage; else none.

        Every rank of a model calls it with the same streams. A stage works on the next stream while the stage behind it
        works on this one.

        Returns:
            [C, 1 + A] float32 each: the reward, then the attributes that the model has.
        """
        device = torch.device(torch.cuda.current_device())
        found = [self._forward(stream.to(device)) for stream in streams]
        return [self._combined(reward).cpu() for reward in found if reward is not None]

    def _combined(self, reward: Tensor) -> Tensor:
        if not self.attributes:
            return reward[:, None]
        return torch.cat([combine(reward, list(self.attributes.values()))[:, None], reward], dim=1)

    def largest(self, number: int) -> int:
        """Give the largest number of all ranks; every rank calls it."""
        number_1 = torch.tensor([number], device=torch.cuda.current_device())
        torch.distributed.all_reduce(number_1, torch.distributed.ReduceOp.MAX)
        return int(number_1)

    def sum_of_ranks(self, rewards: Tensor) -> Tensor:
        """Add the rewards of all ranks on the CPU; each rank has zeros for others' rewards, and every rank calls it."""
        if torch.distributed.get_world_size() == 1:
            return rewards
        summed = rewards.to(torch.cuda.current_device())
        torch.distributed.all_reduce(summed)
        return summed.cpu()

    def close(self) -> None:
        """Leave the process group."""
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()

    def _forward(self, stream: PairStream) -> Tensor | None:
        if not parallel_state.is_pipeline_first_stage():
            tokens = stream.tokens_1T.shape[1] // parallel_state.get_context_parallel_world_size() // self._num_sharing
            shape = (tokens, 1, self.hidden_size)
            hidden_s1H = torch.empty(shape, dtype=self._dtype, device=torch.cuda.current_device())
            torch.distributed.recv(hidden_s1H, src=parallel_state.get_pipeline_model_parallel_prev_rank())
            self._gpt.set_input_tensor(hidden_s1H)
        out: Tensor = self._gpt(stream.tokens_1T, stream.positions_1T, stream.segments_C5)
        if parallel_state.is_pipeline_last_stage():
            return out
        torch.distributed.send(out.contiguous(), dst=parallel_state.get_pipeline_model_parallel_next_rank())
        return None


def is_counted() -> bool:
    """Tell whether this rank answers for its model: several ranks have the same rewards, and one is counted."""
    is_first = parallel_state.get_tensor_model_parallel_rank() == parallel_state.get_context_parallel_rank() == 0
    return bool(parallel_state.is_pipeline_last_stage() and is_first)
