"""Losses beside Bradley-Terry's (nemo_bt.loss): one of each signal that preference data has.

Read `comparisons` (what a loss is given), then `plackett_luce` (ranked lists), `ties`, `hinge`, `regression` and
`length`; `choose` (settings -> the loss of a run); `contract` tries a loss of a user's own.

May import `config` and `errors`, and `nemo_bt.loss`.
"""
