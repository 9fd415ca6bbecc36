"""A model's weights -> an Engine, on this rank of a job or in a process of its own."""

from __future__ import annotations

import hashlib
import os
import sys
from typing import TYPE_CHECKING

from nemo_bt.config.job import ParallelSettings
from nemo_bt.config.length import LengthLimit
from nemo_bt.config.score import ScoredModelSettings
from nemo_bt.errors import UserError
from nemo_bt.launching import local as launch
from nemo_bt.pretrained.hf_config import positions_of
from nemo_bt.pretrained.names import HEADS
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource, open_weights
from nemo_bt.training.attention_start import start_attention
from nemo_bt.training.gpu_environment import set_gpu_environment
from nemo_bt.training.nemo_import import import_nemo

if TYPE_CHECKING:
    from nemo_bt.scoring.engine import Engine


def open_trained(pretrained: PretrainedSource) -> InitialWeights:
    """Open the weights of a trained reward model.

    Raises:
        UserError: the model has no reward head.
    """
    initial = open_weights(pretrained, head_seed=0)
    if not initial.has_head:
        raise UserError(f"{initial.pretrained.given}: {initial.kind}, which gives no rewards before it is trained.")
    return initial


def digest_of_head(initial: InitialWeights) -> str:
    """Give a digest that changes with every step of training."""
    digest = hashlib.sha256()
    for name in (name for name in HEADS if name in initial.source.infos):
        digest.update(initial.source.read(name).double().numpy().tobytes())
    return digest.hexdigest()[:16]


def longest_conversation(pretrained: PretrainedSource, longest_tokens: int | None) -> LengthLimit:
    """Say how long a conversation may be: as told, and no longer than the model's positions."""
    own = int(min(pretrained.architecture.longest_tokens, positions_of(pretrained.hf_config) or sys.maxsize))
    if longest_tokens and longest_tokens <= own:
        return LengthLimit(longest_tokens, f"the limit of {longest_tokens} tokens")
    return LengthLimit(own, f"the {own} positions of the model (set max_position_embeddings if it takes more)")


def open_alone(initial: InitialWeights, precision: str, on_gpu: bool) -> Engine:
    """Open the whole model in this process, whatever job it is in; `open_engine` describes the arguments."""
    model = ScoredModelSettings()
    longest_tokens = int(min(model.encoder_seq_length, initial.pretrained.architecture.longest_tokens))
    return open_engine(initial, model, longest_tokens, precision, on_gpu, is_alone=True)


def open_engine(
    initial: InitialWeights,
    layout: ParallelSettings,
    seq_length: int,
    precision: str,
    on_gpu: bool,
    is_alone: bool = False,
) -> Engine:
    """Open the part of the model that this rank of a job holds, or the whole one where there is no job.

    Args:
        initial: weights of the model.
        layout: parallel sizes of the job.
        seq_length: longest conversation, tokens.
        precision: a value of trainer.precision.
        on_gpu: whether each rank has a GPU.
        is_alone: whether this process has the whole model, even if it is in a job.
    """
    if on_gpu and not is_alone:  # else the process is a user's own
        set_gpu_environment(layout)
    import_nemo(on_gpu)
    if on_gpu:
        found = start_attention("auto", initial.pretrained.architecture, precision)
        sys.stderr.writelines(f"warning: {warning}\n" for warning in found.warnings)
    import torch
    from megatron.core import parallel_state

    from nemo_bt.scoring.engine import Engine

    backend = "nccl" if on_gpu else "gloo"
    if is_alone or not launch.joined():
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    else:
        _join(backend, on_gpu)
    try:
        return Engine(initial, layout, seq_length, torch.bfloat16 if precision == "bf16-mixed" else torch.float32)
    except BaseException:
        parallel_state.destroy_model_parallel()
        torch.distributed.destroy_process_group()
        raise


def _join(backend: str, on_gpu: bool) -> None:
    """Meet the other ranks that torchrun, Slurm or `nemo-bt` started."""
    import torch

    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group(backend)
