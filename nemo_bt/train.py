"""A checked Settings -> a trained reward model: data first, then NeMo.

NeMo is imported inside functions: what is wrong with settings and data is found before those 10 s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nemo_bt.architecture import HfConfig
from nemo_bt.checkpoints import check_same_data, check_same_plan, checkpoint_to_resume, step_of, write_data_record
from nemo_bt.checks import check_vocabulary, hf_config_of
from nemo_bt.config import dump_settings
from nemo_bt.data.load import load_sets
from nemo_bt.data.pairs import PairSet
from nemo_bt.data.render import PLAIN
from nemo_bt.data.tokenizer import keep_tokenizer, load_tokenizer
from nemo_bt.epoch import num_steps
from nemo_bt.errors import UserError
from nemo_bt.flops import peak_flops
from nemo_bt.layout import check_device
from nemo_bt.origin import Origin, Start, check_plain, open_weights
from nemo_bt.settings import LoraSettings, Settings
from nemo_bt.terminal import Terminal
from nemo_bt.weights.adapters import Adapters, check_base, digest, trained_parameters


@dataclass(frozen=True)
class Prepared:
    """What a run needs, read and checked before NeMo is imported."""

    hf_config: HfConfig
    start: Start | None
    """Initial weights; None for random ones, or where the run resumes from a checkpoint that has all."""
    tokenizer: Any
    tokenizer_folder: Path
    sets: dict[str, PairSet]
    """"train" and the validation sets."""
    total_steps: int
    resume_from: Path | None
    adapters: Adapters | None
    """What a checkpoint says of them; None where every weight is trained."""
    origin: Origin | None
    """Kept: its tokenizer may lie in a folder that goes with it."""


def train(
    settings: Settings, origin: Origin | None, terminal: Terminal, rank: int, callbacks: Sequence[Any] = ()
) -> dict[str, float]:
    """Train on this rank, together with all others.

    Args:
        settings: checked by `nemo_bt.checks.check_settings`.
        origin: that it found.
        terminal: rank 0's; silent on the others.
        rank: of this process in the whole job.
        callbacks: of Lightning, called after the run's own.

    Returns:
        The last validation's metrics by name.

    Raises:
        UserError: the model, the tokenizer or the data cannot be used as they are.
    """
    on_gpu = _runs_on_gpu(settings)
    check_device(settings, on_gpu)
    log_dir = Path(settings.exp_manager.explicit_log_dir)
    prepared = _prepare(settings, origin, log_dir, terminal)
    resume_from = prepared.resume_from
    if resume_from and step_of(resume_from) >= prepared.total_steps:
        done = f"{resume_from} is at step {step_of(resume_from)} of {prepared.total_steps}"
        terminal.line(f"nothing left to train: {done}")
        return {}
    if resume_from and not settings.exp_manager.trust_checkpoint:
        check_plain(resume_from)
    if rank == 0:
        (log_dir / "config.yaml.tmp").write_text(dump_settings(settings))
        (log_dir / "config.yaml.tmp").replace(log_dir / "config.yaml")  # other ranks may be reading the old one
        new_template = settings.model.data.chat_template not in (None, PLAIN)
        keep_tokenizer(prepared.tokenizer, prepared.tokenizer_folder, log_dir / "tokenizer", new_template)
        write_data_record(log_dir / "data.json", prepared.sets)
    # Checkpoints take the tokenizer from rank 0.
    folder = log_dir / "tokenizer" if rank == 0 else prepared.tokenizer_folder
    validation = _fit(settings, replace(prepared, tokenizer_folder=folder), on_gpu, terminal, callbacks)
    _summarise(validation, prepared.sets, settings.trainer.limit_val_batches, terminal)
    terminal.line(f"checkpoint and metrics: {log_dir}")
    return validation


def _prepare(settings: Settings, origin: Origin | None, log_dir: Path, terminal: Terminal) -> Prepared:
    model = settings.model
    resume_from = checkpoint_to_resume(log_dir / "checkpoints", settings.exp_manager.resume_if_exists)
    if resume_from:
        check_same_plan(log_dir / "config.yaml", settings)
    tokenizer_folder = Path(model.tokenizer.type) if model.tokenizer.type or not origin else origin.tokenizer
    tokenizer = load_tokenizer(str(tokenizer_folder), model.tokenizer.pad_token)
    hf_config = hf_config_of(settings, origin, max(tokenizer.get_vocab().values()) + 1)
    check_vocabulary(hf_config, tokenizer.pad_token_id, f"pad token '{tokenizer.pad_token}'")
    weights = origin.base if resume_from and origin else origin  # a checkpoint of adapters needs its base model
    start = open_weights(weights, settings.trainer.seed) if weights else None
    if start:
        terminal.line(start.description)
    if start and model.peft.lora:
        terminal.line(trained_parameters(start.source.infos, model.peft.lora))
    sets = load_sets(settings, tokenizer, tokenizer_folder, bool(settings.trainer.limit_val_batches), terminal)
    for name, pairs in sets.items():
        check_vocabulary(hf_config, pairs.largest_id, f"a token of '{name}'")
    if resume_from:
        check_same_data(log_dir / "data.json", sets)
    total_steps = _total_steps(settings, len(sets["train"].epoch))
    adapters = _adapters(model.peft.lora, origin, start, resumes=resume_from is not None)
    return Prepared(hf_config, start, tokenizer, tokenizer_folder, sets, total_steps, resume_from, adapters, origin)


def _adapters(lora: LoraSettings | None, origin: Origin | None, start: Start | None, resumes: bool) -> Adapters | None:
    """Of a new run, or those that the checkpoint to resume has."""
    if not (lora and origin and start):
        return None
    if resumes:
        if origin.adapters:
            check_base(start.source, origin.adapters, origin.given)
        return origin.adapters
    base = str(Path(origin.given).resolve()) if Path(origin.given).exists() else origin.given
    return Adapters(base, tuple(lora.target_modules), lora.adapter_dim, lora.alpha, digest(start.source))


def _runs_on_gpu(settings: Settings) -> bool:
    import torch

    accelerator, devices = settings.trainer.accelerator, settings.trainer.devices
    if accelerator == "cpu" or (accelerator == "auto" and not torch.cuda.is_available()):
        return False
    if torch.cuda.device_count() < devices:
        raise UserError(
            f"trainer.devices={devices} with trainer.accelerator={accelerator}: this machine has "
            f"{torch.cuda.device_count()} GPUs. Set trainer.devices to that, or trainer.accelerator=cpu."
        )
    return True


def _summarise(
    validation: dict[str, float], sets: dict[str, PairSet], limit_val_batches: float, terminal: Terminal
) -> None:
    """The last validation beside a rule that reads nothing, so that nobody takes the one for the other."""
    rows = []
    for name, pairs in sets.items():
        key = f"val/{name}/"
        if key + "accuracy" in validation:
            longer = pairs.column("is_longer", pairs.epoch.pair_E).mean()
            values = (validation[key + "accuracy"], longer, validation[key + "loss"], validation[key + "margin"])
            rows.append([name, f"{len(pairs.epoch):,}", *(f"{value:.4f}" for value in values)])
    if rows and limit_val_batches == 1.0:
        columns = ("validation set", "pairs", "accuracy", "longer answer wins", "loss", "margin")
        terminal.table(columns, rows)


def _total_steps(settings: Settings, num_pairs: int) -> int:
    if settings.trainer.max_steps != -1:
        return settings.trainer.max_steps
    size, epochs = settings.model.global_batch_size, settings.trainer.max_epochs
    total_steps = num_steps(num_pairs, size, epochs)
    if total_steps == 0:
        raise UserError(
            f"{num_pairs} training pairs x trainer.max_epochs={epochs} are less than one step of "
            f"model.global_batch_size={size} pairs. Give more pairs, more epochs or a smaller batch."
        )
    return total_steps


def _peak_flops(settings: Settings, on_gpu: bool) -> float | None:
    """Of all devices of the run."""
    import torch

    of_one = settings.trainer.peak_flops_per_device
    if of_one is None and on_gpu:
        of_one = peak_flops(torch.cuda.get_device_name(), settings.trainer.precision)
    return of_one * settings.world_size if of_one else None


def _fit(
    settings: Settings, prepared: Prepared, on_gpu: bool, terminal: Terminal, callbacks: Sequence[Any]
) -> dict[str, float]:
    import torch

    from nemo_bt import cpu

    if not on_gpu:
        cpu.install()
    from megatron.core import parallel_state

    from nemo_bt.checkpoint_callback import CheckpointCallback
    from nemo_bt.data_module import PairDataModule
    from nemo_bt.monitor import Monitor, validation_interval
    from nemo_bt.nemo_setup import build_loggers, build_model, build_trainer
    from nemo_bt.nonfinite import NonFiniteGuard

    if not on_gpu:
        cpu.after_nemo_import()
    exp, log_dir = settings.exp_manager, Path(settings.exp_manager.explicit_log_dir)
    resume_from, total_steps = prepared.resume_from, prepared.total_steps
    sets = dict(prepared.sets)
    pad_id = prepared.tokenizer.pad_token_id
    data = PairDataModule(sets.pop("train"), sets, settings, num_steps=total_steps, pad_id=pad_id)
    monitor = Monitor(
        data.data_sampler,
        terminal,
        log_dir / "metrics.jsonl",
        num_steps=total_steps,
        log_every_n_steps=settings.trainer.log_every_n_steps,
        validate_every_n_steps=validation_interval(settings.trainer.val_check_interval, total_steps),
        peak_flops=_peak_flops(settings, on_gpu),
    )
    guard = NonFiniteGuard(data.data_sampler, terminal, settings.trainer.max_nonfinite_steps)
    saver = CheckpointCallback(log_dir / "checkpoints", settings, monitor, prepared.adapters)
    trainer = build_trainer(settings, total_steps, on_gpu, [guard, saver, monitor, *callbacks], build_loggers(exp))
    model = build_model(settings, prepared.hf_config, prepared.start, str(prepared.tokenizer_folder), total_steps)
    trainer.strategy.terminal, trainer.strategy.is_trusted = terminal, exp.trust_checkpoint
    trainer.fit(model, data, ckpt_path=str(resume_from) if resume_from else None)
    parallel_state.destroy_model_parallel()
    torch.distributed.destroy_process_group()
    return monitor.validation_record
