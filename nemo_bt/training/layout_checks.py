"""Layouts that cannot work, each with the equation that fails: before NeMo is imported or anything is allocated.

This stands above `config`, which knows no model: settings and `Architecture` meet here.
"""

from __future__ import annotations

from nemo_bt.config import parallelism
from nemo_bt.config.fp8 import COLUMNS, RECIPES
from nemo_bt.config.model import JobSettings, ModelSettings, Settings
from nemo_bt.config.parallelism import divides
from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import Architecture

_ADAPTABLE = ("linear_qkv", "linear_proj", "linear_fc1", "linear_fc2")


def check_parallel(job: JobSettings, architecture: Architecture) -> None:
    """Check how ranks share a model, for training and for scoring.

    Raises:
        UserError: a number does not divide another, or an option needs another.
    """
    model = job.model
    tp = model.tensor_model_parallel_size
    parallelism.check_world(job)
    heads = architecture.heads
    shared = {
        "num_attention_heads": heads.num_heads,
        "num_query_groups": heads.num_groups,
        _width(architecture): architecture.ffn_size,
        "hidden_size": architecture.hidden_size,
        "vocab_size": architecture.padded_vocab_size,
    }
    for name, size in shared.items():
        divides(tp, "tensor_model_parallel_size", size, name)
    divides(heads.num_groups, "num_query_groups", heads.num_heads, "num_attention_heads")
    parallelism.check_pipeline(model, architecture.num_layers)
    parallelism.check_experts(job, architecture.num_experts)
    if model.sequence_parallel and tp == 1:
        raise UserError("model.sequence_parallel=true needs model.tensor_model_parallel_size > 1, got 1.")


def check_layout(settings: Settings, architecture: Architecture) -> None:
    """Check how ranks train a model together.

    Raises:
        UserError: a number does not divide another, or an option needs another.
    """
    model = settings.model
    check_parallel(settings, architecture)
    parallelism.check_balance(settings, architecture.num_experts)
    parallelism.check_recompute(model, architecture.num_layers)
    parallelism.check_optimizer(settings)
    _check_precision(settings, architecture)
    _check_adapters(model, architecture)
    if model.global_batch_size < settings.data_parallel_size:
        raise UserError(
            f"model.global_batch_size={model.global_batch_size} pairs over {settings.data_parallel_size} data-parallel "
            f"ranks leaves some without a pair. Raise it to at least {settings.data_parallel_size}."
        )


def _width(architecture: Architecture) -> str:
    """Give Megatron's name of `ffn_size`."""
    return "moe_ffn_hidden_size" if architecture.experts else "ffn_hidden_size"


def _check_precision(settings: Settings, architecture: Architecture) -> None:
    """Check what FP8 needs."""
    model = settings.model
    if model.fp8_param_gather:
        _check_gather(model)
    if not model.fp8:
        return
    start = f"model.fp8={model.fp8}"
    if settings.trainer.precision != "bf16-mixed":
        raise UserError(f"{start} needs trainer.precision=bf16-mixed, got {settings.trainer.precision}.")
    if model.first_last_layers_bf16:
        _check_ends(model, architecture.num_layers)
    tp = model.tensor_model_parallel_size
    shared = {
        _width(architecture): architecture.ffn_size,
        "num_attention_heads x kv_channels": architecture.query_size,
        "num_query_groups x kv_channels": architecture.key_size,
    }
    multiple_of = COLUMNS[model.fp8_recipe]
    of_hidden = RECIPES["blockwise"] if model.fp8_recipe == "blockwise" and model.sequence_parallel else multiple_of
    if architecture.hidden_size % of_hidden:
        raise UserError(
            f"{start} with model.fp8_recipe={model.fp8_recipe} needs a multiple of {of_hidden}: hidden_size="
            f"{architecture.hidden_size} is none. Set another recipe, or model.fp8=null."
        )
    for name, size in shared.items():
        if size // tp % multiple_of:
            where = " on each tensor-parallel rank" if tp > 1 else ""
            raise UserError(
                f"{start} with model.fp8_recipe={model.fp8_recipe} needs multiples of {multiple_of}: "
                f"{name}={size // tp}{where} is none. Set another recipe, or model.fp8=null."
            )


def _check_gather(model: ModelSettings) -> None:
    """Check what weights in FP8 alone need.

    Source of the last three: megatron-core 0.15.3, optimizer/{cpu_offloading/hybrid_optimizer,distrib_optimizer}.py;
    transformer-engine 2.9, pytorch/tensor/utils.py.
    """
    start = "model.fp8_param_gather=true"
    optim = model.optim
    if not model.fp8:
        raise UserError(f"{start} needs model.fp8, got null. Set model.fp8=hybrid, or leave it out.")
    if optim.name != "distributed_fused_adam":
        raise UserError(f"{start} needs model.optim.name=distributed_fused_adam, got {optim.name}.")
    if model.peft.lora:
        raise UserError(f"{start} with model.peft.peft_scheme=lora: these weights are not trained. Leave it out.")
    if model.fp8_recipe == "mxfp8":
        raise UserError(f"{start} with model.fp8_recipe=mxfp8: weights cannot be cast to it. Leave it out.")
    if optim.optimizer_cpu_offload:
        raise UserError(
            f"{start} with model.optim.optimizer_cpu_offload=true: the host has no weights in FP8. Unset one."
        )
    if model.fp8_recipe == "delayed" and optim.use_precision_aware_optimizer:
        raise UserError(
            f"{start} with model.fp8_recipe=delayed and model.optim.use_precision_aware_optimizer=true: the optimizer "
            "would need a main copy of its own. Set model.fp8_recipe=tensorwise."
        )


def _check_ends(model: ModelSettings, num_layers: int) -> None:
    if model.fp8_recipe == "delayed":
        raise UserError(
            "model.first_last_layers_bf16=true with model.fp8_recipe=delayed: Transformer Engine scales all layers "
            "together then. Set model.fp8_recipe=tensorwise."
        )
    ends = model.num_layers_at_start_in_bf16, model.num_layers_at_end_in_bf16
    if min(ends) < 0 or sum(ends) > num_layers:
        raise UserError(
            f"model.num_layers_at_start_in_bf16={ends[0]} and model.num_layers_at_end_in_bf16={ends[1]}: expected 0 or "
            f"more, together at most num_layers={num_layers}."
        )


def _check_adapters(model: ModelSettings, architecture: Architecture) -> None:
    lora = model.peft.lora
    if lora is None:
        return
    allowed = dict.fromkeys(_ADAPTABLE, "")
    if architecture.experts:
        allowed |= dict.fromkeys(("linear_fc1", "linear_fc2"), "experts share no adapter here")
    if architecture.family.has_post_norms:
        allowed |= dict.fromkeys(("linear_proj", "linear_fc2"), "its output is normalised, so nothing could be merged")
    for name in lora.target_modules or ["nothing"]:
        if allowed.get(name, "not a layer with adapters"):
            possible = ", ".join(name for name, why in allowed.items() if not why)
            raise UserError(
                f"model.peft.lora_tuning.target_modules: expected some of {possible}, got {name}. "
                f"{allowed.get(name, '')}"
            )
    tp = model.tensor_model_parallel_size
    divides(tp, "tensor_model_parallel_size", lora.adapter_dim, "peft.lora_tuning.adapter_dim")
