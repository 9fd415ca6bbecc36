"""conf/*.yaml and command-line overrides -> Settings, with Hydra, before anything heavy is imported."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

import nemo_bt.conf
from nemo_bt.config.model import Settings
from nemo_bt.config.sources import complete_sources
from nemo_bt.errors import UserError

Kind = TypeVar("Kind", bound=Settings)


def load_settings(config_name: str, overrides: Sequence[str], config_dir: str | None = None) -> Settings:
    """Compose a configuration and turn it into Settings; see `load_settings_of`."""
    return load_settings_of(Settings, config_name, overrides, config_dir)


def load_settings_of(
    kind: type[Kind], config_name: str, overrides: Sequence[str], config_dir: str | None = None
) -> Kind:
    """Compose a configuration and turn it into settings.

    Args:
        kind: Settings, or a dataclass with more sections.
        config_name: a file of `conf/` or of `config_dir`, without .yaml.
        overrides: `key=value`, in Hydra's grammar.
        config_dir: a folder of your own; its files may build on those of `conf/`.

    Raises:
        UserError: an unknown key, a value of the wrong type, a value that has to be given, no such file.
    """
    shipped = str(Path(next(iter(nemo_bt.conf.__path__))).resolve())
    search = [f"hydra.searchpath=[file://{shipped}]"] if config_dir else []
    try:
        with initialize_config_dir(str(Path(config_dir).resolve()) if config_dir else shipped, version_base="1.3"):
            config = compose(config_name, overrides=[*search, *overrides])
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(_explain(error, kind)) from error
    _refuse_unknown(values, kind)
    try:
        return TypeAdapter(kind).validate_python(_normalised(values))
    except ValidationError as error:
        wrong = error.errors()[0]
        key = ".".join(str(part) for part in wrong["loc"])
        raise UserError(f"{key}: {wrong['msg']}, got {wrong['input']!r}.") from error


def with_defaults(config_file: Path) -> str:
    """What `dump_settings` wrote, with what an earlier version of nemo_bt did not know yet.

    Raises:
        UserError: it cannot be read.
    """
    shipped = str(Path(next(iter(nemo_bt.conf.__path__))).resolve())
    try:
        with initialize_config_dir(shipped, version_base="1.3"):
            defaults = compose("train")
        OmegaConf.set_struct(defaults, False)
        merged = OmegaConf.merge(defaults, OmegaConf.load(config_file))
    except (OmegaConfBaseException, yaml.YAMLError, OSError) as error:
        raise UserError(f"{config_file}: expected the settings of a run, got {error}.") from error
    return OmegaConf.to_yaml(merged)


def dump_settings(settings: Settings) -> str:
    """Settings as YAML that `--config-name` reads again."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(settings)))


def _normalised(values: Any) -> Any:
    """Every source of data with all its keys, and a number where a precision is meant."""
    values["model"]["data"] = complete_sources(values["model"]["data"])
    values["trainer"]["precision"] = str(values["trainer"].get("precision"))
    return values


def _refuse_unknown(values: Any, section: Any, prefix: str = "", root: Any = None) -> None:
    if not isinstance(values, dict):
        raise UserError(f"{prefix.rstrip('.')}: expected a section of keys, got {values!r}.")
    hints = get_type_hints(section)
    for name in values:
        if name not in hints:
            raise UserError(_unknown(f"{prefix}{name}", root or section))
    for name, kind in hints.items():
        if is_dataclass(kind):
            _refuse_unknown(values.get(name), kind, f"{prefix}{name}.", root or section)


def _explain(error: Exception, kind: type[Settings]) -> str:
    """Hydra's and OmegaConf's messages on one line, without the parts that speak of their classes."""
    messages = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
    lines = [line.strip() for message in messages for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("object_type=", "reference_type="))]
    text = " ".join(dict.fromkeys(lines))
    if "not in struct" in text and "Could not override '" in text:
        key = text.split("Could not override '", 1)[1].split("'", 1)[0]
        if key in _all_keys(kind):
            return f"{key}: entries that are not there yet are added with a plus: +{key}.<name>=..."
        return _unknown(key, kind)
    if "Missing mandatory value" in text:
        key = text.split("full_key: ", 1)[-1].split()[0]
        return f"{key}: expected a value, got none. Give {key}=..."
    return text


def _unknown(key: str, kind: Any) -> str:
    near = difflib.get_close_matches(key, _all_keys(kind), n=1, cutoff=0.5)
    return f"unknown key {key}. " + (f"Did you mean {near[0]}?" if near else "nemo_bt/config/model.py lists all keys.")


def _all_keys(section: Any, prefix: str = "") -> list[str]:
    hints = get_type_hints(section)
    keys = []
    for field in fields(section):
        kind = hints[field.name]
        keys += _all_keys(kind, f"{prefix}{field.name}.") if is_dataclass(kind) else [prefix + field.name]
    return keys
