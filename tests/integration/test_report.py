"""nemo-bt report as a user runs it, against transformers, metrics.jsonl and a real browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from nemo_bt.errors import UserError
from nemo_bt.reporting.command import replace_files
from nemo_bt.reporting.settings import load_run, with_model
from tests.support.runs import nemo_bt

_CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def report(trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], str]:
    """Of the run of five steps, copied elsewhere, by two ranks: its folder, report.json, and what the command said."""
    log_dir = tmp_path_factory.mktemp("report") / "moved"
    shutil.copytree(trained[0], log_dir)
    result = nemo_bt(
        "report",
        str(log_dir),
        "trainer.devices=2",
        "model.tensor_model_parallel_size=2",
        "model.sequence_parallel=true",
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return log_dir / "report", json.loads((log_dir / "report" / "report.json").read_text()), result.stdout


@pytest.fixture(scope="module")
def by_transformers(exported: Path, dataset: Path) -> dict[str, torch.Tensor]:
    """Rewards of every held-out pair and of its parts, [P, 2] each."""
    tokenizer = AutoTokenizer.from_pretrained(exported)
    model = AutoModelForSequenceClassification.from_pretrained(exported, dtype=torch.float32).eval()

    def reward(messages: list[dict[str, str]]) -> float:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        with torch.no_grad():
            found: float = model(**tokenizer(text, return_tensors="pt", add_special_tokens=False)).logits.item()
        return found

    sides = [[row["chosen"], row["rejected"]] for row in pq.read_table(dataset / "random_val.parquet").to_pylist()]
    nothing_said = [{"role": "user", "content": ""}]
    parts = {"whole": sides, "response": [[[*nothing_said, side[-1]] for side in pair] for pair in sides]}
    return {name: torch.tensor([[reward(side) for side in pair] for pair in of]) for name, of in parts.items()}


def test_rewards_are_those_of_transformers(report: tuple[Path, dict[str, Any], str], by_transformers: Any) -> None:
    numbers, reward_P2 = report[1]["validation"]["held_out"], by_transformers["whole"]
    margin_P = reward_P2[:, 0] - reward_P2[:, 1]
    assert numbers["pairs"] == len(margin_P)
    assert numbers["overall"]["accuracy"] == pytest.approx((margin_P > 0).float().mean().item(), abs=1e-6)
    assert numbers["margin"] == pytest.approx(margin_P.mean().item(), abs=1e-5)
    assert numbers["reward_std"] == pytest.approx(reward_P2.std(correction=0).item(), abs=1e-5)
    assert [pair["margin"] for pair in numbers["worst"]] == pytest.approx(
        margin_P.sort().values[:20].tolist(), abs=1e-5
    )


def test_worst_pairs_can_be_read(report: tuple[Path, dict[str, Any], str], dataset: Path) -> None:
    rows = pq.read_table(dataset / "random_val.parquet").to_pylist()
    for pair in report[1]["validation"]["held_out"]["worst"]:
        row = rows[int(re.search(r" row (\d+)$", pair["where"])[1])]
        assert pair["shared"]
        for side in pair["sides"]:
            messages, turns = row[side["label"]], pair["shared"] + side["turns"]
            assert [turn["said"] for turn in turns] == [message["content"] for message in messages]
            assert [turn["who"] for turn in turns] == [*(m["role"] for m in messages[:-1]), "response"]


def test_parts_are_worth_what_transformers_says(report: tuple[Path, dict[str, Any], str], by_transformers: Any) -> None:
    numbers, response_P2 = report[1]["validation"]["held_out"], by_transformers["response"]
    right = (response_P2[:, 0] > response_P2[:, 1]).float().mean().item()
    assert numbers["response_only"]["tally"]["accuracy"] == pytest.approx(right, abs=1e-6)
    assert numbers["prompt_only"]["tally"]["ties"] == numbers["pairs"]  # both sides have the same prompt


def test_every_outcome_turns_round_when_sides_are_swapped(report: tuple[Path, dict[str, Any], str]) -> None:
    numbers = report[1]["validation"]["held_out"]
    test, overall = numbers["swapped"], numbers["overall"]
    assert test["not_turned"] == 0
    assert test["largest_difference"] < 1e-5
    assert test["accuracy"] == pytest.approx(1 - overall["accuracy"] - overall["ties"] / overall["pairs"])


def test_figures_are_those_that_the_run_logged(report: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, _ = report
    records = [json.loads(line) for line in (folder.parent / "metrics.jsonl").read_text().splitlines()]
    keys = {"loss": "loss", "accuracy": "accuracy", "margin": "margin", "learning-rate": "lr", "gradient": "grad_norm"}
    for panel in found["curves"]:
        if panel["name"] in keys:
            (series,) = [one for one in panel["series"] if one["label"] == "train"]
            key = f"train/{keys.pop(panel['name'])}"
            logged = [(record["step"], record[key]) for record in records if key in record]
            assert list(zip(series["steps"], series["values"], strict=True)) == logged
    assert keys == {}
    last = next(record for record in reversed(records) if "val/held_out/loss" in record)
    numbers = found["validation"]["held_out"]
    assert last["step"] == found["step"] == 5
    for key in ("reward_chosen", "reward_rejected", "margin", "reward_std", "pairs"):
        assert numbers[key] == pytest.approx(last[f"val/held_out/{key}"], abs=1e-5)
    for key in ("accuracy", "ties"):
        assert numbers["overall"][key] == last[f"val/held_out/{key}"]


def test_the_command_says_what_it_found(report: tuple[Path, dict[str, Any], str]) -> None:
    folder, found, said = report
    assert f"{found['validation']['held_out']['overall']['accuracy']:.4f}" in said
    assert "holds" in said
    pictures = sorted(file.name for file in folder.glob("*.png"))
    assert f"{len(pictures)} pictures" in said
    assert {"curves-loss.png", "held_out-margins.png", "held_out-calibration.png"} <= set(pictures)
    facts = found["facts"]
    assert facts["checkpoint"] == "reward-step5.nemo"
    assert facts["steps"] == "5, 0 skipped"
    assert "torch 2" in facts["software"]
    assert facts["layout"] == "1 rank, precision 32"  # of the run
    assert facts["scored at"] == "2 ranks, TP 2, precision 32"


def test_the_page_has_the_changes_that_should_not_matter(report: tuple[Path, dict[str, Any], str]) -> None:
    found, page = report[1]["validation"]["held_out"]["robustness"], (report[0] / "report.html").read_text()
    table = page.partition("<h3>Changes that should not matter</h3>")[2].partition("</table>")[0]
    rows = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in table.split("<tr>")[2:]]
    assert {name: (pairs, before, after) for name, pairs, before, after, *_ in rows} == {
        name: (f"{test['pairs']:,}", f"{test['accuracy']:.4f}", f"{test['accuracy_after']:.4f}")
        for name, test in found.items()
    }
    assert "a polite sentence before the prompt" in found


def test_the_page_needs_nothing_else(report: tuple[Path, dict[str, Any], str]) -> None:
    page = (report[0] / "report.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|<script|@import", page)
    assert page.count("<img ") == len(list(report[0].glob("*.png")))


@pytest.mark.skipif(_CHROMIUM is None, reason="no browser here: apt-get install chromium")
@pytest.mark.parametrize("width", [375, 1280])
def test_a_browser_shows_all_of_it(report: tuple[Path, dict[str, Any], str], tmp_path: Path, width: int) -> None:
    """Every picture is decoded, and the page is not wider than a phone or a desktop."""
    (tmp_path / "look.html").write_text(
        f"""<iframe id="page" src="file://{report[0] / "report.html"}" style="width:{width}px;height:900px;border:0">
        </iframe><script>
        document.getElementById("page").onload = event => {{
          const page = event.target.contentDocument, images = [...page.images];
          const shown = images.filter(image => image.complete && image.naturalWidth > 0).length;
          document.title = [page.documentElement.scrollWidth, images.length, shown].join(" ");
        }}</script>"""
    )
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--disable-quic", "--allow-file-access-from-files"]
    command = [str(_CHROMIUM), *quiet, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000"]
    result = subprocess.run(
        [*command, "--window-size=1400,1000", "--dump-dom", f"file://{tmp_path / 'look.html'}"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    found = re.search(r"<title>(\d+) (\d+) (\d+)</title>", result.stdout)
    assert found, result.stdout[:500] + result.stderr[-500:]
    wide, num_images, num_shown = map(int, found.groups())
    assert wide <= width
    assert num_images == num_shown > 0


def test_a_run_of_an_earlier_version_is_known(trained: tuple[Path, str], tmp_path: Path) -> None:
    lines = (trained[0] / "config.yaml").read_text().splitlines()
    old = [line for line in lines if "swanlab" not in line]
    assert len(old) < len(lines)
    (tmp_path / "config.yaml").write_text("\n".join(old) + "\n")
    (tmp_path / "metrics.jsonl").touch()
    run = load_run(tmp_path, ["trainer.devices=2"])
    assert (run.was.trainer.devices, run.settings.trainer.devices) == (1, 2)
    assert not run.was.exp_manager.create_swanlab_logger
    with pytest.raises(UserError, match=r"--checkpoint nowhere/x: expected a \.nemo or a Hugging Face folder"):
        with_model(run, Path("nowhere/x"))
    with pytest.raises(UserError, match=r"expected a checkpoint, found none\. --without-model reports what is logged"):
        with_model(run, None)
    (tmp_path / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match=r"expected the log directory of a run, found no metrics\.jsonl"):
        load_run(tmp_path, [])
    (tmp_path / "metrics.jsonl").touch()
    (tmp_path / "config.yaml").write_text("trainer: [")
    with pytest.raises(UserError, match=r"config\.yaml: expected the settings of a run, got"):
        load_run(tmp_path, [])


def test_a_report_takes_the_place_of_another_when_it_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace_files(tmp_path, {"a.png": b"1", "b.png": b"1", "report.html": b"1"})
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("not before all are written"))
    with pytest.raises(TypeError):
        replace_files(tmp_path, {"a.png": b"2", "report.html": None})
    monkeypatch.undo()
    assert [(tmp_path / name).read_bytes() for name in ("a.png", "b.png", "report.html")] == [b"1"] * 3
    replace_files(tmp_path, {"a.png": b"2", "report.html": b"2"})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"a.png": b"2", "report.html": b"2"}


def test_what_is_no_log_directory_is_named(tmp_path: Path) -> None:
    result = nemo_bt("report", str(tmp_path))
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"error: {tmp_path}: expected the log directory of a run, found no config.yaml in it.\n"


def test_texts_are_texts(tmp_path: Path) -> None:
    from nemo_bt.reporting.page import render

    worst = {"margin": -1.0, "where": "file row 1", "start": "<script>alert(1)</script>", "shared": [], "sides": []}
    tally = {"accuracy": 0.5, "low": 0.1, "high": 0.9, "ties": 0, "pairs": 2}
    swapped = {"accuracy": 0.5, "expected": 0.5, "not_turned": 1, "largest_difference": None, "holds": False}
    numbers = {"pairs": 2, "pairs_without_reward": 1, "overall": tally, "longer_wins": 0.5, "margin": 0.1}
    numbers |= {"calibration": {"ece": 0.1}, "swapped": swapped, "prompt_only": {"tally": None, "refused": 0}}
    numbers["response_only"] = {"tally": tally, "refused": 3}
    of_set = {"name": "a<b", "numbers": numbers, "pictures": {}, "worst": [worst]}
    page = render("<run>", "", {}, [of_set], [], [("fact", "<b>")])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "Fails" in page
    assert "the rows do not say where a response starts" in page
    assert "the response alone (3 refused)" in page
    assert "1 pairs have no finite reward" in page
