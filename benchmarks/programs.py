"""Which programs read what is exported here, and what they save: the results of `make test-interop`, as a page.

python -m benchmarks.programs

It reads runs/test-interop.xml and the versions in tests/interop/requirements, and writes docs/reference/programs.md.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_PAGE = _ROOT / "docs" / "reference" / "programs.md"
_TRIED = Path("runs/test-interop.xml")
_HEAD = """# Programs that were tried

Each is as it was published, and runs by its own Python in an environment of its own, or, where a row says here, in that
of nemo_bt; rewards are compared in fp32, to 1e-5. A row says what was put in the place of a GPU or of a package that
wants one, and what a test sends by the bytes of a client, and not by its code. This page is
written by `python -m benchmarks.programs` after `make test-interop`.

| program | version | what it does | result |
|---|---|---|---|"""


def main() -> None:
    if not _TRIED.is_file():
        sys.exit(f"not there: {_TRIED}. Run make test-interop first.")
    found: dict[tuple[str, str, str], list[bool | None]] = {}
    silent = []
    for case in ElementTree.parse(_TRIED).iter("testcase"):
        passed = not any(case.find(kind) is not None for kind in ("failure", "error"))
        if not passed and case.find("properties") is None:  # it failed before it could say what it tries
            silent.append(case.attrib["name"])
        for told in case.iter("property"):
            if told.attrib["name"] == "program":
                program, version, what = told.attrib["value"].split(" | ")
                found.setdefault((program, _version(version), what), []).append(
                    passed if case.find("skipped") is None else None
                )
    if silent:
        sys.exit(f"failed without a row: {', '.join(silent)}. Mend them, and run make test-interop again.")
    rows = [f"| {' | '.join(key)} | {_result(results)} |" for key, results in sorted(found.items())]
    _PAGE.write_text("\n".join([_HEAD, *rows]) + "\n")
    print(f"{_PAGE}: {len(rows)} rows, {sum(all(results) for results in found.values())} of them right")


def _version(told: str) -> str:
    """Find a package's version in an environment's requirements, told as `trl:peft`; anything else is the version."""
    environment, _, package = told.partition(":")
    files = [_ROOT / "tests" / "interop" / "requirements" / f"{environment}.{end}" for end in ("txt", "alone")]
    lines = "\n".join(file.read_text() for file in files if file.is_file())
    pinned = re.search(rf"^{re.escape(package)}==(\S+)", lines, re.MULTILINE) if package else None
    return pinned[1] if pinned else told


def _result(results: list[bool | None]) -> str:
    if None in results:
        return "not tried"
    return "yes" if all(results) and len(results) == 1 else f"{results.count(True)} of {len(results)} shapes"


if __name__ == "__main__":
    main()
