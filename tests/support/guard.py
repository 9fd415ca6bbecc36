"""A hook on what Python is asked to do: whoever reads a foreign file starts nothing, and touches nothing elsewhere."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FORBIDDEN = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile", "pty.spawn"),
    *("subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "socket.sendto", "urllib.Request"),
    *("pickle.find_class", "ctypes.dlopen", "webbrowser.open", "os.kill", "os.putenv", "os.unsetenv"),
)
"""Source: docs.python.org/3/library/audit_events.html."""
_CHANGES = (
    *("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate"),
    *("os.utime", "os.setxattr", "shutil.rmtree", "shutil.move", "shutil.copyfile"),
)
_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_LAZY = {
    "transformers",
    "tokenizers",
    "torch",
    "numpy",
    "safetensors",
    "nemo_bt",
    "sentencepiece",
    "tiktoken",
    "jinja2",
}
"""Packages that import their own parts when they are needed."""


class Guard:
    """Notes what is forbidden while it is armed, and stops it.

    Args:
        folder: where files may be written.
        named: classes that pickle may look up.

    Attributes:
        seen: what was forbidden, since the guard was armed.
    """

    def __init__(self, folder: Path, named: frozenset[str] = frozenset()) -> None:
        self.folder = str(folder.resolve())
        self.named = named
        self.seen: list[str] = []
        self._is_armed = False
        sys.addaudithook(self._hook)

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Watch what happens in a with block."""
        self.seen = []
        self._is_armed = True
        try:
            yield
        finally:
            self._is_armed = False

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self._is_armed:
            return
        if event in ("os.putenv", "os.unsetenv") and args[0] == b"TIKTOKEN_CACHE_DIR":
            return  # a tokenizer is read without that folder
        if event == "pickle.find_class" and f"{args[0]}.{args[1]}" in self.named:
            return
        if event in _FORBIDDEN or (event in _CHANGES and self._is_outside(*args)):
            self._stop(event, args)
        elif event == "open" and args[2] is not None and args[2] & _FOR_WRITING and self._is_outside(args[0]):
            self._stop("open for writing", args)
        elif event == "import" and not self._is_known(args[0]):
            self._stop(event, args)

    def _is_outside(self, path: Any, *within: Any) -> bool:
        """Tell whether a path lies elsewhere; a number is an open file, the last of `within` an open folder."""
        if isinstance(path, int):
            return False
        folder = f"/proc/self/fd/{within[-1]}" if within and isinstance(within[-1], int) and within[-1] >= 0 else "."
        return not os.path.realpath(os.path.join(folder, os.fsdecode(path))).startswith(f"{self.folder}/")

    def _is_known(self, module: str) -> bool:
        top = module.partition(".")[0]
        return top in _LAZY or top in sys.stdlib_module_names or top in sys.modules

    def _stop(self, event: str, args: tuple[Any, ...]) -> None:
        self.seen.append(f"{event} {str(args)[:200]}")
        raise PermissionError(self.seen[-1])
