"""Packs for hosts that reach no registry: what the real pip says is missing there, and how it gets there."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.gpu_host import pack
from nemo_bt.errors import UserError
from nemo_bt.gpu_setup import key

PACKAGES = {
    "app-1.0": ["torch>=2.6", "frame[fast]>=2", "old<2; python_version < '3.9'", "tracker; extra == 'track'"],
    "torch-2.13.0": ["nvidia-cublas==13.9"],
    "nvidia_cublas-13.9": [],
    "frame-2.0": ["numpy<2", "ground", "speed>=1; extra == 'fast'", "tests-only; extra == 'test'"],
    "frame-3.0": ["numpy<2", "gone"],
    "speed-1.0": ["numpy", "Loader_Kit~=1.4"],
    "loader_kit-1.4": ["numpy>=1.20"],
    "loader_kit-1.9": ["numpy>=1.20"],
    "numpy-1.26.4": [],
    "ground-1.0": [],
    "tracker-1.0": ["app", "frame"],
}
LOCKED = {"torch": "2.13.0", "frame": "2.0", "loader-kit": "1.4", "numpy": "1.26.4"}
EVERYTHING = {"app", "frame", "ground", "loader-kit", "numpy", "nvidia-cublas", "speed", "torch"}


def make_wheel(folder: Path, name: str, requires: Sequence[str] = ()) -> None:
    info = f"{name}.dist-info"
    module, _, version = name.partition("-")
    metadata = f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n"
    extras = {line.rpartition("extra == ")[2].strip("'") for line in requires if "extra ==" in line}
    metadata += "".join(f"Provides-Extra: {extra}\n" for extra in sorted(extras))
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as file:
        file.writestr(f"{module}/__init__.py", "def main() -> None:\n    print('ran')\n")
        file.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {line}\n" for line in requires))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/entry_points.txt", f"[console_scripts]\nrun-{module} = {module}:main\n")
        file.writestr(f"{info}/RECORD", "")


@pytest.fixture(autouse=True)
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PACKAGES, and nothing else."""
    folder = tmp_path / "registry"
    folder.mkdir()
    for name, requires in PACKAGES.items():
        make_wheel(folder, name, requires)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def missing(
    host: Mapping[str, str], roots: Sequence[str] = ("app",), kept: Sequence[str] = (), without: Sequence[str] = ()
) -> dict[str, str]:
    extras = {"provides_extra": ["fast"], "requires_dist": ["gone", *PACKAGES["frame-2.0"]]}
    packages = {name: {"version": version, **(extras if name == "frame" else {})} for name, version in host.items()}
    return pack.missing(roots, packages, LOCKED, kept, without, sys.executable)


def test_requirements_are_followed_as_locked_with_markers_and_the_extras_that_are_asked_for() -> None:
    found = missing({}, ["app[track]"])
    assert found.keys() == {*EVERYTHING, "tracker"}
    assert {name: found[name] for name in LOCKED} == LOCKED


def test_what_the_host_has_in_a_version_that_suits_is_left_to_it_with_what_came_with_it() -> None:
    host = {"torch": "2.11.0", "loader-kit": "1.9", "numpy": "1.26.0", "nvidia-cublas": "13.1"}
    assert missing(host).keys() == {"app", "frame", "ground", "speed"}


def test_of_a_package_that_is_left_extras_are_followed() -> None:
    assert missing({"frame": "2.1", "torch": "2.11.0"}).keys() == {"app", "loader-kit", "numpy", "speed"}


def test_what_does_not_suit_is_packed_as_locked_and_followed_unless_it_is_kept() -> None:
    host = {"frame": "1.9", "loader-kit": "2.0", "numpy": "2.5.2", "torch": "2.5.0", "nvidia-cublas": "13.9"}
    found = missing(host)
    assert found.keys() == EVERYTHING - {"nvidia-cublas"}
    assert found["frame"] == "2.0"  # not 3.0, which the registry has too
    assert found["loader-kit"] == "1.4"
    assert missing(host, kept=("numpy", "torch")).keys() == {"app", "frame", "ground", "loader-kit", "speed"}


def test_what_a_host_does_without_is_not_followed() -> None:
    assert missing({}, without=("torch", "Loader_Kit")).keys() == EVERYTHING - {"torch", "nvidia-cublas", "loader-kit"}
    with pytest.raises(UserError, match=r"--without: expected names in \.requirements\.lock, got speedy\."):
        missing({}, without=("numpy", "speedy"))


def test_what_cannot_be_had_is_said(registry: Path) -> None:
    (registry / "ground-1.0-py3-none-any.whl").unlink()
    with pytest.raises(UserError, match=r"(?s)pip install .* failed with status 1.*ground"):
        missing({})


def test_lock_and_host_are_read(tmp_path: Path) -> None:
    lock = "# uv\nnumpy==1.26.4 ; python_version < '3.13'\nTomli==2.5 ; python_full_version < '3.11'\nA_b==1.0.post1\n"
    assert pack.locked_versions(lock, "3.12.1") == {"numpy": "1.26.4", "a-b": "1.0.post1"}
    host = tmp_path / "host.json"
    said = {
        "environment": {"python_version": "3.12"},
        "installed": [{"metadata": {"name": "PyYAML", "version": "6.0"}}],
    }
    host.write_text(json.dumps(said))
    assert pack.host_packages(host, "3.12.1") == {"pyyaml": {"name": "PyYAML", "version": "6.0"}}
    with pytest.raises(UserError, match=r"expected --python of the host's version 3\.12, got 3\.11\.2"):
        pack.host_packages(host, "3.11.2")
    for text in ("torch==2.11.0\n", "{}", "[]"):
        host.write_text(text)
        with pytest.raises(UserError, match=r"--host: expected a file of the host's `python3 -m pip inspect`, got"):
            pack.host_packages(host, "3.12.1")


def test_packages_are_installed_into_a_tree_that_any_python_runs(registry: Path, tmp_path: Path) -> None:
    tree = tmp_path / ("a folder whose name is so long that pip writes no plain first line into a script" * 2)
    code = "from setuptools import setup\nsetup(name='plain', version='1.0', py_modules=[])\n"
    with tarfile.open(registry / "plain-1.0.tar.gz", "w:gz") as tar:  # a source, as antlr4-python3-runtime is
        for name, text in {"setup.py": code, "PKG-INFO": "Metadata-Version: 2.1\nName: plain\nVersion: 1.0\n"}.items():
            entry = tarfile.TarInfo(f"plain-1.0/{name}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_BUILD_ISOLATION", "0")
        pack.install(["app==1.0", "plain==1.0"], tree, sys.executable)
    assert not list(tree.rglob("*.pyc"))
    assert (tree / "plain-1.0.dist-info").is_dir()
    assert (tree / "bin" / "run-app").read_text().startswith("#!/usr/bin/env python3\n")
    environment = {"PYTHONPATH": str(tree), "PATH": f"{tree}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert subprocess.run(["run-app"], env=environment, capture_output=True, text=True).stdout == "ran\n"


PROJECT = """
from pathlib import Path


def prepare_metadata_for_build_wheel(folder, settings=None):
    info = Path(folder, "nemo_bt-0.1.dist-info")
    info.mkdir()
    lines = ["Name: nemo-bt", "Version: 0.1", "Requires-Dist: app", "Provides-Extra: gpu"]
    lines += ["Requires-Dist: tracker; extra == 'gpu'"]
    Path(info, "METADATA").write_text("\\n".join(["Metadata-Version: 2.1", *lines]))
    return info.name
"""


def test_a_pack_is_made_and_unpacked(registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout, wheels, host = tmp_path / "checkout", tmp_path / "cache" / "wheels", tmp_path / "host.json"
    checkout.mkdir()
    (checkout / "backend.py").write_text(PROJECT)
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (checkout / "pyproject.toml").write_text(backend)
    (checkout / ".requirements.lock").write_text("".join(f"{name}=={LOCKED[name]}\n" for name in LOCKED))
    for name in ("transformer_engine-2.9.0", "transformer_engine_cu13-2.9.0"):
        make_wheel(registry, name)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept = wheels / key("2.11.0", 13, python)
    kept.mkdir(parents=True)
    make_wheel(kept, "transformer_engine_torch-2.9.0", ["torch", "ground"])
    installed = [{"metadata": {"name": name, "version": "2.11.0+cu130"}} for name in ("torch", "numpy")]
    host.write_text(json.dumps({"environment": {"python_version": python}, "installed": installed}))
    monkeypatch.setattr(pack, "_CHECKOUT", checkout)
    monkeypatch.setenv("NEMO_BT_CACHE", str(wheels.parent))
    assert pack.main(["--host", str(host), "--output", str(tmp_path / "pack"), "--without", "loader-kit"]) == 0
    packages = json.loads((tmp_path / "pack" / "parts.json").read_text())["packages"]
    engine = {"transformer-engine", "transformer-engine-cu13", "transformer-engine-torch"}
    assert packages.keys() == {"app", "frame", "ground", "speed", "tracker", *engine}
    command = [sys.executable, "-I", str(tmp_path / "pack" / "unpack.py"), "--to", str(tmp_path / "to")]
    subprocess.run(command, check=True, timeout=60)
    there = {path.name.partition("-")[0] for path in (tmp_path / "to").glob("*.dist-info")}
    assert there == {name.replace("-", "_") for name in packages}


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert pack.main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_options_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, host = tmp_path / "pack", tmp_path / "host.json"
    assert "expected a folder that is not there yet" in refusal(capsys, "--output", tmp_path)
    assert "--host: expected a file of" in refusal(capsys, "--output", output, "--host", host)
    monkeypatch.setenv("NEMO_BT_CACHE", str(tmp_path))
    said = refusal(capsys, "--output", output)
    assert "expected a wheel of transformer-engine-torch for torch 2.13.0, CUDA 13 and Python 3." in said
    assert not output.exists()


def test_the_torch_that_is_used_has_to_be_the_one_of_the_extension() -> None:
    locked = {"nvidia-cudnn-cu13": "9.20", "torch": "2.13.0"}
    pack.check_torch(locked, "2.13.0", 13)
    pack.check_torch({}, "2.5.0", 12)
    with pytest.raises(UserError, match="expected the locked torch to be built for CUDA 12"):
        pack.check_torch(locked, "2.13.0", 12)
    with pytest.raises(UserError, match=r"the host's torch 2\.5\.0 is too old"):
        pack.check_torch(locked, "2.5.0", 13)
