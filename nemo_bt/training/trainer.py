"""Settings -> NeMo's model, strategy and Trainer. Importing this file imports NeMo (11 s)."""

from __future__ import annotations

from collections.abc import Sequence

import lightning.pytorch as pl
import nemo.lightning as nl
import torch
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from megatron.core import tensor_parallel
from megatron.core.distributed import DistributedDataParallelConfig
from megatron.core.optimizer import OptimizerConfig
from megatron.core.transformer.enums import AttnBackend
from nemo.collections.common.tokenizers import AutoTokenizer
from nemo.lightning.pytorch.optim import MegatronOptimizerModule

from nemo_bt.config.device import has_transformer_engine
from nemo_bt.config.fp8 import fp8_options
from nemo_bt.config.model import Settings
from nemo_bt.config.parallelism import overlaps, recomputation
from nemo_bt.launching.local import joined
from nemo_bt.losses.choose import AnyLoss
from nemo_bt.model.config import reward_config
from nemo_bt.model.reward_model import RewardModel
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.pretrained.resolve import InitialWeights
from nemo_bt.training.callbacks.validation import NEVER
from nemo_bt.training.lr_schedule import Schedule, options_of
from nemo_bt.training.strategy import CheckedStrategy

_PARAMETERS = {"32": torch.float32, "bf16-mixed": torch.bfloat16}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.uint8}


def build_model(
    settings: Settings,
    architecture: Architecture,
    initial: InitialWeights | None,
    tokenizer_folder: str,
    num_steps: int,
    on_gpu: bool,
    loss_fn: AnyLoss | None = None,
) -> RewardModel:
    """Build the reward model without its weights, which NeMo allocates when the Trainer starts.

    Args:
        initial: initial weights; None for random ones, or where the run resumes and its checkpoint has all.
        tokenizer_folder: folder that is saved with the checkpoint.
        num_steps: length of the run, for the learning-rate schedule.
        on_gpu: whether ranks have a GPU each.
        loss_fn: the user's own loss; None takes the one of the settings.
    """
    granularity, method, num_recomputed = recomputation(settings.model)
    is_interleaved = settings.model.virtual_pipeline_model_parallel_size is not None
    fields = {
        # Two pipeline ranks are each other's previous and next: if batched, their messages would be mistaken.
        "overlap_p2p_comm": is_interleaved,
        "batch_p2p_comm": not is_interleaved,
        "batch_p2p_sync": False,  # the host would wait for the GPU after each message
        # Megatron's own linear layers, which adapters are, would need Apex for it.
        "gradient_accumulation_fusion": has_transformer_engine() and not settings.model.peft.lora,
        "moe_aux_loss_coeff": settings.model.moe_aux_loss_coeff,
        "recompute_granularity": granularity,
        "recompute_method": method,
        "recompute_num_layers": num_recomputed,
        "tie": settings.model.loss.tie if settings.model.loss.learn_tie else None,
        "attention_backend": AttnBackend[settings.model.attention_backend],
        "fp8_param": settings.model.fp8_param_gather,
        **fp8_options(settings.model),
    }
    config = reward_config(architecture, settings.model.encoder_seq_length, **fields)
    return RewardModel(
        config,
        loss=settings.model.loss,
        optim=_build_optim(settings, num_steps, on_gpu),
        tokenizer=AutoTokenizer(tokenizer_folder),
        lora=settings.model.peft.lora,
        initial_weights=initial,
        loss_fn=loss_fn,
        adapter_seed=settings.trainer.seed,
    )


def build_trainer(settings: Settings, num_steps: int, on_gpu: bool, callbacks: Sequence[pl.Callback]) -> nl.Trainer:
    """Build NeMo's Trainer with its MegatronStrategy at the configured layout.

    It has no loggers: NeMo would tell them its own numbers too, a step late. Ours get theirs from `MetricsLog`.
    """
    trainer = settings.trainer
    model = settings.model
    strategy = CheckedStrategy(
        tensor_model_parallel_size=model.tensor_model_parallel_size,
        pipeline_model_parallel_size=model.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=model.virtual_pipeline_model_parallel_size,
        num_layers_in_first_pipeline_stage=model.num_layers_in_first_pipeline_stage,
        num_layers_in_last_pipeline_stage=model.num_layers_in_last_pipeline_stage,
        context_parallel_size=model.context_parallel_size,
        expert_model_parallel_size=model.expert_model_parallel_size,
        use_tp_pp_dp_mapping=model.use_tp_pp_dp_mapping,
        sequence_parallel=model.sequence_parallel,
        num_distributed_optimizer_instances=model.optim.num_distributed_optimizer_instances,
        ddp=_build_ddp(settings, on_gpu),
        process_group_backend="nccl" if on_gpu else "gloo",
        ckpt_async_save=settings.exp_manager.checkpoint_callback_params.async_save,
        ckpt_torch_dist_multiproc=None if on_gpu else 1,  # each is a forked process, dearer than a small model
        ckpt_optim_fully_reshardable=True,
        # Else every rank gathers the optimizer's state: 8 bytes a parameter on its GPU, 12 in its host's memory.
        distrib_optim_fully_reshardable_mem_efficient=True,
        replace_progress_bar=False,  # NeMo's printer makes rank 0 issue a collective more than the others
    )
    # Lightning would go by the name of a Slurm job, which says nothing of who started this process.
    strategy.cluster_environment = TorchElasticEnvironment() if joined() else LightningEnvironment()
    strategy.log_train_loss = False  # saves one broadcast a step: the monitor reduces what is logged
    built = nl.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=trainer.devices,
        num_nodes=trainer.num_nodes,
        strategy=strategy,
        # The plugin writes its value over that of the strategy's ddp (megatron_strategy.py:499).
        plugins=nl.MegatronMixedPrecision(
            precision=trainer.precision,
            params_dtype=_PARAMETERS[trainer.precision],  # else fp32, and a copy in bf16 later
            grad_reduce_in_fp32=model.optim.grad_reduce_in_fp32,
            fp8_param_gather=model.fp8_param_gather,
            **fp8_options(model),
        ),
        max_steps=num_steps,
        max_epochs=-1,
        limit_val_batches=trainer.limit_val_batches or 0,
        val_check_interval=NEVER,  # nemo_bt.training.callbacks.validation says when
        check_val_every_n_epoch=None,
        log_every_n_steps=trainer.log_every_n_steps,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        use_distributed_sampler=False,
    )
    # They are set after construction: NeMo copies the arguments into every checkpoint's context.
    built.callbacks.extend([SeedCallback(trainer.seed), *callbacks])
    return built


class SeedCallback(pl.Callback):
    """Seeds the initial weights; NeMo itself always takes 1234 (strategies/utils.py:96)."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Seed when the ranks are up and before the model is built."""
        torch.manual_seed(self.seed)
        tensor_parallel.model_parallel_cuda_manual_seed(self.seed)


def _build_ddp(settings: Settings, on_gpu: bool) -> DistributedDataParallelConfig:
    optim = settings.model.optim
    reduces, gathers = overlaps(settings, on_gpu)
    return DistributedDataParallelConfig(
        use_distributed_optimizer=optim.name == "distributed_fused_adam",
        num_distributed_optimizer_instances=optim.num_distributed_optimizer_instances,
        overlap_grad_reduce=reduces,
        overlap_param_gather=gathers,
        bucket_size=optim.bucket_size,
        check_for_nan_in_grad=False,  # it would end a rank; NonFiniteGuard skips the step on all
        grad_reduce_in_fp32=optim.grad_reduce_in_fp32,
    )


def _build_optim(settings: Settings, num_steps: int, on_gpu: bool) -> MegatronOptimizerModule:
    optim = settings.model.optim
    _, gathers = overlaps(settings, on_gpu)
    schedule = Schedule(optim.sched.name, options_of(optim.sched, num_steps))
    config = OptimizerConfig(
        optimizer="adam",
        lr=optim.lr,
        min_lr=optim.sched.min_lr,
        weight_decay=optim.weight_decay,
        adam_beta1=optim.betas[0],
        adam_beta2=optim.betas[1],
        adam_eps=optim.eps,
        clip_grad=settings.trainer.gradient_clip_val,
        use_distributed_optimizer=optim.name == "distributed_fused_adam",
        overlap_param_gather=gathers,
        optimizer_cpu_offload=optim.optimizer_cpu_offload,
        optimizer_offload_fraction=optim.optimizer_offload_fraction,
        overlap_cpu_optimizer_d2h_h2d=optim.optimizer_cpu_offload,
        use_precision_aware_optimizer=optim.use_precision_aware_optimizer,
        fp8_recipe=settings.model.fp8_recipe if settings.model.fp8_param_gather else None,  # who has the main copies
        main_grads_dtype=_DTYPES[optim.main_grads_dtype],
        exp_avg_dtype=_DTYPES[optim.exp_avg_dtype],
        exp_avg_sq_dtype=_DTYPES[optim.exp_avg_sq_dtype],
    )
    return MegatronOptimizerModule(config=config, lr_scheduler=schedule)
