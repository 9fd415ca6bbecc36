"""nemo-bt score on one rank: rows in, the same rows with rewards out, part by part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from typing import Any

import pyarrow as pa

from nemo_bt.data.account import Account
from nemo_bt.data.files import DataFile
from nemo_bt.data.render import Renderer, load_renderer
from nemo_bt.data.tokenizer import load_tokenizer
from nemo_bt.disk import naming_disk_errors
from nemo_bt.errors import UserError
from nemo_bt.layout import runs_on_gpu
from nemo_bt.origin import Origin, Start
from nemo_bt.scoring.batch import Batch, StreamRules, compute, plan, tokenise
from nemo_bt.scoring.model import digest_of_head, open_engine, open_trained
from nemo_bt.scoring.parts import Parts
from nemo_bt.scoring.reading import Part, open_files, read_parts
from nemo_bt.scoring.rows import Reward, RowReader
from nemo_bt.scoring.settings import ScoreRun
from nemo_bt.step import stream_rules
from nemo_bt.stopping import StopRequest, reason_of
from nemo_bt.terminal import Terminal


def score(run: ScoreRun, origin: Origin, parts: Parts, terminal: Terminal, rank: int, request: StopRequest) -> bool:
    """Score on this rank, together with all others.

    Args:
        run: checked by `check_score`.
        origin: of the model.
        parts: of the output.
        terminal: rank 0's; silent on the others.
        rank: of this process in the whole job.
        request: to end between two parts.

    Returns:
        Whether it is done, rather than ended early.

    Raises:
        UserError: model, rows or output cannot be used as they are.
    """
    model, (renderer, files) = run.model, _open_rows(run, origin, parts)
    start = open_trained(origin)
    terminal.line(start.description)
    engine = open_engine(start, model, run.trainer.precision, runs_on_gpu(run))
    number = engine.largest(len(parts.begin(_identity(run, start, files, renderer))) if rank == 0 else 0)
    if number:
        terminal.line(f"{number:,} parts are there already: {parts.folder}")
    budget, multiple_of = model.data.tokens_per_micro_batch, stream_rules(model)[1]
    rules = StreamRules(budget, multiple_of, run.data_parallel_size, engine.hidden_size)

    def prepared() -> Iterator[tuple[Part, Batch]]:
        for part in read_parts(files, run.score.rows_per_part, first=number):
            yield part, plan(tokenise(part.conversations, renderer, model.encoder_seq_length), rules)

    account, progress = Account(), _Progress(terminal, sum(file.num_bytes for _, file in files))
    request.listen(is_training=True)
    with closing(progress), naming_disk_errors(parts.folder):
        for part, batch in _one_ahead(prepared()):
            rewards = compute(batch, engine, renderer.pad_id, rules.multiple_of)
            if rank == 0:
                _write(parts, number, part, rewards)
            number += 1
            _count(account, part, batch)
            progress.show(account, part, batch)
            stopped_by = engine.largest(request.code())
            if stopped_by:
                terminal.line(f"stopped by {reason_of(stopped_by)} after part {number}; the same command goes on")
                return False
        if rank == 0:
            parts.finish()
    engine.close()
    terminal.line(f"{parts.output}: {account.num_rows:,} rows, {account.num_kept:,} rewards")
    for reason, count in account.counted():
        terminal.line(f"no reward for {count:,} {reason}")
    return True


def _one_ahead(items: Iterator[tuple[Part, Batch]]) -> Iterator[tuple[Part, Batch]]:
    """The same items; while one is used, the next is made."""
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(next, items, None)
        while item := following.result():
            following = ahead.submit(next, items, None)
            yield item


def _open_rows(run: ScoreRun, origin: Origin, parts: Parts) -> tuple[Renderer, list[tuple[RowReader, DataFile]]]:
    """The model's tokenizer with its template, and the files with how each is read."""
    tokenizer = load_tokenizer(run.model.tokenizer.type or str(origin.tokenizer), run.model.tokenizer.pad_token)
    renderer = load_renderer(tokenizer, run.model.data)
    files = open_files(run, renderer.chat)
    if parts.is_table and not all(file.kind in ("parquet", "arrow") for _, file in files):
        raise UserError(f"score.output={parts.output}: a table needs tables for input. Choose a name in .jsonl.")
    return renderer, files


def _identity(
    run: ScoreRun, start: Start, files: list[tuple[RowReader, DataFile]], renderer: Renderer
) -> dict[str, Any]:
    """What parts are made from: those of another are not taken for this one's."""
    return {
        "score.input": [[file.name, file.num_bytes] for _, file in files],
        "score.column": run.score.column,
        "score.rows_per_part": run.score.rows_per_part,
        "model.restore_from_path": [start.origin.given, digest_of_head(start)],
        "model.encoder_seq_length": run.model.encoder_seq_length,
        "chat template and tokenizer": renderer.described(),
    }


def _write(parts: Parts, number: int, part: Part, rewards: list[Reward]) -> None:
    values = part.values(rewards)
    if not parts.is_table:
        parts.write_lines(number, [row | value for row, value in zip(part.rows, values, strict=True)])
        return
    tables = [pa.ipc.open_stream(chunk.payload).read_all() for _, chunk in part.chunks]
    table, (reader, _) = pa.concat_tables(tables, promote_options="default"), part.chunks[0]
    kind = pa.list_(pa.float64()) if reader.is_list else pa.float64()
    for name in reader.columns:
        table = table.append_column(name, pa.array([value[name] for value in values], kind))
    parts.write_table(number, table)


def _count(account: Account, part: Part, batch: Batch) -> None:
    account.add(part.account)
    account.num_kept += len(batch.place) - len(batch.refused)
    for position, refused in batch.refused.items():
        account.drop(refused.reason, part.where(position), refused.detail)


class _Progress:
    """Speed and what is left, by the bytes of the files."""

    def __init__(self, terminal: Terminal, num_bytes: int) -> None:
        self.terminal, self.num_bytes = terminal, num_bytes
        self.start_s, self.num_tokens = time.monotonic(), 0
        terminal.start(0, 100, "%")

    def show(self, account: Account, part: Part, batch: Batch) -> None:
        """A line for each part, and the bar."""
        taken_s = time.monotonic() - self.start_s
        self.num_tokens += batch.num_tokens
        share = part.num_bytes / self.num_bytes
        left = timedelta(seconds=round(taken_s * (1 / share - 1)))
        self.terminal.line(
            f"{account.num_rows:,} rows  {share:.0%}  {account.num_kept / taken_s:,.1f} conversations/s  "
            f"{self.num_tokens / taken_s:,.0f} tokens/s  left {left}"
        )
        self.terminal.advance(round(100 * share), "")

    def close(self) -> None:
        """Take the bar away."""
        self.terminal.stop()
