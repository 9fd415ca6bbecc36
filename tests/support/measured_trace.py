"""The callback that measures a run on a GPU, in a trace.

python -m tests.support.measured_trace <spec.json> <out.json>
"""

import json
import sys
from pathlib import Path
from typing import Any

from nemo_bt.phantom.run import run
from nemo_bt.phantom.spec import read_spec


def main() -> None:
    spec = read_spec(Path(sys.argv[1]))
    made: list[Any] = []

    def callbacks() -> list[Any]:
        from tests.support.measured import Measured

        made.append(Measured(spec.steps + 1))  # the trace ends the run
        return made

    record = run(spec, callbacks)
    Path(spec.record).write_text(record.dumps())
    Path(sys.argv[2]).write_text(json.dumps(made[0].steps))


if __name__ == "__main__":
    main()
