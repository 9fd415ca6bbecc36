"""A run: settings -> a trained reward model.

Read `train` (the story of a run), `checks` and `layout_checks` (what cannot work, before anything is read), `prepare`
(model, tokenizer and data), `fit` (what NeMo's Trainer is given), `ending` (its last lines), `trainer` (settings ->
NeMo's objects), then `steps/` and `callbacks/`. `strategy` is NeMo's, which loads the newest whole checkpoint;
`plain_loading` is how it reads one; `fused_adam` steps some parameters at a time; `lr_schedule` names its schedules;
`loading_bar` moves while weights are read; `nemo_import` is the one place where NeMo is imported; `gpu_environment` is
what CUDA and NCCL read at their start; `environment` tells which software runs, `attention_start` which kernels compute
attention, and `compiler` what the first step on a GPU builds.

May import everything but planning, scoring, evaluation, serving, reporting and the command line.
"""
