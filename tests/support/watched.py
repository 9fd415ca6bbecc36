"""Run nemo-bt, and write which names pickle looked up while a checkpoint was loaded.

python -m tests.support.watched file.txt train ...

What ranks tell each other is left out.
"""

import os
import sys
from types import FrameType


def main() -> None:
    file = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT)  # the command ends its process without cleaning up

    def note(event: str, args: tuple[object, ...]) -> None:
        if event == "pickle.find_class" and is_loading():
            os.write(file, f"{args[0]}.{args[1]}\n".encode())

    sys.addaudithook(note)
    from nemo_bt.cli.main import main as nemo_bt

    nemo_bt()


def is_loading() -> bool:
    frame: FrameType | None = sys._getframe()
    functions = set()
    while frame:
        functions.add((frame.f_code.co_filename.rpartition("/")[2], frame.f_code.co_name))
        frame = frame.f_back
    is_message = ("distributed_c10d.py", "_tensor_to_object") in functions
    return ("strategy.py", "load_checkpoint") in functions and not is_message


if __name__ == "__main__":
    main()
