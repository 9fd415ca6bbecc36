"""The disk and the clock of a run that faults befall: mounts that no other process sees, and a clock that jumps."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

_CLOCK = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static volatile long *ahead_s = 0;
int set_clock_file(const char *path) {
    int file = open(path, O_RDONLY);
    void *map = file < 0 ? MAP_FAILED : mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (file >= 0) close(file);
    if (map == MAP_FAILED) return -1;
    ahead_s = map;
    return 0;
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int status = syscall(SYS_clock_gettime, id, now);
    if (ahead_s && !status && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) now->tv_sec += *ahead_s;
    return status;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return 0;
}
"""
READY = "NEMO_BT_FAULTS_READY"
_WITH_MOUNTS = "mounts"
_ATTEMPTS = 100


def variables() -> dict[str, str]:
    """Give what the environment of a program needs that is started by `prefix` and this."""
    clock = _clock_library()
    ready = {READY: _WITH_MOUNTS if prefix() else "without", "OMP_NUM_THREADS": "1"}  # as many threads: the same sums
    return ready | ({"LD_PRELOAD": str(clock)} if clock else {})


def prefix() -> list[str]:
    """Give the command that starts a program with mounts of its own; nothing where that is refused."""
    return ["unshare", "--mount"] if _can("unshare", "--mount", "true") else []


def remove_library() -> None:
    """Remove what `variables` made, when nothing that runs with it starts another program any more."""
    if has_clock():
        shutil.rmtree(Path(os.environ["LD_PRELOAD"]).parent, ignore_errors=True)


def has_mounts() -> bool:
    """Tell whether this process may mount, and sees mounts that no other does."""
    return os.environ.get(READY) == _WITH_MOUNTS


def has_clock() -> bool:
    """Tell whether the clock of runs can jump."""
    return hasattr(ctypes.CDLL(None), "set_clock_file")


def _can(*command: str) -> bool:
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False, timeout=20).returncode == 0
    return False


def _clock_library() -> Path | None:
    folder = Path(tempfile.mkdtemp(prefix="nemo_bt-clock-"))
    (folder / "clock.c").write_text(_CLOCK)
    library = folder / "clock.so"
    return library if _can("cc", "-shared", "-fPIC", "-O2", "-o", str(library), str(folder / "clock.c")) else None


def follow(clock: Path) -> None:
    """Have this process, and those that it forks, go by a clock's file from now on.

    Raises:
        OSError: the file cannot be read.
    """
    if has_clock() and ctypes.CDLL(None).set_clock_file(str(clock).encode()):
        raise OSError(f"{clock} cannot be mapped")


class Disk:
    """A folder on a disk of its own in memory, whose room can be taken away; an ordinary one where mounts are refused.

    Args:
        folder: is made.
        num_bytes: its size, where it can be set.
    """

    def __init__(self, folder: Path, num_bytes: int = 200_000_000) -> None:
        self.folder = folder
        self.num_bytes = num_bytes
        self.is_covered = False
        folder.mkdir(parents=True)
        self.is_own = has_mounts() and _can("mount", "-t", "tmpfs", "-o", f"size={num_bytes}", "faults", str(folder))

    def leave(self, free_bytes: int) -> None:
        """Take all room but so much. A run that writes meanwhile may need more than was seen: then it is seen again."""
        for attempt in range(1, _ATTEMPTS + 1):
            stat = os.statvfs(self.folder)
            used = (stat.f_blocks - stat.f_bfree) * stat.f_frsize
            try:
                self._remount(f"size={used + free_bytes}")
                return
            except subprocess.CalledProcessError:
                if attempt == _ATTEMPTS:
                    raise

    def fill(self) -> None:
        """Take what is free now."""
        with suppress(OSError), (self.folder / "ballast").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def refuse_writes(self) -> None:
        """Make it read-only; no file may be open for writing."""
        self._remount("ro")

    def turn_read_only(self) -> None:
        """Make it read-only for what is opened from now on: another mount, which is read-only, lies over this one.

        A file that is opened between both commands keeps the second from it, as long as it is open.
        """
        subprocess.run(["mount", "--bind", str(self.folder), str(self.folder)], check=True, timeout=20)
        self.is_covered = True
        read_only = ["mount", "-o", "remount,bind,ro", str(self.folder)]
        for _ in range(_ATTEMPTS):
            if subprocess.run(read_only, capture_output=True, timeout=20).returncode == 0:
                return
        subprocess.run(read_only, check=True, timeout=20)

    def mend(self) -> None:
        """Give it its room back, and let it be written."""
        if self.is_covered:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True, timeout=20)
            self.is_covered = False
        self._remount(f"rw,size={self.num_bytes}")
        (self.folder / "ballast").unlink(missing_ok=True)

    def _remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True, timeout=20)

    def remove(self) -> None:
        """Give its memory back."""
        if self.is_own:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True, timeout=20)


class Clock:
    """The file that says by how many seconds the clock of a run is ahead."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.jump(0)

    def jump(self, ahead_s: int) -> None:
        """Set it; what runs sees it at once."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("l", ahead_s))
