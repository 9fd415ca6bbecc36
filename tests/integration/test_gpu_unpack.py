"""Parts of a pack, and what unpack.py makes of them with nothing but Python."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.gpu_host.pack import PART_BYTES, write_parts

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def make_tree(folder: Path, names: Sequence[str]) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() + bytes(range(256)) * 5)
        os.utime(path, (len(name), hash(name) % 1000))
    return folder


NAMES = ("app/__init__.py", "app/data/" + "long/" * 40 + "table.bin", "bin/run", "nvidia/cu13/lib/libnvrtc.so.13")


def make_pack(folder: Path, tree: Path, limit_bytes: int = 200, python: str = PYTHON) -> Path:
    folder.mkdir()
    write_parts(tree, folder, {"python": python}, limit_bytes)
    return folder


def run_unpack(
    parts: Path, to: Path, python: Path | str = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-I", "-W", "error", str(parts / "unpack.py"), "--to", str(to)]
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, timeout=60)


def test_parts_have_their_size_and_make_the_tree_again(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree", NAMES)
    (tree / "bin" / "run").chmod(0o755)
    parts = make_pack(tmp_path / "pack", tree)
    described = json.loads((parts / "parts.json").read_text())["parts"]
    assert list(described) == [f"part-{i:03d}" for i in range(len(described))]
    assert {path.name for path in parts.iterdir()} == {*described, "parts.json", "unpack.py"}
    assert PART_BYTES < 64 * 2**20
    sizes = [(parts / name).stat().st_size for name in described]
    assert len(sizes) > 2
    assert set(sizes[:-1]) == {200}
    assert 0 < sizes[-1] <= 200
    to = tmp_path / "un packed"
    result = run_unpack(parts, to)
    assert result.returncode == 0, result.stderr
    assert "Warning" not in result.stderr
    for name in NAMES:
        assert (to / name).read_bytes() == (tree / name).read_bytes()
    assert os.access(to / "bin" / "run", os.X_OK)
    assert not os.access(to / NAMES[0], os.X_OK)
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    again = run_unpack(parts, to)
    assert again.returncode == 2
    assert "expected a folder that is not there yet" in again.stderr


def test_env_sh_puts_the_tree_in_front_and_gives_transformer_engine_its_libraries(tmp_path: Path) -> None:
    libraries = [f"nvidia/{name}" for name in ("cu13/lib/libcurand.so.10", "cudnn/lib/libcudnn.so.9")]
    parts = make_pack(tmp_path / "pack", make_tree(tmp_path / "tree", (*NAMES, *libraries)), 2**20)
    toolkit = make_tree(tmp_path / "toolkit", ["bin/nvcc", "include/cuda_runtime.h"])
    to = tmp_path / "un packed"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    bare = {"CUDA_HOME": str(toolkit), "PATH": str(tmp_path)}  # neither packages nor ldconfig nor nvidia-smi
    result = run_unpack(parts, to, tmp_path / "venv" / "bin" / "python", **bare)
    assert result.returncode == 0, result.stderr
    script = f'source "{to}/env.sh"; echo "$PYTHONPATH|$TORCH_CUDA_ARCH_LIST|$CUDA_HOME|$LD_LIBRARY_PATH"'
    home = to / "cuda-home"
    for given, arch in (({}, "9.0"), ({"TORCH_CUDA_ARCH_LIST": "8.0"}, "8.0")):
        variables = {"PYTHONPATH": "/mine", "PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": "/others", **given}
        said = subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True).stdout
        assert said == f"{to}:/mine|{arch}|{home}|/others:{home}/of-cu13/lib:{home}/of-cudnn/lib\n"
    assert (home / "bin" / "nvcc").is_file()
    assert {path.name for path in home.glob("of-*/lib/lib*")} == {"libcurand.so.10", "libnvrtc.so.13", "libcudnn.so.9"}


def test_what_could_not_be_unpacked_does_not_look_whole(tmp_path: Path) -> None:
    parts = make_pack(tmp_path / "pack", make_tree(tmp_path / "tree", NAMES))
    small = ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", sys.executable, "-I", str(parts / "unpack.py")]
    result = subprocess.run([*small, "--to", str(tmp_path / "to")], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "File too large" in result.stderr
    assert not (tmp_path / "to").exists()
    assert run_unpack(parts, tmp_path / "to").returncode == 0


def test_another_python_is_refused(tmp_path: Path) -> None:
    parts = make_pack(tmp_path / "pack", make_tree(tmp_path / "tree", NAMES), python="3.9")
    result = run_unpack(parts, tmp_path / "to")
    assert result.returncode == 2
    assert f"expected Python 3.9, for which this was packed, got {PYTHON}" in result.stderr


def damage(part: Path) -> None:
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1
    part.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (damage, "part-001 is damaged: its SHA-256"),
        (lambda part: part.write_bytes(part.read_bytes()[:-1]), "part-001 is damaged: its SHA-256"),
        (Path.unlink, "part-001 is missing"),
        (lambda part: part.rename(part.with_name("part-000")), "part-000 is damaged"),
        (lambda part: (part.parent / "parts.json").write_text("{"), "parts.json is damaged"),
        (lambda part: (part.parent / "parts.json").unlink(), "parts.json"),
    ],
)
def test_a_part_that_is_missing_or_damaged_is_named(harm: object, said: str, tmp_path: Path) -> None:
    parts = make_pack(tmp_path / "pack", make_tree(tmp_path / "tree", NAMES))
    harm(parts / "part-001")
    result = run_unpack(parts, tmp_path / "to")
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "to").exists()
