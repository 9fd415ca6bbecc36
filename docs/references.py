"""Pages of the reference that are made from the source: `python -m docs.references` writes them.

Settings come from the dataclasses of nemo_bt.config, their meanings from the text under each field; commands from
the argument parser; row formats from their table.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from nemo_bt.cli.arguments import command_line
from nemo_bt.config.data import SourceSettings
from nemo_bt.config.describe import described, meanings_of, sections
from nemo_bt.config.model import Settings
from nemo_bt.config.plan import PlanRun
from nemo_bt.config.score import EvaluateRun, LabelRun, ScoreRun
from nemo_bt.config.serve import ServeRun
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
        columns = [f"`{keys.named(column)}`" for column in form.columns if keys.named(column)]
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
            if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS:
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
    meanings = meanings_of(kind)
    for name, section in sections(kind):
        if name not in without:
            key = f"{prefix}{name}"
            yield f"### `{key}`\n\n{meanings.get(name) or paragraphs(section)}\n"
            yield from _entries(section, f"{key}.")
            yield from _sections(section, f"{key}.")


def paragraphs(kind: type) -> str:
    """Text of a docstring, each paragraph on one line."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.getdoc(kind).split("\n\n"))


def _entries(kind: type, prefix: str) -> Iterator[str]:
    for one in described(kind, prefix):
        anchor = f'<a id="{one.key}"></a>' if prefix else ""
        default = "*needed*" if one.default == "needed" else f"`{one.default}`"
        yield f"- {anchor}**`{one.key}`** = {default} · {one.values}  "
        yield f"  {one.meaning}"
    yield ""


if __name__ == "__main__":
    main()
