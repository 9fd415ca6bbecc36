"""A model with attributes: exported with a label for each, and as one reward; scored; and what its weights are."""

import json
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from tests.support.launches import Logs
from tests.support.layouts import checkpoint
from tests.support.preferences import messages
from tests.support.runs import convert, metrics, nemo_bt
from tests.support.serving import serving
from tests.support.signals import ATTRIBUTES, STEPS, WEIGHTS, runs_of_all_signals
from tests.support.sources import write

planned_runs = runs_of_all_signals
PAIRS = [(messages(f"Tea {n}?", f"Yes, {n}."), messages(f"Tea {n}?", "No.")) for n in range(6)]


@torch.no_grad()
def rewards_of(folder: Path, conversations: list[Any], tokenizer: Any) -> torch.Tensor:
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    texts = [tokenizer.apply_chat_template(one, tokenize=False) for one in conversations]
    return torch.cat([model(**tokenizer(t, add_special_tokens=False, return_tensors="pt")).logits for t in texts])


def exported(source: Path, output: Path, *options: str) -> Path:
    result = convert("nemo_to_hf", "--input", source, "--output", output, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "tolerance 1e-04" in result.stdout
    return output


@pytest.mark.runs("attributes")
def test_exports_have_a_label_each_or_one_reward(logs: Logs, tmp_path: Path, tokenizer: Any) -> None:
    trained = checkpoint(logs / "attributes", STEPS)
    folder = exported(trained, tmp_path / "labels")
    config = json.loads((folder / "config.json").read_text())
    assert (config["num_labels"], config["id2label"]) == (2, dict(zip("01", ATTRIBUTES, strict=True)))
    assert config["reward_attributes"] == dict(zip(ATTRIBUTES, WEIGHTS, strict=True))
    conversations = [side for pair in PAIRS for side in pair]
    reward_CA = rewards_of(folder, conversations, tokenizer)
    assert reward_CA.shape == (12, 2)

    one = exported(trained, tmp_path / "one", "--combined")
    config = json.loads((one / "config.json").read_text())
    assert (config["num_labels"], "reward_attributes" in config) == (1, False)
    combined_C1 = rewards_of(one, conversations, tokenizer)
    torch.testing.assert_close(combined_C1[:, 0], reward_CA @ torch.tensor(WEIGHTS), atol=1e-6, rtol=1e-5)

    other = exported(trained, tmp_path / "other", "--combined", "--attribute-weights", "verbosity=2,helpfulness=1")
    expected = reward_CA @ torch.tensor([1.0, 2.0])
    torch.testing.assert_close(rewards_of(other, conversations, tokenizer)[:, 0], expected, atol=1e-6, rtol=1e-5)

    back = convert("hf_to_nemo", "--input", folder, "--output", tmp_path / "back.nemo")
    assert back.returncode == 0, back.stderr
    again = exported(tmp_path / "back.nemo", tmp_path / "again")
    assert torch.equal(rewards_of(again, conversations, tokenizer), reward_CA)

    rows = [{"prompt": chosen[0]["content"], "chosen": chosen[1]["content"], "rejected": rejected[1]["content"]}
            for chosen, rejected in PAIRS]  # fmt: skip
    given = f"evaluate.input={write(tmp_path / 'pairs.jsonl', rows)}"
    result = nemo_bt("evaluate", f"model.restore_from_path={folder}", given, f"evaluate.output={tmp_path / 'results'}",
                     "trainer.accelerator=cpu", "model.encoder_seq_length=512")  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    scored = [json.loads(line) for line in (tmp_path / "results" / "scored.jsonl").read_text().splitlines()]
    found = [[row[f"reward_{side}"], *(row[f"reward_{side}_{name}"] for name in ATTRIBUTES)]
             for row in scored for side in ("chosen", "rejected")]  # fmt: skip
    expected_CR = torch.cat([combined_C1, reward_CA], dim=1)
    torch.testing.assert_close(torch.tensor(found), expected_CR, atol=1e-5, rtol=1e-5)
    results = json.loads((tmp_path / "results" / "results.json").read_text())["attributes"]
    right = (reward_CA[0::2] > reward_CA[1::2]).float().mean(0).tolist()
    assert [results[name]["accuracy"] for name in ATTRIBUTES] == pytest.approx(right)
    assert all(name in result.stdout for name in ATTRIBUTES)

    with serving(folder) as (address, _):
        body = {"conversations": conversations[:2]}
        answer = httpx.post(f"{address}/reward", json=body, timeout=60).json()
    expected_attributes = [dict(zip(ATTRIBUTES, values, strict=True)) for values in reward_CA[:2].tolist()]
    for got, expected in zip(answer["attributes"], expected_attributes, strict=True):
        assert got == pytest.approx(expected, abs=1e-5)
    assert answer["rewards"] == pytest.approx(combined_C1[:2, 0].tolist(), abs=1e-5)


@pytest.mark.runs("attributes")
def test_a_report_has_each_attribute_as_transformers_and_numpy_say(logs: Logs, tmp_path: Path, tokenizer: Any) -> None:
    """Its numbers are those of all held-out answers, and the error the one that the run logged."""
    log_dir = tmp_path / "run"
    shutil.copytree(logs / "attributes", log_dir)
    result = nemo_bt("report", str(log_dir), "trainer.devices=2", "model.tensor_model_parallel_size=2")
    assert result.returncode == 0, result.stdout + result.stderr
    found = json.loads((log_dir / "report" / "report.json").read_text())["validation"]["held_out"]
    page = (log_dir / "report" / "report.html").read_text().partition("<h3>Attributes</h3>")[2].partition("<h3>")[0]

    folder = exported(checkpoint(log_dir, STEPS), tmp_path / "labels")
    rows = [json.loads(line) for line in (logs.folder / "held_out.jsonl").read_text().splitlines()]
    asked = [[[*row["prompt"], *entry["response"]] for entry in row["completions"]] for row in rows]
    reward_NA = rewards_of(folder, [side for sides in asked for side in sides], tokenizer).double().numpy()
    ends = np.cumsum([len(sides) for sides in asked])
    chosen, rejected, longer = [], [], []
    for row, sides, first in zip(rows, asked, [0, *ends[:-1]], strict=True):
        order = sorted(range(len(sides)), key=lambda n: -row["completions"][n]["score"])
        best, worst = order[0], order[-1]
        if row["completions"][best]["score"] > row["completions"][worst]["score"]:
            chosen.append(reward_NA[first + best])
            rejected.append(reward_NA[first + worst])
            longer.append([len(sides[n][-1]["content"]) for n in (best, worst)])
    for number, (attribute, weight) in enumerate(zip(ATTRIBUTES, WEIGHTS, strict=True)):
        of = found["attributes"][attribute]
        value_N = np.array([entry[attribute] for row in rows for entry in row["completions"]], dtype=np.float64)
        known_N = ~np.isnan(value_N)
        value, reward = value_N[known_N], reward_NA[known_N, number]
        assert (of["weight"], of["known"], of["unknown"]) == (weight, len(value), (~known_N).sum())
        assert of["error"] == pytest.approx(np.square(reward - value).mean(), rel=1e-5)
        logged = metrics(log_dir, f"val/held_out/attribute/{attribute}/error")[-1]
        assert of["error"] == pytest.approx(logged, rel=1e-5)
        assert of["pearson"] == pytest.approx(np.corrcoef(reward, value)[0, 1], abs=1e-4)
        assert of["spearman"] == pytest.approx(np.corrcoef(ranks(reward), ranks(value))[0, 1], abs=1e-3)
        pair_P2 = np.stack([np.array(chosen)[:, number], np.array(rejected)[:, number]], axis=1)
        assert (of["overall"]["pairs"], of["overall"]["accuracy"]) == (
            len(pair_P2), pytest.approx((pair_P2[:, 0] > pair_P2[:, 1]).mean()))  # fmt: skip
        expected = np.corrcoef(pair_P2.ravel(), np.array(longer).ravel())[0, 1]
        assert of["length"]["pearson"] == pytest.approx(expected, abs=1e-4)
        cells = [attribute, f"{weight:+.4f}", f"{len(value)}", f"{of['error']:.4f}"]
        assert "".join(f"<td>{cell}</td>" for cell in cells) in page
        assert f"{attribute} {len(value)} {of['error']:.4f}" in " ".join(result.stdout.split())
    assert found["attributes"]["helpfulness"]["unknown"] > 0
    panels = {panel["name"]: panel for panel in json.loads((log_dir / "report" / "report.json").read_text())["curves"]}
    assert {one["label"] for one in panels["attributes"]["series"]} == {
        f"{start}, {attribute}" for start in ("train", "held_out") for attribute in ATTRIBUTES
    }


@pytest.mark.runs("lists", "attributes")
def test_statistics_are_of_all_answers_of_lists_and_attributes_have_none(
    logs: Logs, tmp_path: Path, tokenizer: Any
) -> None:
    folder = exported(checkpoint(logs / "lists", STEPS), tmp_path / "lists")
    rows = [json.loads(line) for line in (logs.folder / "held_out.jsonl").read_text().splitlines()]
    ordered = [row for row in rows if len({entry["score"] for entry in row["completions"]}) > 1]
    asked = [[*row["prompt"], *entry["response"]] for row in ordered for entry in row["completions"]]
    reward_N = rewards_of(folder, asked, tokenizer)[:, 0].double()
    found = json.loads((folder / "config.json").read_text())["reward_statistics"]
    assert (found["responses"], found["step"]) == (len(asked), STEPS)
    assert found["mean"] == pytest.approx(reward_N.mean().item(), abs=1e-5)
    assert found["std"] == pytest.approx(reward_N.std(correction=0).item(), rel=1e-4)
    labels = exported(checkpoint(logs / "attributes", STEPS), tmp_path / "attributes")
    assert "reward_statistics" not in json.loads((labels / "config.json").read_text())


def ranks(values: np.ndarray) -> np.ndarray:
    """From 1; equal values have the mean of theirs."""
    return np.array([(values < one).sum() + ((values == one).sum() + 1) / 2 for one in values])


@pytest.mark.runs("attributes", "lists")
def test_what_does_not_fit_is_refused(logs: Logs, tmp_path: Path) -> None:
    for run, options, told in (
        ("lists", ["--combined"], "expected a model with attributes, found one reward"),
        (
            "attributes",
            ["--combined", "--attribute-weights", "x=1"],
            "a weight for each of helpfulness, verbosity, got x",
        ),
        ("attributes", ["--attribute-weights", "helpfulness"], "expected name=weight,name=weight or results.json"),
    ):
        source = checkpoint(logs / run, STEPS)
        result = convert("nemo_to_hf", "--input", source, "--output", tmp_path / "out", *options)
        assert (result.returncode, told in result.stderr) == (2, True), result.stderr
        assert "Traceback" not in result.stderr
