"""Attention over the segments of a stream.

Read `segments` (what sees what), `module` (Megatron's attention, ours at its core), `choice` (the kernel a GPU takes),
`varlen` (one call on a GPU), `flex` (the same with a soft cap), `blocked` (one block after the other on a CPU),
`context_parallel` (keys and values of other ranks).

May import `batching`, `config` and `pretrained`.
"""
