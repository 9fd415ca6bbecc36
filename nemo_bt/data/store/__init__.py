"""Token ids on disk, and sets of pairs made from them.

Read `spec` (what turns a row into tokens), `encode` (a chunk of rows -> token ids and an account of every pair),
`records` (how they lie on disk), `build` (a file's chunks through all cores, with `workers`), `cache` (folders named
by what they are made from), `sums` (whether one is as it was written), `column` (what is read of one is checked),
`mixture` (how many pairs of each source), `pair_set` (pairs by number), `signal` (whether a source has what the loss
reads), `load` (settings -> pair sets).

May import all other folders of `data`.
"""
