"""README and docs/: commands, settings, code, names of files and figures are those of the source.

Those of `nemo-bt data` run. Those of the other commands, which need a model or half a minute, are read by the command
line's own parser and their settings composed; tests/integration runs each of these commands on data of its own.
Blocks under `<!-- needs a cluster -->` or `<!-- needs a GPU -->` are looked at for names of files and modules.
"""

import argparse
import ast
import importlib
import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tables import pages
from docs.references import commands_page, formats_page, settings_page
from nemo_bt import __all__ as public
from nemo_bt import api
from nemo_bt.cli.arguments import command_line, parse
from nemo_bt.cli.kinds import kind_of
from nemo_bt.cli.main import run
from nemo_bt.config.load import load_settings, load_settings_of
from nemo_bt.config.messages import all_keys
from nemo_bt.config.model import Settings
from nemo_bt.config.plan import PlanRun
from nemo_bt.config.score import RUNS
from nemo_bt.config.serve import ServeRun
from nemo_bt.data.synthetic import write_dataset
from nemo_bt.serving.protocol import RewardRequest
from tests.support.doc_blocks import PAGES, Block, blocks, spans
from tests.support.runs import REPO

KINDS: dict[str, Any] = {"plan": PlanRun, "serve": ServeRun, **RUNS}
COMMANDS = [(block, words) for block in blocks("bash") if not block.needs for words in block.commands]
NEEDING = [words for block in blocks("bash") if block.needs for words in block.commands]
SECTIONS = "trainer|model|exp_manager|score|evaluate|label|serve"
KEYS = {".".join(path) for kind in (Settings, *KINDS.values()) for path in all_keys(kind)}


def starting(*words: str) -> list[list[str]]:
    return [command for _, command in COMMANDS if command[: len(words)] == list(words)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages speak of."""
    folder = tmp_path_factory.mktemp("docs")
    data = folder / "runs" / "quickstart" / "data"
    write_dataset(data)
    shutil.copytree(data / "tokenizer", folder / "my-tokenizer")
    (folder / "prefs").mkdir()
    for name in ("prefs/some.parquet", "prefs.parquet", "hh_val.parquet"):
        shutil.copy(data / "validation.parquet", folder / name)
    (folder / "votes.jsonl").write_text(json.dumps({"question": "Tea?", "answers": {"Gladly.": 3, "No.": 1}}) + "\n")
    (folder / "conf").symlink_to(REPO / "conf")
    for block in blocks("yaml"):
        if block.title:
            (folder / block.title).parent.mkdir(exist_ok=True)
            (folder / block.title).write_text(block.code)
    return folder


@pytest.mark.parametrize(
    "argv", [words[1:] for words in [*starting("nemo-bt"), *NEEDING] if words[0] == "nemo-bt"], ids=" ".join
)
def test_the_command_line_takes_it(argv: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    args = parse(argv)
    if args.command == "report":
        load_settings("train", args.overrides)
    elif hasattr(args, "cfg"):
        kind = kind_of(getattr(args, "kind", args.command))
        load_settings_of(kind, args.config_name, args.overrides, args.config_dir)


@pytest.mark.parametrize("argv", [words[1:] for words in starting("nemo-bt", "data")], ids=" ".join)
def test_it_runs(argv: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(folder)
    assert run([*argv, "model.data.num_workers=1"]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("words", starting("python", "-m"), ids=" ".join)
def test_a_module_takes_its_arguments(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def read(self: argparse.ArgumentParser, argv: list[str] | None = None) -> None:
        raise StopIteration(actual(self, words[3:] if argv is None else argv))

    actual = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read)
    monkeypatch.setattr("sys.argv", words[2:])
    with pytest.raises(StopIteration):
        importlib.import_module(words[2]).main()


@pytest.mark.parametrize("words", starting("curl"), ids=" ".join)
def test_a_request_is_one_that_the_server_takes(words: list[str]) -> None:
    assert words[1] == "localhost:8000/reward"
    RewardRequest.model_validate_json(words[words.index("-d") + 1])


def test_every_command_is_of_a_kind_that_is_looked_at() -> None:
    first = {words[0] for _, words in COMMANDS}
    assert first <= {"nemo-bt", "make", "python", "curl", "pip"}
    assert starting("pip") == [["pip", "install", "--editable", "."]]
    targets = set(re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    assert {words[1] for words in [*starting("make"), *NEEDING] if words[0] == "make"} <= targets
    for words in NEEDING:
        jobs = [word.removeprefix("/shared/sw/nemo_bt/") for word in words if word.endswith(".sbatch")]
        assert all((REPO / job).exists() for job in jobs)
        assert all(find_spec(words[n + 1]) for n, word in enumerate(words) if word == "-m")


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: str(block.page.name))
def test_settings_in_yaml_are_settings(block: Block, tmp_path: Path) -> None:
    text = block.code if "defaults:" in block.code else f"defaults: [train, _self_]\n{block.code}"
    (tmp_path / "mine.yaml").write_text(text)
    load_settings("mine", [], config_dir=str(tmp_path))


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: f"{block.page.name}:{block.code[:30]!r}")
def test_python_uses_names_and_settings_that_exist(block: Block) -> None:
    for node in ast.walk(ast.parse(block.code)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nemo_bt":
            assert node.attr in public
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nemo_bt.load_settings":
            api.load_settings(*map(ast.literal_eval, node.args))


def test_code_in_the_text_names_what_exists() -> None:
    (actions,) = (action for action in command_line()._actions if action.dest == "command")
    targets = set(re.findall(r"^([\w-]+):", (REPO / "Makefile").read_text(), re.MULTILINE))
    wrong = []
    for page, span in spans():
        words = span.split()
        if words[0] == "nemo-bt" and len(words) > 1:
            exists = words[1] in actions.choices
        elif words[0] == "make" and len(words) > 1:
            exists = words[1] in targets
        elif words[:2] == ["python", "-m"]:
            exists = find_spec(words[2]) is not None
        elif re.fullmatch(r"(nemo_bt|conf|converters|tests|benchmarks|docs|examples|slurm)/[\w./-]*", span):
            exists = (REPO / span).exists()
        elif not span.endswith((".yaml", ".sbatch")) and re.match(rf"({SECTIONS})\.[a-z_.]+(=\S*)?$", span):
            key = span.partition("=")[0]
            exists = any(f"{known}.".startswith(f"{key}.") or key.startswith(f"{known}.") for known in KEYS)
        else:
            continue
        if not exists:
            wrong.append(f"{page.relative_to(REPO)}: {span}")
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))
def test_links_lead_somewhere(page: Path) -> None:
    made_by_the_site = REPO / "docs" / "reference" / "code"
    for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text()):
        target = (page.parent / link).resolve()
        assert link.startswith("https://") or target.is_relative_to(made_by_the_site) or target.exists(), link


def test_the_reference_has_every_setting_and_command() -> None:
    reference, settings = REPO / "docs" / "reference", settings_page()
    assert (reference / "settings.md").read_text() == settings, "make docs writes the page again"
    assert (reference / "commands.md").read_text() == commands_page(), "make docs writes the page again"
    assert (reference / "formats.md").read_text() == formats_page(), "make docs writes the page again"
    assert {key for key in KEYS if f"**`{key}`**" not in settings} == set()


def test_the_api_reference_has_every_public_name() -> None:
    text = (REPO / "docs" / "reference" / "api.md").read_text()
    assert {name for name in public if f"::: nemo_bt.{name}\n" not in text and f"{name}`" not in text} == set()


def test_figures_are_those_of_the_result_files() -> None:
    assert {path for path, text in pages().items() if path.read_text() != text} == set(), "python -m benchmarks.tables"
