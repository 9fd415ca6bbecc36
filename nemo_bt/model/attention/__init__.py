"""Attention over the segments of a stream.

Read `segments` (what sees what), `module` (Megatron's attention, ours at its core), `varlen` (one call on a GPU),
`blocked` (one block after the other on a CPU), `context_parallel` (keys and values of other ranks).

May import `batching`, `config` and `pretrained`.
"""
