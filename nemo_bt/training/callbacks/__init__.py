"""What happens around a step: a callback for each concern, in the order in which Lightning calls them.

One optimizer step, and the collectives that run in it:

1. `on_train_batch_start`. `Watchdog` notes the time. `NonFiniteGuard` forgets the losses of the step before.
   `GracefulStop` hears whether a rank was asked to end. `Replicas` hears whether ranks differed in the step before.
   `CheckpointCallback` saves where a save is due, or the run is to end: the weights are complete only here. `Monitor`
   starts its clock. `Validation` says that it is not its turn yet. Then `RewardModel` leaves the step out if the run is
   to end.
2. The step itself, Megatron's. `PairSampler` hands over the streams of this rank. Each stream goes forward and
   backward, with the messages of tensor, context, expert and pipeline parallelism. Gradients are summed over data- and
   context-parallel ranks, in one all-reduce or reduce-scatter for each bucket. The gradient norm is
   all-reduced. `Replicas` sends checksums of what ranks hold alike: an all-gather of three numbers, over all ranks.
   `GracefulStop` asks all ranks whether one was asked to end: an all-reduce of one number, over all ranks.
   `NonFiniteGuard` sees it before a weight changes. With the distributed optimizer, weights are gathered.
3. `on_train_batch_end`. `Watchdog` notes the time. `NonFiniteGuard` counts the step's sums, or leaves them out: only
   then all ranks gather the numbers of the pairs to blame. `Monitor` stops its clock, and on every n-th step logs: an
   all-reduce of the sums of all metrics, over all ranks. `Validation` has Lightning validate, where it is due: each
   batch begins with the all-reduce of `GracefulStop`, and the end has one all-reduce of the sums of all sets.
   `Stragglers` notes how long this rank worked; where a line is logged and 20 steps are behind it, an all-gather of two
   numbers tells who is slow.
4. `on_validation_end`, where there was one. `Watchdog` notes the time. `Validation` logs every set. `BestValidation`
   ends the run when it got no better.

`RunState` takes part in saves alone: it gathers what a run needs to go on to the last bit. Callbacks of the user come
last.

Read `checkpoint`, `monitor` (which logs; `spikes` warns of losses), `validation`, `nonfinite`, `graceful_stop`,
`replicas` (`digests`
has its checksums), `stragglers` (`slow_ranks` says who is), `watchdog` and `run_state`.

May import `training.steps`, `checkpoint`, `observability`, `launching` and what is below them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nemo_bt.config.model import Settings
from nemo_bt.launching.local import answering
from nemo_bt.launching.signals import StopRequest
from nemo_bt.observability.metrics_log import MetricsLog
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.time_spent import TimeSpent
from nemo_bt.pretrained.adapters import Adapters

if TYPE_CHECKING:
    from nemo_bt.training.callbacks.graceful_stop import GracefulStop
    from nemo_bt.training.callbacks.validation import Validation
    from nemo_bt.training.steps.data_module import PairSampler


class RunCallbacks(NamedTuple):
    """The callbacks of a run.

    Args:
        ordered: all of them, in the order in which Lightning calls them.
        validation: the one that knows the last validation.
        stop: the one that knows what ended the run.
    """

    ordered: list[Any]
    validation: Validation
    stop: GracefulStop


def run_callbacks(
    settings: Settings,
    sampler: PairSampler,
    terminal: Terminal,
    log: MetricsLog,
    request: StopRequest,
    spent: TimeSpent,
    *,
    rank: int,
    num_steps: int,
    peak_flops: float | None,
    adapters: Adapters | None,
    callbacks: Sequence[Any] = (),
) -> RunCallbacks:
    """Build the callbacks of a run.

    Args:
        request: what asks the run to end.
        spent: what knows where the time of this rank goes.
        peak_flops: FLOP/s of all devices together, where it is known.
        adapters: what a checkpoint says of the adapters; None where every weight is trained.
        callbacks: the user's own.
    """
    from nemo_bt.training.callbacks.checkpoint import CheckpointCallback
    from nemo_bt.training.callbacks.graceful_stop import GracefulStop
    from nemo_bt.training.callbacks.monitor import Monitor
    from nemo_bt.training.callbacks.nonfinite import NonFiniteGuard
    from nemo_bt.training.callbacks.replicas import Replicas
    from nemo_bt.training.callbacks.run_state import RunState
    from nemo_bt.training.callbacks.stragglers import Stragglers
    from nemo_bt.training.callbacks.validation import Validation
    from nemo_bt.training.callbacks.watchdog import Watchdog

    trainer = settings.trainer
    log_dir = settings.exp_manager.log_dir
    monitor = Monitor(sampler, terminal, log, trainer, spent, num_steps, peak_flops)
    validation = Validation(sampler, terminal, log, trainer, spent, num_steps)
    guard = NonFiniteGuard(sampler, terminal, trainer.max_nonfinite_steps)
    stop = GracefulStop(request, answering(terminal.errors, rank))
    every_n_steps = trainer.compare_replicas_every_n_steps if settings.world_size > 1 else 0
    ordered = [
        Watchdog(trainer.hang_timeout_s, rank, log_dir, terminal),
        guard,
        stop,
        *([Replicas(every_n_steps, num_steps, log_dir)] if every_n_steps else []),
        CheckpointCallback(log_dir / "checkpoints", settings, validation, adapters, spent),
        monitor,
        RunState(sampler, monitor, validation, guard),
        validation,
        *([Stragglers(sampler, terminal, trainer.log_every_n_steps, log_dir)] if settings.world_size > 1 else []),
        *_early_stopping(settings),
        *callbacks,
    ]
    return RunCallbacks(ordered, validation, stop)


def _early_stopping(settings: Settings) -> list[Any]:
    from nemo_bt.training.callbacks.graceful_stop import BestValidation

    params = settings.exp_manager.early_stopping_callback_params
    if not settings.exp_manager.create_early_stopping_callback:
        return []
    return [
        BestValidation(
            monitor=str(params.monitor),
            mode=params.mode,
            min_delta=params.min_delta,
            patience=params.patience,
            check_on_train_epoch_end=False,
        )
    ]
