"""The Python API as programs and notebooks use it: one rank here, ranks of a script, a loss of one's own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nemo_bt.observability.events import read_events
from tests.support.hf_models import save
from tests.support.layouts import common
from tests.support.runs import REPO, metrics, nemo_bt

STEPS = ["trainer.max_steps=3", "model.global_batch_size=16", "model.encoder_seq_length=512", "trainer.seed=7"]
EXAMPLE = REPO / "examples" / "custom_loss.py"
NOTEBOOK = """
import json, sys
cells = [cell["source"] for cell in json.load(open(sys.argv[1]))["cells"] if cell["cell_type"] == "code"]
exec("\\n".join("".join(source) for source in cells))
print("figure of", [len(line.get_xdata()) for line in figure.axes[0].lines], "points")
"""
IN_PROCESS = """
import sys, torch, lightning.pytorch as pl, nemo_bt
sys.path.insert(0, "examples")
from custom_loss import hinge
model, pairs, tokenizer, log_dir, *overrides = sys.argv[1:]
class Seen(pl.Callback):
    steps = 0
    def on_train_batch_end(self, *_): Seen.steps += 1
class Fails(pl.Callback):
    def on_train_batch_end(self, *_): raise ArithmeticError("of a callback")
def refused(call, *args, **kwargs):
    try: call(*args, **kwargs)
    except nemo_bt.UserError as error: print("refused", error, flush=True)
given = [f"model.restore_from_path={model}", f"model.data.train={pairs}", f"model.tokenizer.type={tokenizer}"]
given += overrides
def settings(name, *more):
    return nemo_bt.load_settings("train", [*given, f"exp_manager.explicit_log_dir={log_dir}/{name}", *more])
own = nemo_bt.train(settings("own"), loss_fn=hinge, callbacks=[Seen()])
def same(chosen_P, rejected_P, margin_P, weight_P):
    return nemo_bt.bradley_terry_loss(chosen_P, rejected_P, margin_P, weight_P, nemo_bt.LossSettings())
assert nemo_bt.train(settings("same"), loss_fn=same).step == nemo_bt.train(settings("default")).step == 3
print("steps", own.step, Seen.steps, own.stopped_by, flush=True)
with nemo_bt.RewardScorer.from_pretrained(f"{log_dir}/own/checkpoints/reward-step3.nemo") as scorer:
    print("reward", scorer.score("Human: a\\n\\nAssistant: b"), flush=True)
    refused(nemo_bt.train, settings("beside"))
for wrong in (lambda *_: 1.0, lambda c, r, m, w: (c - r).sum(), lambda c, r: c):
    refused(nemo_bt.train, settings("wrong"), loss_fn=wrong)
refused(nemo_bt.score, settings("x"))
for wrong in (5, Seen(), ["Seen"], [Seen]):
    refused(nemo_bt.train, settings("wrong"), callbacks=wrong)
refused(nemo_bt.train, settings("same", "exp_manager.resume_if_exists=true", "trainer.max_steps=4"), loss_fn=same)
refused(nemo_bt.launch, settings("launched", "trainer.devices=2", "model.tensor_model_parallel_size=3"))
validated = [f"model.data.validation.held_out={pairs}", "exp_manager.explicit_log_dir=" + log_dir + "/validated"]
validated += [f"model.restore_from_path={log_dir}/same/checkpoints/reward-step3.nemo"]
of_run = nemo_bt.load_settings("config", validated, f"{log_dir}/same")
refused(nemo_bt.validate, of_run)
print("validated", nemo_bt.validate(of_run, loss_fn=same)["val/held_out/loss"], flush=True)
try: nemo_bt.train(settings("failed"), callbacks=[Fails()])
except ArithmeticError as error: print("raised", error, flush=True)
"""


def python(*argv: Any, timeout_s: int = 400) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=timeout_s)


@pytest.fixture(scope="module")
def base(dataset: Path, tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    return save("qwen3", tmp_path_factory.mktemp("api") / "base", classifier=False, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def in_process(dataset: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Log directories of three runs in one process, and what it printed."""
    folder = tmp_path_factory.mktemp("api-runs")
    options = ["trainer.accelerator=cpu", "trainer.log_every_n_steps=1", *STEPS]
    result = python("-c", IN_PROCESS, base, dataset / "random.parquet", dataset / "tokenizer", folder, *options)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result.stdout


def test_a_program_trains_and_goes_on(in_process: tuple[Path, str]) -> None:
    folder, printed = in_process
    assert "steps 3 3 None" in printed
    assert "step 3/3  loss" in printed  # what a run shows, and the program's own lines after it
    assert float(printed.split("reward ")[1].split()[0]) == pytest.approx(0, abs=100)
    assert "NeMo" not in printed
    assert "NeMo" in (folder / "own/nemo.log").read_text() or (folder / "own/nemo.log").stat().st_size


def test_a_loss_from_python_is_the_run_s_loss(in_process: tuple[Path, str]) -> None:
    folder, _ = in_process
    default, same, own = (metrics(folder / name, "train/loss") for name in ("default", "same", "own"))
    assert same == default
    assert own != default
    chosen, rejected = (metrics(folder / "own", f"train/reward_{side}")[0] for side in ("chosen", "rejected"))
    assert own[0] >= 1 - (chosen - rejected) - 1e-5  # Jensen: the mean of the hinge is at least the hinge of the mean
    config = (folder / "own/config.yaml").read_text()
    assert "name: hinge" in config
    assert "custom_loss.py" in config


def test_what_is_no_loss_is_refused_before_anything_is_read(in_process: tuple[Path, str]) -> None:
    _, printed = in_process
    refused = [line for line in printed.splitlines() if line.startswith("refused")]
    expected = [
        "a RewardScorer is open in this process",
        "got float",
        "got () of",
        "takes 2",
        'nemo_bt.load_settings("score", [...]), got Settings',
        *["callbacks: expected a list of lightning.pytorch.Callback objects, got "] * 4,
        "nothing tells whether same is the loss of the run to resume",
        "not a multiple of",
        "expected a Python file with same, got None. One from Python is given again.",
    ]
    assert [text for text, line in zip(expected, refused, strict=True) if text not in line] == []


def test_a_run_from_python_validates_with_its_loss_and_leaves_word_of_a_failure(in_process: tuple[Path, str]) -> None:
    folder, printed = in_process
    assert 0 < float(printed.split("validated ")[1].split()[0]) < 10
    assert "raised of a callback" in printed
    assert read_events(folder / "failed")[-1]["error"] == "ArithmeticError: of a callback"
    first, *_, last = read_events(folder / "own")
    assert (first["event"], last["event"]) == ("started", "ended")


def test_the_example_on_two_ranks_is_the_command_with_the_same_loss(dataset: Path, base: Path, tmp_path: Path) -> None:
    """A script asks for two ranks; the command line names its function by file."""
    options = [
        *common(dataset, tmp_path / "cli", 2)[1:], f"model.restore_from_path={base}", *STEPS,
        "model.pipeline_model_parallel_size=2", "model.virtual_pipeline_model_parallel_size=2",
    ]  # fmt: skip
    script = python(EXAMPLE, base, dataset / "random.parquet", tmp_path / "script", *options)
    assert script.returncode == 0, script.stdout + script.stderr
    assert script.stdout.count("3 steps; {") == 1  # the ranks end with the call
    config = (tmp_path / "script/config.yaml").read_text()
    assert "path: null\n      name: hinge" in config  # a command that loads it runs no script
    named = [f"model.loss.custom_fn.path={EXAMPLE}", "model.loss.custom_fn.name=hinge"]
    command = nemo_bt("train", f"exp_manager.explicit_log_dir={tmp_path / 'cli'}", *options, *named)
    assert command.returncode == 0, command.stderr
    assert metrics(tmp_path / "script", "train/loss") == metrics(tmp_path / "cli", "train/loss")


def test_more_ranks_than_one_need_a_script() -> None:
    code = (
        "import nemo_bt\nsettings = nemo_bt.load_settings('train', ['trainer.devices=2', 'model.data.train=x',"
        "'exp_manager.explicit_log_dir=x'])\n"
        "try: nemo_bt.train(settings)\nexcept nemo_bt.UserError as error: print(error)"
    )
    assert "a notebook or an interactive session is one rank" in python("-c", code).stdout


def test_the_notebook_trains_draws_and_scores() -> None:
    result = python("-c", NOTEBOOK, REPO / "examples/quickstart.ipynb")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "figure of [12] points" in result.stdout
    right, wrong = (float(line.split()[0]) for line in result.stdout.splitlines() if "I bring" in line)
    assert right > wrong
    assert "held-out pairs" in result.stdout
    notebook = json.loads((REPO / "examples/quickstart.ipynb").read_text())
    assert not any(cell.get("outputs") for cell in notebook["cells"])
