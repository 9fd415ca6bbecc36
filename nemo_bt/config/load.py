"""conf/*.yaml and command-line overrides -> Settings, with Hydra, before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import TypeAdapter, ValidationError

from nemo_bt.config.messages import explain
from nemo_bt.config.model import JobSettings, Settings
from nemo_bt.config.overrides import in_hydras_grammar
from nemo_bt.config.shipped import check_choice, check_config_name, choice_as_overrides, config_folders, groups
from nemo_bt.errors import UserError
from nemo_bt.foreign.files import check_yaml, read_text, reading

Kind = TypeVar("Kind", bound=JobSettings)
_NO_DEFAULT = re.compile(r"Could not override '(\w+)'\.\s*No match in the defaults list")
_KEY = re.compile(r"^\+{0,2}(\w+(?:\.[\w-]+)*)=")


def load_settings(config_name: str, overrides: Sequence[str] = (), config_dir: str | None = None) -> Settings:
    """Compose the configuration of a run and turn it into Settings; see `load_settings_of`."""
    return load_settings_of(Settings, config_name, overrides, config_dir)


def load_settings_of(
    kind: type[Kind], config_name: str, overrides: Sequence[str] = (), config_dir: str | None = None
) -> Kind:
    """Compose a configuration and turn it into settings.

    Args:
        kind: Settings, or another dataclass of sections.
        config_name: a file of `conf/` or of `config_dir`, without .yaml.
        overrides: `key=value`, in Hydra's grammar; a key that the files leave out needs no plus.
        config_dir: a folder of your own; its files may build on those of `conf/`.

    Raises:
        UserError: an unknown key, a value of the wrong type or outside of its range, no such file.
    """
    if isinstance(overrides, str) or not all(isinstance(override, str) for override in overrides):
        raise UserError(f"overrides: expected a list of texts, key=value, got {overrides!r}.")
    check_config_name(config_name, config_dir)
    if config_dir:
        _check_aliases(Path(config_dir), config_name)
    main, others = config_folders(config_name, config_dir)
    search = [f"hydra.searchpath=[{','.join(f'file://{one}' for one in others)}]"] if others else []
    wrong: list[str] = []
    accepted = []
    for override in overrides:
        try:
            accepted.append(_set_or_added(in_hydras_grammar(override, kind), kind, config_dir))
        except UserError as error:
            wrong.append(str(error))
    try:
        with initialize_config_dir(str(main), version_base="1.3"):
            config = _composed(config_name, [*search, *accepted])
        missing = list(_to_be_given(OmegaConf.to_container(config, resolve=False)))
        wrong += [f"{key}: expected a value, got none. Give {key}=..." for key in missing]
        for key in missing:
            OmegaConf.update(config, key, "missing")  # so that whatever else is wrong is told with it
        values = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError("\n".join([*wrong, _one_line(error)])) from error
    except ValueError as error:  # Hydra's own for model=null
        raise UserError(f"{' '.join(overrides)}: {error}.") from error
    try:
        found = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        told = [line for line in explain(error, kind).splitlines() if not _is_about(line.partition(":")[0], missing)]
        raise UserError("\n".join([*wrong, *told])) from error
    if wrong:
        raise UserError("\n".join(wrong))
    return found


def _check_aliases(folder: Path, config_name: str) -> None:
    """Check that the user's files are no larger than they look; Hydra says what else is wrong with them.

    Raises:
        UserError: the aliases of one stand for more values than settings have, or it cannot be read.
    """
    main = folder / f"{config_name.removesuffix('.yaml')}.yaml"
    for file in sorted({*([main] if main.exists() else []), *folder.glob("*/*.yaml")}):
        text = read_text(file)
        with reading(f"{file}: expected settings, got ", "Write them out."), suppress(yaml.YAMLError):
            check_yaml(text)


def _is_about(key: str, missing: Sequence[str]) -> bool:
    """Tell whether a key is one of those, or a section that has one of them."""
    return any(one == key or one.startswith(f"{key}.") for one in missing)


def _to_be_given(values: Any, key: str = "") -> Iterator[str]:
    """Name the values that are ???."""
    if values == "???":
        yield key
    for name, inner in values.items() if isinstance(values, dict) else ():
        yield from _to_be_given(inner, f"{key}.{name}".removeprefix("."))
    for number, inner in enumerate(values) if isinstance(values, list) else ():
        yield from _to_be_given(inner, f"{key}[{number}]")


def _composed(config_name: str, overrides: list[str]) -> DictConfig:
    """Compose a configuration. Choices of conf/ for which it has no place are put in by their values."""
    while True:
        try:
            found: DictConfig = compose(config_name, overrides=overrides)
            return found
        except ConfigCompositionException as error:
            missing = _NO_DEFAULT.search(str(error))
            typed = [one for one in overrides if missing and one.startswith(f"{missing[1]}=")]
            values = choice_as_overrides(typed[-1]) if typed else None
            if values is None:
                raise
        overrides = [*values, *(one for one in overrides if one not in typed)]


def dump_settings(settings: JobSettings) -> str:
    """Write settings as YAML that `--config-name` reads again."""
    return OmegaConf.to_yaml(OmegaConf.create(asdict(settings)))


def _set_or_added(override: str, kind: type, config_dir: str | None) -> str:
    """Give a key the two pluses with which Hydra sets it or adds it, and a choice of conf/ the one that it needs.

    Raises:
        UserError: there is no such choice, or a value stands where a section is. Hydra is not asked: once NeMo is
            imported, `trainer` is a choice to it.
    """
    key = _KEY.match(override)
    if not key:
        return override
    value = override[key.end() :]
    if key[1] in (*groups(), "recipe"):
        _check_group(key[1], value, kind)
        check_choice(key[1], value, config_dir)
        return f"{key[1]}={value}"
    if config_dir and (Path(config_dir) / key[1]).is_dir():
        return override
    if key[1] in {section.name for section in fields(kind)} and not value.startswith(("{", "$")):
        raise UserError(f"{key[1]}: expected a section of keys, got {value}.")
    return f"++{override.lstrip('+')}"


def _check_group(group: str, choice: str, kind: type) -> None:
    """Check that a part with choices is one of what is configured."""
    is_there = group in {section.name for section in fields(kind)} if group == "cluster" else issubclass(kind, Settings)
    if not is_there:
        whose = "nemo-bt plan" if group == "cluster" else "training"
        instead = "Leave it out" if group != "model" else f"The model is model.restore_from_path={choice}"
        raise UserError(f"{group}={choice} belongs to {whose}; nothing depends on it here. {instead}.")


def _one_line(error: Exception) -> str:
    """Put the messages of Hydra and OmegaConf on one line, without the parts that speak of their classes."""
    messages = [str(error)] + ([str(error.__cause__)] if error.__cause__ else [])
    lines = [line.strip() for message in messages for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(("object_type=", "reference_type="))]
    return " ".join(dict.fromkeys(lines)).replace("'++", "'")
