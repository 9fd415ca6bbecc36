"""A real Slurm of two nodes on this machine, without rights and without munge; for tests only."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.support.runs import REPO, free_port

NODES = ("n1", "n2")
_CONF = """\
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldLogFile={folder}/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=requeue_setup_env_fail
ReturnToService=2
MpiDefault=none
KillWait=5
SlurmdTimeout=15
InactiveLimit=0
OverTimeLimit=0
JobRequeue=1
SlurmdParameters=config_overrides
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why there can be no cluster here; None where there can."""
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "scontrol") if not shutil.which(name)]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install slurm-wlm"
    return None if os.getuid() == 0 else "slurmd wants root"


@dataclass
class Cluster:
    """Its daemons, each in the foreground as a child of this process."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def env(self) -> dict[str, str]:
        return os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        first = free_port()
        conf = _CONF.format(
            host=socket.gethostname(),
            user=getpass.getuser(),
            folder=self.folder,
            port=free_port(),
            nodes="n[1-2]",
            first=first,
            last=first + 1,
        )
        (self.folder / "slurm.conf").write_text(conf)
        self._start_daemon("slurmctld", "slurmctld", "-D")
        for node in NODES:
            self.start_node(node)

    def start_node(self, node: str) -> None:
        self._start_daemon(node, "slurmd", "-D", "-N", node)

    def _start_daemon(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen(command, env=self.env, stdout=out, stderr=out)

    def kill_node(self, node: str) -> None:
        """slurmd and all that it started, as when a node goes down."""
        tasks = [one for one in psutil.process_iter() if self._is_on(one, node)]
        steps = [task.parent() for task in tasks]
        for process in [psutil.Process(self.daemons[node].pid), *steps, *tasks]:
            if process and process.is_running() and process.pid > 1:
                process.kill()
        self.daemons.pop(node).wait()

    def _is_on(self, process: psutil.Process, node: str) -> bool:
        """A task of a job has its node and its cluster in its environment."""
        try:
            environ = process.environ()
        except psutil.Error:
            return False
        return environ.get("SLURM_CONF") == str(self.folder / "slurm.conf") and environ.get("SLURMD_NODENAME") == node

    def stop(self) -> None:
        self.run("scancel", "--user", getpass.getuser(), check=False)
        looks = 0
        while self.run("squeue", "--noheader", check=False).strip() and looks < 60:
            looks += 1
            time.sleep(0.5)
        for process in reversed(self.daemons.values()):
            process.terminate()
        for process in self.daemons.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()

    def run(self, *command: str, check: bool = True) -> str:
        result = subprocess.run(command, env=self.env, cwd=REPO, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0 or not check, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def submit(self, *argv: str, env: dict[str, str]) -> int:
        """Returns: the job's number."""
        command = ["sbatch", "--parsable", *argv]
        result = subprocess.run(command, env=self.env | env, cwd=REPO, capture_output=True, text=True, timeout=60)
        assert result.returncode == 0, result.stderr
        return int(result.stdout)

    def state(self, job: int) -> str:
        """As Slurm calls it: PENDING, RUNNING, COMPLETED, ..."""
        described = self.run("scontrol", "--oneliner", "show", "job", str(job))
        return described.split("JobState=")[1].split()[0]

    def wait(self, job: int, *states: str, timeout_s: float = 180, hurries: bool = True) -> str:
        """Wait for a state. A job that goes back to the queue starts after 15 s, or as Slurm has it after 2 minutes."""
        deadline_s, pending_s = time.monotonic() + timeout_s, 0.0
        while (state := self.state(job)) not in states:
            pending_s = pending_s + 0.5 if state == "PENDING" else 0.0
            if hurries and pending_s == 15:  # at once Slurm would refuse
                self.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
            assert time.monotonic() < deadline_s, f"job {job} is {state} after {timeout_s} s"
            time.sleep(0.5)
        return state
