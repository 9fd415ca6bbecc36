"""nemo-bt plan: settings -> the search, shown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace

from nemo_bt.architecture import megatron_fields
from nemo_bt.checks import check_data, hf_config_of
from nemo_bt.config import load_settings_of
from nemo_bt.data.inspect import open_sets
from nemo_bt.errors import UserError
from nemo_bt.origin import find_origin
from nemo_bt.plan.report import as_json, show
from nemo_bt.plan.search import search
from nemo_bt.plan.settings import PlanRun
from nemo_bt.plan.shape import model_shape
from nemo_bt.plan.streams import Pairs, drawn_pairs, pairs_of_set
from nemo_bt.ranges import check_ranges
from nemo_bt.terminal import Terminal


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
        overrides: `key=value`.
        config_dir: a folder of your own.
        num_rows: layouts of each table.
        wants_json: JSON in the place of tables.
        terminal: to print on.

    Raises:
        UserError: settings that cannot be; no such model or data.
    """
    run = load_settings_of(PlanRun, config_name, overrides, config_dir)
    if num_rows < 1:
        raise UserError(f"--rows: expected 1 or more, got {num_rows}.")
    check_ranges(run)
    _check_plan(run)
    if run.model.peft.lora:
        raise UserError("model.peft.peft_scheme=lora: a plan counts full training. Leave it out.")
    given = run.model.restore_from_path
    origin = find_origin(given, hub_files=("config.json",)) if given else None
    hf_config = hf_config_of(run, origin, num_tokens=1)
    sizes = megatron_fields(hf_config, run.model.encoder_seq_length)
    shape = model_shape(hf_config)
    results = search(run, shape, sizes, _pairs(run, Terminal(None) if wants_json else terminal))
    if wants_json:
        terminal.line(as_json(run, results))
    else:
        show(run, results, num_rows, terminal)


def _check_plan(run: PlanRun) -> None:
    """Check the sections that only a plan has.

    Raises:
        UserError: the first value that cannot be.
    """
    for field in fields(run.plan):
        value = getattr(run.plan, field.name)
        least = 0 if field.name == "recompute_layers" else 1
        numbers = [number for number in value if number is not None] if isinstance(value, list) else []
        numbers += [value] if isinstance(value, int) else []
        if any(number < least for number in numbers) or value == []:
            raise UserError(f"plan.{field.name}: expected numbers from {least}, got {value}.")
    for field in fields(run.cluster):
        value = getattr(run.cluster, field.name)
        if isinstance(value, float) and not (math.isfinite(value) and value > 0):
            raise UserError(f"cluster.{field.name}: expected more than 0, got {value}.")
    for name in ("matmul_efficiency", "attention_efficiency"):
        if getattr(run.cluster, name) > 1:
            raise UserError(f"cluster.{name}: expected a share, (0, 1], got {getattr(run.cluster, name)}.")
    if run.plan.lengths.num_pairs < 1:
        raise UserError(f"plan.lengths.num_pairs: expected 1 or more, got {run.plan.lengths.num_pairs}.")


def _pairs(run: PlanRun, terminal: Terminal) -> Pairs:
    if not run.model.data.train:
        return drawn_pairs(run.plan.lengths, run)
    check_data(run.model.data)
    data = replace(run.model.data, validation={})
    sets, _ = open_sets(replace(run, model=replace(run.model, data=data)), terminal)
    return pairs_of_set(sets["train"], run)
