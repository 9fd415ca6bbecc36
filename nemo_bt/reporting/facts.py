"""Facts about a run, from its log directory: model, data, layout, time and software."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from nemo_bt.config.model import Settings
from nemo_bt.observability.events import read_events
from nemo_bt.pretrained.resolve import InitialWeights
from nemo_bt.reporting.settings import ReportRun

Facts = list[tuple[str, str]]


def facts_of(run: ReportRun, initial: InitialWeights | None, records: Sequence[dict[str, Any]]) -> Facts:
    """Collect names and values, for people to read.

    Args:
        run: run that is reported on.
        initial: weights of its checkpoint; None where the report does not look at them.
        records: records of metrics.jsonl.
    """
    events = read_events(run.log_dir)
    starts = [event for event in events if event["event"] == "started"]
    return [
        ("log directory", run.log_dir.resolve().name),
        *(_model(initial) if initial else []),
        *_training(run.was),
        *([("scored at", _layout(run.settings))] if initial else []),
        *_time(records),
        *([("started", f"{starts[0]['time']}, {len(starts) - 1} restarts")] if starts else []),
        *(_software(starts[-1].get("software", {})) if starts else []),
    ]


def _model(initial: InitialWeights) -> Facts:
    path = Path(initial.pretrained.given)
    parameters = sum(info.num_elements for info in initial.source.infos.values())
    return [
        ("checkpoint", path.name),
        ("model", f"{initial.pretrained.hf_config['model_type']}, {parameters:,} parameters"),
    ]


def _training(settings: Settings) -> Facts:
    model = settings.model
    trainer = settings.trainer
    own = model.loss.custom_fn.name
    terms = [f"{name} {value}" for name, value in model.loss.terms.items() if name != "kind"]
    is_plain = model.loss.kind == "bradley_terry"
    formula = "-log sigmoid(r_chosen - r_rejected)" if is_plain else model.loss.kind
    loss = f"the function {own}" if own else ", ".join([formula, *terms])
    sched = model.optim.sched
    data = {"training data": model.data.train} | {f"validation {k}": v for k, v in model.data.validation.items()}
    return [
        ("started from", Path(model.restore_from_path).name if model.restore_from_path else "random weights"),
        *((name, ", ".join(source.name for source in sources)) for name, sources in data.items()),
        (
            f"{'prompts' if model.loss.takes == 'answers' else model.loss.takes} of a step",
            f"{model.global_batch_size:,}",
        ),
        ("longest conversation", f"{model.encoder_seq_length:,} tokens"),
        ("loss", loss),
        ("learning rate", f"{model.optim.lr:g}, {sched.name}, weight decay {model.optim.weight_decay:g}"),
        *([("adapters", f"LoRA of rank {model.peft.lora.adapter_dim}")] if model.peft.lora else []),
        *([("validations", f"of {trainer.limit_val_batches} batches")] if trainer.limit_val_batches != 1.0 else []),
        ("layout", _layout(settings)),
        ("seed", str(trainer.seed)),
    ]


def _layout(settings: Settings) -> str:
    model = settings.model
    sizes = {
        "TP": model.tensor_model_parallel_size,
        "PP": model.pipeline_model_parallel_size,
        "CP": model.context_parallel_size,
        "EP": model.expert_model_parallel_size,
    }
    shared = [f"{name} {size}" for name, size in sizes.items() if size > 1]
    ranks = f"{settings.world_size} rank{'s' if settings.world_size > 1 else ''}"
    return ", ".join([ranks, *shared, f"precision {settings.trainer.precision}"])


def _time(records: Sequence[dict[str, Any]]) -> Facts:
    training = [record for record in records if "train/loss" in record]
    if not training:
        return []
    steps = [(before["step"], after) for before, after in pairwise([{"step": 0}, *training])]
    seconds = sum((record["step"] - before) * record["train/step_time_s"] for before, record in steps)
    speed = median(record["train/tokens_per_second"] for record in training)
    return [
        ("steps", f"{training[-1]['step']:,}, {training[-1].get('train/skipped_steps', 0)} skipped"),
        ("time in steps", str(timedelta(seconds=round(seconds)))),
        ("speed", f"{speed:,.0f} tokens/s, the median of the logged steps"),
    ]


def _software(facts: dict[str, str]) -> Facts:
    named = {name.removeprefix("package "): value for name, value in facts.items()}
    installed = {name: value for name, value in named.items() if value != "not installed"}
    apart = [(name, installed.pop(name)) for name in ("git revision", "code of nemo_bt") if name in installed]
    listed = ", ".join(f"{name} {value}" for name, value in installed.items())
    return [*apart, *([("software", listed)] if listed else [])]
