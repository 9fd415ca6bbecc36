"""A reward model of Megatron in this process alone, on the CPU: to compare rewards, and to describe it for NeMo."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from nemo_bt.architecture import HfConfig, longest_sequence
from nemo_bt.checkpoint_facts import write_facts
from nemo_bt.imports import import_nemo
from nemo_bt.origin import Start
from nemo_bt.settings import LossSettings

_SEQ_LENGTH = 4096


@contextmanager
def reward_gpt(hf_config: HfConfig, start: Start) -> Iterator[Any]:
    """A `RewardGPT` in fp32 with weights, as long as the block lasts."""
    import_nemo(on_gpu=False)
    from megatron.core import parallel_state, tensor_parallel

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    parallel_state.initialize_model_parallel()
    tensor_parallel.model_parallel_cuda_manual_seed(1)
    try:
        model = _reward_model(hf_config, None)
        model.start = start
        model._trainer = None
        model.configure_model()
        yield model.module.eval()
    finally:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()


def describe(context: Path, hf_config: HfConfig, tokenizer: Path | None) -> None:
    """Write `context/` of a .nemo that nobody has trained yet.

    Args:
        context: made.
        hf_config: of the model.
        tokenizer: a folder named "tokenizer"; None without one.
    """
    import_nemo(on_gpu=False)
    import nemo.lightning as nl
    from nemo.collections.common.tokenizers import AutoTokenizer
    from nemo.lightning.io.pl import TrainerContext

    model = _reward_model(hf_config, AutoTokenizer(str(tokenizer)) if tokenizer else None)
    strategy = nl.MegatronStrategy(replace_progress_bar=False)
    trainer = nl.Trainer(devices=1, accelerator="cpu", strategy=strategy, logger=False, enable_checkpointing=False)
    TrainerContext(model=model, trainer=trainer, extra={}).io_dump(context, yaml_attrs=["model"])
    write_facts(context, hf_config, {})


def _reward_model(hf_config: HfConfig, tokenizer: Any) -> Any:
    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    loss = LossSettings(margin=False, scale=False, label_smoothing=0.0, center_rewards_coefficient=0.0)
    seq_length = int(min(_SEQ_LENGTH, longest_sequence(hf_config)))  # a run sets its own
    return RewardModel(reward_config(hf_config, seq_length), loss, tokenizer=tokenizer)
