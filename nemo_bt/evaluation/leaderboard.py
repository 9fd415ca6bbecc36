"""Results of RewardBench and RewardBench 2, and a score of each row, as their own programs write them.

Source: save_to_hub of rewardbench/utils.py, scripts/run_rm.py and scripts/run_v2.py of allenai/reward-bench.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nemo_bt.config.score import EvaluateRun
from nemo_bt.data.read.drop_report import RowError
from nemo_bt.data.tokenize.chat_template import Renderer
from nemo_bt.evaluation import rewardbench2
from nemo_bt.evaluation.accuracy import Scored
from nemo_bt.evaluation.command import rows_in, scored_reader
from nemo_bt.files import write_atomically
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.resolve import PretrainedSource
from nemo_bt.scoring.command import renderer_of
from nemo_bt.scoring.rows import RowReader


def write_leaderboard(
    run: EvaluateRun, pretrained: PretrainedSource, results: dict[str, Any], terminal: Terminal
) -> None:
    """Write `eval-set/<model>.json` with a score of each subset, and `eval-set-scores/<model>.json` with every row's.

    Args:
        run: settings of a run that has been evaluated.
        pretrained: model that has scored its rows.
        results: its results; those of other kinds, and of several languages, have no such files.
    """
    if results["kind"] not in ("rewardbench", "rewardbench2") or "languages" in results:
        return
    texts = renderer_of(run, pretrained)
    reader, _ = scored_reader(run)
    model = _name(pretrained.given)
    told = {"model": model, "model_type": "Seq. Classifier", "chat_template": "tokenizer" if texts.chat else "none"}
    is_second = results["kind"] == "rewardbench2"
    subsets = results["sections"] if is_second else {name: of["accuracy"] for name, of in results["by_subset"].items()}
    rows = [(_of_four if is_second else _of_two)(row, reader, texts) for row in _scored(run, reader)]
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    for kind, content in (("eval-set", told | subsets), ("eval-set-scores", columns | told)):
        file = Path(run.evaluate.output) / kind / f"{model}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, json.dumps(content, indent=4, sort_keys=True))
        lacking = f", without {', '.join(missing)}" if (missing := results["missing_subsets"]) else ""
        terminal.line(f"as {results['kind']} writes it{lacking}: {file}")


def _name(given: str) -> str:
    """Name a model as those programs do: `org/model` without the commit that was found, or a folder's name."""
    return Path(given).resolve().name if Path(given).exists() else given.partition("@")[0]


def _scored(run: EvaluateRun, reader: RowReader) -> Iterator[dict[str, Any]]:
    for row in rows_in(Path(run.score.output)):
        rewards = [row.get(name) for name in reader.columns]
        flat = [one for of_side in rewards for one in (of_side if isinstance(of_side, list) else [of_side])]
        if flat and None not in flat:
            yield row


def _of_four(row: dict[str, Any], reader: RowReader, texts: Renderer) -> dict[str, Any]:
    sides = reader.sides(row)
    chosen, rejected = (row[name] for name in reader.columns)
    return _names(row) | {
        "text": [text for of_side in sides for text in _texts(of_side, texts)],
        "scores": [[reward] for reward in (*chosen, *rejected)],
        "results": rewardbench2.best_of(Scored(chosen, rejected)),
        "num_correct": len(chosen),
    }


def _of_two(row: dict[str, Any], reader: RowReader, texts: Renderer) -> dict[str, Any]:
    (text_chosen,), (text_rejected,) = (_texts(of_side, texts) for of_side in reader.sides(row))
    chosen, rejected = (row[name][0] if reader.is_list else row[name] for name in reader.columns)
    return _names(row) | {
        "text_chosen": text_chosen,
        "text_rejected": text_rejected,
        "scores_chosen": chosen,
        "scores_rejected": rejected,
        "results": int(chosen > rejected),
    }


def _names(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row.get(name) for name in ("id", "subset")}


def _texts(sides: Sequence[Any], texts: Renderer) -> list[str]:
    return ["" if isinstance(text, RowError) else text for text in texts.texts(sides)]
