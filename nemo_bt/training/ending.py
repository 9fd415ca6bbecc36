"""The last lines of a run: what it gave, where its checkpoints are, and the commands that come next."""

from __future__ import annotations

import shlex
from pathlib import Path

from nemo_bt.checkpoint.best import best_checkpoint
from nemo_bt.checkpoint.find import saved_checkpoints
from nemo_bt.config.model import Settings
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.observability.terminal import Terminal


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
    log_dir = settings.exp_manager.log_dir
    evaluate = ["nemo-bt", "evaluate", f"model.restore_from_path={model}"]
    commands = [["nemo-bt", "export", "--input", str(model), "--output", str(log_dir / "export")]]
    paths = [path for sources in settings.model.data.validation.values() for source in sources for path in source.path]
    if paths:
        outputs = [f"evaluate.input={paths[0]}", f"evaluate.output={log_dir / 'evaluation'}"]
        commands.append([*evaluate, *outputs, f"model.encoder_seq_length={settings.model.encoder_seq_length}"])
    return [*commands, ["nemo-bt", "report", str(log_dir)]]
