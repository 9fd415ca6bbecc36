"""One rank of several nemo-bt score in a row: a process that imports NeMo costs 10 s, so they share it.

torchrun --nproc-per-node N -m tests.score_ranks runs.json

The file has a list of {port, overrides}, all of world size N.
"""

import json
import os
import sys
from pathlib import Path

from nemo_bt.config import load_settings_of
from nemo_bt.launch import current_rank
from nemo_bt.scoring.checks import check_score
from nemo_bt.scoring.command import score
from nemo_bt.scoring.settings import ScoreRun
from nemo_bt.stopping import StopRequest
from nemo_bt.terminal import Terminal


def main() -> None:
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's store serves one rendezvous, not several
    for one in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(one["port"])
        run = load_settings_of(ScoreRun, "score", one["overrides"])
        origin, parts = check_score(run)
        parts.folder.mkdir(parents=True, exist_ok=True)
        terminal = Terminal(sys.stdout if current_rank() == 0 else None)
        assert score(run, origin, parts, terminal, current_rank(), StopRequest(None, ends_on_sigterm=False))


if __name__ == "__main__":
    main()
