"""A few rows of each published data set that the ready mixtures name, with the columns that those have."""

from typing import Any

from tests.support.preferences import messages


def _shp(post: int, better: int, worse: int, number: int) -> dict[str, Any]:
    """The better comment is A in even rows."""
    first = number % 2 == 0
    texts = [f"comment {post}-{number} good", f"comment {post}-{number} bad"]
    return {
        "post_id": f"p{post}",
        "history": f"post {post}",
        "human_ref_A": texts[0 if first else 1],
        "human_ref_B": texts[1 if first else 0],
        "labels": int(first),
        "score_A": better if first else worse,
        "score_B": worse if first else better,
        "score_ratio": better / worse,
    }


def _ultrafeedback(number: int, scores: tuple[float, ...]) -> dict[str, Any]:
    rating = {"Rating": "4", "Rationale": "The text does what it was asked to do."}
    beside = {
        "principle": "helpfulness",
        "custom_system_prompt": "As an assistant, be kind.",
        "critique": "It is good.",
    }
    completions = [
        {"model": "m", "response": f"answer {i}", "overall_score": 5.0 - s, "fine-grained_score": s}
        | beside
        | {"annotations": {"helpfulness": rating, "honesty": rating}}
        for i, s in enumerate(scores)
    ]
    answers = {"correct_answers": ["None"], "incorrect_answers": ["None"]}
    return {
        "source": "s",
        "instruction": f"instruction {number}",
        "models": ["m"],
        "completions": completions,
    } | answers


def _helpsteer(prompt: str, helpfulness: int, correctness: int, number: int) -> dict[str, Any]:
    scores = {"helpfulness": helpfulness, "correctness": correctness, "coherence": 4, "complexity": 1, "verbosity": 1}
    return {"prompt": prompt, "response": f"response {number}"} | scores


def _orca(number: int, ratings: list[float]) -> dict[str, Any]:
    texts = {"system": "" if number else "be kind", "input": f"in {number}", "chosen": "good", "rejected": "bad"}
    return texts | {"rating": ratings, "status": "unchanged"}


def _safe(number: int, safer: int) -> dict[str, Any]:
    responses = {f"response_{i}": f"safe {number}" if i == safer else f"unsafe {number}" for i in (0, 1)}
    labels = {f"is_response_{i}_safe": i == safer for i in (0, 1)}
    return (
        {"prompt": f"p {number}"} | responses | labels | {"better_response_id": 1 - safer, "safer_response_id": safer}
    )


def _capybara(number: int, chosen: int, rejected: int) -> dict[str, Any]:
    sides = {"chosen": messages(f"q {number}", "good"), "rejected": messages(f"q {number}", "bad")}
    return {"source": "s", "prompt": f"q {number}"} | sides | {"rating_chosen": chosen, "rating_rejected": rejected}


def _helpsteer3(strength: int) -> dict[str, Any]:
    context = [{"role": "user", "content": f"question of {strength}"}]
    responses = {"response1": "the first", "response2": "the second"}
    return {"domain": "general", "context": context} | responses | {"overall_preference": strength}


def _pair(number: int) -> dict[str, Any]:
    return {"chosen": messages(f"ask {number}", "good"), "rejected": messages(f"ask {number}", "bad")}


def _vote(number: int, winner: str) -> dict[str, Any]:
    """A battle of two turns, in which the earlier answers differ too."""
    sides = {
        f"conversation_{name}": [*messages(f"ask {number}", f"first {name}"), *messages("and then?", f"then {name}")]
        for name in "ab"
    }
    models = {"question_id": f"q{number}", "model_a": "one", "model_b": "another"}
    facts = {"turn": 2, "anony": True, "language": "English", "tstamp": 1.7e9, "is_code": False, "is_refusal": False}
    tags = {"conv_metadata": {"sum_user_tokens": 9}, "dedup_tag": {"sampled": True}, "judge_hash": "a0b1"}
    return models | {"winner": winner} | sides | facts | tags


HH = "\n\nHuman: question {}\n\nAssistant: {}"

ROWS: dict[str, list[dict[str, Any]]] = {
    "hh": [{"chosen": HH.format(i, "good"), "rejected": HH.format(i, "bad")} for i in range(2)]
    + [{"chosen": HH.format(9, "same"), "rejected": HH.format(9, "same")}],
    "shp": [_shp(1, 10 + i, 2, i) for i in range(6)] + [_shp(2, 8, 4, 0), _shp(2, 7, 4, 1), _shp(3, 9, 2, 0)],
    "ultrafeedback": [_ultrafeedback(1, (4.0, 3.0, 2.0, 1.0)), _ultrafeedback(2, (4.0, 4.0, 2.0, 1.0))],
    "helpsteer": [
        *(_helpsteer("p1", *scores, i) for i, scores in enumerate([(4, 4), (1, 3), (3, 1), (1, 1)])),
        *(_helpsteer("p2", *scores, i) for i, scores in enumerate([(4, 2), (2, 4)])),
    ],
    "helpsteer2": [
        _helpsteer(f"q{prompt}", *scores, i) for prompt in "ab" for i, scores in enumerate([(4, 3), (1, 2)])
    ],
    "arena": [_vote(i, winner) for i, winner in enumerate(["model_a", "tie", "model_b", "tie (bothbad)"] * 2)],
    "capybara": [_capybara(1, 5, 3), _capybara(2, 4, 4)],
    "orca": [_orca(0, [9.0, 7.0]), _orca(1, [8.0, 8.0])],
    "safe_rlhf": [_safe(1, 0), _safe(2, 1)],
    "helpsteer3": [_helpsteer3(strength) for strength in (-3, -2, -1, 0, 1, 2, 3, 0)],
    "preference_700k": [_pair(i) for i in range(30)],
    "tulu3": [_pair(i) for i in range(30)],
    "ultrafeedback_binarized": [_pair(i) | {"score_chosen": 8.0, "score_rejected": 5.0} for i in range(30)],
    "helpsteer2_preference": [
        {"prompt": f"p{i}", "response_1": "one", "response_2": "two", "preference_strength": s}
        for i, s in enumerate([-3, -1, 2] * 10)
    ],
}
