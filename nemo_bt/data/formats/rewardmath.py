"""RewardMATH: a solution a row, as a list of steps, which is the chosen one of its problem or a rejected one."""

from __future__ import annotations

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.format import Format, Row
from nemo_bt.data.formats.parse import weight_of
from nemo_bt.data.formats.prompts import answered, prompt_at
from nemo_bt.data.formats.responses import PromptGroup
from nemo_bt.data.formats.scores import not_negative
from nemo_bt.data.formats.values import as_text, list_at, value_at
from nemo_bt.data.read.drop_report import RowError

_PROMPT = Format("RewardMATH", prompt=("problem",))
SCORES = {"chosen": 1.0, "rejected": 0.0}
"""Values of the column solution_type."""


def rewardmath(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read `problem` and the steps of `eval_solution`, put together by newlines.

    Source: Kim et al. 2024 (arXiv 2410.01729); src/prompts.py of kimsh0507/RewardMATH_official, for classifiers.
    """
    kind = value_at(row, "solution_type")
    if not isinstance(kind, str) or kind not in SCORES:
        raise RowError("type", f"'solution_type' is {kind!r}, expected {' or '.join(SCORES)}")
    solution = "\n".join(as_text(step, "eval_solution") for step in list_at(row, "eval_solution"))
    side = answered(prompt_at(row, _PROMPT, keys), solution, chat, keys)
    margin = not_negative(row, keys.margin_key) or 0.0  # the scores are names, and their difference says nothing
    return PromptGroup([side], [number], [SCORES[kind]], margins=[margin], weights=[weight_of(row, keys)])
