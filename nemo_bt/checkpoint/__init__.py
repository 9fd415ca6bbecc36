"""Checkpoints on disk: which are whole, which stay, and what a run that goes on may change.

Read `find` (names, the newest whole one), `same` (whether a run may go on from it), `manifest` (size and digest
of every file), `retention` (which are removed), `best` (the best one), `lock` (one run in a log directory),
`disk_errors` (a full or read-only disk, named).

May import `data`, `config`, `observability`, `foreign`, `files` and `errors`.
"""
