"""Pages of the reference that are made from the source: `python -m docs.references` writes them.

Settings come from the dataclasses of nemo_bt.config, their meanings from the text under each field; commands from
the argument parser; row formats from their table.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import re
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nemo_bt.cli.arguments import command_line
from nemo_bt.config.data import SourceSettings
from nemo_bt.config.messages import choices_of, range_of, without_none
from nemo_bt.config.model import Settings
from nemo_bt.config.plan import PlanRun
from nemo_bt.config.score import EvaluateRun, LabelRun, ScoreRun
from nemo_bt.config.serve import ServeRun
from nemo_bt.data.formats.detect import columns_named
from nemo_bt.data.formats.table import FORMATS

FOLDER = Path(__file__).parent / "reference"
_HEAD = """# Every setting

Type a setting as `key=value` behind any command, or write it in a YAML file ([how](../guides/train.md#settings)).
A key that does not exist, and a value outside of its range, stop the command with a message. `null` is no value.
This page is made from the dataclasses in `nemo_bt/config` by `python -m docs.references`.
"""
_COMMANDS = "# Every command\n\nThis page is made from the command line's own help by `python -m docs.references`.\n"
_FORMATS = """# Every row format

`model.data.format` names one; `auto` takes the first that fits a file's columns and reads all that belongs to the
conversation ([how](../guides/data.md#formats)). Columns are shown under the names that the settings give them
(`chosen_key` and the like). A row may lack some. This page is made from `nemo_bt/data/formats/table.py` by
`python -m docs.references`.

| format | whose | columns |
|---|---|---|"""
_STATUS = """
## Exit status

| status | meaning |
|---|---|
| 0 | The command is done. |
| 2 | The settings, the data or the files hold a mistake that you can mend. One message names it. |
| 75 | The run was asked to stop. It is saved, and the same command goes on. |
| 1 | Anything else. |

Under `torchrun` every failure becomes torchrun's own status 1.
"""


def main() -> None:
    """Write the pages."""
    (FOLDER / "settings.md").write_text(settings_page())
    (FOLDER / "commands.md").write_text(commands_page())
    (FOLDER / "formats.md").write_text(formats_page())


def formats_page() -> str:
    """Markdown: a table row for each row format, in the order in which they are looked for."""
    lines = [_FORMATS]
    for name, form in FORMATS.items():
        keys = SourceSettings(path=["rows.jsonl"])
        columns = [f"`{keys.named(column)}`" for column in columns_named(form) if keys.named(column)]
        lines.append(f"| `{name}` | {form.of} | {', '.join(columns)} |")
    return "\n".join(lines) + "\n"


def settings_page() -> str:
    """Markdown: a heading for each section, an entry for each key."""
    parts = [
        _HEAD,
        "## train, validate, data\n",
        *_sections(Settings, ""),
        "## A source of `model.data.train` or `model.data.validation.<set>`\n",
        "A source is a path alone, or a section with these keys. Keys of `model.data` that say how rows are read are",
        "inherited, where a source does not have them itself; so are the sections `pairs` and `custom_cls`.\n",
        *_entries(SourceSettings, ""),
        "## plan\n",
        "`nemo-bt plan` takes every setting of train, and these.\n",
        *_sections(PlanRun, "", {field.name for field in fields(Settings)}),
        "## score, evaluate, label, serve: the model\n",
        *_sections(ScoreRun, "", {"score"}),
    ]
    for kind, own in ((ScoreRun, "score"), (EvaluateRun, "evaluate"), (LabelRun, "label"), (ServeRun, "serve")):
        others = {field.name for field in fields(kind)} - {own}
        parts += [f"## {own}\n", *_sections(kind, "", others)]
    return _first_anchors("\n".join(parts)).rstrip() + "\n"


def _first_anchors(text: str) -> str:
    """Keep the first place alone that a key can be linked at."""
    seen: set[str] = set()

    def keep(found: re.Match[str]) -> str:
        is_first = found[0] not in seen
        seen.add(found[0])
        return found[0] if is_first else ""

    return re.sub(r'<a id="[^"]+"></a>', keep, text)


def commands_page() -> str:
    """Markdown: the help of each command."""
    (commands,) = (action for action in command_line()._actions if isinstance(action, argparse._SubParsersAction))
    parts = [_COMMANDS]
    helps = {choice.dest: choice.help for choice in commands._choices_actions}
    for name, command in commands.choices.items():
        parts.append(f"## nemo-bt {name}\n\n{_sentence(helps[name])}\n\n| argument | meaning |\n|---|---|")
        for action in command._actions:
            shown = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
            if not isinstance(action, argparse._HelpAction):
                parts.append(f"| {shown} | {_described(action)} |")
        parts.append("")
    return "\n".join(parts) + _STATUS


def _described(action: argparse.Action) -> str:
    choices = f"One of {', '.join(action.choices)}." if action.choices else ""
    default = f"Default: `{action.default}`." if action.default not in (None, False, []) else ""
    return " ".join(part for part in (_sentence(action.help or ""), choices, default) if part) or "A setting."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "." if text else ""


def _sections(kind: type, prefix: str, without: set[str] = frozenset()) -> Iterator[str]:
    """Headings and entries of a dataclass of sections, and of the sections inside them."""
    hints, meanings = get_type_hints(kind), meanings_of(kind)
    for field in fields(kind):
        section = hints[field.name]
        if field.name not in without and is_dataclass(section):
            key = f"{prefix}{field.name}"
            yield f"### `{key}`\n\n{meanings.get(field.name) or paragraphs(section)}\n"
            yield from _entries(section, f"{key}.")
            yield from _sections(section, f"{key}.")


def paragraphs(kind: type) -> str:
    """Text of a docstring, each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.getdoc(kind).split("\n\n"))


def _entries(kind: type, prefix: str) -> Iterator[str]:
    hints, meanings = get_type_hints(kind, include_extras=True), meanings_of(kind)
    for field in fields(kind):
        key = f"{prefix}{field.name}"
        anchor = f'<a id="{key}"></a>' if prefix else ""
        if not is_dataclass(hints[field.name]):
            yield f"- {anchor}**`{key}`** = {_default(field)} · {_values(hints[field.name])}  "
            yield f"  {meanings[field.name]}"
    yield ""


def meanings_of(kind: type) -> dict[str, str]:
    """Text under each field, the inherited ones too."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        (body,) = (node.body for node in ast.parse(textwrap.dedent(inspect.getsource(owner))).body)
        for line, below in pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(below, ast.Expr):
                found[line.target.id] = " ".join(ast.literal_eval(below.value).split())
    return found


def _default(field: Field[Any]) -> str:
    default = field.default
    if field.default_factory is not MISSING:
        default = field.default_factory()
    elif hasattr(default, "default_factory") and default.default_factory is not None:
        default = default.default_factory()
    if default is MISSING:
        return "*needed*"
    return f"`{default}`" if isinstance(default, str) and default else f"`{json.dumps(default)}`"


def _values(kind: Any) -> str:
    """Type, choices and range as a reader expects them."""
    inner = without_none(kind)
    or_null = "; or null" if type(None) in get_args(kind) else ""
    if get_origin(inner) is Literal:
        return choices_of(kind)
    if get_origin(inner) in (list, dict):
        return ("list" if get_origin(inner) is list else "section") + or_null
    if inner is bool:
        return "true or false"
    names = {int: "integer", float: "number", str: "text", list: "list", dict: "section"}
    parts = [inner] if inner in names else get_args(inner)
    name = " or ".join(names[get_origin(part) or part] for part in parts)
    bounds = range_of(kind)
    return name + (f", {bounds}" if bounds != "a number" else "") + or_null


if __name__ == "__main__":
    main()
