"""Train with a loss of one's own: a hinge, which stops pushing once the chosen response leads by one.

    python examples/custom_loss.py base_model prefs.parquet runs/hinge [key=value ...]

The same from the command line, where checkpoints and config.yaml keep the two texts:

    nemo-bt train ... model.loss.custom_fn.path=examples/custom_loss.py model.loss.custom_fn.name=hinge
"""

import sys

from torch import Tensor

import nemo_bt


def hinge(chosen_reward_P: Tensor, rejected_reward_P: Tensor, margin_P: Tensor, weight_P: Tensor) -> Tensor:
    """Give each pair's loss, [P], float32: 0 where the chosen reward leads by 1, then linear."""
    return weight_P * (1 - (chosen_reward_P - rejected_reward_P)).clamp(min=0)


if __name__ == "__main__":  # with trainer.devices > 1 each rank runs this file once more, up to train
    model, pairs, log_dir, *overrides = sys.argv[1:]
    settings = nemo_bt.load_settings(
        "train",
        [
            f"model.restore_from_path={model}",
            f"model.data.train={pairs}",
            f"exp_manager.explicit_log_dir={log_dir}",
            *overrides,
        ],
    )
    outcome = nemo_bt.train(settings, loss_fn=hinge)
    print(f"{outcome.step} steps; {outcome.validation}")
