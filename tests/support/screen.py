"""What a terminal shows after a program has written to it: as much of one as progress bars use."""

import os
import pty
import re
import subprocess
from collections.abc import Sequence

_PARTS = re.compile(r"\x1b\[(\??[\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


def on_terminal(command: Sequence[str], timeout_s: int = 300) -> tuple[int, str]:
    """Status of a command whose stdout is a terminal, and all that it wrote there."""
    ours, its = pty.openpty()
    env = os.environ | {"TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    process = subprocess.Popen(command, stdout=its, stderr=subprocess.DEVNULL, env=env)
    os.close(its)
    written = bytearray()
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    return process.wait(timeout_s), written.decode()


def shown(written: str) -> tuple[list[str], bool]:
    """Lines that are to be seen at the end, and whether the cursor is."""
    lines = [""]
    row = column = 0
    has_cursor = True
    for argument, command, control, text in _PARTS.findall(written):
        if control == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif control == "\r":
            column = 0
        elif text:
            lines[row] = lines[row].ljust(column)[:column] + text + lines[row][column + len(text) :]
            column += len(text)
        elif command == "A":
            row -= int(argument or 1)
        elif command == "K":
            lines[row] = "" if argument == "2" else lines[row][:column]
        elif argument == "?25":
            has_cursor = command == "h"
    return [line.rstrip() for line in lines], has_cursor
