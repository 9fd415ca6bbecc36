"""Lists, attributes, ties, soft labels and scores train alike at every layout, and as plain PyTorch says."""

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nemo_bt.batching.sampling import pairs_of_step
from nemo_bt.config.load import load_settings
from nemo_bt.config.model import Settings
from nemo_bt.data.store.load import load_sets
from nemo_bt.data.store.pair_set import PairSet
from nemo_bt.observability.terminal import Terminal
from nemo_bt.pretrained.resolve import find_pretrained, open_weights
from tests.support import plain_losses
from tests.support.launches import Logs
from tests.support.layouts import TOLERANCE, checkpoint
from tests.support.plain_losses import One
from tests.support.reference import hf_names, llama, unstacked
from tests.support.runs import full_tensors, metrics, relative_difference
from tests.support.signals import (
    ADAPTED,
    AT_ALL_LAYOUTS,
    ATTRIBUTES,
    ELSEWHERE,
    HIDDEN_SIZE,
    SIGNALS,
    STARTS,
    STEPS,
    TWO_LAYERS_ADAPTED,
    WEIGHTS,
    runs_of_all_signals,
)

planned_runs = runs_of_all_signals
CLOSE = {"rel": TOLERANCE}
MEAN = {"rel": 1e-4, "abs": 1e-5}
EXPECTED = {"loss": CLOSE, "grad_norm": CLOSE, "accuracy": CLOSE, "reward_chosen": MEAN, "margin": MEAN}


@pytest.mark.parametrize("name", ELSEWHERE)
@pytest.mark.runs(*AT_ALL_LAYOUTS)
def test_losses_and_weights_equal_one_ranks(logs: Logs, name: str) -> None:
    one = name.split(":")[0]
    for key, tolerances in EXPECTED.items():
        expected, found = (metrics(logs / log_dir, f"train/{key}") for log_dir in (one, name))
        assert len(expected) == STEPS
        assert found == pytest.approx(expected, **tolerances), key
    expected_weights, found_weights = (full_tensors(checkpoint(logs / log_dir, STEPS)) for log_dir in (one, name))
    differences = [relative_difference(found_weights[key], value) for key, value in expected_weights.items()]
    assert max(differences) < TOLERANCE


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if name.startswith("attributes")])
@pytest.mark.runs("attributes")
def test_what_is_measured_of_attributes_equals_one_ranks(logs: Logs, name: str) -> None:
    for start, number in (("train", STEPS), ("val/held_out", 1)):
        for key, tolerances in {"known": {"abs": 0}, "error": CLOSE, "reward": MEAN}.items():
            for attribute in ATTRIBUTES:
                of_both = [metrics(logs / one, f"{start}/attribute/{attribute}/{key}") for one in ("attributes", name)]
                assert len(of_both[0]) == number
                assert of_both[1] == pytest.approx(of_both[0], **tolerances), (start, attribute, key)


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if name.startswith("lists")])
@pytest.mark.runs("lists")
def test_all_answers_of_lists_are_measured_as_on_one_rank(logs: Logs, name: str) -> None:
    for start, number in (("train", STEPS), ("val/held_out", 1)):
        for key, tolerances in {"answers": {"abs": 0}, "reward_mean": MEAN, "reward_std": MEAN}.items():
            one, other = (metrics(logs / log_dir, f"{start}/{key}") for log_dir in ("lists", name))
            assert len(one) == number
            assert other == pytest.approx(one, **tolerances), (start, key)


@pytest.mark.parametrize(("name", "step"), [("learnt ties", STEPS), (ADAPTED, 1), (TWO_LAYERS_ADAPTED, 2)])
def test_a_learnt_tie_is_no_weight_of_the_model(logs: Logs, name: str, step: int) -> None:
    path = checkpoint(logs / name, step)
    assert any(key.endswith("log_tie") for key in full_tensors(path))
    opened = open_weights(find_pretrained(str(path)), 0)
    assert opened.has_head
    assert not any("tie" in key for key in opened.source.infos)


LOSSES: dict[str, Callable[[One], Tensor]] = {
    "lists": plain_losses.plackett_luce,
    "attributes": partial(plain_losses.regression, error="mse"),
    "pairs and attributes": lambda one: (
        plain_losses.scaled(one, {1.0: 1.0, 2.0: 1.0, 3.0: 1.0}) + 0.3 * plain_losses.regression(one, error="mse")
    ),
    "two layers": partial(plain_losses.regression, error="mse"),
    "scores": partial(plain_losses.regression, error="bce"),
    "davidson": partial(plain_losses.davidson, v=0.7),
    "learnt ties": plain_losses.davidson,
    "rao_kupper": partial(plain_losses.rao_kupper, theta=2.718281828459045**0.7),
    "soft labels": partial(plain_losses.bradley_terry, label_smoothing=0.05),
    "strengths": partial(plain_losses.scaled, factors={1.0: 1.0, 2.0: 3.0, 3.0: 10.0}),
    "lengths": partial(plain_losses.length_penalised, factor=0.5, scale=3),
    "hinge": partial(plain_losses.hinge, lead=0.5),
    "lists and scores": lambda one: plain_losses.plackett_luce(one) + 0.3 * plain_losses.regression(one, error="mse"),
}


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.runs("initial", *STARTS.values())
def test_losses_equal_a_plain_pytorch_loop_over_transformers(
    logs: Logs, dataset: Path, tokenizer: Any, name: str
) -> None:
    settings = load_settings("config", [], str(logs / name))
    rows = [json.loads(line) for line in Path(settings.model.data.train[0].path[0]).read_text().splitlines()]
    train = load_sets(settings, tokenizer, False, Terminal(None))["train"]
    expected = plain_loop(logs, name, settings, train, tokenizer, rows, LOSSES[name])
    assert metrics(logs / name, "train/loss") == pytest.approx(expected, abs=2e-5)
    assert len({round(loss, 4) for loss in expected}) == STEPS


def plain_loop(
    logs: Logs,
    name: str,
    settings: Settings,
    train: PairSet,
    tokenizer: Any,
    rows: list[dict[str, Any]],
    loss_of: Callable[[One], Tensor],
) -> list[float]:
    """Train transformers' model on the same comparisons a step, one after the other, with torch's AdamW."""
    has_attributes = bool(settings.model.reward_head.attributes)
    hf = llama(384, layers=4, hidden=64, ffn=160, heads=4, groups=2)
    weights = unstacked(full_tensors(checkpoint(logs / STARTS.get(name, "initial"), 1)))
    if has_attributes:
        hf.score = torch.nn.Linear(64, 2, bias=False)
    if settings.model.reward_head.hidden_size:
        layers = (torch.nn.Linear(64, HIDDEN_SIZE), torch.nn.ReLU(), torch.nn.Linear(HIDDEN_SIZE, 2))
        hf.score = torch.nn.Sequential(*layers)
    hf.load_state_dict(hf_names(weights, hf.config))
    matrices, vectors = ([p for p in hf.parameters() if (p.ndim > 1) == wide] for wide in (True, False))
    log_tie = torch.nn.Parameter(torch.tensor([settings.model.loss.tie]).log())
    if settings.model.loss.learn_tie:
        vectors.append(log_tie)
        of_tie = loss_of
        loss_of = lambda one: of_tie(one, v=log_tie.exp()[0])  # noqa: E731 - as the others are
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6)
    losses = []
    errors: list[list[float]] = []
    for step in range(STEPS):
        numbers = pairs_of_step(1234, step, 16, train.epoch).tolist()
        ones = [compared(hf, train, number, tokenizer, rows, has_attributes) for number in numbers]
        loss = torch.stack([loss_of(one) for one in ones]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*matrices, *vectors], 1.0)
        optimizer.step()
        losses.append(loss.item())
        errors += [mean_errors(ones)] if has_attributes else []
    for attribute, found in zip(ATTRIBUTES, zip(*errors, strict=True), strict=True) if has_attributes else ():
        logged = metrics(settings.exp_manager.log_dir, f"train/attribute/{attribute}/error")
        assert logged == pytest.approx(found, rel=1e-4)
    if settings.model.loss.learn_tie:
        stored = full_tensors(checkpoint(logs / "learnt ties", STEPS))
        (learnt,) = next(tensor for name, tensor in stored.items() if name.endswith("log_tie")).tolist()
        assert learnt == pytest.approx(log_tie.item(), abs=1e-6)
        assert abs(learnt - math.log(0.7)) > 1e-5
        assert metrics(logs / "learnt ties", "train/tie")[0] == pytest.approx(0.7)
    return losses


def mean_errors(ones: list[One]) -> list[float]:
    """The mean squared error of each attribute over the answers of a step that have a value."""
    of_each = []
    for number in range(len(ATTRIBUTES)):
        known = [
            (rewards[number].item(), values[number])
            for one in ones
            for rewards, values in zip(one.attribute_rewards or [], one.attributes or [], strict=True)
            if values[number] is not None
        ]
        of_each.append(sum((reward - float(value or 0)) ** 2 for reward, value in known) / len(known))
    return of_each


def compared(
    hf: Any, train: PairSet, number: int, tokenizer: Any, rows: list[dict[str, Any]], has_attributes: bool
) -> One:
    """A comparison of the set with the rewards of transformers, and with what its row says."""
    row = rows[int(train.where(number).rsplit(" ", 1)[1])]
    (group,) = train.groups([number])
    ids = [[*group.prefix.tolist(), *group.continuations[side].tolist()] for side in group.comparisons[0].sides]
    found = [hf.score(hf.model(input_ids=torch.tensor([one])).last_hidden_state)[0, -1] for one in ids]
    rewards = [values @ torch.tensor(WEIGHTS) if has_attributes else values[0] for values in found]
    if "completions" in row:
        ends = [f"{entry['response'][0]['content']}{tokenizer.eos_token}" for entry in row["completions"]]
        at = [next(n for n, end in enumerate(ends) if tokenizer.decode(one).endswith(end)) for one in ids]
        assert sorted(at) == list(range(len(ends)))
        entries = [row["completions"][n] for n in at]
        scores = [entry["score"] for entry in entries]
        assert scores == sorted(scores, reverse=True)
        values = [[entry[name] for name in ATTRIBUTES] for entry in entries]
        return One(rewards, scores, attribute_rewards=found, attributes=values if has_attributes else None)
    if "winner" in row:
        return One(rewards, preference=0.5 if row["winner"] == "tie" else 1.0)
    of_both = [[row["chosen_help"], row["verbosity"][0]], [row["rejected_help"], row["verbosity"][1]]]
    attributes: Any = {"attribute_rewards": found, "attributes": of_both} if has_attributes else {}
    known: Any = {"preference": row["preference"], "margin": float(row["margin"]), "tokens": list(map(len, ids))}
    return One(rewards, **known, **attributes)
