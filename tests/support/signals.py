"""Runs with every signal that a loss can learn, at the layouts that have to give one rank's losses."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from tests.support.hf_models import save
from tests.support.layouts import CP2, OVERLAP, PP2, SMALL_LLAMA, SMALL_STREAMS, SP, TP2, ZERO, checkpoint, common
from tests.support.runs import Run
from tests.support.sources import write

STEPS = 4
ATTRIBUTES = ("helpfulness", "verbosity")
WEIGHTS = (0.75, -0.25)
HIDDEN_SIZE = 24
"""Of a head of two layers."""
HEAD = [
    f"model.reward_head.attributes=[{','.join(ATTRIBUTES)}]",
    f"model.reward_head.weights=[{','.join(map(str, WEIGHTS))}]",
]
SIGNALS: dict[str, list[str]] = {
    "lists": ["model.loss.kind=plackett_luce"],
    "attributes": ["model.loss.kind=regression", *HEAD],
    "two layers": ["model.loss.kind=regression", *HEAD, f"model.reward_head.hidden_size={HIDDEN_SIZE}"],
    "pairs and attributes": [
        "model.loss.regression_coefficient=0.3",
        "model.data.attribute_keys.helpfulness=[chosen_help,rejected_help]",
        *HEAD,
    ],
    "scores": ["model.loss.kind=regression", "model.loss.regression_error=bce"],
    "davidson": ["model.loss.kind=davidson", "model.loss.tie=0.7"],
    "rao_kupper": ["model.loss.kind=rao_kupper", "model.loss.tie=0.7"],
    "learnt ties": ["model.loss.kind=davidson", "model.loss.tie=0.7", "model.loss.learn_tie=true"],
    "soft labels": ["model.data.preference_key=preference", "model.loss.label_smoothing=0.05"],
    "strengths": ["model.loss.scale={1: 1, 2: 3, 3: 10}"],
    "lengths": ["model.loss.length_penalty=0.5", "model.loss.length_scale_tokens=3"],
    "hinge": ["model.loss.kind=hinge", "model.loss.hinge_margin=0.5"],
    "lists and scores": ["model.loss.kind=plackett_luce", "model.loss.regression_coefficient=0.3"],
}
FILES = {
    "pairs and attributes": "pairs",
    "soft labels": "pairs",
    "strengths": "pairs",
    "lengths": "pairs",
    "hinge": "pairs",
    "davidson": "ties",
    "rao_kupper": "ties",
    "learnt ties": "ties",
}
"""Signal -> the file that it is trained on; lists where it has no other."""
IN_PARTS = [*ZERO, *OVERLAP, "model.optim.bucket_size=300"]
"""Gradients and weights are exchanged while layers compute, and each tensor of the head by itself."""
LAYOUTS: dict[int, dict[str, list[str]]] = {
    1: {"small streams": SMALL_STREAMS},
    2: {"TP2 SP": [*TP2, *SP], "PP2": PP2, "CP2": [*CP2, *IN_PARTS], "DP2": IN_PARTS},
}
ADAPTED = "learnt ties beside adapters"
VALIDATED = ("lists", "attributes")
"""Signals whose runs have held-out lists."""
TWO_LAYERS_ADAPTED = "two layers beside adapters"
TWO_LAYERS_RESUMED = "two layers beside adapters, resumed"
STARTS = {
    "pairs and attributes": "initial attributes",
    "attributes": "initial attributes",
    "two layers": "initial two layers",
}
"""Signal -> the run that it starts from, where that is not `initial`."""
AT_ALL_LAYOUTS = ("lists", "attributes", "learnt ties", "two layers")
ELSEWHERE = [f"{signal}: {layout}" for signal in AT_ALL_LAYOUTS for named in LAYOUTS.values() for layout in named]


def rows_of(kind: str, numbers: range = range(60)) -> list[dict[str, Any]]:
    """Prompts with two to five answers, with scores from 0 to 1 and attributes, of which some are not known."""
    draw = random.Random(5 + numbers[0])
    words = ["tea", "some milk", "rice and soup with peas", "a plum", "nothing at all"]
    rows: list[dict[str, Any]] = []
    for i in numbers:
        asked = [{"role": "user", "content": f"What of {i}?"}]
        texts = [f"{word} {i}" for word in draw.sample(words, draw.randint(2, 5) if kind == "lists" else 2)]
        answers = [[{"role": "assistant", "content": text}] for text in texts]
        if kind == "lists":
            scores = [draw.randrange(5) / 4 for _ in answers]
            known = [draw.choice([None, *range(5)]) for _ in answers[1:]]
            entries = [
                {"response": answer, "score": score, "helpfulness": helpfulness, "verbosity": draw.randrange(5)}
                for answer, score, helpfulness in zip(answers, scores, [3, *known], strict=True)
            ]
            rows.append({"prompt": asked, "completions": entries})
        elif kind == "ties":
            winner = draw.choice(["model_a", "model_b", "tie"])
            sides = [[*asked, *answer] for answer in answers]
            rows.append({"conversation_a": sides[0], "conversation_b": sides[1], "winner": winner})
        else:
            row = {"prompt": asked, "chosen": answers[0], "rejected": answers[1]}
            row |= {"preference": draw.choice([1, 0.8, 0.5, 0.1]), "margin": draw.randint(1, 3)}
            values = {"chosen_help": i % 5, "rejected_help": [None, 2, 1][i % 3], "verbosity": [i % 4, 3 - i % 4]}
            rows.append(row | values)
    return rows


def runs_of_all_signals(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    files = {kind: write(folder / f"{kind}.jsonl", rows_of(kind)) for kind in ("lists", "pairs", "ties")}
    held_out = write(folder / "held_out.jsonl", rows_of("lists", range(100, 137)))
    plan: dict[int, list[Run]] = {1: [], 2: []}

    def run(name: str, signal: str, num_ranks: int, extra: Sequence[str]) -> Run:
        data = [f"model.data.train={files[FILES.get(signal, 'lists')]}"]
        validates = signal in VALIDATED and name != "initial"
        data.append(f"model.data.validation.held_out={held_out}" if validates else "trainer.limit_val_batches=0")
        return Run([*common(dataset, folder / name, num_ranks), *data, *SIGNALS[signal], *extra])

    for start, signal in {"initial": "lists", **{start: signal for signal, start in STARTS.items()}}.items():
        plan[1].append(run(start, signal, 1, [*SMALL_LLAMA, "trainer.max_steps=1"]))
    for signal in SIGNALS:
        own = STARTS.get(signal, "initial")
        starts = [f"model.restore_from_path={checkpoint(folder / own, 1)}", f"trainer.max_steps={STEPS}"]
        plan[1].append(run(signal, signal, 1, starts))
        for num_ranks, layouts in LAYOUTS.items() if signal in AT_ALL_LAYOUTS else ():
            plan[num_ranks] += [
                run(f"{signal}: {name}", signal, num_ranks, [*starts, *extra]) for name, extra in layouts.items()
            ]
    adapted = [f"model.restore_from_path={checkpoint(folder / 'initial', 1)}", "trainer.max_steps=1"]
    plan[1].append(run(ADAPTED, "learnt ties", 1, [*adapted, "model.peft.peft_scheme=lora"]))
    save(
        "llama3.1, head size",
        folder / "base",
        classifier=False,
        tokenizer=load_tokenizer(str(dataset / "tokenizer"), None),
    )
    lora = [f"model.restore_from_path={folder / 'base'}", "model.encoder_seq_length=512", "trainer.max_steps=2"]
    lora += ["model.peft.peft_scheme=lora", f"model.reward_head.hidden_size={HIDDEN_SIZE}"]
    lora += ["model.optim.lr=1e-3", "exp_manager.checkpoint_callback_params.every_n_train_steps=1"]
    plan[1].append(run(TWO_LAYERS_ADAPTED, "learnt ties", 1, lora))
    resumed = run(TWO_LAYERS_RESUMED, "learnt ties", 1, [*lora, "exp_manager.resume_if_exists=true"])
    plan[1].append(Run(resumed.overrides, checkpoint(folder / TWO_LAYERS_ADAPTED, 1)))
    return plan


def ranked(number: int, scores: list[Any], texts: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """A row of answers to a prompt with their scores."""
    texts = texts or [f"answer {i}" for i in range(len(scores))]
    return {"prompt": f"q{number}", "completions": texts, "scores": scores} | more
