"""Finding checkpoints: `<log dir>/checkpoints/<name>-step<n>.nemo` was whole when it got its name.

It imports nothing heavy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from nemo_bt.checkpoint.manifest import plain_damage
from nemo_bt.config.data import RowSettings, SourceSettings
from nemo_bt.config.model import Settings
from nemo_bt.errors import UserError
from nemo_bt.files import write_atomically

if TYPE_CHECKING:
    from nemo_bt.data.store.pair_set import PairSet

_OF_ROWS = RowSettings.__dataclass_fields__
_ORIGIN = "model.restore_from_path"
_PLAN = (
    _ORIGIN,
    "model.hf_config",
    "model.num_layers",
    "model.hidden_size",
    "model.ffn_hidden_size",
    "model.num_attention_heads",
    "model.num_query_groups",
    "model.kv_channels",
    "model.vocab_size",
    "model.layernorm_epsilon",
    "model.rotary_base",
    "trainer.seed",
    "model.global_batch_size",
    "model.encoder_seq_length",
    "model.tokenizer.type",
    "model.peft",
    "model.reward_head",
    "model.loss.kind",
    "model.loss.custom_fn.name",
    "model.loss.custom_fn.source",
    "model.optim.name",
    "model.data.train",
    "model.data.chat_template",
    "model.data.chat_template_kwargs",
    "model.data.chat_template_date",
    "model.data.length_policy",
    "model.data.tokens_per_micro_batch",
)
"""Settings that say which model it is, what its optimizer holds, and which pairs loading leaves and a step has."""
_NAME = re.compile(r"-step(\d+)\.nemo$")


def saved_checkpoints(folder: Path) -> list[Path]:
    """List the whole checkpoints in `folder`, oldest step first."""
    return sorted(filter(is_named_by_step, folder.glob("*.nemo")), key=step_of)


def is_named_by_step(path: Path) -> bool:
    """Tell whether the name has a step, as `step_of` needs it."""
    return _NAME.search(path.name) is not None


def step_of(checkpoint: Path) -> int:
    """Read how many optimizer steps a checkpoint has behind it; `run-step40.nemo` has 40."""
    match = _NAME.search(checkpoint.name)
    assert match, checkpoint
    return int(match[1])


def checkpoint_to_resume(folder: Path, resume_if_exists: bool) -> Path | None:
    """Find the newest checkpoint to continue from; None is a fresh run.

    A checkpoint is passed over if damage shows without reading its weights. Those are checked when they are loaded
    (`nemo_bt.training.strategy`).

    Raises:
        UserError: there are checkpoints, but the run is not to resume and would write over them; or none is whole.
    """
    saved = saved_checkpoints(folder)
    if saved and not resume_if_exists:
        raise UserError(
            f"{folder} holds checkpoints up to step {step_of(saved[-1])}. Set exp_manager.resume_if_exists=true to "
            "continue, or another exp_manager.explicit_log_dir to start again."
        )
    found = []
    for checkpoint in reversed(saved):
        reason = plain_damage(checkpoint)
        if reason is None:
            return checkpoint
        found.append(f"{checkpoint} is damaged: {reason}")
    if found:
        raise UserError(none_whole(found))
    return None


def last_whole(log_dir: Path, count: int) -> tuple[list[Path], list[str]]:
    """Find the newest `count` checkpoints of a run, oldest first, and say which newer ones are damaged.

    Damage is what shows without reading weights.

    Raises:
        UserError: the run has fewer.
    """
    whole: list[Path] = []
    damaged = []
    for checkpoint in reversed(saved_checkpoints(log_dir / "checkpoints")):
        reason = plain_damage(checkpoint)
        if reason:
            damaged.append(f"{checkpoint} is damaged: {reason}")
        else:
            whole.insert(0, checkpoint)
        if len(whole) == count:
            return whole, damaged
    raise UserError(
        f"{log_dir}: expected {count} whole checkpoints, found {'; '.join([str(len(whole)), *damaged])}. "
        "exp_manager.checkpoint_callback_params.save_last_n says how many a run keeps."
    )


def none_whole(found: list[str]) -> str:
    """Give the message for a folder in which every checkpoint is damaged."""
    return (
        f"no checkpoint to resume from is whole. {'; '.join(found)}. Bring one back, or start a new "
        "exp_manager.explicit_log_dir."
    )


def name_aside(checkpoint: Path) -> Path:
    """Find a free name by which no run resumes from it: `<name>.damaged`, or one with a number where that is taken."""
    names = (f"{checkpoint.name}.damaged{number}" for number in ("", *(f"-{i}" for i in range(2, 1000))))
    return next(path for name in names if not (path := checkpoint.with_name(name)).exists())


def check_same_plan(config_file: Path, settings: Settings) -> None:
    """Check that a run which continues has the same model and visits the same pairs in the same order as before.

    Args:
        config_file: config.yaml of the interrupted run; nothing is checked where there is none.
        settings: the settings of the run that continues.

    Raises:
        UserError: a setting that the plan of a step depends on is another one now.
    """
    if not config_file.exists():
        return
    own = settings.model.loss.custom_fn
    if own.source == "":
        raise UserError(
            f"model.loss: nothing tells whether {own.name} is the loss of the run to resume, as it has no text of its "
            "own (a partial, a closure, an object). Go on with a function of a file."
        )
    before = OmegaConf.load(config_file)
    now, plain = (OmegaConf.create(asdict(one)) for one in (settings, Settings()))
    for plan_key in _PLAN:
        was = _plain(OmegaConf.select(before, plan_key))
        was = _plain(OmegaConf.select(plain, plan_key)) if was is None else was  # an earlier version had no such key
        key, old, new = _where_they_differ(plan_key, was, _plain(OmegaConf.select(now, plan_key)))
        pinned = key == _ORIGIN and str(old).startswith(f"{new}@")  # config.yaml has the hub's revision
        if old != new and not pinned:
            raise UserError(
                f"{key}={new}, but the run to resume had {old}: it would not be the same run. Set it back, or "
                "start a new exp_manager.explicit_log_dir with model.restore_from_path at the checkpoint."
            )


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def _where_they_differ(key: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """Go down to the first key in which two values differ; sources that are more or fewer are told by their paths.

    A key that an earlier version did not have differs where it is set.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        inside = [(f"{key}.{name}", old.get(name), new.get(name)) for name in old | new if name in old or new[name]]
    elif _are_sections(old) and _are_sections(new) and len(old) == len(new):
        inside = [(f"{key}[{at}]", *both) for at, both in enumerate(zip(old, new, strict=True))]
    else:
        return key, _told(old), _told(new)
    return next((_where_they_differ(*one) for one in inside if one[1] != one[2]), (key, new, new))


def _are_sections(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _told(value: Any) -> Any:
    if isinstance(value, dict) and "path" in value:
        return _told(value["path"])
    if isinstance(value, list):
        return _told(value[0]) if len(value) == 1 else f"[{', '.join(str(_told(one)) for one in value)}]"
    return value


def write_data_record(file: Path, sets: Mapping[str, PairSet]) -> None:
    """Write down everything that the token ids of a run depend on."""
    write_atomically(file, json.dumps(_record(sets), indent=2) + "\n")


def check_same_data(file: Path, sets: Mapping[str, PairSet]) -> None:
    """Check that the training data is still what it was.

    Args:
        file: what `write_data_record` left; nothing is checked where there is none.
        sets: the sets of the run that continues.

    Raises:
        UserError: a file of a source, the tokenizer or the template has other contents now.
    """
    if not file.exists():
        return
    before = json.loads(file.read_text())["train"]
    now = _record(sets)["train"]
    for name, facts in now.items():
        was = _as_now(before.get(name, {}))
        differ = [key for key in facts if key != "layout" and was.get(key) != facts[key]]
        if differ:
            raise UserError(
                f"model.data.train: {', '.join(differ)} of '{name}' are not what they were when the run was started: "
                "it would not be the same run. Put them back, or start a new exp_manager.explicit_log_dir with "
                "model.restore_from_path at the checkpoint."
            )


def _as_now(facts: dict[str, Any]) -> dict[str, Any]:
    """Give the record of a source as this version writes it; an earlier one had pairs alone, and fewer settings."""
    plain = {name: value for name, value in asdict(SourceSettings(path=["x"])).items() if name in _OF_ROWS}
    rows = plain | facts.get("rows", {})
    rows["pairs"] = plain["pairs"] | rows["pairs"]
    return {"takes": "pairs", "attributes": [[], []]} | facts | {"rows": rows}


def _record(sets: Mapping[str, PairSet]) -> dict[str, dict[str, dict[str, Any]]]:
    return {name: {source.name: source.made_from for source in pairs.sources} for name, pairs in sets.items()}
