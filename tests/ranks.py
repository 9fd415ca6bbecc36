"""One rank of several training runs in a row: a process that imports NeMo costs 11 s, so runs share it.

torchrun --nproc-per-node N -m tests.ranks runs.json     (a list of {port, overrides}, all of world size N)
"""

import json
import os
import sys
from pathlib import Path

from nemo_bt.checks import check_settings
from nemo_bt.config import load_settings
from nemo_bt.launch import current_rank
from nemo_bt.terminal import Terminal
from nemo_bt.train import train


def main() -> None:
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's store serves one rendezvous, not several
    for run in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(run["port"])
        settings = load_settings("train", run["overrides"])
        check_settings(settings)
        (Path(settings.exp_manager.explicit_log_dir) / "checkpoints").mkdir(parents=True, exist_ok=True)
        train(settings, Terminal(sys.stdout if current_rank() == 0 else None), current_rank())


if __name__ == "__main__":
    main()
