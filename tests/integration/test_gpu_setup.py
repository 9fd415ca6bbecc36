"""`make gpu-setup`: what it asks of torch and CUDA, wheels that are whole or not there. No extension is compiled."""

import os
import shlex
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import torch

from nemo_bt import gpu_setup
from nemo_bt.errors import UserError
from nemo_bt.gpu_setup import Toolchain, build_environment, find_toolchain, find_toolkit, link_libraries
from tests.support.runs import REPO


def make_toolkit(folder: Path, release: str = "release 13.0, V13.0.88") -> Path:
    (folder / "bin").mkdir(parents=True)
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho Cuda compilation tools, {shlex.quote(release)}\n")
    nvcc.chmod(0o755)
    (folder / "include").mkdir()
    (folder / "include" / "cuda_runtime.h").touch()
    return folder


@pytest.fixture
def cuda_13(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch that says it is built for CUDA 13, and a toolkit."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setenv("CUDA_HOME", str(make_toolkit(tmp_path / "cuda")))
    return tmp_path / "cuda"


def test_torch_and_compiler_fit(cuda_13: Path) -> None:
    version = torch.__version__.split("+")[0]
    assert find_toolchain() == Toolchain(version, 13, cuda_13, Path(torch.__file__).parents[1])


@pytest.mark.parametrize(
    ("cuda", "said"),
    [
        (None, r"expected a torch for CUDA 12 or 13, found torch 2.*pip install torch==2.*cu130"),
        ("11.8", r"expected a torch for CUDA 12 or 13, found torch .*, for CUDA 11\.8"),
        ("12.8", r"expected nvcc of CUDA 12, for which .* was built, got 'release 13\.0' at .*CUDA_HOME"),
    ],
)
@pytest.mark.usefixtures("cuda_13")
def test_a_torch_without_a_cuda_that_fits_is_refused(
    cuda: str | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(UserError, match=said):
        find_toolchain()


def test_the_compiler_is_where_cuda_home_or_the_path_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = make_toolkit(tmp_path / "one"), make_toolkit(tmp_path / "other")
    assert find_toolkit({"CUDA_HOME": str(one), "PATH": str(other / "bin")}) == one
    assert find_toolkit({"PATH": str(other / "bin")}) == other
    with pytest.raises(UserError, match=rf"expected the CUDA toolkit, with bin/nvcc and .* in CUDA_HOME: {tmp_path}\."):
        find_toolkit({"CUDA_HOME": str(tmp_path), "PATH": str(other / "bin")})
    script = make_toolkit(tmp_path / "script")
    (script / "include" / "cuda_runtime.h").unlink()
    monkeypatch.setattr(gpu_setup, "_DEFAULT_TOOLKIT", one)
    assert find_toolkit({"PATH": str(script / "bin")}) == one
    monkeypatch.setattr(gpu_setup, "_DEFAULT_TOOLKIT", tmp_path)
    with pytest.raises(UserError, match=rf"in the folder of nvcc or the default: {script}, {tmp_path}\. Install it"):
        find_toolkit({"PATH": str(script / "bin"), "CUDA_HOME": ""})
    monkeypatch.setenv("CUDA_HOME", str(make_toolkit(tmp_path / "strange", "Build 13")))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(UserError, match=r"expected nvcc of CUDA 13, .* got 'Cuda .*, Build 13\\n' at .*/strange"):
        find_toolchain()


def test_headers_of_every_package_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cuda_runtime", "cudnn", "nccl"):
        (tmp_path / "nvidia" / name / "include").mkdir(parents=True)
    monkeypatch.setenv("CPATH", "/mine")
    monkeypatch.delenv("MAX_JOBS", raising=False)
    environment = build_environment(Toolchain("2.13.0", 12, tmp_path / "cuda", tmp_path))
    headers = [f"{tmp_path}/nvidia/{name}/include" for name in ("cuda_runtime", "cudnn", "nccl")]
    assert environment["CPATH"] == ":".join([*headers, "/mine"])
    assert environment["CUDNN_PATH"] == f"{tmp_path}/nvidia/cudnn"
    assert environment["CUDA_HOME"] == f"{tmp_path}/cuda"
    assert environment["PATH"] == f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}"  # ninja
    assert int(environment["MAX_JOBS"]) >= 1
    monkeypatch.setenv("MAX_JOBS", "3")
    monkeypatch.delenv("CPATH")
    environment = build_environment(Toolchain("2.13.0", 12, tmp_path / "cuda", tmp_path))
    assert (environment["MAX_JOBS"], environment["CPATH"]) == ("3", ":".join(headers))


def test_libraries_of_cuda_13_are_linked_where_transformer_engine_looks(tmp_path: Path) -> None:
    lib = tmp_path / "nvidia" / "cu13" / "lib"
    lib.mkdir(parents=True)
    names = ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libcurand.so.10")
    for name in (*names, "libnvrtc.alt.so.13", "libcublas.so.13"):
        (lib / name).write_text(name)
    for _ in range(2):
        link_libraries(tmp_path, tmp_path)
    links = {path.name: path.read_text() for path in (tmp_path / "nvidia").glob("cu[a-r]*/lib/*")}
    assert links == {name: name for name in names}


def test_libraries_of_cuda_12_are_there(tmp_path: Path) -> None:
    lib = tmp_path / "nvidia" / "cuda_nvrtc" / "lib"
    lib.mkdir(parents=True)
    (lib / "libnvrtc.so.12").write_text("12")
    other = tmp_path / "nvidia" / "cu13" / "lib"
    other.mkdir(parents=True)
    (other / "libnvrtc.so.13").touch()
    link_libraries(tmp_path, tmp_path)
    assert [path.name for path in lib.iterdir()] == ["libnvrtc.so.12"]


def test_a_wheel_is_known_by_all_that_its_code_depends_on() -> None:
    known = gpu_setup.key("2.13.0", 13, "3.12")
    assert known == f"transformer_engine_torch-2.9.0-torch2.13.0-cu13-cp312-{os.uname().machine}"
    others = [("2.12.0", 13, "3.12"), ("2.13.0", 12, "3.12"), ("2.13.0", 13, "3.11")]
    assert known not in [gpu_setup.key(*other) for other in others]


def test_a_wheel_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of Python alone, built by the real pip; it fails unless a variable that only its build gets says so."""
    ends = "if 'bdist_wheel' in sys.argv and 'WORKS' not in os.environ: sys.exit('fatal error: no luck')\n"
    (tmp_path / "setup.py").write_text(
        f"import os, sys, setuptools\n{ends}setuptools.setup(name='some-source', version='1.0', py_modules=[])\n"
    )
    (tmp_path / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: some-source\nVersion: 1.0\n")
    with tarfile.open(tmp_path / "some_source-1.0.tar.gz", "w:gz") as tar:
        for name in ("setup.py", "PKG-INFO"):
            tar.add(tmp_path / name, f"some_source-1.0/{name}")
    environment = dict(os.environ) | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    kept = tmp_path / "kept"
    with pytest.raises(UserError, match=r"(?s)pip wheel .* status 1\. .*/build\.log\.\n  fatal error: no luck"):
        gpu_setup.build("some-source==1.0", kept, environment)
    assert [path.name for path in kept.iterdir()] == ["build.log"]
    monkeypatch.setitem(gpu_setup._OF_THE_BUILD, "WORKS", "1")
    wheel = gpu_setup.build("some-source==1.0", kept, environment)
    assert wheel == kept / "some_source-1.0-py3-none-any.whl"
    assert set(kept.iterdir()) == {kept / "build.log", wheel}


@pytest.mark.usefixtures("cuda_13")
def test_the_extension_is_built_once_and_installed_with_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    def build(pin: str, folder: Path, _: object) -> Path:
        calls.append(["build", pin])
        folder.mkdir(parents=True)
        (folder / "built.whl").touch()
        return folder / "built.whl"

    monkeypatch.setattr(gpu_setup, "build", build)
    monkeypatch.setattr(gpu_setup, "pip", lambda arguments, _: calls.append(arguments))
    monkeypatch.setattr(gpu_setup, "missing", lambda _: [])
    monkeypatch.setattr(gpu_setup, "link_libraries", lambda *_: None)
    monkeypatch.setattr(gpu_setup, "check_import", lambda _: "versions")
    assert [gpu_setup.install(tmp_path / "wheels") for _ in range(2)] == ["versions"] * 2
    assert [call[0] for call in calls] == ["build", *["download", "uninstall", "install"] * 2]
    assert calls[0] == ["build", "transformer-engine-torch==2.9.0"]
    assert calls[1][-2:] == ["transformer-engine==2.9.0", "transformer-engine-cu13==2.9.0"]
    assert calls[3][3].endswith("/built.whl")


def test_an_import_that_fails_is_shown_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lib = tmp_path / "nvidia" / "cu13" / "lib"
    lib.mkdir(parents=True)
    (lib / "libnvrtc.so.13").touch()
    monkeypatch.setattr(gpu_setup, "_CHECK", "raise OSError('libnvrtc.so.13: cannot open shared object file')")
    with pytest.raises(UserError, match=r"(?s)OSError: libnvrtc\.so\.13: cannot open.*ld\.so\.conf\.d") as caught:
        gpu_setup.check_import(tmp_path)
    assert str(lib) in str(caught.value)
    monkeypatch.setattr(gpu_setup, "_CHECK", "print('a warning'); print('Transformer Engine 2.9.0')")
    assert gpu_setup.check_import(tmp_path) == "Transformer Engine 2.9.0"


def test_the_command_says_what_is_wrong_without_a_traceback() -> None:
    command = [sys.executable, "-m", "nemo_bt.gpu_setup"]
    bare = os.environ | {"CUDA_HOME": "/nowhere"}  # it ends there where torch is built for CUDA
    result = subprocess.run(command, env=bare, capture_output=True, text=True, cwd=REPO, timeout=60)
    assert result.returncode == 2
    assert result.stderr.startswith("error: expected ")
    assert "Traceback" not in result.stderr


def test_pins_are_those_of_the_project() -> None:
    project, lock = ((REPO / name).read_text() for name in ("pyproject.toml", ".requirements.lock"))
    extra = ", ".join(f'"{pin}"' for pin in gpu_setup.NEEDED)
    assert f"\ngpu = [{extra}]\n" in project
    assert [pin for pin in gpu_setup.BUILDING if f"\n{pin} ;" not in lock] == ["wheel==0.48.0"]
    assert gpu_setup.missing(["torch==1.0", "not-there==1.0"]) == ["not-there==1.0"]
