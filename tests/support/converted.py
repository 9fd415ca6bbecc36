"""Write and read folders of Hugging Face and .nemo, as the converters do, without NeMo."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from converters.export_files import write_config
from nemo_bt.pretrained.convert import AsHf, Conversion
from nemo_bt.pretrained.nemo_metadata import write_facts
from nemo_bt.pretrained.resolve import InitialWeights, PretrainedSource
from nemo_bt.pretrained.safetensors_folder import write_shards
from nemo_bt.pretrained.torch_dist_writer import write_torch_dist


def to_nemo(pretrained: PretrainedSource, initial: InitialWeights, target: Path) -> Path:
    """The part of converters.hf_to_nemo that needs no NeMo."""
    target.mkdir()
    write_torch_dist(target / "weights", initial.source, Conversion(pretrained.architecture).depth, lambda _: None)
    (target / "context").mkdir()
    write_facts(target / "context", pretrained.hf_config, {})
    return target


def to_hf(initial: InitialWeights, target: Path, max_bytes: int = 150_000) -> Path:
    target.mkdir()
    export = AsHf(initial.source, initial.pretrained.architecture)
    write_shards(target, export.infos, export.tensors(), max_bytes, lambda _: None)
    write_config(target, initial.pretrained.hf_config, 0, next(iter(export.infos.values())).dtype)
    return target


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def replace_tensors(folder: Path, changed: dict[str, torch.Tensor | None]) -> None:
    """Write the folder's tensors again, with some changed or, where None, left out."""
    kept = {name: tensor for name, tensor in (tensors(folder) | changed).items() if tensor is not None}
    for file in (*folder.glob("*.safetensors"), folder / "model.safetensors.index.json"):
        file.unlink(missing_ok=True)
    save_file(kept, folder / "model.safetensors")


def several_labels(classifier: Path, num_rows: int) -> Path:
    """Make a classifier of several labels: row i of its head is i + 1 times what the head was."""
    head = tensors(classifier)["score.weight"]
    replace_tensors(classifier, {"score.weight": torch.cat([head * (row + 1) for row in range(num_rows)])})
    config = json.loads((classifier / "config.json").read_text())
    labels = {str(row): f"LABEL_{row}" for row in range(num_rows)}
    (classifier / "config.json").write_text(json.dumps(config | {"id2label": labels, "num_labels": num_rows}))
    return classifier
