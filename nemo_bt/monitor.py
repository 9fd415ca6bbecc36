"""Measures every step and shows and stores what it measured: metrics.jsonl, the terminal, Lightning's loggers."""

from __future__ import annotations

import json
import math
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from nemo_bt.data_module import PairSampler
from nemo_bt.flops import layer_shape, training_flops
from nemo_bt.metrics import means, means_by_source
from nemo_bt.terminal import Terminal

NEVER = 1_000_000_000
"""More steps than a run has, for Lightning's val_check_interval."""


def validation_interval(val_check_interval: float, num_steps: int) -> int:
    """Steps between validations: an int is that many, a float that fraction of the run (0.25 of 101 is 26)."""
    return val_check_interval if isinstance(val_check_interval, int) else math.ceil(val_check_interval * num_steps)


def drop_lines_after(metrics_file: Path, step: int) -> None:
    """Remove what an interrupted run logged beyond the checkpoint that it resumes from, and a half-written line."""
    if metrics_file.exists():
        lines = [line for line in metrics_file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        shorter = metrics_file.with_suffix(".tmp")
        shorter.write_text("".join(line for line in lines if json.loads(line)["step"] <= step))
        shorter.replace(metrics_file)


class Monitor(pl.Callback):
    """Logs the mean over the steps since the last log; one all-reduce each time it does, none in between.

    `peak_flops` is that of all devices of the run together, FLOP/s, where it is known.

    It also says when to validate, by the step number: Lightning counts batches, and counts one too many after a
    resume (training_epoch_loop.py, total_batch_idx). Throughput counts only the time inside training steps, not
    validation or saving.
    """

    def __init__(
        self,
        sampler: PairSampler,
        terminal: Terminal,
        metrics_file: Path,
        num_steps: int,
        log_every_n_steps: int,
        validate_every_n_steps: int,
        peak_flops: float | None = None,
    ) -> None:
        self.sampler, self.terminal, self.metrics_file = sampler, terminal, metrics_file
        self.num_steps, self.log_every_n_steps = num_steps, log_every_n_steps
        self.validate_every_n_steps, self.peak_flops = validate_every_n_steps, peak_flops
        self.validation_record: dict[str, float] = {}
        """Step and metrics of the last validation."""
        self._restart_interval()
        self._run_s, self._run_steps = 0.0, 0

    def _restart_interval(self) -> None:
        self._interval_s, self._steps, self._tokens, self._capacity_tokens, self._pairs = 0.0, 0, 0, 0, 0
        self._attended = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what was logged beyond the checkpoint that the run continues from, and show the bar."""
        if trainer.is_global_zero:
            drop_lines_after(self.metrics_file, trainer.global_step)
        self.terminal.start(trainer.global_step, self.num_steps)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock of a step and note its learning rate: Lightning sets the next one before the step's end."""
        trainer.val_check_batch = NEVER
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        self._step_start_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock; log on every n-th step and on the last."""
        step, last = trainer.global_step, self.sampler.last
        self._interval_s += time.perf_counter() - self._step_start_s
        self._steps += 1
        self._tokens += last.num_tokens
        self._capacity_tokens += last.num_streams * self.sampler.tokens_per_stream
        self._pairs += last.num_pairs
        self._attended += last.num_attended
        if step % self.validate_every_n_steps == 0 or step == self.num_steps:
            trainer.val_check_batch = 1
        if step % self.log_every_n_steps == 0 or step == self.num_steps:
            self._log_training(trainer, pl_module, step)
        else:
            self.terminal.advance(step, "")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log every validation set."""
        names = list(trainer.datamodule.validation)
        sums = self.sampler.take_sums(names, pl_module.device)
        record = {}
        for name, sums_SM in zip(names, sums, strict=True):
            sources = trainer.datamodule.validation[name].source_names
            sums_M = [sum(column) for column in zip(*sums_SM, strict=True)]
            values = means(sums_M)
            by_source = means_by_source(sums_SM, sources)
            record |= {f"val/{name}/{key}": value for key, value in (values | by_source).items()}
            self.terminal.line(
                f"  validation {name}: loss {values['loss']:.4f}  accuracy {values['accuracy']:.4f}  "
                f"margin {values['margin']:+.3f}  ties {values['ties']:.0f}  of {sums_M[0]:,.0f} pairs"
            )
        self.validation_record = {"step": trainer.global_step} | record
        self._store(trainer, trainer.global_step, record)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the bar away, however training ended."""
        self.terminal.stop()

    def _log_training(self, trainer: pl.Trainer, pl_module: pl.LightningModule, step: int) -> None:
        (sums_SM,) = self.sampler.take_sums(["train"], pl_module.device)
        sums_M = [sum(column) for column in zip(*sums_SM, strict=True)]
        if not sums_M[0]:
            self._restart_interval()
            return  # every step since the last line was skipped
        values = means(sums_M)
        values.pop("ties")
        grad_norm = trainer.callback_metrics.get("grad_norm")  # absent when clipping is off: nobody computed it
        values |= {
            "lr": self._lr,
            "grad_norm": None if grad_norm is None else float(grad_norm),
            "tokens_per_second": self._tokens / self._interval_s,
            "pairs_per_second": self._pairs / self._interval_s,
            "packing_efficiency": self._tokens / self._capacity_tokens,
            "step_time_s": self._interval_s / self._steps,
        }
        if self.sampler.skipped_steps:
            values["skipped_steps"] = self.sampler.skipped_steps
        if self.peak_flops:
            flops = training_flops(
                layer_shape(pl_module.config), self._tokens, self._attended, pl_module.lora is not None
            )
            values["mfu"] = flops / self._interval_s / self.peak_flops
        values |= means_by_source(sums_SM, trainer.datamodule.train.source_names)
        self._store(trainer, step, {f"train/{key}": value for key, value in values.items()})
        self._run_s, self._run_steps = self._run_s + self._interval_s, self._run_steps + self._steps
        left_s = (self.num_steps - step) * self._run_s / self._run_steps
        note = f"loss {values['loss']:.4f}  accuracy {values['accuracy']:.3f}"
        self.terminal.line(
            f"step {step}/{self.num_steps}  {note}  margin {values['margin']:+.3f}  lr {values['lr']:.2e}  "
            f"{values['pairs_per_second']:.1f} pairs/s  {values['tokens_per_second']:,.0f} tokens/s  "
            f"left {timedelta(seconds=round(left_s))}"
        )
        self.terminal.advance(step, note)
        self._restart_interval()

    def _store(self, trainer: pl.Trainer, step: int, values: dict[str, Any]) -> None:
        if trainer.is_global_zero:
            with self.metrics_file.open("a") as file:
                file.write(json.dumps({"step": step} | values) + "\n")
            for logger in trainer.loggers:
                logger.log_metrics({key: value for key, value in values.items() if value is not None}, step)
