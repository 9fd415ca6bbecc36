"""Ranks of a job: started here, or found under torchrun and srun; and requests to stop.

Read `local` (starting and ending local ranks), `signals` (what asks a run to end).

May import `config` and `errors`.
"""
