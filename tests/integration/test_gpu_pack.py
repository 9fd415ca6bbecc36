"""Packs for hosts that reach no registry: which packages are in them, and how they get there."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from nemo_bt.errors import UserError
from nemo_bt.gpu import pack
from nemo_bt.gpu.closure import Closure, Host, closure, host_versions, locked_versions, target_environment
from nemo_bt.gpu.fetch import Target, requirements_of
from nemo_bt.gpu.fetch import install as install_tree

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
ON_312 = target_environment("3.12")
PACKAGES = {
    "app": ["torch>=2.6", "frame[fast]>=2", "old<2; python_version < '3.12'", "tracker; extra == 'track'"],
    "torch": ["nvidia-cublas==13.9"],
    "nvidia-cublas": [],
    "frame": ["numpy<2", "ground", "speed>=1; extra == 'fast'", "tests-only; extra == 'test'"],
    "speed": ["numpy", "Loader_Kit~=1.4"],
    "loader-kit": ["numpy>=1.20"],
    "numpy": [],
    "ground": [],
    "tracker": ["app", "frame"],
}


def found(host: Mapping[str, str], roots: Sequence[str] = ("app",), **options: Sequence[str]) -> Closure:
    return closure(roots, lambda names: {name: PACKAGES[name] for name in names}, Host(host, **options), ON_312)


def test_requirements_are_followed_with_markers_of_the_host_and_the_extras_that_are_asked_for() -> None:
    everything = ("app", "frame", "ground", "loader-kit", "numpy", "nvidia-cublas", "speed", "torch")
    assert found({}) == Closure(everything, {}, ())
    assert found({}, ["app[track]"]).packed == (*everything, "tracker")


def test_what_the_host_has_in_a_version_that_suits_is_left_to_it_with_what_came_with_it() -> None:
    host = {"torch": "2.11.0", "loader-kit": "1.9", "numpy": "1.26.4", "nvidia-cublas": "13.1"}
    left = {"loader-kit": "1.9", "numpy": "1.26.4", "torch": "2.11.0"}
    assert found(host) == Closure(("app", "frame", "ground", "speed"), left, ())


def test_of_a_package_that_is_left_extras_are_followed() -> None:
    assert found({"frame": "2.1", "torch": "2.11.0"}).packed == ("app", "loader-kit", "numpy", "speed")


def test_what_does_not_suit_is_packed_and_followed_unless_it_is_kept() -> None:
    host = {"frame": "1.9", "loader-kit": "2.0", "numpy": "2.5.2", "torch": "2.5.0", "nvidia-cublas": "13.9"}
    packed = ("app", "frame", "ground", "loader-kit", "numpy", "speed", "torch")
    assert found(host) == Closure(packed, {"nvidia-cublas": "13.9"}, ())
    kept = found(host, keep=("num*", "torch"))
    assert kept.packed == ("app", "frame", "ground", "loader-kit", "speed")
    assert kept.left == {"numpy": "2.5.2", "torch": "2.5.0"}
    assert kept.not_satisfied == ("numpy 2.5.2: frame asks for <2", "torch 2.5.0: app asks for >=2.6")


def test_what_a_host_does_without_is_not_followed() -> None:
    assert found({}, without=("torch", "sp*")).packed == ("app", "frame", "ground", "numpy")


def test_lock_and_host_are_read() -> None:
    lock = (
        "# by uv\nnumpy==1.26.4 ; python_version < '3.13'\nTomli==2.5 ; python_full_version < '3.11'\nA_b==1.0.post1\n"
    )
    assert locked_versions(lock, ON_312) == {"numpy": "1.26.4", "a-b": "1.0.post1"}
    versions = {"pyyaml": "6.0", "torch": "2.11.0+cu130"}
    assert host_versions("PyYAML==6.0\n\ntorch==2.11.0+cu130\n", "host.txt") == versions
    for line in ("torch", "torch>=2", "-e /src/app", "torch @ file:///wheels/torch.whl"):
        with pytest.raises(UserError, match=r"host\.txt: expected lines name==version, got .*pip list --format=freeze"):
            host_versions(f"numpy==2.5.2\n{line}\n", "host.txt")


def make_wheel(folder: Path, name: str, requires: Sequence[str] = ()) -> None:
    info = f"{name}-1.0.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Python: >=3.99\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}/__init__.py", "def main() -> None:\n    print('ran')\n")
        file.writestr(f"{name}/__pycache__/__init__.cpython-312.pyc", "")
        file.writestr(f"{info}/METADATA", metadata + "".join(f"Requires-Dist: {line}\n" for line in requires))
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{info}/entry_points.txt", f"[console_scripts]\nrun-{name} = {name}:main\n")
        file.writestr(f"{info}/RECORD", "")


def test_wheels_are_read_and_installed_into_a_tree_that_any_python_runs(tmp_path: Path) -> None:
    gathered, tree = tmp_path / "wheels", tmp_path / "tree"
    gathered.mkdir()
    make_wheel(gathered, "some_app", ["numpy<2", "ray; extra == 'ray'"])
    target = Target(PYTHON, {}, gathered)
    assert requirements_of(target, ["some-app"]) == {"some-app": ["numpy<2", "ray; extra == 'ray'"]}
    with pytest.raises(UserError, match=r"expected a version of gone in \.requirements\.lock"):
        requirements_of(target, ["gone"])
    install_tree(target, ["some-app"], tree)
    assert not list(tree.rglob("*.pyc"))
    assert (tree / "bin" / "run-some_app").read_text().startswith("#!/usr/bin/env python3\n")
    environment = {"PYTHONPATH": str(tree), "PATH": f"{tree}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"}
    assert subprocess.run(["run-some_app"], env=environment, capture_output=True, text=True).stdout == "ran\n"


def make_source(folder: Path, name: str, has_extensions: bool) -> None:
    code = f"from setuptools import Distribution, setup\nDistribution.has_ext_modules = lambda self: {has_extensions}\n"
    files = {"setup.py": f"{code}setup(name='{name}', version='1.0', py_modules=[], install_requires=['numpy<2'])\n"}
    files["PKG-INFO"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    with tarfile.open(folder / f"{name}-1.0.tar.gz", "w:gz") as tar:
        for file, text in files.items():
            entry = tarfile.TarInfo(f"{name}-1.0/{file}")
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))


def test_a_source_of_python_alone_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gathered = tmp_path / "wheels"
    gathered.mkdir()
    make_source(tmp_path, "plain", has_extensions=False)
    make_source(tmp_path, "native", has_extensions=True)
    for name, value in {"NO_INDEX": "1", "FIND_LINKS": str(tmp_path), "NO_BUILD_ISOLATION": "0"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    target = Target(PYTHON, {"plain": "1.0", "native": "1.0"}, gathered)
    assert requirements_of(target, ["plain"]) == {"plain": ["numpy<2"]}
    with pytest.raises(UserError, match=r"expected a wheel of native==1\.0 .* built here it is native-1\.0-cp3"):
        requirements_of(target, ["native"])
    assert [path.name for path in gathered.iterdir()] == ["plain-1.0-py3-none-any.whl"]


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert pack.main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_options_that_cannot_be_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, host = tmp_path / "pack", tmp_path / "host.txt"
    assert "--part-mib: expected 1 or more, got 0" in refusal(capsys, "--output", output, "--part-mib", 0)
    assert "--host: expected a file, got" in refusal(capsys, "--output", output, "--host", host)
    host.write_text("torch==2.11.0+cu130\n")
    said = refusal(capsys, "--output", output, "--host", host, "--wheels", tmp_path, "--python", "3.11")
    assert "expected a wheel of transformer-engine-torch 2.9.0 for torch 2.11.0, CUDA 13 and Python 3.11 in" in said
    assert "expected a folder that is empty or not there" in refusal(capsys, "--output", tmp_path)
    monkeypatch.setattr(pack, "_CHECKOUT", tmp_path)
    assert "expected the project's checkout, with .requirements.lock, found" in refusal(capsys, "--output", output)


def test_the_torch_that_is_used_has_to_be_the_one_of_the_extension() -> None:
    cuda_13 = Closure(("nvidia-cudnn-cu13", "torch"), {}, ())
    pack._check_torch(cuda_13, 13, Host({}))
    pack._check_torch(Closure((), {"torch": "2.5.0"}, ()), 12, Host({"torch": "2.5.0"}))
    with pytest.raises(UserError, match="expected the locked torch to be built for CUDA 12"):
        pack._check_torch(cuda_13, 12, Host({}))
    with pytest.raises(UserError, match=r"the host's torch 2\.5\.0 is too old"):
        pack._check_torch(cuda_13, 13, Host({"torch": "2.5.0"}))
