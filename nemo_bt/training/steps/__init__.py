"""What one optimizer step computes: the plan of its streams, and how NeMo's Trainer is fed with them.

Read `plan` (step -> streams of each rank), `data_module` (Lightning's loaders, and the sampler that hands a step's
streams to Megatron).

May import `batching`, `config`, `data` and `metrics`.
"""
