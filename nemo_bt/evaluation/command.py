"""The part of nemo-bt evaluate that follows once every row is scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from nemo_bt.config.score import BEST_OF_N, OF_ANSWERS, REWARDMATH, EvaluateRun
from nemo_bt.data.read.files import DataFile
from nemo_bt.data.read.rows import read_chunks
from nemo_bt.errors import UserError
from nemo_bt.evaluation import rewardmath
from nemo_bt.evaluation.attributes import by_attribute
from nemo_bt.evaluation.best_of_n import Labelled, best_of_n, label_key_of, labelled
from nemo_bt.evaluation.kind import kind_of
from nemo_bt.evaluation.measure import measure, scored_rows, unscored_rows
from nemo_bt.evaluation.tables import as_markdown, tables_of
from nemo_bt.files import write_atomically
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.resolve import PretrainedSource
from nemo_bt.scoring.command import open_rows
from nemo_bt.scoring.parts import Parts
from nemo_bt.scoring.rows import RowReader, reader_of

_FIRST_ROWS = 512


def evaluate(run: EvaluateRun, model: str, terminal: Terminal, attributes: Sequence[str] = ()) -> dict[str, Any]:
    """Measure what `nemo-bt score` has written for this run, and give the contents of results.json.

    Args:
        run: settings of a run whose score.output exists.
        model: name of the model, for the results.
        attributes: those that the model has.

    Raises:
        UserError: the rows are no pairs, or none has rewards.
    """
    scored = Path(run.score.output)
    reader, first = scored_reader(run)
    with scored.open("rb") as lines:
        num_rows = sum(1 for _ in lines)
    if reader.kind == "pair":
        pairs, without = scored_rows(rows_in(scored), reader)
        _check_scored(scored, num_rows, without)
        measured = measure(pairs, kind_of(pairs) if run.evaluate.kind == "auto" else run.evaluate.kind)
        if attributes:
            measured["attributes"] = by_attribute(rows_in(scored), reader.columns, attributes)
    else:
        key = label_key_of(first, reader, run.source, run.evaluate.label_key)
        groups, without = labelled(rows_in(scored), reader, run.source, key)
        _check_scored(scored, num_rows, without)
        measured = _of_answers(groups, key, run.evaluate.kind)
    results: dict[str, Any] = {"model": model, "rows": num_rows - without, "rows_without_reward": without} | measured
    folder = Path(run.evaluate.output)
    tables = tables_of(results)
    folder.mkdir(parents=True, exist_ok=True)
    facts = _facts(results)
    title = f"{results['kind']}: {', '.join(run.source.path)}"
    write_atomically(folder / "results.json", json.dumps(results, indent=1) + "\n")
    write_atomically(folder / "results.md", as_markdown(title, facts, tables))
    for columns, cells in tables:
        terminal.table(columns, cells)
    for fact in facts[1:]:
        terminal.line(fact)
    terminal.line(f"results: {folder}/results.json and results.md")
    return results


def scored_reader(run: EvaluateRun) -> tuple[RowReader, list[dict[str, Any]]]:
    """Tell how the scored rows of a run are read, and give the first of them."""
    first: list[Any] = list(islice(rows_in(Path(run.score.output)), _FIRST_ROWS))
    return reader_of(run.score.output, first, run.source, True, run.score.column), first


def _of_answers(groups: Sequence[Labelled], label_key: str, kind: str) -> dict[str, Any]:
    found = {"kind": BEST_OF_N} | best_of_n(groups, label_key)
    if kind != REWARDMATH and (kind, label_key) != ("auto", rewardmath.LABEL):
        return found
    whole = [group.sides for group in groups if group.is_whole and all(group.sides)]
    averages = rewardmath.scores(whole)
    found |= {"kind": REWARDMATH, "score": averages["accuracy"], "averages": averages}
    return found | {"problems_left_out": len(groups) - len(whole)}


def _facts(results: dict[str, Any]) -> list[str]:
    facts = [f"model: {results['model']}", f"kind: {results['kind']}", f"score: {results['score']:.4f}"]
    facts.append(f"rows: {results['rows']:,}, {results['rows_without_reward']:,} without a reward")
    if "labels" in results:
        facts.append(f"prompts: {results['prompts']:,}; labels: {results['labels']}")
    if results.get("problems_left_out"):
        facts.append(f"problems left out, as a solution is missing or has no reward: {results['problems_left_out']:,}")
    if "longer_wins" in results:
        facts.append(f"the rule “the longer answer wins”: {results['longer_wins']:.4f}")
    if results.get("missing_subsets"):
        facts.append(f"subsets that are not there: {', '.join(results['missing_subsets'])}")
    return facts


def _check_scored(scored: Path, num_rows: int, without: int) -> None:
    """Check that most rows have their rewards."""
    if without == num_rows:
        raise UserError(f"{scored}: none of {without:,} rows has its rewards.")
    if 2 * without > num_rows:
        raise UserError(
            f"{scored}: {without:,} of {num_rows:,} rows have no reward, for the reasons above. What is "
            "left says little of the model: set how rows are read (model.data.*), or mend the file."
        )


def check_shape(run: EvaluateRun, pretrained: PretrainedSource) -> None:
    """Check, before any row is scored, that the rows are of the benchmark that they are taken for.

    Raises:
        UserError: they are not, or cannot be read.
    """
    wanted = run.evaluate.kind
    _, files = open_rows(run, pretrained, Parts(Path(run.score.output)))
    has_pairs = files[0][0].kind == "pair"
    if wanted != "auto" and has_pairs == (wanted in OF_ANSWERS):
        expected, found = ("pairs", "single answers")[:: -1 if has_pairs else 1]
        raise UserError(f"evaluate.kind={wanted}: expected rows of {expected}, found {found}.")
    if not has_pairs:
        for reader, file in files:
            rows = list(_rows_of(file))
            key = label_key_of(rows[:_FIRST_ROWS], reader, run.source, run.evaluate.label_key)
            labelled(rows, reader, run.source, key)
    elif wanted != "pairs":
        pairs = [one for reader, file in files for one in unscored_rows(_rows_of(file), reader)]
        kind = kind_of(pairs) if pairs and wanted == "auto" else wanted
        if pairs and kind != "pairs":
            measure(pairs, kind)


def _rows_of(file: DataFile) -> Iterator[dict[str, Any]]:
    return (row for chunk in read_chunks(file, None, None) for row in chunk.rows() if isinstance(row, dict))


def write_together(run: EvaluateRun, found: dict[str, dict[str, Any]], terminal: Terminal) -> None:
    """Write the results of several sets, by name, into one results.json and results.md, and show their scores."""
    folder = Path(run.evaluate.output)
    rows = [[name, one["kind"], f"{one['rows']:,}", f"{100 * one['score']:.1f}"] for name, one in found.items()]
    table = (("set", "kind", "rows", "score %"), rows)
    write_atomically(folder / "results.json", json.dumps(found, indent=1) + "\n")
    model = next(iter(found.values()))["model"]
    write_atomically(folder / "results.md", as_markdown(", ".join(found), [f"model: {model}"], [table]))
    terminal.table(*table)
    terminal.line(f"results of all: {folder}/results.json and results.md")


def rows_in(file: Path) -> Iterator[dict[str, Any]]:
    """Give the rows of a file that has been scored."""
    with file.open() as lines:
        yield from map(json.loads, lines)
