"""Row formats of published data sets that no general format covers: row -> PromptGroup, as in `general`."""

from __future__ import annotations

from dataclasses import replace

from nemo_bt.config.data import RowSettings
from nemo_bt.data.formats.general import Row, _pair, answered
from nemo_bt.data.formats.responses import PromptGroup, Side
from nemo_bt.data.formats.values import as_number, list_at, number_at, value_at
from nemo_bt.data.read.drop_report import RowError

PREFERENCE_COLUMNS = (
    ("context", "response1", "response2", "overall_preference"),  # nvidia/HelpSteer3
    ("prompt", "response_1", "response_2", "preference_strength"),  # nvidia/HelpSteer2, preference
)


def helpsteer3(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read HelpSteer3 as RM-Gallery nests it: `input` messages, `output[].answer` with a label, columns or JSON texts.

    The label stands in the answer or beside it: `is_preferred`, and `preference_score` from -3 (the first is much
    better) to 3, whose size is the margin. Neither preferred is a tie, which the rules leave out.
    """
    outputs = list_at(row, "output")
    if len(outputs) != 2 or not all(isinstance(output, dict) for output in outputs):
        raise RowError("type", f"'output' has {len(outputs)} entries, expected two with an answer each")
    holder = row | {keys.prompt_key: list_at(row, "input")}
    sides = []
    preferred = []
    strengths = []
    for output in outputs:
        answer = value_at(output, "answer")
        label = answer.get("label") if isinstance(answer, dict) and answer.get("label") else output.get("label")
        if not isinstance(label, dict):
            raise RowError("missing", "an answer without label")
        sides.append(answered(holder, answer, keys, chat))
        preferred.append(value_at(label, "is_preferred"))
        strengths.append(label.get("preference_score"))
    scores = [float(flag is True) for flag in preferred]
    if strengths[0] is not None:
        signed = as_number(strengths[0], "preference_score")
        if (signed > 0) - (signed < 0) != scores[1] - scores[0]:
            raise RowError("type", f"preference_score {signed:g} and is_preferred {preferred} disagree")
        scores = [max(-signed, 0.0), max(signed, 0.0)]
    return _given(row, number, keys, sides, scores, first_is_chosen=scores[0] >= scores[1])


def preference(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read two responses and a signed strength: HelpSteer3 and the preferences of HelpSteer2 as published."""
    for prompt, first, second, strength in PREFERENCE_COLUMNS:
        if strength in row:
            signed = number_at(row, strength)
            sides = _sides(row, prompt, (first, second), keys, chat)
            scores = [max(-signed, 0.0), max(signed, 0.0)]
            return _given(row, number, keys, sides, scores, first_is_chosen=signed <= 0)
    raise RowError("missing", "no overall_preference nor preference_strength")


def shp(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read Stanford Human Preferences: two comments on a post with scores; `labels` 1 says that the first is better."""
    sides = _sides(row, "history", ("human_ref_A", "human_ref_B"), keys, chat)
    scores = [number_at(row, "score_A"), number_at(row, "score_B")]
    return _given(row, number, keys, sides, scores, first_is_chosen=number_at(row, "labels") == 1)


def safe_rlhf(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read PKU-SafeRLHF: two responses, and which is better (0 or 1) in `score_key`, else in `better_response_id`."""
    sides = _sides(row, "prompt", ("response_0", "response_1"), keys, chat)
    named = isinstance(keys.score_key, str) and keys.score_key in row
    better = number_at(row, str(keys.score_key) if named else "better_response_id")
    if better not in (0, 1):
        raise RowError("type", f"the better response is {better:g}, expected 0 or 1")
    return _given(row, number, keys, sides, None, first_is_chosen=better == 0)


def halos(row: Row, number: int, keys: RowSettings, chat: bool) -> PromptGroup:
    """Read HALOs' pairwise_feedback: `prompt`, `output_A` and `output_B` as messages, `label` 1 if A is preferred."""
    if row.get("type") != "pairwise_feedback":
        raise RowError("type", f"type is {row.get('type')!r}, expected pairwise_feedback: the others have no pairs")
    sides = _sides(row, "prompt", ("output_A", "output_B"), keys, chat)
    rewards = [row.get("reward_A"), row.get("reward_B")]
    scores = None if None in rewards else [as_number(reward, "reward") for reward in rewards]
    return _given(row, number, keys, sides, scores, first_is_chosen=number_at(row, "label") == 1)


def _sides(row: Row, prompt: str, responses: tuple[str, str], keys: RowSettings, chat: bool) -> list[Side]:
    own = replace(keys, prompt_key=prompt)
    return [answered(row, value_at(row, key), own, chat) for key in responses]


def _given(
    row: Row, number: int, keys: RowSettings, sides: list[Side], scores: list[float] | None, first_is_chosen: bool
) -> PromptGroup:
    order = (0, 1) if first_is_chosen else (1, 0)
    group = _pair(row, number, keys, sides[order[0]], sides[order[1]])
    if scores and group.given:
        chosen, rejected = (scores[i] for i in order)
        if chosen < rejected:
            raise RowError("type", f"the chosen one has the lower score, {chosen:g} < {rejected:g}")
        group.given[0] = group.given[0]._replace(scores=(chosen, rejected))
    return group
