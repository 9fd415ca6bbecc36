"""The `context/` of a .nemo whose model nobody has trained yet."""

from __future__ import annotations

from pathlib import Path

from nemo_bt.config.model import LossSettings
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.training.nemo_import import import_nemo

_SEQ_LENGTH = 4096


def describe(context: Path, architecture: Architecture, tokenizer: Path | None) -> None:
    """Write `context/` of a .nemo that nobody has trained yet; the tokenizer's folder has to be named "tokenizer"."""
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
