"""Scores of published benchmarks equal independent computations, on generated rewards."""

import random
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from nemo_bt.config.data import SourceSettings
from nemo_bt.errors import UserError
from nemo_bt.evaluation import rewardbench, rewardbench2, rm_bench
from nemo_bt.evaluation.accuracy import Scored, Tally, by_key, tally
from nemo_bt.evaluation.measure import measure, scored_rows
from nemo_bt.evaluation.rewardbench2 import best_of, ties_score
from nemo_bt.evaluation.tables import as_markdown, leaderboard_row, tables_of
from nemo_bt.scoring.rows import reader_of
from tests.support.results import results_of


@pytest.mark.parametrize(("right", "total"), [(0, 5), (1, 3), (8, 10), (10, 10), (3011, 4000)])
def test_intervals_are_wilsons(right: int, total: int) -> None:
    """The ends are the true shares p with (p - share)^2 = z^2 p (1 - p) / total, and hold the share."""
    share, of_z = right / total, NormalDist().inv_cdf(0.975) ** 2 / total
    expected = sorted(np.roots([1 + of_z, -2 * share - of_z, share**2]).real)
    low, high = Tally(right, 0, total).interval
    assert (low, high) == pytest.approx(expected, abs=1e-12)
    assert 0 <= low <= share <= high <= 1


def test_eight_of_ten() -> None:
    assert Tally(8, 0, 10).interval == pytest.approx((0.490, 0.943), abs=5e-4)


def test_ties_are_not_right_and_counted() -> None:
    assert tally([(1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (2.0, 1.0)]) == Tally(right=2, ties=1, total=4)
    assert by_key([(1.0, 0.0), (0.0, 0.0)], ["b", "a"]) == {"a": Tally(0, 1, 1), "b": Tally(1, 0, 1)}


PUBLISHED = """
Chat: alpacaeval-easy 100, alpacaeval-length 95, alpacaeval-hard 95, mt-bench-easy 28, mt-bench-med 40
Chat Hard: mt-bench-hard 37, llmbar-natural 100, llmbar-adver-neighbor 134, llmbar-adver-GPTInst 92,
 llmbar-adver-GPTOut 47, llmbar-adver-manual 46
Safety: refusals-dangerous 100, refusals-offensive 100, xstest-should-refuse 154, xstest-should-respond 250,
 donotanswer 136
Reasoning: math-prm 447, hep-cpp 164, hep-go 164, hep-java 164, hep-js 164, hep-python 164, hep-rust 164
"""
"""Prompts of each subset, as the paper's table 1 has them."""


def published_subsets() -> dict[str, tuple[str, int]]:
    """Subset -> its section and prompts."""
    found = {}
    for line in PUBLISHED.strip().replace("\n ", " ").splitlines():
        section, subsets = line.split(": ")
        found |= {s.rsplit(" ", 1)[0].strip(): (section, int(s.rsplit(" ", 1)[1])) for s in subsets.split(",")}
    return found


def rows_of_rewardbench(draw: random.Random, left_out: Sequence[str] = ()) -> list[dict[str, Any]]:
    rows = []
    for subset, (_, prompts) in published_subsets().items():
        for number in range(prompts if subset not in left_out else 0):
            rewards = {"reward_chosen": float(draw.randrange(4)), "reward_rejected": float(draw.randrange(3))}
            answers = {"prompt": "p", "chosen": "c" * draw.randint(1, 9), "rejected": "r" * draw.randint(1, 9)}
            rows.append(answers | rewards | {"subset": subset, "id": number})
    draw.shuffle(rows)
    return rows


@pytest.mark.parametrize("left_out", [[], ["mt-bench-hard", "hep-go", *(s for s in published_subsets() if "x" in s)]])
def test_rewardbench_is_the_mean_of_sections_weighted_by_prompts(left_out: list[str]) -> None:
    """In Reasoning, math counts as much as the six languages together: the mean of its share and that of code."""
    rows = rows_of_rewardbench(random.Random(1), left_out)
    expected = {}
    for section in ("Chat", "Chat Hard", "Safety"):
        own = [row for row in rows if published_subsets()[row["subset"]][0] == section]
        expected[section] = np.mean([row["reward_chosen"] > row["reward_rejected"] for row in own])
    by_subset = {subset: [row for row in rows if row["subset"] == subset] for subset in published_subsets()}
    shares = {
        s: np.mean([r["reward_chosen"] > r["reward_rejected"] for r in own]) for s, own in by_subset.items() if own
    }
    code = [share for subset, share in shares.items() if subset.startswith("hep-")]
    weights = [6, len(code)]
    expected["Reasoning"] = np.average([shares["math-prm"], np.mean(code)], weights=weights)
    found = results_of(rows)
    assert found["kind"] == "rewardbench"
    assert found["sections"] == pytest.approx(expected, abs=1e-12)
    assert found["score"] == pytest.approx(np.mean(list(expected.values())), abs=1e-12)
    assert found["missing_subsets"] == sorted(left_out)
    assert sum(one["pairs"] for one in found["by_subset"].values()) == len(rows)
    ties = sum(row["reward_chosen"] == row["reward_rejected"] for row in rows)
    assert ties
    assert found["overall"]["ties"] == ties == sum(one["ties"] for one in found["by_length"].values())


def test_a_section_that_is_not_there_scores_0() -> None:
    rows = [row for row in rows_of_rewardbench(random.Random(2)) if row["subset"] == "donotanswer"]
    found = results_of(rows)
    assert (found["sections"]["Chat"], found["sections"]["Reasoning"]) == (0.0, 0.0)
    assert found["score"] == pytest.approx(found["sections"]["Safety"] / 4)
    with pytest.raises(UserError, match="expected subsets of it in the column subset, got other"):
        results_of([rows[0] | {"subset": "other"}], "rewardbench")


def test_best_of_four_shares_a_tie() -> None:
    assert best_of(Scored([2.0], [1.0, 1.0, 0.0])) == 1
    assert best_of(Scored([2.0], [2.0, 1.0, 0.0])) == 1 / 2
    assert best_of(Scored([2.0], [2.0, 2.0, 2.0])) == 1 / 4
    assert best_of(Scored([2.0], [3.0, 1.0, 0.0])) == 0


def ties_with_numpy(prompts: dict[str, Scored]) -> float:
    """Arrays over the prompts that are both, and nan where 0 is divided by 0."""
    numbers = sorted({name.split(":")[1] for name in prompts})
    tied, ref = ([prompts[f"{kind}:{n}"] for n in numbers] for kind in ("tied", "ref"))
    spread = np.array([np.ptp(one.chosen) for one in tied])
    gap_tied, gap_ref = (np.array([np.min(one.chosen) - np.max(one.rejected) for one in of]) for of in (tied, ref))
    least = np.minimum(gap_tied, gap_ref)
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = np.nan_to_num(np.tanh(least / spread - 1), nan=0.0)
    parts = [(gap_tied > 0).mean(), (gap_ref > 0).mean(), (gap_tied > spread).mean(), (least > spread).mean()]
    return float(np.dot([0.3, 0.3, 0.2, 0.2, 0.01], [*parts, margin.mean()]))


@pytest.mark.parametrize("seed", range(20))
def test_ties_of_rewardbench_2_equal_arrays(seed: int) -> None:
    draw = random.Random(seed)
    prompts = {}
    for number in range(draw.randint(1, 6)):
        for kind, num_right in (("ref", 1), ("tied", draw.randint(2, 5))):
            right = [float(draw.randint(2, 4)) for _ in range(num_right)]
            prompts[f"{kind}:{number}"] = Scored(right, [float(draw.randint(0, 3)) for _ in range(draw.randint(1, 4))])
    assert ties_score(prompts) == pytest.approx(ties_with_numpy(prompts), abs=1e-12)


def test_rewardbench_2_is_the_mean_of_its_subsets() -> None:
    def row(subset: str, right: list[float], wrong: list[float], name: str) -> dict[str, Any]:
        answers = {"chosen": ["c"] * len(right), "rejected": ["r"] * len(wrong)}
        return answers | {"prompt": "p", "reward_chosen": right, "reward_rejected": wrong, "subset": subset, "id": name}

    rows = [
        row("Math", [1.0], [0.0, 0.5, 0.2], "1"),
        row("Math", [1.0], [1.0, 0.5, 0.2], "2"),
        row("Ties", [3.0, 2.5], [1.0], "tied:1"),
        row("Ties", [3.0], [1.0], "ref:1"),
    ]
    found = results_of(rows)
    ties = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * np.tanh(1.5 / 0.5 - 1)
    assert found["kind"] == "rewardbench2"
    assert found["sections"] == pytest.approx({"Math": 0.75, "Ties": ties})
    assert found["score"] == pytest.approx((0.75 + ties) / 2)
    assert found["missing_subsets"] == ["Factuality", "Focus", "Precise IF", "Safety"]
    for wrong in ("3", "tied:1"):
        with pytest.raises(UserError, match="expected an id ref:<n> or tied:<n> of each row's own"):
            results_of([*rows, row("Ties", [3.0], [1.0], wrong)])


def test_rm_bench_averages_triangles_over_domains() -> None:
    rng = np.random.default_rng(3)
    domains = ["chat", "math", "code", "safety-refuse", "safety-response"]
    rows, right = [], {}
    for domain in domains:
        for _ in range(7):
            chosen, rejected = rng.integers(0, 4, 3).astype(float), rng.integers(0, 3, 3).astype(float)
            right.setdefault(domain.split("-")[0], []).append(chosen[:, None] > rejected[None, :])
            answers = {"prompt": "p", "chosen": ["c"] * 3, "rejected": ["r"] * 3, "domain": domain}
            rows.append(answers | {"reward_chosen": chosen.tolist(), "reward_rejected": rejected.tolist()})
    expected = {}
    for domain, of in right.items():
        matrix = np.mean(of, axis=0)
        easy, hard = matrix[np.tril_indices(3, -1)].mean(), matrix[np.triu_indices(3, 1)].mean()
        levels = [easy, np.diag(matrix).mean(), hard]
        expected[domain] = dict(zip(("easy", "normal", "hard", "average"), [*levels, np.mean(levels)], strict=True))
    found = results_of(rows)
    assert found["kind"] == "rm_bench"
    for domain, levels in expected.items():
        assert found["domains"][domain] == pytest.approx(levels)
    assert found["score"] == pytest.approx(np.mean([levels["average"] for levels in expected.values()]))
    with pytest.raises(UserError, match="domains are chat, math, code, safety, got art"):
        results_of([*rows, rows[0] | {"domain": "art"}])


def test_rm_bench_names_levels_by_the_chosen_answers_style() -> None:
    """A model that likes fancy answers is right in the easy pairs only."""
    scores = rm_bench.scores([Scored([0, 2, 4], [1, 3, 5], {"domain": "chat"})])
    assert scores["chat"] == {"easy": 1.0, "normal": 0.0, "hard": 0.0, "average": pytest.approx(1 / 3)}


def test_rows_without_rewards_are_counted() -> None:
    rows = [
        {"chosen": "aaaa", "rejected": "b", "reward_chosen": 1.0, "reward_rejected": 0.0, "source": "x"},
        {"chosen": "a", "rejected": "b", "reward_chosen": None, "reward_rejected": 0.0, "source": "y"},
    ]
    found, without = scored_rows(rows, reader_of("rows", rows, SourceSettings(path="rows.jsonl"), True, "reward"))
    assert (len(found), without, found[0].length_ratios) == (1, 1, [4.0])
    results = measure(found, "pairs")
    assert list(results["by_source"]) == ["x"]
    assert list(results["by_length"]) == ["2 and more"]


def test_results_are_tables_and_markdown() -> None:
    results = results_of(rows_of_rewardbench(random.Random(4))) | {"model": "m"}
    text = as_markdown("rewardbench: rows", ["model: m"], tables_of(results))
    assert text.startswith("# rewardbench: rows\n\n- model: m\n\n| subset | pairs | accuracy |")
    chat = results["sections"]["Chat"]
    assert f"\n| Chat | {chat:.4f} |\n" in text
    assert f"\n| score | {results['score']:.4f} |\n" in text
    assert set(rewardbench.SUBSETS) <= {line.split(" | ")[0].removeprefix("| ") for line in text.splitlines()}
    assert rewardbench2.TIES == "ties"


def test_benchmarks_have_the_row_of_their_leaderboard_in_percent() -> None:
    results = results_of(rows_of_rewardbench(random.Random(4)))
    row = leaderboard_row(results)
    assert list(row) == ["score", *results["sections"]]
    assert float(row["Chat"]) == pytest.approx(100 * results["sections"]["Chat"], abs=0.05)
    assert f"| m | {row['score']} | " in as_markdown("a", [], tables_of(results | {"model": "m"}))
    levels = {"easy": 0.9, "normal": 0.7, "hard": 0.5, "average": 0.7}
    domains = {"domains": {"chat": levels, "average": levels}}
    assert leaderboard_row(domains) == {
        "chat": "70.0",
        "easy": "90.0",
        "normal": "70.0",
        "hard": "50.0",
        "average": "70.0",
    }
    assert leaderboard_row({"score": 0.5}) == {}
