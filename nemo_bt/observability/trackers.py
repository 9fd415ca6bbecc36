"""W&B, TensorBoard and SwanLab, through Lightning's loggers: which ones a run has, and what they get beside numbers.

A run that goes on is the same run to its trackers: its id stands in <log dir>/trackers.json.
"""

from __future__ import annotations

import itertools
import json
import random
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bt.config.run import ExpManagerSettings
from nemo_bt.errors import UserError
from nemo_bt.files import write_atomically
from nemo_bt.launching import local as launch
from nemo_bt.metrics import MARGIN_LIMITS

if TYPE_CHECKING:
    from lightning.pytorch.loggers import Logger

FILE = "trackers.json"
_WIDER = 1.3
"""The open bins are drawn as if they ended at so many times the outermost limit."""


def build_loggers(settings: ExpManagerSettings, start_step: int | None, continues: bool) -> list[Logger]:
    """Build the loggers that are configured, which write below the log directory; only the first rank has any.

    Args:
        start_step: hide what TensorBoard has beyond it, which an interrupted start left; None hides nothing.
        continues: whether the trackers continue the run of an earlier start, where there was one.
    """
    if launch.current_rank() != 0:
        return []
    from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

    folder = str(settings.log_dir)
    loggers = list[Any]()
    if settings.create_tensorboard_logger:
        options: dict[str, Any] = {"purge_step": start_step + 1 if start_step else start_step}
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False, **options))
    has_runs = settings.create_wandb_logger or settings.create_swanlab_logger
    same_run = {"id": run_id(Path(folder), continues), "resume": "allow"} if has_runs else {}
    if settings.create_wandb_logger:
        named = {"name": settings.name, **same_run}
        loggers.append(WandbLogger(save_dir=folder, **(named | settings.wandb_logger_kwargs)))
    if settings.create_swanlab_logger:
        from swanlab.integration.pytorch_lightning import SwanLabLogger

        named = {"experiment_name": settings.name, "logdir": str(Path(folder) / "swanlab"), **same_run}
        loggers.append(SwanLabLogger(save_dir=folder, **(named | settings.swanlab_logger_kwargs)))
    return loggers


def tell_start(loggers: Sequence[Logger], facts: dict[str, Any]) -> None:
    """Open the trackers' runs with settings and other facts.

    Raises:
        UserError: a tracker wants a login, or does not answer.
    """
    for logger in loggers:
        with _naming_refusals(logger):
            logger.log_hyperparams(facts)


@contextmanager
def _naming_refusals(logger: Logger) -> Iterator[None]:
    try:
        yield
    except _refusals() as error:
        is_swanlab = type(logger).__name__ == "SwanLabLogger"
        what = "swanlab" if is_swanlab else "wandb"
        offline = "+exp_manager.swanlab_logger_kwargs.mode=offline" if is_swanlab else "WANDB_MODE=offline"
        raise UserError(
            f"exp_manager.create_{what}_logger=true: {error} Log in with `{what} login`, or stay offline: {offline}."
        ) from error


def _refusals() -> tuple[type[Exception], ...]:
    """List the errors that the trackers' own code raises."""
    import wandb

    of_swanlab = sys.modules.get("swanlab.error")  # where it is used
    return (wandb.Error, of_swanlab.KeyFileError, of_swanlab.ApiError) if of_swanlab else (wandb.Error,)


def run_id(log_dir: Path, continues: bool) -> str:
    """Give the id of the run in the trackers: 21 letters and digits, as SwanLab wants them."""
    file = log_dir / FILE
    if continues and file.exists():
        return str(json.loads(file.read_text())["id"])
    drawn = "".join(random.SystemRandom().choices(string.ascii_lowercase + string.digits, k=21))
    write_atomically(file, json.dumps({"id": drawn}) + "\n")
    return drawn


def log_margins(loggers: Sequence[Logger], name: str, counts: Sequence[int], step: int) -> None:
    """Log a histogram of margins, whose counts come from `nemo_bt.metrics.margin_counts`."""
    for logger in loggers:
        _HISTOGRAM[type(logger).__name__](logger, name, counts, step)


def log_pictures(loggers: Sequence[Any], pictures: Mapping[str, Path], step: int) -> None:
    """Log PNG files by name.

    Raises:
        UserError: a tracker wants a login, or does not answer.
    """
    from matplotlib.image import imread

    for logger in loggers:
        with _naming_refusals(logger):
            for name, file in pictures.items():
                if type(logger).__name__ == "TensorBoardLogger":
                    logger.experiment.add_image(name, imread(file), step, dataformats="HWC")
                else:
                    logger.log_image(name, [str(file)], step)


def _limits() -> list[float]:
    return [_WIDER * MARGIN_LIMITS[0], *MARGIN_LIMITS, _WIDER * MARGIN_LIMITS[-1]]


def _tensorboard_histogram(logger: Any, name: str, counts: Sequence[int], step: int) -> None:
    limits = _limits()
    middles = [(low + high) / 2 for low, high in itertools.pairwise(limits)]
    logger.experiment.add_histogram_raw(
        name,
        min=limits[0],
        max=limits[-1],
        num=sum(counts),
        sum=sum(n * middle for n, middle in zip(counts, middles, strict=True)),
        sum_squares=sum(n * middle**2 for n, middle in zip(counts, middles, strict=True)),
        bucket_limits=limits[1:],
        bucket_counts=list(counts),
        global_step=step,
    )


def _wandb_histogram(logger: Any, name: str, counts: Sequence[int], step: int) -> None:
    import numpy as np
    import wandb

    logger.log_metrics({name: wandb.Histogram(np_histogram=(np.array(counts), np.array(_limits())))}, step)


def _swanlab_histogram(logger: Any, name: str, counts: Sequence[int], step: int) -> None:
    import swanlab

    bars = swanlab.echarts.Bar()
    bars.add_xaxis([f"{limit:.3g}" for limit in _limits()[1:]])
    bars.add_yaxis("pairs, by the upper limit of the margin", list(counts))
    logger.log_metrics({name: bars}, step)


_HISTOGRAM: dict[str, Callable[[Any, str, Sequence[int], int], None]] = {
    "TensorBoardLogger": _tensorboard_histogram,
    "WandbLogger": _wandb_histogram,
    "SwanLabLogger": _swanlab_histogram,
}
