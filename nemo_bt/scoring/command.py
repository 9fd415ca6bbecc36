"""nemo-bt score on one rank: rows in, the same rows with rewards out, part by part."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nemo_bt.checkpoint.disk_errors import naming_disk_errors
from nemo_bt.config.device import runs_on_gpu
from nemo_bt.config.length import LengthLimit, length_limit
from nemo_bt.config.score import ScoreRun
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.read.files import DataFile
from nemo_bt.data.read.rows import column_types
from nemo_bt.data.tokenize.chat_template import Renderer, load_renderer
from nemo_bt.data.tokenize.foreign_tokenizer import tokenizer_files
from nemo_bt.data.tokenize.text_settings import described
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.launching.local import answering
from nemo_bt.launching.signals import StopRequest, reason_of, tell_stopped
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.hf_config import positions_of
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource
from nemo_bt.pretrained.trained_head import was_trained_on
from nemo_bt.scoring.batch import Batch, StreamRules, compute_all, plan, tokenise
from nemo_bt.scoring.columns import column, write_part
from nemo_bt.scoring.model import digest_of_head, open_engine, open_trained
from nemo_bt.scoring.parts import Parts
from nemo_bt.scoring.reading import Part, open_files, read_parts
from nemo_bt.scoring.reward_statistics import own_statistics
from nemo_bt.scoring.rows import Reward, RowReader
from nemo_bt.training.loading_bar import with_bar
from nemo_bt.training.steps.plan import layout_rules

if TYPE_CHECKING:
    from nemo_bt.scoring.engine import Engine


def score(
    run: ScoreRun,
    pretrained: PretrainedSource,
    parts: Parts,
    terminal: Terminal,
    rank: int,
    request: StopRequest,
    engine: Engine | None = None,
) -> bool:
    """Score on this rank, together with all others, and tell whether it is done rather than stopped early.

    Args:
        run: settings that `check_score` has checked.
        request: request to stop between two parts.
        engine: the model, from `open_for`, which stays open; None opens it here, and closes it.

    Raises:
        UserError: model, rows or output cannot be used as they are.
    """
    renderer, files = open_rows(run, pretrained, parts)
    initial = open_trained(pretrained)
    terminal.line(initial.description)
    for line in described(run.model.data, pretrained, renderer.chat, was_trained_on(initial)):
        terminal.line(line)
    statistics = own_statistics(initial, "score.normalize=true") if run.score.normalize else None
    limit = length_limit(run.model.encoder_seq_length, positions_of(pretrained.hf_config))
    identity = _identity(run, initial, files, renderer, limit)
    if parts.is_done(identity):
        terminal.line(f"{parts.output}: scored already")
        return True
    given = engine
    engine = given or open_for(run, with_bar(initial, run.model, terminal))
    number = engine.largest(parts.begin(identity) if rank == 0 else 0)
    if number:
        terminal.line(f"{number:,} parts are there already: {parts.folder}")
    rules = _rules(run, engine)
    of_run = read_parts(files, run.score.rows_per_part, first=number)
    planned = ((part, plan(tokenise(part.conversations, renderer, limit), rules)) for part in of_run)
    progress = _Progress(terminal, sum(file.num_bytes for _, file in files))
    request.listen(is_training=True, answer_to=answering(terminal.errors, rank))
    with closing(progress), naming_disk_errors(parts.folder, "Make room, and the same command goes on."):
        for part, batch in _one_ahead(planned):
            found = compute_all(batch, engine, renderer.pad_id, rules.multiple_of)
            rewards = [one if one is None or not statistics else statistics.normalize(one) for one in column(found, 0)]
            _count(part, batch, rewards)
            if rank == 0:
                attributes = {name: column(found, at) for at, name in enumerate(engine.attributes, start=1)}
                write_part(parts, number, part, rewards, attributes)
            number += 1
            progress.show(part, batch)
            stopped_by = engine.largest(request.code())
            if stopped_by:
                _tell_stopped(reason_of(stopped_by), number, terminal, rank)
                return False
        if rank == 0:
            _finish(run, parts, limit, terminal)
    if not given:
        engine.close()
    return True


def _rules(run: ScoreRun, engine: Engine) -> StreamRules:
    multiple_of = layout_rules(run.model).tokens_multiple_of
    return StreamRules(run.model.data.tokens_per_micro_batch, multiple_of, run.data_parallel_size, engine.hidden_size)


def open_for(run: ScoreRun, initial: InitialWeights) -> Engine:
    """Build the model at the run's layout. Ranks meet for it, which they can do once in a process."""
    model = run.model
    return open_engine(initial, model, model.encoder_seq_length, run.trainer.precision, runs_on_gpu(run.trainer))


def _tell_stopped(reason: str, number: int, terminal: Terminal, rank: int) -> None:
    if rank == 0:
        tell_stopped(reason)
    terminal.line(f"stopped by {reason} after part {number}; the same command goes on")


def _finish(run: ScoreRun, parts: Parts, limit: LengthLimit, terminal: Terminal) -> None:
    drop_report = replace(parts.finish(keeps_identity=bool(run.needs)), limit=limit.words)
    terminal.line(f"{parts.output}: {drop_report.num_rows:,} rows, {drop_report.num_kept:,} rewards")
    for reason, count in drop_report.counted():
        terminal.line(f"no reward for {count:,} {reason}")
    if not drop_report.num_kept:
        examples = [f"\n  {example}" for shown in drop_report.examples.values() for example in shown[:1]]
        raise UserError(f"{parts.output}: no row has a reward. The first of each reason:{''.join(examples)}")


def _one_ahead(items: Iterator[tuple[Part, Batch]]) -> Iterator[tuple[Part, Batch]]:
    """Give the same items; while one is used, the next is made."""
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(next, items, None)
        while item := following.result():
            following = ahead.submit(next, items, None)
            yield item


def renderer_of(run: ScoreRun, pretrained: PretrainedSource) -> Renderer:
    """Load the model's tokenizer with its template."""
    tokenizer = load_tokenizer(run.model.tokenizer.type or str(pretrained.tokenizer), run.model.tokenizer.pad_token)
    return load_renderer(tokenizer, run.model.data)


def open_rows(
    run: ScoreRun, pretrained: PretrainedSource, parts: Parts
) -> tuple[Renderer, list[tuple[RowReader, DataFile]]]:
    """Load the model's tokenizer with its template, and find the files and how each is read.

    Raises:
        UserError: the tokenizer cannot be used; rows cannot be scored, or their rewards do not fit this output.
    """
    renderer = renderer_of(run, pretrained)
    files = open_files(run, renderer.chat, list(pretrained.architecture.attributes))
    if parts.is_table:
        columns = [list(column_types(file).items()) for _, file in files]
        if not all(columns):
            raise UserError(f"score.output={parts.output}: a table needs tables for input. Choose a name in .jsonl.")
        others = [file.name for (_, file), own in zip(files, columns, strict=True) if own != columns[0]]
        if others:
            raise UserError(
                f"{others[0]}: its columns are not those of {files[0][1].name}, and a table has one kind of rows. "
                "Score them apart, or choose a name in .jsonl."
            )
    return renderer, files


def _identity(
    run: ScoreRun,
    initial: InitialWeights,
    files: list[tuple[RowReader, DataFile]],
    renderer: Renderer,
    limit: LengthLimit,
) -> dict[str, Any]:
    """Describe what parts are made from, so that parts of another run are not taken for this one's."""
    folder = Path(run.model.tokenizer.type or initial.pretrained.tokenizer)
    tokenizer = hashlib.sha256(b"".join(file.read_bytes() for file in tokenizer_files(folder))).hexdigest()
    return {
        "score.input": [[file.name, file.num_bytes, file.changed] for _, file in files],
        "model.data": asdict(run.source),
        "trainer.precision": run.trainer.precision,
        "score.column": run.score.column,
        "score.normalize": run.score.normalize,
        "score.rows_per_part": run.score.rows_per_part,
        "model.restore_from_path": [initial.pretrained.given, digest_of_head(initial)],
        "attributes": initial.pretrained.architecture.attributes,
        "model.encoder_seq_length": limit.tokens,
        "chat template": renderer.described(),
        "tokenizer": tokenizer,
    }


def _count(part: Part, batch: Batch, rewards: list[Reward]) -> None:
    """Add what became of the part's conversations to its report."""
    for position, reward in enumerate(rewards):
        if reward is not None:
            part.drop_report.num_kept += 1
            continue
        refused = batch.refused.get(position, RowError("reward", ""))
        part.drop_report.drop(refused.reason, part.where[position], refused.detail)


class _Progress:
    """Speed and time that is left, judged by the bytes of the files."""

    def __init__(self, terminal: Terminal, num_bytes: int) -> None:
        self.terminal = terminal
        self.num_bytes = num_bytes
        self.start_s = time.monotonic()
        self.num_rows = self.num_kept = self.num_tokens = 0
        terminal.start(0, 100, "%")

    def show(self, part: Part, batch: Batch) -> None:
        """Print a line for the part, and move the bar."""
        taken_s = time.monotonic() - self.start_s
        self.num_tokens += batch.num_tokens
        self.num_rows += part.drop_report.num_rows
        self.num_kept += part.drop_report.num_kept
        share = part.num_bytes / self.num_bytes if self.num_bytes else 0.0  # a file server may not tell sizes
        left = f"  left {timedelta(seconds=round(taken_s * (1 / share - 1)))}" if share else ""
        self.terminal.line(
            f"{self.num_rows:,} rows  {share:.0%}  {self.num_kept / taken_s:,.1f} conversations/s  "
            f"{self.num_tokens / taken_s:,.0f} tokens/s{left}"
        )
        self.terminal.advance(round(100 * share), "")

    def close(self) -> None:
        """Take the bar away."""
        self.terminal.stop()
