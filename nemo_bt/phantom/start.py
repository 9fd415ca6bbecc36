"""Start a trace: settings -> a process of its own -> its record. Nothing here imports torch's device or NeMo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from nemo_bt.config.load import dump_settings
from nemo_bt.config.model import Settings
from nemo_bt.config.run import CheckpointSettings
from nemo_bt.errors import UserError
from nemo_bt.phantom.build import library
from nemo_bt.phantom.record import Record, read_record
from nemo_bt.phantom.spec import Gpu, Spec, write_spec
from nemo_bt.phantom.wheel import transformer_engine
from nemo_bt.pretrained.resolve import HUB_FILES_BESIDE_WEIGHTS, find_pretrained

_GPU = Gpu()
_LOG_LINES = 15


def trace(
    settings: Settings,
    rank: int,
    num_steps: int,
    folder: Path,
    cache: Path,
    gpu: Gpu = _GPU,
    timeout_s: int = 900,
    numbers: bool = False,
) -> Record:
    """Trace one rank of a run in a process of its own.

    Args:
        settings: settings that `nemo_bt.training.checks.check_settings` has checked.
        rank: of the whole job.
        num_steps: optimizer steps; two show what each later one does.
        folder: where the trace's files are written: settings, log and record.
        cache: keeps what is built and fetched; `nemo_bt.phantom.build.cache_folder` gives the user's.
        numbers: whether the run computes, from the settings' weights. It leaves run/metrics.jsonl, with its losses, and
            rewards.json and gradients.pt, of `nemo_bt.phantom.numbers.seen`, in `folder`.

    Raises:
        UserError: the settings name no GPU or cannot be used as they are, the rank is none of the job or not the only
            one of a run with numbers, or this machine lacks what a trace needs.
        RuntimeError: the process ended without a record.
    """
    if settings.trainer.accelerator == "cpu":
        raise UserError("trainer.accelerator=cpu: a trace is of a run on GPUs. Set trainer.accelerator=gpu.")
    if not 0 <= rank < settings.world_size:
        raise UserError(f"rank: expected 0 to {settings.world_size - 1}, got {rank}.")
    if numbers and settings.world_size > 1:
        raise UserError(f"a run with numbers is of one rank, got {settings.world_size}: set trainer.devices=1.")
    device, package = library(cache), transformer_engine(cache)
    (folder / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)
    run = folder / "run"
    traced = quiet(settings, run) if numbers else without_weights(settings, run, num_steps)
    (folder / "settings.yaml").write_text(dump_settings(traced))
    record = folder / "record.json"
    record.unlink(missing_ok=True)
    spec = Spec(str(device), str(package), str(folder), rank, num_steps, str(record), gpu, numbers)
    write_spec(spec, folder / "spec.json")
    command = [sys.executable, "-m", "nemo_bt.phantom", str(folder / "spec.json")]
    with (folder / "trace.log").open("w") as log:
        status = subprocess.run(
            command, env=os.environ, stdout=log, stderr=subprocess.STDOUT, timeout=timeout_s
        ).returncode
    if not record.exists():
        last = (folder / "trace.log").read_text().splitlines()[-_LOG_LINES:]
        killed = " (killed: this machine may have too little memory)" if status == -signal.SIGKILL else ""
        raise RuntimeError(
            f"the trace ended with status {status}{killed} and without a record; its log ends with\n" + "\n".join(last)
        )
    found = read_record(record)
    if found.failure and found.failure.kind == UserError.__name__:
        raise UserError(found.failure.message)
    return found


def without_weights(settings: Settings, log_dir: Path, num_steps: int) -> Settings:
    """Give settings of the same run from random weights, which goes on for longer than `num_steps`; see `quiet`."""
    model = settings.model
    if model.restore_from_path:
        pretrained = find_pretrained(model.restore_from_path, hub_files=HUB_FILES_BESIDE_WEIGHTS)
        tokenizer = replace(model.tokenizer, type=model.tokenizer.type or str(pretrained.tokenizer))
        model = replace(model, restore_from_path=None, hf_config=pretrained.hf_config, tokenizer=tokenizer)
    trainer = replace(settings.trainer, max_steps=num_steps + 1, max_epochs=None)
    return quiet(replace(settings, model=model, trainer=trainer), log_dir)


def quiet(settings: Settings, log_dir: Path) -> Settings:
    """Give settings of the same run on a GPU, which validates nothing, and writes to `log_dir` and no checkpoint."""
    exp = replace(
        settings.exp_manager,
        explicit_log_dir=str(log_dir),
        resume_if_exists=False,
        create_tensorboard_logger=False,
        create_wandb_logger=False,
        create_swanlab_logger=False,
        checkpoint_callback_params=CheckpointSettings(),
        max_time_per_run=None,
    )
    trainer = replace(settings.trainer, accelerator="gpu", limit_val_batches=0)
    return replace(settings, exp_manager=exp, trainer=trainer)
