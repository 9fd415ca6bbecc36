"""A .nemo whose model nobody has trained yet: its weights, and the `context/` that NeMo and nemo_bt read."""

from __future__ import annotations

import shutil
from pathlib import Path

from nemo_bt.config.loss import LossSettings
from nemo_bt.data.tokenize.foreign_tokenizer import tokenizer_files
from nemo_bt.data.tokenize.tokenizer import copy_tokenizer
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.convert import Conversion
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.pretrained.source import TensorSource
from nemo_bt.pretrained.torch_dist_writer import write_torch_dist
from nemo_bt.training.nemo_import import import_nemo

from .progress import megabytes

_SEQ_LENGTH = 4096


def write_nemo(
    folder: Path, source: TensorSource, architecture: Architecture, tokenizer: Path, terminal: Terminal
) -> None:
    """Write a .nemo directory, tensor by tensor, with a bar.

    Args:
        folder: one that does not exist, in one that does.
        source: Megatron's tensors, with the head.
        architecture: its `hf_config` is what stays with the weights.
        tokenizer: a folder that may have a tokenizer's files.
        terminal: where the bar is shown.
    """
    with megabytes(terminal, source.infos) as progress:
        write_torch_dist(folder / "weights", source, Conversion(architecture).depth, progress)
    files = tokenizer_files(tokenizer)
    staged = folder / "tokenizer"  # NeMo copies a folder into context/ under its own name
    copy_tokenizer(tokenizer, staged)
    _describe(folder / "context", architecture, staged if files else None)
    if files:
        shutil.rmtree(staged)


def _describe(context: Path, architecture: Architecture, tokenizer: Path | None) -> None:
    """Write `context/`; the tokenizer's folder has to be named "tokenizer"."""
    import_nemo(on_gpu=False)
    import nemo.lightning as nl
    from nemo.collections.common.tokenizers import AutoTokenizer
    from nemo.lightning.io.pl import TrainerContext

    from nemo_bt.model.config import reward_config
    from nemo_bt.model.reward_model import RewardModel

    loss = LossSettings()
    seq_length = int(min(_SEQ_LENGTH, architecture.longest_tokens))  # a run sets its own
    nemo_tokenizer = AutoTokenizer(str(tokenizer)) if tokenizer else None
    model = RewardModel(reward_config(architecture, seq_length), loss, tokenizer=nemo_tokenizer)
    strategy = nl.MegatronStrategy(replace_progress_bar=False)
    trainer = nl.Trainer(devices=1, accelerator="cpu", strategy=strategy, logger=False, enable_checkpointing=False)
    TrainerContext(model=model, trainer=trainer, extra={}).io_dump(context, yaml_attrs=["model"])
    write_facts(context, architecture.hf_config, {})
