"""nemo-bt in forks of one process that has imported what commands need: a second each, in place of ten.

python -m tests.support.forked jobs.json      with a list of Job as objects; it writes how they ended to stdout
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Job:
    """A command line.

    Args:
        name: any.
        argv: words behind nemo-bt.
        time_limit_s: longer is without end.
        extra_bytes: memory that it may have beyond what the imports took; 0 is no limit.
        env: variables beside those of the process.
        cpu_s: time of a core that it may use; 0 is no limit, more is without end.
    """

    name: str
    argv: list[str]
    time_limit_s: float = 60.0
    extra_bytes: int = 0
    env: dict[str, str] = field(default_factory=dict)
    cpu_s: int = 0


@dataclass(frozen=True)
class Ended:
    """How a command ended: `status` is its own, -n after signal n; `is_late` tells that it was killed for its time."""

    name: str
    status: int
    is_late: bool
    stdout: str
    stderr: str
    seconds: float

    @property
    def kind(self) -> str:
        """One of read, refused, traceback, endless, killed."""
        if self.is_late or self.status == -signal.SIGXCPU:
            return "endless"
        if self.status < 0:
            return "killed"
        if TRACEBACK in self.stderr or self.status not in (0, 2):
            return "traceback"
        return "refused" if self.status == 2 else "read"


def run_forked(jobs: Sequence[Job], imports: Sequence[str] = (), timeout_s: float = 600) -> list[Ended]:
    """Run commands one after another in forks of one new process.

    Args:
        jobs: the commands.
        imports: modules that the process imports first, behind NeMo.
        timeout_s: limit of all.
    """
    with tempfile.TemporaryDirectory(prefix="nemo_bt-forked-") as folder:
        file = Path(folder) / "jobs.json"
        file.write_text(json.dumps({"imports": [*imports], "jobs": [asdict(job) for job in jobs]}))
        command = [sys.executable, "-m", "tests.support.forked", str(file)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert result.returncode == 0, result.stderr
    return [Ended(**json.loads(line)) for line in result.stdout.splitlines()]


def fork(job: Job, work: Callable[[Job], int]) -> Ended:
    """Do a job's work in a fork of this process, with its output in files, and wait for it."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        start_s = time.monotonic()
        pid = os.fork()
        if pid == 0:
            os._exit(_as_child(job, work, stdout.fileno(), stderr.fileno()))
        is_late = not _is_over(pid, job.time_limit_s)
        if is_late:
            os.kill(pid, signal.SIGKILL)
        _, waited = os.waitpid(pid, 0)
        seconds = time.monotonic() - start_s
        texts = []
        for file in (stdout, stderr):
            file.seek(0)
            texts.append(file.read(1 << 20).decode(errors="backslashreplace"))
    return Ended(job.name, os.waitstatus_to_exitcode(waited), is_late, *texts, seconds)


def _is_over(pid: int, limit_s: float) -> bool:
    watched = os.pidfd_open(pid)
    try:
        return bool(select.select([watched], [], [], limit_s)[0])
    finally:
        os.close(watched)


def _as_child(job: Job, work: Callable[[Job], int], stdout: int, stderr: int) -> int:
    try:
        os.dup2(stdout, 1)
        os.dup2(stderr, 2)
        os.environ.update(job.env)
        if job.extra_bytes:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            limit = pages * resource.getpagesize() + job.extra_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        if job.cpu_s:
            used_s = int(sum(os.times()[:2]))
            resource.setrlimit(resource.RLIMIT_CPU, (used_s + job.cpu_s, used_s + job.cpu_s + 5))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        return work(job)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001 - it is shown, and status 1, as Python does it
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def command(job: Job) -> int:
    """Run nemo-bt as its console script does."""
    from nemo_bt.cli import main

    sys.argv = ["nemo-bt", *job.argv]
    main.main()
    return 0


def _ends(spec: dict[str, list[dict[str, object]]]) -> Iterator[Ended]:
    for job in spec["jobs"]:
        yield fork(Job(**job), command)


def serve() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    if spec["imports"]:
        from nemo_bt.training.nemo_import import import_nemo

        import_nemo(on_gpu=False)
    for name in spec["imports"]:
        __import__(name)
    for ended in _ends(spec):
        print(json.dumps(asdict(ended)), flush=True)


if __name__ == "__main__":
    serve()
