"""What can be configured of a run beside its model: `trainer` and `exp_manager`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrainerSettings:
    """How long, on what and how often. Names and meaning are Lightning's, except that a batch is a step."""

    devices: int
    """Processes per node: one per GPU, or that many CPU ranks."""
    num_nodes: int
    accelerator: str
    """auto (GPU if there is one), gpu or cpu."""
    precision: str
    """32 or bf16-mixed. The reward head and the loss are fp32 in both."""
    max_epochs: int
    """Passes over the training pairs; ignored when max_steps is set."""
    max_steps: int
    """Optimizer steps; -1 derives them from max_epochs."""
    val_check_interval: int | float
    """int: validate every so many steps. float in (0, 1]: every such fraction of the run."""
    limit_val_batches: int | float
    """1.0: every pair of every set. int: that many global batches of each set. 0: never validate."""
    gradient_clip_val: float
    """Largest global gradient norm; 0 turns clipping off."""
    log_every_n_steps: int
    validate_at_start: bool
    """Validate before the first step too."""
    max_nonfinite_steps: int
    """Steps in a row whose loss or gradient is not finite, after which the run stops; each of them is skipped."""
    loss_spike_factor: float
    """Warn when a logged loss is so many of their usual deviations above the ones before; 0 never does."""
    hang_timeout_s: float
    """Seconds without a step, validation batch or save after which a rank says where it is and ends the run."""
    peak_flops_per_device: float | None
    """FLOP/s that train/mfu is a fraction of; null takes the bf16 peak of the known GPUs (nemo_bt/flops.py)."""
    seed: int
    """Of the initial weights and of the order of pairs."""


@dataclass(frozen=True)
class CheckpointSettings:
    """exp_manager.checkpoint_callback_params."""

    every_n_train_steps: int
    """Optimizer steps between checkpoints; 0 saves only at the end."""
    save_last_n: int
    """Newest checkpoints kept; 0 keeps all. The two below keep more."""
    save_top_k: int
    """Best checkpoints kept, by `monitor`, of those whose step was validated."""
    monitor: str | None
    """A validation metric: val/<set>/loss, val/<set>/accuracy, ..."""
    mode: str
    """min or max: which values of `monitor` are good ones."""
    keep_every_n_train_steps: int
    """Keep checkpoints of every so many steps; 0 keeps none for that reason."""
    async_save: bool
    """Write in processes beside the training, and name the checkpoint when all have. A failure before that leaves the
    checkpoint before; false writes each one before the next step."""


@dataclass(frozen=True)
class EarlyStoppingSettings:
    """exp_manager.early_stopping_callback_params, Lightning's."""

    monitor: str | None
    """A validation metric: val/<set>/loss, val/<set>/accuracy, ..."""
    mode: str
    """min or max."""
    min_delta: float
    """Smallest change that counts as better."""
    patience: int
    """Validations in a row that are not better, after which the run ends."""


@dataclass(frozen=True)
class ExpManagerSettings:
    """Where a run writes and whether it continues."""

    explicit_log_dir: str
    name: str
    resume_if_exists: bool
    """Continue from the newest whole checkpoint in the log directory, if there is one."""
    max_time_per_run: str | None
    """days:hours:minutes:seconds from the start of the process, after which the run saves and ends, to be resumed."""
    trust_checkpoint: bool
    """Resume even from a checkpoint that holds more than tensors and plain data: unpickling it can run code."""
    create_tensorboard_logger: bool
    create_wandb_logger: bool
    wandb_logger_kwargs: dict[str, Any]
    """project, offline, tags, ...: arguments of Lightning's WandbLogger, and of wandb.init."""
    create_swanlab_logger: bool
    swanlab_logger_kwargs: dict[str, Any]
    """project, mode (offline, local), workspace, ...: arguments of SwanLab's logger for Lightning."""
    checkpoint_callback_params: CheckpointSettings
    create_early_stopping_callback: bool
    early_stopping_callback_params: EarlyStoppingSettings
