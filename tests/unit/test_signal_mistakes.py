"""What cannot feed a loss, and what a loss does not read: refused by the column or setting that it is about."""

from pathlib import Path
from typing import Any

import pytest

from nemo_bt.config.equations import check_equations
from nemo_bt.config.load import load_settings
from nemo_bt.config.loss import LossSettings
from nemo_bt.errors import UserError
from tests.support.signals import ranked
from tests.support.sources import open_set, write

LISTS = "model.loss.kind=plackett_luce"
ANSWERS = "model.loss.kind=regression"
MONITORED = "exp_manager.checkpoint_callback_params={save_top_k: 1, monitor: val/v/attribute/humour/error, mode: min}"


FEW = [ranked(i, [1.0, 0.0], helpfulness=[3, 4]) for i in range(3)]
RATED = [{"prompt": "q", "chosen": "good", "rejected": "bad", "chosen_help": 4, "rejected_help": 1}]
NAMED = [{"prompt": "q", "chosen": "good", "rejected": "bad", "margin": 4}]


@pytest.mark.parametrize(
    ("rows", "overrides", "message"),
    [
        (NAMED, [ANSWERS], r"2 of 2 answers of rows have no score of their own, .* Set model\.data\.score_key"),
        (NAMED, ["model.loss.regression_coefficient=1"], "have no score"),
        ([{"prompt": "q", "response_1": "a", "response_2": "b", "preference_strength": -2}], [ANSWERS],
         "2 of 2 answers of rows have no score of their own"),
        ([{"prompt": "q", "completions": ["a", "b"], "ranks": [2, 1]}], [ANSWERS], "have no score of their own"),
        ([{"prompt": "q", "completions": ["a", "b"], "ranks": [-1, 1]}], [LISTS], "expected a rank: 1 or 0 for"),
        ([ranked(0, [2.0, 0.0])], [ANSWERS, "model.loss.regression_error=bce"], r"got score 2 in .* row 0 \(1 in all"),
        (NAMED, ["model.loss.scale={1: 1, 2: 3}"], r"got 1, 2 and found 4 \(.*row 0; 1 pairs in all\)\. Add it"),
        (FEW, [ANSWERS, "model.reward_head.attributes=[helpfulness,humour]"],
         r"no answer of rows has 'humour'\. Set model\.data\.attribute_keys\.humour"),
        ([ranked(0, [1])], [LISTS], r"0 of 1 lists; dropped 1 with no second response\. .* yields nothing"),
        ([ranked(0, ["x", "y"])], [LISTS], r"'scores' is 'x', expected a number"),
        ([ranked(0, [1, 2, 3], ["a", "b"])], [LISTS], r"has 3 values for 2 completions"),
    ],
)  # fmt: skip
def test_what_cannot_feed_a_loss_is_refused(
    tmp_path: Path, tokenizer: Any, rows: list[Any], overrides: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, *overrides)


@pytest.mark.parametrize(
    ("rows", "attribute", "key", "message"),
    [
        (RATED, "help", ["chosen_help", "rejected_hlep"],
         r"rows\.jsonl: model\.data\.attribute_keys\.help=\[chosen_help,rejected_hlep\], but there is no column "
         r"rejected_hlep: found chosen, chosen_help, .*Where other sources have them, set it in these alone"),
        (FEW, "help", ["a", "b"],
         r"two columns are for rows of two responses, and these have format ranked\. Give one column"),
        (RATED, "chosen_help", "chosen_help",
         r"'chosen_help' is 4, expected a value for each of two responses, in a list"),
        (RATED, "help", "help", r"no answer of rows has 'help'\. Set .*\.help to its column, .* the two columns of"),
        ([RATED[0] | {"chosen": ["good", "better"]}], "help", ["chosen_help", "rejected_help"],
         r"'chosen_help' has 1 values for 2 responses"),
        ([RATED[0] | {"chosen_help": True}], "help", ["chosen_help", "rejected_help"],
         r"'chosen_help' is bool, expected"),
    ],
)  # fmt: skip
def test_columns_that_hold_no_values_of_two_responses_are_refused(
    tmp_path: Path, tokenizer: Any, rows: list[Any], attribute: str, key: Any, message: str
) -> None:
    head = f"model.reward_head.attributes=[{attribute}]"
    with pytest.raises(UserError, match=message):
        open_set(write(tmp_path / "rows.jsonl", rows), tokenizer, ANSWERS, head, attribute_keys={attribute: key})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([LISTS, "model.loss.margin=true"], r"loss\.margin: model\.loss\.kind=plackett_luce does not read it, bradley"),
        (["model.loss.tie=2"], r"loss\.tie: .*bradley_terry does not read it, rao_kupper or davidson does"),
        ([ANSWERS, "model.loss.regression_coefficient=1"], r"regression_coefficient: .* a ranking loss does"),
        (["model.loss.regression_error=bce"], r"regression_error: .* regression does"),
        ([LISTS, "model.data.pairs.mode=all_pairs"], r"data\.pairs\.mode: model\.loss\.kind=plackett_luce does not"),
        (["model.loss.kind=hinge", "model.data.pairs.keep_ties=true"], r"pairs\.keep_ties: model\.loss\.kind=hinge"),
        (["model.loss.kind=davidson", "model.data.preference_key=p"], r"preference_key: model\.loss\.kind=davidson"),
        (["model.loss.kind=hinge", "model.loss.margin=true", "model.loss.hinge_margin=2"], "both are the lead"),
        (
            ["model.data.validation.v=b.parquet", "model.reward_head.attributes=[help]", MONITORED],
            r"expected a metric of a validation set, val/v/attribute/help/error or val/v/attribute/help/reward",
        ),
    ],
)
def test_what_a_loss_does_not_read_is_refused_by_name(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_equations(load_settings("train", ["model=llama_4x256", "model.data.train=a.parquet", *overrides]))


@pytest.mark.parametrize("attributes", ["[humour]", "[]"])
def test_an_attribute_that_a_head_has_can_be_monitored(attributes: str) -> None:
    known = ["model.data.validation.v=b.parquet", f"model.reward_head.attributes={attributes}", MONITORED]
    check_equations(load_settings("train", ["model=llama_4x256", "model.data.train=a.parquet", *known]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.reward_head={attributes: [a, a]}", "expected names, each once"),
        ("model.reward_head={attributes: [a, b], weights: [1]}", "expected one for each of 2 attributes"),
        ("model.reward_head={attributes: [a], weights: [0]}", "expected one other than 0"),
        ("model.data.attribute_keys.a=[x]", "attribute_keys"),
        ("model.loss.scale={x: 1}", "expected numbers for strengths"),
        ("model.loss.scale={}", "or a map with a factor for each strength"),
        ("model.loss.scale={1: -1}", "expected a factor of 0 or more for each strength"),
        ("model.loss.kind=bt", "expected one of bradley_terry, hinge, rao_kupper"),
    ],
)
def test_settings_that_mean_nothing_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_settings("train", [override])


def test_a_strength_is_there_once() -> None:
    with pytest.raises(ValueError, match="expected numbers for strengths, each once"):
        LossSettings(scale={"1": 1.0, "1.0": 2.0})
