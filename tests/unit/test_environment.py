"""Facts of nodes, compared."""

from pathlib import Path

from nemo_bt.config.load import load_settings
from nemo_bt.training.environment import differences, facts_of_node

NODE = {"package torch": "2.13.0", "devices": "8 x H100", "data train 'hh'": "3 files of 12 bytes"}


def test_equal_nodes_have_no_difference() -> None:
    assert differences({f"n{i}": NODE for i in range(4)}) == []


def test_the_node_that_differs_from_most_is_named() -> None:
    nodes = {f"n{i}": NODE for i in range(4)}
    nodes["n2"] = NODE | {"package torch": "2.9.0", "devices": "7 x H100"}
    assert differences(nodes) == [
        "node n2: package torch is 2.9.0; on 3 of 4 nodes it is 2.13.0",
        "node n2: devices is 7 x H100; on 3 of 4 nodes it is 8 x H100",
    ]


def test_of_two_nodes_the_first_is_right() -> None:
    found = differences({"n1": NODE, "n2": {"package torch": "2.13.0", "devices": "8 x H100"}})
    assert found == ["node n2: data train 'hh' is not there; on 1 of 2 nodes it is 3 files of 12 bytes"]


def test_a_node_sees_its_files_and_data(dataset: Path, tmp_path: Path) -> None:
    overrides = [f"exp_manager.explicit_log_dir={tmp_path}", f"model.data.train={dataset / 'random.parquet'}"]
    overrides += ["model.restore_from_path=org/model", f"model.tokenizer.type={dataset / 'tokenizer'}"]
    overrides += [f"+model.data.validation.hh={dataset / 'gone.parquet'}"]
    facts = facts_of_node(load_settings("train", overrides))
    (train,) = (value for name, value in facts.items() if name.startswith("data train"))
    assert train == f"1 files of {(dataset / 'random.parquet').stat().st_size:,} bytes"
    assert "gone.parquet" in next(value for name, value in facts.items() if name.startswith("data hh"))
    assert facts[f"file {dataset / 'tokenizer'}"].endswith("bytes")
    assert "file org/model" not in facts
    changed = facts_of_node(load_settings("train", [*overrides, "model.optim.lr=1"]))
    assert [name for name in facts if facts[name] != changed[name]] == ["settings"]
