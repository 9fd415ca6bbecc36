"""Hand malformed inputs to what users run, each in a process of its own, and count how that ends.

python -m benchmarks.malformed [--kind data_files] [--only TEXT] [--every N]

An input is read rightly, refused in one message, ends in a traceback, has no end (20 s of a core, or five minutes), or
takes the process with it (a signal, or more than 3 GiB). It takes about ten minutes on a core.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.malformed import checkpoints, configs, data_files, vocabularies
from benchmarks.malformed.cases import Case, Inputs
from benchmarks.results_file import Figure, write_results
from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from nemo_bt.pretrained.nemo_file import pack
from tests.support.forked import Ended, Job, command, fork
from tests.support.hf_models import save
from tests.support.preferences import write_sets
from tests.support.runs import nemo_bt

KINDS = {"data_files": data_files, "configs": configs, "checkpoints": checkpoints, "tokenizers": vocabularies}
ENDS = ("read", "refused", "traceback", "endless", "killed")
_EXTRA_BYTES = 3 << 30


def whole_inputs(folder: Path, nemo: Path | None) -> Inputs:
    """Write the inputs that cases are made of; `nemo` is a .nemo directory that there is already."""
    write_sets(folder)
    tokenizer = load_tokenizer(str(folder / "tokenizer"), None)
    models = {}
    for family in configs.FAMILIES:
        models[family] = save(family, folder / family.split(",")[0], classifier=False, tokenizer=tokenizer)
    if nemo is None:
        nemo = folder / "model.nemo"
        result = nemo_bt("import", "--input", str(models["qwen3"]), "--output", str(nemo))
        assert result.returncode == 0, result.stderr
    pack(nemo, folder / "packed.nemo")
    return Inputs(folder, folder / "random.parquet", folder / "tokenizer", models, nemo, folder / "packed.nemo")


def argv_of(kind: str, path: Path, inputs: Inputs) -> list[str]:
    """Give the command that reads an input of a kind."""
    if kind == "data_files":
        return ["data", "stats", f"model.tokenizer.type={inputs.tokenizer}", f"model.data.train={path}"]
    if kind == "tokenizers":
        return ["data", "stats", f"model.tokenizer.type={path}", f"model.data.train={inputs.data}"]
    options = [f"model.data.train={inputs.data}", "trainer.accelerator=cpu", "model.encoder_seq_length=256"]
    options.append(f"exp_manager.explicit_log_dir={path.parent / 'run'}")
    return ["train", "--dry-run", f"model.restore_from_path={path}", *options]


def read_model(job: Job) -> int:
    """Open a model as `score`, `export` and `train` do, and read every tensor."""
    from nemo_bt.errors import UserError
    from nemo_bt.pretrained.resolve import find_pretrained, open_weights

    try:
        source = open_weights(find_pretrained(job.argv[0]), 1).source
        for name in source.infos:
            source.read(name)
    except UserError as error:
        os.write(2, f"error: {error}\n".encode())
        return 2
    return 0


def tried(kind: str, cases: list[Case], inputs: Inputs) -> Iterator[tuple[Case, Ended]]:
    """Run cases, each with an empty folder and a cache of its own."""
    work: Callable[[Job], int] = read_model if kind == "checkpoints" else command
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="nemo_bt-case-", dir=inputs.folder) as folder:
            (Path(folder) / "input").mkdir()
            path = case.write(Path(folder) / "input")
            argv = [str(path)] if kind == "checkpoints" else argv_of(kind, path, inputs)
            env = {"NEMO_BT_CACHE": f"{folder}/cache"}
            ended = fork(Job(case.name, argv, 300, _EXTRA_BYTES, env, cpu_s=20), work)
        yield case, ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=KINDS, action="append")
    parser.add_argument("--only", default="", help="cases with this text in their names")
    parser.add_argument("--every", type=int, default=1, help="of all, one in so many")
    parser.add_argument("--nemo", type=Path, help="a .nemo directory to damage copies of; without it one is made")
    parser.add_argument("--show", action="store_true", help="print what refused ones say, too")
    args = parser.parse_args()
    import_what_commands_need()
    kinds = args.kind or [*KINDS]
    with tempfile.TemporaryDirectory(prefix="nemo_bt-malformed-") as folder:
        inputs = whole_inputs(Path(folder), args.nemo)
        with ProcessPoolExecutor(os.cpu_count(), get_context("fork")) as side_by_side:
            counted = side_by_side.map(partial(run_kind, inputs, args.only, args.every, args.show), kinds)
            counts = dict(zip(kinds, counted, strict=True))
    if not args.kind and not args.only and args.every == 1:
        write_results("malformed", f"cpu{os.cpu_count()}", "python -m benchmarks.malformed", figures_of(counts))
    if any(counts[kind][end] for kind in counts for end in ENDS[2:]):
        raise SystemExit("not every input is read or refused")


def run_kind(inputs: Inputs, only: str, every: int, shows: bool, kind: str) -> Counter[str]:
    """Run the cases of a kind that are wanted, and count how they end."""
    whole, *malformed = KINDS[kind].cases(inputs)
    cases = [whole, *[case for case in malformed if only in case.name][::every]]
    counts: Counter[str] = Counter()
    for case, ended in tried(kind, cases, inputs):
        if case is whole:
            assert ended.kind == "read", ended
            continue
        counts[ended.kind] += 1
        if shows or ended.kind not in ENDS[:2]:
            told = (ended.stderr.strip() or ended.stdout.strip()).splitlines()[-1:]
            print(f"{kind}: {case.name}: {ended.kind}, {ended.seconds:.1f} s: {told}", flush=True)
    print(f"{kind}: {len(cases) - 1} inputs, {dict(counts)}", flush=True)
    return counts


def figures_of(counts: dict[str, Counter[str]]) -> list[Figure]:
    figures = []
    for kind, ends in counts.items():
        for end, count in {"inputs": ends.total(), **{end: ends[end] for end in ENDS}}.items():
            target = 0 if end in ENDS[2:] else None
            figures.append(Figure(f"malformed/{kind}/{end}", count, "count", count, count, target=target))
    return figures


def import_what_commands_need() -> None:
    """Import what forks would have to import each."""
    import transformers  # noqa: F401

    import nemo_bt.data.inspect
    import nemo_bt.planning.dry_run
    import nemo_bt.pretrained.resolve
    import nemo_bt.training.checks  # noqa: F401


if __name__ == "__main__":
    main()
