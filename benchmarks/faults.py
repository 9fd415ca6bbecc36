"""Kill a run at random moments, start it again each time, and compare with one that nobody disturbed, bit for bit.

python -m benchmarks.faults [--faults 20] [--seed 1]

Every start of the run suffers one fault: while it starts up, in a step, in a save, or while an old checkpoint is
removed. A random rank, or all processes, get SIGKILL, or the command gets SIGTERM. It takes about eight minutes on two
cores.
"""

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path

from benchmarks.results_file import Figure, write_results
from nemo_bt.checkpoint.find import saved_checkpoints, step_of
from tests.support.faults import STEPS, differences, disturb, drawn_faults, finish, overrides_of
from tests.support.preferences import write_sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nemo_bt-faults-") as folder:
        data = Path(folder)
        runs = Path(folder) / "runs"
        write_sets(data)
        finish(overrides_of(data, runs / "undisturbed"))
        number = 0
        statuses = Counter()
        different = []
        faults = drawn_faults(args.faults, args.seed)
        while faults:
            number += 1
            log_dir = runs / f"disturbed-{number}"
            newest = 0
            while faults and newest < STEPS - 10:  # a run near its end may end before the moment comes
                fault = faults.pop(0)
                status, _ = disturb(fault, overrides_of(data, log_dir), log_dir)
                statuses[status] += 1
                newest = max(map(step_of, saved_checkpoints(log_dir / "checkpoints")), default=0)
                print(f"{fault}: status {status}, newest checkpoint of step {newest}", flush=True)
            finish(overrides_of(data, log_dir))
            different += differences(log_dir, runs / "undisturbed")
            print(f"run {number}: {different or 'equal to the undisturbed one'}", flush=True)
    counted = {"kills/faults": args.faults, "kills/runs": number}
    counted |= {f"status/{status}": count for status, count in sorted(statuses.items())}
    figures = [Figure(f"faults/{name}", value, "count", value, value) for name, value in counted.items()]
    wrong = len(different)
    figures.append(Figure("faults/kills/tensors_and_metrics_that_differ", wrong, "count", wrong, wrong, target=0))
    write_results("faults", f"cpu{os.cpu_count()}", f"python -m benchmarks.faults --faults {args.faults}", figures)
    if different:
        raise SystemExit(f"not equal: {different}")


if __name__ == "__main__":
    main()
