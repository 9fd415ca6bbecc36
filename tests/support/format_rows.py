"""One pair in the rows of every format."""

import json
from typing import Any

from tests.support.preferences import messages

USER, CHOSEN, REJECTED = "some tea", "I bring tea.", "I bring milk."

TURN = {"role": "user", "content": USER}

HH = "\n\nHuman: some tea\n\nAssistant:"


def answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def helpsteer3(score: int, preferred: tuple[bool, bool], beside: bool = False) -> dict[str, Any]:
    outputs = []
    for text, flag in zip((CHOSEN, REJECTED), preferred, strict=True):
        label = {"is_preferred": flag, "preference_score": score}
        outputs.append(
            {"answer": answer(text), "label": label} if beside else {"answer": answer(text) | {"label": label}}
        )
    return {"input": [TURN], "output": outputs}


ONE_PAIR = {
    "text": [{"chosen": f"{USER} {CHOSEN}", "rejected": f"{USER} {REJECTED}"}],
    "hh": [{"chosen": f"{HH} {CHOSEN}", "rejected": f"{HH} {REJECTED}"}],
    "messages": [{"chosen": messages(USER, CHOSEN), "rejected": messages(USER, REJECTED)}],
    "prompt": [{"prompt": USER, "chosen": CHOSEN, "rejected": REJECTED}],
    "prompt in messages": [{"prompt": [TURN], "chosen": [answer(CHOSEN)], "rejected": [answer(REJECTED)]}],
    "prompt and whole messages": [
        {"prompt": USER, "chosen": messages(USER, CHOSEN), "rejected": messages(USER, REJECTED)}
    ],
    "judgebench": [
        {"question": USER, "response_A": REJECTED, "response_B": CHOSEN, "label": "B>A", "source": "mmlu-pro-law"}
    ],
    "rmb": [
        {
            "conversation_input": [TURN | {"language": "English"}],
            "chosen": {"llm_name": "a", "answer": CHOSEN},
            "reject": {"llm_name": "b", "answer": REJECTED},
            "category_path": "Pairwise_set/Helpfulness/Chat/Discussion",
        }
    ],
    "rmb_best_of_n": [
        {
            "conversation_input": [TURN],
            "bon_best": {"llm_name": "a", "answer": CHOSEN},
            "loser_list": [{"llm_name": "b", "answer": REJECTED}],
            "bon_uid": "1",
            "category_path": "BoN_set/Helpfulness/Chat/Discussion",
        }
    ],
    "rewardmath": [
        {"problem": USER, "eval_solution": [text], "solution_type": kind, "answer": "1600", "problem_id": 0}
        for text, kind in ((REJECTED, "rejected"), (CHOSEN, "chosen"))
    ],
    "helpsteer3": [helpsteer3(-2, (True, False))],
    "helpsteer3 with the label beside": [helpsteer3(-2, (True, False), beside=True)],
    "helpsteer3 as JSON texts": [{key: json.dumps(v) for key, v in helpsteer3(-2, (True, False)).items()}],
    "preference of HelpSteer3": [
        {"context": [TURN], "response1": REJECTED, "response2": CHOSEN, "overall_preference": 3}
    ],
    "helpsteer2": [{"prompt": USER, "response_1": CHOSEN, "response_2": REJECTED, "preference_strength": -1}],
    "scored": [
        {"prompt": USER, "response": REJECTED, "score": 1},
        {"prompt": USER, "response": CHOSEN, "score": 3},
    ],
    "ranked with scores": [{"prompt": USER, "completions": [REJECTED, CHOSEN], "scores": [1.0, 3.0]}],
    "ranked with ranks": [{"prompt": USER, "completions": [REJECTED, CHOSEN], "ranks": [2, 1]}],
    "ranked in structs": [
        {"prompt": USER, "completions": [{"response": REJECTED, "score": 1}, {"response": CHOSEN, "score": 3}]}
    ],
    "ranked messages": [
        {"prompt": [TURN], "completions": [[answer(REJECTED)], [answer(CHOSEN)]], "scores": [1.0, 3.0]}
    ],
    "halos": [
        {
            "type": "pairwise_feedback",
            "prompt_id": "0",
            "prompt": [TURN],
            "output_A": [answer(REJECTED)],
            "output_B": [answer(CHOSEN)],
            "label": 0,
            "reward_A": -1.0,
            "reward_B": 0.5,
        }
    ],
    "shp": [
        {
            "history": USER,
            "human_ref_A": CHOSEN,
            "human_ref_B": REJECTED,
            "labels": 1,
            "score_A": 9,
            "score_B": 3,
        }
    ],
    "safe_rlhf": [{"prompt": USER, "response_0": REJECTED, "response_1": CHOSEN, "better_response_id": 1}],
    "arena": [
        {"conversation_a": messages(USER, REJECTED), "conversation_b": messages(USER, CHOSEN), "winner": "model_b"}
    ],
    "ppe": [{"prompt": USER, "response_1": REJECTED, "response_2": CHOSEN, "winner": "model_b", "model_a": "m"}],
    "summarize": [
        {"info": {"post": USER, "id": "t"}, "summaries": [{"text": REJECTED}, {"text": CHOSEN}], "choice": 1}
    ],
    "sharegpt": [
        {
            "conversations": [{"from": "human", "value": USER}],
            "chosen": {"from": "gpt", "value": CHOSEN},
            "rejected": {"from": "gpt", "value": REJECTED},
        }
    ],
    "openai_messages": [{"messages": [TURN], "chosen": answer(CHOSEN), "rejected": answer(REJECTED)}],
    "swift": [{"messages": messages(USER, CHOSEN), "rejected_response": REJECTED}],
    "swift_messages": [{"messages": messages(USER, CHOSEN), "rejected_messages": messages(USER, REJECTED)}],
    "nemo_rl": [
        {
            "context": [TURN],
            "completions": [
                {"rank": 1, "completion": [answer(REJECTED)]},
                {"rank": 0, "completion": [answer(CHOSEN)]},
            ],
        }
    ],
    "alpaca": [{"instruction": USER, "input": "", "chosen": CHOSEN, "rejected": REJECTED}],
    "alpaca_output": [{"instruction": USER, "input": "", "output": [CHOSEN, REJECTED]}],
    "nemo_aligner": [{"text": f"{USER} {CHOSEN}"}, {"text": f"{USER} {REJECTED}"}],
    "messages in parts": [
        {
            name: [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in messages(USER, side)]
            for name, side in (("chosen", CHOSEN), ("rejected", REJECTED))
        }
    ],
    "messages as JSON texts": [
        {"chosen": json.dumps(messages(USER, CHOSEN)), "rejected": json.dumps(messages(USER, REJECTED))}
    ],
    "messages as Python prints them": [
        {"chosen": repr(messages(USER, CHOSEN)), "rejected": repr(messages(USER, REJECTED))}
    ],
    "messages in a struct of lists": [
        {
            name: {"role": ["user", "assistant"], "content": [USER, side]}
            for name, side in (("chosen", CHOSEN), ("rejected", REJECTED))
        }
    ],
    "prompt that is a transcript": [{"prompt": HH, "chosen": f" {CHOSEN}", "rejected": f" {REJECTED}"}],
    "prompt that stands in whole transcripts too": [
        {"prompt": HH, "chosen": f"{HH} {CHOSEN}", "rejected": f"{HH} {REJECTED}"}
    ],
    "prompt with a list of rejected": [{"prompt": USER, "chosen": CHOSEN, "rejected": [REJECTED]}],
}
