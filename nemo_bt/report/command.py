"""nemo-bt report: a page, pictures and numbers in <log dir>/report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_bt.data.choices import response_of
from nemo_bt.data.load import load_sets
from nemo_bt.data.render import load_renderer
from nemo_bt.data.tokenizer import load_tokenizer
from nemo_bt.disk import naming_disk_errors
from nemo_bt.errors import UserError
from nemo_bt.events import read_lines
from nemo_bt.layout import runs_on_gpu
from nemo_bt.metrics_log import FILE as METRICS
from nemo_bt.origin import Origin, Start
from nemo_bt.report.conversations import Sides, conversations_of
from nemo_bt.report.curves import panels_of
from nemo_bt.report.facts import facts_of
from nemo_bt.report.numbers import JudgedSet, numbers_of
from nemo_bt.report.page import render, worst_pairs
from nemo_bt.report.pictures import file_stems, pictures_of_run, pictures_of_set
from nemo_bt.report.rewards import rewards_of
from nemo_bt.report.settings import ReportRun
from nemo_bt.scoring.model import open_engine, open_trained
from nemo_bt.settings import Settings
from nemo_bt.terminal import Terminal
from nemo_bt.trackers import build_loggers, log_pictures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150
_UNSCORED = "No model was asked: this page has what the run logged."


def write_report(run: ReportRun, terminal: Terminal, rank: int) -> int:
    """Write it on this rank, together with all others.

    Args:
        run: from `find_run`.
        terminal: rank 0's; silent on the others.
        rank: of this process in the whole job.

    Raises:
        UserError: model, tokenizer or data cannot be used as they are.
    """
    start, judged = judge_run(run, run.origin, terminal) if run.origin else (None, [])
    if rank == 0:
        with naming_disk_errors(run.log_dir):
            _write(run, start, judged, terminal)
    return 0


def judge_run(run: ReportRun, origin: Origin, terminal: Terminal) -> tuple[Start, list[tuple[JudgedSet, list[Sides]]]]:
    """Rewards of every validation set, on every rank.

    Returns:
        Weights of the model; of each set its entries with rewards, and their conversations.
    """
    settings = run.settings
    start = open_trained(origin)
    terminal.line(start.description)
    tokenizer = load_tokenizer(str(origin.tokenizer), settings.model.tokenizer.pad_token)
    sets = load_sets(settings, tokenizer, origin.tokenizer, True, terminal, with_train=False)
    renderer = load_renderer(tokenizer, settings.model.data)
    conversations = {
        name: conversations_of(pairs, settings.model.data.validation[name], settings, renderer)
        for name, pairs in sets.items()
    }
    engine = open_engine(start, settings.model, settings.trainer.precision, runs_on_gpu(settings))
    judged = []
    terminal.start(0, len(sets), "sets")
    for number, (name, pairs) in enumerate(sets.items()):
        terminal.line(f"{name}: {len(pairs.epoch):,} pairs, exchanged, and their parts")
        terminal.advance(number, name)
        rewards = rewards_of(engine, pairs, conversations[name], settings, renderer)
        numbers = pairs.epoch.pair_E.tolist()
        entries = [conversations[name][number] for number in numbers]
        lengths = np.array([[len(response_of(side)) for side in sides] for sides in entries], dtype=np.int64)
        where, sources = [pairs.where(number) for number in numbers], pairs.sources_of(numbers)
        of_set = JudgedSet(name, where, sources, lengths, rewards)
        if not len(of_set.kept):
            raise UserError(f"{name}: no pair has finite rewards by {origin.given}.")
        judged.append((of_set, entries))
    terminal.stop()
    engine.close()
    return start, judged


def _write(
    run: ReportRun, start: Start | None, judged: Sequence[tuple[JudgedSet, list[Sides]]], terminal: Terminal
) -> None:
    folder, records = run.log_dir / "report", read_lines(run.log_dir / METRICS)
    for old in folder.glob("*.png"):
        old.unlink()
    panels = panels_of(records)
    curves = pictures_of_run(panels)
    sets: list[dict[str, Any]] = []
    plain: dict[str, dict[str, Any]] = {}
    pictures = dict(curves)
    for stem, (of_set, entries) in zip(file_stems([of_set.name for of_set, _ in judged]), judged, strict=True):
        numbers, kept = numbers_of(of_set), of_set.kept
        figures = pictures_of_set(numbers, of_set.rewards.given_E2[kept], of_set.characters_E2[kept])
        drawn = {f"{stem}-{what}": figure for what, figure in figures.items()}
        worst = worst_pairs(of_set, entries)
        pictures |= drawn
        sets.append({"name": of_set.name, "numbers": numbers, "pictures": drawn, "worst": worst})
        plain[of_set.name] = numbers | {"worst": worst}
    facts = facts_of(run, start, records)
    files = _save(pictures, folder)
    step = run.step or (records[-1]["step"] if records else 0)
    title = f"{run.settings.exp_manager.name}: {run.log_dir.resolve().name}"
    page = render(title, dict(facts).get("checkpoint", f"step {step:,}"), curves, sets, facts, _UNSCORED)
    report = {"step": step, "facts": dict(facts), "curves": [asdict(panel) for panel in panels], "validation": plain}
    for name, text in (("report.json", json.dumps(report, indent=1) + "\n"), ("report.html", page)):
        (folder / f"{name}.unfinished").write_text(text)
        (folder / f"{name}.unfinished").replace(folder / name)
    _show(plain, terminal)
    _track(run.settings, files, step)
    terminal.line(f"{folder / 'report.html'}: {len(files)} pictures beside it, the numbers in report.json")


def _save(pictures: Mapping[str, Figure], folder: Path) -> dict[str, Path]:
    files = {name: folder / f"{name}.png" for name in pictures}
    for name, figure in pictures.items():
        figure.savefig(files[name], dpi=_DPI)
    return files


def _show(plain: Mapping[str, dict[str, Any]], terminal: Terminal) -> None:
    rows = []
    for name, numbers in plain.items():
        part = numbers["response_only"]
        rows.append(
            [
                name,
                f"{numbers['pairs']:,}",
                f"{numbers['overall']['accuracy']:.4f}",
                f"{numbers['longer_wins']:.4f}",
                f"{part['accuracy']:.4f}" if part else "-",
                f"{numbers['calibration']['ece']:.4f}",
                "holds" if not numbers["exchanged"]["not_turned"] else "fails",
            ]
        )
    if rows:
        columns = ("set", "pairs", "accuracy", "longer answer wins", "response alone", "ECE", "exchange test")
        terminal.table(columns, rows)


def _track(settings: Settings, files: Mapping[str, Path], step: int) -> None:
    """Hand the pictures to the run's trackers."""
    loggers = build_loggers(settings.exp_manager, None, continues=True)
    log_pictures(loggers, {f"report/{name}": file for name, file in files.items()}, step)
    for logger in loggers:
        logger.finalize("success")
