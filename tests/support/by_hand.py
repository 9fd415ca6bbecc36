"""A NeMo 2 program that puts a reward model together by hand: python -m tests.support.by_hand MODEL PAIRS FOLDER KEYS.

It prints the loss of each step, and the order in which callbacks and collectives ran under nemo_bt.train.
"""

import functools
import json
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

import nemo_bt
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.resolve import find_pretrained, open_weights

HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_validation_end")


class Losses(pl.Callback):
    def __init__(self) -> None:
        self.of_steps: list[float] = []

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        self.of_steps.append(float(outputs["loss"]))


class Order(pl.Callback):
    """Notes which of the run's callbacks is called, and every all-reduce."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        """Stand before each of them."""
        for callback in trainer.callbacks:
            for hook in HOOKS:
                if type(callback).__module__.startswith("nemo_bt.") and hook in vars(type(callback)):
                    noted = self.noting(f"{type(callback).__name__}.{hook}", getattr(callback, hook))
                    setattr(callback, hook, noted)
        sampler = trainer.datamodule.data_sampler
        for name in ("on_megatron_step_start", "on_megatron_step_end"):
            setattr(sampler, name, self.noting(f"PairSampler.{name}", getattr(sampler, name)))
        torch.distributed.all_reduce = self.noting("all_reduce", torch.distributed.all_reduce)

    def noting(self, name: str, method: Any) -> Any:
        @functools.wraps(method)  # NeMo looks at the arguments that it takes
        def call(*args: Any, **kwargs: Any) -> Any:
            self.seen.append(f"{name} {args[0].numel()}" if name == "all_reduce" else name)
            return method(*args, **kwargs)

        return call


def by_hand(model: str, settings: Any, folder: Path) -> list[float]:
    """NeMo's objects alone: the model, its data, an optimizer, a strategy, the Trainer."""
    reward_model_class, data_module_class = nemo_bt.RewardModel, nemo_bt.PairDataModule  # imports NeMo for this device
    import nemo.lightning as nl
    from megatron.core.optimizer import OptimizerConfig
    from nemo.lightning.pytorch.optim import MegatronOptimizerModule

    from nemo_bt.model.config import reward_config

    pretrained = find_pretrained(model)
    tokenizer = load_tokenizer(str(pretrained.tokenizer), None)
    sets = load_sets(settings, tokenizer, False, Terminal(None))
    data = data_module_class(sets["train"], {}, settings, num_steps=3, pad_id=tokenizer.pad_token_id)
    optim = settings.model.optim
    adam = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_eps=optim.eps,
        clip_grad=settings.trainer.gradient_clip_val,
    )
    reward_model = reward_model_class(
        reward_config(pretrained.architecture, settings.model.encoder_seq_length),
        optim=MegatronOptimizerModule(config=adam),
        initial_weights=open_weights(pretrained, settings.trainer.seed),
    )
    losses = Losses()
    trainer = nl.Trainer(
        accelerator="cpu",
        devices=1,
        strategy=nl.MegatronStrategy(process_group_backend="gloo", replace_progress_bar=False),
        plugins=nl.MegatronMixedPrecision(precision="32"),
        max_steps=3,
        limit_val_batches=0,
        callbacks=[losses],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        default_root_dir=str(folder),
    )
    trainer.fit(reward_model, data)
    return losses.of_steps


def main() -> None:
    model, pairs, log_dir, *overrides = sys.argv[1:]
    settings = nemo_bt.load_settings(
        "train",
        [
            f"model.restore_from_path={model}",
            f"model.data.train={pairs}",
            f"exp_manager.explicit_log_dir={log_dir}/train",
            *overrides,
        ],
    )
    order = Order()
    nemo_bt.train(settings, callbacks=[order])
    print("order", json.dumps(order.seen), flush=True)
    print("losses", json.dumps(by_hand(model, settings, Path(log_dir))), flush=True)


if __name__ == "__main__":
    main()
