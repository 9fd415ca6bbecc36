"""What the first step on a GPU builds, and what a node lacks for it."""

import os
from pathlib import Path

import pytest

from nemo_bt.errors import UserError
from nemo_bt.pretrained.architecture import architecture_of
from nemo_bt.training import compiler
from tests.support.hf_models import hf_config_of


@pytest.mark.parametrize(
    ("shape", "parts"),
    [("mistral", []), ("gemma", []), ("mixtral", ["experts"]), ("gemma2", ["attention with a soft cap"])],
)
def test_what_is_built(shape: str, parts: list[str]) -> None:
    assert compiler.compiled_parts(architecture_of(hf_config_of(shape))) == parts


def test_a_node_without_a_compiler_trains_what_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    compiler.check(architecture_of(hf_config_of("mistral")))
    with pytest.raises(UserError, match=r"experts: their kernels .* lacks .*a C compiler \(apt-get install gcc\)"):
        compiler.check(architecture_of(hf_config_of("mixtral")))


def test_any_compiler_that_triton_finds_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("clang", "mine"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not [one for one in compiler.missing() if "compiler" in one]
    os.remove(tmp_path / "clang")
    assert [one for one in compiler.missing() if "compiler" in one]
    monkeypatch.setenv("CC", "other")
    assert [one for one in compiler.missing() if "compiler" in one]
    monkeypatch.setenv("CC", "mine")
    assert not [one for one in compiler.missing() if "compiler" in one]
