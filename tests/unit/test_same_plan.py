"""Which settings may change when a run goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nemo_bt.checkpoint.same import check_same_plan
from nemo_bt.config.load import dump_settings, load_settings
from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError
from nemo_bt.training.checks import pinned

NEEDED = ["exp_manager.explicit_log_dir=run", "model.data.train=a.parquet", "model.tokenizer.type=tok"]
SMALL = ["model=llama_4x256", *NEEDED]


def load(*overrides: str) -> Settings:
    return load_settings("train", [*SMALL, *overrides])


def test_a_resumed_run_has_to_visit_the_same_pairs(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_settings(load()))
    check_same_plan(tmp_path / "config.yaml", load("model.optim.lr=1e-7", "trainer.max_steps=9"))
    check_same_plan(tmp_path / "other.yaml", load("model.global_batch_size=32"))
    with pytest.raises(UserError, match=r"model\.global_batch_size=32, but the run to resume had 64"):
        check_same_plan(tmp_path / "config.yaml", load("model.global_batch_size=32"))
    with pytest.raises(UserError, match=r"model\.num_layers=8, but the run to resume had"):
        check_same_plan(tmp_path / "config.yaml", load("model.num_layers=8"))


def test_a_resumed_run_has_to_start_from_the_same_model(tmp_path: Path) -> None:
    def starting(given: str) -> Settings:
        return load_settings("train", [*NEEDED, f"model.restore_from_path={given}"])

    (tmp_path / "config.yaml").write_text(dump_settings(starting("org/model@0123")))
    check_same_plan(tmp_path / "config.yaml", starting("org/model@0123"))
    check_same_plan(tmp_path / "config.yaml", starting("org/model"))
    for other in ("org/model@4567", "org/mod"):
        with pytest.raises(UserError, match=r"restore_from_path=org/mod.*, but the run to resume had org/model@0123"):
            check_same_plan(tmp_path / "config.yaml", starting(other))


def test_a_resumed_run_has_to_have_the_same_loss_function(tmp_path: Path) -> None:
    own = load("model.loss.custom_fn.path=a.py", "model.loss.custom_fn.name=hinge")
    (tmp_path / "config.yaml").write_text(dump_settings(own))
    check_same_plan(tmp_path / "config.yaml", own)
    with pytest.raises(UserError, match=r"model\.loss\.custom_fn\.name=None, but the run to resume had hinge"):
        check_same_plan(tmp_path / "config.yaml", load())
    section = "    custom_fn:\n      path: null\n      name: null\n      source: null\n"
    earlier = dump_settings(load()).replace(section, "")
    assert "custom_fn" not in earlier
    (tmp_path / "config.yaml").write_text(earlier)
    check_same_plan(tmp_path / "config.yaml", load())


def test_a_resumed_run_has_to_have_the_same_text_of_its_loss(tmp_path: Path) -> None:
    def own(source: str) -> Settings:
        return load("model.loss.custom_fn.name=hinge", f"model.loss.custom_fn.source={source}")

    (tmp_path / "config.yaml").write_text(dump_settings(own("a1")))
    check_same_plan(tmp_path / "config.yaml", own("a1"))
    with pytest.raises(UserError, match=r"custom_fn\.source=b2, but the run to resume had a1"):
        check_same_plan(tmp_path / "config.yaml", own("b2"))
    (tmp_path / "config.yaml").write_text(dump_settings(own("''")))
    with pytest.raises(UserError, match=r"nothing tells whether hinge is the loss of the run to resume"):
        check_same_plan(tmp_path / "config.yaml", own("''"))


def test_a_run_keeps_the_digest_of_its_loss_file_and_the_commit_of_its_model(tmp_path: Path) -> None:
    file = tmp_path / "losses.py"
    file.write_text("hinge = 1")
    settings = load(f"model.loss.custom_fn.path={file}", "model.loss.custom_fn.name=hinge")
    first = pinned(settings, None)
    (tmp_path / "config.yaml").write_text(dump_settings(first))
    check_same_plan(tmp_path / "config.yaml", pinned(first, None))
    assert len(str(first.model.loss.custom_fn.source)) == 64
    file.write_text("hinge = 2")
    with pytest.raises(UserError, match=r"custom_fn\.source=.*, but the run to resume had"):
        check_same_plan(tmp_path / "config.yaml", pinned(first, None))
    at_commit: Any = SimpleNamespace(given="org/model@0123", nemo_file=None)
    from_hub = load_settings("train", [*NEEDED, "model.restore_from_path=org/model"])
    assert pinned(from_hub, at_commit).model.restore_from_path == "org/model@0123"


def test_of_sources_that_changed_the_key_that_differs_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(dump_settings(load()))
    with pytest.raises(UserError, match=r"^model\.data\.train\[0\]\.path=b\.jsonl, but the run .* had a\.parquet: "):
        check_same_plan(tmp_path / "config.yaml", load("model.data.train=b.jsonl"))
    with pytest.raises(UserError, match=r"^model\.data\.train=\[a\.parquet, b\.jsonl\], but .* had a\.parquet: "):
        check_same_plan(tmp_path / "config.yaml", load("model.data.train=[a.parquet, b.jsonl]"))
    with pytest.raises(UserError, match=r"^model\.data\.train\[0\]\.fraction=0\.5, but .* had None: "):
        check_same_plan(tmp_path / "config.yaml", load("model.data.train=[{path: a.parquet, fraction: 0.5}]"))


def test_a_key_that_an_earlier_version_did_not_have_differs_where_it_is_set(tmp_path: Path) -> None:
    earlier = dump_settings(load()).replace("      fraction: null\n", "")
    assert " fraction:" not in earlier
    (tmp_path / "config.yaml").write_text(earlier)
    check_same_plan(tmp_path / "config.yaml", load())
    with pytest.raises(UserError, match=r"fraction=0\.5, but the run to resume had None"):
        check_same_plan(tmp_path / "config.yaml", load("model.data.train=[{path: a.parquet, fraction: 0.5}]"))
