"""nemo-bt plan: it reads settings, searches, and shows the result.

UserError says which settings cannot be, or that there is no such model or data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nemo_bt.config.equations import check_data
from nemo_bt.config.load import load_settings_of
from nemo_bt.config.plan import PlanRun
from nemo_bt.data.inspect import open_sets
from nemo_bt.errors import UserError
from nemo_bt.observability.terminal import Terminal
from nemo_bt.planning.checks import check_plan
from nemo_bt.planning.report import as_json, show
from nemo_bt.planning.search import Planned, Rejected, search
from nemo_bt.planning.streams import Pairs, drawn_pairs, pairs_of_set
from nemo_bt.pretrained.resolve import HUB_FILES_BESIDE_WEIGHTS, PretrainedSource, find_pretrained
from nemo_bt.training.checks import run_architecture


def plan_run(
    config_name: str,
    overrides: Sequence[str],
    config_dir: str | None,
    num_rows: int,
    wants_json: bool,
    terminal: Terminal,
) -> None:
    """Try every layout of a configuration and show what comes out.

    Args:
        config_name: a file of `conf/` or of `config_dir`, without .yaml.
        overrides: texts `key=value`.
        config_dir: a folder of your own.
        num_rows: layouts that each table shows.
        wants_json: JSON is shown in the place of tables.
    """
    run = load_settings_of(PlanRun, config_name, overrides, config_dir)
    if num_rows < 1:
        raise UserError(f"--rows: expected 1 or more, got {num_rows}.")
    results = plan(run, Terminal(None) if wants_json else terminal)
    if wants_json:
        terminal.line(as_json(run, results))
    else:
        show(run, results, num_rows, terminal)


def plan(run: PlanRun, terminal: Terminal) -> list[Planned | Rejected]:
    """Try every layout."""
    check_plan(run)
    given = run.model.restore_from_path
    pretrained = find_pretrained(given, hub_files=HUB_FILES_BESIDE_WEIGHTS) if given else None
    architecture = run_architecture(run, pretrained, num_tokens=1)
    return search(run, architecture, _pairs(run, pretrained, terminal))


def _pairs(run: PlanRun, pretrained: PretrainedSource | None, terminal: Terminal) -> Pairs:
    """Give the pairs of the training data, or drawn ones where there is none."""
    model = run.model
    if not model.data.train:
        return drawn_pairs(run.plan.lengths, run)
    check_data(model.data)
    folder = model.tokenizer.type or (str(pretrained.tokenizer) if pretrained else None)
    model = replace(model, data=replace(model.data, validation={}), tokenizer=replace(model.tokenizer, type=folder))
    sets, _ = open_sets(replace(run, model=model), terminal)
    return pairs_of_set(sets["train"], run)
