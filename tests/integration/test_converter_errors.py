"""What the two commands refuse, and what they leave when they cannot finish."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoTokenizer

from converters import hf_to_nemo, nemo_to_hf
from converters.output import ParityError, written_whole
from converters.parity import check_memory, check_parity
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.names import HEAD
from nemo_bt.pretrained.nemo_metadata import HF_CONFIG
from nemo_bt.pretrained.nemo_yaml import FIELDS, NEMO_MODELS
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from nemo_bt.pretrained.source import TensorInfo
from tests.support.converted import replace_tensors, several_labels, tensors, to_hf, to_nemo
from tests.support.hf_models import save
from tests.support.runs import REPO, convert


def refused(command: Any, *argv: Any) -> str:
    with pytest.raises(UserError) as error:
        command.convert(command.parse(list(map(str, argv))), Terminal(None))
    return str(error.value)


def test_a_mistake_ends_with_one_line_and_status_2(packed: tuple[Path, str], tmp_path: Path) -> None:
    result = convert("nemo_to_hf", "--input", packed[0], "--output", tmp_path / "out", "--to-causal-lm")
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "a reward model has no language-model head" in result.stderr


@pytest.mark.parametrize(
    ("command", "argv", "message"),
    [
        (hf_to_nemo, ["--input", "{packed}", "--output", "{tmp}/x"], "is a .nemo already"),
        (nemo_to_hf, ["--input", "{base}", "--output", "{tmp}/x"], "is a Hugging Face folder already"),
        (hf_to_nemo, ["--input", "{base}", "--output", "{packed}"], "exists. Remove it or choose another name"),
        (hf_to_nemo, ["--input", "/no/such", "--output", "{tmp}/x"], "/no/such does not exist"),
        (nemo_to_hf, ["--input", "{packed}", "--output", "{tmp}/x", "--pad-token", "<none>"], "'<none>' is not in the"),
        (nemo_to_hf, ["--input", "{packed}", "--output", "{tmp}/x", "--max-shard-gb", "0"], "expected more than 0"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    command: Any, argv: list[str], message: str, base: Path, packed: tuple[Path, str], tmp_path: Path
) -> None:
    before = packed[0].read_bytes()
    assert message in refused(command, *(part.format(base=base, packed=packed[0], tmp=tmp_path) for part in argv))
    assert list(tmp_path.iterdir()) == []
    assert packed[0].read_bytes() == before


def test_a_language_model_has_no_reward_to_export(base: Path, tmp_path: Path) -> None:
    pretrained = find_pretrained(str(base))
    initial = open_weights(pretrained, 0)
    source = initial.source.source  # without the new head
    nemo = to_nemo(pretrained, replace(initial, source=source), tmp_path / "lm.nemo")
    assert "a reward model without its head" in refused(nemo_to_hf, "--input", nemo, "--output", tmp_path / "x")
    config = {name: pretrained.hf_config[hf] for name, hf in FIELDS.items()} | {
        "_target_": f"{NEMO_MODELS}.qwen3.Qwen3Config"
    }
    (nemo / "context" / "model.yaml").write_text(yaml.safe_dump({"config": config}))
    (nemo / "context" / HF_CONFIG).unlink()
    assert "without a reward head" in refused(nemo_to_hf, "--input", nemo, "--output", tmp_path / "x")


@pytest.mark.parametrize("command", ["hf_to_nemo", "nemo_to_hf"])
def test_a_disk_that_takes_no_more_leaves_nothing(
    command: str, base: Path, packed: tuple[Path, str], tmp_path: Path
) -> None:
    def limit_files() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    source = base if command == "hf_to_nemo" else packed[0]
    result = convert(command, "--input", source, "--output", tmp_path / "x", "--no-check", preexec_fn=limit_files)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "could not be written: " in result.stderr
    assert "File too large" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_models_that_disagree_fail_the_check(exported: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    """In their configuration, which transformers reads for itself, or in the head, changed or lost."""
    initial = open_weights(find_pretrained(str(trained[0] / "checkpoints" / "reward-step5.nemo")), 0)
    assert check_parity(exported, initial) < 1e-5

    def differs(folder: Path) -> None:
        with pytest.raises(ParityError, match=r"rewards differ by .* between transformers and Megatron, expected"):
            check_parity(folder, initial)

    wrong = shutil.copytree(exported, tmp_path / "config")
    config = json.loads((wrong / "config.json").read_text())
    (wrong / "config.json").write_text(json.dumps(config | {"rope_theta": 7.0}))
    differs(wrong)
    for name, head in (("changed", torch.full((1, 64), 7.0)), ("lost", None)):
        wrong = shutil.copytree(exported, tmp_path / name)
        replace_tensors(wrong, {"score.weight": head})
        differs(wrong)


def test_a_folder_that_transformers_does_not_load_is_named(
    exported: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    initial = open_weights(find_pretrained(str(trained[0] / "checkpoints" / "reward-step5.nemo")), 0)
    wrong = shutil.copytree(exported, tmp_path / "wrong")
    (wrong / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=rf"{wrong}: transformers does not load it"):
        check_parity(wrong, initial)


def test_a_cast_is_compared_with_the_cast(tmp_path: Path) -> None:
    folder = save("qwen3", tmp_path / "hf")
    args = ["--input", str(folder), "--output", str(tmp_path / "x.nemo"), "--dtype", "bf16"]
    hf_to_nemo.convert(hf_to_nemo.parse(args), Terminal(None))
    assert open_weights(find_pretrained(str(tmp_path / "x.nemo")), 0).source.read(HEAD).dtype == torch.bfloat16


def test_one_row_of_a_classifiers_head_becomes_the_reward_head(tmp_path: Path) -> None:
    folder = several_labels(save("qwen3", tmp_path / "hf"), num_rows=3)
    args = ["--input", str(folder), "--output", str(tmp_path / "x.nemo"), "--head-row", "1"]
    hf_to_nemo.convert(hf_to_nemo.parse(args), Terminal(None))
    initial = open_weights(find_pretrained(str(tmp_path / "x.nemo")), 0)
    assert torch.equal(initial.source.read(HEAD), tensors(folder)["score.weight"][1:2])
    config = json.loads((to_hf(initial, tmp_path / "back") / "config.json").read_text())
    assert (config["num_labels"], config["problem_type"], len(config["id2label"])) == (1, "regression", 1)


def test_an_output_that_failed_the_check_is_kept_under_another_name(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def write(error: BaseException) -> None:
        with written_whole(out) as folder:
            (folder / "kept").touch()
            raise error

    with pytest.raises(ParityError, match=rf"What was written lies in {out}\.failed-check\."):
        write(ParityError("rewards differ."))
    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt())
    assert [path.name for path in tmp_path.iterdir()] == ["out.failed-check"]
    assert (tmp_path / "out.failed-check" / "kept").exists()


def test_a_failed_check_ends_with_status_1() -> None:
    code = "from converters.output import *\ndef fail(terminal):\n  raise ParityError('apart')\nrun(fail)"
    result = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (1, "error: apart\n")


def test_too_little_memory_for_the_check_is_said_before_the_work() -> None:
    infos = {"x": TensorInfo((7_000_000_000_000,), torch.bfloat16)}
    with pytest.raises(
        UserError, match=r"needs 35000\.0 GB of memory \(7000\.00 B parameters in fp32\), .* --no-check"
    ):
        check_memory(SimpleNamespace(infos=infos))


def test_a_hub_model_is_taken_from_the_cache_at_its_revision(base: Path, tmp_path: Path) -> None:
    """The cache as huggingface_hub lays it out; offline, nothing else is asked."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "models--org--model"
    shutil.copytree(base, repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)
    code = (
        "import sys; from nemo_bt.pretrained.resolve import find_pretrained\n"
        "for given in sys.argv[1:]:\n"
        "  try: print(find_pretrained(given).path)\n"
        "  except Exception as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "org/model", f"org/model@{commit}", "org/model@v2", "org/other"],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = result.stdout.splitlines()
    assert found[:2] == [str(repo / "snapshots" / commit)] * 2, result.stderr
    assert "org/model@v2 is not a path here, and not a model that the hub gives" in found[2]
    assert "org/other is not a path here, and not a model that the hub gives" in found[3]


def test_an_upload_that_cannot_work_is_said_before_the_work(packed: tuple[Path, str], tmp_path: Path) -> None:
    argv = ("--input", packed[0], "--output", tmp_path / "out", "--no-check", "--push-to-hub")
    assert "Nothing was converted." in refused(nemo_to_hf, *argv, "not/a/name")
    result = convert("nemo_to_hf", *argv, "org/model", env=os.environ | {"HF_HUB_OFFLINE": "1"})
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert "--push-to-hub org/model: " in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_upload_that_fails_leaves_the_export(tmp_path: Path) -> None:
    code = "import sys, pathlib; from converters.hub import push; push(pathlib.Path(sys.argv[1]), 'org/model', False)"
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    result = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=60)
    assert f"The export is whole in {tmp_path}; upload it from there." in result.stderr


def test_facts_of_another_shape_are_refused_before_the_work(packed: tuple[Path, str], tmp_path: Path) -> None:
    nemo = tmp_path / "x.nemo"
    with tarfile.open(packed[0]) as tar:
        tar.extractall(nemo)
    (nemo / "context" / "training.json").write_text('{"step": 3}')
    message = refused(nemo_to_hf, "--input", nemo, "--output", tmp_path / "out", "--no-check")
    assert "context/training.json is not as nemo_bt writes it (KeyError('validation'))" in message
    assert [path.name for path in tmp_path.iterdir()] == ["x.nemo"]


def test_a_pad_token_beyond_the_embedding_is_refused(packed: tuple[Path, str], tmp_path: Path, tokenizer: Any) -> None:
    larger = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    larger.add_tokens([f"<{i}>" for i in range(10)])
    larger.add_special_tokens({"pad_token": "<pad>"} if "<pad>" not in larger.get_vocab() else {"pad_token": "<9>"})
    larger.save_pretrained(tmp_path / "tokenizer")
    argv = ("--input", packed[0], "--output", tmp_path / "out", "--tokenizer", tmp_path / "tokenizer")
    assert "has id 35" in (message := refused(nemo_to_hf, *argv))
    assert "the embedding 350 rows" in message
