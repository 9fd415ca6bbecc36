"""The one exception that means "the user can mend this": shown as a single message, exit status 2.

Also here, because everything may import it: what makes a text safe to print.
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and newline, DEL, C1: they move the cursor or start a sequence
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"  # separators of lines, marks and overrides of direction
    "\ud800-\udfff]"  # surrogates, which no encoding takes: bytes of a file name that are no UTF-8
)


def shown(text: str) -> str:
    r"""Give a text as it may be printed: characters that a terminal acts on are written out, ESC as `\x1b`."""
    return _UNSAFE.sub(lambda found: ascii(found[0])[1:-1], text)


class UserError(ValueError):
    """A mistake in configuration or data. The text says what was expected, what was found and what to change.

    The command line prints it without a traceback and exits with status 2; from Python it is a `ValueError`. What it
    quotes is made safe to print.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(shown(text))


def first_line(error: BaseException) -> str:
    """Give the first line of an error's text, or its kind where it has none."""
    return (str(error).splitlines() or [repr(error)])[0]
