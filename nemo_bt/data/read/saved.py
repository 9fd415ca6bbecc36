"""Folders that `datasets.save_to_disk` has written: which files belong to one."""

from __future__ import annotations

from pathlib import Path

from nemo_bt.errors import UserError
from nemo_bt.foreign.files import read_json, reading

_AGAIN = "Save it again with save_to_disk."
_STATE = "state.json"
"""File of `datasets` that names those of a saved data set."""
_SPLITS = "dataset_dict.json"


def saved_folder(folder: Path, path: str, setting: str, split: str) -> Path | None:
    """Find the folder of a data set that `datasets` has saved; None where this is none.

    Raises:
        UserError: it has several splits, and none of the name that is asked for.
    """
    if (folder / _STATE).is_file():
        return folder
    if not (folder / _SPLITS).is_file():
        return None
    with reading(f"{folder / _SPLITS}: expected the splits of a saved data set, got ", _AGAIN):
        splits = [str(one) for one in read_json(folder / _SPLITS, "the splits of a saved data set", _AGAIN)["splits"]]
    if split not in splits:
        raise UserError(
            f"{setting}: {path} has the splits {', '.join(splits)}, none is called {split}. Set split of the source, "
            f"or give {path.rstrip('/')}/{splits[0]}."
        )
    return folder / split


def parts_of(folder: Path) -> tuple[str, ...]:
    """List the files of a saved data set."""
    with reading(f"{folder / _STATE}: expected the files of a saved data set, got ", _AGAIN):
        state = read_json(folder / _STATE, "the files of a saved data set", _AGAIN)
        files = [*(state["_data_files"] or []), *(state.get("_indices_data_files") or [])]
        return tuple(str(folder / name) for name in (_STATE, *(file["filename"] for file in files)))


def check_alone(file: Path, path: str, setting: str) -> None:
    """Refuse an Arrow file out of a saved data set: it may have rows that were not selected."""
    if file.suffix == ".arrow" and (file.parent / _STATE).is_file():
        raise UserError(
            f"{setting}: {path} is a part of a data set that was saved with save_to_disk, and may have rows that are "
            f"not in it. Give the folder, {file.parent}."
        )
