"""A disk that is full or read-only, in a name space of its own: one message, and the run goes on when there is room."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from nemo_bt.checkpoint import disk_errors
from nemo_bt.checkpoint.disk_errors import naming_disk_errors
from nemo_bt.errors import UserError
from tests.support.layouts import common
from tests.support.runs import REPO, full_tensors, metrics

MODEL = ["model=llama_quickstart", "model.hidden_size=64", "model.ffn_hidden_size=160", "trainer.limit_val_batches=0"]
SAVER = "exp_manager.checkpoint_callback_params"
SAVING = [f"{SAVER}.every_n_train_steps=2", f"{SAVER}.async_save=true", "exp_manager.resume_if_exists=true"]
CANNOT_MOUNT = subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0
needs_mounts = pytest.mark.skipif(CANNOT_MOUNT, reason="mounting a small disk takes root")


def in_name_space(script: str, dataset: Path, tmp_path: Path, steps: int = 8) -> subprocess.CompletedProcess[str]:
    """Run a bash script that may mount; $log is the log directory, $train the command."""
    log_dir = tmp_path / "disk" / "run"
    (tmp_path / "disk").mkdir(exist_ok=True)
    argv = [*common(dataset, log_dir, 1), *MODEL, *SAVING, f"trainer.max_steps={steps}"]
    lines = f"set -eu; cd {REPO}; log={log_dir}; disk={tmp_path}/disk; kept={tmp_path}/kept;\n{script}"
    command = ["unshare", "--mount", "bash", "-c", lines, "bash", sys.executable, "-m", "nemo_bt", "train", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@needs_mounts
def test_a_full_disk_ends_the_run_which_goes_on_when_there_is_room(dataset: Path, tmp_path: Path) -> None:
    """The model's checkpoints are of 1.5 MB: the first fits, the second does not."""
    script = """
    mount -t tmpfs -o size=2500k tmpfs $disk
    status=0; "$@" || status=$?
    echo "status $status"; ls $log/checkpoints; cp -r $log $kept
    mount -o remount,size=100m $disk
    "$@"
    cp -r $log ${kept}2
    """
    result = in_name_space(script, dataset, tmp_path)
    assert result.returncode == 0, result.stderr
    assert "status 2" in result.stdout
    (said,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert f"error: cannot write to {tmp_path}/disk/run (0.00" in said
    assert "No space left on device: it is full. Checkpoints that have their name are whole" in said
    assert "Traceback" not in result.stderr
    assert [path.name for path in (tmp_path / "kept" / "checkpoints").glob("*.nemo")] == ["reward-step2.nemo"]
    before, after = (full_tensors(tmp_path / name / "checkpoints" / "reward-step2.nemo") for name in ("kept", "kept2"))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert metrics(tmp_path / "kept2", "step") == list(range(1, 9))
    assert "resuming from" in result.stdout


@pytest.mark.skipif(not CANNOT_MOUNT, reason="the test before has a real disk")
def test_a_writer_that_fails_ends_the_run_and_leaves_the_checkpoint_before(dataset: Path, tmp_path: Path) -> None:
    argv = [*common(dataset, tmp_path / "run", 1), *MODEL, *SAVING]
    train = [sys.executable, "-m", "nemo_bt", "train", *argv]
    subprocess.run([*train, "trainer.max_steps=2"], check=True, timeout=120)
    checkpoint = tmp_path / "run" / "checkpoints" / "reward-step2.nemo"
    before = full_tensors(checkpoint, prefix="")
    no_large_files = ["bash", "-c", 'ulimit -f 200; exec "$@"', "bash"]  # of 1,024 bytes: weights are larger
    result = subprocess.run([*no_large_files, *train], capture_output=True, text=True, timeout=120)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "File too large: a file is larger than allowed (ulimit -f)" in result.stderr
    assert [path.name for path in checkpoint.parent.glob("*.nemo")] == [checkpoint.name]
    after = full_tensors(checkpoint, prefix="")
    assert all(torch.equal(before[name], after[name]) for name in before)


FULL_TO_THE_LAST_BYTE = """
import sys
from pathlib import Path
from nemo_bt.cli.worker import run_as_rank
from nemo_bt.errors import UserError

def work(terminal, rank):
    for folder in (log_dir, log_dir / "last"):
        try:
            with (folder / "filling").open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(512))
        except OSError:
            pass
    try:
        while True:
            print("what a library says", flush=True)
    except OSError:
        pass
    raise UserError("the disk is full.")

log_dir = Path(sys.argv[1])
(log_dir / "last").mkdir()
sys.exit(run_as_rank(log_dir, "exp_manager.explicit_log_dir", work))
"""


@needs_mounts
def test_a_disk_that_takes_not_one_byte_more_ends_in_the_same_message(tmp_path: Path) -> None:
    """Neither nemo.log takes it then, nor what libraries left to be written when the process ends."""
    script = f'mount -t tmpfs -o size=100k tmpfs {tmp_path}; exec "$@"'
    command = ["unshare", "--mount", "bash", "-c", script, "bash", sys.executable, "-c", FULL_TO_THE_LAST_BYTE]
    result = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=REPO)
    assert (result.returncode, result.stderr) == (2, "error: the disk is full.\n")


@needs_mounts
def test_full_shared_memory_is_named(dataset: Path, tmp_path: Path) -> None:
    result = in_name_space(
        'mount -t tmpfs -o size=4k tmpfs /dev/shm; head -c 4k /dev/zero > /dev/shm/full || true; "$@"',
        dataset,
        tmp_path,
        2,
    )
    assert result.returncode == 2, result.stderr
    assert "/dev/shm is full, through which the writers of a checkpoint report" in result.stderr
    assert "Traceback" not in result.stderr


@needs_mounts
def test_a_read_only_folder_is_named(dataset: Path, tmp_path: Path) -> None:
    result = in_name_space('mount -t tmpfs -o ro tmpfs $disk; "$@"', dataset, tmp_path)
    assert result.returncode == 2, result.stderr
    assert "expected a folder to write to, got [Errno 30] Read-only file system" in result.stderr
    assert "Traceback" not in result.stderr


def test_errors_that_are_no_disks_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="shape"), naming_disk_errors(tmp_path):
        raise RuntimeError("shape mismatch")
    with pytest.raises(FileNotFoundError), naming_disk_errors(tmp_path):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    with pytest.raises(OSError, match="Input/output error"), naming_disk_errors(tmp_path):
        raise OSError(errno.EIO, os.strerror(errno.EIO), "/elsewhere/data.parquet")


def test_a_rank_whose_own_part_was_written_leaves_the_word_to_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megatron tells it that the save failed, and only the first rank why: that one says so, and ends it meanwhile."""
    waited: list[float] = []
    monkeypatch.setattr(disk_errors.time, "sleep", waited.append)
    with pytest.raises(UserError, match="it is read-only now"), naming_disk_errors(tmp_path):
        raise CheckpointException("write", {1: (OSError(errno.EROFS, os.strerror(errno.EROFS)), None)})
    assert not waited
    with pytest.raises(UserError, match="another rank could not write its part"), naming_disk_errors(tmp_path):
        raise CheckpointException("write", {})
    assert waited == [5.0]


@pytest.mark.parametrize(
    ("number", "named"),
    [
        (errno.EROFS, "it is read-only now"),
        (errno.EDQUOT, "the quota is used up"),
        (errno.EFBIG, "a file is larger than allowed"),
        (errno.ESTALE, "lost it"),
    ],
)
def test_errors_of_disks_are_named_also_from_the_text_of_another_process(
    number: int, named: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=named), naming_disk_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    with pytest.raises(UserError, match=named), naming_disk_errors(tmp_path):
        raise RuntimeError(f"Worker failure: [Errno {number}] something")
    with pytest.raises(UserError, match=named), naming_disk_errors(tmp_path):  # as torch says it
        raise RuntimeError(
            f"[enforce fail at inline_container.cc:747] . open file failed with strerror: {os.strerror(number)}"
        )


@needs_mounts
def test_a_folder_that_turned_read_only_is_named_by_what_torch_saves_with(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path; from nemo_bt.checkpoint.disk_errors import naming_disk_errors\n"
        "folder = Path(sys.argv[1])\n"
        "with naming_disk_errors(folder): torch.save({'a': 1}, folder / 'common.pt')\n"
    )
    mounted = f'mount -t tmpfs -o ro tmpfs {tmp_path} && exec {sys.executable} -c "$0" {tmp_path}'
    command = ["unshare", "--mount", "bash", "-c", mounted, script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "UserError: cannot write to" in result.stderr
    assert "Read-only file system: it is read-only now" in result.stderr
