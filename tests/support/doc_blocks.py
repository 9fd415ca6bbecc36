"""What README and docs/ have in code: blocks by language, their commands, and spans of code in the text."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.support.runs import REPO

PAGES = [
    REPO / "README.md",
    REPO / "CONTRIBUTING.md",
    REPO / "slurm" / "README.md",
    *sorted((REPO / "docs").rglob("*.md")),
]
_BLOCK = re.compile(r"(?:<!-- needs (?P<needs>[\w ]+) -->\n)?```(?P<info>[^\n]*)\n(?P<code>.*?)```", re.DOTALL)
_SPAN = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: that it stands on.
        language: bash, python, yaml, or nothing.
        title: a file name, where the page gives it one.
        needs: "a cluster" or "a GPU", where nothing else runs it.
        code: its lines.
    """

    page: Path
    language: str
    title: str | None
    needs: str | None
    code: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command, without comments."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(language: str) -> list[Block]:
    """All blocks of a language."""
    found = []
    for page in PAGES:
        for match in _BLOCK.finditer(page.read_text()):
            name, _, rest = match["info"].partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            if name == language:
                found.append(Block(page, name, title and title[1], match["needs"], match["code"]))
    return found


def spans() -> list[tuple[Path, str]]:
    """Code in the text of every page but the generated ones, on one line each."""
    generated = REPO / "docs" / "reference"
    found = []
    for page in PAGES:
        if page.parent != generated or page.name in ("models.md", "nemo-overrides.md"):
            text = _BLOCK.sub("", page.read_text())
            found += [(page, " ".join(span.split())) for span in _SPAN.findall(text)]
    return found
