"""Rewards of a trained model: conversations -> streams -> rewards -> rows in their order.

Read `scorer` (RewardScorer, for programs), then `command` (nemo-bt score): `checks` (before anything is read),
`reading` and `rows` (rows -> conversations), `batch` (conversations -> streams), `model` and `engine` (streams ->
rewards), `columns` (rewards -> new columns), `parts` (output that is written so far). `reward_statistics` is the
scale of a model's rewards, `comparison` what two of them say.

May import `training` and what is below it.
"""
