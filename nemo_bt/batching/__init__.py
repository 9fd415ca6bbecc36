"""Which pairs make a step, and how they lie in token streams. Pure arithmetic: no files, no model.

Read `sampling` (step number -> pairs, with `entries`, those of a source, and `shuffle`, their order), `packing` (pairs
-> streams of equal cost on every rank), `stream` (one stream: tokens, positions, segments, scored positions).
`prefix_groups` finds what conversations begin with in common, and `context_shards` which rows of a stream a
context-parallel rank holds.

May import nothing of nemo_bt.
"""
