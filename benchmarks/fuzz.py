"""Read changed files for an hour: nothing of them may run, and each is read or refused in one message.

python -m benchmarks.fuzz [--minutes 60] [--first 1000000]

Checkpoints, tars, safetensors, configurations and tokenizers are changed by bytes and by the parts of their formats.
They are read under an audit hook that forbids processes, sockets, files elsewhere, new imports and names that pickle
looks up. The end tells the numbers of inputs that were neither read nor refused, and what happened. It uses one core.
"""

import argparse
import os
import tempfile
from pathlib import Path

from benchmarks.results_file import Figure, write_results
from tests.support.fuzz import SOURCES, campaign, lay_clean
from tests.support.preferences import write_sets


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--first", type=int, default=1_000_000, help="number of the first input; it is the seed")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nemo_bt-fuzz-") as name:
        folder = Path(name)
        write_sets(folder)
        clean = lay_clean(folder / "clean", folder / "tokenizer")
        found = campaign(clean, folder, list(SOURCES), args.minutes * 60, args.first)
    counted = {"inputs": found.inputs} | dict(sorted(found.counts.items()))
    figures = [Figure(f"fuzz/{what}", count, "count", count, count) for what, count in counted.items()]
    figures.append(Figure("fuzz/longest_input", found.longest_s, "s", found.longest_s, found.longest_s))
    figures.append(Figure("fuzz/peak_memory", found.peak_bytes, "bytes", found.peak_bytes, found.peak_bytes))
    forbidden = len(found.forbidden)
    others = len(found.findings) - forbidden
    figures.append(Figure("fuzz/forbidden_events", forbidden, "count", forbidden, forbidden, target=0))
    figures.append(Figure("fuzz/neither_read_nor_refused", others, "count", others, others, target=0))
    command = f"python -m benchmarks.fuzz --minutes {args.minutes:g} --first {args.first}"
    write_results("fuzz", f"cpu{os.cpu_count()}", command, figures)
    for number, text in sorted(found.findings.items())[:20]:
        print(f"input {number}: {text[-600:]}")
    if found.findings:
        raise SystemExit(f"inputs {sorted(found.findings)[:100]}")


if __name__ == "__main__":
    main()
