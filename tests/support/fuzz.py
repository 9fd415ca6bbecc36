"""Readers of what someone else made, given thousands of changed files: they read one, or refuse it in one message.

python -m tests.support.fuzz spec.json    a worker, which reads inputs by number until its time is over

Input n is a file of the kind n modulo their number, changed as `random.Random(n)` draws it.
"""

import json
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import FileSystemReader

from nemo_bt.data.tokenize.tokenizer import digest_of_tokenizer, load_tokenizer
from nemo_bt.errors import UserError
from nemo_bt.pretrained.check import expected_tensors
from nemo_bt.pretrained.nemo_file import pack
from nemo_bt.pretrained.plain_checkpoint import check_plain
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support import mutations
from tests.support.converted import to_nemo
from tests.support.guard import Guard
from tests.support.hf_models import save

LIMIT_S = 10
"""Longest time for one input."""
LIMIT_BYTES = 3 * 2**30
"""Memory beyond what the worker takes at its start."""
MOST_BYTES = 2**30
"""Memory that an input may take beyond it; more is a finding of the campaign."""
SOURCES: dict[str, tuple[str, Callable[[bytes, random.Random], bytes]]] = {
    "metadata": ("x.nemo/weights/.metadata", mutations.of_pickle),
    "common": ("x.nemo/weights/common.pt", mutations.of_zip),
    "weights": ("x.nemo/weights/__0_0.distcp", mutations.of_bytes),
    "tar": ("x.tar", mutations.of_tar),
    "safetensors": ("hf/model-00001-of-00004.safetensors", mutations.of_safetensors),
    "config": ("hf/config.json", mutations.of_json),
    "tokenizer": ("tokenizer/tokenizer.json", mutations.of_json),
    "tokenizer_config": ("tokenizer/tokenizer_config.json", mutations.of_json),
}
"""Kind -> file that is changed, and how by its format. What is read is the first folder of its path."""


@dataclass
class Campaign:
    """What became of inputs.

    Args:
        counts: `kind/read` and `kind/refused` -> inputs.
        findings: number of an input that was neither -> what happened.
        longest_s: of one input.
        peak_bytes: of a worker's memory, above what it has at its start.
    """

    counts: Counter[str] = field(default_factory=Counter)
    findings: dict[int, str] = field(default_factory=dict)
    longest_s: float = 0.0
    peak_bytes: int = 0

    @property
    def inputs(self) -> int:
        """Inputs that were tried."""
        return self.counts.total() + len(self.findings)

    @property
    def forbidden(self) -> list[str]:
        """What the guard stopped."""
        return [text for text in self.findings.values() if text.startswith(_FORBIDDEN)]


_FORBIDDEN = "forbidden: "
_INPUTS_OF_A_WORKER = 5000


def campaign(
    clean: Path, folder: Path, kinds: list[str], seconds: float, first: int = 0, last: int = 2**62
) -> Campaign:
    """Try inputs from number `first` on, in one worker after another, until the time is over.

    Args:
        clean: folder with the files of `SOURCES`, unchanged.
        folder: where workers may write.
        kinds: of `SOURCES`, or "pickle": metadata, read by pickle itself.
        last: number behind the last input.
    """
    found = Campaign()
    deadline_s = time.monotonic() + seconds
    number = first
    while number < last and (left_s := deadline_s - time.monotonic()) > 0:
        spec = folder / "spec.json"
        behind = min(last, number + _INPUTS_OF_A_WORKER)
        spec.write_text(json.dumps([str(clean), str(folder), kinds, left_s, number, behind]))
        command = [sys.executable, "-B", "-W", "ignore", "-m", "tests.support.fuzz", str(spec)]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=left_s + 120)
        lines = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
        if not lines:
            raise RuntimeError(f"no worker: {ended.stderr[-2000:]}")
        for line in lines:
            _add(found, line, kinds)
        number = lines[-1]["number"] + 1
        if "outcome" not in lines[-1]:
            found.findings[number - 1] = f"the process ended with status {ended.returncode}: {ended.stderr[-500:]}"
    return found


def _add(found: Campaign, line: dict[str, Any], kinds: list[str]) -> None:
    if line.get("outcome") in ("read", "refused"):
        found.counts[f"{kinds[line['number'] % len(kinds)]}/{line['outcome']}"] += 1
    elif "outcome" in line:
        found.findings[line["number"]] = line["outcome"]
    found.longest_s = max(found.longest_s, line.get("seconds", 0.0))
    found.peak_bytes = max(found.peak_bytes, line.get("peak_bytes", 0))


def lay_clean(folder: Path, tokenizer: Path) -> Path:
    """Write the files of `SOURCES`, unchanged."""
    folder.mkdir()
    pretrained = find_pretrained(str(save("qwen2", folder / "hf")))
    pack(to_nemo(pretrained, open_weights(pretrained, 0), folder / "x.nemo"), folder / "x.tar")
    shutil.copytree(tokenizer, folder / "tokenizer")
    return folder


def input_of(number: int, kinds: list[str], clean: Path) -> tuple[str, str, bytes]:
    """Give the kind of an input, the file that it changes, and its bytes."""
    kind = kinds[number % len(kinds)]
    file, change = SOURCES["metadata" if kind == "pickle" else kind]
    return kind, file, mutations.mutated((clean / file).read_bytes(), change, random.Random(number))


def read(kind: str, path: Path) -> None:
    """Read what nemo_bt would read of it."""
    if kind == "pickle":
        FileSystemReader(path / "weights").read_metadata()
        return
    if kind.startswith("tokenizer"):
        digest_of_tokenizer(load_tokenizer(str(path), "auto"))
        return
    if kind in ("metadata", "common", "weights"):
        check_plain(path)
    pretrained = find_pretrained(str(path))
    expected_tensors(pretrained.architecture)
    source = open_weights(pretrained, 0).source
    for name in source.infos:
        source.read(name)


def main() -> None:
    clean, folder, kinds, seconds, first, last = json.loads(Path(sys.argv[1]).read_text())
    place = Path(folder) / "inputs"
    place.mkdir(exist_ok=True)
    tempfile.tempdir = str(place)
    with (Path(folder) / "results.jsonl").open("w", buffering=1) as results:
        for kind in {*kinds} - {"pickle"}:
            read(kind, Path(clean) / SOURCES[kind][0].partition("/")[0])  # what that imports is known from now on
        guard = Guard(place, names_of(Path(clean) / SOURCES["metadata"][0]) if kinds == ["pickle"] else frozenset())
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + LIMIT_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signal.signal(signal.SIGALRM, _too_long)
        own_bytes, end_s = _peak_bytes(), time.monotonic() + seconds
        for number in range(first, last):
            if time.monotonic() > end_s:
                break
            print(json.dumps({"number": number}), file=results)
            kind, file, data = input_of(number, kinds, Path(clean))
            path = _lay(file, data, Path(clean), place)
            start_s = time.monotonic()
            outcome = outcome_of(kind, path, guard)
            facts = {"seconds": time.monotonic() - start_s, "peak_bytes": _peak_bytes() - own_bytes}
            if facts["seconds"] > LIMIT_S:  # what reads it may have taken the alarm for an error of the file
                outcome = f"not done after {LIMIT_S} s"
            print(json.dumps({"number": number, "outcome": outcome, **facts}), file=results)


def names_of(metadata: Path) -> frozenset[str]:
    """Names that pickle looks up in a clean file."""
    names = set()

    class Noting(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            names.add(f"{module}.{name}")
            return super().find_class(module, name)

    Noting(metadata.open("rb")).load()
    return frozenset(names)


def _lay(file: str, data: bytes, clean: Path, place: Path) -> Path:
    """Put a changed file into a copy of the folder where it lies, and give what is read."""
    top = file.partition("/")[0]
    for old in place.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    if (clean / top).is_dir():
        shutil.copytree(clean / top, place / top)
    (place / file).write_bytes(data)
    return place / top


def outcome_of(kind: str, path: Path, guard: Guard) -> str:
    """Read one input: "read", "refused", or what happened in place of both."""
    outcome = "read"
    signal.alarm(LIMIT_S)
    try:
        with guard.armed():
            read(kind, path)
    except UserError:
        outcome = "refused"
    except BaseException:  # noqa: BLE001  a panic of a library in Rust is no Exception
        outcome = traceback.format_exc()[-5000:]
    finally:
        signal.alarm(0)
    return f"{_FORBIDDEN}{guard.seen[0]}" if guard.seen else outcome


class TooLong(BaseException):
    """No OSError, as TimeoutError is, which readers refuse a file for."""


def _too_long(*_: Any) -> None:
    raise TooLong(f"not done after {LIMIT_S} s")


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
