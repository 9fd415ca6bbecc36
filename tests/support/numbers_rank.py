"""An ordinary run on a CPU in fp32 that writes what the device with numbers writes: `nemo_bt.phantom.numbers.seen`.

torchrun --nproc-per-node 1 -m tests.support.numbers_rank spec.json
"""

import json
import os
import sys
from pathlib import Path

from nemo_bt.config.load import load_settings
from nemo_bt.observability.terminal import Terminal
from nemo_bt.training.checks import check_settings
from nemo_bt.training.nemo_import import import_nemo
from nemo_bt.training.train import train


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text())
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    os.environ["MASTER_PORT"] = str(spec["port"])
    settings = load_settings("train", [*spec["overrides"], "trainer.accelerator=cpu", "trainer.precision=32"])
    (Path(settings.exp_manager.explicit_log_dir) / "checkpoints").mkdir(parents=True)
    import_nemo(on_gpu=False)

    from nemo_bt.phantom.numbers.seen import Seen

    train(settings, check_settings(settings), Terminal(None), 0, [Seen(Path(spec["folder"]))])


if __name__ == "__main__":
    main()
