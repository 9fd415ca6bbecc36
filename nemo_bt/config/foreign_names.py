"""What other trainers call a setting -> what to type here. A new name is a new entry.

A name is looked up with its section (`trainer.rm.max_steps`), then by its last words. It imports nothing.
"""

from __future__ import annotations

_BATCH = "model.global_batch_size"
_STREAM = "model.data.tokens_per_micro_batch"
_LENGTH = "model.encoder_seq_length"
_EVERY = "exp_manager.checkpoint_callback_params.every_n_train_steps"
_LAST_N = "exp_manager.checkpoint_callback_params.save_last_n"
_LOG_DIR = "exp_manager.explicit_log_dir"
_VALIDATION = "model.data.validation"
_CHECK = "trainer.val_check_interval"
_ORIGIN = "model.restore_from_path"
_RECOMPUTE = "model.activations_checkpoint_granularity"
_SHARD = "model.optim.name=distributed_fused_adam"
_LORA = "model.peft.lora_tuning"

RENAMED = {
    # NeMo-Aligner, NeMo 1
    "pretrained_checkpoint.restore_from_path": _ORIGIN,
    "trainer.rm.max_epochs": "trainer.max_epochs",
    "trainer.rm.max_steps": "trainer.max_steps",
    "trainer.rm.val_check_interval": _CHECK,
    "trainer.rm.limit_val_batches": "trainer.limit_val_batches",
    "trainer.rm.gradient_clip_val": "trainer.gradient_clip_val",
    "trainer.rm.save_interval": _EVERY,
    "micro_batch_size": _STREAM,
    "data_prefix": "model.data.train=[{path: ..., fraction: ...}], and model.data.validation",
    "forward_micro_batch_size": _STREAM,
    "seq_length": _LENGTH,
    "hidden_dropout": "nothing: dropout is off",
    "attention_dropout": "nothing: dropout is off",
    "bucket_cap_mb": "nothing: Megatron sizes its buckets itself",
    "overlap_grad_sync": "model.optim.overlap_grad_reduce",
    "overlap_param_sync": "model.optim.overlap_param_gather",
    "grad_sync_dtype": "model.optim.grad_reduce_in_fp32",
    "constant_steps": "nothing: the schedule ends at min_lr, which it holds",
    "exp_dir": _LOG_DIR,
    "save_nemo_on_train_end": "nothing: every checkpoint is a .nemo, and the end is always saved",
    "create_checkpoint_callback": "nothing: the end is always saved",
    "resume_ignore_no_checkpoint": "nothing: resume_if_exists starts anew where there is none",
    "mcore_gpt": "nothing: the model is always Megatron-Core's",
    "megatron_amp_O2": "trainer.precision",
    "transformer_engine": "nothing: Transformer Engine is used where it is installed",
    "reward_model_type": "nothing: the loss is the Bradley-Terry loss (binary_ranking), with the terms of model.loss",
    **dict.fromkeys(
        ("regression", "num_attributes", "merge_attributes", "attribute_weights", "loss_mask_val"),
        "nothing: one reward is learnt from preferences; regression on attributes (SteerLM) is not to be had here",
    ),
    **dict.fromkeys(("output_sequence", "use_avg_pool"), "nothing: the reward is that of the last token"),
    "reward_standardization": "nothing: rewards are standardised where they are read, by score.normalize=true",
    "model_parallel_size": "model.tensor_model_parallel_size",
    "filename": "exp_manager.name",
    "ema": "nothing: there is no moving average of weights",
    "model.seed": "trainer.seed",
    "data_seed": "trainer.seed",
    "tokenizer.model": "model.tokenizer.type",
    "sched.max_steps": "trainer.max_steps",
    "use_flash_attention": "model.attention_backend",
    "make_vocab_size_divisible_by": "nothing: the embedding is padded as the layout needs it",
    "contiguous_grad_buffer": "nothing: gradients always lie in one buffer",
    **dict.fromkeys(
        ("data_impl", "splits_string", "skip_warmup", "dataloader_type", "index_mapping_dir", "eod_mask_loss"),
        "nothing: data are files of preferences, tokenised once into a cache",
    ),
    **dict.fromkeys(
        ("reset_position_ids", "reset_attention_mask"), "nothing: every pair of a stream has its own positions and mask"
    ),
    "shuffle_train_data": "nothing: pairs are shuffled anew in each epoch, by trainer.seed",
    "always_save_nemo": "nothing: every checkpoint is a .nemo",
    "log_step_timing": "nothing: the time of a step is always logged",
    "use_datetime_version": "nothing: a run has the folder of exp_manager.explicit_log_dir",
    "trainer.logger": "nothing: exp_manager.create_wandb_logger and its like say where a run is logged",
    "megatron_legacy": "nothing: the model is always Megatron-Core's",
    "dist_ckpt_format": "nothing: checkpoints are Megatron's distributed ones",
    "accumulate_grad_batches": _BATCH,
    "limit_train_batches": "trainer.max_steps",
    "use_distributed_sampler": "nothing: the sampler is always exact over all ranks",
    "enable_checkpointing": "nothing: the end is always saved, and more by every_n_train_steps",
    "max_time": "exp_manager.max_time_per_run",
    "library": "nothing: tokenizers are Hugging Face folders (model.tokenizer.type)",
    "rotary_percentage": "nothing: the checkpoint's config.json has it",
    # NeMo 2
    "log.log_dir": _LOG_DIR,
    "log_dir": _LOG_DIR,
    "restore_config.path": _ORIGIN,
    "recompute_granularity": _RECOMPUTE,
    "recompute_method": "model.activations_checkpoint_method",
    "recompute_num_layers": "model.activations_checkpoint_num_layers",
    # TRL, and the arguments of transformers' Trainer, which ms-swift and LLaMA-Factory have too
    "model_name_or_path": _ORIGIN,
    "output_dir": _LOG_DIR,
    "run_name": "exp_manager.name",
    "dataset_name": "model.data.train",
    "train_dataset": "model.data.train",
    "eval_dataset": _VALIDATION,
    "val_dataset": _VALIDATION,
    "per_device_train_batch_size": f"{_BATCH}=..., that times the accumulated steps and the devices",
    "per_device_eval_batch_size": _STREAM,
    "gradient_accumulation_steps": f"{_BATCH}=..., the pairs of a device times these and the devices",
    "learning_rate": "model.optim.lr",
    "lr_scheduler_type": "model.optim.sched.name",
    "num_train_epochs": "trainer.max_epochs",
    "max_length": _LENGTH,
    "max_grad_norm": "trainer.gradient_clip_val",
    "adam_beta1": "model.optim.betas",
    "adam_beta2": "model.optim.betas",
    "adam_epsilon": "model.optim.eps",
    "eval_steps": _CHECK,
    "eval_strategy": _CHECK,
    "evaluation_strategy": _CHECK,
    "eval_on_start": "trainer.validate_at_start",
    "logging_steps": "trainer.log_every_n_steps",
    "save_steps": _EVERY,
    "save_strategy": _EVERY,
    "save_total_limit": _LAST_N,
    "load_best_model_at_end": "exp_manager.checkpoint_callback_params.save_top_k",
    "metric_for_best_model": "exp_manager.checkpoint_callback_params.monitor",
    "resume_from_checkpoint": "exp_manager.resume_if_exists",
    "report_to": "exp_manager.create_wandb_logger",
    "bf16": "trainer.precision=bf16-mixed",
    "fp16": "trainer.precision",
    "dtype": "trainer.precision",
    "torch_dtype": "trainer.precision",
    "gradient_checkpointing": f"{_RECOMPUTE}=full",
    "gradient_checkpointing_kwargs": "model.activations_checkpoint_method",
    "chat_template_path": "model.data.chat_template",
    "model_revision": f"{_ORIGIN}=organisation/model@...",
    "dataset_config": "model.data.train=[{path: ..., subset: ...}]",
    "dataset_train_split": "model.data.train=[{path: ..., split: ...}]",
    "dataset_test_split": "model.data.validation={test: {path: ..., split: ...}}",
    "do_eval": _VALIDATION,
    "data.eval": _VALIDATION,
    "eos_token": "nothing: texts end as their chat template ends them, else with the tokenizer's own token",
    **dict.fromkeys(("push_to_hub", "hub_model_id"), "nothing: nemo-bt export --push-to-hub does it afterwards"),
    "lora_modules_to_save": "nothing: the head always trains in full",
    "lora_task_type": "nothing: the model is always a reward model",
    **dict.fromkeys(("use_rslora", "use_dora"), "nothing: adapters are plain LoRA, with model.peft.lora_tuning.alpha"),
    **dict.fromkeys(("load_in_4bit", "load_in_8bit"), "nothing: weights are fp32 or bf16, by trainer.precision"),
    "group_by_length": "nothing: pairs of any lengths share streams, without padding",
    "overwrite_output_dir": "nothing: no run writes over another; exp_manager.resume_if_exists continues one",
    "save_only_model": "nothing: a checkpoint has all that resuming needs",
    "use_liger_kernel": "nothing: kernels are Megatron's and Transformer Engine's",
    "attn_implementation": "model.attention_backend",
    "attn_impl": "model.attention_backend",
    "deepspeed": _SHARD,
    "fsdp": _SHARD,
    "use_peft": "model.peft.peft_scheme=lora",
    "train_type": "model.peft.peft_scheme",
    "tuner_type": "model.peft.peft_scheme",
    "finetuning_type": "model.peft.peft_scheme",
    "lora_r": f"{_LORA}.adapter_dim",
    "lora_rank": f"{_LORA}.adapter_dim",
    "lora_alpha": f"{_LORA}.alpha",
    "lora_dropout": f"{_LORA}.adapter_dropout",
    "lora_target_modules": f"{_LORA}.target_modules",
    "lora_target": f"{_LORA}.target_modules",
    "target_modules": f"{_LORA}.target_modules",
    "dataset_num_proc": "model.data.num_workers",
    "dataloader_num_workers": "nothing: pairs are tokenised before, and read from the cache",
    "remove_unused_columns": "model.data.ignore_columns",
    "disable_dropout": "nothing: dropout is off",
    "template": "model.data.chat_template",
    "packing": "nothing: pairs are always packed, exactly",
    "split_dataset_ratio": _VALIDATION,
    # OpenRLHF
    "pretrain": _ORIGIN,
    "save_path": _LOG_DIR,
    "ckpt_path": _LOG_DIR,
    "train_batch_size": _BATCH,
    "micro_train_batch_size": _STREAM,
    "max_len": _LENGTH,
    "max_samples": "model.data.train=[{path: ..., count: ...}]",
    "dataset": "model.data.train",
    "dataset_probs": "model.data.train=[{path: ..., fraction: ...}]",
    "zero_stage": _SHARD,
    "adam_offload": "model.optim.optimizer_cpu_offload",
    "packing_samples": "nothing: pairs are always packed, exactly",
    "flash_attn": "model.attention_backend",
    "margin_loss": "model.loss.margin",
    "aux_loss_coef": "model.moe_aux_loss_coeff",
    "lr_warmup_ratio": "model.optim.sched.warmup_ratio",
    "ring_attn_size": "model.context_parallel_size",
    "ds_tensor_parallel_size": "model.tensor_model_parallel_size",
    "apply_chat_template": "model.data.chat_template",
    "use_wandb": "exp_manager.create_wandb_logger",
    "l2": "model.optim.weight_decay",
    # verl
    "train_files": "model.data.train",
    "val_files": _VALIDATION,
    "micro_batch_size_per_gpu": _STREAM,
    "partial_pretrain": _ORIGIN,
    "enable_gradient_checkpointing": _RECOMPUTE,
    "lr_warmup_steps_ratio": "model.optim.sched.warmup_ratio",
    "total_epochs": "trainer.max_epochs",
    "total_training_steps": "trainer.max_steps",
    "default_local_dir": _LOG_DIR,
    "experiment_name": "exp_manager.name",
    "project_name": "exp_manager.wandb_logger_kwargs",
    "n_gpus_per_node": "trainer.devices",
    "nproc_per_node": "trainer.devices",
    "nnodes": "trainer.num_nodes",
    "save_freq": _EVERY,
    "test_freq": _CHECK,
    "ulysses_sequence_parallel_size": "model.context_parallel_size",
}
"""Name -> the setting here, or `nothing: ` and why it can be left out."""


def renamed(key: str) -> str | None:
    """Find what a key of another trainer is here; None where it is nobody's."""
    words = key.replace("-", "_").split(".")
    tails = (".".join(words[start:]) for start in range(len(words)))
    heads = (word for word in reversed(words) if RENAMED.get(word, "").startswith("nothing"))  # ema.enable, say
    return next((RENAMED[tail] for tail in tails if tail in RENAMED), None) or next(map(RENAMED.get, heads), None)


VALUES = {
    "cosine": "CosineAnnealing",
    "linear": "WarmupAnnealing",
    "polynomial": "PolynomialDecayAnnealing",
    "inverse_sqrt": "InverseSquareRootAnnealing",
    "constant_with_warmup": "constant",
    **dict.fromkeys(("adamw", "adamw_torch", "adamw_torch_fused", "fused_adam"), "adam"),
    **dict.fromkeys(("bf16", "bfloat16"), "bf16-mixed"),
    **dict.fromkeys(("fp32", "float32"), "32"),
}
"""What other trainers call a value of a setting with a choice -> its name here."""

SAME_VALUE = {
    *("learning_rate", "seq_length", "max_length", "max_len", "output_dir", "log_dir", "exp_dir", "save_path"),
    "run_name",
    *("experiment_name", "model_name_or_path", "pretrain", "partial_pretrain", "num_train_epochs", "total_epochs"),
    *("total_training_steps", "max_grad_norm", "adam_epsilon", "l2", "eval_steps", "logging_steps", "save_steps"),
    *("save_interval", "save_freq", "test_freq", "save_total_limit", "lora_r", "lora_rank", "lora_alpha"),
    "lora_dropout",
    *("lr_warmup_ratio", "lr_warmup_steps_ratio", "aux_loss_coef", "ring_attn_size", "ds_tensor_parallel_size"),
    *("train_batch_size", "train_files", "dataset_num_proc", "n_gpus_per_node", "nproc_per_node", "nnodes"),
    *("ulysses_sequence_parallel_size", "default_local_dir", "train_dataset"),
}
"""Names whose value means here what it means there."""
