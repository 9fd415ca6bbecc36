"""Measurements of every step, shown and stored."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl

from nemo_bt.config.run import TrainerSettings
from nemo_bt.flops import training_flops
from nemo_bt.metrics import answer_means, attribute_means, margin_counts, means, means_by_source
from nemo_bt.observability.metrics_log import MetricsLog
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.time_spent import TimeSpent
from nemo_bt.training.callbacks.spikes import LossSpikes
from nemo_bt.training.steps.data_module import PairSampler

_FIRST_STEPS = 3
"""Steps of a run that are told of before the first line of metrics, where there is no bar to see them by."""


class Monitor(pl.Callback):
    """Logs the mean over the steps since the last log, with one all-reduce each time and none in between.

    `peak_flops` is that of all devices of the run together, FLOP/s, where it is known. Throughput counts only the time
    inside training steps, not validation or saving.

    Attributes:
        interval: sums over the steps since the last log: s, steps, tokens, capacity_tokens, pairs, attended.
    """

    def __init__(
        self,
        sampler: PairSampler,
        terminal: Terminal,
        log: MetricsLog,
        settings: TrainerSettings,
        spent: TimeSpent,
        num_steps: int,
        peak_flops: float | None = None,
    ) -> None:
        self.sampler = sampler
        self.terminal = terminal
        self.metrics_log = log
        self.spent = spent
        self.num_steps = num_steps
        self.log_every_n_steps = settings.log_every_n_steps
        self.peak_flops = peak_flops
        self.spikes = LossSpikes(settings.loss_spike_factor)
        self.interval = _new_interval()
        self._run_s = 0.0
        self._run_steps = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar; the start is over."""
        self.spent.enter("between")
        self.spent.tell("training", step=trainer.global_step)
        self.terminal.start(trainer.global_step, self.num_steps)

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Start the clock of a step and note its learning rate: Lightning sets the next one before the step's end."""
        self._lr = trainer.optimizers[0].param_groups[0]["lr"]
        if not trainer.should_stop:  # else the step is left out
            self.spent.enter("steps")
        self._step_start_s = time.perf_counter()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock; log on every n-th step and on the last."""
        step = trainer.global_step
        last = self.sampler.last
        assert last is not None  # the step that ends here
        step_s = time.perf_counter() - self._step_start_s
        self.spent.enter("between")
        of_step = {
            "s": step_s,
            "steps": 1,
            "tokens": last.num_tokens,
            "capacity_tokens": last.num_streams * self.sampler.tokens_per_stream,
            "pairs": last.num_pairs,
            "attended": last.num_attended,
        }
        self.interval = {name: value + of_step[name] for name, value in self.interval.items()}
        self._run_s += step_s
        self._run_steps += 1
        if step % self.log_every_n_steps == 0 or step == self.num_steps:
            self._log_training(trainer, pl_module, step)
            self.spent.tell("progress", step=step)
            self.interval = _new_interval()
            return
        self.terminal.advance(step, "")
        if self._run_steps <= _FIRST_STEPS and not self.terminal.has_bar:
            left = timedelta(seconds=round(step_s * (self.num_steps - step)))
            ahead = f", left about {left}" if self._run_steps > 1 else ""  # the first is no measure
            self.terminal.line(f"step {step}/{self.num_steps} took {step_s:.1f} s{ahead}")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Let the trackers finish what they were told."""
        self.metrics_log.close("failed")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the bar away, however training ended."""
        self.terminal.stop()

    def _log_training(self, trainer: Any, pl_module: pl.LightningModule, step: int) -> None:
        (sums_SM,) = self.sampler.take_sums(["train"], pl_module.device)
        sums_M = [sum(column) for column in zip(*sums_SM, strict=True)]
        if not sums_M[0]:
            return  # every step since the last line was skipped
        values: dict[str, Any] = means(sums_M)
        values.pop("ties")
        grad_norm = trainer.callback_metrics.get("grad_norm")  # absent when clipping is off: nobody computed it
        values |= {"lr": self._lr, "grad_norm": None if grad_norm is None else float(grad_norm)}
        values |= self._throughput(pl_module)
        if self.sampler.skipped_steps:
            values["skipped_steps"] = self.sampler.skipped_steps
        attributes = trainer.lightning_module.attributes
        values |= answer_means(sums_M, len(attributes)) | attribute_means(sums_M, attributes)
        values |= means_by_source(sums_SM, trainer.datamodule.train.source_names, attributes)
        named = {f"train/{key}": value for key, value in values.items()}
        self.metrics_log.write(trainer, step, named, {"train/margins": margin_counts(sums_M)})
        left_s = (self.num_steps - step) * self._run_s / self._run_steps
        note = f"loss {values['loss']:.4f}" + (f"  accuracy {values['accuracy']:.3f}" if "accuracy" in values else "")
        self.terminal.line(
            f"step {step}/{self.num_steps}  {note}  margin {values['margin']:+.3f}  lr {values['lr']:.2e}  "
            f"{values['pairs_per_second']:.1f} pairs/s  {values['tokens_per_second']:,.0f} tokens/s  "
            f"left {timedelta(seconds=round(left_s))}"
        )
        self.terminal.advance(step, note)
        warning = self.spikes.look_at(values["loss"])
        if warning:
            self.terminal.line(f"warning: step {step}: {warning}")

    def _throughput(self, model: Any) -> dict[str, float]:
        of = self.interval
        values = {
            "tokens_per_second": of["tokens"] / of["s"],
            "pairs_per_second": of["pairs"] / of["s"],
            "packing_efficiency": of["tokens"] / of["capacity_tokens"],
            "step_time_s": of["s"] / of["steps"],
        }
        if self.peak_flops:
            is_lora = model.lora is not None
            flops = training_flops(model.config.architecture, int(of["tokens"]), int(of["attended"]), is_lora)
            values["mfu"] = flops / of["s"] / self.peak_flops
        return values


def _new_interval() -> dict[str, float]:
    return {"s": 0.0, "steps": 0, "tokens": 0, "capacity_tokens": 0, "pairs": 0, "attended": 0}
