"""The row formats of the field, an entry each: where they have the prompt, the responses, and what is known of these.

A new format is a new entry of FORMATS. A name in <> is that of a setting: <prompt> stands for model.data.prompt_key.
Names with dots are paths, and a star stands for numbers: `info.post`, `summaries.0.text`, `response_*`.
"""

from __future__ import annotations

from dataclasses import replace

from nemo_bt.data.formats.format import Format, Verdict
from nemo_bt.data.formats.helpsteer3 import helpsteer3
from nemo_bt.data.formats.rewardmath import SCORES, rewardmath

_ANSWER = ("text", "transcript", "messages", "texts", "conversations")
_SIDES = {"<chosen>": _ANSWER, "<rejected>": _ANSWER}
_RMB = Format(
    "Zhou-Zoey/RMB-Reward-Model-Benchmark, pairs; rows of its best of n may stand between them",
    prompt=("conversation_input",), first="chosen", second="reject", response="answer",
)  # fmt: skip
_RMB_BEST_OF_N = Format(
    "Zhou-Zoey/RMB-Reward-Model-Benchmark, best of n; rows of its pairs may stand between them",
    prompt=("conversation_input",), first="bon_best", second="loser_list", response="answer",
)  # fmt: skip

FORMATS: dict[str, Format] = {
    "helpsteer3": Format(
        "nvidia/HelpSteer3 as RM-Gallery nests it",
        prompt=("input",), answers="output", kinds={"output": ("outputs",)}, parse=helpsteer3,
    ),
    "preference": Format(
        "nvidia/HelpSteer3, preference",
        prompt=("context",), first="response1", second="response2", strength="overall_preference",
    ),
    "helpsteer2": Format(
        "nvidia/HelpSteer2, preference",
        prompt=("prompt",), first="response_1", second="response_2", strength="preference_strength",
    ),
    "shp": Format(
        "stanfordnlp/SHP",
        prompt=("history",), first="human_ref_A", second="human_ref_B", scores=("score_A", "score_B"),
        verdict=Verdict("labels", first=(1,), second=(0,)),
    ),
    "safe_rlhf": Format(
        "PKU-Alignment/PKU-SafeRLHF",
        prompt=("prompt",), first="response_0", second="response_1",
        verdict=Verdict("better_response_id", first=(0,), second=(1,)),
    ),
    "halos": Format(
        "ContextualAI/HALOs, pairwise_feedback",
        prompt=("prompt",), first="output_A", second="output_B", scores=("reward_A", "reward_B"),
        verdict=Verdict("label", first=(1,), second=(0,)), only=("type", "pairwise_feedback"),
    ),
    "arena": Format(
        "lmarena-ai/arena-human-preference, lmsys/chatbot_arena_conversations",
        first="conversation_a", second="conversation_b", compares_whole=True,
        verdict=Verdict("winner", ("model_a",), ("model_b",), ("tie", "tie (bothbad)", "both_bad", "bothbad")),
    ),
    "ppe": Format(
        "lmarena-ai/PPE-Human-Preference",
        prompt=("prompt",), first="response_1", second="response_2",
        verdict=Verdict("winner", ("model_a",), ("model_b",), ("tie", "tie (bothbad)", "both_bad", "bothbad")),
    ),
    "judgebench": Format(
        "ScalerLab/JudgeBench", prompt=("question",), first="response_A", second="response_B",
        verdict=Verdict("label", first=("A>B",), second=("B>A",)),
    ),
    "rmb": replace(_RMB, others=_RMB_BEST_OF_N),
    "rmb_best_of_n": replace(_RMB_BEST_OF_N, others=_RMB),
    "rewardmath": Format(
        "RewardMATH/RewardMATH, a solution a row",
        prompt=("problem",), response="eval_solution", kinds={"eval_solution": ("texts",)}, joins=True,
        verdict=Verdict("solution_type", *((kind,) for kind in SCORES)), parse=rewardmath,
    ),
    "summarize": Format(
        "openai/summarize_from_feedback, comparisons",
        prompt=("info.title", "info.post", "info.article"), first="summaries.0.text", second="summaries.1.text",
        verdict=Verdict("choice", first=(0,), second=(1,)),
    ),
    "sharegpt": Format(
        "LLaMA-Factory, ShareGPT turns",
        prompt=("conversations",), system="system", first="<chosen>", second="<rejected>",
        kinds={"conversations": ("messages",)},
    ),
    "swift": Format(
        "ms-swift", conversation="messages", second="rejected_response", kinds={"messages": ("messages",)},
    ),
    "swift_messages": Format(
        "ms-swift", conversation="messages", second="rejected_messages", kinds={"messages": ("messages",)},
    ),
    "openai_messages": Format(
        "LLaMA-Factory, OpenAI turns",
        prompt=("messages",), first="<chosen>", second="<rejected>",
        kinds={"messages": ("messages",), "<chosen>": ("message",), "<rejected>": ("message",)},
    ),
    "nemo_rl": Format(
        "NeMo-RL, preference sets",
        prompt=("context",), answers="completions", response="completion", has_scores=True,
        kinds={"completions": ("list",)},
    ),
    "alpaca": Format(
        "LLaMA-Factory, Alpaca preferences",
        prompt=("instruction", "input"), history="history", system="system", first="<chosen>", second="<rejected>",
    ),
    "alpaca_output": Format(
        "Alpaca comparisons",
        prompt=("instruction", "input"), history="history", system="system", answers="output", in_order=True,
        kinds={"output": ("texts",)},
    ),
    "ranked": Format("a list of responses with scores", prompt=("<prompt>",), answers="<completions>",
                     response="<response>", has_scores=True),
    "scored": Format("a response a row with scores, as HelpSteer", prompt=("<prompt>",), response="<response>",
                     has_scores=True, joins=True),
    "prompt": Format("explicit prompts", prompt=("<prompt>",), first="<chosen>", second="<rejected>", kinds=_SIDES),
    "messages": Format("implicit prompts", first="<chosen>", second="<rejected>",
                       kinds=dict.fromkeys(_SIDES, ("messages",))),
    "hh": Format("Anthropic/hh-rlhf", first="<chosen>", second="<rejected>",
                 kinds=dict.fromkeys(_SIDES, ("transcript",))),
    "text": Format("whole texts", first="<chosen>", second="<rejected>", kinds=dict.fromkeys(_SIDES, ("text",))),
    "nemo_aligner": Format("NeMo-Aligner: a line with the chosen text, then one with the rejected",
                           conversation="text", lines=2, joins=True),
    "ppe_best_of_k": Format("lmarena-ai/PPE-*-Best-of-K, responses to score", prompt=("prompt",),
                            answers="response_*", kinds={"scores": ("list",)}),
    "completions": Format("responses to score", prompt=("<prompt>",), answers="<completions>", response="<response>"),
    "response": Format("a response to score", prompt=("<prompt>",), response="<response>"),
    "conversation": Format("messages to score", conversation="messages", kinds={"messages": ("messages",)}),
    "document": Format("a text to score", conversation="text"),
}  # fmt: skip
"""Name -> format, in the order in which `detect` asks."""
