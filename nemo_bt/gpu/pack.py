"""Pack everything that the project needs at run time for a host that reaches no package registry.

It may bring its own Python, torch and more: --host. What comes out is a few files, and unpack.py beside them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from packaging.version import Version

from nemo_bt.errors import UserError
from nemo_bt.gpu import wheels
from nemo_bt.gpu.closure import Closure, Host, closure, host_versions, locked_versions, target_environment
from nemo_bt.gpu.fetch import Target, build_project, gathered_versions, install, requirements_of
from nemo_bt.gpu.parts import PartWriter, write_parts

_CHECKOUT = Path(__file__).parents[2]
_KEEP = ("torch", "numpy", "protobuf")
_MIB = 2**20


@dataclass(frozen=True)
class Options:
    """Of the command line."""

    output: Path
    host: Path | None
    keep: Sequence[str]
    without: Sequence[str]
    extra: Sequence[str]
    python: str
    cuda: int
    wheels: Path | None
    part_mib: int


def main(argv: Sequence[str] | None = None) -> int:
    """Command line.

    Returns:
        The exit status: 2 for what the user can mend.
    """
    try:
        pack(_options(argv))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _options(argv: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(prog="python -m nemo_bt.gpu.pack", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder for the parts; made, or empty")
    parser.add_argument(
        "--host",
        type=Path,
        help="the host's `pip list --format=freeze`: what is there in a version that suits is left to it, with all "
        "that came with it; without --host everything is packed, torch too",
    )
    parser.add_argument(
        "--keep",
        nargs="+",
        default=_KEEP,
        metavar="NAME",
        help="packages, also with *, of which the host's is used in any version: its other packages are compiled "
        f"against them (default: {' '.join(_KEEP)}; NVIDIA's libraries and triton come with torch)",
    )
    parser.add_argument(
        "--without",
        nargs="+",
        default=(),
        metavar="NAME",
        help="packages, also with *, to leave out with what only they need: wandb, say, or ray, which is large and "
        "which leptonai names",
    )
    parser.add_argument(
        "--extra", nargs="+", default=(), metavar="NAME", help="of the project's extras: bench, for benchmarks.gpu"
    )
    parser.add_argument("--python", default="3.12", help="of the host (%(default)s)")
    parser.add_argument("--cuda", type=int, choices=(12, 13), default=13, help="of the host's torch (%(default)s)")
    parser.add_argument(
        "--wheels", type=Path, help="a folder with Transformer Engine's extension; else what nemo_bt.gpu.install kept"
    )
    parser.add_argument("--part-mib", type=int, default=60, help="largest size of a part, in MiB (%(default)s)")
    return Options(**vars(parser.parse_args(argv)))


def pack(options: Options) -> None:
    """Gather, install into one folder, cut into parts; the output folder gets its name when it is whole.

    Raises:
        UserError: an option, the lock file, the registry or a missing wheel does not allow it.
    """
    if options.part_mib < 1:
        raise UserError(f"--part-mib: expected 1 or more, got {options.part_mib}.")
    if options.output.exists() and any(options.output.iterdir()):
        raise UserError(f"--output: expected a folder that is empty or not there, got {options.output}. Delete it.")
    environment = target_environment(options.python)
    versions = _locked(environment)
    host = _host(options)
    torch = Version(host.versions.get("torch", versions["torch"])).public
    extension = _extension(options, torch)
    scratch = options.output.with_name(f"{options.output.name}.partial")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        gathered, tree, result = scratch / "wheels", scratch / "tree", scratch / "pack"
        for folder in (gathered, tree, result):
            folder.mkdir(parents=True)
        target = Target(options.python, versions, gathered)
        build_project(_CHECKOUT, gathered)
        shutil.copy(extension, gathered)
        found = closure(_roots(options.cuda, options.extra), partial(requirements_of, target), host, environment)
        _check_torch(found, options.cuda, host)
        _show(found)
        packed = [*found.packed, wheels.extension().name]
        install(target, packed, tree)
        writer = write_parts(tree, result, options.part_mib * _MIB)
        _describe(result, options, found, gathered_versions(target, packed), writer)
        shutil.copy(Path(__file__).with_name("unpack.py"), result)
        if options.output.exists():
            options.output.rmdir()
        result.rename(options.output)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    size = sum(part.size for part in writer.parts)
    print(f"{len(writer.parts)} parts, {size / _MIB:.1f} MiB: on the host, python3 {options.output}/unpack.py --to DIR")


def _host(options: Options) -> Host:
    if options.host is None:
        return Host({}, options.keep, options.without)
    if not options.host.is_file():
        raise UserError(f"--host: expected a file, got {options.host}. On the host: pip list --format=freeze > FILE.")
    versions = host_versions(options.host.read_text(), str(options.host))
    return Host(versions, options.keep, options.without)


def _locked(environment: dict[str, str]) -> dict[str, str]:
    """Versions of all that may be packed."""
    lock = _CHECKOUT / ".requirements.lock"
    if not lock.is_file():
        raise UserError(
            f"expected the project's checkout, with .requirements.lock, found {_CHECKOUT}. Run it from there."
        )
    pins = dict(pin.split("==") for pin in wheels.NEEDED)
    names = ("transformer-engine", "transformer-engine-cu12", "transformer-engine-cu13", wheels.extension().name)
    pins |= dict.fromkeys(names, wheels.TRANSFORMER_ENGINE)
    return locked_versions(lock.read_text(), environment) | pins


def _roots(cuda: int, extras: Sequence[str]) -> list[str]:
    """What is needed: the project, and Transformer Engine with what its extension imports."""
    engine = [f"{name}=={wheels.TRANSFORMER_ENGINE}" for name in ("transformer-engine", f"transformer-engine-cu{cuda}")]
    return [f"nemo-bt[{','.join(['gpu', *extras])}]", *engine, "einops", "onnx", *wheels.NEEDED]


def _extension(options: Options, torch: str) -> Path:
    """The wheel of Transformer Engine's extension for the host's torch."""
    source = wheels.extension()
    name = wheels.key(source, torch, options.cuda, options.python, arch="")
    folder = options.wheels or wheels.default_folder() / name
    tag = f"cp{options.python.replace('.', '')}"
    found = [path for path in folder.glob(f"{source.file_prefix}*.whl") if f"-{tag}-" in path.name]
    if not found:
        raise UserError(
            f"expected a wheel of {source.name} {source.version} for torch {torch}, CUDA {options.cuda} and Python "
            f"{options.python} in {folder}. Run python -m nemo_bt.gpu.install in an environment that has these, or "
            "name the folder that has the wheel with --wheels."
        )
    return found[0]


def _check_torch(found: Closure, cuda: int, host: Host) -> None:
    """The torch that will be used is the one that the extension was chosen for."""
    if "torch" in found.left:
        return
    if "torch" in host.versions:
        raise UserError(
            f"the host's torch {host.versions['torch']} is too old for the project, and not among --keep: update it."
        )
    if f"nvidia-cudnn-cu{cuda}" not in found.packed:
        raise UserError(f"expected the locked torch to be built for CUDA {cuda}, which it is not: change --cuda.")


def _show(found: Closure) -> None:
    print(f"{len(found.packed) + 1} packages are packed, {len(found.left)} are left to the host.")
    if found.not_satisfied:
        print("Of these, not in a version that was asked for:")
        for line in found.not_satisfied:
            print(f"  {line}")


def _describe(folder: Path, options: Options, found: Closure, packed: dict[str, str], writer: PartWriter) -> None:
    description = {
        "python": options.python,
        "cuda": options.cuda,
        "sha256": writer.whole.hexdigest(),
        "parts": [asdict(part) for part in writer.parts],
        "packages": packed,
        "left_to_host": dict(found.left),
        "not_satisfied": list(found.not_satisfied),
        "left_out": list(options.without),
    }
    (folder / "parts.json").write_text(json.dumps(description, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
