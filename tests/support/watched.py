"""Run nemo-bt, and say at the end which names pickle looked up while a checkpoint was loaded.

python -m tests.support.watched train ...

What ranks tell each other is left out.
"""

import sys
from types import FrameType
from typing import Any

MARK = "looked up while loading: "


def main() -> None:
    looked_up: set[str] = set()
    sys.addaudithook(lambda event, args: note(looked_up, args) if event == "pickle.find_class" else None)
    from nemo_bt.cli.main import main as nemo_bt

    try:
        nemo_bt()
    finally:
        print(MARK + " ".join(sorted(looked_up)), flush=True)


def note(looked_up: set[str], args: tuple[Any, ...]) -> None:
    frame: FrameType | None = sys._getframe()
    functions = set()
    while frame:
        functions.add((frame.f_code.co_filename.rpartition("/")[2], frame.f_code.co_name))
        frame = frame.f_back
    if ("strategy.py", "load_checkpoint") in functions and (
        "distributed_c10d.py",
        "_tensor_to_object",
    ) not in functions:
        looked_up.add(f"{args[0]}.{args[1]}")


if __name__ == "__main__":
    main()
