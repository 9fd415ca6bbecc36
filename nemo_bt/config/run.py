"""What can be configured beside the model: `trainer` and `exp_manager`."""

from __future__ import annotations

from dataclasses import field
from pathlib import Path
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from nemo_bt.config.fields import (
    STRICT,
    Above0,
    AtLeast0,
    Duration,
    FileName,
    FromZero,
    Interval,
    Limit,
    Seed,
    Steps,
    seconds_of,
)
from nemo_bt.config.job import DeviceSettings, PositiveInt
from nemo_bt.errors import UserError


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainerSettings(DeviceSettings):
    """How long, on what and how often. Names and meaning are Lightning's, except that a batch is a step."""

    max_epochs: PositiveInt | None = None
    """Passes over the training pairs; None is one, or as many as max_steps needs."""
    max_steps: Steps = -1
    """Optimizer steps; -1 derives them from max_epochs. Training ends at whichever of the two comes first."""
    val_check_interval: Interval = 1.0
    """int: validate every so many steps. float in (0, 1]: every such fraction of the run."""
    limit_val_batches: Limit = 1.0
    """1.0: every pair of every set. int: that many global batches of each set. 0: never validate."""
    gradient_clip_val: FromZero = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    log_every_n_steps: PositiveInt = 10
    """Optimizer steps between two lines of metrics."""
    validate_at_start: bool = False
    """Validate before the first step too."""
    max_nonfinite_steps: PositiveInt = 10
    """Steps in a row whose loss or gradient is not finite, after which the run stops; each of them is skipped."""
    loss_spike_factor: FromZero = 6.0
    """Warn when a logged loss is so many of their usual deviations above the ones before; 0 never does."""
    compare_replicas_every_n_steps: AtLeast0 = 100
    """Steps in which all bits that ranks should hold alike are compared once, a share in each step; 0 compares none."""
    hang_timeout_s: Above0 = 1800.0
    """Seconds without a step, validation batch or save after which a rank says where it is and ends the run."""
    peak_flops_per_device: Above0 | None = None
    """FLOP/s that train/mfu is a fraction of; null takes the bf16 peak of the known GPUs (nemo_bt.flops)."""
    seed: Seed = 1234
    """Decides the initial weights and the order of pairs."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckpointSettings:
    """exp_manager.checkpoint_callback_params: when checkpoints are written, and which are kept."""

    every_n_train_steps: AtLeast0 = 0
    """Optimizer steps between checkpoints; 0 saves only at the end."""
    save_last_n: AtLeast0 = 2
    """Newest checkpoints kept; 0 keeps all. The two below keep more."""
    save_top_k: AtLeast0 = 0
    """Best checkpoints kept, by `monitor`, of those whose step was validated."""
    monitor: str | None = None
    """A validation metric: val/<set>/loss, val/<set>/accuracy, ..."""
    mode: Literal["min", "max"] = "min"
    """Which values of `monitor` are good ones."""
    keep_every_n_train_steps: AtLeast0 = 0
    """Keep checkpoints of every so many steps; 0 keeps none for that reason."""
    async_save: bool = True
    """Write in processes beside the training, and name the checkpoint when all have. A failure before that leaves the
    checkpoint before; false writes each one before the next step."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EarlyStoppingSettings:
    """exp_manager.early_stopping_callback_params, Lightning's."""

    monitor: str | None = None
    """A validation metric: val/<set>/loss, val/<set>/accuracy, ..."""
    mode: Literal["min", "max"] = "min"
    """Which values of `monitor` are good ones."""
    min_delta: FromZero = 0.001
    """Smallest change that counts as better."""
    patience: PositiveInt = 10
    """Validations in a row that are not better, after which the run ends."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ExpManagerSettings:
    """Where a run writes and whether it continues."""

    explicit_log_dir: str | None = None
    """Folder of the run; training needs one."""
    name: FileName = "reward"
    """Checkpoints are <name>-step<n>.nemo."""
    resume_if_exists: bool = False
    """Continue from the newest whole checkpoint in the log directory, if there is one."""
    max_time_per_run: Duration | None = None
    """days:hours:minutes:seconds from the start of the command, or the call from Python, after which the run saves and
    ends, to be resumed."""
    trust_checkpoint: bool = False
    """Resume even from a checkpoint that holds more than tensors and plain data, as callbacks of your own may keep:
    unpickling it can run code."""
    create_tensorboard_logger: bool = False
    """Write tensorboard/ in the log directory."""
    create_wandb_logger: bool = False
    """Log to Weights & Biases."""
    wandb_logger_kwargs: dict[str, Any] = field(default_factory=dict)
    """project, offline, tags, ...: arguments of Lightning's WandbLogger, and of wandb.init."""
    create_swanlab_logger: bool = False
    """Log to SwanLab."""
    swanlab_logger_kwargs: dict[str, Any] = field(default_factory=dict)
    """project, mode (offline, local), workspace, ...: arguments of SwanLab's logger for Lightning."""
    checkpoint_callback_params: CheckpointSettings = field(default_factory=CheckpointSettings)
    create_early_stopping_callback: bool = False
    """End the run when validation gets no better."""
    early_stopping_callback_params: EarlyStoppingSettings = field(default_factory=EarlyStoppingSettings)

    @property
    def log_dir(self) -> Path:
        """Folder that the run writes to.

        Raises:
            UserError: none is given.
        """
        if self.explicit_log_dir is None:
            key = "exp_manager.explicit_log_dir"
            raise UserError(f"{key}: expected a folder to write to, got none. Give {key}=...")
        return Path(self.explicit_log_dir)

    @property
    def time_limit_s(self) -> float | None:
        """Seconds that max_time_per_run allows; None is no limit."""
        return None if self.max_time_per_run is None else seconds_of(self.max_time_per_run)
