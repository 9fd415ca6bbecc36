"""Equations between settings that need no model: each message has the numbers and what to change.

Those that need the model's sizes are in `parallelism` and `fp8`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from importlib.util import find_spec

from nemo_bt.config.data import DataSettings, PairRules, SourceSettings
from nemo_bt.config.loss import LossSettings
from nemo_bt.config.model import LoraSettings, Settings
from nemo_bt.errors import UserError

_METRICS = ("loss", "accuracy", "reward_chosen", "reward_rejected", "margin", "ties")
"""What a validation set is measured by."""
_OF_ATTRIBUTE = ("error", "reward")


def check_equations(settings: Settings) -> None:
    """Check values that depend on each other.

    Raises:
        UserError: some contradict each other; there is a line for each.
    """
    contradictions = list(_contradictions(settings))
    if contradictions:
        raise UserError("\n".join(contradictions))


def _contradictions(settings: Settings) -> Iterator[str]:
    sched = settings.model.optim.sched
    lr = settings.model.optim.lr
    exp = settings.exp_manager
    if sched.warmup_ratio is not None and sched.warmup_steps:
        yield (
            f"model.optim.sched.warmup_steps={sched.warmup_steps} and model.optim.sched.warmup_ratio="
            f"{sched.warmup_ratio} are both set. Set model.optim.sched.warmup_steps=null, or no ratio."
        )
    if sched.min_lr > lr:
        yield f"model.optim.sched.min_lr: expected 0 to lr={lr}, got {sched.min_lr}."
    yield from _wrong_loss(settings)
    peft = settings.model.peft
    if peft.peft_scheme is None and peft.lora_tuning != LoraSettings():
        yield "model.peft.lora_tuning: nothing is adapted. Set model.peft.peft_scheme=lora, or leave it out."
    saving = exp.checkpoint_callback_params
    stopping = exp.early_stopping_callback_params
    if saving.save_top_k:
        yield from _wrong_metric("exp_manager.checkpoint_callback_params.monitor", saving.monitor, settings)
    if exp.create_early_stopping_callback:
        yield from _wrong_metric("exp_manager.early_stopping_callback_params.monitor", stopping.monitor, settings)
    if exp.create_swanlab_logger and not find_spec("swanlab"):
        yield "exp_manager.create_swanlab_logger=true: install it with pip install 'nemo_bt[swanlab]'."


_READ_BY = {
    "bradley_terry": (
        *("margin", "scale", "label_smoothing", "center_rewards_coefficient"),
        *("length_penalty", "length_scale_tokens"),
    ),
    "hinge": ("margin", "hinge_margin"),
    "rao_kupper": ("tie", "learn_tie"),
    "davidson": ("tie", "learn_tie"),
    "plackett_luce": (),
    "regression": ("regression_error",),
}
"""Kind of loss -> the terms that it reads; all but a regression take a regression term beside."""


def _wrong_loss(settings: Settings) -> Iterator[str]:
    """Say which terms, and which rules of the data, the loss does not read."""
    loss = settings.model.loss
    read = {"kind", *_READ_BY[loss.kind]}
    if loss.kind != "regression":
        read |= {"regression_coefficient"} | ({"regression_error"} if loss.regression_coefficient else set())
    for term in loss.terms:
        if loss.custom_fn.name and term != "kind":
            yield f"model.loss.{term}: {loss.custom_fn.name} is the loss and does not read it. Unset it."
        elif term not in read:
            readers = [kind for kind, terms in _READ_BY.items() if term in terms] or ["a ranking loss"]
            yield f"model.loss.{term}: model.loss.kind={loss.kind} does not read it, {' or '.join(readers)} does."
    if loss.kind == "hinge" and loss.margin and "hinge_margin" in loss.terms:
        yield "model.loss.margin and model.loss.hinge_margin are both set: both are the lead that is wanted. Unset one."
    data = settings.model.data
    sources = [source for some in (data.train, *data.validation.values()) for source in some]
    for key in dict.fromkeys(found for source in sources for found in _unread_rules(source, loss)):
        yield f"model.data.{key}: model.loss.kind={loss.kind} does not read it. Unset it, or choose another loss."


def _unread_rules(source: SourceSettings, loss: LossSettings) -> Iterator[str]:
    """Name the rules of a source that are set and that the loss does not read."""
    plain = PairRules()
    if loss.takes != "pairs":
        names = [one.name for one in fields(PairRules)]
        yield from (f"pairs.{name}" for name in names if getattr(source.pairs, name) != getattr(plain, name))
    elif loss.kind == "hinge" and source.pairs.keep_ties:
        yield "pairs.keep_ties"
    if source.preference_key and loss.kind != "bradley_terry" and not loss.custom_fn.name:
        yield "preference_key"


def _wrong_metric(key: str, metric: str | None, settings: Settings) -> Iterator[str]:
    """Say what is wrong with a metric that no validation of the run gives."""
    sets = settings.model.data.validation if settings.trainer.limit_val_batches else {}
    start, name, of_set = [*str(metric).split("/", 2), "", ""][:3]
    attributes = settings.model.reward_head.attributes
    of_attributes = [f"attribute/{one}/{what}" for one in attributes for what in _OF_ATTRIBUTE]
    is_there = of_set in (*_METRICS, *of_attributes) or of_set.startswith("source/")
    is_there |= of_set.startswith("attribute/") and not attributes  # those of the model are not known here
    if start != "val" or name not in sets or not is_there:
        named = [next((one for one in _METRICS if str(metric).endswith(one)), "loss")]
        named = of_attributes if of_attributes and of_set.startswith("attribute/") else named
        known = " or ".join(f"val/{name}/{one}" for name in sets for one in named) or "of which this run has none"
        yield f"{key}: expected a metric of a validation set, {known}, got {metric}."


def check_data(data: DataSettings) -> None:
    """Check that there are sources, before any of them is read.

    Raises:
        UserError: a set has none, or a name that is taken.
    """
    if not data.train:
        raise UserError("model.data.train: expected at least one source of pairs, got none. Give model.data.train=...")
    check_validation(data)


def check_validation(data: DataSettings) -> None:
    """Check the validation sets alone, as `check_data` does."""
    if "train" in data.validation:
        raise UserError("model.data.validation: a set cannot be named 'train'. Type model.data.validation.held_out=...")
    for name, sources in data.validation.items():
        if not sources:
            raise UserError(f"model.data.validation.{name}: expected at least one source of pairs, got none.")
