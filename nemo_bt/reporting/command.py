"""nemo-bt report: a page, pictures and numbers in <log dir>/report."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nemo_bt.checkpoint.disk_errors import naming_disk_errors
from nemo_bt.config.device import runs_on_gpu
from nemo_bt.config.loss import WITH_TIES, LossSettings
from nemo_bt.config.model import Settings
from nemo_bt.data.formats.responses import response_of
from nemo_bt.data.store.load import as_the_model, load_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.data.tokenize.chat_template import load_renderer
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.files import beside
from nemo_bt.foreign.files import reading
from nemo_bt.observability.metrics_log import FILE as METRICS
from nemo_bt.observability.metrics_log import read_metrics
from nemo_bt.observability.terminal import Terminal
from nemo_bt.observability.trackers import build_loggers, log_pictures
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource
from nemo_bt.reporting.attributes import numbers_of_attributes
from nemo_bt.reporting.conversations import Sides, conversations_of
from nemo_bt.reporting.curves import panels_of
from nemo_bt.reporting.evaluated import pictures_of_results, shown
from nemo_bt.reporting.facts import facts_of
from nemo_bt.reporting.numbers import JudgedSet, numbers_of
from nemo_bt.reporting.page import render, worst_pairs
from nemo_bt.reporting.pictures import file_stems, pictures_of_run, pictures_of_set
from nemo_bt.reporting.rewards import known_answers, rewards_of
from nemo_bt.reporting.settings import ReportRun
from nemo_bt.reporting.verdict import verdict
from nemo_bt.scoring.model import open_engine, open_trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 150


def write_report(run: ReportRun, terminal: Terminal, rank: int) -> int:
    """Write the report on this rank, together with all others.

    Args:
        run: run that is reported on.
        rank: rank of this process in the whole job.

    Raises:
        UserError: model, tokenizer or data cannot be used as they are.
    """
    initial, judged = judge_run(run, run.pretrained, terminal) if run.pretrained else (None, [])
    if rank == 0:
        with naming_disk_errors(run.log_dir):
            _write(run, initial, judged, terminal)
    return 0


def judge_run(
    run: ReportRun, pretrained: PretrainedSource, terminal: Terminal
) -> tuple[InitialWeights, list[tuple[JudgedSet, list[Sides]]]]:
    """Open the model and give, on every rank, its weights and each validation set with rewards and conversations."""
    as_run = as_the_model(run.settings, pretrained.hf_config)
    settings = replace(as_run, model=replace(as_run.model, loss=LossSettings()))  # a report is about pairs
    initial = open_trained(pretrained)
    terminal.line(initial.description)
    tokenizer = load_tokenizer(str(pretrained.tokenizer), settings.model.tokenizer.pad_token)
    sets = load_sets(settings, tokenizer, True, terminal, with_train=False)
    answers = _answers(as_run, sets, tokenizer, terminal)
    renderer = load_renderer(tokenizer, settings.model.data)
    conversations = {
        name: conversations_of(pairs, settings.model.data.validation[name], settings, renderer)
        for name, pairs in sets.items()
    }
    model = settings.model
    on_gpu = runs_on_gpu(settings.trainer)
    engine = open_engine(initial, model, model.encoder_seq_length, settings.trainer.precision, on_gpu)
    judged = []
    terminal.start(0, len(sets), "sets")
    for number, (name, pairs) in enumerate(sets.items()):
        terminal.line(f"{name}: {len(pairs.epoch):,} pairs, swapped, and their parts")
        terminal.advance(number, name)
        rewards = rewards_of(engine, pairs, conversations[name], settings, renderer, terminal)
        numbers = pairs.epoch.all_pairs().tolist()
        entries = [conversations[name][number] for number in numbers]
        lengths = np.array([[len(response_of(side)) for side in sides] for sides in entries], dtype=np.int64)
        where = [pairs.where(number) for number in numbers]
        known = known_answers(engine, answers[name], as_run, renderer.pad_id) if name in answers else None
        of_set = JudgedSet(name, where, pairs.sources_of(numbers), lengths, rewards, known)
        if len(of_set.kept):
            judged.append((of_set, entries))
        else:
            terminal.line(f"warning: {name} is left out: none of its pairs has finite rewards")
    terminal.stop()
    engine.close()
    return initial, judged


def _answers(as_run: Settings, sets: dict[str, PairSet], tokenizer: Any, terminal: Terminal) -> dict[str, PairSet]:
    """Load the sets as the loss of the run has them, all answers of a list; none where there are no attributes."""
    model = as_run.model
    if not model.reward_head.attributes:
        return {}
    is_of_pairs = model.loss.takes == "pairs" and model.loss.kind not in WITH_TIES
    return sets if is_of_pairs else load_sets(as_run, tokenizer, True, terminal, with_train=False)


def _write(
    run: ReportRun, initial: InitialWeights | None, judged: Sequence[tuple[JudgedSet, list[Sides]]], terminal: Terminal
) -> None:
    records = read_metrics(run.log_dir)
    with reading(f"{run.log_dir / METRICS}: expected the metrics of a run, got ", "Move away what no run has written."):
        panels = panels_of(records)
        facts = facts_of(run, initial, records)
    curves = pictures_of_run(panels)
    sets: list[dict[str, Any]] = []
    plain: dict[str, dict[str, Any]] = {}
    pictures = dict(curves)
    for stem, (of_set, entries) in zip(file_stems([of_set.name for of_set, _ in judged]), judged, strict=True):
        numbers = numbers_of(of_set, run.settings.trainer.precision)
        kept = of_set.kept
        figures = pictures_of_set(numbers, of_set.rewards.given_E2[kept], of_set.characters_E2[kept])
        drawn = {f"{stem}-{what}": figure for what, figure in figures.items()}
        worst = worst_pairs(of_set, entries)
        pictures |= drawn
        numbers = numbers | {"verdict": verdict(numbers)}
        if of_set.known:
            numbers["attributes"] = numbers_of_attributes(of_set, of_set.known)
        sets.append({"name": of_set.name, "numbers": numbers, "pictures": drawn, "worst": worst})
        plain[of_set.name] = numbers | {"worst": worst}
    evaluated = []
    for stem, (name, results) in zip(file_stems(list(run.evaluated)), run.evaluated.items(), strict=True):
        figures = {f"evaluated-{stem}-{what}": figure for what, figure in pictures_of_results(results).items()}
        pictures |= figures
        evaluated.append({"name": name, "pictures": figures} | shown(results))
    step = run.step or max((record["step"] for record in records), default=0)
    title = f"{run.was.exp_manager.name}: {run.log_dir.resolve().name}"
    page = render(title, dict(facts).get("checkpoint", f"step {step:,}"), curves, sets, evaluated, facts)
    report = {"step": step, "facts": dict(facts), "curves": [asdict(panel) for panel in panels], "validation": plain}
    report |= {"evaluated": run.evaluated} if run.evaluated else {}
    files = {f"{name}.png": _png(figure) for name, figure in pictures.items()}
    files |= {"report.json": f"{json.dumps(report, indent=1)}\n".encode(), "report.html": page.encode()}
    folder = run.log_dir / "report"
    replace_files(folder, files)
    _show(plain, terminal)
    _track(run.settings, {f"report/{name}": folder / f"{name}.png" for name in pictures}, step, terminal)
    terminal.line(f"{folder / 'report.html'}: {len(pictures)} pictures beside it, the numbers in report.json")


def _png(figure: Figure) -> bytes:
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=_DPI)
    return drawn.getvalue()


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files beside those of an earlier report, and replace these once all are written."""
    with ExitStack() as all_there:
        for name, content in files.items():
            all_there.enter_context(beside(folder / name)).write_bytes(content)
    for old in folder.glob("*.png"):
        if old.name not in files:
            old.unlink()


def _show(plain: Mapping[str, dict[str, Any]], terminal: Terminal) -> None:
    rows = []
    for name, numbers in plain.items():
        part = numbers["response_only"]["tally"]
        rows.append(
            [
                name,
                f"{numbers['pairs']:,}",
                f"{numbers['overall']['accuracy']:.4f}",
                f"{numbers['longer_wins']:.4f}",
                f"{part['accuracy']:.4f}" if part else "-",
                f"{numbers['calibration']['ece']:.4f}",
                "holds" if numbers["swapped"]["holds"] else "fails",
            ]
        )
    if rows:
        columns = ("set", "pairs", "accuracy", "longer answer wins", "response alone", "ECE", "exchange test")
        terminal.table(columns, rows)
    of_attributes = [
        [
            name,
            attribute,
            f"{of['known']:,}",
            *map(_four_digits, (of["error"], of["pearson"], of["overall"]["accuracy"])),
        ]
        for name, numbers in plain.items()
        for attribute, of in numbers.get("attributes", {}).items()
    ]
    if of_attributes:
        terminal.table(("set", "attribute", "known values", "error", "correlation", "accuracy alone"), of_attributes)
    for name, numbers in plain.items():
        terminal.line(f"{name}: {numbers['verdict']}")


def _track(settings: Settings, pictures: Mapping[str, Path], step: int, terminal: Terminal) -> None:
    """Hand the pictures to the run's trackers; their failure does not fail the report."""
    loggers = build_loggers(settings.exp_manager, None, continues=True)
    try:
        log_pictures(loggers, pictures, step)
    except UserError as error:
        terminal.line(f"warning: the pictures are not in the trackers: {error}")
    for logger in loggers:
        logger.finalize("success")


def _four_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
