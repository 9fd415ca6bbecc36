"""Checks of settings that a plan cannot use, before anything is counted: UserError names the first that cannot be."""

from __future__ import annotations

from nemo_bt.config.equations import check_equations
from nemo_bt.config.plan import PlanRun
from nemo_bt.errors import UserError

DECIDED = {
    "tensor_model_parallel_size": 1,
    "pipeline_model_parallel_size": 1,
    "virtual_pipeline_model_parallel_size": None,
    "context_parallel_size": 1,
    "expert_model_parallel_size": 1,
}
"""Keys of `model` that a plan decides, from the lists of the same names below `plan`, with the values of no choice."""


def check_plan(run: PlanRun) -> None:
    """Check settings of a run and of the search for its layout."""
    check_equations(run)
    _check_left_to_the_plan(run)
    _check_cluster(run)


def _check_left_to_the_plan(run: PlanRun) -> None:
    model = run.model
    for name, default in DECIDED.items():
        found = getattr(model, name)
        if found != default:
            raise UserError(f"model.{name}={found}: a plan decides it. Give plan.{name}=[{found}].")
    if model.sequence_parallel or model.activations_checkpoint_granularity:
        raise UserError(
            "model.sequence_parallel and model.activations_checkpoint_granularity: a plan decides them. Sequence "
            "parallelism comes with tensor parallelism; plan.recompute_layers says what is computed again."
        )


def _check_cluster(run: PlanRun) -> None:
    cluster = run.cluster
    if cluster.memory_bytes <= cluster.reserved_bytes:
        raise UserError(
            f"cluster.memory_bytes={cluster.memory_bytes:g}: expected more than reserved_bytes="
            f"{cluster.reserved_bytes:g}."
        )
    if cluster.precision != run.trainer.precision:
        raise UserError(
            f"trainer.precision={run.trainer.precision}: cluster.flops={cluster.flops:g} of {cluster.name} is in "
            f"{cluster.precision}. Give cluster.flops and cluster.precision for your precision."
        )
    if run.model.fp8 and cluster.fp8_flops is None:
        raise UserError(
            f"model.fp8={run.model.fp8}: expected cluster.fp8_flops, the data sheet's dense FLOP/s in FP8, got null: "
            f"{cluster.name} has no FP8, or nobody has said how much. Give it, or set model.fp8=null."
        )
