"""When a run validates, and what it shows and stores of a validation."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from nemo_bt.batching.sampling import validation_interval
from nemo_bt.config.run import TrainerSettings
from nemo_bt.metrics import answer_means, attribute_means, margin_counts, means, means_by_source
from nemo_bt.observability.metrics_log import MetricsLog, told_errors
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.time_spent import TimeSpent
from nemo_bt.training.steps.data_module import PairSampler

NEVER = 1_000_000_000
"""Steps that no run has, for Lightning's val_check_interval."""


class Validation(pl.Callback):
    """Says when to validate, by the step number, and logs every set.

    Lightning counts batches, and counts one too many after a resume (training_epoch_loop.py, total_batch_idx).

    Attributes:
        record: step and metrics of the last validation.
    """

    def __init__(
        self,
        sampler: PairSampler,
        terminal: Terminal,
        log: MetricsLog,
        settings: TrainerSettings,
        spent: TimeSpent,
        num_steps: int,
    ) -> None:
        self.sampler = sampler
        self.terminal = terminal
        self.metrics_log = log
        self.spent = spent
        self.at_start = settings.validate_at_start
        self.num_steps = num_steps
        self.every_n_steps = validation_interval(settings.val_check_interval, num_steps)
        self.record: dict[str, float] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what was logged beyond the checkpoint, and validate now if that is asked for or was broken off."""
        step = trainer.global_step
        is_validated = self.record.get("step") == step
        if trainer.is_global_zero:
            self.metrics_log.drop_after(step, is_validated)
        steps, loop = trainer.fit_loop.epoch_loop, trainer.fit_loop.epoch_loop.val_loop
        loop.restarting = False  # it would leave out the batches that it had when the run was saved
        # Of a run that is extended Lightning would see the last batch, and validate before the first step.
        steps.batch_progress.is_last_batch = False
        is_due = self.at_start if step == 0 else self._is_due(step)
        if is_due and trainer.enable_validation and not is_validated:
            connector = trainer._logger_connector
            trainer.validating = True
            is_first = connector._first_loop_iter
            loop.run()
            trainer.training = True
            connector._first_loop_iter = is_first

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Keep Lightning from validating before this step has ended."""
        trainer.val_check_batch = NEVER

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Have Lightning validate after this step, if it is due."""
        if self._is_due(trainer.global_step):
            trainer.val_check_batch = 1

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar of loading weights away, where there is no training whose bar has taken its place."""
        self.spent.enter("validation")
        if not trainer.training and trainer.state.fn == "validate":
            self.terminal.stop()

    def on_validation_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        """Log every validation set."""
        self._log(trainer, pl_module)
        self.spent.enter("between")

    def _log(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        names = list(trainer.datamodule.validation)
        sums = self.sampler.take_sums(names, pl_module.device)
        if trainer.should_stop:
            return  # it was broken off
        record: dict[str, float] = {}
        margins = {}
        attributes = trainer.lightning_module.attributes
        for name, sums_SM in zip(names, sums, strict=True):
            sums_M = [sum(column) for column in zip(*sums_SM, strict=True)]
            values = means(sums_M) | {"pairs": sums_M[0]}
            margins[f"val/{name}/margins"] = margin_counts(sums_M)
            by_attribute = answer_means(sums_M, len(attributes)) | attribute_means(sums_M, attributes)
            by_source = means_by_source(sums_SM, trainer.datamodule.validation[name].source_names, attributes)
            named = values | by_attribute | by_source
            record |= {f"val/{name}/{key}": value for key, value in named.items()}
            accuracy = f"accuracy {values['accuracy']:.4f}  " if "accuracy" in values else ""
            self.terminal.line(
                f"  validation {name}: loss {values['loss']:.4f}  {accuracy}"
                f"margin {values['margin']:+.3f}  ties {values['ties']:.0f}  of {sums_M[0]:,.0f} pairs"
            )
            if attributes:
                self.terminal.line(f"  validation {name}: error of {told_errors(record, name)}")
        self.record = {"step": trainer.global_step} | record
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in record.items()})
        self.metrics_log.write(trainer, trainer.global_step, record, margins)

    def _is_due(self, step: int) -> bool:
        return step % self.every_n_steps == 0 or step == self.num_steps
