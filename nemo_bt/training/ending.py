"""The last lines of a run: what it gave, where its checkpoints are, and the commands that come next."""

from __future__ import annotations

import shlex
from pathlib import Path

from nemo_bt.checkpoint.best import best_checkpoint
from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.config.data import SourceSettings
from nemo_bt.config.job import DeviceSettings
from nemo_bt.config.model import Settings
from nemo_bt.config.score import ScoredModelSettings
from nemo_bt.data.store.pair_set import PairSet
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
            longer = pairs.column("is_longer", pairs.epoch.pair_E).mean()
            values = (validation[key + "accuracy"], longer, validation[key + "loss"], validation[key + "margin"])
            rows.append([name, f"{len(pairs.epoch):,}", *(f"{value:.4f}" for value in values)])
    if rows and limit_val_batches == 1.0:
        columns = ("validation set", "pairs", "accuracy", "longer answer wins", "loss", "margin")
        terminal.table(columns, rows)


def tell_next(settings: Settings, terminal: Terminal) -> None:
    """Name the last and the best checkpoint, and the commands that export, evaluate and report the best."""
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
    for words in _commands(settings, model):
        terminal.line(f"  {shlex.join(words)}")


def _commands(settings: Settings, model: Path) -> list[list[str]]:
    """Write the commands. `evaluate` is one of them where it reads the validation pairs as the run did."""
    log_dir = settings.exp_manager.log_dir
    commands = [["nemo-bt", "export", "--input", str(model), "--output", str(log_dir / "export")]]
    sources = [source for some in settings.model.data.validation.values() for source in some]
    if len(sources) == 1 and _is_plain(settings, sources[0]):
        score = ScoredModelSettings()
        same = {name: getattr(settings.model, name) for name in (*_LAYOUT, "encoder_seq_length")}
        layout = [f"model.{name}={_typed(value)}" for name, value in same.items() if value != getattr(score, name)]
        trainer = {name: getattr(settings.trainer, name) for name in ("devices", "num_nodes", "precision")}
        layout += [
            f"trainer.{name}={value}" for name, value in trainer.items() if value != getattr(DeviceSettings, name)
        ]
        inputs = [f"evaluate.input={sources[0].path[0]}", f"evaluate.output={log_dir / 'evaluation'}"]
        commands.append(["nemo-bt", "evaluate", f"model.restore_from_path={model}", *inputs, *layout])
    return [*commands, ["nemo-bt", "report", str(log_dir)]]


def _is_plain(settings: Settings, source: SourceSettings) -> bool:
    """Tell whether a source says nothing but one path, and texts are rendered as the tokenizer does."""
    data = settings.model.data
    is_rendered_plainly = data.chat_template is None and not data.chat_template_kwargs and not data.chat_template_date
    return is_rendered_plainly and source == SourceSettings(path=source.path[:1])


def _typed(value: bool | int) -> str:
    return str(value).lower()
