"""HelpSteer3 as RM-Gallery nests it: two answers with a label in or beside each."""

from __future__ import annotations

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.format import Format, Row
from nemo_bt.data.formats.parse import pairs_of
from nemo_bt.data.formats.prompts import answered, prompt_at
from nemo_bt.data.formats.responses import PromptGroup
from nemo_bt.data.formats.values import as_number, list_at, value_at
from nemo_bt.data.read.drop_report import RowError

_PROMPT = Format("HelpSteer3", prompt=("input",))


def helpsteer3(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read `input` messages and `output[].answer` with a label, columns or JSON texts.

    The label stands in the answer or beside it: `is_preferred`, and `preference_score` from -3 (the first is much
    better) to 3, whose size is the margin. Neither preferred is a tie, which the rules leave out.
    """
    outputs = list_at(row, "output")
    if len(outputs) != 2 or not all(isinstance(output, dict) for output in outputs):
        raise RowError("type", f"'output' has {len(outputs)} entries, expected two with an answer each")
    prompt = prompt_at(row, _PROMPT, keys)
    sides = []
    preferred = []
    strengths = []
    for output in outputs:
        answer = value_at(output, "answer")
        label = answer.get("label") if isinstance(answer, dict) and answer.get("label") else output.get("label")
        if not isinstance(label, dict):
            raise RowError("missing", "an answer without label")
        sides.append([answered(prompt, answer, chat, keys)])
        preferred.append(value_at(label, "is_preferred"))
        strengths.append(label.get("preference_score"))
    scores = (float(preferred[0] is True), float(preferred[1] is True))
    if strengths[0] is not None:
        signed = as_number(strengths[0], "preference_score")
        if (signed > 0) - (signed < 0) != scores[1] - scores[0]:
            raise RowError("type", f"preference_score {signed:g} and is_preferred {preferred} disagree")
        scores = (max(-signed, 0.0), max(signed, 0.0))
    if scores[0] < scores[1]:
        return pairs_of(row, number, keys, sides[1], sides[0], scores=(scores[1], scores[0]))
    return pairs_of(row, number, keys, sides[0], sides[1], scores=scores)
