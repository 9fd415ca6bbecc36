"""`python -m nemo_bt.phantom spec.json`: trace a rank, and write its record."""

from __future__ import annotations

import sys
from pathlib import Path

from nemo_bt.phantom.run import run
from nemo_bt.phantom.spec import read_spec

if __name__ == "__main__":
    spec = read_spec(Path(sys.argv[1]))
    Path(spec.record).write_text(run(spec).dumps())
