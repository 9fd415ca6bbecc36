"""What an import brings along, in a process of its own."""

import subprocess
import sys

from tests.support.tree import MODULES

MAY_IMPORT_NEMO = [
    "model", "training.callbacks", "training.steps.data_module", "training.trainer", "training.lr_schedule",
    "training.strategy", "training.plain_loading", "scoring.engine", "phantom.megatron", "phantom.watch",
    "phantom.numbers.seen",
]  # fmt: skip
"""All others can be imported where NeMo, Megatron and Lightning are not."""
OF_TRANSFORMERS = ["pretrained.two_layer_classifier"]
"""A class of transformers, which exports take along."""


def is_below(module: str, folders: list[str]) -> bool:
    return any(module == folder or module.startswith(f"{folder}.") for folder in folders)


def test_pure_modules_import_neither_nemo_nor_megatron() -> None:
    pure = [name for name in MODULES if not is_below(name, MAY_IMPORT_NEMO + OF_TRANSFORMERS) and name != "__init__"]
    code = (
        "import sys\n"
        "for blocked in ('nemo', 'megatron', 'lightning'): sys.modules[blocked] = None\n"
        + "".join(f"import nemo_bt.{name}\n" for name in pure)
        + "assert 'transformers' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_importing_cpu_changes_nothing() -> None:
    code = (
        "import torch\nbefore = dict(vars(torch)), dict(vars(torch.cuda)), dict(vars(torch.Tensor))\n"
        "import nemo_bt.cpu.device\nafter = dict(vars(torch)), dict(vars(torch.cuda)), dict(vars(torch.Tensor))\n"
        "assert all(old[k] is new[k] for old, new in zip(before, after) for k in old)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr


def test_a_start_on_a_cpu_compiles_nothing() -> None:
    code = (
        "import torch.utils.cpp_extension as extension\n"
        "extension.load_inline = lambda *_, **__: exit('compiled')\n"
        "from nemo_bt.cpu.device import install\ninstall()\nimport megatron.core.inference.unified_memory\n"
        "assert extension.load_inline.__name__ == '<lambda>'"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
