"""Equations between the settings of a layout and numbers of layers and experts.

Each raises UserError with the equation that fails. `nemo_bt.training.layout_checks` asks them of a model.
"""

from __future__ import annotations

from typing import TypeAlias

from nemo_bt.config.job import ParallelSettings
from nemo_bt.config.model import JobSettings, ModelSettings, Settings
from nemo_bt.errors import UserError

_OFFLOADED = ("distributed_fused_adam", "fp32", "fp32")
"""Optimizer and moments that Megatron can resume offloaded: it does not make such a state of the others again."""


def stage_layers(model: ParallelSettings, num_layers: int) -> list[int]:
    """Count the layers of each pipeline rank.

    32 layers on four ranks with 6 in the first stage and 8 in the last: [6, 9, 9, 8].

    Raises:
        UserError: they cannot be shared out like that.
    """
    pp = model.pipeline_model_parallel_size
    first = model.num_layers_in_first_pipeline_stage
    last = model.num_layers_in_last_pipeline_stage
    at_start, at_end = ([layers] if layers is not None else [] for layers in (first, last))
    given = at_start + at_end
    if not given:
        divides(pp, "pipeline_model_parallel_size", num_layers, "num_layers")
        return [num_layers // pp] * pp
    rest = num_layers - sum(given)
    stages = pp - len(given)
    if pp == 1 or min(given) < 1 or rest < stages or (stages and rest % stages) or (rest and not stages):
        raise UserError(
            f"model.num_layers={num_layers} minus {' and '.join(map(str, given))} (num_layers_in_first_pipeline_stage="
            f"{first}, num_layers_in_last_pipeline_stage={last}) are {rest} layers for the other {stages} of "
            f"pipeline_model_parallel_size={pp} stages: expected the same on each, 1 or more. Change one of them."
        )
    middle = [rest // stages] * stages if stages else []
    return at_start + middle + at_end


def divides(divisor: int, divisor_name: str, number: int, name: str) -> None:
    """Check that model.`name` is a multiple of model.`divisor_name`.

    Raises:
        UserError: it is not.
    """
    if number % divisor:
        raise UserError(
            f"model.{name}={number} is not a multiple of model.{divisor_name}={divisor} "
            f"({number} / {divisor} = {number / divisor:.3f}). Change one of them."
        )


def check_world(settings: JobSettings) -> None:
    """Check that the ranks of a job make whole replicas of its model."""
    model = settings.model
    tp = model.tensor_model_parallel_size
    pp = model.pipeline_model_parallel_size
    cp = model.context_parallel_size
    ep = model.expert_model_parallel_size
    if model.use_tp_pp_dp_mapping and pp > 1 and cp != ep:
        raise UserError(
            f"model.use_tp_pp_dp_mapping=true with pipeline_model_parallel_size={pp} needs context_parallel_size={cp} "
            f"= expert_model_parallel_size={ep}: Megatron shares experts and the rest over the same pipelines."
        )
    if settings.world_size % (tp * pp * cp):
        raise UserError(
            f"world size {settings.world_size} (trainer.devices={settings.trainer.devices} x trainer.num_nodes="
            f"{settings.trainer.num_nodes}) is not a multiple of {tp * pp * cp} (tensor_model_parallel_size={tp} x "
            f"pipeline_model_parallel_size={pp} x context_parallel_size={cp}). Change one of them."
        )


def check_pipeline(model: ParallelSettings, num_layers: int) -> None:
    """Check that layers can be shared by the stages of a pipeline, and by their parts."""
    pp = model.pipeline_model_parallel_size
    vpp = model.virtual_pipeline_model_parallel_size
    layers = stage_layers(model, num_layers)
    if vpp is None:
        return
    if vpp < 2 or pp == 1:
        raise UserError(
            f"model.virtual_pipeline_model_parallel_size={vpp} with pipeline_model_parallel_size={pp}: expected 2 or "
            "more of both, or virtual_pipeline_model_parallel_size=null."
        )
    first = model.num_layers_in_first_pipeline_stage
    last = model.num_layers_in_last_pipeline_stage
    if pp == 2 and first is not None and last is not None:
        raise UserError(
            f"model.num_layers_in_first_pipeline_stage={first} and model.num_layers_in_last_pipeline_stage={last} with "
            f"virtual_pipeline_model_parallel_size={vpp} and two stages: give one of them, the other has the rest."
        )
    for number in sorted(set(layers)):
        divides(vpp, "virtual_pipeline_model_parallel_size", number, "num_layers of a pipeline stage")


def check_experts(settings: JobSettings, num_experts: int) -> None:
    """Check that experts can be shared by the ranks; `num_experts` is 0 where a model has none."""
    model = settings.model
    tp = model.tensor_model_parallel_size
    ep = model.expert_model_parallel_size
    if num_experts and tp > 1 and not model.sequence_parallel:
        raise UserError(
            f"a model of {num_experts} experts with model.tensor_model_parallel_size={tp} needs "
            "model.sequence_parallel=true: Megatron's routing does."
        )
    if ep == 1:
        return
    if not num_experts:
        raise UserError(f"model.expert_model_parallel_size={ep} needs a model with experts; this one has none.")
    divides(ep, "expert_model_parallel_size", num_experts, "num_moe_experts")
    sharing = settings.data_parallel_size * model.context_parallel_size
    if sharing % ep:
        raise UserError(
            f"{sharing} data- and context-parallel ranks (world size {settings.world_size} over tensor_model_parallel_"
            f"size={tp} x pipeline_model_parallel_size={model.pipeline_model_parallel_size}) are not a multiple of "
            f"model.expert_model_parallel_size={ep}. Change one of them."
        )


def check_balance(settings: Settings, num_experts: int) -> None:
    """Check that a loss that balances experts has some, and that instances of the optimizer can share them."""
    model = settings.model
    if model.moe_aux_loss_coeff and not num_experts:
        raise UserError(
            f"model.moe_aux_loss_coeff={model.moe_aux_loss_coeff} needs a model with experts; this one has none."
        )
    ep = model.expert_model_parallel_size
    instances = model.optim.num_distributed_optimizer_instances
    sharing = settings.data_parallel_size * model.context_parallel_size
    if ep > 1 and sharing // ep % instances:
        raise UserError(
            f"{sharing // ep} ranks that share an expert ({sharing} data- and context-parallel ranks over "
            f"expert_model_parallel_size={ep}) are not a multiple of model.optim.num_distributed_optimizer_instances="
            f"{instances}. Change one of them."
        )


Recomputation: TypeAlias = tuple[str | None, str | None, int | None]
"""Granularity, method and number of layers."""


def recomputation(model: ModelSettings) -> Recomputation:
    """Give what is recomputed: full, without anything else set, is every layer by itself."""
    found = (
        model.activations_checkpoint_granularity,
        model.activations_checkpoint_method,
        model.activations_checkpoint_num_layers,
    )
    return ("full", "uniform", 1) if found == ("full", None, None) else found


def check_recompute(model: ModelSettings, num_layers: int) -> None:
    """Check that full recomputation has a method and a possible number of layers, and nothing else has them."""
    granularity, method, number = recomputation(model)
    start = "model.activations_checkpoint_"
    if (granularity == "full") != (method is not None) or (method is None) != (number is None):
        raise UserError(
            f"{start}granularity={granularity}, {start}method={method}, {start}num_layers={number}: full needs a "
            "method (uniform or block) and a number of layers, or neither. With another granularity, leave both out."
        )
    if number is not None:
        parts = model.virtual_pipeline_model_parallel_size or 1
        most = max(stage_layers(model, num_layers)) // parts
        if not 1 <= number <= most:
            raise UserError(f"{start}num_layers: expected 1 to {most}, the layers of a stage, got {number}.")
        if method == "uniform":
            for layers in sorted({layers // parts for layers in stage_layers(model, num_layers)}):
                divides(number, "activations_checkpoint_num_layers", layers, "num_layers of a part of the pipeline")


def overlaps(settings: Settings, on_gpu: bool) -> tuple[bool, bool]:
    """Tell whether gradients are reduced, and weights gathered, while layers compute.

    gloo sends with the cores that compute, so that nothing is won on CPUs.
    """
    optim = settings.model.optim
    sharing = settings.data_parallel_size * settings.model.context_parallel_size
    usual = on_gpu and sharing > 1 and optim.name == "distributed_fused_adam"
    reduces = usual or bool(optim.overlap_param_gather)
    if optim.overlap_grad_reduce is not None:
        reduces = optim.overlap_grad_reduce
    gathers = reduces and optim.name == "distributed_fused_adam"
    if optim.overlap_param_gather is not None:
        gathers = optim.overlap_param_gather
    return reduces, gathers


def check_optimizer(settings: Settings) -> None:
    """Check what the optimizer keeps, and which ranks share it."""
    optim = settings.model.optim
    for name in ("main_grads_dtype", "exp_avg_dtype", "exp_avg_sq_dtype"):
        found = getattr(optim, name)
        if found != "fp32" and not optim.use_precision_aware_optimizer:
            raise UserError(f"model.optim.{name}={found} needs model.optim.use_precision_aware_optimizer=true.")
    if optim.use_precision_aware_optimizer and optim.name != "distributed_fused_adam":
        raise UserError(
            "model.optim.use_precision_aware_optimizer=true needs model.optim.name=distributed_fused_adam, got "
            f"{optim.name}."
        )
    reduces = optim.overlap_grad_reduce
    if optim.overlap_param_gather and (optim.name != "distributed_fused_adam" or reduces is False):
        raise UserError(
            "model.optim.overlap_param_gather=true needs model.optim.name=distributed_fused_adam and not "
            f"overlap_grad_reduce=false, got {optim.name} and {'null' if reduces is None else str(reduces).lower()}."
        )
    if optim.bucket_size and not (optim.name == "distributed_fused_adam" if reduces is None else reduces):
        raise UserError(
            f"model.optim.bucket_size={optim.bucket_size} is of gradients that are reduced while layers compute: set "
            "model.optim.overlap_grad_reduce=true too."
        )
    if optim.optimizer_cpu_offload and (optim.name, optim.exp_avg_dtype, optim.exp_avg_sq_dtype) != _OFFLOADED:
        raise UserError(
            "model.optim.optimizer_cpu_offload=true needs model.optim.name=distributed_fused_adam and moments in fp32, "
            f"got {optim.name}, exp_avg_dtype={optim.exp_avg_dtype} and exp_avg_sq_dtype={optim.exp_avg_sq_dtype}."
        )
    instances = optim.num_distributed_optimizer_instances
    if instances == 1:
        return
    if optim.name != "distributed_fused_adam":
        raise UserError(
            f"model.optim.num_distributed_optimizer_instances={instances} needs model.optim.name="
            f"distributed_fused_adam, got {optim.name}."
        )
    sharing = settings.data_parallel_size * settings.model.context_parallel_size
    if sharing % instances:
        raise UserError(
            f"{sharing} data- and context-parallel ranks are not a multiple of "
            f"model.optim.num_distributed_optimizer_instances={instances}. Change one of them."
        )
