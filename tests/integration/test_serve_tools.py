"""Calls of tools, their results and many turns go through the server, and get the reward of what the template renders.

The truth is transformers' template and model; RewardScorer has its own say on the ids.
"""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nemo_bt.scoring.scorer import RewardScorer
from tests.support.hf_models import save
from tests.support.reference import alone
from tests.support.runs import REPO
from tests.support.serving import serving

TEMPLATE = REPO / "tests" / "support" / "templates" / "tools.jinja"


def one_call(arguments: Any, number: int = 0) -> dict[str, Any]:
    return {"id": f"c{number}", "type": "function", "function": {"name": "fetch", "arguments": arguments}}


def call(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED = [said("system", "Be kind."), said("user", "Is there tea?")]
TEA = one_call({"what": "tea"})
ANSWERS = [said("user", "Bring one."), said("assistant", "Here it is.")]
CONVERSATIONS = {
    "ends with a call": [*ASKED, call(TEA)],
    "ends with another call": [*ASKED, call(one_call({"what": "milk"}))],
    "a call as OpenAI's clients send it": [*ASKED, call(one_call('{"what": "tea"}'))],
    "two calls, and what came": [
        *ASKED, call(TEA, one_call({}, 1)), said("tool", "3", tool_call_id="c0"),
        said("tool", "none", tool_call_id="c1"), said("assistant", "Three."),
    ],
    "turns before and behind a call": [
        *ASKED, said("assistant", "I look."), said("user", "Well?"), call(TEA),
        said("tool", '{"tea": 3}', tool_call_id="c0", name="fetch"), said("assistant", "Three."), *ANSWERS,
    ],
    "turns without one": [*ASKED, said("assistant", "Yes."), *ANSWERS],
}  # fmt: skip
ROWS = list(CONVERSATIONS.values())


@pytest.fixture(scope="module")
def templated(tokenizer: Any) -> Any:
    own = copy.deepcopy(tokenizer)
    own.chat_template = TEMPLATE.read_text()
    return own


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, templated: Any) -> Path:
    return save("qwen3", tmp_path_factory.mktemp("tools") / "model", tokenizer=templated, initializer_range=0.3)


@pytest.fixture(scope="module")
def expected(model: Path, templated: Any) -> list[float]:
    return alone(model, ROWS, templated)


@pytest.fixture(scope="module")
def address(model: Path) -> Iterator[str]:
    with serving(model) as (address, _):
        yield address


def post(address: str, route: str, body: dict[str, Any]) -> Any:
    found = httpx.post(f"{address}{route}", content=json.dumps(body), timeout=60)
    assert found.status_code == 200, found.text
    return found.json()


def test_the_scorer_gives_the_reward_of_the_rendered_ids(model: Path, templated: Any, expected: list[float]) -> None:
    ids = [templated.apply_chat_template(row, tokenize=True) for row in ROWS]
    with RewardScorer.from_pretrained(model, accelerator="cpu") as scorer:
        assert scorer.score_batch(ROWS) == pytest.approx(expected, abs=1e-5)
        assert scorer.score_batch(ids) == pytest.approx(expected, abs=1e-5)
    distances = [abs(one - other) for i, one in enumerate(expected) for other in expected[:i]]
    assert min(distances) > 1e-3  # else a call that was lost would not be seen


def test_reward_takes_them_as_messages_and_as_ids(address: str, templated: Any, expected: list[float]) -> None:
    ids = [templated.apply_chat_template(row, tokenize=True) for row in ROWS]
    for given in (ROWS, ids):
        assert post(address, "/reward", {"conversations": given})["rewards"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_routes_of_chats_take_them(address: str, templated: Any, expected: list[float], name: str) -> None:
    row, reward = CONVERSATIONS[name], pytest.approx(expected[list(CONVERSATIONS).index(name)], abs=1e-5)
    num_tokens = len(templated.apply_chat_template(row, tokenize=True))
    for route in ("/classify", "/v1/classify"):
        found = post(address, route, {"messages": row})
        assert (found["data"][0]["probs"], found["usage"]["prompt_tokens"]) == ([reward], num_tokens)
    assert post(address, "/pooling", {"messages": row})["data"][0]["data"] == [reward]
    if row[-1]["content"] is not None:
        asked = {"prompt": row[:-1], "response": row[-1]["content"], "label": None}
        assert post(address, "/remote_rm", asked) == reward


@pytest.mark.parametrize(
    "field",
    [
        {"tools": [{"type": "function", "function": {"name": "fetch"}}]},
        {"chat_template": "{{ messages }}"},
        {"chat_template_kwargs": {"deep": True}},
        {"add_generation_prompt": True},
    ],
    ids=lambda field: next(iter(field)),
)
def test_what_would_render_messages_otherwise_is_refused(address: str, field: dict[str, Any]) -> None:
    found = httpx.post(f"{address}/classify", json={"messages": ROWS[0], **field}, timeout=60)
    assert (found.status_code, found.json()["detail"].split(":")[0]) == (422, next(iter(field))), found.text
    nothing = {"tools": [], "chat_template": None, "chat_template_kwargs": {}, "add_generation_prompt": False}
    assert httpx.post(f"{address}/classify", json={"messages": ROWS[0], **nothing}, timeout=60).status_code == 200
