"""One rank of several nemo-bt score in a row: a process that imports NeMo costs 5 s, so they share it.

torchrun --nproc-per-node N -m tests.support.score_ranks runs.json

The file has a list of {port, overrides}, all of world size N. One that has `judged` too is a run's settings, whose
validation sets are judged as by nemo-bt report, into that file.
"""

import json
import os
import sys
from pathlib import Path

from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.score import ScoreRun
from nemo_bt.launching.local import current_rank
from nemo_bt.launching.signals import StopRequest
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.resolve import find_pretrained
from nemo_bt.reporting.command import judge_run
from nemo_bt.reporting.settings import ReportRun
from nemo_bt.scoring.checks import check_score
from nemo_bt.scoring.command import score


def judge(overrides: list[str], output: Path) -> None:
    """Rewards of each set of a run: those given, swapped, and of responses alone, by the numbers of their pairs."""
    settings = load_settings("train", overrides)
    run, terminal = ReportRun(settings, settings), Terminal(sys.stdout if current_rank() == 0 else None)
    _, judged = judge_run(run, find_pretrained(str(settings.model.restore_from_path)), terminal)
    found = {}
    for of_set, _ in judged:
        found[of_set.name] = {
            "where": of_set.where,
            "sources": of_set.sources,
            "given": of_set.rewards.given_E2.tolist(),
            "swapped": of_set.rewards.swapped_E2.tolist(),
            "response": of_set.rewards.response_E2.tolist(),
        }
    if current_rank() == 0:
        output.write_text(json.dumps(found))


def main() -> None:
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"  # torchrun's store serves one rendezvous, not several
    for one in json.loads(Path(sys.argv[1]).read_text()):
        os.environ["MASTER_PORT"] = str(one["port"])
        if "judged" in one:
            judge(one["overrides"], Path(one["judged"]))
            continue
        run = load_settings_of(ScoreRun, "score", one["overrides"])
        run, pretrained, parts = check_score(run)
        parts.folder.mkdir(parents=True, exist_ok=True)
        terminal = Terminal(sys.stdout if current_rank() == 0 else None)
        assert score(run, pretrained, parts, terminal, current_rank(), StopRequest(None, ends_on_sigterm=False))


if __name__ == "__main__":
    main()
