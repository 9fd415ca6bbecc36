"""The image for clusters: what its file says stays true of the project. It is not built here."""

import re
import subprocess

from nemo_bt.gpu_setup import TRANSFORMER_ENGINE
from tests.support.runs import REPO

TEXT = (REPO / "slurm" / "Dockerfile").read_text()
PROJECT = (REPO / "pyproject.toml").read_text()


def test_what_is_copied_is_there_and_is_all_that_the_package_is_built_from() -> None:
    copied = {name for line in re.findall(r"^COPY (.+) \S+$", TEXT, re.M) for name in line.split()}
    assert [name for name in copied if not (REPO / name).exists()] == []
    built_from = set(re.findall(r'^(?:readme = |license-files = \[|include = \[)"(\w[\w.]*)"', PROJECT, re.M))
    assert built_from == {"README.md", "LICENSE", "nemo_bt"}
    links = {path.name for path in (REPO / "nemo_bt").iterdir() if path.is_symlink()}
    assert copied == built_from | links | {"pyproject.toml", ".requirements.lock"}


def test_the_versions_that_it_names_are_the_projects() -> None:
    assert re.search(r"^FROM nvcr\.io/nvidia/pytorch:25\.11-py3$", TEXT, re.M)
    (megatron,) = re.findall(r"megatron-core (\d[\d.]*\d) takes", TEXT)
    assert f'"megatron-core=={megatron}"' in PROJECT
    (engine,) = re.findall(r"Transformer Engine (\d+\.\d+), the version", TEXT)
    assert TRANSFORMER_ENGINE.startswith(f"{engine}.")
    (python,) = re.findall(r"Python (3\.\d+),", TEXT)
    assert f'"Programming Language :: Python :: {python}"' in PROJECT
    for extra in re.findall(r"'\.\[(\w+)\]'", TEXT):
        assert re.search(rf"^{extra} = \[", PROJECT, re.M)


def test_only_what_the_base_compiles_against_its_torch_is_not_as_locked() -> None:
    (patterns,) = re.findall(r"grep -vE '(.+)' \.requirements\.lock", TEXT)
    lock = (REPO / ".requirements.lock").read_text()
    kept = subprocess.run(["grep", "-vE", patterns], input=lock, capture_output=True, text=True).stdout
    dropped = set(lock.splitlines()) - set(kept.splitlines())
    assert sorted(line.split("==")[0] for line in dropped) == ["torch", "triton"]
    (of_base,) = re.findall(r"grep -E '(.+)' > base\.txt", TEXT)
    base = "torch==2.10.0a0+b5.nv25.11\ntriton==3.5.1\ntransformer_engine==2.9.0+70f5\nflash_attn==2.7.4\n"
    found = subprocess.run(["grep", "-E", of_base], input=base + "torchmetrics==1.0\n", capture_output=True, text=True)
    assert found.stdout == base


def test_it_is_built_as_the_guide_says() -> None:
    (command,) = re.findall(r"docker build .*$", TEXT, re.M)
    assert command in (REPO / "docs" / "guides" / "resume-and-slurm.md").read_text()
