"""nemo-bt train --dry-run: everything that a run checks and counts before NeMo is imported, and nothing is written."""

from __future__ import annotations

import os

import psutil

from nemo_bt.config.device import runs_on_gpu
from nemo_bt.config.model import Settings
from nemo_bt.launching.crowding import crowding
from nemo_bt.observability.terminal import Terminal
from nemo_bt.planning.memory import GIB
from nemo_bt.planning.report import name
from nemo_bt.planning.search import fullest_rank
from nemo_bt.planning.streams import Step, pairs_of_set, steps_of
from nemo_bt.pretrained.resolve import PretrainedSource
from nemo_bt.training.prepare import Prepared, prepare

_STEPS = 4
"""Steps whose streams are looked at."""


def dry_run(settings: Settings, pretrained: PretrainedSource | None, terminal: Terminal) -> None:
    """Read model, tokenizer and data as a run does, and show what it would do.

    Args:
        settings: settings that `nemo_bt.training.checks.check_settings` has checked.
        pretrained: the source that it returned.

    Raises:
        UserError: the model, the tokenizer or the data cannot be used as they are.
    """
    prepared = prepare(settings, pretrained, terminal)
    model = settings.model
    steps = steps_of(
        settings, pairs_of_set(prepared.sets["train"], settings), _STEPS, prepared.architecture.hidden_size
    )
    streams = sum(len(streams) for step in steps for streams in step) / len(steps)
    layout = f"{name(model)} DP{settings.data_parallel_size}: {settings.trainer.num_nodes} x {settings.trainer.devices}"
    facts = {
        "layout": f"{layout} ranks",
        "steps": f"{prepared.total_steps:,} of {model.global_batch_size} pairs",
        "streams a step": f"{streams:.1f} of at most {model.data.tokens_per_micro_batch:,} tokens",
        "starts from": str(prepared.resume_from or model.restore_from_path or "random weights"),
        "memory of a rank": _memory(settings, prepared, steps),
        "writes to": str(settings.exp_manager.log_dir),
    }
    terminal.facts(list(facts.items()))
    if settings.trainer.accelerator != "gpu" and not runs_on_gpu(settings.trainer):
        crowded = crowding(settings.trainer.devices, len(os.sched_getaffinity(0)), psutil.virtual_memory().available)
        if crowded:
            terminal.line(f"warning: {crowded}")
    terminal.line("Nothing has been written but the cache of tokenised data. Without --dry-run the run starts.")


def _memory(settings: Settings, prepared: Prepared, steps: list[Step]) -> str:
    rank = fullest_rank(settings, prepared.architecture, steps, settings.model.data.tokens_per_micro_batch)
    return f"{rank.total / GIB:.3g} GiB of stage {rank.stage} with full streams: {rank.parts}"
