"""Layouts that have to give one rank's losses and weights: name -> overrides, by number of ranks.

`make test` trains with those of `quick`; `python -m benchmarks.layouts` with all.
"""

from pathlib import Path

from nemo_bt.data.tokenize.tokenizer import load_tokenizer
from tests.support.hf_models import save
from tests.support.runs import Run

STEPS = 10
SMALL_LLAMA = ["model=llama_quickstart", "model.num_layers=4", "model.hidden_size=64", "model.ffn_hidden_size=160"]

TP2 = ["model.tensor_model_parallel_size=2"]
PP2 = ["model.pipeline_model_parallel_size=2"]
PP4 = ["model.pipeline_model_parallel_size=4"]
VPP2 = [*PP2, "model.virtual_pipeline_model_parallel_size=2"]
UNEVEN = [*PP2, "model.num_layers_in_first_pipeline_stage=1", "model.num_layers_in_last_pipeline_stage=3"]
UNEVEN_VPP = [*VPP2, "model.num_layers_in_first_pipeline_stage=2"]
CP2 = ["model.context_parallel_size=2"]
CP4 = ["model.context_parallel_size=4"]
EP2 = ["model.expert_model_parallel_size=2"]
EP4 = ["model.expert_model_parallel_size=4"]
SP = ["model.sequence_parallel=true"]
PP_BEFORE_DP = ["model.use_tp_pp_dp_mapping=true"]
ZERO = ["model.optim.name=distributed_fused_adam"]
OVERLAP = ["model.optim.overlap_grad_reduce=true", "model.optim.overlap_param_gather=true"]
TWO_INSTANCES = [*ZERO, "model.optim.num_distributed_optimizer_instances=2"]
SMALL_STREAMS = ["model.data.tokens_per_micro_batch=300"]
GRADS_AS_WEIGHTS = ["model.optim.grad_reduce_in_fp32=false"]
SELECTIVE = ["model.activations_checkpoint_granularity=selective"]
SAVE = ["exp_manager.checkpoint_callback_params.every_n_train_steps=4", "trainer.val_check_interval=3"]


def full(method: str, num_layers: int) -> list[str]:
    """Recompute whole layers."""
    start = "model.activations_checkpoint_"
    return [f"{start}granularity=full", f"{start}method={method}", f"{start}num_layers={num_layers}"]


LLAMA: dict[int, dict[str, list[str]]] = {
    1: {
        "streams of the longest pair": ["model.data.tokens_per_micro_batch=130"],
        "recompute attention": SELECTIVE,
        "recompute groups of 2 layers": full("uniform", 2),
        "recompute 3 layers": full("block", 3),
    },
    2: {
        "TP2": TP2,
        "PP2": PP2,
        "DP2": [],
        "CP2": CP2,
        "TP2 SP": [*TP2, *SP],
        "DP2 distributed optimizer": [*ZERO, *SAVE],
        "DP2 distributed optimizer overlapping": [*ZERO, *OVERLAP, *SMALL_STREAMS, *SAVE],
        "CP2 distributed optimizer small streams": [*CP2, *ZERO, *SMALL_STREAMS],
        "PP2 small streams": [*PP2, *SMALL_STREAMS],
        "PP2 of 1 and 3 layers": [*UNEVEN, *SMALL_STREAMS],
        "PP2 VPP2": VPP2,
        "TP2 SP recompute attention": [*TP2, *SP, *SELECTIVE],
        "PP2 recompute 1 layer small streams": [*PP2, *full("block", 1), *SMALL_STREAMS],
    },
    4: {
        "TP2 PP2": [*TP2, *PP2],
        "TP2 SP DP2 distributed optimizer": [*TP2, *SP, *ZERO],
        "TP2 SP CP2": [*TP2, *SP, *CP2],
        "PP2 VPP2 CP2 recompute layers": [*VPP2, *CP2, *full("uniform", 1)],
        "PP4 small streams": [*PP4, *SMALL_STREAMS],
        "PP2 VPP2 DP2 distributed optimizer": [*VPP2, *ZERO, *SMALL_STREAMS],
        "CP4": CP4,
        "DP4 two optimizer instances": TWO_INSTANCES,
        "CP2 DP2 recompute attention": [*CP2, *SELECTIVE],
    },
    8: {
        "TP2 SP PP2 CP2": [*TP2, *SP, *PP2, *CP2],
        "TP2 PP2 DP2 pipeline before data": [*TP2, *PP2, *PP_BEFORE_DP],
        "DP8 distributed optimizer": ZERO,
        "PP2 VPP2 CP2 DP2 distributed optimizer recompute layers": [*VPP2, *CP2, *ZERO, *full("uniform", 1)],
        "TP2 SP CP2 DP2 two optimizer instances": [*TP2, *SP, *CP2, *TWO_INSTANCES],
        "PP4 CP2": [*PP4, *CP2, *SMALL_STREAMS],
    },
}
MIXTRAL: dict[int, dict[str, list[str]]] = {
    2: {"TP2 SP": [*TP2, *SP], "PP2": PP2, "EP2 DP2": EP2, "EP2 CP2": [*EP2, *CP2, *GRADS_AS_WEIGHTS]},
    4: {
        "EP2 TP2 SP DP2": [*EP2, *TP2, *SP],
        "EP2 PP2 DP2 distributed optimizer": [*EP2, *PP2, *ZERO],
        "EP4 CP2 DP2": [*EP4, *CP2],
    },
    8: {"EP2 TP2 SP PP2 DP2": [*EP2, *TP2, *SP, *PP2], "EP4 DP8 distributed optimizer": [*EP4, *ZERO]},
}
QWEN3_MOE: dict[int, dict[str, list[str]]] = {
    1: {"small streams": SMALL_STREAMS},
    2: {"TP2 SP": [*TP2, *SP], "EP2 DP2": EP2, "PP2 VPP2 recompute layers": [*VPP2, *full("uniform", 1)]},
    4: {"EP2 TP2 SP CP2": [*EP2, *TP2, *SP, *CP2]},
}
"""With the loss that balances experts."""
QUICK_RANKS = (1, 2, 4)
LEFT_OUT = {
    "recompute groups of 2 layers",
    "PP2 small streams",
    "CP2 distributed optimizer small streams",
    "TP2 SP recompute attention",
    "TP2 PP2",
    "PP4 small streams",
    "CP4",
    "CP2 DP2 recompute attention",
    "PP2 recompute 1 layer small streams",
    "PP2 VPP2 DP2 distributed optimizer",
}
"""Not in `make test`: what they combine is there in others."""


def quick(layouts: dict[int, dict[str, list[str]]], num_ranks: int) -> dict[str, list[str]]:
    """Those of `make test`."""
    return {name: extra for name, extra in layouts.get(num_ranks, {}).items() if name not in LEFT_OUT}


def common(dataset: Path, log_dir: Path, num_ranks: int) -> list[str]:
    return [
        f"exp_manager.explicit_log_dir={log_dir}",
        "exp_manager.checkpoint_callback_params.save_last_n=0",
        "exp_manager.checkpoint_callback_params.async_save=false",  # of the background test_commands and others know
        f"model.data.train={dataset / 'random.parquet'}",
        f"+model.data.validation.held_out={dataset / 'random_val.parquet'}",
        f"model.tokenizer.type={dataset / 'tokenizer'}",
        "model.global_batch_size=16",
        "model.data.tokens_per_micro_batch=2048",
        "model.optim.lr=1e-4",
        # Adam divides by |gradient| + eps, so it turns the rounding of a gradient as small as eps into a whole step;
        # at 1e-6 no gradient of this model is that small and layouts can be compared to the last digits.
        "model.optim.eps=1e-6",
        "model.optim.sched.name=constant",
        "model.optim.sched.warmup_steps=0",
        "trainer.accelerator=cpu",
        "trainer.log_every_n_steps=1",
        f"trainer.devices={num_ranks}",
        f"trainer.max_steps={STEPS}",
    ]


def checkpoint(log_dir: Path, step: int = STEPS) -> Path:
    return log_dir / "checkpoints" / f"reward-step{step}.nemo"


LAYOUTS = {num_ranks: quick(LLAMA, num_ranks) for num_ranks in QUICK_RANKS}
LAYOUTS[1] |= {"one stream": SAVE}
EQUAL_LENGTHS = {"one pair a stream": 48, "all pairs in a stream": 2048}
"""On pairs of 35 to 47 tokens: budgets that hold one pair, and a whole step."""
FOLDERS = {
    1: {"gemma3": [], "mixtral": [], "qwen3 moe": []},
    2: {
        "gemma3: TP2 SP": [*TP2, *SP],
        "gemma3: PP2": PP2,
        "gemma3: CP2": CP2,
        "gemma3: PP2 VPP2 of 2 and 4 layers": UNEVEN_VPP,
    },
    4: {},
}
for num_ranks in QUICK_RANKS:
    for model, layouts in {"mixtral": MIXTRAL, "qwen3 moe": QWEN3_MOE}.items():
        FOLDERS[num_ranks] |= {f"{model}: {name}": extra for name, extra in quick(layouts, num_ranks).items()}
"""Three steps from Hugging Face folders of base models."""
BF16 = {
    1: {"bf16": []},
    2: {
        "bf16 DP2 distributed optimizer": ZERO,
        "bf16 TP2 SP gradients in bf16": [*TP2, *SP, *GRADS_AS_WEIGHTS],
        "bf16 PP2": PP2,
    },
}
"""Three steps with weights and activations of two bytes."""
RESUMED = {1: "one stream", 2: "DP2 distributed optimizer"}
MOVED = {"moved to TP2 SP": [*TP2, *SP], "moved to PP2": PP2}
"""Layouts that go on from a checkpoint of the second."""


def runs_of_all_layouts(dataset: Path, folder: Path) -> dict[int, list[Run]]:
    """All layouts, each started from the same initial weights."""
    plan = {}
    start = f"model.restore_from_path={checkpoint(folder / 'initial', 1)}"
    for shape in (name for name in FOLDERS[1] if ":" not in name):
        save(
            shape, folder / f"hf-{shape}", classifier=False, tokenizer=load_tokenizer(str(dataset / "tokenizer"), None)
        )
    for num_ranks, layouts in LAYOUTS.items():
        runs = [Run([*common(dataset, folder / name, num_ranks), start, *extra]) for name, extra in layouts.items()]
        if num_ranks == 1:
            initial = [*common(dataset, folder / "initial", 1), *SMALL_LLAMA, "trainer.max_steps=1"]
            twenty = [*common(dataset, folder / "twenty steps", 1), start, "trainer.max_steps=20"]
            seeded = [*common(dataset, folder / "other seed", 1), *SMALL_LLAMA, "trainer.max_steps=1", "trainer.seed=5"]
            runs = [Run(initial), *runs, Run(twenty), Run(seeded)]
            for name, tokens in EQUAL_LENGTHS.items():
                overrides = [*common(dataset, folder / name, 1), start, f"model.data.tokens_per_micro_batch={tokens}"]
                overrides += [f"model.data.train={dataset / 'train.parquet'}", "trainer.limit_val_batches=0"]
                runs.append(Run(overrides))
        if num_ranks in RESUMED:
            name = RESUMED[num_ranks]
            resumed = [*common(dataset, folder / f"{name} resumed", num_ranks), start, *layouts[name]]
            resumed += ["exp_manager.resume_if_exists=true"]
            runs.append(Run(resumed, checkpoint(folder / name, 4), damaged=checkpoint(folder / name, 8)))
        for name, extra in MOVED.items() if num_ranks == 2 else []:
            moved = [*common(dataset, folder / name, 2), start, *ZERO, *extra, "exp_manager.resume_if_exists=true"]
            runs.append(Run(moved, checkpoint(folder / RESUMED[2], 4)))
        for name, extra in BF16.get(num_ranks, {}).items():
            more = ["trainer.precision=bf16-mixed", "trainer.max_steps=3", *extra]
            runs.append(Run([*common(dataset, folder / name, num_ranks), start, *more]))
        for name, extra in FOLDERS.get(num_ranks, {}).items():
            overrides = [*common(dataset, folder / name, num_ranks), *extra, "trainer.max_steps=3"]
            overrides += [
                f"model.restore_from_path={folder / ('hf-' + name.split(':')[0])}",
                "model.encoder_seq_length=512",
            ]
            overrides += ["model.moe_aux_loss_coeff=0.1"] if name.startswith("qwen3 moe") else []
            runs.append(Run(overrides))
        plan[num_ranks] = runs
    return plan


TOLERANCE = 1e-5
