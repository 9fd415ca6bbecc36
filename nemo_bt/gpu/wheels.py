"""Wheels of packages that exist only as source, built for one torch, CUDA and Python, and kept."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nemo_bt.errors import UserError

TRANSFORMER_ENGINE = "2.9.0"
"""megatron-core 0.15 takes 2.9 alone."""
FLASH_ATTENTION = "2.8.1"
"""The newest that Transformer Engine 2.9.0 uses: FlashAttentionUtils.max_version."""
NEEDED = ("onnxscript==0.7.2", "onnx-ir==1.1.0")
"""Which `import transformer_engine.pytorch` needs beyond the project's own dependencies; also the extra `gpu`."""
BUILDING = ("ninja==1.13.2", "setuptools==84.2.1", "wheel==0.48.0")
"""What builds the sources; taken as it is where it is installed."""
_SHOWN_LINES = 5


@dataclass(frozen=True)
class Source:
    """A package that is built here."""

    name: str
    version: str
    has_gpu_code: bool
    """Transformer Engine's extension has none: its kernels are in transformer-engine-cu*, which is a wheel."""
    environment: Mapping[str, str]
    """Variables that its setup.py reads."""

    @property
    def file_prefix(self) -> str:
        """How the names of its wheels begin."""
        return f"{self.name.replace('-', '_')}-{self.version}-"


def extension() -> Source:
    """Transformer Engine's extension of torch.

    Its setup.py first asks a URL for a wheel, one for CUDA 12 whatever torch's is. NVTE_PYTORCH_FORCE_BUILD does not
    keep it from that; a proxy that nobody listens at does.
    """
    jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
    variables = {"https_proxy": "http://127.0.0.1:9", "no_proxy": "", "MAX_JOBS": jobs}
    return Source("transformer-engine-torch", TRANSFORMER_ENGINE, has_gpu_code=False, environment=variables)


def flash_attention(arch: str) -> Source:
    """flash-attention, for compute capabilities like "9.0" or "8.0;9.0". Its code for 8.0 is that for all 8.x.

    How many compilers run at once follows from free memory there, 9 GB each, unless MAX_JOBS is set.
    """
    majors = dict.fromkeys(one.split(".")[0] for one in arch.split(";"))
    variables = {"FLASH_ATTENTION_FORCE_BUILD": "TRUE", "FLASH_ATTN_CUDA_ARCHS": ";".join(f"{m}0" for m in majors)}
    return Source("flash-attn", FLASH_ATTENTION, has_gpu_code=True, environment=variables)


def default_folder() -> Path:
    """Where built wheels are kept: $NEMO_BT_CACHE/wheels, else ~/.cache/nemo_bt/wheels."""
    return Path(os.environ.get("NEMO_BT_CACHE") or "~/.cache/nemo_bt").expanduser() / "wheels"


def key(source: Source, torch: str, cuda: int, python: str, arch: str) -> str:
    """Everything that the wheel's code depends on.

    Args:
        source: of the wheel.
        torch: its version, without a local part.
        cuda: major version.
        python: like 3.12.
        arch: compute capabilities; part of the key where there is GPU code.

    Returns:
        Like transformer_engine_torch-2.9.0-torch2.13.0-cu13-cp312-x86_64: the name of a folder.
    """
    parts = [f"torch{torch}", f"cu{cuda}", f"cp{python.replace('.', '')}", platform.machine()]
    if source.has_gpu_code:
        parts.append("sm" + arch.replace(";", "_"))
    return source.file_prefix + "-".join(parts)


def kept_wheel(source: Source, folder: Path) -> Path | None:
    """The wheel in a folder, which is whole if it has its name."""
    return next(iter(sorted(folder.glob(f"{source.file_prefix}*.whl"))), None)


def build(source: Source, folder: Path, environment: Mapping[str, str]) -> Path:
    """Build a wheel against the torch of the environment that runs this, and give it its name when it is whole.

    pip keeps wheels that it built by the name of the source, whatever torch they are for: its cache is not asked.

    Args:
        source: from the registry.
        folder: to put it in, made where it is missing.
        environment: from `nemo_bt.gpu.toolchain.build_environment`.

    Returns:
        The wheel. The compiler's output is in build.log beside it.

    Raises:
        UserError: the source cannot be had or built.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "build.log"
    log.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
        options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", f"--no-binary={source.name}"]
        pip(["download", *options, "--dest", scratch, f"{source.name}=={source.version}"], environment, log)
        (sdist,) = Path(scratch).iterdir()
        made = Path(scratch) / "made"
        pip(["wheel", "-v", *options, "--wheel-dir", str(made), str(sdist)], {**environment, **source.environment}, log)
        (wheel,) = made.iterdir()
        os.replace(wheel, folder / wheel.name)
    return folder / wheel.name


def pip(arguments: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> None:
    """Run the pip of the environment that runs this.

    Args:
        arguments: its command and options.
        environment: variables.
        log: file that its output is added to; None to show the end of it when pip fails.

    Raises:
        UserError: pip failed; with what it says of the reason.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    with log.open("a+") if log else tempfile.TemporaryFile("w+") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        status = subprocess.run(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT).returncode
        output.seek(0)
        lines = output.read().splitlines()
    if status:
        where = f" All of it is in {log}." if log else ""
        raise UserError(
            f"pip {arguments[0]} ... {arguments[-1]} failed with status {status}.{where}\n  {_reason(lines)}"
        )


def _reason(lines: Sequence[str]) -> str:
    """The first errors of compilers and pip, which stand far above its end; the end where none calls itself one."""
    errors = [line.strip() for line in lines if "error:" in line.lower()]
    return "\n  ".join(errors[:_SHOWN_LINES] or lines[-_SHOWN_LINES:])
