"""More ranks than a machine has cores or memory for are told of before they start, and after one was killed."""

import resource
import signal

from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from nemo_bt.launching.crowding import crowding
from nemo_bt.launching.ends import ended_by

GB = 10**9


def test_ranks_are_counted_against_cores_and_memory() -> None:
    assert crowding(2, cores=2, free_bytes=22 * GB) is None
    assert crowding(4, cores=2, free_bytes=22 * GB) == (
        "trainer.devices=4 ranks share 2 cores: that trains nothing faster than 2 ranks"
    )
    told = crowding(64, cores=96, free_bytes=22 * GB)
    assert told is not None
    assert told.startswith("trainer.devices=64 ranks need about 51 GB before they have a model, and 22.0 GB are free")


def failure(exitcode: int, rank: int = 13, at_s: int = 0) -> ProcessFailure:
    made = ProcessFailure(local_rank=rank, pid=1, exitcode=exitcode, error_file="")
    made.timestamp = at_s
    return made


def test_a_killed_rank_names_memory_and_what_was_used() -> None:
    used_gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / GB
    status, message = ended_by([failure(-signal.SIGKILL)], was_asked=False)
    assert status == 1
    assert message is not None
    assert message.startswith("rank 13 was ended by SIGKILL, most often because memory ran out: the largest rank had ")
    assert f" {used_gb:.1f} GB, the machine has " in message
    assert ended_by([failure(-signal.SIGSEGV)], was_asked=False) == (1, "rank 13 was ended by SIGSEGV")
    assert ended_by([failure(75)], was_asked=True).message == "stopped before training"


def test_a_rank_that_had_to_be_killed_after_the_others_is_named() -> None:
    """The launcher asks those that are left with SIGTERM, and kills what does not answer it."""
    others = [failure(-signal.SIGTERM, rank=2, at_s=1), failure(-signal.SIGKILL, rank=1, at_s=31)]
    status, message = ended_by([failure(1, rank=0), *others], was_asked=False)
    assert status == 1
    assert message == "rank 1 did not end when it was asked to: it was stopped, or hung in the kernel"
    assert ended_by([failure(1, rank=0), others[0]], was_asked=False) == (1, None)
    _, both = ended_by([failure(-signal.SIGSEGV, rank=0), *others], was_asked=False)
    assert both == f"rank 0 was ended by SIGSEGV\n{message}"


def test_a_rank_that_was_killed_is_named_also_where_another_noticed_first() -> None:
    noticed = failure(1, rank=0)
    status, message = ended_by([noticed, failure(-signal.SIGKILL, rank=1)], was_asked=False)
    assert status == 1
    assert message is not None
    assert message.startswith("rank 1 was ended by SIGKILL, most often because memory ran out")
    assert ended_by([noticed, failure(-signal.SIGBUS, rank=1)], was_asked=False) == (1, "rank 1 was ended by SIGBUS")
