"""Ranks of a job: started here, or found under torchrun and srun; and requests to stop.

Read `local` (starting and ending local ranks), `script` (the same for scripts), `signals` (what asks a run to end).

May import `config` and `errors`.
"""
