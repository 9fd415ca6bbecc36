"""Ranks of a job: started here, or found under torchrun and srun; and requests to stop.

Read `local` (starting and ending local ranks), `ends` (how they ended), `slurm` (which process is a rank of srun),
`meeting` (all ranks come, or are named), `script` (local ranks for scripts), `signals` (what asks a run to end),
`crowding` (more ranks than cores or memory).

May import `config` and `errors`.
"""
