"""The nemo-bt command as a user runs it: what it prints, what it leaves, how it ends."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nemo_bt.checkpoint.best import best_checkpoint
from nemo_bt.checkpoint.find import step_of
from nemo_bt.config.load import load_settings
from nemo_bt.flops import training_flops
from nemo_bt.launching.signals import STOPPED_STATUS
from nemo_bt.pretrained.hf_config import scratch_hf_config
from nemo_bt.pretrained.nemo_metadata import write_facts
from tests.support.architectures import llama_like
from tests.support.faults import Fault, differences, disturb, finish, overrides_of
from tests.support.runs import metrics, nemo_bt

STEPS = 16


def arguments(dataset: Path, log_dir: Path, *extra: str) -> list[str]:
    return [
        "train",
        "model=llama_quickstart",
        "model.hidden_size=64",
        "model.ffn_hidden_size=160",
        f"exp_manager.explicit_log_dir={log_dir}",
        f"model.data.train={dataset / 'random.parquet'}",
        f"model.tokenizer.type={dataset / 'tokenizer'}",
        "model.global_batch_size=16",
        "model.data.tokens_per_micro_batch=2048",
        "trainer.accelerator=cpu",
        *extra,
    ]


def test_help_waits_for_nothing_heavy() -> None:
    code = "import sys\nfrom nemo_bt.cli.main import run\n"
    code += "try: run(['train', '--help'])\nfinally: print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "overrides" in result.stdout.lower()
    assert result.stdout.endswith("False\n")


def test_a_mistake_in_the_settings_costs_no_start_up(dataset: Path, tmp_path: Path) -> None:
    """Neither the start of ranks nor the import of NeMo, whose seconds differ from machine to machine."""
    argv = arguments(dataset, tmp_path / "run", "trainer.devices=3", "model.tensor_model_parallel_size=3")
    code = (
        "import sys\nfrom nemo_bt.cli.main import run\nstatus = run(sys.argv[1:])\n"
        "heavy = {'nemo', 'megatron', 'lightning', 'torch.distributed.elastic.multiprocessing'} & sys.modules.keys()\n"
        "print(heavy or 'nothing heavy')\nsys.exit(status)"
    )
    result = subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=300)
    assert (result.returncode, result.stdout) == (2, "nothing heavy\n")
    assert result.stderr.startswith("error: model.num_attention_heads=4 is not a multiple of")
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_mistake_in_the_data_ends_every_rank_with_one_message(dataset: Path, tmp_path: Path) -> None:
    result = nemo_bt(*arguments(dataset, tmp_path, "trainer.devices=2", "model.data.chosen_key=good"))
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {dataset / 'random.parquet'}: no format fits, found columns chosen (list<")
    assert "margin (double). Expected 'good' and 'rejected' as text or lists of messages, or" in line
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("names_log_dir", [True, False])
def test_a_mistake_in_what_is_validated_leaves_nothing(dataset: Path, tmp_path: Path, names_log_dir: bool) -> None:
    wanted = [f"exp_manager.explicit_log_dir={tmp_path / 'new' / 'deep'}"] if names_log_dir else []
    pairs = [f"model.data.validation={dataset / 'random.parquet'}", "model.data.chosen_key=good"]
    model = arguments(dataset, tmp_path)[1:4] + arguments(dataset, tmp_path)[6:]
    result = nemo_bt("validate", *model, *pairs, *wanted, TMPDIR=str(tmp_path))
    assert result.returncode == 2
    assert "no format fits, found columns chosen" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_joined_rank_count_has_to_match(dataset: Path, tmp_path: Path) -> None:
    result = nemo_bt(*arguments(dataset, tmp_path), RANK="0", WORLD_SIZE="2")
    assert result.returncode == 2
    assert "2 processes were started, trainer.devices=1 x trainer.num_nodes=1 = 1 are configured" in result.stderr


def test_several_nodes_are_started_by_a_launcher(dataset: Path, tmp_path: Path) -> None:
    result = nemo_bt(*arguments(dataset, tmp_path, "trainer.num_nodes=2"))
    assert result.returncode == 2
    assert "trainer.num_nodes > 1: start the ranks with srun or torchrun on each node" in result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to run on")
def test_a_gpu_that_is_not_there_is_named(dataset: Path, tmp_path: Path) -> None:
    result = nemo_bt(*arguments(dataset, tmp_path, "trainer.accelerator=gpu"))
    assert result.returncode == 2
    assert "trainer.devices=1 with trainer.accelerator=gpu: this machine has 0 GPUs" in result.stderr


def test_a_finished_run_says_so(dataset: Path, tmp_path: Path) -> None:
    context = tmp_path / "checkpoints" / "reward-step40.nemo" / "context"
    context.mkdir(parents=True)
    (context.parent / "weights").mkdir()
    write_facts(context, scratch_hf_config(load_settings("train", arguments(dataset, tmp_path)[1:]).model, 384), {})
    result = nemo_bt(*arguments(dataset, tmp_path, "exp_manager.resume_if_exists=true", "trainer.max_steps=40"))
    assert result.returncode == 0
    assert "nothing left to train" in result.stdout


def test_too_few_pairs_for_a_step_are_refused(dataset: Path, tmp_path: Path) -> None:
    result = nemo_bt(*arguments(dataset, tmp_path, "model.global_batch_size=101"))
    assert result.returncode == 2
    assert "100 training pairs x trainer.max_epochs=1 are less than one step of model.global_batch_size=101" in (
        result.stderr
    )


def test_training_ends_at_whichever_of_steps_and_epochs_comes_first(dataset: Path, tmp_path: Path) -> None:
    both = ["trainer.max_epochs=2", "trainer.max_steps=9", "model.global_batch_size=50", "trainer.log_every_n_steps=1"]
    result = nemo_bt(*arguments(dataset, tmp_path, *both))
    assert result.returncode == 0, result.stderr
    assert (
        "Training ends after 4 steps, with trainer.max_epochs=2 of 100 pairs, before trainer.max_steps=9. For all "
        "steps: trainer.max_epochs=null"
    ) in result.stdout.replace("\n", " ")
    assert len(metrics(tmp_path, "train/loss")) == 4


def test_checkpoints_are_not_written_over(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "reward-step40.nemo").mkdir(parents=True)
    result = nemo_bt(*arguments(dataset, tmp_path))
    assert result.returncode == 2
    assert "holds checkpoints up to step 40. Set exp_manager.resume_if_exists=true" in result.stderr


@pytest.fixture(scope="module")
def killed_and_resumed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A two-rank run, killed while it saved, started again and asked to end, and ended under torchrun."""
    log_dir = tmp_path_factory.mktemp("commands") / "run"
    argv = [*overrides_of(dataset, log_dir, STEPS), "trainer.peak_flops_per_device=1e12"]
    status, _ = disturb(Fault("save", "all", 0.5, rank=0), argv, log_dir)
    assert status == -signal.SIGKILL
    status, output = disturb(Fault("step", "ask", 0.2, rank=0), argv, log_dir)
    assert status == STOPPED_STATUS, output
    assert re.search(rf"stopped by SIGUSR1 at step \d+ of {STEPS} and saved", output)
    assert "SIGTERM: saving after this step, then the run ends" in output
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [sys.executable, *torchrun, "-m", "nemo_bt", "train", *argv]
    result = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=200
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"resuming from {log_dir}/checkpoints/reward-step" in result.stdout
    return log_dir, result.stdout


def test_a_killed_run_ends_as_one_that_nobody_disturbed(
    killed_and_resumed: tuple[Path, str], dataset: Path, tmp_path: Path
) -> None:
    finish(overrides_of(dataset, tmp_path / "undisturbed", STEPS))
    assert differences(killed_and_resumed[0], tmp_path / "undisturbed", STEPS) == []


def test_metric_names_are_the_documented_ones(killed_and_resumed: tuple[Path, str]) -> None:
    log_dir, _ = killed_and_resumed
    lines = (log_dir / "metrics.jsonl").read_text().splitlines()
    names = {key for line in lines for key in json.loads(line)} - {"step"}
    train = (
        "loss accuracy reward_chosen reward_rejected reward_std margin lr grad_norm tokens_per_second pairs_per_second"
    )
    train += " packing_efficiency step_time_s mfu"
    validation = "loss accuracy reward_chosen reward_rejected reward_std margin ties pairs"
    assert names == {f"train/{n}" for n in train.split()} | {f"val/held_out/{n}" for n in validation.split()}


def test_mfu_is_a_fraction_of_the_given_peak_of_all_ranks(killed_and_resumed: tuple[Path, str]) -> None:
    log_dir, _ = killed_and_resumed
    architecture = llama_like(2, hidden=64, heads=4, groups=2, head_size=16, ffn=160)
    tokens_per_second, mfu = (metrics(log_dir, f"train/{name}") for name in ("tokens_per_second", "mfu"))
    for rate, fraction in zip(tokens_per_second, mfu, strict=True):
        flops_per_token = 2 * 1e12 * fraction / rate
        context = (flops_per_token - training_flops(architecture, 1, 0)) / training_flops(architecture, 0, 1)
        assert 5 < context < 100  # keys that a token of these short pairs sees, on average


def test_the_terminal_shows_what_a_user_needs_and_nemo_log_the_rest(killed_and_resumed: tuple[Path, str]) -> None:
    log_dir, output = killed_and_resumed
    assert output.count(f"step {STEPS}/{STEPS}") == 1
    assert "validation held_out: loss" in output
    assert "longer answer wins" in output
    assert "NeMo" not in output
    assert "warn" not in output.lower()
    assert "[NeMo I" in (log_dir / "nemo.log").read_text()


def test_a_run_leaves_whole_checkpoints_and_its_configuration(killed_and_resumed: tuple[Path, str]) -> None:
    log_dir, _ = killed_and_resumed
    kept = sorted(path.name for path in (log_dir / "checkpoints").iterdir())
    assert kept == [f"reward-step{step}.nemo" for step in (STEPS - 2, STEPS)]
    for name in ("context/io.json", "context/model.yaml", "context/tokenizer/tokenizer.json", "weights/metadata.json"):
        assert (log_dir / "checkpoints" / f"reward-step{STEPS}.nemo" / name).is_file()
    assert f"max_steps: {STEPS}" in (log_dir / "config.yaml").read_text()


def test_nemo_loads_the_checkpoints_context(killed_and_resumed: tuple[Path, str]) -> None:
    log_dir, _ = killed_and_resumed
    code = (
        "import sys; from pathlib import Path\n"
        "import torch; from nemo_bt.cpu.device import install\n"
        "torch.cuda.is_available() or install()\n"
        "from nemo.lightning import io\n"
        "context = io.load_context(Path(sys.argv[1]))\n"
        "model = io.load_context(Path(sys.argv[1]), subpath='model')\n"
        "print(type(context.model).__name__, type(model).__name__, model.config.num_layers, model.tokenizer.vocab_size)"
    )
    path = log_dir / "checkpoints" / f"reward-step{STEPS}.nemo" / "context"
    command = [sys.executable, "-c", code, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout.splitlines()[-1:] == ["RewardModel RewardModel 2 347"], result.stderr[-3000:]


def test_the_next_commands_run_as_they_are_printed(killed_and_resumed: tuple[Path, str]) -> None:
    log_dir, output = killed_and_resumed
    printed = output.split("next:\n")[1].splitlines()
    commands = [shlex.split(line) for line in printed if line.startswith("  nemo-bt ")]
    assert [words[1] for words in commands] == ["export", "evaluate", "report"]
    for words in commands:
        result = nemo_bt(*words[1:], *(["trainer.accelerator=cpu"] if words[1] == "evaluate" else []))
        assert result.returncode == 0, result.stdout + result.stderr
    best = best_checkpoint(log_dir)
    assert best
    assert f"--input {best.path} " in output
    assert (log_dir / "export" / "model.safetensors").is_file()
    accuracy = json.loads((log_dir / "evaluation" / "results.json").read_text())["overall"]["accuracy"]
    lines = map(json.loads, (log_dir / "metrics.jsonl").read_text().splitlines())
    of_step = {line["step"]: line["val/held_out/accuracy"] for line in lines if "val/held_out/accuracy" in line}
    assert accuracy == pytest.approx(of_step[step_of(best.path)], abs=1e-6)
    assert (log_dir / "report" / "report.html").is_file()
