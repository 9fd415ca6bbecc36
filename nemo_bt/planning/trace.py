"""nemo-bt plan --trace: the user's own job, traced as one of its ranks, beside what the planner counts of that rank.

UserError says which settings cannot be, that there is no such model or data, or what the machine lacks for a trace.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from nemo_bt.config.load import load_settings_of
from nemo_bt.config.model import Settings
from nemo_bt.config.plan import PlanRun
from nemo_bt.data.inspect import open_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.phantom.build import cache_folder
from nemo_bt.phantom.record import Record
from nemo_bt.phantom.spec import Gpu
from nemo_bt.phantom.start import trace
from nemo_bt.planning.drawn import with_drawn_pairs
from nemo_bt.planning.memory import RankMemory, rank_memory
from nemo_bt.planning.search import fullest_rank
from nemo_bt.planning.streams import StreamLoad, pairs_of_set, steps_of, streams_of_step
from nemo_bt.pretrained.architecture import Architecture
from nemo_bt.training.checks import check_settings, run_architecture

STEPS = 2
"""The second is what each later one is."""


@dataclass(frozen=True)
class TracedRank:
    """A rank of a job: what it did on a device of shapes alone, and what the planner counts of it.

    Args:
        run: settings that were traced.
        stage: its pipeline rank.
        planned: memory with the streams of the last step.
        planned_full: the same with streams as long as they can be.
    """

    run: PlanRun
    rank: int
    stage: int
    record: Record
    planned: RankMemory
    planned_full: RankMemory

    @property
    def room(self) -> int:
        """Bytes of the device that tensors may fill."""
        return int(self.run.cluster.memory_bytes - self.run.cluster.reserved_bytes)


def trace_plan(
    config_name: str, overrides: Sequence[str], config_dir: str | None, rank: int | None, terminal: Terminal
) -> TracedRank:
    """Trace a rank of a job.

    Args:
        config_name: a file of `conf/` or of `config_dir`, without .yaml.
        overrides: texts `key=value`.
        config_dir: a folder of your own.
        rank: of the whole job; None is the first one of the stage that needs most memory.
    """
    given = load_settings_of(PlanRun, config_name, overrides, config_dir)
    capability = given.cluster.compute_capability
    if capability is None:
        raise UserError(
            f"cluster={given.cluster.name} has no GPUs (compute_capability=null): a trace is of a run on GPUs."
        )
    if rank is not None and not 0 <= rank < given.world_size:
        raise UserError(f"--rank: expected 0 to {given.world_size - 1}, got {rank}.")
    with tempfile.TemporaryDirectory(prefix="nemo_bt-trace-") as scratch:
        run = _without_a_past(given, Path(scratch))
        pretrained = check_settings(run, needs_weights=False)
        architecture = run_architecture(run, pretrained, num_tokens=1)
        sets, _ = open_sets(run, terminal)
        rank = _fullest(run, architecture, sets["train"]) if rank is None else rank
        gpu = Gpu(name=run.cluster.name, capability=capability, memory_bytes=int(run.cluster.memory_bytes))
        terminal.line(f"Tracing {STEPS} steps of rank {rank} of {run.world_size} ...")
        job = Settings(**{section.name: getattr(run, section.name) for section in fields(Settings)})
        try:
            record = trace(job, rank, STEPS, Path(scratch) / "trace", cache_folder(), gpu)
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            raise UserError(f"rank {rank} could not be traced: {error}") from error
    stage, data_rank = stage_and_data_rank(run, rank)
    step = streams_of_step(run, pairs_of_set(sets["train"], run), STEPS - 1, architecture.hidden_size)
    context_ranks = run.model.context_parallel_size
    share = data_rank * context_ranks + rank // run.model.tensor_model_parallel_size % context_ranks
    planned = planned_rank(run, architecture, stage, step[data_rank], share)
    planned_full = fullest_rank(run, architecture, [step], run.model.data.tokens_per_micro_batch, [stage])
    return TracedRank(run, rank, stage, record, planned, planned_full)


def stage_and_data_rank(settings: Settings, rank: int) -> tuple[int, int]:
    """Give the pipeline rank and the data-parallel rank of a rank, as Megatron numbers them."""
    model = settings.model
    rest = rank // (model.tensor_model_parallel_size * model.context_parallel_size)
    if model.use_tp_pp_dp_mapping:
        data_rank, stage = divmod(rest, model.pipeline_model_parallel_size)
    else:
        stage, data_rank = divmod(rest, settings.data_parallel_size)
    return stage, data_rank


def planned_rank(
    settings: Settings, architecture: Architecture, stage: int, streams: Sequence[StreamLoad], share: int
) -> RankMemory:
    """Count the memory of a rank of a stage in a step of these streams, as if all were as long as the longest.

    Args:
        share: its number among data- and context-parallel ranks.
    """
    longest = max((load.rows for load in streams), key=lambda rows: rows.tokens)
    return rank_memory(settings, architecture, stage, longest, len(streams), share)


def _without_a_past(run: PlanRun, scratch: Path) -> PlanRun:
    """Give settings of a run that resumes nothing, on pairs that are drawn where there is no data."""
    exp = replace(run.exp_manager, explicit_log_dir=str(scratch / "run"), resume_if_exists=False)
    run = replace(run, exp_manager=exp, trainer=replace(run.trainer, accelerator="gpu"))
    return run if run.model.data.train else with_drawn_pairs(run, scratch / "tokenizer")


def _fullest(run: PlanRun, architecture: Architecture, pairs: PairSet) -> int:
    """Give the first rank of the stage that needs most memory."""
    model = run.model
    steps = steps_of(run, pairs_of_set(pairs, run), STEPS, architecture.hidden_size)
    stage = fullest_rank(run, architecture, steps, model.data.tokens_per_micro_batch).stage
    inside = model.tensor_model_parallel_size * model.context_parallel_size
    return stage * inside * (1 if model.use_tp_pp_dp_mapping else run.data_parallel_size)
