"""metrics.jsonl has one object for each logged step; rank 0 writes it, and gives the same values to the trackers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bt.files import write_atomically
from nemo_bt.observability.events import Needed, read_lines
from nemo_bt.observability.trackers import log_margins

if TYPE_CHECKING:
    import lightning.pytorch as pl
    from lightning.pytorch.loggers import Logger

FILE = "metrics.jsonl"
_NEEDED: Needed = {None: {"step": int}}


class MetricsLog:
    """The metrics.jsonl of one run, in its log directory, and its trackers."""

    def __init__(self, log_dir: Path, loggers: Sequence[Logger] = ()) -> None:
        self.file = log_dir / FILE
        self.loggers = loggers

    def drop_after(self, step: int, is_validated: bool) -> None:
        """Remove what an interrupted run logged beyond the checkpoint that it goes on from, and a half-written line.

        Where more than the last line is none of a run's, the file stays beside it, as metrics.jsonl.damaged.

        Args:
            step: the checkpoint's step.
            is_validated: whether the checkpoint knows of a validation at that step; else it will be made again.
        """
        if not self.file.exists():
            return
        kept = []
        left_out: list[str] = []
        for record in read_metrics(self.file.parent, left_out):
            is_validation = any(key.startswith("val/") for key in record)
            if record["step"] < step or (record["step"] == step and (is_validated or not is_validation)):
                kept.append(json.dumps(record) + "\n")
        if len(left_out) > 1:
            self.file.replace(self.file.with_name(f"{FILE}.damaged"))
        write_atomically(self.file, "".join(kept))

    def write(
        self, trainer: pl.Trainer, step: int, values: dict[str, Any], margins: Mapping[str, Sequence[int]]
    ) -> None:
        """Append one object; loggers get it without the values that nobody computed, and histograms of margins.

        `margins` has counts from `nemo_bt.metrics.margin_counts`, by name.
        """
        if trainer.is_global_zero:
            with self.file.open("a") as file:
                file.write(json.dumps({"step": step} | values) + "\n")
            for logger in self.loggers:
                logger.log_metrics({key: value for key, value in values.items() if value is not None}, step)
            for name, counts in margins.items():
                log_margins(self.loggers, name, counts, step)

    def close(self, status: str) -> None:
        """Let the trackers finish what they have; the status is success or failed."""
        for logger in self.loggers:
            logger.finalize(status)


def read_metrics(log_dir: Path, left_out: list[str] | None = None) -> list[dict[str, Any]]:
    """Read the lines of a run, whose values are numbers or null; `left_out` gets those that are something else.

    Raises:
        UserError: the file cannot be read.
    """
    records = []
    for record in read_lines(log_dir / FILE, _NEEDED, left_out):
        if all(value is None or _is_number(value) for value in record.values()):
            records.append(record)
        elif left_out is not None:
            left_out.append(json.dumps(record))
    return records


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def attributes_of_set(record: Mapping[str, Any], name: str) -> dict[str, dict[str, float]]:
    """Give what a record says of each attribute of a validation set, by name: known, error and reward."""
    start = f"val/{name}/attribute/"
    found: dict[str, dict[str, float]] = {}
    for key, value in record.items():
        if key.startswith(start):
            attribute, _, metric = key.removeprefix(start).rpartition("/")
            found.setdefault(attribute, {})[metric] = value
    return found


def told_errors(record: Mapping[str, Any], name: str) -> str:
    """Tell the error of each attribute of a validation set; "" where there are no attributes."""
    of_each = attributes_of_set(record, name)
    return ", ".join(f"{one} {of['error']:.4f}" if "error" in of else f"{one} -" for one, of in of_each.items())
