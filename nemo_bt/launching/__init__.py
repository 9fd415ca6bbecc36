"""Ranks of a job: started here, or found under torchrun and srun; and requests to stop.

Read `local` (starting and ending local ranks), `script` (the same for a script that calls `nemo_bt.train`), `signals`
(what asks a run to end).

May import `config` and `errors`.
"""
