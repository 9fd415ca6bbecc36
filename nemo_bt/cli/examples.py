"""What each command's help shows as examples."""

from __future__ import annotations

EXAMPLES = {
    "train": (
        "nemo-bt train model.restore_from_path=Qwen/Qwen2.5-0.5B-Instruct model.data.train=train.jsonl "
        "model.data.validation=val.jsonl exp_manager.explicit_log_dir=runs/mine",
        "nemo-bt train --config-name recipe/rlhflow_llama3_8b data=helpsteer3 exp_manager.explicit_log_dir=runs/8b "
        "--dry-run",
    ),
    "data": (
        "nemo-bt data show model.data.train=train.jsonl model.tokenizer.type=tokenizer",
        "nemo-bt data stats data=helpsteer2 model.restore_from_path=Qwen/Qwen2.5-0.5B-Instruct",
    ),
    "validate": (
        "nemo-bt validate model.restore_from_path=runs/mine/checkpoints/reward-step500.nemo "
        "model.data.validation=val.jsonl",
    ),
    "score": ("nemo-bt score model.restore_from_path=reward.nemo score.input=samples.jsonl score.output=scored.jsonl",),
    "evaluate": (
        "nemo-bt evaluate model.restore_from_path=reward.nemo evaluate.input=val.jsonl evaluate.output=results",
        "nemo-bt evaluate model.restore_from_path=my-rm evaluate.input=allenai/reward-bench-2 evaluate.split=test "
        "evaluate.output=results",
    ),
    "label": ("nemo-bt label model.restore_from_path=reward.nemo label.input=samples.jsonl label.output=pairs.jsonl",),
    "export": ("nemo-bt export --input runs/mine/checkpoints/reward-step500.nemo --output my-rm",),
    "import": ("nemo-bt import --input Qwen/Qwen2.5-0.5B-Instruct --output start.nemo",),
    "average": (
        "nemo-bt average runs/mine --last 3 --output mean.nemo",
        "nemo-bt average a.nemo b.nemo c.nemo --weights 0.5 0.3 0.2 --output mean",
    ),
    "report": ("nemo-bt report runs/mine",),
    "serve": ("nemo-bt serve model.restore_from_path=reward.nemo serve.port=5556",),
    "check-nodes": ("srun --ntasks-per-node=1 nemo-bt check-nodes --config-name recipe/rlhflow_llama3_8b",),
    "fetch": (
        "nemo-bt fetch --config-name recipe/rlhflow_llama3_8b data=helpsteer3",
        "nemo-bt fetch --for evaluate model.restore_from_path=org/reward-model evaluate.input=allenai/reward-bench-2 "
        "evaluate.split=test evaluate.output=results",
    ),
    "plan": (
        "nemo-bt plan model=llama3_8b trainer.devices=8 cluster=h100",
        "nemo-bt plan --trace --config-name recipe/rlhflow_llama3_8b data=helpsteer3 cluster=h100",
    ),
    "status": ("nemo-bt status runs/mine",),
    "help": ("nemo-bt help settings learning rate", "nemo-bt help configs", "nemo-bt help train"),
}
"""Command -> commands to copy."""
