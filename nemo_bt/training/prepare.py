"""A checked Settings -> everything that a run needs, read and checked before NeMo is imported."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nemo_bt.batching.sampling import num_steps
from nemo_bt.checkpoint.find import checkpoint_to_resume
from nemo_bt.checkpoint.same import check_same_data, check_same_order, check_same_plan
from nemo_bt.config.model import LoraSettings, Settings
from nemo_bt.data.store.load import as_the_model, load_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.tokenize.text_settings import unlike
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.adapters import Adapters, check_base, digest, trained_parameters
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.attributes import with_head
from nemo_bt.pretrained.hf_config import head_settings
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource, open_weights
from nemo_bt.training.checks import check_vocabulary, run_architecture


@dataclass(frozen=True)
class Prepared:
    """What a run needs, read and checked before NeMo is imported."""

    architecture: Architecture
    initial_weights: InitialWeights | None
    """None for random weights, or where the run resumes from a checkpoint that has all."""
    tokenizer: Any
    tokenizer_folder: Path
    sets: dict[str, PairSet]
    """The set "train" and the validation sets, by name."""
    total_steps: int
    """0 where the run only validates."""
    resume_from: Path | None
    adapters: Adapters | None
    """What a checkpoint says of its adapters; None where every weight is trained."""
    pretrained: PretrainedSource | None
    """It is kept because its tokenizer may lie in a folder that is removed with it."""


def prepare(
    settings: Settings, pretrained: PretrainedSource | None, terminal: Terminal, only_validates: bool = False
) -> Prepared:
    """Read model, tokenizer and data, and check that they can be used together.

    Args:
        settings: settings that `nemo_bt.training.checks.check_settings` has checked.
        pretrained: the source that it returned.
        only_validates: whether the run has no training set, and no step.

    Raises:
        UserError: the model, the tokenizer or the data cannot be used as they are.
    """
    model = settings.model
    log_dir = settings.exp_manager.log_dir
    resume_from = checkpoint_to_resume(log_dir / "checkpoints", settings.exp_manager.resume_if_exists)
    if resume_from:
        check_same_plan(log_dir / "config.yaml", settings)
        check_same_order(log_dir / "data.json")
    tokenizer_folder = (
        pretrained.tokenizer if pretrained and not model.tokenizer.type else Path(str(model.tokenizer.type))
    )
    tokenizer = load_tokenizer(str(tokenizer_folder), model.tokenizer.pad_token)
    architecture = run_architecture(settings, pretrained, max(tokenizer.get_vocab().values()) + 1)
    check_vocabulary(architecture, tokenizer.pad_token_id, f"pad token '{tokenizer.pad_token}'")
    # A checkpoint of adapters needs its base model.
    weights = pretrained.base if resume_from and pretrained else pretrained
    weights = weights and with_head(weights, head_settings(architecture.hf_config))
    initial = open_weights(weights, settings.trainer.seed) if weights else None
    if initial:
        terminal.line(initial.description)
    if pretrained:
        validation = (source for some in model.data.validation.values() for source in some)
        for line in unlike(model.data, [*([] if only_validates else model.data.train), *validation], pretrained):
            terminal.line(line)
    if initial and model.peft.lora:
        terminal.line(trained_parameters(initial.source.infos, model.peft.lora))
    validates = bool(settings.trainer.limit_val_batches)
    within = as_the_model(settings, architecture.hf_config)
    sets = load_sets(within, tokenizer, validates, terminal, with_train=not only_validates)
    if not only_validates:
        tell_unused_margins(settings, sets["train"], terminal)
    if not settings.model.data.validation:
        terminal.line(
            "no validation set: nothing tells how good the model is on pairs that it is not trained on, or which "
            "checkpoint is the best. model.data.validation=file.jsonl gives one"
        )
    for name, pairs in sets.items():
        check_vocabulary(architecture, pairs.largest_id, f"a token of '{name}'")
    if resume_from:
        check_same_data(log_dir / "data.json", sets)
    total_steps = 0 if only_validates else _total_steps(settings, len(sets["train"].epoch), terminal)
    if not only_validates:
        tell_long_warmup(settings, total_steps, terminal)
    adapters = _adapters(model.peft.lora, pretrained, initial, resumes=resume_from is not None)
    return Prepared(
        architecture, initial, tokenizer, tokenizer_folder, sets, total_steps, resume_from, adapters, pretrained
    )


def tell_unused_margins(settings: Settings, train: PairSet, terminal: Terminal) -> None:
    """Say that pairs have margins, where no term of the loss reads them."""
    loss = settings.model.loss
    reads_none = loss.kind not in ("bradley_terry", "hinge")
    if loss.margin or loss.scale or loss.custom_fn.name or reads_none:
        return
    names = [source.name for source in train.sources if source.columns["margin"][:].any()]
    if names:
        terminal.line(
            f"the margins of {', '.join(names)} are not used; model.loss.margin and model.loss.scale use them"
        )


def tell_long_warmup(settings: Settings, total_steps: int, terminal: Terminal) -> None:
    """Say where the learning rate never gets to its height."""
    warmup_steps = settings.model.optim.sched.num_warmup_steps(total_steps)
    if warmup_steps >= total_steps:
        terminal.line(
            f"the learning rate rises to the end: the warm-up takes {warmup_steps} steps, the run has {total_steps}. "
            "model.optim.sched.warmup_steps or warmup_ratio make it shorter"
        )


def _adapters(
    lora: LoraSettings | None, pretrained: PretrainedSource | None, initial: InitialWeights | None, resumes: bool
) -> Adapters | None:
    """Describe the adapters of a new run, or take those that the checkpoint to resume has."""
    if not (lora and pretrained and initial):
        return None
    if resumes:
        if pretrained.adapters:
            check_base(initial.source, pretrained.adapters, pretrained.given)
        return pretrained.adapters
    base = str(Path(pretrained.given).resolve()) if Path(pretrained.given).exists() else pretrained.given
    return Adapters(base, tuple(lora.target_modules), lora.adapter_dim, lora.alpha, digest(initial.source))


def _total_steps(settings: Settings, num_pairs: int, terminal: Terminal) -> int:
    """Count the steps up to max_steps or the end of max_epochs, whichever comes first, as Lightning does."""
    max_steps = settings.trainer.max_steps
    if max_steps != -1 and settings.trainer.max_epochs is None:
        return max_steps
    size = settings.model.global_batch_size
    epochs = settings.trainer.max_epochs or 1
    total_steps = num_steps(num_pairs, size, epochs)
    if total_steps == 0:
        raise UserError(
            f"{num_pairs} training pairs x trainer.max_epochs={epochs} are less than one step of "
            f"model.global_batch_size={size} pairs. Give more pairs, more epochs or a smaller batch."
        )
    if total_steps < max_steps:
        terminal.line(
            f"Training ends after {total_steps} steps, with trainer.max_epochs={epochs} of {num_pairs} pairs, before "
            f"trainer.max_steps={max_steps}. For all steps: trainer.max_epochs=null"
        )
    return total_steps if max_steps == -1 else min(total_steps, max_steps)
