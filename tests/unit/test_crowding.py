"""More ranks than a machine has cores or memory for are told of before they start, and after one was killed."""

import resource
import signal

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from nemo_bt.launching.crowding import crowding
from nemo_bt.launching.local import _ended_by

GB = 10**9


def test_ranks_are_counted_against_cores_and_memory() -> None:
    assert crowding(2, cores=2, free_bytes=22 * GB) is None
    assert crowding(4, cores=2, free_bytes=22 * GB) == (
        "trainer.devices=4 ranks share 2 cores: that trains nothing faster than 2 ranks"
    )
    told = crowding(64, cores=96, free_bytes=22 * GB)
    assert told is not None
    assert told.startswith("trainer.devices=64 ranks need about 51 GB before they have a model, and 22.0 GB are free")


def failure(exitcode: int) -> ProcessFailure:
    return ProcessFailure(local_rank=13, pid=1, exitcode=exitcode, error_file="")


def test_a_killed_rank_names_memory_and_what_was_used() -> None:
    used_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GB
    status, message = _ended_by(failure(-signal.SIGKILL), was_asked=False)
    assert status == 1
    assert message is not None
    assert message.startswith("rank 13 was ended by SIGKILL, most often because memory ran out: the largest rank had ")
    assert f" {used_gb:.1f} GB, the machine has " in message
    assert _ended_by(failure(-signal.SIGSEGV), was_asked=False) == (1, "rank 13 was ended by SIGSEGV")
    assert _ended_by(failure(75), was_asked=True).message == "stopped before training"
