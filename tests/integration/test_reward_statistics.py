"""Where rewards lie: statistics against those of all rewards, kept by the converters, used by the scorer."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from converters.export_files import write_config
from nemo_bt.errors import UserError
from nemo_bt.metrics import means
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.pretrained.trained_head import TRAINED_HEAD, digests_of
from nemo_bt.scoring.reward_statistics import (
    KEY,
    RewardStatistics,
    as_config,
    needed_statistics,
    own_statistics,
    reward_statistics,
    statistics_of,
)
from tests.support.preferences import messages
from tests.support.reference import alone
from tests.support.runs import metrics, nemo_bt
from tests.support.sums import sums_of


def test_statistics_are_those_of_all_sets_together() -> None:
    sets = {"a": torch.randn(2, 7, dtype=torch.float64), "b": 5 + 3 * torch.randn(2, 4, dtype=torch.float64)}
    validation: dict[str, float] = {"step": 40, "val/a/source/x/loss": 0.1}
    for name, rewards in sets.items():
        (sums_M,) = sums_of(torch.zeros(rewards.shape[1]), *rewards).tolist()
        validation |= {f"val/{name}/{key}": value for key, value in (means(sums_M) | {"pairs": sums_M[0]}).items()}
    rewards = torch.cat([rewards.flatten() for rewards in sets.values()])
    mean, std = rewards.mean().item(), rewards.std(correction=0).item()
    found = reward_statistics(validation)
    assert found
    assert (found.mean, found.std) == (pytest.approx(mean), pytest.approx(std))
    assert (found.responses, found.step) == (22, 40)


def test_lists_count_each_of_their_answers() -> None:
    """One set of 5 answers, and one of an earlier kind with two pairs."""
    lists, of_pairs = torch.randn(5, dtype=torch.float64), 2 + torch.randn(4, dtype=torch.float64)
    validation: dict[str, float] = {"step": 3, "val/a/pairs": 2.0, "val/a/answers": 5.0, "val/b/pairs": 2.0}
    validation |= {"val/a/reward_mean": lists.mean().item(), "val/a/reward_std": lists.std(correction=0).item()}
    validation |= {"val/a/reward_chosen": 9.0, "val/a/reward_rejected": -9.0}
    validation |= {
        "val/b/reward_chosen": of_pairs[:2].mean().item(),
        "val/b/reward_rejected": of_pairs[2:].mean().item(),
    }
    validation |= {"val/b/reward_std": of_pairs.std(correction=0).item()}
    found, all_of_them = reward_statistics(validation), torch.cat([lists, of_pairs])
    assert found
    assert (found.mean, found.std) == pytest.approx((all_of_them.mean().item(), all_of_them.std(correction=0).item()))
    assert found.responses == 9


def test_without_a_validation_or_a_spread_there_are_none() -> None:
    unknown = {"step": 1, "val/a/reward_std": math.nan, "val/a/pairs": 2.0, "val/a/reward_chosen": 1}
    assert reward_statistics(unknown | {"val/a/reward_rejected": 1}) is None
    sets = {}
    for name, pairs in (("a", 1507), ("b", 1508)):
        (sums_M,) = sums_of(torch.zeros(pairs), *torch.full((2, pairs), 123.456, dtype=torch.float64)).tolist()
        sets |= {f"val/{name}/{key}": value for key, value in (means(sums_M) | {"pairs": pairs}).items()}
    assert reward_statistics(sets | {"step": 1}) is None  # equal, but for rounding
    equal = {
        "step": 1,
        "val/a/reward_std": 0.0,
        "val/a/pairs": 2.0,
        "val/a/reward_chosen": 1,
        "val/a/reward_rejected": 1,
    }
    assert reward_statistics({}) is None
    assert reward_statistics(equal) is None


def test_normalized_rewards_have_mean_0_and_deviation_1() -> None:
    rewards = 5 + 3 * torch.randn(100, dtype=torch.float64)
    scale = RewardStatistics(rewards.mean().item(), rewards.std(correction=0).item(), 100, 1)
    found = torch.tensor([scale.normalize(reward) for reward in rewards.tolist()], dtype=torch.float64)
    assert found.mean().item() == pytest.approx(0, abs=1e-12)
    assert found.std(correction=0).item() == pytest.approx(1)


def test_an_export_has_those_of_its_last_validation(trained: tuple[Path, str], exported: Path) -> None:
    found = json.loads((exported / "config.json").read_text())[KEY]
    log_dir = trained[0]
    chosen, rejected, std, pairs = (
        metrics(log_dir, f"val/held_out/{key}")[-1]
        for key in ("reward_chosen", "reward_rejected", "reward_std", "pairs")
    )
    assert found == {
        "mean": pytest.approx((chosen + rejected) / 2),
        "std": pytest.approx(std),
        "responses": 2 * pairs,
        "step": 5,
    }
    checkpoint = log_dir / "checkpoints" / "reward-step5.nemo"
    assert statistics_of(find_pretrained(str(exported))) == statistics_of(find_pretrained(str(checkpoint)))


def test_those_of_the_model_that_a_run_started_from_do_not_stay(tmp_path: Path) -> None:
    old, new = ({"mean": number, "std": 1.0, "responses": 2, "step": 1} for number in (1.0, 2.0))
    hf_config = {"model_type": "llama", KEY: old}
    for statistics, expected in ((None, None), (RewardStatistics(**new), new)):
        write_config(tmp_path, hf_config, 0, torch.float32, as_config(statistics))
        assert json.loads((tmp_path / "config.json").read_text()).get(KEY) == expected


def test_they_stay_with_a_model_that_goes_there_and_back(exported: Path, tmp_path: Path) -> None:
    """A .nemo has config.json as it came, and no facts of a training."""
    (tmp_path / "again.nemo" / "context").mkdir(parents=True)
    write_facts(tmp_path / "again.nemo" / "context", json.loads((exported / "config.json").read_text()), {})
    assert statistics_of(find_pretrained(str(tmp_path / "again.nemo"))) == statistics_of(find_pretrained(str(exported)))


def test_score_normalizes_by_them(exported: Path, tmp_path: Path, tokenizer: Any) -> None:
    rows = [messages("How many?", f"There are {number}.") for number in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    argv = [f"model.restore_from_path={exported}", f"score.input={tmp_path / 'rows.jsonl'}", "trainer.accelerator=cpu"]
    result = nemo_bt("score", *argv, f"score.output={tmp_path / 'out.jsonl'}", "--normalize")
    assert result.returncode == 0, result.stderr
    found = [json.loads(line)["reward"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    scale, plain = needed_statistics(find_pretrained(str(exported)), "here"), alone(exported, rows, tokenizer)
    assert found == pytest.approx([(reward - scale.mean) / scale.std for reward in plain], abs=1e-4)
    assert abs(scale.mean) + abs(scale.std - 1) > 0.01  # else nothing would be seen


def test_those_of_a_head_that_was_trained_on_are_refused(exported: Path, tmp_path: Path) -> None:
    """By any program that writes the fields of config.json again."""
    before = open_weights(find_pretrained(str(exported)), 0)
    assert json.loads((exported / "config.json").read_text())[TRAINED_HEAD] == digests_of(before)
    assert own_statistics(before, "--normalize") == statistics_of(before.pretrained)
    model = AutoModelForSequenceClassification.from_pretrained(exported, dtype=torch.float32)
    model.save_pretrained(tmp_path / "same")
    assert own_statistics(open_weights(find_pretrained(str(tmp_path / "same")), 0), "--normalize")
    model.score.weight.data += 1e-4
    model.save_pretrained(tmp_path / "later")
    with pytest.raises(
        UserError, match=r"--normalize: .*later was trained on since its reward_statistics were measured"
    ):
        own_statistics(open_weights(find_pretrained(str(tmp_path / "later")), 0), "--normalize")


def test_a_model_without_them_is_named(base: Path) -> None:
    with pytest.raises(
        UserError, match=r"--normalize: .* has no reward_statistics: none came with it, or it was saved before"
    ):
        needed_statistics(find_pretrained(str(base)), "--normalize")


@pytest.mark.parametrize(
    "found", [{"average": 1.0}, {"std": 0.0}, {"std": math.nan}, {"mean": "0.5"}, {"mean": 1e9, "std": 1.0}, 7]
)
def test_statistics_of_someone_elses_making_are_named(exported: Path, tmp_path: Path, found: Any) -> None:
    config = json.loads((exported / "config.json").read_text())
    given = config[KEY] | found if isinstance(found, dict) else found
    (tmp_path / "config.json").write_text(json.dumps(config | {KEY: given}))
    with pytest.raises(UserError, match="its reward_statistics are not as nemo_bt writes them"):
        statistics_of(find_pretrained(str(tmp_path)))
