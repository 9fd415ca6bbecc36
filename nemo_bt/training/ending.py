"""The last lines of a run: what it gave, where its checkpoints are, and the commands that come next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from nemo_bt.checkpoint.best import best_checkpoint
from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.config.data import RowSettings, SourceSettings
from nemo_bt.config.job import DeviceSettings
from nemo_bt.config.model import Settings
from nemo_bt.config.score import ScoredModelSettings
from nemo_bt.data.formats.table import FORMATS
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.observability.metrics_log import attributes_of_set
from nemo_bt.observability.terminal import Terminal

_LAYOUT = (
    "tensor_model_parallel_size",
    "pipeline_model_parallel_size",
    "context_parallel_size",
    "expert_model_parallel_size",
    "sequence_parallel",
)


def summarise(
    validation: dict[str, float], sets: dict[str, PairSet], limit_val_batches: float, terminal: Terminal
) -> None:
    """Show the last validation beside a rule that reads nothing, so that nobody takes the one for the other."""
    rows = []
    for name, pairs in sets.items():
        key = f"val/{name}/"
        if key + "accuracy" in validation:
            longer = pairs.column("is_longer", pairs.epoch.all_pairs()).mean()
            values = (validation[key + "accuracy"], longer, validation[key + "loss"], validation[key + "margin"])
            rows.append([name, f"{len(pairs.epoch):,}", *(f"{value:.4f}" for value in values)])
    if rows and limit_val_batches == 1.0:
        columns = ("validation set", "pairs", "accuracy", "longer answer wins", "loss", "margin")
        terminal.table(columns, rows)
    rows = [
        [
            name,
            attribute,
            f"{of['known']:,.0f}",
            *(f"{of[key]:.4f}" if key in of else "-" for key in ("error", "reward")),
        ]
        for name in sets
        for attribute, of in attributes_of_set(validation, name).items()
    ]
    if rows:
        terminal.table(("validation set", "attribute", "known values", "error", "mean reward"), rows)


def tell_next(settings: Settings, sets: Mapping[str, PairSet], terminal: Terminal) -> None:
    """Name the last and the best checkpoint, and the commands that export, evaluate and report the best.

    Args:
        settings: settings of the run.
        sets: its pairs, by name.
        terminal: gets the lines.
    """
    log_dir = settings.exp_manager.log_dir
    saved = saved_checkpoints(log_dir / "checkpoints")
    if not saved:
        return
    best = best_checkpoint(log_dir)
    model = best.path if best else saved[-1]
    terminal.line(f"last checkpoint: {saved[-1]}")
    if best:
        terminal.line(f"best checkpoint: {best.path} ({best.metric} {best.value:.4f})")
    terminal.line("next:")
    for words in _commands(settings, sets, model):
        terminal.line(f"  {shlex.join(words)}")


def _commands(settings: Settings, sets: Mapping[str, PairSet], model: Path) -> list[list[str]]:
    """Write the commands. `evaluate` is one of them where it can read the validation pairs as the run did."""
    log_dir = settings.exp_manager.log_dir
    commands = [["nemo-bt", "export", "--input", str(model), "--output", str(log_dir / "export")]]
    sources = [source for some in settings.model.data.validation.values() for source in some]
    formats = [part.format for name, pairs in sets.items() if name != "train" for part in pairs.sources]
    if len(sources) == 1 and all(name in FORMATS and FORMATS[name].lines == 1 for name in formats):
        reading = _reading(sources[0])
        if reading is not None and not _is_read_otherwise(sources[0], settings.model.data.train):
            path = sources[0].path
            inputs = [f"evaluate.input={path[0] if len(path) == 1 else _typed(path)}"]
            inputs += [f"evaluate.output={log_dir / 'evaluation'}"]
            evaluate = ["nemo-bt", "evaluate", f"model.restore_from_path={model}", *inputs, *reading]
            commands.append([*evaluate, *_layout(settings)])
    return [*commands, ["nemo-bt", "report", str(log_dir)]]


def _is_read_otherwise(source: SourceSettings, train: Sequence[SourceSettings]) -> bool:
    """Tell whether evaluation would put texts together as the training did, and the run's validation did not."""
    kept = [{getattr(one, name) for one in train} for name in ("join", "input_template")]
    is_kept = any(len(values) == 1 and values != {None} for values in kept)
    return source.join is None and source.input_template is None and is_kept


def _layout(settings: Settings) -> list[str]:
    score = ScoredModelSettings()
    same = {name: getattr(settings.model, name) for name in (*_LAYOUT, "encoder_seq_length")}
    layout = [f"model.{name}={_typed(value)}" for name, value in same.items() if value != getattr(score, name)]
    trainer = {name: getattr(settings.trainer, name) for name in ("devices", "num_nodes", "precision")}
    return layout + [f"trainer.{name}={v}" for name, v in trainer.items() if v != getattr(DeviceSettings, name)]


def _reading(source: SourceSettings) -> list[str] | None:
    """Write how a source is read where that is not the default; None where a command line cannot.

    How the model renders texts stays with it (nemo_bt/data/tokenize/text_settings.py).
    """
    plain = RowSettings()
    rows = {field.name: getattr(source, field.name) for field in fields(RowSettings)}
    values = {name: value for name, value in rows.items() if value != getattr(plain, name)}
    amount = (source.fraction, source.repeat, source.count)
    if any(amount) or not all(isinstance(value, str | bool | list) for value in values.values()):
        return None
    of_hub = {name: getattr(source, name) for name in ("split", "subset", "revision")}
    hub = [f"evaluate.{name}={value}" for name, value in of_hub.items() if value != getattr(SourceSettings, name)]
    return [*hub, *(f"model.data.{name}={_typed(value)}" for name, value in values.items())]


def _typed(value: bool | int | str | list[str]) -> str:
    if isinstance(value, list):
        return f"[{','.join(value)}]"
    return value if isinstance(value, str) else str(value).lower()
