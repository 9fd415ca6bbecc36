"""A reward model on one device without a trainer: its rewards beside transformers', and the time that sharing saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification

from benchmarks.gpu_machine import Host, spread
from benchmarks.gpu_streams import real_groups, streams_of, without_sharing
from benchmarks.results_file import Figure
from benchmarks.small_llama import Size, hf_config_of
from nemo_bt.batching.stream import PairStream, TokenGroup
from nemo_bt.config.loss import LossSettings
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.pretrained.resolve import find_pretrained
from nemo_bt.scoring.model import open_alone, open_trained
from nemo_bt.training.nemo_import import import_nemo

_SHAPES = {
    "llama": {"model_type": "llama", "num_key_value_heads": 4},
    "qwen2": {"model_type": "qwen2", "num_key_value_heads": 2},
    "gemma": {"model_type": "gemma", "num_key_value_heads": 1, "head_dim": 128},
}
_SEEDS = (1, 2, 3, 4, 5)
_NUM_PAIRS = 64
_SHARING_TARGET = 1.4


def measure_rewards(host: Host) -> list[Figure]:
    """Measure the distance of rewards from transformers' fp32, over that of transformers' bf16.

    The distance is a root mean square, and each seed is a repetition.
    """
    figures = []
    for name, shape in _SHAPES.items():
        seeds = _SEEDS[:1] if host.is_dry else _SEEDS
        ratios = [_distance(host, name, shape, seed) for seed in seeds]
        figures.append(spread(f"gpu_rewards/{name}/distance_over_transformers", ratios, "ratio", 1.0))
    return figures


def _distance(host: Host, name: str, shape: dict[str, Any], seed: int) -> float:
    sizes = (2, 64, 160, 4) if host.is_dry else (8, 1024, 2816, 8)
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    config = AutoConfig.for_model(
        **shape | dict(zip(names, sizes, strict=True)), vocab_size=8192, pad_token_id=0, num_labels=1
    )
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config).float().eval()
    folder = host.folder / f"rewards-{name}-{seed}"
    model.save_pretrained(folder)
    groups = real_groups(host, "hh", 4 if host.is_dry else _NUM_PAIRS, seed)
    exact, rounded = (_theirs(model.to(host.device, dtype), groups) for dtype in (torch.float32, torch.bfloat16))
    engine = open_alone(open_trained(find_pretrained(str(folder))), "bf16-mixed", not host.is_dry)
    ours = torch.cat(engine.rewards(streams_of(groups, 8192)))
    engine.close()
    return float((ours - exact).norm() / (rounded - exact).norm())


@torch.no_grad()
def _theirs(model: Any, groups: list[TokenGroup]) -> Tensor:
    """Score one sequence at a time, so that nothing is padded."""
    rewards = []
    for group in groups:
        for side in group.continuations:
            ids = torch.tensor([[*group.prefix.tolist(), *side.tolist()]], device=model.device)
            rewards.append(model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, 0].float().cpu())
    return torch.stack(rewards)


def measure_sharing(host: Host) -> list[Figure]:
    """Measure pairs a second with shared prompts over those with a prompt on each side, in turns.

    Each time has a forward and a backward pass.
    """
    figures = []
    for name, target in (("hh", _SHARING_TARGET), ("alpaca_eval", None)):
        groups = real_groups(host, name, 4 if host.is_dry else _NUM_PAIRS)
        with random_model(host, host.size_1b) as module:
            shared, repeated = (streams_of(g, 8192) for g in (groups, without_sharing(groups)))
            ratios = []
            for _ in range(host.repetitions):
                seconds = [host.seconds(lambda s=streams: _steps(module, s, host)) for streams in (shared, repeated)]
                ratios.append(min(seconds[1]) / min(seconds[0]))
        figures.append(spread(f"gpu_sharing/{name}/pairs_per_second_ratio", ratios, "ratio", target))
    return figures


def _steps(module: Any, streams: list[PairStream], host: Host) -> None:
    for stream in streams:
        stream = stream.to(host.device)
        reward_C = module(stream.tokens_1T, stream.positions_1T, stream.segments_C5)
        chosen_P, rejected_P = reward_C[stream.sides_PK].unbind(1)
        (-torch.nn.functional.logsigmoid(chosen_P - rejected_P)).sum().backward()
    for parameter in module.parameters():
        parameter.grad = None


@contextmanager
def random_model(host: Host, size: Size) -> Iterator[Any]:
    """Make a model in bf16 with random weights, while Megatron's groups are those of one rank."""
    import_nemo(not host.is_dry)
    from megatron.core import parallel_state, tensor_parallel

    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    backend = "gloo" if host.is_dry else "nccl"
    torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    config = reward_config(
        architecture_of(hf_config_of(size).to_dict()),
        seq_length=4096,
        params_dtype=torch.bfloat16,
        bf16=True,
        gradient_accumulation_fusion=False,  # only Megatron's DDP makes main gradients
    )
    model = RewardModel(config, LossSettings())
    model._trainer = None
    model.configure_model()
    try:
        yield model.module
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
